//! What reaches the daemon as a process: signals, and a reader of its output that has gone.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use repl_api::Membership;
use repl_tests::daemon::{Daemon, DaemonConfig, binaries};
use repl_tests::process::{self, kill_tree, spawn_tied, tied_command};
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::wait::wait_until;
use rustix::process::Signal;

use super::group::{Group, PATIENCE};

const SEED: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'one');";

#[test]
fn signals_that_are_not_meant_to_end_it_do_not() -> Result<()> {
    let group = Group::start(|primary| primary.execute(SEED))?;
    group.equal()?;
    for (name, signal) in [
        ("SIGHUP", Signal::HUP),
        ("SIGUSR1", Signal::USR1),
        ("SIGUSR2", Signal::USR2),
        ("SIGPIPE", Signal::PIPE),
    ] {
        let told = format!("\"signal\":\"{name}\"");
        for _ in 0..3 {
            process::signal(group.daemon.pid()?, signal)?;
        }
        if signal != Signal::PIPE {
            wait_until(name, PATIENCE, || group.daemon.log_contains(&told))?;
        }
        let log = std::fs::read_to_string(group.daemon.log_file())?;
        ensure!(
            log.matches(&told).count() <= 1,
            "{name} is told once:\n{log}"
        );
    }
    group.primary.execute("INSERT INTO t VALUES (2, 'two')")?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn a_log_that_nobody_reads_does_not_end_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    primary.execute(SEED)?;
    let replica = SqliteDb::at(&scratch.join("replica.db"));
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .set("logging", "level", "debug")
        .primary("main", &primary.url())
        .replica("r", &replica.url());
    let daemon = Daemon::new(config)?;
    let mut command = tied_command(&binaries::program("repl-daemon")?, "KILL", None);
    command.arg(daemon.config_file()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn_tied(command)?;
    // Whatever it writes from now on fails with EPIPE.
    drop((child.stdout.take(), child.stderr.take()));
    daemon.wait_replica("r", "to stream", PATIENCE, |replica| {
        replica.membership == Membership::Streaming
    })?;
    primary.execute("INSERT INTO t VALUES (2, 'two')")?;
    let ordered = daemon.replctl(&["pause", "r"])?;
    ensure!(ordered.status.success(), "{ordered:?}");
    ensure!(daemon.replctl(&["resume", "r"])?.status.success());
    daemon.wait_replica("r", "to follow", PATIENCE, |replica| {
        replica.membership == Membership::Streaming && replica.queue_transactions == 0
    })?;
    ensure!(child.try_wait()?.is_none(), "the daemon has ended");
    process::signal(child.id(), Signal::TERM)?;
    let ended = process::wait_exit(&mut child, "repl-daemon", PATIENCE);
    if ended.is_err() {
        kill_tree(&mut child)?;
    }
    let ended = ended.context("it does not stop")?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
