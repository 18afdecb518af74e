//! Planned promotions that succeed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use repl_api::{Membership, PromotionState};
use repl_tests::wait::wait_until;

use super::probes::{Probes, gaps, turns};
use super::rig::{NODES, PATIENCE, Rig};

/// Promotions in the chain.
fn chain() -> usize {
    match std::env::var_os("REPL_TEST_FULL") {
        Some(_) => 100,
        None => 8,
    }
}

#[test]
fn chains_of_promotions_lose_nothing_and_never_have_two_primaries() -> Result<()> {
    let rig = Rig::start(|config| config)?;
    let probes = Probes::start(&rig.all(), None);
    let mut wanted = vec![NODES[0].to_owned()];
    probes.wait_write(NODES[0], PATIENCE)?;
    for round in 0..chain() {
        // r1, r2, back.
        let next = NODES[(round + 1) % NODES.len()];
        rig.server(&rig.primary()?).execute(&format!(
            "INSERT INTO public.item (name, amount) VALUES ('round {round}', {round}.5);
             UPDATE public.item SET amount = amount + 1 WHERE id % 10 = {round} % 10;
             DELETE FROM public.item WHERE id = {round} + 100;
             INSERT INTO public.part VALUES (500 + {round}, 'new');
             DELETE FROM public.keyless WHERE ctid = (SELECT min(ctid) FROM public.keyless);
             INSERT INTO public.keyless VALUES ({round})"
        ))?;
        let ended = rig.promote(next)?;
        ensure!(ended.state == PromotionState::Done, "{ended:#?}");
        probes.wait_write(next, PATIENCE)?;
        wanted.push(next.to_owned());
        rig.wait_streaming()?;
    }
    let writes = rig.check_all(probes)?;
    let turns = turns(&writes)?;
    ensure!(
        turns == wanted,
        "writes were taken by {turns:?}, not {wanted:?}"
    );
    let mut gaps = gaps(&writes);
    gaps.sort();
    println!("{} writes; gaps {gaps:?}", writes.len());
    Ok(())
}

/// Clients at all nodes that write as fast as they are let, a thousand times a second in all and more.
#[test]
fn the_write_gap_under_load_is_short() -> Result<()> {
    let rig = Rig::start(|config| config)?;
    let many: Vec<_> = (0..4).flat_map(|_| rig.all()).collect();
    let probes = Probes::start(&many, Some(Duration::from_millis(2)));
    let started = Instant::now();
    probes.wait_write(NODES[0], PATIENCE)?;
    let mut told = Vec::new();
    for round in 0..chain() {
        let next = NODES[(round + 1) % NODES.len()];
        let ended = rig.promote(next)?;
        ensure!(ended.state == PromotionState::Done, "{ended:#?}");
        told.extend(ended.gap_ms);
        probes.wait_write(next, PATIENCE)?;
        rig.wait_streaming()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let writes = rig.check_all(probes)?;
    let mut gaps = gaps(&writes);
    gaps.sort();
    let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    let rate = writes.len() as f64 / seconds;
    println!(
        "{rate:.0} writes/s; {} gaps: median {median:?}, longest {longest:?}; told {told:?} ms",
        gaps.len()
    );
    ensure!(
        longest < Duration::from_secs(5),
        "nobody took writes for {longest:?}"
    );
    Ok(())
}

#[test]
fn roles_are_told_and_outlive_a_restart() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    let check = |rig: &Rig, path: &str, code: u16| -> Result<()> {
        let found = rig.role_check(path)?;
        ensure!(found.0 == code, "{path}: {found:?}, not {code}");
        Ok(())
    };
    let all = |rig: &Rig, primary: &str| -> Result<()> {
        for node in NODES {
            let (yes, no) = if node == primary {
                (200, 503)
            } else {
                (503, 200)
            };
            check(rig, &format!("/primary?node={node}"), yes)?;
            check(rig, &format!("/replica?node={node}"), no)?;
        }
        check(rig, "/primary", 200)?;
        check(rig, "/replica?lag=10s", 200)?;
        check(rig, "/replica?lag=soon", 400)?;
        check(rig, "/else", 404)
    };
    all(&rig, "main")?;
    let dry = rig.daemon.replctl(&["promote", "r2", "--dry-run"])?;
    ensure!(dry.status.success(), "{dry:?}");
    let unasked = rig.daemon.replctl(&["promote", "r2"])?;
    ensure!(unasked.status.code() == Some(2), "{unasked:?}");
    let done = rig.daemon.replctl(&["promote", "r2", "--yes"])?;
    ensure!(done.status.success(), "{done:?}");
    rig.wait_streaming()?;
    all(&rig, "r2")?;
    rig.daemon.crash_and_restart()?;
    rig.wait_streaming()?;
    all(&rig, "r2")?;
    let status = rig.daemon.status()?;
    ensure!(
        status.configured_primary.as_deref() == Some("main"),
        "{status:?}"
    );
    let topology = rig.daemon.replctl(&["topology"])?;
    let text = String::from_utf8_lossy(&topology.stdout).into_owned();
    ensure!(
        text.starts_with("r2 · postgres · primary · epoch 2"),
        "{text}"
    );
    ensure!(text.contains("main · postgres · replica"), "{text}");
    let history = rig.daemon.replctl(&["history"])?;
    let text = String::from_utf8_lossy(&history.stdout).into_owned();
    ensure!(
        text.contains("main → r2") && text.contains("write gap"),
        "{text}"
    );
    rig.server("r2")
        .execute("INSERT INTO public.item (name) VALUES ('after')")?;
    rig.check_equal()?;
    // Nothing is left at the old primary that would keep its WAL.
    let slots = rig
        .server("main")
        .query_i64("SELECT count(*) FROM pg_replication_slots")?;
    ensure!(slots == 0, "{slots} slots are left");
    Ok(())
}

#[test]
fn a_lagging_replica_follows_across_the_change() -> Result<()> {
    let rig = Rig::start(|config| config)?;
    let pause = |name: &'static str| {
        rig.daemon
            .call(|client| async move { client.pause(name).await })
    };
    pause("r2")?;
    let work = |server: &str, mark: &str| {
        rig.server(server).execute(&format!(
            "INSERT INTO public.item (name) SELECT '{mark} ' || n FROM generate_series(1, 50) n;
             UPDATE public.item SET amount = amount + 1;
             CREATE TABLE public.made_{mark} (id int PRIMARY KEY);"
        ))
    };
    work("main", "before")?;
    wait_until("r1 to have the table", PATIENCE, || {
        let there = rig
            .server("r1")
            .query("SELECT to_regclass('public.made_before') IS NOT NULL")?;
        let status = rig.daemon.status()?;
        let r1 = status.replica("r1").map(|r1| r1.membership);
        Ok(there == "t" && r1 == Some(Membership::Streaming))
    })?;
    ensure!(rig.promote("r1")?.state == PromotionState::Done);
    work("r1", "after")?;
    rig.daemon
        .call(|client| async move { client.resume("r2").await })?;
    rig.wait_streaming()?;
    rig.server("r1")
        .execute("INSERT INTO public.made_before VALUES (1)")?;
    rig.check_equal()
}
