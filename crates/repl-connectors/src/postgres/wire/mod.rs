//! A small PostgreSQL client: just what replication needs and general drivers lack.
//!
//! It pipelines whole transactions into one write, streams COPY in all three directions, speaks
//! the replication protocol, and treats the server as untrusted input: sizes are bounded and a
//! malformed message is an error. Protocol facts are from the "Frontend/Backend Protocol" chapter
//! of PostgreSQL's documentation.

// Errors are rare, and made for people: their size does not matter.
#![allow(clippy::result_large_err)]

mod auth;
mod conn;
mod copy;
mod look;
mod pipeline;
mod stream;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use repl_core::ErrorKind;

pub use copy::CopyBoth;
pub(super) use look::PgLook;
pub use pipeline::PipelineError;

use self::conn::Conn;
use self::pipeline::Pipeline;
use self::stream::{Room, Stream};
use super::error::{ServerError, WireError};
use super::target::PgTarget;
use crate::seam::{ConnectorError, Result};

/// Largest message accepted before the server has been authenticated, bytes.
const LOGIN_LIMIT: usize = 64 * 1024;
/// Largest message accepted afterwards unless set otherwise: PostgreSQL cannot make a larger one.
const SESSION_LIMIT: usize = 1 << 30;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// One row of text values.
pub type TextRow = Vec<Option<String>>;

/// One session.
pub struct PgClient {
    conn: Conn,
    server: String,
    parameters: HashMap<String, String>,
    backend_pid: i32,
    pipeline: Pipeline,
}

impl PgClient {
    /// Connects and logs in. `params` are further startup parameters, such as
    /// `("replication", "database")`.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when the server cannot be reached in time,
    /// [`ErrorKind::Configuration`] when it refuses the login or its certificate is not trusted.
    pub async fn connect(target: &PgTarget, params: &[(&str, &str)]) -> Result<PgClient> {
        Self::connect_in(target, params, Room::Usual).await
    }

    /// [`PgClient::connect`] for a session of no duration.
    async fn connect_unwatched(target: &PgTarget) -> Result<PgClient> {
        let mut client = Self::connect_in(target, &[], Room::Usual).await?;
        client.conn.set_look(None);
        Ok(client)
    }

    /// [`PgClient::connect`] for a session in which the server sends many small messages, each by itself.
    /// If it is on this machine, it gets little room to send before we read: what it sends beyond
    /// costs it less than half, and reaches us in one piece. Elsewhere room is throughput.
    ///
    /// # Errors
    /// As [`PgClient::connect`].
    pub async fn connect_narrow(target: &PgTarget, params: &[(&str, &str)]) -> Result<PgClient> {
        Self::connect_in(target, params, Room::LittleWithin).await
    }

    async fn connect_in(
        target: &PgTarget,
        params: &[(&str, &str)],
        room: Room,
    ) -> Result<PgClient> {
        let server = target.to_string();
        match tokio::time::timeout(target.connect_timeout, Self::log_in(target, params, room)).await
        {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(error.into_connector(&server).connecting()),
            Err(_) => Err(ConnectorError::new(
                ErrorKind::Connection,
                format!(
                    "{server}: no connection within {:?}",
                    target.connect_timeout
                ),
            )
            .advice("check that the server runs and can be reached from this host")),
        }
    }

    async fn log_in(
        target: &PgTarget,
        params: &[(&str, &str)],
        room: Room,
    ) -> Result<PgClient, WireError> {
        let mut conn = Conn::new(Stream::connect(target, room).await?);
        conn.set_limit(LOGIN_LIMIT);
        let fixed = [
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("application_name", target.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(fixed.into_iter().chain(params.iter().copied()), conn.out())?;
        conn.flush().await?;
        auth::authenticate(&mut conn, target).await?;
        let mut client = PgClient {
            conn,
            server: target.to_string(),
            parameters: HashMap::new(),
            backend_pid: 0,
            pipeline: Pipeline::default(),
        };
        client.await_ready().await?;
        client.conn.set_limit(SESSION_LIMIT);
        let look = PgLook::session(target, client.backend_pid);
        client.conn.set_look(Some(Arc::new(look)));
        Ok(client)
    }

    async fn await_ready(&mut self) -> Result<(), WireError> {
        loop {
            match self.conn.next_message().await? {
                Message::BackendKeyData(body) => self.backend_pid = body.process_id(),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    return Err(WireError::Server(Box::new(ServerError::from_fields(
                        body.fields(),
                    ))));
                }
                other => self.aside(other)?,
            }
        }
    }

    /// The server as named in messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A parameter the server reported, such as `server_version` or `TimeZone`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version; 0 when it is not told.
    pub fn major_version(&self) -> u32 {
        let version = self.parameter("server_version").unwrap_or_default();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Process id of the server's session.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Whether the connection is encrypted by TLS.
    pub fn is_tls(&self) -> bool {
        self.conn.stream().is_tls()
    }

    /// Refuses messages above this size, bytes, with [`ErrorKind::Data`].
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.conn.set_limit(bytes);
    }

    /// Runs SQL text by the simple protocol, several statements if it holds them, and returns the
    /// rows of the last statement that gave any. The session stays usable after an error of the
    /// server. An open pipeline is ended first: a server that skips to the next Sync would skip
    /// the query too.
    ///
    /// # Errors
    /// What the server reports, by its SQLSTATE; [`ErrorKind::Connection`] when the session broke.
    /// The failure of an earlier statement of the pipeline.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        let [outcome] = self.simple_all([sql]).await?;
        outcome
    }

    /// [`PgClient::simple`] for several texts, each a transaction of its own whatever becomes of
    /// the others, at the cost of one round trip for all.
    ///
    /// # Errors
    /// As of [`PgClient::simple`], per text; as a whole when the session broke.
    pub async fn simple_all<const N: usize>(
        &mut self,
        texts: [&str; N],
    ) -> Result<[Result<Vec<TextRow>>; N]> {
        self.end_pipeline().await?;
        let mut outcomes = [const { Ok(Vec::new()) }; N];
        let outcome = self.run_simple(&texts, &mut outcomes).await;
        outcome.map_err(|error| error.into_connector(&self.server))?;
        Ok(outcomes)
    }

    async fn run_simple(
        &mut self,
        texts: &[&str],
        outcomes: &mut [Result<Vec<TextRow>>],
    ) -> Result<(), WireError> {
        for sql in texts {
            frontend::query(sql, self.conn.out())?;
        }
        self.conn.flush().await?;
        for outcome in outcomes {
            let reply = self.simple_reply().await;
            if let Err(WireError::Server(error)) = &reply
                && error.is_fatal()
            {
                return reply.map(drop);
            }
            *outcome = match reply {
                Err(WireError::Server(error)) => {
                    Err(WireError::Server(error).into_connector(&self.server))
                }
                other => Ok(other?),
            };
        }
        Ok(())
    }

    /// The reply to one simple query.
    async fn simple_reply(&mut self) -> Result<Vec<TextRow>, WireError> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.conn.next_message().await? {
                Message::RowDescription(_) => rows.clear(),
                Message::DataRow(body) => rows.push(text_row(&body)?),
                Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => {
                    let error = ServerError::from_fields(body.fields());
                    let fatal = error.is_fatal();
                    failure = Some(WireError::Server(Box::new(error)));
                    if fatal {
                        break;
                    }
                }
                Message::ReadyForQuery(_) => break,
                other => self.aside(other)?,
            }
        }
        match failure {
            None => Ok(rows),
            Some(error) => Err(error),
        }
    }

    /// Messages a server may send at any time.
    fn aside(&mut self, message: Message) -> Result<(), WireError> {
        match message {
            Message::ParameterStatus(body) => {
                self.parameters
                    .insert(body.name()?.to_owned(), body.value()?.to_owned());
                Ok(())
            }
            Message::NoticeResponse(_) | Message::NotificationResponse(_) => Ok(()),
            _ => Err(WireError::Protocol("unexpected message".into())),
        }
    }

    /// Says goodbye and closes the connection.
    pub async fn close(mut self) {
        frontend::terminate(self.conn.out());
        // The server notices a closed socket too; a goodbye is only more polite.
        let _ = tokio::time::timeout(GOODBYE, self.conn.flush()).await;
    }
}

fn text_row(body: &DataRowBody) -> Result<TextRow, WireError> {
    let buffer = body.buffer();
    let mut row = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next()? {
        row.push(match range {
            None => None,
            Some(range) => {
                let bytes = buffer
                    .get(range)
                    .ok_or_else(|| WireError::Protocol("field beyond its row".into()))?;
                let text = std::str::from_utf8(bytes)
                    .map_err(|_| WireError::Protocol("a text is not UTF-8".into()))?;
                Some(text.to_owned())
            }
        });
    }
    Ok(row)
}
