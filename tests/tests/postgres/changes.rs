//! Changes that are easy to get wrong, alone and reduced to their net effect with others.

use anyhow::Result;
use repl_tests::wait::wait_until;
use repl_tests::workload::keyless;

use super::group::{Group, PATIENCE, wait_query};

#[test]
fn rows_without_a_key_keep_their_number() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE loose (a int, b text, j json, p point, x xml, f float8);
             ALTER TABLE loose REPLICA IDENTITY FULL;
             CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, c text, note text);
             CREATE UNIQUE INDEX by_index_key ON by_index (b, a);
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key;
             INSERT INTO loose SELECT 1, 'same', '{\"a\": 1}', '(1,2)', '<a/>', 0.1
             FROM generate_series(1, 5);
             INSERT INTO loose SELECT NULL, NULL, NULL, NULL, NULL, NULL FROM generate_series(1, 3);
             INSERT INTO loose VALUES (1, 'same', '{\"a\":1}', '(1,2)', '<a/>', 0.1), (1, '', '[]', NULL, NULL, '-0');
             INSERT INTO by_index SELECT n, n % 3, 'c' || n FROM generate_series(1, 30) n",
        )
    })?;
    group.equal()?;
    keyless::install_audit(group.replica(), "public.loose")?;
    group.primary.execute(
        // One of five, two of three, and all that look alike up to a blank in the JSON text.
        "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose);
         DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE a IS NULL LIMIT 2);
         UPDATE loose SET b = 'changed' WHERE ctid = (SELECT max(ctid) FROM loose WHERE b = 'same');
         UPDATE loose SET p = '(3,4)' WHERE j::text = '{\"a\": 1}';
         BEGIN; INSERT INTO loose VALUES (9); INSERT INTO loose VALUES (9); INSERT INTO loose VALUES (9);
         DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE a = 9);
         UPDATE loose SET b = 'nine' WHERE a = 9; COMMIT;
         UPDATE by_index SET note = 'n' WHERE a < 10;
         UPDATE by_index SET a = a + 100 WHERE b = 1;
         UPDATE by_index SET b = b + 1, c = NULL WHERE a > 120;
         DELETE FROM by_index WHERE b = 0",
    )?;
    group.equal()?;
    // What was inserted was inserted once: two rows came, others were rewritten as full images.
    let before = keyless::audited(group.replica(), "public.loose", "INSERT")?;
    group
        .primary
        .execute("INSERT INTO loose SELECT 7 FROM generate_series(1, 10)")?;
    group.equal()?;
    assert_eq!(
        keyless::audited(group.replica(), "public.loose", "INSERT")?,
        before + 10
    );
    group.daemon.finish()
}

const KEYS: &str = "
CREATE TABLE counted (id int PRIMARY KEY, v text);
INSERT INTO counted SELECT n, 'v' || n FROM generate_series(1000, 1, -1) n;
CREATE TABLE swapped (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, v text);
INSERT INTO swapped SELECT n, n, 'v' || n FROM generate_series(1, 100) n;
CREATE TABLE late_key (id int PRIMARY KEY DEFERRABLE, v text);
ALTER TABLE late_key REPLICA IDENTITY FULL;
INSERT INTO late_key SELECT n, 'v' || n FROM generate_series(1, 100) n;
CREATE TABLE booked (id int PRIMARY KEY, room int, during int4range,
    EXCLUDE USING gist (int4range(room, room, '[]') WITH &&, during WITH &&) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO booked SELECT n, n % 5, int4range(n * 10, n * 10 + 9) FROM generate_series(1, 100) n;
CREATE TABLE big (id int PRIMARY KEY, body text, n int);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
INSERT INTO big SELECT n, repeat(md5(n::text), 500), 0 FROM generate_series(1, 20) n;
";

#[test]
fn keys_move_and_unique_values_are_swapped() -> Result<()> {
    let group = Group::start(2, |primary| primary.execute(KEYS))?;
    group.equal()?;
    group.replctl(&["pause", "replica-2"])?;
    group.primary.execute(
        // Rows lie in falling order, so that each new key is free when it is taken.
        "UPDATE counted SET id = id + 1;
         UPDATE counted SET id = -id WHERE id % 2 = 0;
         UPDATE late_key SET id = id + 1;
         UPDATE late_key SET id = 103 - id;
         UPDATE swapped SET u = 101 - u;
         UPDATE swapped SET u = 101 - u, v = v || '!' WHERE id % 10 < 5 OR true;
         BEGIN; UPDATE swapped SET id = 1000 WHERE id = 1; UPDATE swapped SET id = 1 WHERE id = 2;
         UPDATE swapped SET id = 2 WHERE id = 1000; COMMIT;
         UPDATE swapped SET u = (u % 100) + 1;
         UPDATE booked SET room = (room + 1) % 5;
         UPDATE booked b SET during = o.during FROM booked o WHERE o.id = 101 - b.id;
         UPDATE big SET n = n + 1;
         UPDATE big SET id = id + 100;
         BEGIN; UPDATE big SET id = id + 100; UPDATE big SET n = n + 1; UPDATE big SET id = id - 150; COMMIT;
         BEGIN; UPDATE big SET body = body || 'x' WHERE id % 2 = 0; UPDATE big SET id = id + 1000, n = 7; COMMIT;
         BEGIN; DELETE FROM big WHERE id = 1051; UPDATE big SET id = 1051 WHERE id = 1052; COMMIT",
    )?;
    group.replctl(&["resume", "replica-2"])?;
    group.equal()?;
    group.daemon.finish()
}

/// A replica's table may have stricter constraints than the source: the order of writing matters.
#[test]
fn a_replica_whose_constraints_are_checked_at_once_takes_swaps_too() -> Result<()> {
    let group = Group::prepared(
        1,
        |primary| {
            primary.execute(
                "CREATE TABLE swapped (id int PRIMARY KEY, u int, v text,
                     CONSTRAINT swapped_u UNIQUE (u) DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO swapped SELECT n, n, repeat(md5(n::text), 400) FROM generate_series(1, 50) n",
            )
        },
        |config| config,
    );
    let mut group = group?;
    group
        .replica()
        .execute("CREATE TABLE swapped (id int PRIMARY KEY, u int UNIQUE, v text)")?;
    group.daemon.start()?;
    group.equal()?;
    group.primary.execute(
        "UPDATE swapped SET u = 51 - u;
         BEGIN; UPDATE swapped SET u = (u % 50) + 1; UPDATE swapped SET id = id + 100 WHERE u < 10; COMMIT;
         BEGIN; DELETE FROM swapped WHERE u = 20; UPDATE swapped SET u = 20 WHERE u = 21;
         INSERT INTO swapped VALUES (0, 21, 'new'); COMMIT",
    )?;
    group.equal()?;
    group.daemon.finish()
}

#[test]
fn truncation_is_a_barrier() -> Result<()> {
    let group = Group::start(2, |primary| {
        primary.execute(
            "CREATE TABLE parent (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
             CREATE TABLE grandchild (id int PRIMARY KEY, child int REFERENCES child);
             CREATE TABLE other (id serial PRIMARY KEY);
             INSERT INTO parent (v) SELECT 'v' FROM generate_series(1, 10);
             INSERT INTO child SELECT n, n FROM generate_series(1, 10) n;
             INSERT INTO grandchild SELECT n, n FROM generate_series(1, 10) n;
             INSERT INTO other DEFAULT VALUES",
        )
    })?;
    group.equal()?;
    group
        .replica()
        .execute("SELECT setval('parent_id_seq', 500)")?;
    group.replctl(&["pause", "replica-2"])?;
    group.primary.execute(
        "BEGIN; INSERT INTO parent (id) VALUES (100); INSERT INTO child VALUES (100, 100);
         TRUNCATE parent CASCADE; INSERT INTO parent (id) VALUES (200); INSERT INTO other DEFAULT VALUES; COMMIT;
         INSERT INTO child VALUES (200, 200); TRUNCATE grandchild, other;
         INSERT INTO other VALUES (5); DELETE FROM child;
         TRUNCATE ONLY grandchild; INSERT INTO grandchild VALUES (1, NULL)",
    )?;
    group.replctl(&["resume", "replica-2"])?;
    group.equal()?;
    assert_eq!(
        group
            .replica()
            .query_i64("SELECT last_value FROM parent_id_seq")?,
        500
    );
    group.primary.execute(
        "TRUNCATE parent RESTART IDENTITY CASCADE; INSERT INTO parent (v) VALUES ('first')",
    )?;
    group.equal()?;
    let restarted = "SELECT last_value || '|' || is_called FROM parent_id_seq";
    assert_eq!(group.replica().query(restarted)?, "1|false");
    group.daemon.finish()
}

#[test]
fn only_what_was_committed_arrives() -> Result<()> {
    let group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'copied')",
        )
    })?;
    group.equal()?;
    group.primary.execute(
        "BEGIN; INSERT INTO t VALUES (1, 'kept'); SAVEPOINT a; INSERT INTO t VALUES (2, 'lost');
         SAVEPOINT b; UPDATE t SET v = 'lost'; ROLLBACK TO a; INSERT INTO t VALUES (3, 'kept');
         SAVEPOINT c; DELETE FROM t WHERE id = 3; RELEASE c; INSERT INTO t VALUES (3, 'again'); COMMIT;
         BEGIN; INSERT INTO t VALUES (4, 'lost'); ROLLBACK;
         BEGIN; INSERT INTO t VALUES (5, 'prepared'); UPDATE t SET v = 'prepared' WHERE id = 0;
         PREPARE TRANSACTION 'kept';
         BEGIN; INSERT INTO t VALUES (6, 'lost'); PREPARE TRANSACTION 'lost';
         INSERT INTO t VALUES (7, 'after')",
    )?;
    wait_query(
        group.replica(),
        "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        "0,1,3,7",
    )?;
    group
        .primary
        .execute("ROLLBACK PREPARED 'lost'; COMMIT PREPARED 'kept'")?;
    group.equal()?;
    assert_eq!(
        group
            .replica()
            .query("SELECT v FROM t WHERE id IN (0, 5)")?,
        "prepared\nprepared"
    );
    group.daemon.finish()
}

#[test]
fn triggers_and_foreign_keys_of_the_replica_have_no_double_effects() -> Result<()> {
    const TRIGGER: &str = "
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO public.notes (what) VALUES (TG_OP || coalesce(NEW.id, OLD.id)); RETURN NULL; END$$;
        CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON public.parent FOR EACH ROW EXECUTE FUNCTION note();";
    let group = Group::start(1, |primary| {
        primary.execute(&format!(
            "CREATE TABLE parent (id int PRIMARY KEY, v int);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE, n int DEFAULT 0);
             CREATE TABLE notes (id serial PRIMARY KEY, what text); {TRIGGER}
             INSERT INTO parent SELECT n, n FROM generate_series(1, 20) n;
             INSERT INTO child SELECT n, n FROM generate_series(1, 20) n"
        ))
    })?;
    group.equal()?;
    let replica = group.replica();
    replica.execute(TRIGGER)?;
    keyless::install_audit(replica, "public.parent")?;
    group.primary.execute(
        "INSERT INTO parent VALUES (21, 0), (22, 0), (23, 0), (24, 0);
         UPDATE parent SET v = v + 1 WHERE id <= 6;
         DELETE FROM parent WHERE id IN (2, 4, 22);
         UPDATE parent SET id = id + 100 WHERE id IN (1, 3);
         UPDATE child SET n = n + 1",
    )?;
    group.equal()?;
    // The ordinary trigger stayed silent (the tables are equal), the ENABLE ALWAYS one did not.
    assert!(keyless::audited(replica, "public.parent", "INSERT")? >= 4);
    let foreign =
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f'";
    assert_eq!(replica.query_i64(foreign)?, 1);
    group.daemon.finish()
}

/// Random changes of few rows, so that they meet in one batch: one replica follows at once, one
/// gets everything reduced to its net effect.
#[test]
fn random_histories_end_equal_at_any_batch_size() -> Result<()> {
    let group = Group::start(2, |primary| {
        primary.execute(
            "CREATE TABLE r (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, body text, n int);
             ALTER TABLE r ALTER body SET STORAGE EXTERNAL;
             CREATE TABLE k (a int, b text, n int); ALTER TABLE k REPLICA IDENTITY FULL;
             CREATE TABLE p (x int, y int, v text, PRIMARY KEY (y, x));",
        )
    })?;
    group.equal()?;
    for round in 1..=3 {
        group.replctl(&["pause", "replica-2"])?;
        group.primary.execute(&random_history(round, 1500))?;
        group.replctl(&["resume", "replica-2"])?;
        group.equal()?;
    }
    wait_until("both replicas idle", PATIENCE, || {
        Ok(group.state(1)?.queue_transactions == 0 && group.state(2)?.queue_transactions == 0)
    })?;
    group.daemon.finish()
}

fn random_history(seed: u32, transactions: u32) -> String {
    format!(
        "SELECT setseed(0.{seed});
         DO $do$
         DECLARE a int; b int; c int;
         BEGIN
           FOR i IN 1..{transactions} LOOP
             FOR j IN 1..1 + (random() * 4)::int LOOP
               a := (random() * 20)::int; b := (random() * 20)::int; c := (random() * 11)::int;
               CASE c
                 WHEN 0, 1 THEN INSERT INTO r SELECT a, a, repeat(md5(i::text), 100), j
                     WHERE NOT EXISTS (SELECT FROM r WHERE id = a OR u = a);
                 WHEN 2 THEN DELETE FROM r WHERE id = a;
                 WHEN 3 THEN UPDATE r SET id = b WHERE id = a AND NOT EXISTS (SELECT FROM r WHERE id = b);
                 WHEN 4 THEN UPDATE r SET n = n + 1 WHERE id = a;
                 WHEN 5 THEN UPDATE r SET body = body || 'x' WHERE id = a;
                 WHEN 6 THEN UPDATE r SET u = CASE id WHEN a THEN (SELECT u FROM r WHERE id = b)
                                                      ELSE (SELECT u FROM r WHERE id = a) END
                     WHERE id IN (a, b) AND (SELECT count(*) FROM r WHERE id IN (a, b)) = 2;
                 WHEN 7 THEN INSERT INTO k VALUES (a % 4, nullif(b % 3, 0)::text, NULL);
                 WHEN 8 THEN DELETE FROM k WHERE ctid = (SELECT min(ctid) FROM k WHERE k.a = a % 4);
                 WHEN 9 THEN UPDATE k SET n = b % 2 WHERE ctid = (SELECT max(ctid) FROM k WHERE k.a = b % 4);
                 WHEN 10 THEN INSERT INTO p VALUES (a % 6, b % 6, i::text)
                     ON CONFLICT (y, x) DO UPDATE SET v = excluded.v || '+';
                 ELSE IF b > 17 THEN DELETE FROM p WHERE y = a % 6;
                      ELSIF b = 0 AND a = 0 THEN TRUNCATE k;
                      ELSE UPDATE p SET x = x + 6 WHERE y = a % 6 AND x < 6
                               AND NOT EXISTS (SELECT FROM p q WHERE q.y = a % 6 AND q.x >= 6); END IF;
               END CASE;
             END LOOP;
             IF random() < 0.05 THEN ROLLBACK; ELSE COMMIT; END IF;
           END LOOP;
         END $do$"
    )
    // In the function body `a` and `b` are its variables; the columns are always qualified.
    .replace("$do$\n         DECLARE", "$do$\n         #variable_conflict use_variable\n         DECLARE")
}
