//! Scratch directories that a server running as another user can enter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A directory removed on drop, mode 0755 (PostgreSQL may run as another user than the test).
///
/// The name is short: Unix socket paths inside must stay below 108 bytes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    // None when REPL_TEST_KEEP asks to leave everything in place.
    guard: Option<TempDir>,
}

impl Scratch {
    /// Makes a new, empty scratch directory under the system's temporary directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("repl-")
            .rand_bytes(8)
            .tempdir()
            .context("cannot make a scratch directory; is the temporary directory writable?")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        if std::env::var_os("REPL_TEST_KEEP").is_some() {
            let path = dir.keep();
            eprintln!("scratch directory kept: {}", path.display());
            return Ok(Self { path, guard: None });
        }
        Ok(Self {
            path: dir.path().to_path_buf(),
            guard: Some(dir),
        })
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside the directory.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the directory will be left in place.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.guard.is_none()
    }
}
