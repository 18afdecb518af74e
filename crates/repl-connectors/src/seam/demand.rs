//! Whether anybody waits for what the capture has still to read.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many replicas wait for more to apply.
#[derive(Debug, Default)]
pub struct Demand {
    waiting: AtomicUsize,
    risen: Notify,
}

impl Demand {
    /// One more waits.
    pub fn add(&self) {
        if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
            self.risen.notify_one();
        }
    }

    /// One less waits.
    pub fn remove(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether any waits.
    pub fn is_there(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Completes once one waits. For one task; safe to cancel.
    pub async fn wait(&self) {
        while !self.is_there() {
            self.risen.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn it_is_waited_for_whatever_came_and_went_before() {
        let demand = Demand::default();
        demand.add();
        demand.add();
        demand.remove();
        demand.wait().await;
        demand.remove();
        let mut wait = pin!(demand.wait());
        let pending =
            poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_pending())).await;
        assert!(pending && !demand.is_there());
        demand.add();
        wait.await;
    }
}
