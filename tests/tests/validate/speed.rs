//! How long validations take; run by hand: `cargo nextest run … --run-ignored only`.

use std::time::Instant;

use anyhow::{Result, ensure};
use repl_tests::pg::PgServer;

use super::ask::{all_equal, replctl, validate};
use super::group::{Group, MARIADB, PG};

const ROWS: u64 = 2_000_000;

fn seed(primary: &PgServer) -> Result<()> {
    primary.execute(&format!(
        "CREATE TABLE large (id bigint PRIMARY KEY, name text, amount numeric(12,2), at timestamptz);
         INSERT INTO large SELECT n, 'name ' || n, n / 100.0, '2024-01-01'::timestamptz + n * '1 s'::interval
           FROM generate_series(1, {ROWS}) n;"
    ))
}

#[test]
#[ignore = "a measurement, not a test"]
fn two_million_rows() -> Result<()> {
    let group = Group::start(true, &[], seed)?;
    for name in [PG, MARIADB] {
        group
            .daemon
            .wait_replica(name, "streaming", 10 * super::group::PATIENCE, |one| {
                one.membership == repl_api::Membership::Streaming
            })?;
    }
    group.primary.execute("VACUUM ANALYZE large")?;
    if let Some(pg) = &group.pg {
        pg.execute("VACUUM ANALYZE large")?;
    }
    for round in 0..3 {
        let started = Instant::now();
        group.primary.query_i64("SELECT count(*) FROM large")?;
        let primary = started.elapsed();
        group.mariadb.query_i64("SELECT count(*) FROM large")?;
        eprintln!(
            "{round}: bare count: {primary:?} primary, {:?} then MariaDB",
            started.elapsed() - primary
        );
        all_equal(&validate(&group.daemon, true)?, 3)?;
        for replica in [PG, MARIADB, "r-sqlite"] {
            for arguments in [
                &["--replica", replica][..],
                &["--replica", replica, "--deep"][..],
            ] {
                let started = Instant::now();
                let (code, text) = replctl(&group.daemon, arguments)?;
                ensure!(code == 0, "{text}");
                eprintln!("{round}: {arguments:?}: {:?}", started.elapsed());
            }
        }
        eprintln!("memory: {:?} KiB", group.daemon.memory_kib()?);
    }
    Ok(())
}
