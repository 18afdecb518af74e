//! The extended protocol without waiting: statements are queued, written together, and answered
//! together.
//!
//! After an error the server skips everything up to the next Sync, COPY data included, so a whole
//! transaction can be on its way before its first reply: a COMMIT behind a failed statement is
//! never executed. Several transactions, each ended by its own Sync, may be on their way at once;
//! the first failure of any of them is the one reported, and ends the use of what is behind it.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::conn::{HEADER, Pumped};
use super::{PgClient, TextRow, text_row};
use crate::postgres::error::{ServerError, WireError};
use crate::seam::{ConnectorError, Result};

/// Prepared statements kept per session; above it all are dropped, which costs one round of
/// parsing.
const STATEMENTS_KEPT: usize = 500;
/// A CopyData message is closed at this size, bytes.
const COPY_CHUNK: usize = 64 * 1024;

/// State of the statements on their way.
#[derive(Default)]
pub(super) struct Pipeline {
    prepared: HashMap<Box<str>, u64>,
    /// Prepared by what is still on its way: not certain to exist until that ends well.
    fresh: Vec<Box<str>>,
    next_name: u64,
    /// Statements not answered yet.
    pending: VecDeque<Wanted>,
    completed: u64,
    /// Wanted rows: of the statements answered, then of the one being answered.
    results: VecDeque<Vec<TextRow>>,
    rows: Vec<TextRow>,
    /// Where the open CopyData message starts in the output.
    copy_at: Option<usize>,
    /// Statements were queued since the last Sync.
    open: bool,
    /// … and are one transaction, which only its own Sync may end.
    whole: bool,
    /// Syncs queued over the whole session …
    syncs: u64,
    /// … and how many of them were answered.
    answered: u64,
}

/// What a statement is to answer, beside that it was executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// Its rows.
    Rows,
    /// That it touched one row.
    OneRow,
}

/// An error of a pipelined statement.
#[derive(Clone, Debug)]
pub struct PipelineError {
    /// What went wrong.
    pub error: WireError,
    /// Number of the statement concerned, counted as [`PgClient::queue`] does.
    pub statement: u64,
}

impl PgClient {
    /// Queues one execution of `sql` with text parameters (`None` is NULL), preparing it at its
    /// first use. Returns the statement's number: they count up over the whole session.
    ///
    /// # Errors
    /// When the statement is larger than the protocol allows.
    pub fn queue<'p, P>(&mut self, sql: &str, params: P) -> Result<u64>
    where
        P: ExactSizeIterator<Item = Option<&'p [u8]>>,
    {
        self.queue_wanting(sql, params, Wanted::Nothing)
            .map_err(|error| error.into_connector(&self.server))
    }

    /// [`PgClient::queue`] for a statement that fails with [`WireError::Missed`] unless it touches
    /// one row. The server does not know of that: what is behind is executed.
    ///
    /// # Errors
    /// As [`PgClient::queue`].
    pub fn queue_for_one<'p, P>(&mut self, sql: &str, params: P) -> Result<u64>
    where
        P: ExactSizeIterator<Item = Option<&'p [u8]>>,
    {
        self.queue_wanting(sql, params, Wanted::OneRow)
            .map_err(|error| error.into_connector(&self.server))
    }

    /// Makes one transaction of all that is queued until [`PgClient::queue_sync`], which spares the
    /// server BEGIN and COMMIT: the statements of a pipeline are one until its Sync, unless they say
    /// otherwise (protocol-flow.html, "Pipelining"). Nothing else may send a Sync meanwhile: it is
    /// refused.
    pub fn begin_whole(&mut self) {
        self.pipeline.whole = true;
    }

    fn queue_wanting<'p, P>(
        &mut self,
        sql: &str,
        params: P,
        wanted: Wanted,
    ) -> Result<u64, WireError>
    where
        P: ExactSizeIterator<Item = Option<&'p [u8]>>,
    {
        let name = self.prepare(sql)?;
        let out = self.conn.out();
        let start = out.len();
        put_bind(out, name, params).inspect_err(|_| self.conn.out().truncate(start))?;
        frontend::execute("", 0, self.conn.out())?;
        self.pipeline.pending.push_back(wanted);
        self.pipeline.open = true;
        Ok(self.pipeline.completed + self.pipeline.pending.len() as u64 - 1)
    }

    /// Name of the prepared statement, whose Parse is queued at its first use.
    fn prepare(&mut self, sql: &str) -> Result<u64, WireError> {
        if let Some(&name) = self.pipeline.prepared.get(sql) {
            return Ok(name);
        }
        if self.pipeline.prepared.len() >= STATEMENTS_KEPT {
            for (_, name) in self.pipeline.prepared.drain() {
                frontend::close(b'S', &statement_name(name), self.conn.out())?;
            }
            self.pipeline.fresh.clear();
        }
        // Names are never used twice: a name whose Parse failed or was skipped leaves no trace.
        let name = self.pipeline.next_name;
        self.pipeline.next_name += 1;
        frontend::parse(&statement_name(name), sql, [], self.conn.out())?;
        self.pipeline.prepared.insert(sql.into(), name);
        self.pipeline.fresh.push(sql.into());
        Ok(name)
    }

    /// Queues `COPY … FROM STDIN`; its data follow with [`PgClient::copy_buffer`] and end with
    /// [`PgClient::copy_done`]. Nothing waits for the server's go-ahead.
    ///
    /// # Errors
    /// As [`PgClient::queue`].
    pub fn queue_copy_in(&mut self, sql: &str) -> Result<u64> {
        self.queue(sql, std::iter::empty())
    }

    /// The buffer to which whole rows of COPY data are appended.
    pub fn copy_buffer(&mut self) -> &mut BytesMut {
        let full = self
            .pipeline
            .copy_at
            .is_some_and(|start| self.conn.out().len() - start >= COPY_CHUNK);
        if full {
            self.close_copy_message();
        }
        let out = self.conn.out();
        if self.pipeline.copy_at.is_none() {
            self.pipeline.copy_at = Some(out.len());
            out.put_u8(b'd');
            out.put_u32(0);
        }
        out
    }

    /// Fills in the length of the open CopyData message.
    fn close_copy_message(&mut self) {
        let Some(start) = self.pipeline.copy_at.take() else {
            return;
        };
        let out = self.conn.out();
        let length = (out.len() - start - 1) as u32;
        out[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// Ends the COPY.
    pub fn copy_done(&mut self) {
        self.close_copy_message();
        frontend::copy_done(self.conn.out());
    }

    /// Bytes queued and not written yet.
    pub fn queued_bytes(&mut self) -> usize {
        self.conn.out().len()
    }

    /// Number of statements answered so far, over the whole session.
    pub fn completed(&self) -> u64 {
        self.pipeline.completed
    }

    /// Writes what is queued and takes in the replies that come meanwhile.
    ///
    /// # Errors
    /// The first failure of a statement, which the server may report at any time.
    pub async fn write_queued(&mut self) -> Result<(), PipelineError> {
        self.close_copy_message();
        loop {
            let pumped = self.conn.pump().await.map_err(|e| self.failed(e))?;
            self.take_replies()?;
            if pumped == Pumped::Written {
                return Ok(());
            }
        }
    }

    /// Ends the pipeline with a Sync, writes everything and waits for all replies.
    ///
    /// # Errors
    /// The failure of a statement; those behind it were skipped. The session is in step again,
    /// unless the connection broke.
    pub async fn sync(&mut self) -> Result<(), PipelineError> {
        self.may_end().map_err(|error| self.failed(error))?;
        self.queue_sync();
        self.finish().await
    }

    fn may_end(&self) -> Result<(), WireError> {
        match self.pipeline.whole {
            true => Err(WireError::Internal("a transaction would be cut in two")),
            false => Ok(()),
        }
    }

    /// Queues a Sync without writing it. Returns its number: they count up over the whole session.
    pub fn queue_sync(&mut self) -> u64 {
        self.close_copy_message();
        frontend::sync(self.conn.out());
        self.pipeline.open = false;
        self.pipeline.whole = false;
        self.pipeline.syncs += 1;
        self.pipeline.syncs
    }

    /// Writes everything and waits for the replies up to that of the last Sync queued.
    ///
    /// # Errors
    /// As [`PgClient::sync`].
    pub async fn finish(&mut self) -> Result<(), PipelineError> {
        let outcome = match self.write_queued().await {
            Ok(()) => self.await_sync(self.pipeline.syncs).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.resynchronise(&error).await;
            return Err(error);
        }
        Ok(())
    }

    /// Waits for the reply to the Sync of this number, which must have been written. Safe to
    /// cancel.
    ///
    /// # Errors
    /// The failure of a statement before it. The session is then of no further use.
    pub async fn await_sync(&mut self, number: u64) -> Result<(), PipelineError> {
        while self.pipeline.answered < number {
            // Not a message further: what is behind may fail.
            match self.conn.buffered_message().map_err(|e| self.failed(e))? {
                Some(message) => self.take_reply(message).map_err(|e| self.failed(e))?,
                None => self.conn.receive().await.map_err(|e| self.failed(e))?,
            }
        }
        Ok(())
    }

    /// After a failed statement: skips to the reply to the last Sync queued.
    async fn resynchronise(&mut self, failure: &PipelineError) {
        for sql in self.pipeline.fresh.drain(..) {
            self.pipeline.prepared.remove(&sql);
        }
        self.pipeline.completed += self.pipeline.pending.len() as u64;
        self.pipeline.pending.clear();
        self.pipeline.results.clear();
        self.pipeline.rows.clear();
        let usable = match &failure.error {
            WireError::Server(error) => !error.is_fatal(),
            other => matches!(other, WireError::Missed),
        };
        if !usable {
            return;
        }
        loop {
            match self.conn.pump().await {
                Ok(Pumped::Written) => break,
                Ok(Pumped::Received) => {}
                Err(_) => return,
            }
        }
        // Whatever breaks here is met again by the next use of the session.
        while self.pipeline.answered < self.pipeline.syncs {
            match self.conn.next_message().await {
                Ok(Message::ReadyForQuery(_)) => self.pipeline.answered += 1,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends a pipeline that is open and takes in all replies, for what must not be sent within one.
    pub(super) async fn end_pipeline(&mut self) -> Result<()> {
        if self.pipeline.open {
            self.may_end()
                .map_err(|error| error.into_connector(&self.server))?;
            self.queue_sync();
        } else if self.pipeline.answered == self.pipeline.syncs {
            return Ok(());
        }
        let outcome = self.finish().await;
        outcome.map_err(|error| self.explain(error))
    }

    /// Runs one statement and returns its rows: within an open pipeline as a part of it, at the
    /// cost of one round trip, otherwise as a transaction of its own.
    ///
    /// # Errors
    /// What the server reports. Within a pipeline, the failure may be that of an earlier statement.
    pub async fn query(
        &mut self,
        sql: &str,
        params: &[Option<&str>],
    ) -> Result<Vec<TextRow>, PipelineError> {
        let [rows] = self.query_all([sql], params).await?;
        Ok(rows)
    }

    /// [`PgClient::query`] for several statements with the same parameters, at the cost of one
    /// round trip for all.
    ///
    /// # Errors
    /// As [`PgClient::query`].
    pub async fn query_all<const N: usize>(
        &mut self,
        statements: [&str; N],
        params: &[Option<&str>],
    ) -> Result<[Vec<TextRow>; N], PipelineError> {
        let within = self.pipeline.open;
        let mut last = 0;
        for sql in statements {
            let params = params.iter().map(|param| param.map(str::as_bytes));
            last = self
                .queue_wanting(sql, params, Wanted::Rows)
                .map_err(|e| self.failed(e))?;
        }
        if !within {
            self.sync().await?;
        } else {
            frontend::flush(self.conn.out());
            self.write_queued().await?;
            while self.pipeline.completed <= last {
                self.conn.receive().await.map_err(|e| self.failed(e))?;
                self.take_replies()?;
            }
        }
        Ok(std::array::from_fn(|_| {
            self.pipeline.results.pop_front().unwrap_or_default()
        }))
    }

    /// Takes in all replies received.
    fn take_replies(&mut self) -> Result<(), PipelineError> {
        while let Some(message) = self.conn.buffered_message().map_err(|e| self.failed(e))? {
            self.take_reply(message).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn take_reply(&mut self, message: Message) -> Result<(), WireError> {
        match message {
            Message::ParseComplete
            | Message::BindComplete
            | Message::CloseComplete
            | Message::NoData
            | Message::CopyInResponse(_) => Ok(()),
            Message::ReadyForQuery(_) => {
                self.pipeline.answered += 1;
                if self.pipeline.answered == self.pipeline.syncs && !self.pipeline.open {
                    self.pipeline.fresh.clear();
                }
                Ok(())
            }
            // What a COMMIT answers in a transaction that has failed. We never ask for it.
            Message::CommandComplete(body) if body.tag()? == "ROLLBACK" => Err(
                WireError::Protocol("a transaction was rolled back instead of committed".into()),
            ),
            Message::CommandComplete(body)
                if self.pipeline.pending.front() == Some(&Wanted::OneRow)
                    && !body.tag()?.ends_with(" 1") =>
            {
                Err(WireError::Missed)
            }
            Message::CommandComplete(_) | Message::EmptyQueryResponse => {
                let Some(wanted) = self.pipeline.pending.pop_front() else {
                    return Err(WireError::Protocol("a reply to nothing".into()));
                };
                self.pipeline.completed += 1;
                if wanted == Wanted::Rows {
                    let rows = std::mem::take(&mut self.pipeline.rows);
                    self.pipeline.results.push_back(rows);
                }
                Ok(())
            }
            Message::DataRow(body) => {
                if self.pipeline.pending.front() == Some(&Wanted::Rows) {
                    self.pipeline.rows.push(text_row(&body)?);
                }
                Ok(())
            }
            Message::ErrorResponse(body) => Err(WireError::Server(Box::new(
                ServerError::from_fields(body.fields()),
            ))),
            other => self.aside(other),
        }
    }

    fn failed(&self, error: WireError) -> PipelineError {
        PipelineError {
            error,
            statement: self.pipeline.completed,
        }
    }

    /// The error for the operator.
    pub fn explain(&self, error: PipelineError) -> ConnectorError {
        error.error.into_connector(&self.server)
    }
}

fn statement_name(number: u64) -> String {
    format!("r{number}")
}

/// Bind of the unnamed portal, all parameters and results in text form.
fn put_bind<'p, P>(out: &mut BytesMut, statement: u64, params: P) -> Result<(), WireError>
where
    P: ExactSizeIterator<Item = Option<&'p [u8]>>,
{
    let too_large = || {
        WireError::Config(
            "a statement exceeds the protocol's limits".into(),
            String::new(),
        )
    };
    let count = u16::try_from(params.len()).map_err(|_| too_large())?;
    out.put_u8(b'B');
    let start = out.len();
    out.put_u32(0);
    out.put_u8(0);
    out.put_slice(statement_name(statement).as_bytes());
    out.put_u8(0);
    out.put_u16(0);
    out.put_u16(count);
    for param in params {
        match param {
            None => out.put_i32(-1),
            Some(bytes) => {
                out.put_i32(i32::try_from(bytes.len()).map_err(|_| too_large())?);
                out.put_slice(bytes);
            }
        }
    }
    out.put_u16(0);
    let length = i32::try_from(out.len() - start).map_err(|_| too_large())?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
