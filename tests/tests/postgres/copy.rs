//! Existing rows are copied with the objects they need, and the stream joins them exactly.

use std::time::Duration;

use anyhow::Result;
use repl_api::Membership;
use repl_tests::wait::wait_until;
use repl_tests::workload::{Load, Until, shop, tpcb};

use super::group::{Group, PATIENCE};

#[test]
fn rows_are_copied_and_followed_under_load() -> Result<()> {
    let mut group = Group::prepared(
        2,
        |primary| {
            shop::create(primary)?;
            tpcb::create(primary, 1)?;
            primary.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")
        },
        |config| config,
    )?;
    // The load runs before, while and after the copy is made.
    let tpcb = tpcb::spawn(&group.primary, Load::new(3, Until::Seconds(10)))?;
    let mut shop = shop::spawn(&group.primary, Load::new(4, Until::Seconds(10)))?;
    wait_until("orders", PATIENCE, || {
        Ok(group
            .primary
            .query_i64("SELECT count(*) FROM shop.orders")?
            > 50)
    })?;
    group.daemon.start()?;
    for number in 1..=2 {
        let name = format!("replica-{number}");
        group
            .daemon
            .wait_replica(&name, "streaming", PATIENCE, |replica| {
                replica.membership == Membership::Streaming
            })?;
    }
    assert!(
        shop.is_running()?,
        "the copy outlasted the load: nothing was joined under load"
    );
    while shop.is_running()? {
        for replica in &group.replicas {
            shop::check_snapshot(replica)?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    shop.finish(PATIENCE)?;
    tpcb.finish(PATIENCE)?;
    group.equal()?;
    let replica = group.state(1)?;
    assert!(replica.applied_transactions > 500, "{replica:?}");
    assert_eq!(
        (replica.queue_transactions, replica.failed, replica.skipped),
        (0, 0, 0)
    );
    Ok(())
}

const OBJECTS: &str = r#"
CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE TYPE two.color AS ENUM ('red', 'green');
CREATE COLLATION two.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION one."by code" (provider = libc, lc_collate = 'C', lc_ctype = 'C');
CREATE COLLATION one.mixed (provider = icu, locale = 'de-DE-u-co-phonebk');
CREATE TYPE two.point3 AS (x int, y int, z int);
CREATE TYPE two.word AS (word text COLLATE one.mixed, number int);
CREATE TYPE two.names AS RANGE (subtype = text, collation = one."by code");
CREATE DOMAIN two.short AS text COLLATE "C" NOT NULL DEFAULT 'none' CHECK (length(VALUE) < 9);
CREATE SEQUENCE one.numbers START 500 INCREMENT 5;
CREATE TABLE one.parent (
    id serial PRIMARY KEY,
    number bigint NOT NULL DEFAULT nextval('one.numbers'),
    name varchar(20) UNIQUE,
    color two.color DEFAULT 'green',
    place two.point3,
    label two.short,
    price numeric(8, 2) CHECK (price >= 0),
    gross numeric GENERATED ALWAYS AS (price * 2) STORED,
    period int4range,
    city text COLLATE two.loose,
    word two.word,
    from_to two.names,
    EXCLUDE USING gist (period WITH &&)
);
CREATE TABLE two.child (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent int REFERENCES one.parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    note text
);
CREATE UNIQUE INDEX child_lower ON two.child (lower(note)) WHERE note IS NOT NULL;
CREATE INDEX child_parent ON two.child (parent) INCLUDE (note);
CREATE INDEX child_sorted ON two.child (note COLLATE one.mixed);
INSERT INTO one.parent (name, place, label, price, period, city, word, from_to)
SELECT 'n' || n, ROW(n, n, NULL)::two.point3, 'l' || n, n, int4range(n * 10, n * 10 + 5),
       'City', ROW('Ä', n)::two.word, two.names('B', 'a')
FROM generate_series(1, 50) n;
INSERT INTO two.child (parent, note) SELECT n, 'note ' || n FROM generate_series(1, 50) n;
"#;

#[test]
fn tables_come_with_their_types_keys_indexes_and_sequences() -> Result<()> {
    let group = Group::start(1, |primary| primary.execute(OBJECTS))?;
    group.equal()?;
    let catalog = "SET search_path = pg_catalog;
        SELECT indexdef FROM pg_indexes WHERE schemaname IN ('one', 'two') ORDER BY 1;
        SELECT conrelid::regclass, replace(pg_get_constraintdef(oid), ' NOT VALID', '')
        FROM pg_constraint WHERE connamespace IN ('one'::regnamespace, 'two'::regnamespace)
        AND contype <> 'n' ORDER BY 1::text, 2;
        SELECT table_name, column_name, column_default, is_identity, identity_generation,
               is_generated, is_nullable, udt_name, domain_name, collation_name
        FROM information_schema.columns WHERE table_schema IN ('one', 'two') ORDER BY 1, 2;
        SELECT sequencename, increment_by, min_value, max_value, data_type FROM pg_sequences ORDER BY 1;
        SELECT enumlabel FROM pg_enum ORDER BY enumsortorder;
        SELECT attrelid::regclass, attname, attcollation::regcollation FROM pg_attribute
        WHERE attrelid IN ('one.parent'::regclass, 'two.word'::regclass) AND attnum > 0 ORDER BY 1, 2;
        SELECT collnamespace::regnamespace, collname, to_jsonb(c) - 'oid' - 'collnamespace' - 'collowner'
        FROM pg_collation c WHERE collnamespace <> 'pg_catalog'::regnamespace ORDER BY 1, 2";
    pretty_equal(
        &group.primary.query(catalog)?,
        &group.replica().query(catalog)?,
    );
    // The copy is usable on its own: keys are enforced for whoever writes to it.
    let refused = group
        .replica()
        .execute("INSERT INTO two.child OVERRIDING SYSTEM VALUE VALUES (1000, 4711, 'x')");
    assert!(
        format!("{refused:?}").contains("foreign key"),
        "{refused:?}"
    );
    Ok(())
}

fn pretty_equal(left: &str, right: &str) {
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines()
            .filter(|line| !b.lines().any(|other| other == *line))
            .map(str::to_owned)
            .collect()
    };
    let (missing, extra) = (only(left, right), only(right, left));
    assert!(
        missing.is_empty() && extra.is_empty(),
        "only on the primary: {missing:#?}\nonly on the replica: {extra:#?}"
    );
}
