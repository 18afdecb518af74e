//! One session to a replica: how it is prepared, and the course of a target transaction.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::{Route, Step};
use repl_core::checkpoint::Checkpoint;
use repl_core::schema::{SchemaId, TableName};

use super::meddling::Watch;
use super::metadata::{Catalog, Target};
use super::queue::{Label, Labels};
use super::text::Arrays;
use super::unique::Touched;
use super::{PgApplierConfig, failpoint};
use crate::postgres::settings;
use crate::postgres::wire::PgClient;
use crate::seam::{Commit, ConnectorError, ReplicaState, Result, Style};

/// Oldest server supported, by its major version.
const OLDEST_SERVER: u32 = 14;
/// Longest name the server keeps of a session, bytes.
const NAME_BYTES: usize = 63;

/// What the settings of every session leave to this one: by its name the daemon is known to its own
/// fences, and commits are durable unless one says otherwise for itself, while a stronger
/// `synchronous_commit` of the role or database is kept.
const OWN: &str = "SET repl.applier = on; \
    SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
    WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

const IN_RECOVERY: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Ends sessions of ours that survived a broken connection: they may hold locks. One that cannot be
/// ended does no harm, since its commit would fail on the checkpoint.
const END_LEFTOVERS: &str = "SELECT pg_catalog.pg_terminate_backend(pid, 5000) \
    FROM pg_catalog.pg_stat_activity \
    WHERE application_name = pg_catalog.current_setting('application_name') \
    AND datid = (SELECT oid FROM pg_catalog.pg_database \
    WHERE datname = pg_catalog.current_database()) \
    AND usesysid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
    AND pid <> pg_catalog.pg_backend_pid()";

/// Whether the server counts the rows that a transaction put into a table.
const TRACK_COUNTS: &str = "SELECT pg_catalog.current_setting('track_counts')";

/// Turns off foreign keys and ordinary triggers: their effects arrive from the source.
const REPLICA_ROLE: &str = "SET session_replication_role = replica";

pub(super) struct Session {
    pub(super) client: PgClient,
    pub(super) config: PgApplierConfig,
    pub(super) labels: Labels,
    pub(super) arrays: Arrays,
    targets: HashMap<(SchemaId, TableName), Arc<Target>>,
    pub(super) watch: Watch,
    pub(super) batch: Option<Batch>,
    /// The server counts rows: those of a COPY can be verified.
    pub(super) counts_rows: bool,
    /// The Syncs that end the transactions submitted and not settled, oldest first.
    submitted: VecDeque<u64>,
}

/// The target transaction being made.
pub(super) struct Batch {
    /// The checkpoint it starts from.
    pub(super) expected: Checkpoint,
    /// Tables whose deferrable constraints must be verified at the end.
    pub(super) touched: Touched,
    /// The end was known at the start: the checkpoint is moved, and Sync commits.
    whole: bool,
}

impl Session {
    /// Connects and prepares.
    pub(super) async fn open(config: &PgApplierConfig) -> Result<(Session, ReplicaState)> {
        let mut target = config.target.clone();
        target.application_name = session_name(&config.group, &config.replica);
        let client = PgClient::connect(&target, &[]).await?;
        let mut session = Session {
            client,
            config: config.clone(),
            labels: Labels::default(),
            arrays: Arrays::default(),
            targets: HashMap::new(),
            watch: Watch::default(),
            batch: None,
            counts_rows: false,
            submitted: VecDeque::new(),
        };
        session.check_server()?;
        session.prepare().await?;
        session.create_store().await?;
        let state = session.read_state().await?;
        Ok((session, state))
    }

    fn check_server(&self) -> Result<()> {
        let server = self.client.server();
        if self.client.major_version() < OLDEST_SERVER {
            let version = self.client.parameter("server_version").unwrap_or_default();
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!("{server}: PostgreSQL {version} is too old for a replica"),
            )
            .advice("use PostgreSQL 14 or later"));
        }
        let encoding = self.client.parameter("server_encoding").unwrap_or_default();
        if encoding != "UTF8" {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!("{server}: the database's encoding is {encoding}, not UTF8"),
            )
            .advice("create the replica's database with ENCODING 'UTF8' TEMPLATE template0"));
        }
        Ok(())
    }

    async fn prepare(&mut self) -> Result<()> {
        settings::pin(&mut self.client, settings::Session::Applier).await?;
        let texts = [OWN, IN_RECOVERY, END_LEFTOVERS, REPLICA_ROLE, TRACK_COUNTS];
        let [own, in_recovery, leftovers, role, counts] = self.client.simple_all(texts).await?;
        own?;
        self.counts_rows = super::store::text(&counts?, 0, 0) == "on";
        if super::store::text(&in_recovery?, 0, 0) == "t" {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "{}: the server is a physical standby and accepts no writes",
                    self.client.server()
                ),
            )
            .advice("point this node at a server that is not in recovery"));
        }
        leftovers?;
        role.map(drop).map_err(|error| self.explain_role(error))
    }

    fn explain_role(&self, mut error: ConnectorError) -> ConnectorError {
        if error.kind == ErrorKind::Privilege {
            let role = repl_core::schema::quote_identifier(&self.config.target.user);
            error.advice = format!(
                "as a superuser of the replica: GRANT SET ON PARAMETER session_replication_role \
                 TO {role} (PostgreSQL 15 or later); on PostgreSQL 14 the role must be a superuser"
            );
        }
        error
    }

    /// The replica's side of a route, read from the catalog at its first use.
    pub(super) async fn target(&mut self, route: &Arc<Route>) -> Result<Arc<Target>> {
        let key = (route.schema.id, route.target.clone());
        if let Some(target) = self.targets.get(&key) {
            return Ok(Arc::clone(target));
        }
        let catalog = match Catalog::read(&mut self.client, &route.target).await {
            Ok(catalog) => catalog,
            Err(error) => return Err(self.explain(error)),
        };
        let catalog = catalog.ok_or_else(|| missing_table(&route.target))?;
        self.know_target(route, catalog)
    }

    /// Keeps what the catalog says of a route's table.
    pub(super) fn know_target(
        &mut self,
        route: &Arc<Route>,
        catalog: Catalog,
    ) -> Result<Arc<Target>> {
        let key = (route.schema.id, route.target.clone());
        let target = Arc::new(Target::new(route, catalog)?);
        self.targets.insert(key, Arc::clone(&target));
        Ok(target)
    }

    /// The tables that this session knows to write to.
    pub(super) fn target_oids(&self) -> Vec<String> {
        let oids: BTreeSet<&String> = self.targets.values().map(|target| &target.oid).collect();
        oids.into_iter().cloned().collect()
    }

    /// Forgets what the catalog said of a table.
    pub(super) fn forget_target(&mut self, table: &TableName) {
        self.targets.retain(|(_, target), _| target != table);
    }

    /// Forgets what the catalog said of all tables.
    pub(super) fn forget_targets(&mut self) {
        self.targets.clear();
    }

    pub(super) fn begin(&mut self, expected: &Checkpoint) -> Result<()> {
        self.start(expected)?;
        self.push("BEGIN", &[], Label::Other)?;
        self.lock_checkpoint(expected)?;
        failpoint("pg.apply.after_cas")
    }

    /// [`Session::begin`] when the end is known: a whole pipeline.
    pub(super) fn begin_whole(
        &mut self,
        expected: &Checkpoint,
        next: &Checkpoint,
        commit: Commit,
    ) -> Result<()> {
        if outside_transaction() {
            return self.begin(expected);
        }
        self.start(expected)?.whole = true;
        self.client.begin_whole();
        self.move_checkpoint(expected, next, commit)?;
        failpoint("pg.apply.after_cas")
    }

    fn start(&mut self, expected: &Checkpoint) -> Result<&mut Batch> {
        failpoint("pg.apply.before_begin")?;
        Ok(self.batch.insert(Batch {
            expected: expected.clone(),
            touched: Touched::default(),
            whole: false,
        }))
    }

    pub(super) async fn apply(&mut self, step: &Step, style: Style) -> Result<()> {
        match step {
            Step::Net(tables) => {
                for table in tables {
                    let target = self.target(&table.route).await?;
                    if table.settling {
                        self.settle_rows(&target, table, style).await?;
                        continue;
                    }
                    self.touch(&target, table);
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

    pub(super) async fn submit(
        &mut self,
        next: &Checkpoint,
        joined: &[TableName],
        commit: Commit,
    ) -> Result<()> {
        let batch = self.batch.take().ok_or_else(|| {
            ConnectorError::new(ErrorKind::Internal, "submit without a transaction")
        })?;
        self.verify_constraints(&batch.touched).await?;
        self.watch_meddling()?;
        let outside = outside_transaction();
        if !outside && !batch.whole {
            self.move_checkpoint(&batch.expected, next, commit)?;
        }
        self.join_tables(joined)?;
        failpoint("pg.apply.before_commit")?;
        if !batch.whole {
            self.push("COMMIT", &[], Label::Other)?;
        }
        let mut end = self.client.queue_sync();
        self.write_now().await?;
        failpoint("pg.apply.commit_sent")?;
        if outside {
            self.await_sync(end).await?;
            failpoint("pg.apply.outside")?;
            self.move_checkpoint(&batch.expected, next, commit)?;
            end = self.client.queue_sync();
            self.write_now().await?;
        }
        self.submitted.push_back(end);
        Ok(())
    }

    /// Waits for the oldest transaction submitted. Safe to cancel.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let Some(&end) = self.submitted.front() else {
            return Ok(());
        };
        self.await_sync(end).await?;
        self.submitted.pop_front();
        failpoint("pg.apply.after_commit")
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

/// The deliberately broken build moves the checkpoint after the commit.
fn outside_transaction() -> bool {
    repl_core::failpoint::sabotage("checkpoint-outside-transaction")
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

/// The session's name. One too long for the server ends in a hash of the whole, so that two
/// replicas never end each other's sessions.
fn session_name(group: &str, replica: &str) -> String {
    let full = format!("repl-daemon apply {group}/{replica}");
    // The server replaces other bytes of a name by question marks.
    let plain = full.bytes().all(|byte| (32..127).contains(&byte));
    if full.len() <= NAME_BYTES && plain {
        return full;
    }
    // FNV-1a: the name must be the same in every version of the daemon.
    let hash = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let start: String = full
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .take(NAME_BYTES - 17)
        .collect();
    format!("{start}~{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_fit_and_differ() {
        assert_eq!(session_name("g", "r"), "repl-daemon apply g/r");
        let long = |end: &str| session_name(&"g".repeat(80), end);
        assert!(long("a").len() <= NAME_BYTES);
        assert_ne!(long("a"), long("b"));
        assert!(session_name("ä", "r").is_ascii());
    }
}
