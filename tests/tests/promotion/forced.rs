//! A primary that is dead or cut off is replaced without being asked, and what becomes of it.

use anyhow::{Context, Result, ensure};
use repl_api::{ClientError, PromoteRequest};
use repl_tests::wait::wait_until;

use super::crashes::FORWARD;
use super::modes::wait_in_force;
use super::orders::held;
use super::probes::{Probes, turns};
use super::rig::{NODES, PATIENCE, Rig};

/// How many primaries die one after the other.
fn deaths() -> usize {
    match std::env::var_os("REPL_TEST_FULL") {
        Some(_) => 100,
        None => 3,
    }
}

/// Where the daemon dies in the short run: before anything is done, in the middle, and behind the point of
/// no return.
const SHORT: [&str; 7] = [
    "promotion.prepare.begun",
    "promotion.drain.done",
    "promotion.capture.done",
    "promotion.commit.appended",
    "promotion.open.begun",
    "worker.rejoin.written",
    "worker.handover.adopted",
];

/// Nothing that was captured is lost, and nobody has to be told that the old primary is back.
#[test]
fn a_dead_primary_with_nothing_of_its_own_follows_when_it_returns() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    rig.server("main").execute(
        "INSERT INTO public.item (name) SELECT 'late ' || n FROM generate_series(1, 50) n;
         SELECT nextval('public.probe_id_seq') FROM generate_series(1, 3000)",
    )?;
    rig.daemon.wait_caught_up(rig.server("main"), PATIENCE)?;
    // Sequences are looked at from time to time.
    let sampled = rig.daemon.config().log_dir().join("primary.json");
    wait_until("the sequences to be sampled", PATIENCE, || {
        Ok(std::fs::read_to_string(&sampled)?.contains("\"last\": 3000"))
    })?;
    rig.server_mut("main").kill9()?;
    let ended = rig.force(None)?;
    ensure!(ended.cause == "forced" && ended.to == "r1", "{ended:#?}");
    let loss = ended.may_lose.context("what may be lost is not said")?;
    ensure!(!loss.nothing && loss.heard_ms.is_some(), "{loss:?}");
    rig.server("r1").execute(
        "INSERT INTO public.probe (node) VALUES ('r1');
         INSERT INTO public.item (name) VALUES ('new')",
    )?;
    let next = rig
        .server("r1")
        .query_i64("SELECT max(id) FROM public.probe")?;
    ensure!(
        next > 3000,
        "sequences of the old primary went on to 3000, the new one gives out {next}"
    );
    rig.server_mut("main").start()?;
    rig.wait_streaming()?;
    rig.check_equal()?;
    // And back, as planned.
    rig.promote("main")?;
    rig.wait_streaming()?;
    rig.check_equal()
}

/// What the log never saw is found, held back from everybody, and taken back on order only.
#[test]
fn an_old_primary_with_commits_of_its_own_waits_for_the_operator() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    rig.daemon.kill9()?;
    rig.server("main").execute(
        "INSERT INTO public.item (id, name) VALUES (7001, 'stray'), (7002, 'stray too');
         UPDATE public.item SET amount = 77 WHERE id = 3;
         DELETE FROM public.item WHERE id = 4;
         INSERT INTO public.keyless VALUES (99)",
    )?;
    rig.server_mut("main").kill9()?;
    rig.daemon.start()?;
    let ended = rig.force(Some("r2"))?;
    ensure!(ended.to == "r2");
    rig.server("r2").execute(
        "UPDATE public.item SET amount = 5 WHERE id IN (3, 4);
         INSERT INTO public.item (id, name) VALUES (7001, 'another')",
    )?;
    rig.server_mut("main").start()?;
    rig.wait_held("main")?;
    let refused = rig
        .server("main")
        .execute("SET default_transaction_read_only = off; DELETE FROM public.item WHERE id = 1");
    ensure!(refused.is_err(), "a deposed primary takes writes");
    ensure!(rig.role_check("/replica?node=main")?.0 == 503);
    let history = rig.daemon.replctl(&["history"])?;
    let text = String::from_utf8_lossy(&history.stdout).into_owned();
    ensure!(
        text.contains("forced · main → r2") && text.contains("may be lost"),
        "{text}"
    );
    let ledgers = rig
        .daemon
        .call(|client| async move { client.ledgers().await })?
        .ledgers;
    ensure!(
        ledgers.len() == 1 && ledgers[0].node == "main",
        "{ledgers:?}"
    );
    ensure!(
        (ledgers[0].transactions, ledgers[0].changes) == (4, 5),
        "{ledgers:?}"
    );
    let shown = rig.daemon.replctl(&["ledger", "show", &ledgers[0].id])?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    for wanted in [
        r#""op":"insert""#,
        r#""name":"stray too""#,
        r#""amount":"77.00""#,
        r#""op":"delete""#,
        r#""v":"99""#,
        r#""complete":true"#,
    ] {
        ensure!(text.contains(wanted), "{wanted} is missing in {text}");
    }
    // It does not forget, either.
    rig.daemon.crash_and_restart()?;
    ensure!(rig.wait_joined()?, "it was not held any more");
    rig.check_equal()?;
    let stray = rig
        .server("main")
        .query_i64("SELECT count(*) FROM public.item WHERE id = 7002")?;
    let slots = rig
        .server("main")
        .query_i64("SELECT count(*) FROM pg_replication_slots")?;
    ensure!(slots == 0, "{slots} slots are left at the old primary");
    ensure!(
        stray == 0,
        "a row that only the old primary had is still there"
    );
    Ok(())
}

#[test]
fn in_sync_mode_no_acknowledged_commit_is_lost_whoever_dies() -> Result<()> {
    let mut rig = Rig::start(|config| config.set("replication", "mode", "sync"))?;
    wait_in_force(&rig)?;
    let probes = Probes::start(&rig.all(), None);
    for _ in 0..deaths() {
        let old = rig.primary()?;
        probes.wait_write(&old, PATIENCE)?;
        rig.wait_promised()?;
        rig.server_mut(&old).kill9()?;
        let ended = rig.force(None)?;
        let loss = ended
            .may_lose
            .clone()
            .context("what may be lost is not said")?;
        ensure!(loss.nothing, "{loss:?}");
        probes.wait_write(&ended.to, PATIENCE)?;
        rig.server_mut(&old).start()?;
        rig.wait_joined()
            .with_context(|| format!("{old} → {}", ended.to))?;
        wait_in_force(&rig)?;
    }
    rig.check_all(probes).map(drop)
}

#[test]
fn the_daemon_may_die_at_every_step() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let all = std::env::var_os("REPL_TEST_FULL").is_some();
    let short = |place: &&&str| all || SHORT.contains(*place);
    let rejoining = [
        "worker.rejoin.fenced",
        "worker.rejoin.written",
        "worker.rejoin.judged",
    ];
    for place in FORWARD
        .iter()
        .chain(&rejoining)
        .filter(|place| !place.contains('@'))
        .filter(short)
    {
        let old = rig.primary()?;
        let next = NODES
            .into_iter()
            .find(|node| *node != old)
            .context("no other node")?;
        rig.server(&old).execute(&format!(
            "INSERT INTO public.item (name) VALUES ('{place}')"
        ))?;
        rig.daemon.terminate()?;
        rig.daemon.set_failpoints(&format!("{place}=kill"));
        rig.daemon.start()?;
        rig.wait_streaming()?;
        rig.server_mut(&old).kill9()?;
        let request = PromoteRequest {
            replica: next.to_owned(),
            force: true,
            overrule: false,
        };
        // The answer may be lost with the daemon.
        let _ = rig
            .daemon
            .call(|client| async move { client.promote(&request).await });
        if place.starts_with("worker.") {
            rig.server_mut(&old).start()?;
        }
        rig.daemon
            .wait_killed(PATIENCE)
            .with_context(|| format!("{place} was not reached"))?;
        rig.daemon.set_failpoints("");
        rig.daemon.start()?;
        let ended = rig
            .wait_promotion(next)
            .with_context(|| format!("after {place}"))?;
        println!("{place}: {old} → {}", ended.to);
        ensure!(rig.primary()? == next, "after {place}: {ended:#?}");
        rig.server(next)
            .execute("INSERT INTO public.item (name) VALUES (NULL)")?;
        if !place.starts_with("worker.") {
            rig.server_mut(&old).start()?;
        }
        rig.wait_joined()
            .with_context(|| format!("after {place}"))?;
    }
    rig.check_equal()
}

#[test]
fn a_primary_that_answers_is_replaced_on_express_order_only_and_fenced_first() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let order = |rig: &Rig, overrule| {
        let request = PromoteRequest {
            replica: "r1".to_owned(),
            force: true,
            overrule,
        };
        rig.daemon
            .call(|client| async move { client.promote(&request).await })
    };
    match order(&rig, false) {
        Err(ClientError::Refused(error)) => {
            ensure!(error.message.contains("it answers"), "{error:?}")
        }
        other => anyhow::bail!("not refused: {other:?}"),
    }
    let probes = Probes::start(&rig.all(), None);
    probes.wait_write("main", PATIENCE)?;
    order(&rig, true)?;
    probes.wait_write("r1", PATIENCE)?;
    rig.wait_joined()?;
    let writes = probes.stop()?;
    ensure!(turns(&writes)? == ["main", "r1"]);
    rig.check_equal()?;
    // One that stood still, and was given up, is fenced when it goes on.
    let probes = Probes::start(&rig.all(), None);
    probes.wait_write("r1", PATIENCE)?;
    rig.server_mut("r1").freeze()?;
    let ended = rig.force(None)?;
    probes.wait_write(&ended.to, PATIENCE)?;
    rig.server_mut("r1").thaw()?;
    rig.wait_joined()?;
    probes.stop()?;
    rig.check_equal()
}

#[test]
fn one_that_cannot_be_compared_with_the_log_waits_and_is_then_compared_with_the_primary()
-> Result<()> {
    let mut rig = Rig::start(|config| config.set("promotion", "auto_rejoin", false))?;
    rig.server_mut("main").kill9()?;
    rig.force(Some("r1"))?;
    rig.daemon.kill9()?;
    rig.server_mut("main").start()?;
    rig.server("main").execute(
        "INSERT INTO public.item (name) VALUES ('stray');
         TRUNCATE public.keyless;
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
    )?;
    rig.daemon.start()?;
    rig.daemon
        .wait_status("it to be held", PATIENCE, |status| {
            let why = status
                .alerts
                .iter()
                .any(|alert| alert.contains("slot is gone"));
            (why && held("main", status)).then_some(())
        })?;
    ensure!(rig.wait_joined()?, "it was not held");
    rig.check_equal()?;
    // With nothing of its own it waits all the same, as configured.
    rig.daemon.wait_caught_up(rig.server("r1"), PATIENCE)?;
    rig.server_mut("r1").kill9()?;
    rig.force(Some("main"))?;
    rig.server_mut("r1").start()?;
    ensure!(rig.wait_joined()?, "it joined without being told to");
    let ledgers = rig
        .daemon
        .call(|client| async move { client.ledgers().await })?
        .ledgers;
    ensure!(ledgers.is_empty(), "{ledgers:?}");
    rig.check_equal()
}
