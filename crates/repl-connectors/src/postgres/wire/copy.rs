//! COPY towards us, and the replication protocol's COPY in both directions.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, Message,
    NOTICE_RESPONSE_TAG, PARAMETER_STATUS_TAG,
};
use postgres_protocol::message::frontend;

use super::conn::{Conn, HEADER};
use super::{GOODBYE, PgClient};
use crate::postgres::error::{ServerError, WireError};
use crate::seam::Result;

/// The server's CopyBothResponse, which only the replication protocol has.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

impl PgClient {
    /// Starts `COPY … TO STDOUT`; the data are fetched with [`PgClient::take_copy_data`] until
    /// that tells the end.
    ///
    /// # Errors
    /// What the server reports; the session stays usable.
    pub async fn copy_out(&mut self, sql: &str) -> Result<()> {
        self.end_pipeline().await?;
        let outcome = self.start_copy_out(sql).await;
        outcome.map_err(|error| error.into_connector(self.server()))
    }

    async fn start_copy_out(&mut self, sql: &str) -> Result<(), WireError> {
        frontend::query(sql, self.conn.out())?;
        self.conn.flush().await?;
        loop {
            match self.conn.next_message().await? {
                Message::CopyOutResponse(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    let error = ServerError::from_fields(body.fields());
                    return Err(self.after_error(error).await);
                }
                other => self.aside(other)?,
            }
        }
    }

    /// Reads on to ReadyForQuery, so that the session is usable after the error.
    async fn after_error(&mut self, error: ServerError) -> WireError {
        if !error.is_fatal() {
            while let Ok(message) = self.conn.next_message().await {
                if matches!(message, Message::ReadyForQuery(_)) {
                    break;
                }
            }
        }
        WireError::Server(Box::new(error))
    }

    /// Appends the next pieces of the running COPY, in text format rows, to `out` until that holds `bytes`,
    /// and counts them in `pieces`. At the COPY's end it returns how many rows the server says it sent.
    ///
    /// # Errors
    /// What the server reports; the session stays usable.
    pub async fn take_copy_data(
        &mut self,
        out: &mut BytesMut,
        bytes: usize,
        pieces: &mut u64,
    ) -> Result<Option<u64>> {
        let outcome = self.copy_pieces(out, bytes, pieces).await;
        outcome.map_err(|error| error.into_connector(self.server()))
    }

    async fn copy_pieces(
        &mut self,
        out: &mut BytesMut,
        bytes: usize,
        pieces: &mut u64,
    ) -> Result<Option<u64>, WireError> {
        let mut sent = None;
        loop {
            *pieces += self.conn.take_copy_data(out, bytes)?;
            if out.len() >= bytes {
                return Ok(None);
            }
            match self.conn.buffered_message()? {
                None => self.conn.receive().await?,
                Some(Message::CopyDone) => {}
                Some(Message::CommandComplete(body)) => {
                    let rows = body.tag()?.strip_prefix("COPY ").map(str::parse);
                    sent = rows.and_then(|rows| rows.ok());
                }
                Some(Message::ReadyForQuery(_)) => {
                    let untold =
                        || WireError::Protocol("a COPY ended without its row count".into());
                    return sent.ok_or_else(untold).map(Some);
                }
                Some(Message::ErrorResponse(body)) => {
                    let error = ServerError::from_fields(body.fields());
                    return Err(self.after_error(error).await);
                }
                Some(other) => self.aside(other)?,
            }
        }
    }

    /// Starts a COPY in both directions (`START_REPLICATION …`). The session is used up by it.
    ///
    /// # Errors
    /// What the server reports.
    pub async fn copy_both(mut self, sql: &str) -> Result<CopyBoth> {
        self.end_pipeline().await?;
        let started = self.start_copy_both(sql).await;
        // From now on a server that has nothing to say is silent.
        self.conn.set_look(None);
        match started {
            Ok(()) => Ok(CopyBoth {
                conn: self.conn,
                server: self.server,
                ended: false,
            }),
            Err(error) => Err(error.into_connector(self.server())),
        }
    }

    async fn start_copy_both(&mut self, sql: &str) -> Result<(), WireError> {
        frontend::query(sql, self.conn.out())?;
        self.conn.flush().await?;
        loop {
            match self.conn.buffered_frame()? {
                None => self.conn.receive().await?,
                Some((COPY_BOTH_RESPONSE_TAG, _)) => return Ok(()),
                Some((NOTICE_RESPONSE_TAG | PARAMETER_STATUS_TAG, _)) => {}
                Some((ERROR_RESPONSE_TAG, frame)) => return Err(reported(frame)?),
                Some(_) => {
                    return Err(WireError::Protocol(
                        "the server did not start replication".into(),
                    ));
                }
            }
        }
    }
}

/// The error in an ErrorResponse frame.
fn reported(mut frame: BytesMut) -> Result<WireError, WireError> {
    match Message::parse(&mut frame)? {
        Some(Message::ErrorResponse(body)) => Ok(WireError::Server(Box::new(
            ServerError::from_fields(body.fields()),
        ))),
        _ => Err(WireError::Protocol("malformed error".into())),
    }
}

/// A running COPY in both directions.
pub struct CopyBoth {
    conn: Conn,
    server: String,
    ended: bool,
}

impl CopyBoth {
    /// Refuses messages above this size, bytes, with [`repl_core::ErrorKind::Data`].
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.conn.set_limit(bytes);
    }

    /// Has [`CopyBoth::recv`] be woken once so many bytes (1 or more) have arrived, instead of by
    /// each that does; what is less can still be had by [`CopyBoth::recv_arrived`] after the mark was
    /// lowered. Unix sockets do not know this, there it changes nothing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wake_at(&mut self, bytes: usize) -> Result<()> {
        let outcome = self.conn.wake_at(bytes);
        outcome.map_err(|error| error.into_connector(&self.server))
    }

    /// Whether the server has little room to send before we read, see [`PgClient::connect_narrow`].
    pub fn is_narrow(&self) -> bool {
        self.conn.is_narrow()
    }

    /// The next payload; none when the server ended the stream. Safe to cancel: usable in
    /// `tokio::select!`. Payloads are slices of the receive buffer, so keep none for long.
    ///
    /// # Errors
    /// What the server reports, or [`repl_core::ErrorKind::Connection`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.try_recv()? {
                return Ok(Some(payload));
            }
            if self.ended {
                return Ok(None);
            }
            if let Err(error) = self.conn.receive().await {
                return Err(error.into_connector(&self.server));
            }
        }
    }

    /// The next payload if it has arrived already; never waits.
    ///
    /// # Errors
    /// As [`CopyBoth::recv`].
    pub async fn recv_arrived(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.try_recv()? {
                return Ok(Some(payload));
            }
            let arrived = !self.ended && {
                let read = self.conn.receive_arrived().await;
                read.map_err(|error| error.into_connector(&self.server))?
            };
            if !arrived {
                return Ok(None);
            }
        }
    }

    /// The next payload if it was received already; does not read from the socket.
    ///
    /// # Errors
    /// As [`CopyBoth::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Bytes>> {
        self.take()
            .map_err(|error| error.into_connector(&self.server))
    }

    fn take(&mut self) -> Result<Option<Bytes>, WireError> {
        while !self.ended {
            match self.conn.buffered_frame()? {
                None => return Ok(None),
                Some((COPY_DATA_TAG, mut frame)) => {
                    frame.advance(HEADER);
                    return Ok(Some(frame.freeze()));
                }
                // A walsender that shuts down sends CommandComplete without CopyDone.
                Some((COPY_DONE_TAG | COMMAND_COMPLETE_TAG, _)) => self.ended = true,
                Some((NOTICE_RESPONSE_TAG | PARAMETER_STATUS_TAG, _)) => {}
                Some((ERROR_RESPONSE_TAG, frame)) => return Err(reported(frame)?),
                Some(_) => {
                    return Err(WireError::Protocol(
                        "unexpected message in the replication stream".into(),
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Whether [`CopyBoth::try_recv`] would have something to report.
    pub fn has_buffered(&mut self) -> bool {
        !self.ended && self.conn.has_buffered()
    }

    /// Queues a payload for the server; [`CopyBoth::flush`] writes it.
    pub fn send(&mut self, payload: &[u8]) {
        let out = self.conn.out();
        out.put_u8(COPY_DATA_TAG);
        // Payloads of ours are status messages of a few dozen bytes.
        out.put_u32(payload.len() as u32 + 4);
        out.put_slice(payload);
    }

    /// Writes what is queued; received messages wait meanwhile. Safe to cancel: what was not
    /// written stays queued.
    ///
    /// # Errors
    /// [`repl_core::ErrorKind::Connection`].
    pub async fn flush(&mut self) -> Result<()> {
        let outcome = self.conn.flush().await;
        outcome.map_err(|error| error.into_connector(&self.server))
    }

    /// Ends the stream from our side and closes the connection.
    pub async fn close(mut self) {
        frontend::copy_done(self.conn.out());
        frontend::terminate(self.conn.out());
        // A server that does not read any more notices the closed socket.
        let _ = tokio::time::timeout(GOODBYE, self.conn.flush()).await;
    }
}
