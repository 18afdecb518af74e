use std::thread;
use std::time::Duration;

use anyhow::Result;
use repl_tests::content;
use repl_tests::pg::PgServer;
use repl_tests::scratch::Scratch;
use repl_tests::wait::wait_until;
use repl_tests::workload::history::{self, Clients, Outcome};
use repl_tests::workload::{Load, Until, bank, keyless, shop, tpcb};

#[test]
fn workloads_keep_their_invariants_and_the_checks_notice_damage() -> Result<()> {
    let server = PgServer::builder("loaded").start()?;
    bank::create(&server)?;
    shop::create(&server)?;
    keyless::create(&server)?;
    tpcb::create(&server, 1)?;
    keyless::install_audit(&server, "public.keyless_events")?;
    let running = bank::spawn(&server, Load::new(4, Until::Seconds(2)))?;
    for _ in 0..10 {
        bank::check_snapshot(&server)?;
        thread::sleep(Duration::from_millis(50));
    }
    shop::run(&server, Load::new(4, Until::Transactions(200)))?;
    keyless::run(&server, Load::new(4, Until::Transactions(50)))?;
    tpcb::run(&server, Load::new(2, Until::Transactions(50)))?;
    running.finish(Duration::from_secs(20))?;
    assert!(bank::check_snapshot(&server)? > 100);
    shop::check_snapshot(&server)?;
    keyless::check_snapshot(&server)?;
    for table in shop::TABLES {
        assert!(
            server.query_i64(&format!("SELECT count(*) FROM {table}"))? >= 50,
            "{table}"
        );
    }
    let events = server.query_i64("SELECT count(*) FROM keyless_events")?;
    assert_eq!(
        keyless::audited(&server, "public.keyless_events", "INSERT")?,
        events
    );
    let side = content::pg(&server, "app");
    content::assert_all_equal(&side, &side)?;

    server.execute("UPDATE bank.a SET balance = balance + 1 WHERE id = 1")?;
    assert!(bank::check_snapshot(&server).is_err());
    server.execute(
        "INSERT INTO keyless_events SELECT * FROM keyless_events LIMIT 1;
         UPDATE shop.orders SET total_cents = total_cents + 1 WHERE id = (SELECT min(id) FROM shop.orders)",
    )?;
    assert!(keyless::check_snapshot(&server).is_err());
    assert!(shop::check_snapshot(&server).is_err());
    Ok(())
}

#[test]
fn the_history_survives_a_kill_and_notices_lost_and_double_rows() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut server = PgServer::builder("history").start()?;
    history::create(&server)?;
    let clients = Clients::start_on(&server, 3, &scratch.join("history"))?;
    let some = |least: u64| {
        wait_until("clients to write", Duration::from_secs(20), || {
            Ok(clients.confirmed() > least)
        })
    };
    some(50)?;
    server.kill9()?;
    server.start()?;
    some(clients.confirmed() + 50)?;
    let history = clients.stop()?;
    assert!(history.count(Outcome::Ok) > 100);
    assert!(history.count(Outcome::Indeterminate) <= 3);
    history.check(&server)?;

    let row = server.query(
        "DELETE FROM history WHERE ctid = (SELECT min(ctid) FROM history) RETURNING client, n",
    )?;
    assert!(format!("{:#}", history.check(&server).expect_err("lost")).contains("is lost"));
    let values = row.replace('|', ",");
    server.execute(&format!(
        "INSERT INTO history VALUES ({values}), ({values})"
    ))?;
    assert!(format!("{:#}", history.check(&server).expect_err("double")).contains("twice"));
    Ok(())
}
