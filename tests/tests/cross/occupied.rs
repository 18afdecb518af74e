//! A second group is pointed at databases that hold rows already, its own or another group's: nothing is
//! written there, and nobody is told to remove what may be somebody's.

use anyhow::{Context, Result, ensure};
use repl_api::{Membership, Status};
use repl_tests::daemon::{Daemon, DaemonConfig, Toml};
use repl_tests::pg::{DATABASE, Role};
use repl_tests::scratch::Scratch;

use super::group::{Group, MARIADB, PATIENCE, PG, SQLITE, paused_by_error};

const ALL: [&str; 3] = [PG, MARIADB, SQLITE];

/// The same nodes under another group.
fn second(group: &Group, scratch: &Scratch, include: &str) -> Result<DaemonConfig> {
    let superuser = Role::Superuser;
    let pg = group.pg.as_ref().context("started")?;
    Ok(DaemonConfig::new("second", &scratch.join("log"))
        .set("log", "min_free_disk", "0B")
        .set("tables", "include", Toml::from(&[include][..]))
        .primary("main", &group.primary.url(DATABASE, superuser))
        .replica(PG, &pg.url(DATABASE, superuser))
        .replica(MARIADB, &group.mariadb.url(DATABASE))
        .replica(SQLITE, &group.sqlite.url()))
}

/// Every replica of the second group is paused, with `wanted` in message and advice, and the advice
/// offers no statement.
fn refused(daemon: &Daemon, wanted: &[&str]) -> Result<()> {
    for name in ALL {
        let error = paused_by_error(daemon, name)?;
        let said = format!("{} / {}", error.message, error.advice);
        for wanted in wanted {
            ensure!(
                said.contains(&wanted.replace("NAME", name)),
                "{wanted}: {said}"
            );
        }
        for statement in ["TRUNCATE", "DELETE FROM", "DROP TABLE"] {
            ensure!(!said.contains(statement), "{said}");
        }
    }
    Ok(())
}

#[test]
fn a_second_group_is_told_of_the_first_and_destroys_nothing() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 100) n;
             CREATE TABLE own (id int PRIMARY KEY, v int); INSERT INTO own VALUES (1, 1)",
        )
    })?;
    let config = group.daemon.config().clone();
    let exclude = Toml::from(&["public.own"][..]);
    group
        .daemon
        .set_config(config.set("tables", "exclude", exclude))?;
    group.daemon.start()?;
    group.caught_up()?;

    // Without a table that is selected nothing goes on, and that is said.
    let scratch = Scratch::new()?;
    let mut daemon = Daemon::new(second(&group, &scratch, "nothing.*")?)?;
    daemon.ignore_log();
    daemon.start()?;
    let idle = |status: &Status| {
        let streams = |one: &repl_api::ReplicaStatus| one.membership == Membership::Streaming;
        let said = status.alerts.iter().any(|alert| alert.contains("no table"));
        (status.replicas.iter().all(streams) && said).then_some(())
    };
    daemon.wait_status("nothing to be replicated", PATIENCE, idle)?;
    ensure!(daemon.replctl(&["status", "--check"])?.status.code() == Some(4));

    ensure!(daemon.terminate()?.success(), "the daemon failed");
    daemon.set_config(second(&group, &scratch, "public.t")?)?;
    daemon.start()?;
    refused(
        &daemon,
        &["already holds rows", "replication group cross feeds it"],
    )?;

    // Rows that nobody has copied.
    ensure!(daemon.terminate()?.success(), "the daemon failed");
    let made = "CREATE TABLE own (id int PRIMARY KEY, v int)";
    let row = "INSERT INTO own VALUES (7, 7)";
    for sql in [made, row] {
        group.pg.as_ref().context("started")?.execute(sql)?;
        group.mariadb.execute(sql)?;
        group.sqlite.execute(&sql.replace(" int", " INTEGER"))?;
    }
    daemon.set_config(second(&group, &scratch, "public.own")?)?;
    daemon.start()?;
    for name in ALL {
        // They are paused since before.
        daemon.call(|client| async move { client.retry(name).await })?;
    }
    let decide = "replctl resync NAME --tables public.own";
    refused(&daemon, &["already holds rows", "decide", decide])?;
    ensure!(group.mariadb.query_i64("SELECT id FROM own")? == 7);
    group.caught_up()?;
    group.same("public.t")
}
