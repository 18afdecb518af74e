//! One primary, three replicas of three engines, and the daemon between them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::{ErrorInfo, Membership};
use repl_tests::canon::{self, Column};
use repl_tests::daemon::{Daemon, DaemonConfig, Toml};
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

/// Bound of every wait that is expected to succeed; a loaded machine may need it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The replicas' names.
pub const PG: &str = "r-pg";
pub const MARIADB: &str = "r-mariadb";
pub const SQLITE: &str = "r-sqlite";

/// A PostgreSQL primary; a replica of each engine that a test asks for. The daemon is dropped first.
pub struct Group {
    pub daemon: Daemon,
    pub primary: PgServer,
    pub pg: Option<PgServer>,
    pub mariadb: MariaDb,
    pub sqlite: SqliteDb,
    _scratch: Scratch,
}

impl Group {
    /// Fills the primary by `seed` and starts the daemon with a MariaDB and a SQLite replica, and
    /// with a PostgreSQL one where `with_pg` says so. `schemas` are written besides `public`; in
    /// SQLite they are one with it.
    pub fn start(
        with_pg: bool,
        schemas: &[&str],
        seed: impl FnOnce(&PgServer) -> Result<()>,
    ) -> Result<Group> {
        let mut group = Group::prepare(with_pg, schemas, seed)?;
        group.daemon.start()?;
        Ok(group)
    }

    /// [`Group::start`] with the daemon not started yet.
    pub fn prepare(
        with_pg: bool,
        schemas: &[&str],
        seed: impl FnOnce(&PgServer) -> Result<()>,
    ) -> Result<Group> {
        let scratch = Scratch::new()?;
        let primary = PgServer::builder("primary").start()?;
        seed(&primary)?;
        let pg = match with_pg {
            true => Some(PgServer::builder("replica").start()?),
            false => None,
        };
        let mariadb = MariaDb::start_new("replica", schemas)?;
        let sqlite = SqliteDb::at(&scratch.join("replica.db"));
        let mut config = config(&scratch).primary("main", &primary.url(DATABASE, Role::Superuser));
        if let Some(pg) = &pg {
            config = config.replica(PG, &pg.url(DATABASE, Role::Superuser));
        }
        let renames: Vec<String> = schemas
            .iter()
            .map(|schema| format!("{{ from = \"{schema}.*\", to = \"main.*\" }}"))
            .collect();
        let config = config
            .replica(MARIADB, &mariadb.url(DATABASE))
            .replica(SQLITE, &sqlite.url())
            .with(
                "tables.rename",
                Toml::raw(&format!("[{}]", renames.join(", "))),
            );
        Ok(Group {
            daemon: Daemon::new(config)?,
            primary,
            pg,
            mariadb,
            sqlite,
            _scratch: scratch,
        })
    }

    /// Waits until everything committed now has arrived everywhere.
    pub fn caught_up(&self) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, PATIENCE)
    }

    /// Compares one table of the primary, `schema.table`, on all replicas.
    pub fn same(&self, table: &str) -> Result<()> {
        let columns = canon::pg_columns(&self.primary, &quoted(table)?)?;
        self.same_columns(table, &columns)
    }

    /// [`Group::same`] for tables whose columns the replicas have in part.
    pub fn same_columns(&self, table: &str, columns: &[Column]) -> Result<()> {
        if let Some(pg) = &self.pg {
            let name = quoted(table)?;
            let expected = canon::pg_rows(&self.primary, &name, columns)?;
            let found = canon::pg_rows(pg, &name, columns)?;
            canon::assert_same(&format!("{table} in PostgreSQL"), &expected, &found)?;
        }
        self.same_in_mariadb(table, columns)?;
        self.same_in_sqlite(table, columns)
    }

    /// Compares a table of the primary with MariaDB's.
    pub fn same_in_mariadb(&self, table: &str, columns: &[Column]) -> Result<()> {
        let target = match table.strip_prefix("public.") {
            Some(name) => format!("{DATABASE}.{name}"),
            None => table.to_owned(),
        };
        let own = canon::mariadb_columns(&self.mariadb, &target)?;
        let columns = canon::columns_at(&own, columns);
        canon::assert_same(
            &format!("{table} in MariaDB"),
            &canon::pg_rows(&self.primary, &quoted(table)?, &columns)?,
            &canon::mariadb_rows(&self.mariadb, &target, &columns)?,
        )
    }

    /// Compares a table of the primary with SQLite's.
    pub fn same_in_sqlite(&self, table: &str, columns: &[Column]) -> Result<()> {
        let (_, name) = table.split_once('.').context("schema.table")?;
        let declared = canon::sqlite_declared(&self.sqlite, name)?;
        let own: Vec<String> = declared.into_iter().map(|(name, _)| name).collect();
        let columns = canon::columns_at(&own, columns);
        canon::assert_same(
            &format!("{table} in SQLite"),
            &canon::pg_rows(&self.primary, &quoted(table)?, &columns)?,
            &canon::sqlite_rows(&self.sqlite, name, &columns)?,
        )
    }

    /// Compares all tables of these schemas.
    pub fn same_schemas(&self, schemas: &[&str]) -> Result<usize> {
        let list = schemas.join("', '");
        let tables = self.primary.query(&format!(
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n
             ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname IN ('{list}')"
        ))?;
        tables.lines().try_for_each(|table| self.same(table))?;
        Ok(tables.lines().count())
    }
}

/// Ordinary settings of these groups.
pub fn config(scratch: &Scratch) -> DaemonConfig {
    DaemonConfig::new("cross", &scratch.join("log"))
        .set("log", "segment_size", "1MiB")
        .set("log", "min_free_disk", "0B")
}

/// Waits until the replica is paused by an error, and returns it.
pub fn paused_by_error(daemon: &Daemon, name: &str) -> Result<ErrorInfo> {
    let status = daemon.wait_replica(name, "paused by an error", PATIENCE, |replica| {
        replica.membership == Membership::Paused && replica.last_error.is_some()
    })?;
    status.last_error.context("asked for above")
}

/// Runs replctl, which must succeed.
pub fn replctl(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    let output = daemon.replctl(arguments)?;
    ensure!(output.status.success(), "replctl {arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn quoted(table: &str) -> Result<String> {
    let (schema, name) = table.split_once('.').context("schema.table")?;
    Ok(format!("\"{schema}\".\"{name}\""))
}
