//! Many validations under load: not one may report a difference that is not there.

use anyhow::Result;
use repl_tests::pg::PgServer;
use repl_tests::workload::{fixture, tpcb};

use super::ask::{all_equal, many_equal, validate};
use super::group::Group;

const MIXED: &str = "
CREATE TABLE mixed (id int PRIMARY KEY, amount numeric, ratio double precision, at timestamptz,
  note text, doc jsonb, raw bytea, tags text[]);
INSERT INTO mixed SELECT n, n * 1.50, n / 7.0, '2024-01-01'::timestamptz + n * '1 min'::interval,
  CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE repeat(md5(n::text), 200) END,
  jsonb_build_object('n', n), decode(md5(n::text), 'hex'), ARRAY['a', n::text]
  FROM generate_series(1, 500) n;
ALTER TABLE mixed ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE TABLE twins (v int, w text);
ALTER TABLE twins REPLICA IDENTITY FULL;
INSERT INTO twins SELECT n % 5, 'x' FROM generate_series(1, 50) n;
CREATE TABLE short (n int PRIMARY KEY);
CREATE TABLE \"Mixed Case\" (\"Id\" bigint, k text, v real, PRIMARY KEY (k, \"Id\"));
INSERT INTO \"Mixed Case\" SELECT n, 'k' || n % 7, n / 3.0 FROM generate_series(1, 100) n;
";

fn seed(primary: &PgServer) -> Result<()> {
    tpcb::create(primary, 1)?;
    primary.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")?;
    primary.execute(MIXED)
}

#[test]
fn many_validations_under_load_find_no_difference() -> Result<()> {
    let group = Group::start(true, &[], seed)?;
    group.caught_up()?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    let script = fixture("validate_load.sql").display().to_string();
    let tpcb = group
        .primary
        .spawn_pgbench(&["-n", "-c2", "-R", "150", "-T", "3600"])?;
    let mixed = group
        .primary
        .spawn_pgbench(&["-n", "-c3", "-R", "150", "-T", "3600", "-f", &script])?;
    many_equal(&group.daemon, 3)?;
    mixed.interrupt()?;
    tpcb.interrupt()?;
    group.caught_up()?;
    all_equal(&validate(&group.daemon, true)?, 3)?;
    group.same_schemas(&["public"])?;
    group.daemon.finish()
}
