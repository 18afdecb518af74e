//! Partitioned tables: each leaf is a table of its own in the stream.

use anyhow::Result;

use super::group::{Group, wait_query};

const PARTITIONED: &str = "
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, day int NOT NULL, kind text, note text,
    PRIMARY KEY (id, day, kind)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20) PARTITION BY LIST (kind);
CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES IN ('a');
CREATE TABLE events_2x PARTITION OF events_2 DEFAULT;
CREATE INDEX events_kind ON events (kind);
INSERT INTO events (day, kind) SELECT n % 20, CASE WHEN n % 3 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 200) n;
";

#[test]
fn partitions_are_followed_through_moves_and_new_ones() -> Result<()> {
    let group = Group::start(1, |primary| primary.execute(PARTITIONED))?;
    group.equal()?;
    let placed = "SELECT tableoid::regclass, count(*) FROM events GROUP BY 1 ORDER BY tableoid::regclass::text";
    assert_eq!(group.primary.query(placed)?, group.replica().query(placed)?);
    group.primary.execute(
        "UPDATE events SET day = day + 10 WHERE day < 5;
         UPDATE events SET kind = 'a' WHERE id % 7 = 0;
         UPDATE events SET note = 'n' WHERE id % 5 = 0;
         DELETE FROM events WHERE id % 11 = 0",
    )?;
    group.equal()?;
    assert_eq!(group.primary.query(placed)?, group.replica().query(placed)?);
    group.primary.execute(
        "CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30);
         INSERT INTO events (day, kind) SELECT 20 + n % 10, 'new' FROM generate_series(1, 50) n;
         UPDATE events SET day = 25 WHERE day = 19",
    )?;
    // A new leaf is found when the tables are next looked for, and then copied.
    let arrived = "SELECT to_regclass('events_3') IS NOT NULL";
    wait_query(group.replica(), arrived, "t")?;
    group.equal()?;
    assert_eq!(group.primary.query(placed)?, group.replica().query(placed)?);
    group
        .primary
        .execute("TRUNCATE events_2; INSERT INTO events (day, kind) VALUES (11, 'a'), (12, 'z')")?;
    group.equal()?;
    group
        .primary
        .execute("TRUNCATE events; INSERT INTO events (day, kind) VALUES (3, 'last')")?;
    group.equal()?;
    // A table that becomes a partition, rows and all, is followed as the table it is on the
    // replica; attaching it there is left to the operator.
    group.primary.execute(
        "CREATE TABLE events_4 (LIKE events INCLUDING INDEXES);
         INSERT INTO events_4 SELECT n, 35, 'attached', NULL FROM generate_series(1000, 1020) n",
    )?;
    wait_query(
        group.replica(),
        "SELECT to_regclass('events_4') IS NOT NULL",
        "t",
    )?;
    group.equal()?;
    group
        .primary
        .execute("ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (30) TO (40)")?;
    group
        .primary
        .execute("INSERT INTO events (day, kind) VALUES (36, 'through the root')")?;
    group.caught_up()?;
    let rows = "SELECT id, day, kind FROM events_4 ORDER BY id";
    assert_eq!(group.primary.query(rows)?, group.replica().query(rows)?);
    // And one that is a partition no more is followed as the partition it is there.
    group.primary.execute(
        "ALTER TABLE events DETACH PARTITION events_1; INSERT INTO events_1 (id, day, kind) VALUES (5000, 4, 'alone');
         UPDATE events_1 SET note = 'detached' WHERE day = 3",
    )?;
    group.caught_up()?;
    let rows = "SELECT id, day, kind, note FROM events_1 ORDER BY id";
    assert_eq!(group.primary.query(rows)?, group.replica().query(rows)?);
    let attached = "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1::text";
    assert_eq!(
        group.replica().query(attached)?,
        "events_1\nevents_2\nevents_3"
    );
    assert_eq!(
        group.primary.query(attached)?,
        "events_2\nevents_3\nevents_4"
    );
    group.daemon.finish()
}
