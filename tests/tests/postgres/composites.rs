//! Composite types that are altered under a table: a value is a text that does not name its attributes.

use anyhow::Result;
use repl_api::ErrorKind;

use super::group::{Group, assert_contains};

const SEED: &str = "
CREATE TYPE basket AS (apples int, pears int); CREATE TYPE pallet AS (baskets basket[], n int);
CREATE DOMAIN checked AS basket CHECK ((value).pears > 0);
CREATE TABLE t (id int PRIMARY KEY, v basket); INSERT INTO t VALUES (1, '(1,2)');
CREATE TABLE nested (id int PRIMARY KEY, p pallet, c checked); INSERT INTO nested VALUES (1, '(\"{\"\"(1,2)\"\"}\",1)', '(1,2)');
CREATE TABLE other (id int PRIMARY KEY);
";

#[test]
fn an_altered_composite_stops_before_the_first_row_it_concerns() -> Result<()> {
    let mut group = Group::start(1, |primary| primary.execute(SEED))?;
    group.equal()?;
    for text in ["replica paused until", "ordered by the operator"] {
        group.daemon.allow_log(text);
    }
    group.primary.execute(
        "INSERT INTO other VALUES (1); INSERT INTO t VALUES (2, '(3,4)');
         ALTER TYPE basket DROP ATTRIBUTE apples; ALTER TYPE basket ADD ATTRIBUTE kiwis int;
         INSERT INTO t VALUES (3, '(5,6)'); INSERT INTO other VALUES (2)",
    )?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert_eq!(error.table.as_deref(), Some("public.t"));
    assert_contains(&error.message, "values would land in other attributes");
    let found = group
        .replica()
        .query("SELECT count(*) FROM t WHERE id = 3")?;
    assert_eq!(found, "0");
    assert_eq!(group.replica().query("SELECT count(*) FROM other")?, "1");
    let statements = error.advice.split("; then").next().unwrap_or_default();
    assert_contains(statements, "DROP ATTRIBUTE \"apples\"");
    group.replica().execute(statements)?;
    assert_contains(&error.advice, "resync replica-1 --tables public.t");
    group.replctl(&["resync", "replica-1", "--tables", "public.t", "--yes"])?;
    group.equal()?;
    let whole = "SELECT id, (v).pears, (v).kiwis FROM t ORDER BY id";
    assert_eq!(group.primary.query(whole)?, group.replica().query(whole)?);
    // Reached through an array in another type, and through a domain.
    group.primary.execute(
        "ALTER TYPE basket ADD ATTRIBUTE figs int;
         INSERT INTO nested VALUES (2, '(\"{\"\"(1,2,3)\"\"}\",1)', '(1,2,3)')",
    )?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.table.as_deref(), Some("public.nested"));
    let statements = error.advice.split("; then").next().unwrap_or_default();
    group.replica().execute(statements)?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    // A type that the replica has already, by the name and with the attributes in another order.
    group
        .replica()
        .execute("CREATE TYPE pre AS (b int, a int)")?;
    group.primary.execute(
        "CREATE TYPE pre AS (a int, b int); CREATE TABLE late (id int PRIMARY KEY, v pre);
         INSERT INTO late VALUES (1, '(1,2)')",
    )?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.table.as_deref(), Some("public.late"), "{error:?}");
    let statements = error.advice.split("; then").next().unwrap_or_default();
    group.replica().execute(statements)?;
    group.replctl(&["retry", "replica-1"])?;
    group.equal()?;
    assert_eq!(group.replica().query("SELECT (v).a FROM late")?, "1");
    group.daemon.finish()
}
