//! `repl-daemon --check` finds what cannot be carried before anything starts.

use std::process::Command;

use anyhow::{Result, ensure};
use repl_tests::daemon::DaemonConfig;
use repl_tests::daemon::binaries::program;
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;

#[test]
fn check_names_what_cannot_be_carried_and_changes_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = SqliteDb::create(&scratch.join("primary.db"))?;
    primary.execute(
        "CREATE TABLE typed (id INTEGER PRIMARY KEY, n TEXT);
         CREATE TABLE untyped (id INTEGER PRIMARY KEY, anything);",
    )?;
    let objects = "SELECT count(*) FROM sqlite_schema";
    let before = primary.query_i64(objects)?;
    // The replica need not be there to be checked.
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &primary.url())
        .replica("pg", "postgresql://nobody@127.0.0.1:1/nowhere");
    let file = scratch.join("config.toml");
    let check = |text: &str| -> Result<(bool, String)> {
        std::fs::write(&file, text)?;
        let output = Command::new(program("repl-daemon")?)
            .arg("--check")
            .arg(&file)
            .output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (good, report) = check(&config.render())?;
    ensure!(!good, "{report}");
    for part in [
        "main.untyped",
        "anything",
        "allow = [{ table = \"main.untyped\"",
    ] {
        ensure!(report.contains(part), "{part:?} is missing in: {report}");
    }
    ensure!(!report.contains("main.typed cannot"), "{report}");
    let declared = "\n[node.convert]\n\
                    allow = [{ table = \"main.untyped\", column = \"anything\", rule = \"text\" }]\n";
    let (good, report) = check(&format!("{}{declared}", config.render()))?;
    ensure!(good, "{report}");
    ensure!(
        primary.query_i64(objects)? == before,
        "the check changed the primary"
    );
    ensure!(
        !scratch.join("log").exists(),
        "the check made the log directory"
    );
    Ok(())
}
