//! Enum types that gain labels while values of them are followed.

use anyhow::Result;
use repl_api::ErrorKind;

use super::group::{Group, assert_contains};

const LABELS: &str =
    "SELECT t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
                      ORDER BY 1, e.enumsortorder";

#[test]
fn added_labels_are_followed_and_renamed_ones_stop_with_the_statement() -> Result<()> {
    let mut group = Group::start(1, |primary| {
        primary.execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE size AS ENUM ('m');
             CREATE DOMAIN fit AS size; CREATE TYPE shirt AS (s size, price int);
             CREATE TABLE t (id int PRIMARY KEY, m mood, f fit, many mood[], s shirt);
             INSERT INTO t VALUES (1, 'ok', 'm', '{sad,ok}', '(m,1)')",
        )
    })?;
    group.equal()?;
    // At the beginning, in between and at the end; reached by a domain, an array and a composite; in
    // one batch with rows that need none of them.
    group.primary.execute(
        "INSERT INTO t VALUES (2, 'sad'); ALTER TYPE mood ADD VALUE 'it''s \"bad\"' BEFORE 'sad';
         ALTER TYPE mood ADD VALUE 'fine' AFTER 'sad'; ALTER TYPE mood ADD VALUE 'happy';
         ALTER TYPE size ADD VALUE 's' BEFORE 'm'",
    )?;
    group.primary.execute(
        "INSERT INTO t VALUES (3, 'it''s \"bad\"', 's', '{happy}', '(s,2)'); UPDATE t SET m = 'fine' WHERE id = 1",
    )?;
    group.equal()?;
    assert_eq!(group.primary.query(LABELS)?, group.replica().query(LABELS)?);
    // While the daemon is down, and met by a copy of a table that is new.
    assert!(group.daemon.terminate()?.success());
    group
        .primary
        .execute("ALTER TYPE size ADD VALUE 'xl'; ALTER TYPE mood ADD VALUE 'great'")?;
    group.primary.execute(
        "UPDATE t SET m = 'great'; CREATE TABLE copied (id int PRIMARY KEY, s size);
         INSERT INTO copied VALUES (1, 'xl')",
    )?;
    group.daemon.start()?;
    group.equal()?;
    assert_eq!(group.primary.query(LABELS)?, group.replica().query(LABELS)?);
    // A label under another name is not added: rows would keep the old one.
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group
        .primary
        .execute("ALTER TYPE mood RENAME VALUE 'great' TO 'grand'")?;
    group.primary.execute("INSERT INTO t VALUES (4, 'grand')")?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Data, "{error:?}");
    assert_contains(&error.advice, "RENAME VALUE");
    assert_contains(&error.advice, "'grand' at the primary");
    group
        .replica()
        .execute("ALTER TYPE mood RENAME VALUE 'great' TO 'grand'")?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    group.daemon.finish()
}
