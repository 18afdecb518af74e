//! What a former primary committed and told nobody of is given up without an order, and nothing else is.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use repl_api::{ModeState, PromoteRequest};
use repl_tests::wait::wait_until;

use super::failover::{automatic, wait_failover};
use super::modes::wait_in_force;
use super::rig::{PATIENCE, Rig};

/// The daemon is cut off from the primary, where a client commits `name`; `meanwhile` is done while its
/// commit waits. Then another has its place, and the way is open again. Whether the client was told that
/// it had committed.
fn strayed(rig: &Rig, name: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<bool> {
    wait_in_force(rig)?;
    rig.wait_promised()?;
    rig.cut_off(true)?;
    let main = rig.server("main");
    thread::scope(|scope| {
        let insert = format!("INSERT INTO public.item (name) VALUES ('{name}')");
        let client = scope.spawn(move || main.execute(&insert));
        let done = wait_until("the commit to wait", PATIENCE, || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            Ok(main.query_i64(waiting)? == 1)
        })
        .and_then(|()| meanwhile())
        .and_then(|()| wait_failover(rig, "main"));
        // The fence ends its session, if nothing has before.
        rig.cut_off(false)?;
        done?;
        let told = client.join().map_err(|_| anyhow!("the client panicked"))?;
        Ok(told.is_ok())
    })
}

fn holds(rig: &Rig, name: &str) -> Result<bool> {
    let sql = format!("SELECT count(*) FROM public.item WHERE name = '{name}'");
    Ok(rig.server("main").query_i64(&sql)? == 1)
}

fn ledgers(rig: &Rig) -> Result<String> {
    let all = rig
        .daemon
        .call(|client| async move { client.ledgers().await })?;
    let mut text = String::new();
    for ledger in &all.ledgers {
        let shown = rig.daemon.replctl(&["ledger", "show", &ledger.id])?;
        text.push_str(&String::from_utf8_lossy(&shown.stdout));
    }
    Ok(text)
}

/// The first primary is it again, and by its own settings no commit waits there.
fn where_commits_do_not_wait_nothing_is_promised(rig: &Rig) -> Result<()> {
    let main = rig.server("main");
    main.execute("BEGIN READ WRITE; ALTER ROLE ALL SET synchronous_commit = off; COMMIT")?;
    rig.promote("main")?;
    let request = PromoteRequest {
        force: true,
        ..PromoteRequest::default()
    };
    let checked = rig
        .daemon
        .call(|client| async move { client.check_promotion(&request).await })?;
    let nothing = checked.may_lose.is_some_and(|loss| loss.nothing);
    ensure!(!nothing, "it is said that nothing can be lost");
    rig.daemon
        .wait_status("the commits to be named", PATIENCE, |status| {
            let told = status.attention();
            let named = told.iter().any(|what| what.contains("all roles"));
            let commits = status.commits.as_ref()?;
            (named && commits.state == ModeState::Enabling).then_some(())
        })?;
    main.execute("ALTER ROLE ALL RESET synchronous_commit")?;
    rig.wait_streaming()
}

#[test]
fn what_was_told_to_nobody_is_written_down_and_the_node_follows_by_itself() -> Result<()> {
    let rig =
        Rig::start_apart(|config| automatic(config.set("replication", "mode", "sync"), "commits"))?;
    let told = strayed(&rig, "told to nobody", || Ok(()))?;
    ensure!(!told, "a commit was acknowledged that nobody has");
    wait_until("main to be offered to readers", PATIENCE, || {
        let offered = rig.role_check("/replica?node=main")?.0 == 200;
        ensure!(
            !offered || !holds(&rig, "told to nobody")?,
            "readers are sent to what nobody was told of"
        );
        Ok(offered)
    })?;
    rig.wait_streaming()?;
    rig.check_equal()?;
    ensure!(ledgers(&rig)?.contains("told to nobody"), "it is nowhere");
    let audit = rig.daemon.config().log_dir().join("audit.jsonl");
    let audit = std::fs::read_to_string(audit)?;
    ensure!(
        audit.contains("replica.rejoin") && audit.contains("acknowledged to nobody"),
        "{audit}"
    );
    ensure!(rig.daemon.log_contains("acknowledged to nobody")?);
    where_commits_do_not_wait_nothing_is_promised(&rig)?;
    // Let go by hand while the daemon was cut off, it was told to its client.
    let told = strayed(&rig, "told after all", || {
        let main = rig.server("main");
        main.execute("ALTER SYSTEM SET synchronous_standby_names = ''")?;
        main.execute("SELECT pg_reload_conf()")?;
        wait_until("the commit to return", PATIENCE, || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            Ok(main.query_i64(waiting)? == 0)
        })
    })?;
    ensure!(told, "the commit did not return");
    rig.wait_held("main")?;
    ensure!(rig.role_check("/replica?node=main")?.0 == 503);
    ensure!(holds(&rig, "told after all")?, "it was given up");
    ensure!(rig.wait_joined()?, "nobody was told to join");
    rig.check_equal()?;
    ensure!(ledgers(&rig)?.contains("told after all"), "it is nowhere");
    Ok(())
}
