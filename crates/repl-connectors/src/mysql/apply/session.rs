//! One session to a replica: how it is prepared, and the course of a target transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row as ServerRow, Value as Param};
use repl_core::ErrorKind;
use repl_core::batch::{NetTable, Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::convert::MysqlFlavor;
use repl_core::row::Row;
use repl_core::schema::{SchemaId, TableName};

use super::metadata::{Target, text};
use super::stage::Stage;
use super::store::Store;
use super::{MySqlApplierConfig, failpoint};
use crate::answer::answered;
use crate::mysql::settings::Session as Settings;
use crate::mysql::target::MySqlLook;
use crate::mysql::{admin, error};
use crate::seam::{ConnectorError, ReplicaState, Result, Style};

/// What the settings of every session leave to this one. Values must be stored exactly or refused,
/// whatever the server's defaults: ANSI_QUOTES lets statements that make tables quote names either way,
/// NO_AUTO_VALUE_ON_ZERO keeps the source's zeros, and zero dates of a source are values too. The
/// foreign keys' effects arrive from the source.
const OWN: &[&str] = &[
    "SET @repl_daemon_apply = 1",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION TRANSACTION READ WRITE",
];
/// Seconds after which MariaDB ends a session that is idle inside a transaction: one cut off from
/// us must not hold its locks for long. MySQL has no such limit.
pub(super) const IDLE: u32 = 60;

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Rows of a step that is held back until the commit, to save a round trip.
const HELD_ROWS: usize = 1_000;
/// Bytes of a step that is held back until the commit.
const HELD_BYTES: usize = 1024 * 1024;
/// Seconds to wait for a left-over session to end.
const LEFTOVER_SECONDS: u32 = 5;

/// Warnings that say nothing of the data: unsafe for statement-based binlogs, deprecations.
const HARMLESS_WARNINGS: [u16; 5] = [1287, 1592, 1681, 3778, 4164];

/// What the server is.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) mariadb: bool,
    /// LOAD DATA LOCAL is allowed.
    pub(super) local_infile: bool,
    /// Largest statement or row, bytes.
    pub(super) max_packet: usize,
    /// Why its commits may not survive a crash of its host, and what mends it.
    pub(super) forgetful: Option<String>,
}

pub(super) struct Session {
    pub(super) conn: Conn,
    look: MySqlLook,
    pub(super) config: MySqlApplierConfig,
    pub(super) server: Server,
    pub(super) store: Store,
    targets: HashMap<(SchemaId, TableName), Arc<Target>>,
    pub(super) stages: HashMap<(SchemaId, TableName), Stage>,
    /// Stages made so far, for their names.
    pub(super) staged: u64,
    pub(super) batch: Option<Batch>,
}

/// The target transaction being made.
pub(super) struct Batch {
    /// The checkpoint it starts from.
    expected: Checkpoint,
    /// A small first step, not run yet: if nothing follows, one statement both verifies and moves
    /// the checkpoint.
    held: Option<(Step, Style)>,
    /// The checkpoint was verified and is locked; statements may have changed rows.
    pub(super) locked: bool,
    /// Tables emptied, whose numbering starts anew after the commit.
    pub(super) restarted: Vec<Arc<Target>>,
}

impl Session {
    /// Which of the two the server is.
    pub(super) fn flavor(&self) -> MysqlFlavor {
        if self.server.mariadb {
            MysqlFlavor::MariaDb
        } else {
            MysqlFlavor::Mysql
        }
    }

    /// Connects and prepares.
    pub(super) async fn open(config: &MySqlApplierConfig) -> Result<(Session, ReplicaState)> {
        let name = format!("repl-daemon apply {}/{}", config.group, config.replica);
        let conn = config.target.connect(&name, Settings::Applier).await?;
        let lock = lock_name(&config.group, &config.replica);
        let mut session = Session {
            look: config.target.look(&conn, Some(lock)),
            conn,
            config: config.clone(),
            server: Server::default(),
            store: Store::default(),
            targets: HashMap::new(),
            stages: HashMap::new(),
            staged: 0,
            batch: None,
        };
        session.check_server().await?;
        for statement in OWN {
            session.run(statement).await?;
        }
        session.allow_idle(IDLE).await?;
        session.end_leftovers().await;
        session.create_store().await?;
        session.check_writable().await?;
        session.finish_loads().await?;
        let state = session.read_state().await?;
        session.run("COMMIT").await?;
        Ok((session, state))
    }

    async fn check_server(&mut self) -> Result<()> {
        let report = admin::report(&self.config.target, &mut self.conn).await?;
        let forgetful = (!report.is_durable()).then(|| {
            let advice = report.durability_advice();
            format!("its server does not flush at every commit: run there {advice};")
        });
        self.server = Server {
            forgetful,
            mariadb: report.flavor == MysqlFlavor::MariaDb,
            local_infile: report.local_infile,
            max_packet: usize::try_from(report.max_allowed_packet).unwrap_or(usize::MAX),
        };
        if report.sync_binlog.is_none() {
            return Ok(());
        }
        let rows = self.query("SELECT @@binlog_format").await?;
        if rows.first().is_some_and(|row| text(row, 0) == "STATEMENT") {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "{}: the server writes its own binlog as statements, which InnoDB refuses at \
                     the isolation level replication needs",
                    self.config.target
                ),
            )
            .advice("SET GLOBAL binlog_format = 'ROW', and in the server's configuration"));
        }
        Ok(())
    }

    /// How long the session may be idle inside a transaction, where the server can tell.
    pub(super) async fn allow_idle(&mut self, seconds: u32) -> Result<()> {
        if !self.server.mariadb {
            return Ok(());
        }
        let sql = format!("SET SESSION idle_transaction_timeout = {seconds}");
        self.run(&sql).await
    }

    /// Ends sessions of ours that survived a broken connection: they may hold locks. A named lock
    /// of the server tells which session it is. One that cannot be ended does no harm, since its
    /// commit would fail on the checkpoint; so failures are only noted.
    async fn end_leftovers(&mut self) {
        let name = lock_name(&self.config.group, &self.config.replica);
        let owner = self
            .rows("SELECT IS_USED_LOCK(?)", vec![name.as_str().into()])
            .await;
        let owner = owner.map(|rows| rows.first().and_then(|row| text(row, 0).parse().ok()));
        let outcome = match owner {
            Ok(Some(id)) => self.kill(id).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let taken = self
            .rows(
                "SELECT GET_LOCK(?, ?)",
                vec![name.into(), LEFTOVER_SECONDS.into()],
            )
            .await;
        if let Err(error) = outcome.and(taken.map(|_| ())) {
            tracing::debug!(%error, "left-over sessions could not be looked for");
        }
    }

    async fn kill(&mut self, id: u64) -> Result<()> {
        // The number came from the server as a number.
        match self.run(&format!("KILL CONNECTION {id}")).await {
            // It is gone already.
            Err(error) if error.code.as_deref() == Some("1094") => Ok(()),
            other => other,
        }
    }

    /// Whether the server takes writes from this account; nothing is changed.
    async fn check_writable(&mut self) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE 1 = 0", self.store.loads);
        self.run(&sql).await
    }

    // ------------------------------------------------------------ statements

    /// Runs a statement without results or parameters.
    pub(super) async fn run(&mut self, sql: &str) -> Result<()> {
        let work = async {
            let outcome = self.conn.query_drop(sql).await;
            outcome.map_err(|error| explain(&self.config, error))
        };
        answered(work, &self.look).await
    }

    /// Rows of a statement without parameters.
    async fn query(&mut self, sql: &str) -> Result<Vec<ServerRow>> {
        let work = async {
            let outcome = self.conn.query(sql).await;
            outcome.map_err(|error| explain(&self.config, error))
        };
        answered(work, &self.look).await
    }

    /// Rows of a prepared statement.
    pub(super) async fn rows(&mut self, sql: &str, params: Vec<Param>) -> Result<Vec<ServerRow>> {
        let work = async {
            let outcome = self.conn.exec(sql, positional(params)).await;
            outcome.map_err(|error| explain(&self.config, error))
        };
        answered(work, &self.look).await
    }

    /// Runs a prepared statement; how many rows it found.
    pub(super) async fn exec(&mut self, sql: &str, params: Vec<Param>) -> Result<u64> {
        let work = async {
            let outcome = self.conn.exec_drop(sql, positional(params)).await;
            outcome.map_err(|error| explain(&self.config, error))
        };
        answered(work, &self.look).await?;
        Ok(self.conn.affected_rows())
    }

    /// Runs a prepared statement on a table's rows and verifies that it found as many as it must,
    /// without a warning: most of the server's warnings are values it changed.
    pub(super) async fn change(
        &mut self,
        doing: Doing<'_>,
        sql: &str,
        params: Vec<Param>,
        expected: u64,
    ) -> Result<()> {
        let outcome = self.exec(sql, params).await;
        let found = self.verify(doing, outcome, Some(expected)).await;
        found.map(drop)
    }

    /// The same for a statement without parameters; with nothing expected, it may find any number.
    pub(super) async fn change_plain(
        &mut self,
        doing: Doing<'_>,
        sql: &str,
        expected: Option<u64>,
    ) -> Result<()> {
        let outcome = self.run(sql).await.map(|()| self.conn.affected_rows());
        let found = self.verify(doing, outcome, expected).await;
        found.map(drop)
    }

    /// Runs a statement without parameters on a table's rows; how many it found.
    pub(super) async fn write(&mut self, doing: Doing<'_>, sql: &str) -> Result<u64> {
        let outcome = self.run(sql).await.map(|()| self.conn.affected_rows());
        self.verify(doing, outcome, None).await
    }

    async fn verify(
        &mut self,
        doing: Doing<'_>,
        outcome: Result<u64>,
        expected: Option<u64>,
    ) -> Result<u64> {
        let found = match outcome {
            Ok(found) => found,
            Err(error) => return Err(doing.complete(error)),
        };
        if self.conn.get_warnings() > 0
            && let Some(error) = self.warning().await?
        {
            return Err(doing.complete(error));
        }
        if let Some(expected) = expected
            && found != expected
        {
            let error = self.conflict(&doing, found, expected);
            return Err(doing.complete(error));
        }
        Ok(found)
    }

    /// The first warning that means changed data, as an error.
    async fn warning(&mut self) -> Result<Option<ConnectorError>> {
        for row in self.query("SHOW WARNINGS").await? {
            let code: u16 = text(&row, 1).parse().unwrap_or(0);
            if !HARMLESS_WARNINGS.contains(&code) {
                let server = self.config.target.to_string();
                let mut error = error::server_error(&server, code, &text(&row, 2));
                if error.kind == ErrorKind::Internal {
                    error.kind = ErrorKind::Data;
                }
                return Ok(Some(error));
            }
        }
        Ok(None)
    }

    fn conflict(&self, doing: &Doing<'_>, found: u64, expected: u64) -> ConnectorError {
        ConnectorError::new(
            ErrorKind::Conflict,
            format!(
                "{}: rows of table {} to {} are not as the primary's history says: {found} found \
                 instead of {expected}",
                self.config.target, doing.target.route.target, doing.verb
            ),
        )
        .advice(
            "the replica's table was changed by something else: mend the rows and `replctl \
             retry`, or have the table copied again",
        )
    }

    // ------------------------------------------------------------ transaction

    /// The replica's side of a route, read from the catalog at its first use.
    pub(super) async fn target(&mut self, route: &Arc<Route>) -> Result<Arc<Target>> {
        let key = (route.schema.id, route.target.clone());
        if let Some(target) = self.targets.get(&key) {
            return Ok(Arc::clone(target));
        }
        let catalog = self.catalog(&route.target).await?;
        let catalog = catalog.ok_or_else(|| missing_table(&route.target))?;
        let target = Arc::new(Target::new(route, &catalog)?);
        self.targets.insert(key, Arc::clone(&target));
        Ok(target)
    }

    /// Forgets what the catalog said of a table, and the staging tables made after it.
    pub(super) async fn forget_target(&mut self, table: &TableName) -> Result<()> {
        self.forget_those(|target| target == table).await
    }

    /// Forgets what the catalog said of all tables.
    pub(super) async fn forget_targets(&mut self) -> Result<()> {
        self.forget_those(|_| true).await
    }

    async fn forget_those(&mut self, those: impl Fn(&TableName) -> bool) -> Result<()> {
        self.targets.retain(|(_, target), _| !those(target));
        let stages = self.stages.extract_if(|(_, target), _| those(target));
        let stages: Vec<Stage> = stages.map(|(_, stage)| stage).collect();
        for stage in stages {
            self.run(&format!("DROP TEMPORARY TABLE IF EXISTS {}", stage.name))
                .await?;
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        failpoint("mysql.apply.before_begin")?;
        self.batch = Some(Batch {
            expected: expected.clone(),
            held: None,
            locked: false,
            restarted: Vec::new(),
        });
        Ok(())
    }

    pub(super) async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        let batch = self.batch.as_mut().ok_or_else(no_batch)?;
        if !batch.locked && batch.held.is_none() && is_small(step) {
            batch.held = Some((step.clone(), style));
            return Ok(());
        }
        if !batch.locked {
            let (expected, held) = (batch.expected.clone(), batch.held.take());
            self.lock_checkpoint(&expected).await?;
            if let Some(batch) = &mut self.batch {
                batch.locked = true;
            }
            failpoint("mysql.apply.after_cas")?;
            if let Some((held, style)) = held {
                self.step(&held, style).await?;
            }
        }
        self.step(step, style).await
    }

    async fn step(&mut self, step: &Step, style: Style) -> Result<()> {
        match step {
            Step::Net(tables) => {
                for table in tables {
                    let target = self.target(&table.route).await?;
                    if table.settling {
                        self.settle_rows(&target, table).await?;
                        continue;
                    }
                    match style {
                        Style::SetWise => self.set_wise(&target, table).await?,
                        Style::Rewrite => self.rewrite(&target, table).await?,
                    }
                }
                Ok(())
            }
            Step::Ordered(changes) => self.ordered(changes).await,
            Step::Truncate {
                tables,
                restart_identity,
            } => self.truncate(tables, *restart_identity).await,
        }
    }

    pub(super) async fn commit(&mut self, next: &Checkpoint, joined: &[TableName]) -> Result<()> {
        let mut batch = self.batch.take().ok_or_else(no_batch)?;
        let (expected, locked, held) = (batch.expected.clone(), batch.locked, batch.held.take());
        self.batch = Some(batch);
        let outside = repl_core::failpoint::sabotage("checkpoint-outside-transaction");
        if !locked && !outside {
            self.move_checkpoint(&expected, next).await?;
            failpoint("mysql.apply.after_cas")?;
        }
        if let Some((step, style)) = held {
            self.step(&step, style).await?;
        }
        if locked && !outside {
            self.move_checkpoint(&expected, next).await?;
        }
        self.join_tables(joined).await?;
        failpoint("mysql.apply.before_commit")?;
        self.run("COMMIT").await?;
        failpoint("mysql.apply.commit_sent")?;
        if outside {
            failpoint("mysql.apply.outside")?;
            self.move_checkpoint(&expected, next).await?;
            self.run("COMMIT").await?;
        }
        failpoint("mysql.apply.after_commit")?;
        self.restart_numbering().await;
        Ok(())
    }

    /// DELETE, since TRUNCATE would commit what was done so far.
    async fn truncate(&mut self, tables: &[Arc<Route>], restart_identity: bool) -> Result<()> {
        for route in tables {
            let target = self.target(route).await?;
            let outcome = self.run(&format!("DELETE FROM {}", target.name)).await;
            outcome.map_err(|error| Doing::new("truncate", &target).complete(error))?;
            if let (true, true, Some(batch)) =
                (restart_identity, target.auto_increment(), &mut self.batch)
            {
                batch.restarted.push(target);
            }
        }
        Ok(())
    }

    /// Lets emptied tables number their rows from the start again. It commits implicitly, so it
    /// comes after the commit; the numbers matter only once the replica is written by others, and
    /// then are advanced anyway.
    async fn restart_numbering(&mut self) {
        let batch = self.batch.take();
        for target in batch.map(|batch| batch.restarted).unwrap_or_default() {
            let sql = format!("ALTER TABLE {} AUTO_INCREMENT = 1", target.name);
            if let Err(error) = self.run(&sql).await {
                tracing::debug!(%error, table = %target.route.target, "numbering not restarted");
            }
        }
    }

    pub(super) async fn close(self) {
        // The server notices the closed connection in any case, and need not be there any more.
        let _ = tokio::time::timeout(GOODBYE, self.conn.disconnect()).await;
    }
}

fn explain(config: &MySqlApplierConfig, error: mysql_async::Error) -> ConnectorError {
    error::explain(&config.target.to_string(), error)
}

/// What a statement on rows is for, for its error.
#[derive(Clone, Copy)]
pub(super) struct Doing<'a> {
    pub(super) verb: &'static str,
    pub(super) target: &'a Target,
    /// The row, where there is only one.
    pub(super) row: Option<&'a Row>,
}

impl<'a> Doing<'a> {
    pub(super) fn new(verb: &'static str, target: &'a Target) -> Self {
        Doing {
            verb,
            target,
            row: None,
        }
    }

    pub(super) fn one(verb: &'static str, target: &'a Target, row: &'a Row) -> Self {
        Doing {
            verb,
            target,
            row: Some(row),
        }
    }

    /// Adds table and key to an error.
    pub(super) fn complete(&self, mut error: ConnectorError) -> ConnectorError {
        error.table = Some(self.target.route.target.to_string());
        if let Some(key) = self.row.and_then(|row| self.target.key_text(row)) {
            error.key = Some(match error.key {
                Some(more) => format!("{key}: {more}"),
                None => key,
            });
        }
        error
    }
}

fn positional(params: Vec<Param>) -> mysql_async::Params {
    if params.is_empty() {
        mysql_async::Params::Empty
    } else {
        mysql_async::Params::Positional(params)
    }
}

fn is_small(step: &Step) -> bool {
    let (mut rows, mut bytes) = (0, 0);
    let mut add = |row: &Row| {
        rows += 1;
        bytes += row.encoded().len();
    };
    match step {
        Step::Net(tables) => {
            for NetTable {
                deletes,
                updates,
                inserts,
                multiset,
                ..
            } in tables
            {
                deletes
                    .iter()
                    .chain(updates)
                    .chain(inserts)
                    .for_each(&mut add);
                multiset.iter().for_each(|(row, _)| add(row));
            }
        }
        Step::Ordered(changes) => return changes.len() <= 1,
        Step::Truncate { .. } => {}
    }
    rows <= HELD_ROWS && bytes <= HELD_BYTES
}

fn no_batch() -> ConnectorError {
    ConnectorError::new(ErrorKind::Internal, "no transaction was begun")
}

pub(super) fn missing_table(table: &TableName) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Schema,
        format!("the replica has no table {table}"),
    )
    .table(table.to_string())
    .advice(
        "create it and have it copied again (`replctl resync`), or exclude it from this replica's \
         selection",
    )
}

/// The name of the lock a replica's session holds: at most 64 characters, the same for every
/// version of the daemon (FNV-1a), and not equal for two replicas.
fn lock_name(group: &str, replica: &str) -> String {
    let full = format!("{group}/{replica}");
    let hash = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let start: String = full
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/'))
        .take(28)
        .collect();
    format!("repl-daemon apply {start} {hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_fit_and_differ() {
        let long = |end: &str| lock_name(&"g".repeat(80), end);
        assert!(long("a").len() <= 64);
        assert_ne!(long("a"), long("b"));
        assert!(lock_name("ä", "r").is_ascii());
    }
}
