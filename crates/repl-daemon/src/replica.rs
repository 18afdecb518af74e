//! One replica as the rest of the daemon sees it: a board its worker writes and a line of commands
//! to the worker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use repl_api::{Activity, CopyProgress, ErrorInfo};
use repl_connectors::seam::Commit;
use repl_core::batch::NetTable;
use repl_core::checkpoint::Checkpoint;
use repl_core::{Seq, SourcePosition};
use tokio::sync::{oneshot, watch};
use tracing::info;

use crate::config::NodeConfig;
use crate::rates::Meter;
use crate::state::{ReplicaRecord, StateFile};

/// How far a replica has come, and what the log must keep for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Everything through here is committed in the replica. None until its checkpoint was read in
    /// this run of the daemon.
    pub applied: Option<(Seq, SourcePosition)>,
    /// Everything through here stays committed even if the replica crashes: only this much may be
    /// trimmed on its behalf, nothing while it is not known.
    pub durable: Option<Seq>,
}

/// What the worker shows.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What it is doing.
    pub activity: Option<Activity>,
    /// Transactions applied since start.
    pub transactions: u64,
    /// Row changes applied since start.
    pub rows: u64,
    /// Errors that needed the operator since start.
    pub failed: u64,
    /// The error it is held by, is retrying after, or recovered from last.
    pub last_error: Option<ErrorInfo>,
    /// The copy under way.
    pub copy: Option<CopyProgress>,
    /// Why its commits cannot be relied on; none when they can, or it is not connected.
    pub forgetful: Option<String>,
    /// It waits for the log to come to this transaction, since then.
    pub awaiting: Option<(Instant, Seq)>,
    /// Why writes of others than the daemon may not be refused, where they should be.
    pub unguarded: Option<String>,
    /// Age of the oldest unapplied transaction, milliseconds.
    pub lag_ms: Option<u64>,
    /// Bytes in the log it has not applied.
    pub queue_bytes: u64,
}

impl View {
    /// Whatever went wrong last works again.
    pub fn overcome(&mut self) {
        if let Some(error) = &mut self.last_error {
            error.past = true;
        }
    }
}

/// What the operator asked of the worker; a number that changes with each order wakes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Counts orders.
    pub count: u64,
    /// Leave this transaction out when it is next to apply.
    pub skip: Option<Seq>,
}

/// What a repair wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
}

type Prepare = Box<dyn FnOnce(&Checkpoint) -> Result<NetTable, String> + Send>;

/// An order to the worker to write rows between two batches.
pub struct RepairOrder {
    /// Tells what to write at a point of the stream; reads the log.
    pub prepare: Prepare,
    /// Takes the outcome.
    pub reply: oneshot::Sender<Result<Repaired, String>>,
}

impl RepairOrder {
    /// An order and where its outcome comes out.
    pub fn new(
        prepare: impl FnOnce(&Checkpoint) -> Result<NetTable, String> + Send + 'static,
    ) -> (RepairOrder, oneshot::Receiver<Result<Repaired, String>>) {
        let (reply, applied) = oneshot::channel();
        let prepare = Box::new(prepare);
        (RepairOrder { prepare, reply }, applied)
    }
}

/// Called with a replica that has changed.
pub type Listener = Box<dyn Fn(&Replica) + Send + Sync>;

/// Shared between worker, status and control.
pub struct Replica {
    /// Its configuration.
    pub node: NodeConfig,
    /// Everything remembered durably.
    pub state: Arc<StateFile>,
    view: Mutex<View>,
    /// Recent rates.
    pub meter: Mutex<Meter>,
    /// How far it has come.
    pub progress: watch::Sender<Progress>,
    /// Orders from the operator.
    pub orders: watch::Sender<Orders>,
    /// Commits of the primary wait for this replica's: these are durable, and grouped.
    pub waited: AtomicBool,
    /// Its record says that it counts.
    counted: AtomicBool,
    /// Held while the record changes.
    changing: Mutex<()>,
    /// Held while it is made to refuse writes: the guard and the worker would be in each other's way.
    pub closing: tokio::sync::Mutex<()>,
    listener: OnceLock<Listener>,
    repairs: Mutex<VecDeque<RepairOrder>>,
}

impl Replica {
    /// A replica whose worker has not started.
    pub fn new(node: NodeConfig, state: Arc<StateFile>) -> Self {
        let counted = state
            .replica(&node.name)
            .is_some_and(|record| record.counted);
        Replica {
            waited: AtomicBool::new(false),
            counted: AtomicBool::new(counted),
            changing: Mutex::default(),
            closing: tokio::sync::Mutex::default(),
            listener: OnceLock::new(),
            node,
            state,
            view: Mutex::new(View::default()),
            meter: Mutex::new(Meter::default()),
            progress: watch::Sender::new(Progress::default()),
            orders: watch::Sender::new(Orders::default()),
            repairs: Mutex::default(),
        }
    }

    /// Its durable record; a replica never seen before is about to be copied.
    pub fn record(&self) -> Option<ReplicaRecord> {
        self.state.replica(&self.node.name)
    }

    /// Changes its durable record.
    ///
    /// # Errors
    /// When the state file cannot be written.
    pub fn change(&self, change: impl FnOnce(&mut ReplicaRecord)) -> anyhow::Result<ReplicaRecord> {
        // Whether it counts must become known in the order in which it was remembered.
        let _in_order = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self
            .state
            .change(&self.node.name, crate::clock::now_ms(), change)?;
        if self.counted.swap(record.counted, Ordering::SeqCst) != record.counted {
            info!(
                replica = self.node.name,
                counted = record.counted,
                "replica counts for commits of the primary, or no longer does"
            );
            self.tell();
        }
        Ok(record)
    }

    /// Whether commits of the primary may be promised on its account.
    pub fn counted(&self) -> bool {
        self.counted.load(Ordering::SeqCst)
    }

    /// Has `listener` called, on the thread that made the change, when the replica has come further
    /// or has begun or ceased to count. Only the first one is heard.
    pub fn on_change(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    fn tell(&self) {
        if let Some(listener) = self.listener.get() {
            listener(self);
        }
    }

    /// Notes that the replica is at `checkpoint`, and whether it can lose that again.
    pub fn committed(&self, checkpoint: &Checkpoint, how: Commit) {
        self.progress.send_modify(|progress| {
            progress.applied = Some((checkpoint.seq, checkpoint.position.clone()));
            if how == Commit::Durable {
                progress.durable = Some(checkpoint.seq);
            }
        });
        if how == Commit::Durable {
            self.tell();
        }
    }

    /// The worker's view.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what the worker is doing.
    pub fn show(&self, activity: Activity) {
        let mut view = self.view();
        view.activity = Some(activity);
        if activity == Activity::Idle {
            view.overcome();
        }
    }

    /// Last applied transaction known in this run.
    pub fn applied(&self) -> Option<(Seq, SourcePosition)> {
        self.progress.borrow().applied.clone()
    }

    /// Last transaction known in this run that the replica cannot lose any more.
    pub fn durable(&self) -> Option<Seq> {
        self.progress.borrow().durable
    }

    /// Whether the log must keep what it has not made durable.
    pub fn holds_log(&self) -> bool {
        self.node.enabled
            && self
                .record()
                .is_none_or(|record| record.standing.holds_log())
    }

    fn repairs(&self) -> MutexGuard<'_, VecDeque<RepairOrder>> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the worker write rows before its next batch.
    pub fn repair(&self, order: RepairOrder) {
        self.repairs().push_back(order);
        self.order(|_| {});
    }

    /// The oldest repair that waits for the worker.
    pub fn take_repair(&self) -> Option<RepairOrder> {
        self.repairs().pop_front()
    }

    /// Takes back the repairs that the worker has not begun.
    pub fn withdraw_repairs(&self) {
        self.repairs().clear();
    }

    /// Wakes the worker with an order.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(|orders| {
            orders.count += 1;
            change(orders);
        });
    }
}
