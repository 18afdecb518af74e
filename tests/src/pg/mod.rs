//! Real PostgreSQL servers, one data directory each, on loopback and a Unix socket.
//!
//! ```no_run
//! use repl_tests::pg::{PgServer, Role};
//! # fn main() -> anyhow::Result<()> {
//! let server = PgServer::builder("primary").start()?;
//! server.execute("CREATE TABLE t (id int PRIMARY KEY)")?;
//! println!("{}", server.url("app", Role::Superuser));
//! # Ok(()) }
//! ```

pub mod binaries;
mod builder;
mod client;
mod template;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

pub use builder::PgBuilder;
pub use client::{PgBench, Session};

use crate::ports::Port;
use crate::process::{self, kill_tree, spawn_tied, tail, tied_command, wait_exit};
use crate::scratch::Scratch;
use binaries::Installation;

/// The database every test server has from the start.
pub const DATABASE: &str = "app";

/// How long a server may take to start (crash recovery of a loaded machine included).
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The accounts every test server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `postgres`, the cluster's owner.
    Superuser,
    /// `app_owner`: an ordinary login, for owning tables.
    Application,
    /// `repl_capture`: may replicate, holds no other right until a test grants it.
    Capture,
    /// `repl_apply`: an ordinary login on replicas, holds no right until a test grants it.
    Apply,
}

impl Role {
    /// All accounts.
    pub const ALL: [Self; 4] = [
        Self::Superuser,
        Self::Application,
        Self::Capture,
        Self::Apply,
    ];

    /// The role's name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Superuser => "postgres",
            Self::Application => "app_owner",
            Self::Capture => "repl_capture",
            Self::Apply => "repl_apply",
        }
    }

    /// The role's password; it holds a character that URLs must escape.
    #[must_use]
    pub fn password(self) -> String {
        format!("{}-pass%word", self.name())
    }

    fn attributes(self) -> &'static str {
        match self {
            Self::Superuser => "SUPERUSER",
            Self::Capture => "NOSUPERUSER REPLICATION",
            Self::Application | Self::Apply => "NOSUPERUSER",
        }
    }
}

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// SIGTERM: waits for clients to leave.
    Smart,
    /// SIGINT: ends clients, waits for replication clients to have received everything.
    Fast,
    /// SIGQUIT: like a crash, but cleaned up; recovery at the next start.
    Immediate,
}

/// A saved data directory, to be put back later ("restored from an old copy").
#[derive(Debug)]
pub struct DataCopy {
    path: PathBuf,
}

/// One PostgreSQL server. Dropping it ends its processes.
#[derive(Debug)]
pub struct PgServer {
    name: String,
    installation: &'static Installation,
    scratch: Scratch,
    port: Port,
    postmaster: Option<Child>,
    copies: usize,
}

impl PgServer {
    /// Prepares a server; `name` appears in messages and as `cluster_name`.
    #[must_use]
    pub fn builder(name: &str) -> PgBuilder {
        PgBuilder::new(name)
    }

    /// The name given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's major version.
    ///
    /// # Errors
    /// When the installation's version is unreadable.
    pub fn major(&self) -> Result<u32> {
        self.installation.major()
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.scratch.join("sock")
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// The server's log file.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.scratch.join("server.log")
    }

    /// URL over TCP with the role's password.
    #[must_use]
    pub fn url(&self, database: &str, role: Role) -> String {
        self.url_via(self.port(), database, role)
    }

    /// [`PgServer::url`] through another port on 127.0.0.1, such as a proxy's.
    #[must_use]
    pub fn url_via(&self, port: u16, database: &str, role: Role) -> String {
        let password = role.password().replace('%', "%25");
        format!(
            "postgresql://{}:{password}@127.0.0.1:{port}/{database}",
            role.name()
        )
    }

    /// URL over the Unix socket, without a password. The `host` parameter overrides the host; many
    /// URL parsers refuse a user without one.
    #[must_use]
    pub fn socket_url(&self, database: &str, role: Role) -> String {
        let (name, port) = (role.name(), self.port());
        let dir = self.socket_dir();
        format!(
            "postgresql://{name}@localhost/{database}?host={}&port={port}",
            dir.display()
        )
    }

    /// The postmaster's process id while the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// Starts a stopped server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it runs already or does not come up; the error shows the end of its log.
    pub fn start(&mut self) -> Result<()> {
        if self.postmaster.is_some() {
            bail!("PostgreSQL server {} runs already", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let program = self.installation.program("postgres");
        // SIGQUIT when the test process dies: the server ends at once and removes its shared memory.
        let mut command = tied_command(&program, "QUIT", self.installation.user());
        command
            .arg("-D")
            .arg(self.data_dir())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.postmaster = Some(spawn_tied(command).context("cannot start postgres")?);
        self.wait_ready().with_context(|| {
            let log = tail(&self.log_file(), 30);
            format!(
                "PostgreSQL server {} did not come up; its log ends:\n{log}",
                self.name
            )
        })
    }

    /// Stops the server and returns how long it took.
    ///
    /// # Errors
    /// When it still runs after `timeout` (it is left running) or was not running.
    pub fn stop(&mut self, mode: StopMode, timeout: Duration) -> Result<Duration> {
        let started = Instant::now();
        let child = running(&self.name, &mut self.postmaster)?;
        let signal = match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        process::signal(child.id(), signal)?;
        wait_exit(
            child,
            &format!("PostgreSQL server {} ({mode:?} stop)", self.name),
            timeout,
        )?;
        self.postmaster = None;
        Ok(started.elapsed())
    }

    /// SIGKILL for the postmaster and every process below it: a crash of the machine's server.
    ///
    /// # Errors
    /// When the server does not run or a process cannot be killed.
    pub fn kill9(&mut self) -> Result<()> {
        kill_tree(running(&self.name, &mut self.postmaster)?)?;
        self.postmaster = None;
        Ok(())
    }

    /// Fast stop, then start.
    ///
    /// # Errors
    /// As [`PgServer::stop`] and [`PgServer::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast, Duration::from_secs(30))?;
        self.start()
    }

    /// SIGSTOP for the whole server: connections stay, nothing answers.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal_all(Signal::STOP)
    }

    /// Ends [`PgServer::freeze`].
    ///
    /// # Errors
    /// When the server does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal_all(Signal::CONT)
    }

    /// Adds a line to `postgresql.conf`; reload or restart afterwards.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        append_setting(&self.data_dir(), setting, value)
    }

    /// SIGHUP: the server reads its configuration again.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn reload(&mut self) -> Result<()> {
        process::signal(running(&self.name, &mut self.postmaster)?.id(), Signal::HUP)
    }

    /// Copies the data directory of the stopped server.
    ///
    /// # Errors
    /// When the server runs or the copy fails.
    pub fn save_copy(&mut self) -> Result<DataCopy> {
        self.require_stopped("save a copy of its data directory")?;
        self.copies += 1;
        let path = self.scratch.join(&format!("copy-{}", self.copies));
        template::copy_tree(&self.data_dir(), &path)?;
        Ok(DataCopy { path })
    }

    /// Replaces the stopped server's data directory by a saved copy, which stays usable.
    ///
    /// # Errors
    /// When the server runs or the copy fails.
    pub fn restore_copy(&mut self, copy: &DataCopy) -> Result<()> {
        self.require_stopped("restore its data directory")?;
        fs::remove_dir_all(self.data_dir())?;
        template::copy_tree(&copy.path, &self.data_dir())
    }

    fn require_stopped(&self, purpose: &str) -> Result<()> {
        match self.postmaster {
            Some(_) => bail!("stop PostgreSQL server {} first to {purpose}", self.name),
            None => Ok(()),
        }
    }

    fn signal_all(&mut self, signal: Signal) -> Result<()> {
        let root = running(&self.name, &mut self.postmaster)?.id();
        process::signal(root, signal)?;
        for pid in process::descendants(root)? {
            process::signal(pid, signal)?;
        }
        Ok(())
    }

    /// `pg_ctl status` reads the pid file's last line, which the server sets to `ready` itself.
    fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = running(&self.name, &mut self.postmaster)?.try_wait()? {
                self.postmaster = None;
                bail!("the server ended with {status}");
            }
            let pid_file = fs::read_to_string(self.data_dir().join("postmaster.pid"));
            let own_pid = self.pid().map(|pid| pid.to_string());
            if let Ok(text) = pid_file {
                let lines: Vec<&str> = text.lines().collect();
                let ours = lines.first().copied() == own_pid.as_deref();
                if ours && lines.last().is_some_and(|line| line.trim() == "ready") {
                    return Ok(());
                }
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("not ready after {START_TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) -> Result<()> {
        if let Some(mut child) = self.postmaster.take() {
            process::signal(child.id(), Signal::QUIT)?;
            // A frozen server does not see the request before it is woken.
            for pid in process::descendants(child.id())? {
                process::signal(pid, Signal::CONT)?;
            }
            process::signal(child.id(), Signal::CONT)?;
            if wait_exit(&mut child, &self.name, Duration::from_secs(8)).is_err() {
                kill_tree(&mut child)?;
            }
        }
        remove_shared_memory(&self.data_dir())
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = tail(&self.log_file(), 15);
            eprintln!(
                "--- log of PostgreSQL server {} ends:\n{log}\n---",
                self.name
            );
        }
        if let Err(error) = self.end() {
            eprintln!("PostgreSQL server {}: {error:#}", self.name);
        }
    }
}

fn running<'a>(name: &str, postmaster: &'a mut Option<Child>) -> Result<&'a mut Child> {
    postmaster
        .as_mut()
        .with_context(|| format!("PostgreSQL server {name} is not running"))
}

fn append_setting(data_dir: &Path, setting: &str, value: &str) -> Result<()> {
    let path = data_dir.join("postgresql.conf");
    let mut file = OpenOptions::new().append(true).open(&path)?;
    writeln!(file, "{setting} = '{}'", value.replace('\'', "''"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A server killed with SIGKILL leaves its tiny System V segment behind, named in the pid file;
/// hundreds of kill tests would use up the system's limit.
fn remove_shared_memory(data_dir: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(data_dir.join("postmaster.pid")) else {
        return Ok(());
    };
    let segment = text
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = segment {
        // Gone already when the server cleaned up after all: nothing to report.
        let _ = Command::new("ipcrm")
            .args(["-m", id])
            .stderr(Stdio::null())
            .status();
    }
    Ok(())
}
