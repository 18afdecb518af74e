//! Real MariaDB servers, one data directory each, on loopback and a Unix socket.
//!
//! The harness itself talks to them by the `mariadb` program over the socket, not by the driver
//! that is under test.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::daemon::binaries::target_dir;
use crate::pg::DATABASE;
use crate::process::{self, check_output, kill_tree, run, spawn_tied, tail, tied_command};
use crate::scratch::Scratch;
use crate::{ports::Port, process::wait_exit};

/// The account the daemon applies with.
pub const APPLY_USER: &str = "repl_apply";
/// Its password; it holds a character that URLs must escape.
const APPLY_PASSWORD: &str = "repl_apply-pass%word";
/// Raise when what the template holds changes.
const GENERATION: u32 = 1;
/// How long a server may take to start, recovery on a loaded machine included.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One MariaDB server with the database [`DATABASE`]. Dropping it ends its process.
#[derive(Debug)]
pub struct MariaDb {
    name: String,
    scratch: Scratch,
    port: Port,
    server: Option<Child>,
    arguments: Vec<String>,
}

impl MariaDb {
    /// Makes a data directory, starts the server on it and grants the apply account what the
    /// connector's documentation asks for, on [`DATABASE`] and on each of `databases`.
    ///
    /// Every commit is flushed: what a replica reported as applied survives SIGKILL.
    ///
    /// # Errors
    /// When MariaDB is not installed or the server does not come up.
    pub fn start_new(name: &str, databases: &[&str]) -> Result<Self> {
        Self::start_with(name, databases, &[])
    }

    /// [`MariaDb::start_new`] with more arguments for the server; later ones win.
    ///
    /// # Errors
    /// As [`MariaDb::start_new`].
    pub fn start_with(name: &str, databases: &[&str], arguments: &[&str]) -> Result<Self> {
        let mut server = Self {
            name: name.to_owned(),
            scratch: Scratch::new()?,
            port: Port::reserve()?,
            server: None,
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        };
        copy_tree(&template()?, &server.data_dir())?;
        fs::create_dir(server.socket_dir())?;
        fs::set_permissions(server.socket_dir(), fs::Permissions::from_mode(0o755))?;
        give(&server.data_dir())?;
        give(&server.socket_dir())?;
        server.start()?;
        server.create_account(databases)?;
        Ok(server)
    }

    /// The name given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("mariadb.sock")
    }

    /// The server's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.scratch.join("server.log")
    }

    /// URL of a database over TCP for the daemon's account.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (password, port) = (APPLY_PASSWORD.replace('%', "%25"), self.port.number());
        format!("mysql://{APPLY_USER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Starts a stopped server and waits until it answers.
    ///
    /// # Errors
    /// When it runs already or does not come up; the error shows the end of its log.
    pub fn start(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("MariaDB server {} runs already", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = tied_command(&program("mariadbd")?, "KILL", server_user());
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.data_dir().display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--port={}", self.port.number()))
            // At its start a server removes what it holds to be its own temporary files.
            .arg(format!("--tmpdir={}", self.data_dir().display()))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=64M", "--max-connections=60"])
            .args(["--performance-schema=OFF", "--local-infile=ON"])
            // What installations of old have, so that the daemon's own settings are seen to count.
            .args(["--character-set-server=latin1", "--sql-mode="])
            .arg("--default-time-zone=+05:00")
            .args(&self.arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.server = Some(spawn_tied(command).context("cannot start mariadbd")?);
        self.wait_ready().with_context(|| {
            let log = tail(&self.log_file(), 30);
            format!(
                "MariaDB server {} did not come up; its log ends:\n{log}",
                self.name
            )
        })
    }

    /// Stops the server in good order.
    ///
    /// # Errors
    /// When it does not run or still runs after `timeout`.
    pub fn stop(&mut self, timeout: Duration) -> Result<()> {
        let child = self.server.as_mut().context("the server does not run")?;
        process::signal(child.id(), Signal::TERM)?;
        wait_exit(child, "mariadbd", timeout)?;
        self.server = None;
        Ok(())
    }

    /// SIGKILL: a crash of the server.
    ///
    /// # Errors
    /// When it does not run or cannot be killed.
    pub fn kill9(&mut self) -> Result<()> {
        let child = self.server.take();
        kill_tree(&mut child.with_context(|| format!("MariaDB server {} does not run", self.name))?)
    }

    /// Runs a script as `root` in [`DATABASE`]; stops at the first error.
    ///
    /// # Errors
    /// When a statement fails; the error carries the client's message.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.client(DATABASE, sql).map(drop)
    }

    /// Runs a script in [`DATABASE`] and returns its rows as the client's batch mode prints them:
    /// a line per row, columns separated by tabs, NULL as `NULL`, control characters escaped.
    ///
    /// # Errors
    /// As [`MariaDb::execute`].
    pub fn query(&self, sql: &str) -> Result<String> {
        self.client(DATABASE, sql)
    }

    /// [`MariaDb::query`] for a single number.
    ///
    /// # Errors
    /// When the query fails or its answer is not one integer.
    pub fn query_i64(&self, sql: &str) -> Result<i64> {
        let text = self.query(sql)?;
        text.parse()
            .with_context(|| format!("{sql} gave {text:?}, not an integer"))
    }

    fn client(&self, database: &str, sql: &str) -> Result<String> {
        let mut child = Command::new(program("mariadb")?)
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.socket().display()))
            .args(["--user=root", "--batch", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--init-command"])
            .arg("SET time_zone = '+00:00', sql_mode = ''")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the program mariadb")?;
        let mut stdin = child
            .stdin
            .take()
            .context("mariadb has no standard input")?;
        let script = sql.to_owned();
        // A thread of its own: the client may print more than a pipe holds before it has read all.
        let writer = thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output()?;
        // It stops reading at the first error; its own message says more than the broken pipe.
        let _ = writer.join();
        let what = format!("mariadb on {} with\n{sql:.1500}\n", self.name);
        let output = check_output(&what, output)?;
        let text = String::from_utf8(output.stdout).context("mariadb printed invalid UTF-8")?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    fn create_account(&self, databases: &[&str]) -> Result<()> {
        let mut script = format!(
            "CREATE DATABASE {DATABASE};
             CREATE USER {APPLY_USER}@'%' IDENTIFIED BY '{APPLY_PASSWORD}';
             GRANT ALL PRIVILEGES ON repl.* TO {APPLY_USER}@'%';\n"
        );
        for database in databases.iter().chain([&DATABASE]) {
            script += &format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON `{database}`.* TO {APPLY_USER}@'%';
                 GRANT CREATE, DROP, ALTER, INDEX, REFERENCES ON `{database}`.* TO {APPLY_USER}@'%';\n"
            );
        }
        self.client("mysql", &script).map(drop)
    }

    fn socket_dir(&self) -> PathBuf {
        self.scratch.join("sock")
    }

    fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let child = self.server.as_mut().context("not started")?;
            if let Some(status) = child.try_wait()? {
                self.server = None;
                bail!("the server ended with {status}");
            }
            if self.client("mysql", "SELECT 1").is_ok() {
                return Ok(());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("not ready after {START_TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = tail(&self.log_file(), 15);
            eprintln!("--- log of MariaDB server {} ends:\n{log}\n---", self.name);
        }
        if let Some(mut child) = self.server.take()
            && let Err(error) = kill_tree(&mut child)
        {
            eprintln!("MariaDB server {}: {error:#}", self.name);
        }
    }
}

/// The installed server's version, for example `10.11.14-MariaDB-0+deb12u2`.
///
/// # Errors
/// When MariaDB is not installed.
pub fn version() -> Result<String> {
    let output = run(Command::new(program("mariadbd")?).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .nth(2)
        .map(str::to_owned)
        .with_context(|| format!("cannot read a version from {text:?}"))
}

/// The cached data directory, made first when absent; a file lock keeps test processes that start
/// together from making it twice.
fn template() -> Result<PathBuf> {
    let cache = target_dir()?;
    let name = format!("mariadb-template-{}-{GENERATION}", version()?);
    let path = cache.join(&name);
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock().context("cannot lock the MariaDB template")?;
    if path.exists() {
        return Ok(path);
    }
    let scratch = Scratch::new()?;
    let fresh = scratch.join("data");
    fs::create_dir(&fresh)?;
    give(&fresh)?;
    let install = tied_command(&program("mariadb-install-db")?, "KILL", server_user())
        .arg("--no-defaults")
        .arg(format!("--datadir={}", fresh.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
        .current_dir("/")
        .output()
        .context("cannot start mariadb-install-db")?;
    check_output("mariadb-install-db", install)?;
    let partial = cache.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    copy_tree(&fresh, &partial)?;
    fs::rename(&partial, &path)?;
    Ok(path)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=always", "-T"])
        .arg(from)
        .arg(to))
    .map(drop)
}

/// Hands a directory tree to the server's account.
fn give(path: &Path) -> Result<()> {
    match server_user() {
        Some(user) => run(Command::new("chown")
            .args(["-R", &format!("{user}:{user}")])
            .arg(path))
        .map(drop),
        None => Ok(()),
    }
}

/// MariaDB refuses to run as root; a test run as root uses the package's own account.
fn server_user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("mysql")
}

fn program(name: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "the program {name} is not installed; install the package `mariadb-server` or \
                 run scripts/test.sh"
            )
        })
}
