//! Servers and files, each of which can be the primary.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use repl_api::PromoteRequest;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;

use super::orders;
use super::probes::{Attempt, Probes, Write, missing, turns};
use super::rig::PATIENCE;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pg,
    Lite,
}

/// A node's database.
pub enum Place {
    Server(PgServer),
    File(SqliteDb),
}

/// The nodes, the first primary first, and the daemon between them, which is dropped first.
pub struct Mixed {
    pub daemon: Daemon,
    pub nodes: Vec<(&'static str, Place)>,
    pub scratch: Scratch,
}

impl Place {
    fn start(name: &str, kind: Kind, dir: &Path) -> Result<Place> {
        Ok(match kind {
            Kind::Lite => Place::File(SqliteDb::create(&dir.join(format!("{name}.db")))?),
            Kind::Pg => {
                let builder = PgServer::builder(name).durable(true);
                let builder = builder.setting("synchronous_commit", "remote_apply");
                Place::Server(builder.start()?)
            }
        })
    }

    fn url(&self) -> String {
        match self {
            Place::Server(server) => server.url(DATABASE, Role::Superuser),
            Place::File(file) => file.url(),
        }
    }

    /// Runs what both engines understand, or the words of one.
    pub fn execute(&self, sql: &str) -> Result<()> {
        match self {
            Place::Server(server) => server.execute(sql),
            Place::File(file) => file.execute(sql),
        }
    }

    pub fn query_i64(&self, sql: &str) -> Result<i64> {
        match self {
            Place::Server(server) => server.query_i64(sql),
            Place::File(file) => file.query_i64(sql),
        }
    }

    pub fn is_file(&self) -> bool {
        matches!(self, Place::File(_))
    }

    /// Tries to write to the table `probe`, again and again.
    fn attempt(&self, name: &str) -> Attempt {
        match self {
            Place::Server(server) => Attempt::server(name, &server.url(DATABASE, Role::Superuser)),
            Place::File(file) => Attempt::file(name, file),
        }
    }

    fn ids(&self, node: &str) -> Result<Vec<i64>> {
        let sql = format!("SELECT id FROM probe WHERE node = '{node}'");
        match self {
            Place::Server(server) => {
                let rows = server.query(&sql)?;
                rows.lines().map(|id| Ok(id.parse()?)).collect()
            }
            Place::File(file) => {
                let db = file.connect_read_only()?;
                let mut statement = db.prepare(&sql)?;
                let ids = statement.query_map([], |row| row.get(0))?;
                Ok(ids.collect::<Result<_, _>>()?)
            }
        }
    }
}

impl Mixed {
    /// Makes the nodes, runs `schema` at the first one, and starts the daemon.
    pub fn start(
        nodes: &[(&'static str, Kind)],
        schema: &str,
        adapt: impl FnOnce(DaemonConfig, &Scratch) -> DaemonConfig,
    ) -> Result<Mixed> {
        let scratch = Scratch::new()?;
        let place = |(name, kind): &(&'static str, Kind)| {
            Ok((*name, Place::start(name, *kind, &scratch.join(""))?))
        };
        let nodes: Vec<_> = nodes.iter().map(place).collect::<Result<_>>()?;
        let (first, others) = nodes.split_first().context("no node")?;
        first.1.execute(schema)?;
        let mut config = DaemonConfig::new("mixed", &scratch.join("log"))
            .set("log", "min_free_disk", "0B")
            .primary(first.0, &first.1.url());
        for (name, place) in others {
            config = config.replica(name, &place.url()).with("protect", true);
        }
        let mut daemon = Daemon::new(adapt(config, &scratch))?;
        daemon.ignore_log();
        let mut mixed = Mixed {
            daemon,
            nodes,
            scratch,
        };
        mixed.daemon.start()?;
        mixed.settle()?;
        Ok(mixed)
    }

    pub fn place(&self, name: &str) -> Result<&Place> {
        let found = self.nodes.iter().find(|(node, _)| *node == name);
        Ok(&found.context("no such node")?.1)
    }

    pub fn server_mut(&mut self, name: &str) -> Result<&mut PgServer> {
        let found = self.nodes.iter_mut().find(|(node, _)| *node == name);
        match &mut found.context("no such node")?.1 {
            Place::Server(server) => Ok(server),
            Place::File(_) => bail!("{name} is no server"),
        }
    }

    /// Moves the file of a node away, or back.
    pub fn hide(&self, name: &str, away: bool) -> Result<()> {
        let aside = self.scratch.join("away");
        std::fs::create_dir_all(&aside)?;
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{name}.db{suffix}");
            let (here, there) = (self.scratch.join(&file), aside.join(&file));
            let (from, to) = if away { (here, there) } else { (there, here) };
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Commits wait as the mode says.
    pub fn wait_in_force(&self) -> Result<()> {
        super::modes::wait_in_force_by(&self.daemon)
    }

    pub fn primary(&self) -> Result<String> {
        Ok(self.daemon.status()?.primary.name)
    }

    /// Everybody follows, and refuses writes who is not the primary.
    pub fn settle(&self) -> Result<()> {
        orders::wait_streaming(&self.daemon)?;
        let primary = self.primary()?;
        for (name, place) in self.nodes.iter().filter(|(name, _)| *name != primary) {
            // Protected: the guard has come round.
            let write = "BEGIN; INSERT INTO probe (id, node) VALUES (-1, 'stray'); ROLLBACK";
            wait_until(&format!("{name} to refuse writes"), PATIENCE, || {
                let refused = place.execute(write).err().map(|error| format!("{error:#}"));
                Ok(refused.is_some_and(|why| {
                    why.contains("not the primary") || why.contains("read-only")
                }))
            })?;
        }
        Ok(())
    }

    /// Makes `name` the primary.
    pub fn promote(&self, name: &str) -> Result<()> {
        let ended = orders::promote(&self.daemon, name)?;
        ensure!(ended.state == repl_api::PromotionState::Done, "{ended:#?}");
        Ok(())
    }

    /// Has the daemon die as `failpoints` say while it makes `next` the primary, and starts it again.
    pub fn die_at(&mut self, failpoints: &str, next: &str, probes: &Probes) -> Result<()> {
        let before = self.primary()?;
        self.daemon.terminate()?;
        self.daemon.set_failpoints(failpoints);
        self.daemon.start()?;
        self.settle()?;
        probes.wait_write(&before, PATIENCE)?;
        let request = PromoteRequest {
            replica: next.to_owned(),
            ..PromoteRequest::default()
        };
        // The answer may be lost with the daemon.
        let _ = self
            .daemon
            .call(|client| async move { client.promote(&request).await });
        let killed = self.daemon.wait_killed(PATIENCE);
        killed.with_context(|| format!("{failpoints} was not reached"))?;
        self.daemon.set_failpoints("");
        self.daemon.start()?;
        self.settle()
            .with_context(|| format!("after {failpoints}"))?;
        let after = self.primary()?;
        println!("{failpoints}: {before} → {next}: {after} is the primary");
        ensure!(
            after == before || after == next,
            "{after} after {failpoints}"
        );
        probes.wait_write(&after, PATIENCE)
    }

    pub fn probes(&self, interval: Option<Duration>) -> Probes {
        let attempts = self.nodes.iter().map(|(name, place)| place.attempt(name));
        Probes::of(attempts.collect(), interval)
    }

    /// Ends the writers: no two nodes took writes at the same time, and all nodes are equal and hold
    /// every write that was confirmed. Returns who took writes, in turn.
    pub fn check_all(&self, probes: Probes) -> Result<Vec<String>> {
        let writes = probes.stop()?;
        let turns = turns(&writes)?;
        self.check_equal()?;
        self.check_rows(&writes)?;
        Ok(turns)
    }

    pub fn check_rows(&self, writes: &[Write]) -> Result<()> {
        for (name, place) in &self.nodes {
            for (node, _) in &self.nodes {
                let lost = missing(writes, node, &place.ids(node)?);
                ensure!(lost.is_empty(), "{name} lacks writes of {node}: {lost:?}");
            }
        }
        Ok(())
    }

    /// All nodes hold the same, value by value.
    pub fn check_equal(&self) -> Result<()> {
        self.caught_up()?;
        orders::check_equal(&self.daemon)
    }

    /// What the primary has committed has arrived everywhere.
    pub fn caught_up(&self) -> Result<()> {
        let primary = self.primary()?;
        match self.place(&primary)? {
            Place::Server(server) => self.daemon.wait_caught_up(server, PATIENCE),
            Place::File(file) => {
                let last = file.query_i64("SELECT max(id) FROM _repl_changes")?;
                let logged = |status: &repl_api::Status| {
                    let acked = status.primary.acked_position.as_ref()?;
                    let id = acked.split('-').next()?;
                    (id.parse::<i64>().ok()? >= last).then_some(())
                };
                self.daemon
                    .wait_status("the log to have it", PATIENCE, logged)?;
                self.daemon.wait_drained(PATIENCE)
            }
        }
    }
}
