//! Queuing statements, and telling which one failed.

use std::collections::VecDeque;
use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::row::Row;

use super::meddling;
use super::metadata::Target;
use super::session::Session;
use super::sql::MARK;
use crate::postgres::error::WireError;
use crate::postgres::wire::PipelineError;
use crate::seam::{ConnectorError, Result};

/// Queued bytes above which they are written before more is queued.
const QUEUED_BYTES: usize = 1024 * 1024;

/// What a statement was for.
#[derive(Clone, Debug)]
pub(super) enum Label {
    /// Compares or moves the checkpoint.
    Checkpoint,
    /// Writes rows of a table; of one row, its key is known.
    Rows(&'static str, Arc<Target>, Option<Row>),
    /// Verifies a deferrable constraint of a table.
    Constraint(Arc<Target>, String),
    /// Looks for triggers and rules that act on replicated rows.
    Meddling,
    /// Anything else.
    Other,
}

/// The labels of the statements not answered yet, by their numbers.
#[derive(Default)]
pub(super) struct Labels(VecDeque<(u64, Label)>);

impl Labels {
    fn drop_before(&mut self, completed: u64) {
        while self
            .0
            .front()
            .is_some_and(|(number, _)| *number < completed)
        {
            self.0.pop_front();
        }
    }

    fn of(&self, statement: u64) -> Option<&Label> {
        let (_, label) = self.0.iter().find(|(number, _)| *number == statement)?;
        Some(label)
    }
}

impl Session {
    /// Queues a statement.
    pub(super) fn push(&mut self, sql: &str, params: &[Option<&[u8]>], label: Label) -> Result<()> {
        let number = self.client.queue(sql, params.iter().copied())?;
        self.labels.0.push_back((number, label));
        Ok(())
    }

    /// Queues a statement that must touch one row.
    pub(super) fn push_for_one(
        &mut self,
        sql: &str,
        params: &[Option<&[u8]>],
        label: Label,
    ) -> Result<()> {
        let number = self.client.queue_for_one(sql, params.iter().copied())?;
        self.labels.0.push_back((number, label));
        Ok(())
    }

    /// Queues the start of a COPY.
    pub(super) fn push_copy(&mut self, sql: &str, label: Label) -> Result<()> {
        let number = self.client.queue_copy_in(sql)?;
        self.labels.0.push_back((number, label));
        Ok(())
    }

    /// Whether much is queued.
    pub(super) fn is_laden(&mut self) -> bool {
        self.client.queued_bytes() >= QUEUED_BYTES
    }

    /// Writes what is queued if it is much.
    pub(super) async fn relieve(&mut self) -> Result<()> {
        match self.is_laden() {
            true => self.write_now().await,
            false => Ok(()),
        }
    }

    /// Writes what is queued.
    pub(super) async fn write_now(&mut self) -> Result<()> {
        let outcome = self.client.write_queued().await;
        outcome.map_err(|error| self.explain(error))?;
        self.labels.drop_before(self.client.completed());
        Ok(())
    }

    /// Ends the pipeline, and waits for all replies.
    pub(super) async fn sync(&mut self) -> Result<()> {
        let outcome = self.client.sync().await;
        outcome.map_err(|error| self.explain(error))?;
        self.labels.drop_before(self.client.completed());
        Ok(())
    }

    /// Waits for the reply to a Sync that was written. Safe to cancel.
    pub(super) async fn await_sync(&mut self, number: u64) -> Result<()> {
        let outcome = self.client.await_sync(number).await;
        outcome.map_err(|error| self.explain(error))?;
        self.labels.drop_before(self.client.completed());
        Ok(())
    }

    /// The error for the operator: what failed, in which table, at which key.
    pub(super) fn explain(&self, failure: PipelineError) -> ConnectorError {
        let own = match &failure.error {
            WireError::Server(error) if error.code == "22P02" => error
                .message
                .split_once(MARK)
                .map(|(_, text)| text.trim_end_matches(['"', '…']).to_owned()),
            WireError::Missed => Some(String::new()),
            _ => None,
        };
        let label = self.labels.of(failure.statement);
        let mut explained = match (own, label) {
            (Some(_), Some(Label::Checkpoint)) => self.checkpoint_moved(),
            (Some(found), Some(Label::Meddling)) => {
                meddling::appeared(self.client.server(), &found)
            }
            (Some(found), Some(Label::Rows("insert", target, _))) => {
                kept_out(self.client.server(), target, &found)
            }
            (Some(found), Some(Label::Rows(verb, target, _))) => {
                conflict(self.client.server(), verb, target, &found)
            }
            (Some(_), Some(Label::Constraint(target, name))) => {
                duplicates(self.client.server(), target, name)
            }
            _ => self.client.explain(failure),
        };
        let (target, row) = match label {
            Some(Label::Rows(_, target, row)) => (target, row.as_ref()),
            Some(Label::Constraint(target, _)) => (target, None),
            _ => return explained,
        };
        if explained.table.is_none() {
            explained.table = Some(target.route.target.to_string());
        }
        if let Some(key) = row.and_then(|row| target.key_text(row)) {
            explained.key = Some(match explained.key {
                Some(more) => format!("{key}: {more}"),
                None => key,
            });
        }
        explained
    }

    pub(super) fn checkpoint_moved(&self) -> ConnectorError {
        ConnectorError::new(
            ErrorKind::CheckpointMoved,
            format!(
                "{}: the checkpoint of group \"{}\" is not the one this session started from; \
                 another session has written it",
                self.client.server(),
                self.config.group
            ),
        )
        .advice(
            "if this persists, another daemon writes to the same replica, or the row in \
             repl.checkpoint was edited or deleted",
        )
    }
}

fn conflict(server: &str, verb: &str, target: &Target, found: &str) -> ConnectorError {
    let table = &target.route.target;
    ConnectorError::new(
        ErrorKind::Conflict,
        format!(
            "{server}: rows of table {table} to {verb} are not as the primary's history says: \
             {found}"
        ),
    )
    .advice(
        "the replica's table was changed by something else: mend the rows and `replctl retry`, or \
         have the table copied again",
    )
}

/// Nothing but code of the replica's own keeps rows from being inserted without an error.
fn kept_out(server: &str, target: &Target, found: &str) -> ConnectorError {
    let table = &target.route.target;
    ConnectorError::new(
        ErrorKind::Conflict,
        format!("{server}: not every row inserted into table {table} is there afterwards: {found}"),
    )
    .advice(format!(
        "a trigger or rule of the replica keeps it out: one that is ENABLE ALWAYS or ENABLE REPLICA acts on \
         replicated rows (see \\d {table} in psql). Switch it off and `replctl retry`"
    ))
}

fn duplicates(server: &str, target: &Target, constraint: &str) -> ConnectorError {
    let table = &target.route.target;
    ConnectorError::new(
        ErrorKind::Constraint,
        format!(
            "{server}: the changes would violate the deferrable constraint \"{constraint}\" of \
             table {table}"
        ),
    )
    .advice("find out how the replica came to differ from the primary; then `replctl retry`")
}
