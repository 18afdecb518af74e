//! `scripts/quickstart.sh` as a newcomer runs it: twice, then stopped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

fn run(arguments: &[&str]) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no parent")?;
    let output = Command::new("./scripts/quickstart.sh")
        .args(arguments)
        .current_dir(root)
        // The binaries were built before the tests; building others here would take minutes.
        .env("REPL_PROFILE", "dev")
        .env("REPL_QUICKSTART_BUILD", "no")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "quickstart failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

#[test]
fn the_quickstart_shows_the_main_job_and_can_be_run_again() -> Result<()> {
    for _ in 0..2 {
        let text = run(&[])?;
        for part in [
            "10000 orders",
            "ms after its commit",
            "replica-2",
            "streaming",
            "quickstart.sh stop",
        ] {
            ensure!(text.contains(part), "{part:?} is missing in: {text}");
        }
    }
    ensure!(run(&["stop"])?.contains("daemon stopped"));
    ensure!(run(&["stop"])?.is_empty());
    Ok(())
}
