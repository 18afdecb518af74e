//! A primary in SQL_ASCII holds bytes in any encoding.

use std::process::Command;

use anyhow::Result;
use repl_api::{ErrorKind, PrimaryState};
use repl_tests::daemon::binaries::program;
use repl_tests::pg::{PgServer, Role};

use super::group::{Group, assert_contains};

fn in_sql_ascii(primary: &PgServer) -> Result<()> {
    primary.psql(
        "postgres",
        Role::Superuser,
        "DROP DATABASE app; CREATE DATABASE app ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
    )?;
    primary.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, v text);
         INSERT INTO t VALUES (1, 'gr\u{fc}n'); INSERT INTO other VALUES (1, 'a')",
    )
}

/// UTF-8 arrives as it is; what is not stops the replica at that row, by its name, and nobody else.
#[test]
fn a_text_that_is_not_utf8_is_named() -> Result<()> {
    let mut group = Group::prepared(1, in_sql_ascii, |config| config)?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    let output = Command::new(program("repl-daemon")?)
        .arg("--check")
        .arg(group.daemon.config_file())
        .output()?;
    let report = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{report}");
    assert_contains(
        &report,
        "warning: primary: the primary's database has the encoding SQL_ASCII",
    );
    group.daemon.start()?;
    group.caught_up()?;
    group
        .primary
        .execute("INSERT INTO t VALUES (2, '\u{20ac} 5')")?;
    group.caught_up()?;
    let texts = "SELECT string_agg(encode(convert_to(v, 'UTF8'), 'hex'), ' ' ORDER BY id) FROM t";
    assert_eq!(group.replica().query(texts)?, "6772c3bc6e e282ac2035");

    group
        .primary
        .execute("INSERT INTO other VALUES (2, 'b'); INSERT INTO t VALUES (3, E'caf\\xe9')")?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.kind, ErrorKind::Data, "{error:?}");
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error:?}");
    assert_contains(error.key.as_deref().unwrap_or_default(), "id=3");
    assert_contains(&error.advice, "UTF-8");
    assert_eq!(group.replica().query("SELECT count(*) FROM other")?, "2");
    assert_eq!(
        group.daemon.status()?.primary.state,
        PrimaryState::Streaming
    );
    Ok(())
}

/// A copy is refused likewise, and names the table.
#[test]
fn a_copy_of_a_text_that_is_not_utf8_names_its_table() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| {
            in_sql_ascii(primary)?;
            primary.execute("INSERT INTO other VALUES (3, E'caf\\xe9')")
        },
        |config| config,
    )?;
    group
        .daemon
        .allow_log("replica paused until the operator decides");
    group.daemon.start()?;
    let error = group.paused_by_error(1)?;
    assert_eq!(error.table.as_deref(), Some("public.other"), "{error:?}");
    group
        .primary
        .execute("UPDATE other SET v = 'cafe' WHERE id = 3")?;
    group.replctl(&["retry", "replica-1"])?;
    group.caught_up()?;
    assert_eq!(
        group.replica().query("SELECT v FROM other WHERE id = 3")?,
        "cafe"
    );
    group.daemon.finish()
}
