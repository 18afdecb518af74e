//! Finding PostgreSQL's programs and the account its server may run as.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::process::run;

/// The PostgreSQL installation the tests use.
#[derive(Debug, Clone)]
pub struct Installation {
    bin: PathBuf,
    version: String,
    user: Option<String>,
}

impl Installation {
    /// The installation named by `REPL_TEST_PG_BIN`, else the newest Debian one; found once per
    /// process.
    ///
    /// # Errors
    /// When there is none, or when we are root and there is no `postgres` account to run it as.
    pub fn get() -> Result<&'static Self> {
        static FOUND: OnceLock<Result<Installation, String>> = OnceLock::new();
        match FOUND.get_or_init(|| Self::find().map_err(|error| format!("{error:#}"))) {
            Ok(found) => Ok(found),
            Err(message) => bail!("{message}"),
        }
    }

    /// Path of one program, for example `pgbench`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The version as the server states it, for example `15.13`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, for example 15.
    ///
    /// # Errors
    /// When the version does not begin with a number.
    pub fn major(&self) -> Result<u32> {
        let digits: String = self
            .version
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits
            .parse()
            .with_context(|| format!("PostgreSQL version {:?}", self.version))
    }

    /// The account the server runs as when it is not our own.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Hands a directory tree to the server's account.
    ///
    /// # Errors
    /// When `chown` fails.
    pub fn give(&self, path: &Path) -> Result<()> {
        match &self.user {
            Some(user) => run(Command::new("chown")
                .args(["-R", &format!("{user}:{user}")])
                .arg(path))
            .map(drop),
            None => Ok(()),
        }
    }

    fn find() -> Result<Self> {
        let bin = match std::env::var_os("REPL_TEST_PG_BIN") {
            Some(dir) => PathBuf::from(dir),
            None => newest_debian_bin()?,
        };
        let output = run(Command::new(bin.join("postgres")).arg("--version"))
            .with_context(|| format!("no PostgreSQL server in {}", bin.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .split_whitespace()
            .nth(2)
            .with_context(|| format!("cannot read a version from {text:?}"))?
            .to_owned();
        Ok(Self {
            bin,
            version,
            user: server_user()?,
        })
    }
}

fn newest_debian_bin() -> Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let mut majors: Vec<u32> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|major: &u32| root.join(major.to_string()).join("bin/postgres").exists())
        .collect();
    majors.sort_unstable();
    let newest = majors.last().context(
        "no PostgreSQL server below /usr/lib/postgresql; install the package `postgresql`, \
         run scripts/test.sh, or set REPL_TEST_PG_BIN",
    )?;
    Ok(root.join(newest.to_string()).join("bin"))
}

/// PostgreSQL refuses to run as root; a test run as root uses the package's own account.
fn server_user() -> Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    run(Command::new("id").arg("postgres")).context(
        "running as root, and there is no account `postgres` for the server to run as; \
         install the package `postgresql` or run the tests as an ordinary user",
    )?;
    Ok(Some("postgres".to_owned()))
}
