//! Whether a server that does not answer is still there.
//!
//! A statement may rightly take hours: an index, a hash of a large table, a wait for a lock. So no time limit
//! decides. After a while without an answer a second connection is made: if the server answers that, it
//! is asked what becomes of the first session. A server that answers neither, has no such session, or twice
//! says that it waits for us is given up. The network's own means (keepalives, bounds on unacknowledged
//! bytes) notice a host that vanished, but not one whose kernel acknowledges and whose server never answers,
//! nor a connection that something between has forgotten.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::ErrorKind;

use crate::seam::{ConnectorError, Result};

/// Silence after which it is looked.
pub(crate) const SILENCE: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 8_000 });
/// Bound on a look.
pub(crate) const LOOK: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5_000 });

/// What the server says of a session that we wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It is at work, or nothing is known of it.
    Works,
    /// It waits for us.
    Waits,
    /// There is no such session.
    Gone,
}

/// Looks at a session over a second connection.
#[async_trait]
pub(crate) trait Look: Send + Sync {
    /// What the server says.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it does not answer.
    async fn look(&self) -> Result<Sight>;

    /// The server, for messages.
    fn server(&self) -> String;
}

/// Counts what looks have found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    looks: u32,
    waits: u32,
}

impl Patience {
    /// Something was received: the session is alive.
    pub(crate) fn renew(&mut self) {
        *self = Patience::default();
    }

    /// Looks.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when the session is given up.
    pub(crate) async fn look(&mut self, look: &dyn Look) -> Result<()> {
        self.looks += 1;
        let silent = SILENCE.as_secs() * u64::from(self.looks);
        let lost = |why: &str| {
            let what = format!("{}: no answer for {silent} s: {why}", look.server());
            ConnectorError::new(ErrorKind::Connection, what)
                .advice("check that server, and the network between it and this host")
        };
        let sight = match tokio::time::timeout(LOOK, look.look()).await {
            Ok(Ok(sight)) => sight,
            Ok(Err(error)) => {
                return Err(lost(&format!(
                    "a second connection failed: {}",
                    error.message
                )));
            }
            Err(_) => return Err(lost("a second connection got none either")),
        };
        match sight {
            Sight::Works => self.waits = 0,
            Sight::Gone => return Err(lost("the server has no such session any more")),
            Sight::Waits => self.waits += 1,
        }
        // What it answered may have been under way the first time.
        if self.waits > 1 {
            return Err(lost(
                "the server waits for us; what was sent was lost on the way",
            ));
        }
        Ok(())
    }
}

/// Waits for `work`, which the server is to answer, for as long as the server is there.
///
/// # Errors
/// Those of `work`; [`ErrorKind::Connection`] when it is given up.
pub(crate) async fn answered<T>(
    work: impl Future<Output = Result<T>> + Send,
    look: &dyn Look,
) -> Result<T> {
    let mut work = pin!(work);
    let mut patience = Patience::default();
    loop {
        if let Ok(outcome) = tokio::time::timeout(SILENCE, &mut work).await {
            return outcome;
        }
        if let Err(error) = patience.look(look).await {
            // It may have come while we looked.
            return tokio::time::timeout(Duration::ZERO, &mut work)
                .await
                .unwrap_or(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Says(Mutex<Vec<Result<Sight>>>);

    #[async_trait]
    impl Look for Says {
        async fn look(&self) -> Result<Sight> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(sight) => sight,
                None => std::future::pending().await,
            }
        }

        fn server(&self) -> String {
            "db".into()
        }
    }

    fn says(mut all: Vec<Result<Sight>>) -> Says {
        all.reverse();
        Says(Mutex::new(all))
    }

    async fn never() -> Result<()> {
        std::future::pending().await
    }

    async fn after(wait: Duration) -> Result<()> {
        tokio::time::sleep(wait).await;
        Ok(())
    }

    #[tokio::test]
    async fn a_long_statement_is_not_cut() {
        let look = says((0..1_000).map(|_| Ok(Sight::Works)).collect());
        answered(after(SILENCE * 10), &look).await.unwrap();
        // One look at an unlucky moment means nothing.
        let seen = (0..1_000).map(|n| {
            Ok(if n % 2 == 0 {
                Sight::Waits
            } else {
                Sight::Works
            })
        });
        let look = says(seen.collect());
        answered(after(SILENCE * 10), &look).await.unwrap();
    }

    #[tokio::test]
    async fn what_never_answers_is_given_up() {
        let refused = || Err(ConnectorError::new(ErrorKind::Connection, "refused"));
        for (seen, why) in [
            (vec![], "got none either"),
            (vec![refused()], "refused"),
            (vec![Ok(Sight::Gone)], "no such session"),
            (vec![Ok(Sight::Waits), Ok(Sight::Waits)], "waits for us"),
        ] {
            let error = answered(never(), &says(seen)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Connection);
            assert!(error.message.contains(why), "{error}");
        }
    }
}
