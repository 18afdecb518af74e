//! Servers that are not there any more, or do not answer: told within half a minute, whether or not anything is
//! written, and left behind within seconds once they are back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::{Daemon, DaemonConfig};
use repl_tests::mariadb::MariaDb;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::proxy::Proxy;
use repl_tests::scratch::Scratch;

/// Within which it is told that a server does not answer.
const TOLD: Duration = Duration::from_secs(30);
/// Within which everything goes on after its return.
const RECOVERED: Duration = Duration::from_secs(15);

const PG: &str = "r-pg";
const MARIADB: &str = "r-mariadb";

/// A PostgreSQL primary, a replica of either engine, and a proxy before each.
struct Wired {
    daemon: Daemon,
    primary: PgServer,
    proxies: [Proxy; 3],
    _replicas: (PgServer, MariaDb),
    _scratch: Scratch,
}

impl Wired {
    /// All settings that bound anything are as they are when nobody sets them.
    fn start() -> Result<Wired> {
        let scratch = Scratch::new()?;
        let primary = PgServer::builder("primary").start()?;
        primary.execute("CREATE TABLE t (id int PRIMARY KEY)")?;
        let pg = PgServer::builder("replica").start()?;
        let mariadb = MariaDb::start_new("replica", &[])?;
        let url = mariadb.url(DATABASE);
        let port = url
            .rsplit(':')
            .next()
            .and_then(|rest| rest.split('/').next());
        let port: u16 = port.context("a port")?.parse()?;
        let proxies = [
            Proxy::start(primary.port())?,
            Proxy::start(pg.port())?,
            Proxy::start(port)?,
        ];
        let through = |server: &PgServer, proxy: &Proxy| {
            server.url_via(proxy.port(), DATABASE, Role::Superuser)
        };
        let config = DaemonConfig::new("silence", &scratch.join("log"))
            .primary("main", &through(&primary, &proxies[0]))
            .replica(PG, &through(&pg, &proxies[1]))
            .replica(
                MARIADB,
                &url.replace(&format!(":{port}/"), &format!(":{}/", proxies[2].port())),
            );
        let mut daemon = Daemon::new(config)?;
        daemon.ignore_log();
        daemon.start()?;
        let wired = Wired {
            daemon,
            primary,
            proxies,
            _replicas: (pg, mariadb),
            _scratch: scratch,
        };
        wired.goes_on(TOLD)?;
        Ok(wired)
    }

    /// Everything is told of as lost, from `since` on, in time.
    fn told(&self, since: Instant) -> Result<()> {
        let left = TOLD.saturating_sub(since.elapsed());
        for name in [PG, MARIADB] {
            self.daemon
                .wait_replica(name, "told of as silent", left, |replica| {
                    let error = replica.last_error.as_ref();
                    error.is_some_and(|error| error.message.contains("no answer"))
                        && replica.activity != repl_api::Activity::Idle
                })?;
        }
        self.daemon
            .wait_status("the primary to be told of", left, |status| {
                let error = status.primary.last_error.as_ref()?;
                (status.primary.state != repl_api::PrimaryState::Streaming
                    && !error.message.is_empty())
                .then_some(())
            })
    }

    fn goes_on(&self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        self.primary
            .execute("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")?;
        self.daemon.wait_caught_up(&self.primary, limit)?;
        for name in [PG, MARIADB] {
            self.daemon
                .wait_replica(name, "to stream", limit, |replica| {
                    replica.membership == Membership::Streaming
                })?;
        }
        ensure!(begun.elapsed() < limit, "took {:?}", begun.elapsed());
        Ok(())
    }
}

#[test]
fn servers_that_do_not_answer_are_told_of_and_taken_back() -> Result<()> {
    let wired = Wired::start()?;

    // Nothing is written: whoever looks at the status must not be told that all is well.
    let since = Instant::now();
    for proxy in &wired.proxies {
        proxy.blackhole(true);
    }
    wired.told(since)?;
    for proxy in &wired.proxies {
        proxy.blackhole(false);
    }
    wired.goes_on(RECOVERED)?;

    // The connections that are open pass nothing any more, new ones do, and there is something to write.
    let before: Vec<u64> = wired.proxies.iter().map(Proxy::accepted).collect();
    for proxy in &wired.proxies[1..] {
        proxy.freeze_open();
    }
    wired.goes_on(TOLD)?;
    for (proxy, before) in wired.proxies.iter().zip(before).skip(1) {
        ensure!(proxy.accepted() > before, "a dead connection was kept");
    }
    wired.daemon.finish()
}

/// What takes long at a server that is there is waited for.
#[test]
fn a_long_statement_is_waited_for() -> Result<()> {
    let wired = Wired::start()?;
    let (pg, mariadb) = &wired._replicas;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_sleep(20); RETURN NULL; END$$;
        CREATE TRIGGER slow AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow();
        ALTER TABLE t ENABLE ALWAYS TRIGGER slow";
    pg.execute(slow)?;
    mariadb.execute(
        "CREATE TRIGGER slow AFTER INSERT ON t FOR EACH ROW DO IF(@repl_daemon_apply = 1, SLEEP(20), 0)",
    )?;
    let [pg_sessions, mariadb_sessions] =
        [&wired.proxies[1], &wired.proxies[2]].map(Proxy::accepted);
    wired.primary.execute("INSERT INTO t VALUES (1000)")?;
    wired
        .daemon
        .wait_caught_up(&wired.primary, Duration::from_secs(60))?;
    for name in [PG, MARIADB] {
        let replica = wired
            .daemon
            .status()?
            .replica(name)
            .cloned()
            .context("the replica")?;
        ensure!(replica.last_error.is_none(), "{replica:?}");
    }
    // Looks are connections of their own.
    ensure!(wired.proxies[1].accepted() > pg_sessions, "nobody looked");
    ensure!(
        wired.proxies[2].accepted() > mariadb_sessions,
        "nobody looked"
    );
    pg.execute("DROP TRIGGER slow ON t")?;
    mariadb.execute("DROP TRIGGER slow")?;
    wired.daemon.finish()
}
