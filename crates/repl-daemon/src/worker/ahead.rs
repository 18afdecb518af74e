//! Where the collector works: in the worker's own task while the replica keeps up, so that a commit
//! reaches it without waking another thread; on a thread that reads one batch ahead while there is a
//! backlog.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::collect::{CollectError, Collector, Plan, Work};
use crate::follow::Follow;

/// Most bytes of log that are read within the worker's task: other tasks wait meanwhile.
const AT_ONCE: u64 = 256 * 1024;

/// What there is to apply, as it comes.
pub struct Incoming {
    follow: Follow,
    place: Place,
}

enum Place {
    /// The replica keeps up.
    Here(Box<Collector>),
    /// A thread reads ahead.
    Ahead(mpsc::Receiver<Handed>),
    /// The log cannot be read.
    Failed(CollectError),
    /// Nothing more will come.
    Ended,
}

/// What the thread hands over.
enum Handed {
    Work(Result<Work, CollectError>),
    /// The end is reached.
    CaughtUp(Box<Collector>),
}

impl Incoming {
    /// Starts to collect; dropping it ends that.
    pub fn start(plan: Plan) -> Incoming {
        let follow = plan.follow.clone();
        let place = match Collector::new(plan) {
            Ok(collector) => Place::Here(Box::new(collector)),
            Err(error) => Place::Failed(error.into()),
        };
        Incoming { follow, place }
    }

    /// What is ready.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] when nothing is yet, [`TryRecvError::Disconnected`] when nothing will
    /// be: the end of a range, or after an error.
    pub fn try_recv(&mut self) -> Result<Result<Work, CollectError>, TryRecvError> {
        loop {
            match std::mem::replace(&mut self.place, Place::Ended) {
                Place::Here(collector) if collector.behind() > AT_ONCE => {
                    self.place = Place::Ahead(read_ahead(collector));
                    return Err(TryRecvError::Empty);
                }
                Place::Here(collector) => return self.collect(collector),
                Place::Ahead(mut receiver) => match receiver.try_recv() {
                    Ok(handed) => {
                        self.place = Place::Ahead(receiver);
                        if let Some(work) = self.take(handed) {
                            return Ok(work);
                        }
                    }
                    Err(TryRecvError::Empty) => {
                        self.place = Place::Ahead(receiver);
                        return Err(TryRecvError::Empty);
                    }
                    Err(TryRecvError::Disconnected) => {}
                },
                Place::Failed(error) => return Ok(Err(error)),
                Place::Ended => return Err(TryRecvError::Disconnected),
            }
        }
    }

    /// The next work; none when nothing will come. May be dropped at any time without a loss.
    pub async fn recv(&mut self) -> Option<Result<Work, CollectError>> {
        let follow = self.follow.clone();
        loop {
            let watch = follow.watch();
            let moved = watch.moved();
            match self.try_recv() {
                Ok(work) => return Some(work),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            let Place::Ahead(receiver) = &mut self.place else {
                moved.await;
                continue;
            };
            match receiver.recv().await {
                Some(handed) => {
                    if let Some(work) = self.take(handed) {
                        return Some(work);
                    }
                }
                None => self.place = Place::Ended,
            }
        }
    }

    fn collect(
        &mut self,
        mut collector: Box<Collector>,
    ) -> Result<Result<Work, CollectError>, TryRecvError> {
        match collector.next() {
            Ok(Some(work)) => {
                self.place = Place::Here(collector);
                Ok(Ok(work))
            }
            Ok(None) if collector.is_finished() => Err(TryRecvError::Disconnected),
            Ok(None) => {
                self.place = Place::Here(collector);
                Err(TryRecvError::Empty)
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn take(&mut self, handed: Handed) -> Option<Result<Work, CollectError>> {
        match handed {
            Handed::Work(work) => Some(work),
            Handed::CaughtUp(collector) => {
                self.place = Place::Here(collector);
                None
            }
        }
    }
}

/// Collects on a thread until the log's end; the channel holds one batch, which bounds memory.
fn read_ahead(mut collector: Box<Collector>) -> mpsc::Receiver<Handed> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        loop {
            let work = match collector.next() {
                Ok(Some(work)) => Ok(work),
                Ok(None) if collector.is_finished() => return,
                Ok(None) => {
                    // Nobody takes it when the worker is gone, and then nobody wants it.
                    let _ = sender.blocking_send(Handed::CaughtUp(collector));
                    return;
                }
                Err(error) => Err(error),
            };
            let failed = work.is_err();
            if sender.blocking_send(Handed::Work(work)).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
