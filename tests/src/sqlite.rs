//! SQLite databases in WAL mode, written in this process and by the `sqlite3` program in another.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

use crate::process::check_output;

/// A database file used by a test. It is not removed on drop; it lives in the test's scratch.
#[derive(Debug, Clone)]
pub struct SqliteDb {
    path: PathBuf,
}

impl SqliteDb {
    /// Makes a new database in WAL mode.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let db = Self {
            path: path.to_path_buf(),
        };
        let connection = db.connect()?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        Ok(db)
    }

    /// Names a database that exists or that the daemon is to make.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The URL for the daemon's configuration.
    #[must_use]
    pub fn url(&self) -> String {
        format!("sqlite://{}", self.path.display())
    }

    /// Opens a connection that waits 10 s for locks.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn connect(&self) -> Result<Connection> {
        let connection = Connection::open(&self.path)
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        connection.busy_timeout(Duration::from_secs(10))?;
        Ok(connection)
    }

    /// Opens a connection that cannot write, to an existing file.
    ///
    /// # Errors
    /// When the file is absent or unreadable.
    pub fn connect_read_only(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        connection.busy_timeout(Duration::from_secs(10))?;
        Ok(connection)
    }

    /// Runs a script on a connection of its own.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn execute(&self, sql: &str) -> Result<()> {
        let connection = self.connect()?;
        connection
            .execute_batch(sql)
            .with_context(|| format!("in {}", self.path.display()))
    }

    /// Runs an SQL file.
    ///
    /// # Errors
    /// When the file cannot be read or a statement fails.
    pub fn execute_file(&self, path: &Path) -> Result<()> {
        let sql = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        self.execute(&sql)
            .with_context(|| path.display().to_string())
    }

    /// The first column of a query's first row as an integer.
    ///
    /// # Errors
    /// When the query fails or its answer is not an integer.
    pub fn query_i64(&self, sql: &str) -> Result<i64> {
        let connection = self.connect_read_only()?;
        connection
            .query_row(sql, [], |row| row.get(0))
            .with_context(|| sql.to_owned())
    }

    /// Runs a script with the `sqlite3` program, another process with its own library, and
    /// returns what it printed; `None` when the program is not installed.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn run_cli(&self, sql: &str) -> Result<Option<String>> {
        let spawned = Command::new("sqlite3")
            .args(["-batch", "-bail", "-cmd", ".timeout 10000"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("NOT TESTED: the program sqlite3 is not installed");
                return Ok(None);
            }
            Err(error) => return Err(error).context("cannot start sqlite3"),
        };
        let mut stdin = child
            .stdin
            .take()
            .context("sqlite3 has no standard input")?;
        // With -bail it stops reading at the first error; its message follows below.
        let _ = stdin.write_all(sql.as_bytes());
        drop(stdin);
        let output = check_output("sqlite3", child.wait_with_output()?)?;
        Ok(Some(
            String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned(),
        ))
    }

    /// The whole database's own integrity check.
    ///
    /// # Errors
    /// When SQLite finds damage.
    pub fn check_integrity(&self) -> Result<()> {
        let connection = self.connect_read_only()?;
        let answer: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        anyhow::ensure!(
            answer == "ok",
            "{} is damaged: {answer}",
            self.path.display()
        );
        Ok(())
    }
}
