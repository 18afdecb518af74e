//! One primary, one or more replicas, one daemon, and a load with invariants.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use repl_api::{Membership, PrimaryState, ReplicaStatus};
use repl_tests::content;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::pg::{DATABASE, PgBench, PgServer, Role};
use repl_tests::scratch::Scratch;
use repl_tests::workload::{bank, fixture, keyless};

/// How long everything may take to arrive on a loaded machine.
pub const ARRIVAL: Duration = Duration::from_secs(30);

/// The replica most tests have.
pub const REPLICA: &str = "r1";

/// Servers and the daemon between them. The daemon ends before its servers do.
pub struct Rig {
    pub daemon: Daemon,
    pub primary: PgServer,
    pub replica: PgServer,
    pub scratch: Scratch,
}

/// Ordinary settings of a group in these tests: small segments, so that the log rolls and is
/// trimmed, and short bounds on silence.
pub fn config(scratch: &Scratch, primary_url: &str) -> DaemonConfig {
    DaemonConfig::new("faults", &scratch.join("log"))
        .set("log", "segment_size", "1MiB")
        .set("log", "min_free_disk", "0B")
        .set("capture", "idle_timeout", "4s")
        .primary("main", primary_url)
}

/// The superuser's URL of a test server.
pub fn url(server: &PgServer) -> String {
    server.url(DATABASE, Role::Superuser)
}

impl Rig {
    /// A running group whose replica has been copied and audited.
    pub fn start() -> Result<Rig> {
        Rig::start_with(false, |config| config)
    }

    /// [`Rig::start`] with durable servers or another configuration.
    pub fn start_with(
        durable: bool,
        adapt: impl FnOnce(DaemonConfig) -> DaemonConfig,
    ) -> Result<Rig> {
        let mut rig = Rig::prepare(durable, adapt)?;
        rig.daemon.start()?;
        rig.settle()?;
        rig.install_audit()?;
        Ok(rig)
    }

    /// The servers with the workload's tables on the primary; the daemon is not running.
    pub fn prepare(durable: bool, adapt: impl FnOnce(DaemonConfig) -> DaemonConfig) -> Result<Rig> {
        let primary = PgServer::builder("primary").durable(durable).start()?;
        let replica = PgServer::builder("replica").durable(durable).start()?;
        create_tables(&primary)?;
        let scratch = Scratch::new()?;
        let config = config(&scratch, &url(&primary)).replica(REPLICA, &url(&replica));
        let mut daemon = Daemon::new(adapt(config))?;
        // Faults are what these tests are made of; each asserts what must be reported.
        daemon.ignore_log();
        Ok(Rig {
            daemon,
            primary,
            replica,
            scratch,
        })
    }

    /// Counts on the replica what is applied from now on, also by sessions in replica role.
    pub fn install_audit(&self) -> Result<()> {
        keyless::install_audit(&self.replica, "public.keyless_events")?;
        self.replica.execute(
            "CREATE TABLE repl_audit.before AS SELECT count(*) AS n FROM public.keyless_events",
        )
    }

    /// Ends the load, lets all of it arrive, then starts the audit at an exact point.
    pub fn install_audit_after_load(&self, load: PgBench) -> Result<()> {
        load.interrupt()?;
        self.settle()?;
        self.install_audit()?;
        self.write_some()
    }

    /// Waits until the replica has all that is committed on the primary.
    pub fn settle(&self) -> Result<()> {
        self.daemon.wait_caught_up(&self.primary, ARRIVAL)?;
        // The copy may still have open cuts, which a progress mark closes.
        self.daemon
            .wait_replica(REPLICA, "to stream", ARRIVAL, |r| {
                r.membership == Membership::Streaming
            })
            .map(drop)
    }

    /// Everything has arrived, equal, whole, in order and once.
    pub fn check(&self) -> Result<()> {
        self.settle()?;
        self.check_state()
    }

    /// [`Rig::check`] for a replica that is known to have caught up.
    pub fn check_state(&self) -> Result<()> {
        check_snapshot(&self.replica)?;
        content::assert_all_equal(
            &content::pg(&self.primary, DATABASE),
            &WithoutAudit(content::pg(&self.replica, DATABASE)),
        )?;
        self.check_exactly_once()
    }

    /// As many inserts were executed and committed on the replica as there are rows.
    pub fn check_exactly_once(&self) -> Result<()> {
        let executed = self.replica.query_i64(
            "SELECT (SELECT n FROM repl_audit.before) + (SELECT count(*) FROM repl_audit.seen \
             WHERE tbl = 'public.keyless_events' AND op = 'INSERT')",
        )?;
        let rows = self
            .primary
            .query_i64("SELECT count(*) FROM public.keyless_events")?;
        ensure!(
            executed == rows,
            "the replica executed {executed} inserts for the {rows} rows of the primary"
        );
        Ok(())
    }

    /// A few transactions of every kind, done when it returns.
    pub fn write_some(&self) -> Result<()> {
        write_some(&self.primary)
    }

    /// Waits for the replica to be marked as needing a new copy, and returns the reason shown.
    pub fn expect_needs_resync(&self) -> Result<String> {
        expect_needs_resync(&self.daemon, REPLICA)
    }

    /// `replctl resync`, and everything is equal again. The audit starts over: a copy replaces
    /// rows by other statements than the stream.
    pub fn resync(&self) -> Result<()> {
        resync(&self.daemon, REPLICA)?;
        self.settle()?;
        self.check_content()
    }

    /// Equal content, whole transactions; without the audit, which a new copy confuses.
    pub fn check_content(&self) -> Result<()> {
        check_snapshot(&self.replica)?;
        content::assert_all_equal(
            &content::pg(&self.primary, DATABASE),
            &WithoutAudit(content::pg(&self.replica, DATABASE)),
        )
    }
}

/// The tables of all workloads.
pub fn create_tables(primary: &PgServer) -> Result<()> {
    bank::create(primary)?;
    keyless::create(primary)?;
    primary.execute(
        "CREATE TABLE public.journal (n bigint PRIMARY KEY);
         CREATE TABLE public.bulk (id int PRIMARY KEY, payload text NOT NULL);
         CREATE TABLE public.pairs (id int PRIMARY KEY, u int NOT NULL UNIQUE);
         INSERT INTO public.pairs SELECT n, n FROM generate_series(1, 20) n;
         ALTER TABLE bank.ledger REPLICA IDENTITY FULL;
         ALTER TABLE public.keyless_events REPLICA IDENTITY FULL;",
    )?;
    write_some(primary)
}

/// A few transactions of every kind.
pub fn write_some(primary: &PgServer) -> Result<()> {
    let mut script = String::new();
    for _ in 0..5 {
        script += "BEGIN; UPDATE bank.a SET balance = balance - 7 WHERE id = 1; \
                   UPDATE bank.b SET balance = balance + 7 WHERE id = 2; \
                   INSERT INTO bank.ledger VALUES ('a', 'b', 7); COMMIT; \
                   WITH b AS (SELECT nextval('public.keyless_batches') AS id) \
                   INSERT INTO public.keyless_events SELECT id, n, 3, 'x' FROM b, generate_series(1, 3) n; \
                   INSERT INTO public.journal SELECT coalesce(max(n), 0) + 1 FROM public.journal;";
    }
    primary.execute(&script)
}

/// Starts a load of `rate` transactions a second with every invariant; `bulk` adds large rows
/// that make the log roll.
pub fn spawn_load(primary: &PgServer, rate: u32, bulk: bool) -> Result<PgBench> {
    let rate = format!("-R{rate}");
    let script = |name: &str, weight: u32| format!("{}@{weight}", fixture(name).display());
    let (transfer, round) = (script("bank_transfer.sql", 9), script("bank_round.sql", 1));
    let (events, large) = (
        script("keyless_insert.sql", 6),
        script("bulk_upsert.sql", 3),
    );
    let mut arguments = vec![
        "-n", "-c4", "-j2", "-T900", &rate, "-f", &transfer, "-f", &round, "-f", &events,
    ];
    if bulk {
        arguments.extend(["-f", &large]);
    }
    primary.spawn_pgbench(&arguments)
}

/// What must hold in every single state of a replica.
pub fn check_snapshot(replica: &PgServer) -> Result<()> {
    bank::check_snapshot(replica)?;
    keyless::check_snapshot(replica)?;
    check_order(replica)
}

/// Every state the replica ever committed held a prefix of the journal, which one client writes
/// in the order 1, 2, 3 …: after each of the replica's transactions (by `xmin`), as many rows as
/// the largest number.
pub fn check_order(replica: &PgServer) -> Result<()> {
    let gaps = replica.query_i64(
        "SELECT count(*) FROM (
           SELECT sum(rows) OVER w AS total, max(top) OVER w AS top
           FROM (SELECT xmin::text::bigint AS x, count(*) AS rows, max(n) AS top
                 FROM public.journal GROUP BY 1) g
           WINDOW w AS (ORDER BY x)) t
         WHERE total <> top",
    )?;
    ensure!(
        gaps == 0,
        "{}: {gaps} of its states were no prefix of the journal",
        replica.name()
    );
    Ok(())
}

/// `replctl resync`, until the replica streams again.
pub fn resync(daemon: &Daemon, replica: &str) -> Result<()> {
    let output = daemon.replctl(&["resync", replica, "--yes"])?;
    ensure!(output.status.success(), "replctl resync: {output:?}");
    daemon.wait_replica(replica, "to stream again", ARRIVAL, |one| {
        one.membership == Membership::Streaming
    })?;
    Ok(())
}

/// Waits for `needs-resync`, with the capture at work again, and returns the reason.
pub fn expect_needs_resync(daemon: &Daemon, replica: &str) -> Result<String> {
    daemon.wait_status(
        "the capture to stream and the replica to be marked",
        ARRIVAL,
        |status| {
            let marked = status.replica(replica)?.membership == Membership::NeedsResync;
            (marked && status.primary.state == PrimaryState::Streaming).then_some(())
        },
    )?;
    let status = daemon.wait_replica(replica, "to need a new copy", ARRIVAL, |r| {
        r.membership == Membership::NeedsResync
    })?;
    reason(daemon, &status)
}

/// Why a replica is where it is, as status shows it.
fn reason(daemon: &Daemon, replica: &ReplicaStatus) -> Result<String> {
    let alerts = daemon.status()?.alerts;
    let own = format!("replica {}: ", replica.name);
    alerts
        .iter()
        .find_map(|alert| alert.strip_prefix(&own))
        .map(str::to_owned)
        .with_context(|| format!("no alert names a reason: {alerts:?}, {replica:?}"))
}

/// A replica's content without the tests' own tables on it.
pub struct WithoutAudit<T>(pub T);

impl<T: content::Content> content::Content for WithoutAudit<T> {
    fn label(&self) -> String {
        self.0.label()
    }

    fn tables(&self) -> Result<Vec<String>> {
        let mut tables = self.0.tables()?;
        tables.retain(|table| !table.starts_with("repl_audit."));
        Ok(tables)
    }

    fn columns(&self, table: &str) -> Result<Vec<String>> {
        self.0.columns(table)
    }

    fn digest(&self, table: &str, columns: &[String]) -> Result<content::Digest> {
        self.0.digest(table, columns)
    }

    fn bucket_digests(
        &self,
        table: &str,
        columns: &[String],
    ) -> Result<std::collections::BTreeMap<usize, content::Digest>> {
        self.0.bucket_digests(table, columns)
    }

    fn bucket_rows(&self, table: &str, columns: &[String], bucket: usize) -> Result<Vec<String>> {
        self.0.bucket_rows(table, columns, bucket)
    }
}

/// Small random numbers; the seed is printed by tests that draw from it.
pub struct Random(u64);

impl Random {
    /// A generator seeded from the clock, or from `REPL_TEST_SEED` to repeat a run.
    pub fn from_environment() -> Random {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = std::env::var("REPL_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| clock.map_or(1, |since| since.as_nanos() as u64));
        println!("REPL_TEST_SEED={seed}");
        Random(seed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// How many cycles a random test makes: `usual`, or `full` when the long run is asked for.
pub fn cycles(usual: u32, full: u32) -> u32 {
    if std::env::var_os("REPL_TEST_FULL").is_some() {
        full
    } else {
        usual
    }
}
