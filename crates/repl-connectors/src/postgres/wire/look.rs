//! What the server says of one of its sessions, asked over a second connection.

use std::pin::Pin;

use async_trait::async_trait;
use repl_core::ErrorKind;

use super::PgClient;
use crate::answer::{LOOK, Look, Sight};
use crate::postgres::target::PgTarget;
use crate::seam::Result;

/// Looks at a session, or only whether its server answers.
#[derive(Debug)]
pub(in crate::postgres) struct PgLook {
    target: PgTarget,
    /// Process of the session.
    pid: Option<i32>,
}

impl PgLook {
    /// At the session of this process.
    pub(super) fn session(target: &PgTarget, pid: i32) -> PgLook {
        PgLook {
            target: target.clone(),
            pid: Some(pid),
        }
    }

    /// At the server.
    pub(in crate::postgres) fn server(target: &PgTarget) -> PgLook {
        PgLook {
            target: target.clone(),
            pid: None,
        }
    }

    async fn ask(&self) -> Result<Sight> {
        let mut target = self.target.clone();
        target.connect_timeout = target.connect_timeout.min(LOOK);
        target.application_name = "repl-daemon look".to_owned();
        let mut client = PgClient::connect_unwatched(&target).await?;
        let sight = match self.pid {
            None => client.simple("SELECT 1").await.map(|_| Sight::Works)?,
            Some(pid) => {
                let sql = format!(
                    "SELECT coalesce(state LIKE 'idle%' OR wait_event IN ('ClientRead', 'ClientWrite'), \
                     false) FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"
                );
                let rows = client.simple(&sql).await?;
                match rows.first().and_then(|row| row.first()?.as_deref()) {
                    None => Sight::Gone,
                    Some("t") => Sight::Waits,
                    Some(_) => Sight::Works,
                }
            }
        };
        client.close().await;
        Ok(sight)
    }
}

#[async_trait]
impl Look for PgLook {
    async fn look(&self) -> Result<Sight> {
        // A session in which this is asked is one that is looked at itself: the types would have no end.
        let asking: Pin<Box<dyn Future<Output = Result<Sight>> + Send + '_>> = Box::pin(self.ask());
        match asking.await {
            Ok(sight) => Ok(sight),
            // It answers, if only to refuse: no connection is free, or logins are not let in now.
            Err(error) if error.code.is_some() || error.kind != ErrorKind::Connection => {
                Ok(Sight::Works)
            }
            Err(error) => Err(error),
        }
    }

    fn server(&self) -> String {
        self.target.to_string()
    }
}
