//! What all workers follow the log by: how much of it they may see, and what wakes them.

use std::sync::Arc;

use repl_connectors::seam::Demand;
use repl_core::log::{EventLog, Visibility};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// How workers follow the log; clones share it.
#[derive(Clone)]
pub struct Follow {
    visibility: Visibility,
    end: Arc<End>,
}

/// The end that is followed.
#[derive(Default)]
struct End {
    /// Nobody is woken while nobody waits: the end moves with every transaction that is captured.
    demand: Arc<Demand>,
    moved: Notify,
}

impl Follow {
    /// Follows `log` up to the end that `visibility` names.
    pub fn new(log: &dyn EventLog, visibility: Visibility) -> Follow {
        let end = Arc::new(End::default());
        let moving = Arc::clone(&end);
        match visibility {
            Visibility::Durable => log.on_durable(Box::new(move |_| moving.has_moved())),
            Visibility::Appended => log.on_appended(Box::new(move || moving.has_moved())),
        }
        Follow { visibility, end }
    }

    /// Which transactions may be applied.
    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// Whether any of those who follow waits.
    pub fn demand(&self) -> Arc<Demand> {
        Arc::clone(&self.end.demand)
    }

    /// Begins a wait; to be called before looking at the log, so that nothing is missed in between.
    pub fn watch(&self) -> Watch<'_> {
        self.end.demand.add();
        Watch(&self.end)
    }
}

impl End {
    fn has_moved(&self) {
        // The log's lock orders this behind the append, and a waiter's look behind its own count: a
        // waiter that did not see the transaction is counted here.
        if self.demand.is_there() {
            self.moved.notify_waiters();
        }
    }
}

/// A wait for the end to move.
pub struct Watch<'a>(&'a End);

impl Watch<'_> {
    /// Completes when the end has moved since this was called.
    pub fn moved(&self) -> Notified<'_> {
        self.0.moved.notified()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.demand.remove();
    }
}
