//! Where the built programs are.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The cargo target directory this test binary was built into.
///
/// # Errors
/// When the test binary is not below a target directory and `CARGO_TARGET_DIR` is not set.
pub fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(dir));
    }
    // <target>/<profile>/deps/<test binary>
    let exe = std::env::current_exe().context("cannot find the test binary's own path")?;
    let deps = exe.ancestors().find(|dir| dir.ends_with("deps"));
    deps.and_then(|dir| dir.parent()?.parent())
        .map(PathBuf::from)
        .with_context(|| format!("{} is not in a cargo target directory", exe.display()))
}

/// Path of a program of this workspace, for example `repl-daemon`.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("REPL_TEST_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir()?.join("debug"),
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built; run `cargo build --workspace --bins --features \
             repl-daemon/failpoints` first (scripts/test.sh does)",
            path.display()
        );
    }
    Ok(path)
}
