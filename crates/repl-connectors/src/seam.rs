//! What the daemon asks of an engine.

mod bulk;
mod capture;
mod demand;
mod enums;
mod gate;
mod load;
mod role;
mod snapshot;
mod strays;

pub use bulk::{BulkForm, BulkInto, BulkPiece};
pub use capture::{
    Capture, CaptureBoard, CaptureLimits, CapturePort, CaptureState, CaptureStatus, Lacking, Note,
    Released, SourceTable,
};
pub use demand::Demand;
pub use enums::{EnumType, FollowedEnums};
pub use gate::{CommitGate, GateProblem, GateReport, WeakerCommits};
pub use role::{CaptureStart, Counter, Finding, Part, RoleSwitch, Sample};
pub(crate) use snapshot::altered;
pub use snapshot::{
    Division, ForeignKeyDdl, GeneratedDdl, PartSize, Snapshot, SnapshotSource, TableDdl,
};
pub use strays::{Stray, StrayKey, StrayOp, StraySink, stray_key};

pub(crate) use load::holds_rows;
pub use load::{Existing, Inherits, Load, LoadPart, Loaded, Making, Written};

use std::collections::HashMap;

use async_trait::async_trait;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::convert::ConvertOptions;
use repl_core::copy::{PartialCopy, StoredCopy};
use repl_core::cut::Cut;
use repl_core::log::LogError;
use repl_core::promotion::Handover;
use repl_core::schema::TableName;
use repl_core::{Directive, ErrorKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An error of an engine, in the operator's words.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("{message}")]
pub struct ConnectorError {
    /// Decides what happens next.
    pub kind: ErrorKind,
    /// What happened and why; names the server, table or setting. Never row values or secrets.
    pub message: String,
    /// What to do, with the exact statement or command; empty when nothing is to be done.
    pub advice: String,
    /// The database's own error code (SQLSTATE, SQLite extended code).
    pub code: Option<String>,
    /// The table concerned, as the replica (or source) names it.
    pub table: Option<String>,
    /// The key of the row concerned, rendered for the operator's status output only.
    pub key: Option<String>,
    /// Met while connecting. Whatever it is then (a certificate, a password, a database that is not there), it
    /// changes nothing anywhere to try again, and it is mended at one of the two ends.
    pub connecting: bool,
}

impl ConnectorError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ConnectorError {
            kind,
            message: message.into(),
            advice: String::new(),
            code: None,
            table: None,
            key: None,
            connecting: false,
        }
    }

    /// Met while connecting.
    #[must_use]
    pub fn connecting(mut self) -> Self {
        self.connecting = true;
        self
    }

    /// What it asks for.
    pub fn directive(&self) -> Directive {
        match self.connecting {
            true => Directive::Retry,
            false => self.kind.directive(),
        }
    }

    /// With advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// With the table concerned.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }
}

impl From<LogError> for ConnectorError {
    fn from(error: LogError) -> Self {
        let kind = match error {
            // Nothing was lost: what could not be read or written is tried again.
            LogError::Full(_) | LogError::Io { .. } => ErrorKind::Transient,
            _ => ErrorKind::Internal,
        };
        ConnectorError::new(kind, format!("event log: {}", error.explained()))
    }
}

impl From<repl_core::codec::Malformed> for ConnectorError {
    fn from(error: repl_core::codec::Malformed) -> Self {
        ConnectorError::new(ErrorKind::Internal, error.to_string())
    }
}

/// Short for this crate's results.
pub type Result<T, E = ConnectorError> = std::result::Result<T, E>;

// ---------------------------------------------------------------- apply

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaState {
    /// Its checkpoint for our group; none when it was never attached.
    pub checkpoint: Option<Checkpoint>,
    /// Which running database it is, where that is told: see [`CaptureStatus::instance`].
    pub instance: Option<String>,
    /// Tables that were copied, by source name.
    pub tables: HashMap<TableName, CopiedTable>,
    /// Copies in parts that are not complete, or whose table has not settled, by source name.
    pub copies: HashMap<TableName, StoredCopy>,
    /// Why a crash of the replica's host can take back what it calls durable, with what mends it:
    /// no commit may be promised on its account. None when it cannot.
    pub forgetful: Option<String>,
}

/// A table whose existing rows are in the replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopiedTable {
    /// The source table's incarnation at the time.
    pub incarnation: String,
    /// What of the stream the copy already contains; none once the stream has passed it.
    pub cut: Option<Cut>,
}

/// How a step is to be applied; each is tried after the one before failed on a constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Sets: deletes, updates, inserts.
    SetWise,
    /// Touched rows are read, unchanged columns merged, all deleted, all inserted: solves swaps of
    /// unique values.
    Rewrite,
}

/// How much a target transaction waits for when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// What is committed, and everything before it, survives a crash of the replica.
    Durable,
    /// What is committed is visible. A crash of the replica may take it back, together with
    /// everything after it and with its checkpoint; engines that cannot do that commit durably.
    Asynchronous,
}

/// Writes to one replica over one session. The calls of one target transaction are
/// `begin`, `apply`…, `submit`; an implementation may send them in one go at `submit`. Up to
/// [`Applier::depth`] transactions may have been submitted whose outcome is not known: `settle`
/// waits for that of the oldest. After any error the session is closed and the next `open` starts
/// anew; nothing of a transaction remains unless it had been submitted, in which case the
/// checkpoint tells.
///
/// What makes it safe to send a transaction before the one before it is known to be committed is
/// the compare-and-set: it expects the checkpoint the other one leaves. If that one fails, so does
/// it, at its first statement, and whatever is behind it.
#[async_trait]
pub trait Applier: Send {
    /// Connects, prepares the session (foreign keys and user triggers off, fixed settings), ends
    /// left-over sessions of ours, creates our own tables where absent and reads them. What it
    /// returns is durable at the replica, however it was committed.
    ///
    /// # Errors
    /// When the replica cannot be reached, refuses, or lacks a privilege or setting.
    async fn open(&mut self) -> Result<ReplicaState>;

    /// After [`Applier::open`]: completes how rows are converted for this replica by what only its
    /// server tells (MariaDB and MySQL name their exact collations differently).
    fn complete_conversion(&self, _options: &mut ConvertOptions) {}

    /// Sets the checkpoint outside a batch: first attachment or a new copy. Compare-and-set on
    /// `expected` (none = no row yet).
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`] when the stored one is another.
    async fn set_checkpoint(
        &mut self,
        expected: Option<&Checkpoint>,
        next: &Checkpoint,
    ) -> Result<()>;

    /// Most transactions that may be submitted and not settled. With 1 a transaction is committed
    /// when `submit` returns, and `settle` has nothing to wait for.
    fn depth(&self) -> usize {
        1
    }

    /// Begins a target transaction; its first statement locks the checkpoint and fails unless it
    /// is `expected`: the one stored, or the one left by the last transaction submitted.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`], possibly only at `settle`. The error may be that of a
    /// transaction submitted before.
    async fn begin(&mut self, expected: &Checkpoint) -> Result<()>;

    /// [`Applier::begin`] of a transaction whose end is known already: `submit` will be called with
    /// `next` and `commit`. Locking and moving the checkpoint can then be one statement.
    ///
    /// # Errors
    /// As [`Applier::begin`].
    async fn begin_whole(
        &mut self,
        expected: &Checkpoint,
        _next: &Checkpoint,
        _commit: Commit,
    ) -> Result<()> {
        self.begin(expected).await
    }

    /// Applies one step. Fails when a row to update or delete is not there, or one to insert is:
    /// a replica that differs is never patched over.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], [`ErrorKind::Constraint`], [`ErrorKind::Data`], possibly only at
    /// `settle`. The error may be that of a transaction submitted before.
    async fn apply(&mut self, step: &Step, style: Style) -> Result<()>;

    /// Writes `next` as the checkpoint in the same transaction and sends its COMMIT; may return
    /// before the replica has answered. `joined` are source tables whose cut the stream has passed
    /// with this batch: their cut is cleared too.
    ///
    /// # Errors
    /// As above; after a lost connection the outcome is told by the stored checkpoint.
    async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        commit: Commit,
    ) -> Result<()>;

    /// Waits until the oldest transaction submitted is committed. Safe to cancel: it is then
    /// waited for by the next call.
    ///
    /// # Errors
    /// As above.
    async fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Asks whether the replica is still there, with nothing in flight.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it does not answer.
    async fn ping(&mut self) -> Result<()> {
        Ok(())
    }

    /// Submits durably and waits, with nothing else in flight.
    ///
    /// # Errors
    /// As above.
    async fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
        self.submit(next, joined, Commit::Durable).await?;
        self.settle().await
    }

    /// Adapts the replica's table to a new schema version, or explains why it cannot be: adds
    /// columns that appeared (with the source's default), accepts columns that disappeared when
    /// the replica's allow NULL or have a default, refuses what would guess (renames, other
    /// types). Also checks a table that existed before us.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] with the statement that mends it.
    async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()>;

    /// Loads one table's rows in one transaction: makes the table by `ddl` if it is absent and
    /// `create` is true, does with rows that are there what `existing` says, loads, creates what
    /// `ddl.key` and `ddl.after` list if it made the table, records `copied`, commits. A table that
    /// an unfinished copy in parts made is made anew in any case.
    ///
    /// # Errors
    /// As above.
    async fn load(&mut self, load: Load<'_>) -> Result<Loaded>;

    /// A further session, for loading parts beside this one; none where the replica has one writer.
    /// `number` tells such sessions apart.
    fn loader(&self, _number: usize) -> Option<Box<dyn Applier>> {
        None
    }

    /// Begins a copy in parts: makes the table, or verifies that the one that is there fits and is
    /// empty, and records `copy`, durably. False, with nothing done, when the table holds rows that
    /// are not left over from an unfinished copy in parts. With `copy.compare` it is the other way
    /// round: the table must be there, hold rows, and have its key for the only thing that is unique,
    /// ordered as integers are.
    ///
    /// # Errors
    /// As above.
    async fn begin_parts(&mut self, _making: Making<'_>, _copy: &PartialCopy) -> Result<bool> {
        Ok(false)
    }

    /// Goes on with an interrupted copy in parts, of which `copy` now says what its rows contain:
    /// records it. False, with nothing done, when the table cannot settle: something but its key
    /// could refuse rows that are not of one cut.
    ///
    /// # Errors
    /// As above.
    async fn resume_parts(&mut self, _making: Making<'_>, _copy: &PartialCopy) -> Result<bool> {
        Ok(false)
    }

    /// Loads one part in one transaction, which also records that it is done; with `copy.compare`,
    /// makes the rows in its range equal to those given. Fails when it is done already, or when
    /// `copy` is no longer the copy of this table.
    ///
    /// # Errors
    /// As above.
    async fn load_part(&mut self, _part: LoadPart<'_>) -> Result<Loaded> {
        Err(no_parts())
    }

    /// With all parts done: creates `ddl.key` if the copy made the table, records `copied`; and
    /// creates `ddl.after`, or records it for [`Applier::finish_parts`] if the table is to settle.
    ///
    /// # Errors
    /// As above.
    async fn end_parts(
        &mut self,
        _making: Making<'_>,
        _copy: &PartialCopy,
        _copied: &CopiedTable,
    ) -> Result<()> {
        Err(no_parts())
    }

    /// Creates what was left until this source table has settled.
    ///
    /// # Errors
    /// As above.
    async fn finish_parts(&mut self, _table: &TableName) -> Result<()> {
        Err(no_parts())
    }

    /// Adds foreign keys, once all tables are there; a statement whose constraint is there already
    /// is passed over. Those whose other table the replica does not have are left out by the
    /// caller.
    ///
    /// # Errors
    /// As above.
    async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()>;

    /// Sees to it that each table inherits, at the replica, from just those of `held` that it is to
    /// inherit from; with `make` by changing it. Where the engine knows no such thing there is nothing to see to.
    ///
    /// # Errors
    /// Without `make`, [`ErrorKind::Schema`] with the statement for the first that does not.
    async fn inherit(
        &mut self,
        _tables: &[Inherits],
        _held: &[TableName],
        _make: bool,
    ) -> Result<()> {
        Ok(())
    }

    /// Adds the labels that these types of the source have and the replica's types of the same name lack,
    /// where they stand there. Where the engine knows no such types there is nothing to add.
    ///
    /// # Errors
    /// When the replica refuses, with the statement.
    async fn follow_enums(&mut self, _enums: &[EnumType]) -> Result<FollowedEnums> {
        Ok(FollowedEnums::default())
    }

    /// Forgets that tables were copied (before a new copy of them), and that copies in parts can
    /// go on.
    ///
    /// # Errors
    /// As above.
    async fn forget_tables(&mut self, tables: &[TableName]) -> Result<()>;

    /// Takes what this node holds for what the log holds through `handover.checkpoint`: it was the
    /// primary until then. Replaces whatever it remembers of an earlier time as a replica; done already,
    /// it changes nothing.
    ///
    /// # Errors
    /// As above.
    async fn adopt(&mut self, _handover: &Handover) -> Result<()> {
        let what = "a node of this engine cannot become a replica of its own group";
        Err(ConnectorError::new(ErrorKind::Configuration, what))
    }

    /// Whether [`Applier::recut`] is there.
    fn can_recut(&self) -> bool {
        false
    }

    /// Within a target transaction that was begun: records what these tables, all of which are held,
    /// contain of the stream from now on.
    ///
    /// # Errors
    /// As [`Applier::apply`].
    async fn recut(&mut self, _tables: &[TableName], _cut: &Cut) -> Result<()> {
        let what = "tables of a replica of this engine cannot be joined to the stream anew";
        Err(ConnectorError::new(ErrorKind::Internal, what))
    }

    /// Closes the session.
    async fn close(&mut self);
}

fn no_parts() -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, "no copy in parts was begun")
}
