//! Columns that the primary generates, at replicas of other engines: computed to the same value, left out
//! on order, or refused where they would stay empty.

use anyhow::{Result, ensure};
use repl_tests::daemon::Toml;

use super::group::{Group, MARIADB, SQLITE, paused_by_error, replctl};

const TABLES: &str = "
CREATE TABLE bills (id int PRIMARY KEY, total numeric(12,2),
    vat numeric(12,2) GENERATED ALWAYS AS (total * 0.19) STORED, two int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO bills SELECT n, n / 100.0 - 1 FROM generate_series(1, 300) n; INSERT INTO bills VALUES (301, 1.13), (302, NULL);
CREATE TABLE hand (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO hand VALUES (1);
";

#[test]
fn generated_columns_hold_the_primarys_values_or_are_not_there() -> Result<()> {
    let mut group = Group::prepare(false, &[], |primary| primary.execute(TABLES))?;
    let without = Toml::raw("[{ table = \"public.bills\", column = \"two\" }]");
    let config = group.daemon.config().clone();
    let config = config.with_of(MARIADB, "convert.exclude", without.clone());
    let config = config.with_of(SQLITE, "convert.exclude", without);
    group.daemon.set_config(config)?;
    group.daemon.allow_log("replica paused until");
    group
        .mariadb
        .execute("CREATE TABLE app.hand (a int PRIMARY KEY, b int)")?;
    group
        .sqlite
        .execute("CREATE TABLE hand (a INTEGER PRIMARY KEY, b INTEGER)")?;
    group.daemon.start()?;
    for name in [MARIADB, SQLITE] {
        let error = paused_by_error(&group.daemon, name)?;
        ensure!(error.message.contains("an ordinary column"), "{error:?}");
        ensure!(error.advice.contains("RENAME COLUMN"), "{error:?}");
    }
    group
        .mariadb
        .execute("ALTER TABLE app.hand RENAME COLUMN b TO b_before")?;
    group
        .sqlite
        .execute("ALTER TABLE hand RENAME COLUMN b TO b_before")?;
    for name in [MARIADB, SQLITE] {
        replctl(&group.daemon, &["retry", name])?;
    }
    group.caught_up()?;
    group.primary.execute(
        "UPDATE bills SET total = total + 0.07 WHERE id % 3 = 0; INSERT INTO bills VALUES (400, 99.995)",
    )?;
    group.caught_up()?;
    let vat = |all: String| all.replace(['\t', '|'], " ").replace("NULL", "");
    let expected = vat(group
        .primary
        .query("SELECT id, vat FROM bills WHERE vat IS NOT NULL ORDER BY id")?);
    let found = vat(group
        .mariadb
        .query("SELECT id, vat FROM app.bills WHERE vat IS NOT NULL ORDER BY id")?);
    ensure!(expected.trim() == found.trim(), "{expected}\n{found}");
    let two = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'bills' AND column_name = 'two'";
    ensure!(group.mariadb.query_i64(two)? == 0);
    ensure!(
        group
            .sqlite
            .query_i64("SELECT count(*) FROM pragma_table_xinfo('bills') WHERE name = 'two'")?
            == 0
    );
    group.daemon.finish()
}
