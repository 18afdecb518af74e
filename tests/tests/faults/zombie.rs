//! An apply session that was cut off before its COMMIT and comes back to life later.

use std::time::Duration;

use anyhow::{Result, ensure};
use repl_tests::daemon::DaemonConfig;
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::proxy::Proxy;
use repl_tests::wait::wait_until;

use super::rig::{self, REPLICA, Rig};

/// A group whose daemon reaches its replica through a proxy.
struct Proxied {
    rig: Rig,
    proxy: Proxy,
}

impl Proxied {
    fn start() -> Result<Proxied> {
        let mut rig = Rig::prepare(false, |config| config)?;
        let proxy = Proxy::start(rig.replica.port())?;
        rig.replica
            .execute("CREATE ROLE successor SUPERUSER LOGIN PASSWORD 'successor'")?;
        let config = through(&rig, &proxy, "postgres");
        rig.daemon.set_config(config)?;
        rig.daemon.start()?;
        rig.settle()?;
        rig.install_audit()?;
        // The session has looked at the tables' catalogs: from here on it need not wait for answers
        // before its COMMIT.
        rig.write_some()?;
        rig.settle()?;
        Ok(Proxied { rig, proxy })
    }

    /// Writes transactions that the frozen session sends, COMMIT included, but nobody receives.
    fn send_into_the_void(&mut self) -> Result<()> {
        self.proxy.freeze_open();
        self.rig.write_some()?;
        let status = self.rig.daemon.status()?;
        let applied = status
            .replica(REPLICA)
            .map_or(0, |replica| replica.applied_seq);
        wait_until(
            "the log to hold more than the replica",
            rig::ARRIVAL,
            || Ok(self.rig.daemon.status()?.log.durable_seq >= applied + 15),
        )?;
        // Nothing can tell that the bytes have left; they need microseconds.
        std::thread::sleep(Duration::from_millis(300));
        self.rig.daemon.kill9()
    }
}

fn through(rig: &Rig, proxy: &Proxy, user: &str) -> DaemonConfig {
    let replica = match user {
        "postgres" => rig.replica.url_via(proxy.port(), DATABASE, Role::Superuser),
        user => format!(
            "postgresql://{user}:{user}@127.0.0.1:{}/{DATABASE}",
            proxy.port()
        ),
    };
    rig::config(&rig.scratch, &rig::url(&rig.primary)).replica(REPLICA, &replica)
}

fn sessions(replica: &PgServer) -> Result<i64> {
    replica.query_i64(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%repl%' \
         AND client_port IS NOT NULL AND backend_type = 'client backend' \
         AND application_name NOT IN ('psql', '')",
    )
}

#[test]
fn a_daemon_ends_the_session_it_left_behind() -> Result<()> {
    let mut proxied = Proxied::start()?;
    ensure!(
        sessions(&proxied.rig.replica)? >= 1,
        "the daemon's session is not recognised"
    );
    proxied.send_into_the_void()?;
    proxied.rig.daemon.start()?;
    proxied.rig.check()?;
    proxied.proxy.thaw();
    proxied.rig.write_some()?;
    proxied.rig.check()
}

#[test]
fn a_late_commit_of_a_session_that_could_not_be_ended_changes_nothing() -> Result<()> {
    let mut proxied = Proxied::start()?;
    proxied.send_into_the_void()?;
    // Under another account the new session does not find the old one, which stays alive.
    let config = through(&proxied.rig, &proxied.proxy, "successor");
    proxied.rig.daemon.set_config(config)?;
    proxied.rig.daemon.start()?;
    proxied.rig.check()?;
    let alive = sessions(&proxied.rig.replica)?;
    ensure!(
        alive == 2,
        "{alive} sessions: the old one must still be there"
    );
    proxied.proxy.thaw();
    wait_until("the late session to end", rig::ARRIVAL, || {
        Ok(sessions(&proxied.rig.replica)? == 1)
    })?;
    proxied.rig.check_state()?;
    proxied.rig.write_some()?;
    proxied.rig.check()
}

/// The old session holds the checkpoint's lock and commits while its successor waits for it.
#[test]
fn a_commit_while_the_successor_waits_counts_once() -> Result<()> {
    let mut proxied = Proxied::start()?;
    proxied.rig.daemon.kill9()?;
    proxied
        .rig
        .daemon
        .set_failpoints("pg.apply.before_commit=sleep(1500)@3");
    proxied.rig.daemon.start()?;
    proxied.rig.settle()?;
    let replica = &proxied.rig.replica;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                AND application_name LIKE '%repl%'";
    // One of the next batches sleeps before its COMMIT, with all statements executed.
    for _ in 0..3 {
        proxied.rig.write_some()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = wait_until(
        "a session to wait in its transaction",
        Duration::from_secs(1),
        || Ok(replica.query_i64(open)? == 1),
    );
    proxied.proxy.freeze_open();
    std::thread::sleep(Duration::from_millis(1700));
    proxied.rig.daemon.kill9()?;
    proxied.rig.daemon.set_failpoints("");
    let config = through(&proxied.rig, &proxied.proxy, "successor");
    proxied.rig.daemon.set_config(config)?;
    proxied.rig.daemon.start()?;
    proxied.rig.write_some()?;
    std::thread::sleep(Duration::from_millis(500));
    proxied.proxy.thaw();
    proxied.rig.check()
}
