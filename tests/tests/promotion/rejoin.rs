//! A former primary that committed what the log never saw joins again, key by key, while the new one works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use repl_tests::pg::{DATABASE, Role, Session};

use super::orders;
use super::rig::{PATIENCE, Rig};

/// Rows with a value that is stored apart, so that updates which leave it alone do not send it, and with
/// something unique beside the key.
const TABLE: &str = "
    CREATE TABLE public.mended (
        region text, id int, mail text UNIQUE, n int NOT NULL DEFAULT 0, big text, seen timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (id, region));
    ALTER TABLE public.mended ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO public.mended (region, id, mail, big)
        SELECT 'o''e' || n % 3, n, 'm' || n, repeat(md5(n::text), 100) FROM generate_series(1, 40) n;
    CREATE TABLE public.emptied (id int PRIMARY KEY);
    INSERT INTO public.emptied SELECT generate_series(1, 10);
    CREATE TABLE public.widened (id int PRIMARY KEY, v int);
    INSERT INTO public.widened SELECT n, n FROM generate_series(1, 10) n;
    CREATE TABLE public.altered (id int PRIMARY KEY, v int);
    INSERT INTO public.altered SELECT n, n FROM generate_series(1, 10) n;";

/// Changed, gone, moved, new; under keys and with values that the new primary uses as well.
const STRAYS: &str = "
    UPDATE public.mended SET n = -1 WHERE id BETWEEN 1 AND 10;
    UPDATE public.mended SET mail = 'm100', big = 'other' WHERE id = 3;
    DELETE FROM public.mended WHERE id BETWEEN 8 AND 14;
    UPDATE public.mended SET id = id + 100 WHERE id BETWEEN 15 AND 18;
    INSERT INTO public.mended (region, id, mail) VALUES ('o''e1', 200, 'm8'), ('x', 7, 'm9'), ('o''e0', 201, 'm300');
    TRUNCATE public.emptied;
    INSERT INTO public.emptied VALUES (99);
    ALTER TABLE public.widened ADD COLUMN more int;
    UPDATE public.widened SET more = id WHERE id = 3;
    ALTER TABLE public.altered ALTER COLUMN v TYPE text;
    UPDATE public.altered SET v = 'text' WHERE id = 3;";

/// What the new primary goes on with, `k` being one of its keys.
fn work(n: u64) -> String {
    let k = n * 7 % 20 + 1;
    match n % 6 {
        0 | 1 => format!("UPDATE public.mended SET n = n + 1, seen = now() WHERE id = {k}"),
        2 => format!(
            "UPDATE public.mended SET mail = 'm{}', big = repeat('{n}', 1500) WHERE id = {k}",
            n + 1000
        ),
        3 => format!(
            "BEGIN; DELETE FROM public.mended WHERE id = {k}; INSERT INTO public.mended (region, id, \
             mail, big) VALUES ('o''e{}', {k}, 'm{n}-', repeat('{n}', 1500)); COMMIT",
            k % 3
        ),
        4 => format!(
            "BEGIN; UPDATE public.mended SET mail = 'held' WHERE id = {k}; UPDATE public.mended SET mail = \
             'free{n}' WHERE id = 8; UPDATE public.mended SET mail = 'm8' WHERE id = {k} AND NOT EXISTS \
             (SELECT FROM public.mended WHERE mail = 'm8'); UPDATE public.mended SET mail = 'f' || {n} \
             WHERE mail = 'held'; COMMIT"
        ),
        _ => format!(
            "UPDATE public.mended SET id = CASE WHEN id > 200 THEN id - 200 ELSE id + 200 END, big = \
             repeat('{n}', 1500) WHERE id IN ({k}, {k} + 200)"
        ),
    }
}

#[test]
fn only_the_keys_it_touched_are_replaced_while_the_new_primary_works() -> Result<()> {
    let mut rig = Rig::prepare(|config| config)?;
    rig.server("main").execute(TABLE)?;
    rig.daemon.start()?;
    rig.wait_streaming()?;
    rig.daemon.wait_caught_up(rig.server("main"), PATIENCE)?;
    rig.daemon.kill9()?;
    rig.server("main").execute(STRAYS)?;
    rig.server_mut("main").kill9()?;
    rig.daemon.start()?;
    rig.force(Some("r1"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, url) = (
        Arc::clone(&stop),
        rig.server("r1").url(DATABASE, Role::Superuser),
    );
    let worker = thread::spawn(move || -> Result<u64> {
        let mut session = Session::open(&url)?;
        let mut done = 0;
        for n in 0.. {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            match session.execute(&work(n)) {
                Ok(_) => done += 1,
                // Some of it collides; the transaction it was in is to be left.
                Err(sqlx::Error::Database(_)) => drop(session.execute("ROLLBACK")?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    });
    rig.server_mut("main").start()?;
    rig.wait_held("main")?;
    rig.daemon.terminate()?;
    orders::rejoin_through_deaths(&mut rig.daemon, "main")?;
    rig.wait_joined()?;
    stop.store(true, Ordering::Relaxed);
    let done = worker
        .join()
        .map_err(|_| anyhow!("the worker panicked"))??;
    ensure!(done > 20, "only {done} transactions ran beside it");
    rig.check_equal()?;
    let audit = std::fs::read_to_string(rig.daemon.config().log_dir().join("audit.jsonl"))?;
    ensure!(
        audit.contains("replica.mend"),
        "no keys were replaced: {audit}"
    );
    ensure!(
        !audit.contains("public.mended"),
        "the whole table was compared: {audit}"
    );
    for (table, why) in [("emptied", "emptied"), ("widened", "altered")] {
        ensure!(
            audit.contains(&format!("public.{table}")),
            "the table {table}, which was {why}, was not compared: {audit}"
        );
    }
    // One of another shape is made anew.
    let kind = "SELECT count(*) FROM public.altered WHERE pg_typeof(v)::text = 'integer'";
    ensure!(rig.server("main").query_i64(kind)? == 10);
    ensure!(
        audit.contains("\"keys\":25"),
        "other keys were replaced: {audit}"
    );
    Ok(())
}

/// A prepared transaction goes past every fence: it is named, waited for, and what comes of it is found.
#[test]
fn a_prepared_transaction_at_a_returned_primary_is_waited_for() -> Result<()> {
    let mut rig = Rig::start(|config| config)?;
    rig.daemon.wait_caught_up(rig.server("main"), PATIENCE)?;
    for (at, end) in ["ROLLBACK", "COMMIT"].into_iter().enumerate() {
        let old = rig.primary()?;
        let new = if old == "main" { "r1" } else { "main" };
        rig.server(&old).execute(&format!(
            "BEGIN; INSERT INTO public.item (id, name) VALUES ({}, 'prepared {at}'); \
             PREPARE TRANSACTION 'left {at}'",
            9000 + at
        ))?;
        rig.server_mut(&old).kill9()?;
        rig.force(Some(new))?;
        rig.server_mut(&old).start()?;
        rig.daemon
            .wait_status("it to be named", PATIENCE, |status| {
                let named =
                    |alert: &String| alert.contains(&old) && alert.contains("prepared transaction");
                status.alerts.iter().any(named).then_some(())
            })?;
        ensure!(rig.role_check(&format!("/replica?node={old}"))?.0 == 503);
        rig.server(&old)
            .execute(&format!("{end} PREPARED 'left {at}'"))?;
        let strays = rig.wait_joined()?;
        ensure!(strays == (end == "COMMIT"), "after {end}: {strays}");
        rig.check_equal()?;
    }
    let left = "SELECT count(*) FROM public.item WHERE name LIKE 'prepared %'";
    ensure!(
        rig.server("r1").query_i64(left)? == 0,
        "a stray row is left"
    );
    Ok(())
}
