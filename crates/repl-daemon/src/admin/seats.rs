//! The places of a server's connections: who may take one, and who is shown out when all are taken.
//!
//! A connection that is still sending its request, or does not read its answer, never keeps another
//! one waiting: when all places are taken, the oldest of those makes room. One whose request is being
//! carried out keeps its place until it is answered.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How long a connection may take to send its request, or to read its answer, before it makes room for
/// others: whoever does that at once is never shown out, however many come together.
const GRACE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The request is arriving.
    Receiving,
    /// The request is complete and being carried out.
    Working,
    /// The answer is on its way.
    Answering,
    /// It has made room.
    ShownOut,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Seat {
    /// Its phase, and since when.
    phase: Mutex<(Phase, Instant)>,
    /// Its answer has begun.
    answering: Notify,
    /// A place may become free, of whatever connection.
    freed: Arc<Notify>,
}

impl Seat {
    /// The request is complete; `false` when the connection has been shown out meanwhile.
    pub(super) fn received(&self) -> bool {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 == Phase::ShownOut {
            return false;
        }
        *now = (Phase::Working, Instant::now());
        true
    }

    /// The answer is known and goes out now.
    pub(super) fn answered(&self) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 != Phase::ShownOut {
            *now = (Phase::Answering, Instant::now());
        }
        self.answering.notify_one();
        self.freed.notify_one();
    }

    /// Completes when the answer has been on its way for `limit`.
    pub(super) async fn unread_for(&self, limit: Duration) {
        self.answering.notified().await;
        tokio::time::sleep(limit).await;
    }

    /// When it can be asked to make room, while it stays in this phase.
    fn spared_at(&self) -> Option<(Phase, Instant)> {
        let now = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(now.0, Phase::Receiving | Phase::Answering).then_some((now.0, now.1 + GRACE))
    }

    /// Asks it to make room: done if it is still as it was.
    fn show_out(&self, was: (Phase, Instant)) -> bool {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let still = (now.0, now.1 + GRACE) == was;
        if still {
            now.0 = Phase::ShownOut;
        }
        still
    }
}

/// The places of one server.
pub(super) struct Seats {
    most: usize,
    connections: JoinSet<()>,
    /// By age; those that have ended are included until places are looked for.
    taken: VecDeque<(Arc<Seat>, AbortHandle)>,
    freed: Arc<Notify>,
}

impl Seats {
    /// So many places, all free.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            connections: JoinSet::new(),
            taken: VecDeque::new(),
            freed: Arc::default(),
        }
    }

    /// Completes when a connection can be taken in, at the price of another one if need be.
    pub(super) async fn free(&mut self) {
        loop {
            while self.connections.try_join_next().is_some() {}
            self.taken.retain(|(_, handle)| !handle.is_finished());
            if self.taken.len() < self.most {
                return;
            }
            let next = match self.make_room() {
                Ok(()) => return,
                // A phase that ends meanwhile is told.
                Err(next) => next.unwrap_or_else(|| Instant::now() + GRACE),
            };
            tokio::select! {
                _ = self.connections.join_next() => {}
                () = self.freed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Serves a connection in a task of its own.
    pub(super) fn take<F>(&mut self, serve: impl FnOnce(Arc<Seat>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seat = Arc::new(Seat {
            phase: Mutex::new((Phase::Receiving, Instant::now())),
            answering: Notify::new(),
            freed: Arc::clone(&self.freed),
        });
        let handle = self.connections.spawn(serve(Arc::clone(&seat)));
        self.taken.push_back((seat, handle));
    }

    /// Completes when all connections have ended.
    pub(super) async fn emptied(&mut self) {
        while self.connections.join_next().await.is_some() {}
    }

    /// Ends the connection that has been slow for longest, one that is sending rather than one that is
    /// reading; else tells when one can be asked to make room, if any.
    fn make_room(&mut self) -> Result<(), Option<Instant>> {
        let now = Instant::now();
        let spared = |(at, (seat, _)): (usize, &(Arc<Seat>, AbortHandle))| {
            let (phase, from) = seat.spared_at()?;
            Some((from > now, phase != Phase::Receiving, from, phase, at))
        };
        let all = self.taken.iter().enumerate().filter_map(spared);
        let first = all.min_by_key(|&(early, reads, from, _, _)| (early, reads, from));
        let Some((early, _, from, phase, at)) = first else {
            return Err(None);
        };
        if early {
            let soonest = self.taken.iter().filter_map(|(seat, _)| seat.spared_at());
            return Err(soonest.map(|(_, from)| from).min());
        }
        if self.taken[at].0.show_out((phase, from))
            && let Some((_, handle)) = self.taken.remove(at)
        {
            handle.abort();
            return Ok(());
        }
        Err(Some(now))
    }
}
