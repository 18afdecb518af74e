//! Talking to a test server: psql for scripts, pgbench for load, sessions that stay open.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use sqlx::{Connection, PgConnection, Row};
use tokio::runtime::{Builder, Runtime};

use super::{DATABASE, PgServer, Role};
use crate::process::{self, check_output, run, spawn_tied, tail, tied_command, wait_exit};
use crate::wait::wait_until;

impl PgServer {
    /// Runs a script in the database `app` as the superuser; stops at the first error.
    ///
    /// # Errors
    /// When a statement fails; the error carries psql's messages.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.psql(DATABASE, Role::Superuser, sql).map(drop)
    }

    /// Runs a script and returns its rows: a line per row, columns separated by `|`, NULL empty.
    ///
    /// # Errors
    /// As [`PgServer::execute`].
    pub fn query(&self, sql: &str) -> Result<String> {
        self.psql(DATABASE, Role::Superuser, sql)
    }

    /// [`PgServer::query`] for a single number.
    ///
    /// # Errors
    /// When the query fails or its answer is not one integer.
    pub fn query_i64(&self, sql: &str) -> Result<i64> {
        let text = self.query(sql)?;
        text.parse()
            .with_context(|| format!("{sql} gave {text:?}, not an integer"))
    }

    /// Waits until everything written so far has been acknowledged as flushed to a slot.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_acknowledged(&self, limit: Duration) -> Result<()> {
        let end = self.query("SELECT pg_current_wal_insert_lsn()")?;
        let acknowledged = format!(
            "SELECT coalesce(max(confirmed_flush_lsn), '0/0') >= '{end}' FROM pg_replication_slots"
        );
        wait_until("the acknowledgement", limit, || {
            Ok(self.query(&acknowledged)? == "t")
        })
    }

    /// Runs a script over the Unix socket in any database as any role.
    ///
    /// # Errors
    /// As [`PgServer::execute`].
    pub fn psql(&self, database: &str, role: Role, sql: &str) -> Result<String> {
        let output = self.psql_bytes(database, role, sql)?;
        let text = String::from_utf8(output).context("psql printed text that is not UTF-8")?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// [`PgServer::psql`] with the output as psql wrote it.
    ///
    /// # Errors
    /// As [`PgServer::execute`].
    pub fn psql_bytes(&self, database: &str, role: Role, sql: &str) -> Result<Vec<u8>> {
        let mut command = self.client_command("psql", database, role);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start psql")?;
        let mut stdin = child.stdin.take().context("psql has no standard input")?;
        let script = sql.to_owned();
        // A thread of its own: psql may print more than a pipe holds before it has read all.
        let writer = thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output()?;
        // psql stops reading at the first error; its own message says more than the broken pipe.
        let _ = writer.join();
        let what = format!("psql on {} with\n{}\n", self.name, shorten(sql));
        check_output(&what, output).map(|output| output.stdout)
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

    /// Opens a session that stays open, over TCP.
    ///
    /// # Errors
    /// When the connection is refused.
    pub fn session(&self, database: &str, role: Role) -> Result<Session> {
        Session::open(&self.url(database, role))
    }

    /// Runs pgbench with `arguments` in the database `app` to its end and returns its report.
    ///
    /// # Errors
    /// When pgbench fails.
    pub fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.client_command("pgbench", DATABASE, Role::Superuser);
        let output = run(command.args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts pgbench in the background.
    ///
    /// # Errors
    /// When pgbench cannot be started.
    pub fn spawn_pgbench(&self, arguments: &[&str]) -> Result<PgBench> {
        let report = self
            .scratch
            .join(&format!("pgbench-{}.log", std::process::id()));
        let log = File::options().create(true).append(true).open(&report)?;
        let program = self.installation.program("pgbench");
        let mut command = tied_command(&program, "KILL", None);
        self.connect_environment(&mut command, DATABASE, Role::Superuser);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = spawn_tied(command).context("cannot start pgbench")?;
        Ok(PgBench { child, report })
    }

    fn client_command(&self, program: &str, database: &str, role: Role) -> Command {
        let mut command = Command::new(self.installation.program(program));
        self.connect_environment(&mut command, database, role);
        command
    }

    fn connect_environment(&self, command: &mut Command, database: &str, role: Role) {
        command
            .env("PGHOST", self.socket_dir())
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", role.name())
            .env("PGDATABASE", database)
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGOPTIONS", "--client-min-messages=warning")
            .env_remove("PGSERVICE")
            .current_dir("/");
    }
}

/// A pgbench run in the background; killed when dropped.
#[derive(Debug)]
pub struct PgBench {
    child: Child,
    report: PathBuf,
}

impl PgBench {
    /// Waits for the end; pgbench fails when the server went away under it.
    ///
    /// # Errors
    /// When it still runs after `timeout` or failed; the error shows what it printed.
    pub fn finish(mut self, timeout: Duration) -> Result<()> {
        let status = wait_exit(&mut self.child, "pgbench", timeout)?;
        if !status.success() {
            bail!("pgbench ended with {status}:\n{}", tail(&self.report, 20));
        }
        Ok(())
    }

    /// Stops the load now, as Ctrl-C does, and waits for the end.
    ///
    /// # Errors
    /// When pgbench does not end within 10 s.
    pub fn interrupt(mut self) -> Result<()> {
        process::signal(self.child.id(), Signal::INT)?;
        wait_exit(&mut self.child, "pgbench", Duration::from_secs(10)).map(drop)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for PgBench {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that stays open: for transactions a test holds, and for clients whose every
/// answer matters. Blocking; it owns its small runtime.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    connection: Option<PgConnection>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// When the server refuses or is not there.
    pub fn open(url: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(PgConnection::connect(url))?;
        Ok(Self {
            runtime,
            connection: Some(connection),
        })
    }

    /// Runs statements by the simple protocol and returns the number of rows they touched.
    ///
    /// # Errors
    /// The server's error, or the lost connection.
    pub fn execute(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        let done = self.runtime.block_on(statement.execute(connection))?;
        Ok(done.rows_affected())
    }

    /// Runs a query for its first row's first column, as text (cast it in SQL).
    ///
    /// # Errors
    /// The server's error, no row, or a column that is not text.
    pub fn scalar(&mut self, sql: &str) -> Result<Option<String>, sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        let row = self.runtime.block_on(statement.fetch_one(connection))?;
        row.try_get(0)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // A polite goodbye; the server may be gone, frozen or unreachable by now.
            let goodbye =
                async { tokio::time::timeout(Duration::from_secs(1), connection.close()).await };
            let _ = self.runtime.block_on(goodbye);
        }
    }
}

fn shorten(sql: &str) -> String {
    match sql.char_indices().nth(1500) {
        Some((end, _)) => format!("{} …", &sql[..end]),
        None => sql.to_owned(),
    }
}
