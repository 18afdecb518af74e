//! Keys `WITHOUT OVERLAPS` and foreign keys with a `PERIOD`, of PostgreSQL 18.

use anyhow::Result;
use repl_tests::pg::binaries::Installation;

use super::group::{Group, wait_query};

#[test]
fn keys_without_overlaps_and_foreign_keys_with_a_period_are_carried() -> Result<()> {
    let major = Installation::get()?.major()?;
    if major < 18 {
        println!("skipped: PostgreSQL {major} has no keys WITHOUT OVERLAPS");
        return Ok(());
    }
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE EXTENSION btree_gist;
             CREATE TABLE p (id int, valid daterange, v text, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
             CREATE TABLE c (id int PRIMARY KEY, pid int, valid daterange,
                             FOREIGN KEY (pid, PERIOD valid) REFERENCES p (id, PERIOD valid));
             CREATE TABLE u (id int PRIMARY KEY, k int, valid daterange, UNIQUE (k, valid WITHOUT OVERLAPS));
             INSERT INTO p VALUES (1, '[2020-01-01,2021-01-01)', 'a'), (1, '[2021-01-01,2022-01-01)', 'b'),
                                  (2, '[2020-01-01,2021-01-01)', 'c');
             INSERT INTO c VALUES (1, 1, '[2020-02-01,2020-03-01)');
             INSERT INTO u VALUES (1, 1, '[2020-02-01,2020-03-01)')",
        )
    })?;
    group.equal()?;
    let periods = "SELECT count(*) FROM pg_constraint WHERE conperiod";
    wait_query(group.replica(), periods, "3")?;
    group.primary.execute(
        "UPDATE p SET v = 'z' WHERE id = 1; UPDATE p SET id = 7 WHERE id = 2;
         UPDATE p SET valid = '[2019-01-01,2019-06-01)' WHERE id = 7;
         INSERT INTO p VALUES (9, '[2020-01-01,2021-01-01)', 'x'); DELETE FROM p WHERE id = 7;
         UPDATE u SET valid = '[2020-03-01,2020-04-01)'; INSERT INTO u VALUES (2, 1, '[2020-02-01,2020-03-01)')",
    )?;
    group.equal()?;
    group.daemon.finish()
}
