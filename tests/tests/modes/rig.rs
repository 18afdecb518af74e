//! A PostgreSQL primary whose commits wait, a replica of each engine, clients with histories.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::{Membership, ModeRequest, ModeState, ModeStatus};
use repl_tests::daemon::{Daemon, DaemonConfig, Toml};
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;
use repl_tests::workload::history::{Clients, History, Outcome, RowId, TABLE};

/// How long everything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough that a commit which does not wait would have returned.
pub const A_WHILE: Duration = Duration::from_millis(1500);

pub const PG: &str = "r-pg";
pub const MARIADB: &str = "r-mariadb";
pub const SQLITE: &str = "r-sqlite";

/// The servers and the daemon between them, which is dropped first.
pub struct Rig {
    pub daemon: Daemon,
    pub primary: PgServer,
    pub pg: PgServer,
    pub mariadb: Option<MariaDb>,
    pub sqlite: Option<SqliteDb>,
    pub scratch: Scratch,
}

/// `[replication]` of a test.
pub fn mode(config: DaemonConfig, mode: &str) -> DaemonConfig {
    config
        .set("replication", "mode", mode)
        .set("replication", "timeout", "2s")
}

impl Rig {
    /// With replicas of all three engines, or PostgreSQL's alone; the mode is in force.
    pub fn start(all: bool, adapt: impl FnOnce(DaemonConfig) -> DaemonConfig) -> Result<Rig> {
        let mut rig = Rig::prepare(all, adapt)?;
        rig.daemon.start()?;
        rig.wait_in_force()?;
        Ok(rig)
    }

    /// [`Rig::start`] with the daemon not running yet.
    pub fn prepare(all: bool, adapt: impl FnOnce(DaemonConfig) -> DaemonConfig) -> Result<Rig> {
        Rig::prepare_as(Role::Superuser, all, adapt)
    }

    /// [`Rig::prepare`] with another account at the primary.
    pub fn prepare_as(
        role: Role,
        all: bool,
        adapt: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Rig> {
        Rig::build(role, all, "on", adapt)
    }

    /// [`Rig::start`] where sessions of the primary commit with this `synchronous_commit`, not with the
    /// server's default.
    pub fn start_with(
        synchronous_commit: &str,
        all: bool,
        adapt: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Rig> {
        let mut rig = Rig::build(Role::Superuser, all, synchronous_commit, adapt)?;
        rig.daemon.start()?;
        rig.wait_in_force()?;
        Ok(rig)
    }

    fn build(
        role: Role,
        all: bool,
        synchronous_commit: &str,
        adapt: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Rig> {
        let scratch = Scratch::new()?;
        let primary = PgServer::builder("primary")
            .durable(true)
            .setting("synchronous_commit", synchronous_commit)
            .start()?;
        primary.execute(&format!(
            "CREATE TABLE {TABLE} (client bigint, n bigint, PRIMARY KEY (client, n));
             CREATE TABLE public.unpublished (id bigserial PRIMARY KEY);"
        ))?;
        let pg = PgServer::builder("replica").durable(true).start()?;
        let url = |server: &PgServer| server.url(DATABASE, Role::Superuser);
        let mut config = DaemonConfig::new("modes", &scratch.join("log"))
            .set("log", "min_free_disk", "0B")
            .set("tables", "exclude", Toml::from(&["public.unpublished"][..]))
            .primary("main", &primary.url(DATABASE, role))
            .replica(PG, &url(&pg));
        let (mut mariadb, mut sqlite) = (None, None);
        if all {
            let server = MariaDb::start_new("replica", &[])?;
            let file = SqliteDb::at(&scratch.join("replica.db"));
            config = config
                .replica(MARIADB, &server.url(DATABASE))
                .replica(SQLITE, &file.url());
            (mariadb, sqlite) = (Some(server), Some(file));
        }
        let mut daemon = Daemon::new(adapt(config))?;
        // Outages are what these tests are made of; each asserts what must be reported.
        daemon.ignore_log();
        Ok(Rig {
            daemon,
            primary,
            pg,
            mariadb,
            sqlite,
            scratch,
        })
    }

    pub fn commits(&self) -> Result<ModeStatus> {
        self.daemon.status()?.commits.context("no mode in status")
    }

    pub fn wait_state(&self, state: ModeState) -> Result<()> {
        let what = format!("the mode to be {state}");
        self.daemon.wait_status(&what, PATIENCE, |status| {
            let commits = status.commits.as_ref()?;
            (commits.state == state).then_some(())
        })
    }

    /// The mode is in force and every replica counts.
    pub fn wait_in_force(&self) -> Result<()> {
        self.daemon
            .wait_status("the mode to be in force", PATIENCE, |status| {
                let commits = status.commits.as_ref()?;
                let all = commits.members.iter().all(|member| member.counts);
                let streaming =
                    |one: &repl_api::ReplicaStatus| one.membership == Membership::Streaming;
                (commits.state == ModeState::InForce
                    && all
                    && status.replicas.iter().all(streaming))
                .then_some(())
            })
    }

    pub fn order(&self, request: ModeRequest) -> Result<()> {
        self.daemon
            .call(|client| async move { client.mode(&request).await })?;
        Ok(())
    }

    pub fn clients(&self, count: u64) -> Result<Clients> {
        Clients::start_on(&self.primary, count, &self.histories())
    }

    pub fn histories(&self) -> std::path::PathBuf {
        self.scratch.join("histories")
    }

    /// The rows whose COMMIT has returned so far.
    pub fn confirmed(&self) -> Result<BTreeSet<RowId>> {
        Ok(History::read(&self.histories())?
            .with(Outcome::Ok)
            .collect())
    }

    /// The rows of each replica, by its name.
    pub fn rows(&self) -> Result<Vec<(&'static str, BTreeSet<RowId>)>> {
        let select = |table: &str| format!("SELECT client || '|' || n FROM {table}");
        let mut all = vec![(PG, parse(&self.pg.query(&select(TABLE))?)?)];
        if let Some(server) = &self.mariadb {
            let text = server.query("SELECT concat(client, '|', n) FROM history")?;
            all.push((MARIADB, parse(&text)?));
        }
        if let Some(file) = &self.sqlite {
            let db = file.connect_read_only()?;
            let mut statement = db.prepare(&select("history"))?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let text = rows.collect::<Result<Vec<_>, _>>()?.join("\n");
            all.push((SQLITE, parse(&text)?));
        }
        Ok(all)
    }

    /// Every confirmed row is on at least `replicas` of them, and one of them has all.
    pub fn check_confirmed(&self, replicas: usize) -> Result<()> {
        check(&self.confirmed()?, &self.rows()?, replicas)
    }

    /// Waits until the clients have had `more` commits confirmed.
    pub fn wait_progress(&self, clients: &Clients, more: u64) -> Result<()> {
        let goal = clients.confirmed() + more;
        wait_until("commits to be confirmed", PATIENCE, || {
            Ok(clients.confirmed() >= goal)
        })
    }

    /// No commit returns for a while.
    pub fn expect_blocked(&self, clients: &Clients) -> Result<()> {
        // Those that had all they waited for may still be on their way.
        std::thread::sleep(Duration::from_millis(300));
        let before = clients.confirmed();
        std::thread::sleep(A_WHILE);
        let more = clients.confirmed() - before;
        ensure!(
            more == 0,
            "{more} commits returned although they had to wait"
        );
        Ok(())
    }

    /// Clients, replicas and primary agree in the end.
    pub fn check_end(&self, clients: Clients) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, PATIENCE)?;
        let history = clients.stop()?;
        self.daemon.wait_caught_up(&self.primary, PATIENCE)?;
        history.check(&self.primary)?;
        history.check(&self.pg)?;
        let rows = self.rows()?;
        for (name, found) in &rows {
            ensure!(*found == rows[0].1, "{name} differs from {PG} in the end");
        }
        println!("{} commits confirmed", history.count(Outcome::Ok));
        Ok(())
    }

    pub fn replctl(&self, arguments: &[&str]) -> Result<Output> {
        self.daemon.replctl(arguments)
    }
}

fn parse(text: &str) -> Result<BTreeSet<RowId>> {
    text.lines()
        .map(|line| {
            let (client, n) = line.split_once('|').context("a row without two columns")?;
            Ok((client.parse()?, n.parse()?))
        })
        .collect()
}

/// Every one of `confirmed` is on at least `replicas` of them, and the most advanced has all.
pub fn check(
    confirmed: &BTreeSet<RowId>,
    rows: &[(&'static str, BTreeSet<RowId>)],
    replicas: usize,
) -> Result<()> {
    for row in confirmed {
        let on = rows.iter().filter(|(_, rows)| rows.contains(row)).count();
        ensure!(
            on >= replicas,
            "{row:?} was confirmed, and is on {on} replicas instead of {replicas}"
        );
    }
    ensure!(
        rows.iter().any(|(_, rows)| confirmed.is_subset(rows)),
        "no replica has everything that was confirmed"
    );
    Ok(())
}
