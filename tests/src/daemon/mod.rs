//! The daemon as users run it: its own process, a TOML file, a Unix socket, a log.

pub mod binaries;
mod config;
mod log_check;
mod progress;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use repl_api::{Client, ClientError, ReplicaStatus, Status};
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

pub use config::{DaemonConfig, Toml};

use crate::process::{self, kill_tree, spawn_tied, tail, tied_command, wait_exit};
use crate::scratch::Scratch;
use crate::wait::wait_for;

/// How long the daemon may take to answer on its socket after its start.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a clean shutdown may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// A daemon process and what belongs to it. Dropping it kills the process and then fails the test
/// if the log holds a WARN or ERROR line that was not declared with [`Daemon::allow_log`].
#[derive(Debug)]
pub struct Daemon {
    config: DaemonConfig,
    scratch: Scratch,
    environment: Vec<(String, String)>,
    /// The network namespace it runs in, when not in this one.
    namespace: Option<String>,
    child: Option<Child>,
    allowed: Vec<String>,
    check_log: bool,
    runtime: Runtime,
}

impl Daemon {
    /// Prepares a daemon without starting it.
    ///
    /// # Errors
    /// When its scratch directory or configuration cannot be written.
    pub fn new(config: DaemonConfig) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.join("api.sock").display().to_string();
        let daemon = Self {
            config: config.set("api", "socket", socket.as_str()),
            scratch,
            environment: Vec::new(),
            namespace: None,
            child: None,
            // Scratch directories are under /tmp, which the daemon rightly warns of.
            allowed: vec!["the event log is in a directory for temporary files".to_owned()],
            check_log: true,
            runtime: Builder::new_current_thread().enable_all().build()?,
        };
        daemon.write_config()?;
        Ok(daemon)
    }

    /// Prepares a daemon, starts it and waits until it answers.
    ///
    /// # Errors
    /// As [`Daemon::new`] and [`Daemon::start`].
    pub fn launch(config: DaemonConfig) -> Result<Self> {
        let mut daemon = Self::new(config)?;
        daemon.start()?;
        Ok(daemon)
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &DaemonConfig {
        &self.config
    }

    /// Replaces the configuration for the next start; the socket stays.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_config(&mut self, config: DaemonConfig) -> Result<()> {
        self.config = config.set(
            "api",
            "socket",
            self.socket().display().to_string().as_str(),
        );
        self.write_config()
    }

    /// Failpoints for the next start, for example `log.after_fsync=kill@3`; empty for none.
    pub fn set_failpoints(&mut self, failpoints: &str) {
        self.set_env("REPL_FAILPOINTS", failpoints);
    }

    /// Deliberate defects for the next start, for example `ack-before-fsync`; empty for none.
    pub fn set_sabotage(&mut self, defects: &str) {
        self.set_env("REPL_SABOTAGE", defects);
    }

    /// Sets (or, when `value` is empty, removes) an environment variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Has it run in this network namespace from the next start on.
    pub fn set_namespace(&mut self, name: &str) {
        self.namespace = Some(name.to_owned());
    }

    /// Declares WARN and ERROR lines that contain `text` as expected in this test.
    pub fn allow_log(&mut self, text: &str) {
        self.allowed.push(text.to_owned());
    }

    /// Switches the check of the log off, for tests whose point is chaos.
    pub fn ignore_log(&mut self) {
        self.check_log = false;
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.scratch.join("config.toml")
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("api.sock")
    }

    /// What the daemon wrote to standard output and error, over all its starts.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.scratch.join("daemon.log")
    }

    /// The process id.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn pid(&self) -> Result<u32> {
        self.child
            .as_ref()
            .map(Child::id)
            .context("the daemon is not running")
    }

    /// Starts the process and waits until it answers on its socket.
    ///
    /// # Errors
    /// When it ends or does not answer in time; the error shows the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the process without waiting.
    ///
    /// # Errors
    /// When it runs already or its program is not built.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("the daemon runs already");
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let program = binaries::program("repl-daemon")?;
        let mut command = match &self.namespace {
            Some(name) => {
                // Which becomes the program.
                let mut command = tied_command(Path::new("ip"), "KILL", None);
                command.args(["netns", "exec", name]).arg(program);
                command
            }
            None => tied_command(&program, "KILL", None),
        };
        command
            .arg(self.config_file())
            .env_remove("REPL_FAILPOINTS")
            .env_remove("REPL_SABOTAGE")
            .env_remove("NOTIFY_SOCKET")
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(spawn_tied(command).context("cannot start repl-daemon")?);
        Ok(())
    }

    /// Waits until the started process answers on its socket.
    ///
    /// # Errors
    /// When it ends or does not answer in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_exit()? {
                bail!(
                    "the daemon ended with {status}; its log ends:\n{}",
                    self.log_tail(25)
                );
            }
            if self.status().is_ok() {
                return Ok(());
            }
            if started.elapsed() > READY_TIMEOUT {
                bail!(
                    "no answer after {READY_TIMEOUT:?}; its log ends:\n{}",
                    self.log_tail(25)
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        kill_tree(&mut child)
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// When the daemon is not running or does not end in time (it is left running).
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        process::signal(self.pid()?, Signal::TERM)?;
        self.wait_exit(SHUTDOWN_TIMEOUT)
    }

    /// Clean shutdown: SIGTERM, exit code 0, and no unexpected line in the log.
    ///
    /// # Errors
    /// When any of that does not hold.
    pub fn finish(mut self) -> Result<()> {
        let status = self.terminate()?;
        if !status.success() {
            bail!(
                "after SIGTERM the daemon ended with {status}:\n{}",
                self.log_tail(25)
            );
        }
        let checked = self.check_log_now();
        self.check_log = false;
        checked
    }

    /// SIGKILL and start again.
    ///
    /// # Errors
    /// As [`Daemon::kill9`] and [`Daemon::start`].
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.kill9()?;
        self.start()
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the daemon is not running")?;
        let status = wait_exit(child, "repl-daemon", timeout).with_context(|| {
            format!(
                "the daemon's log ends:\n{}",
                tail(&self.scratch.join("daemon.log"), 25)
            )
        })?;
        self.child = None;
        Ok(status)
    }

    /// Waits for a failpoint to kill the process.
    ///
    /// # Errors
    /// When it still runs after `timeout` or ended in another way than by SIGKILL.
    pub fn wait_killed(&mut self, timeout: Duration) -> Result<()> {
        let status = self.wait_exit(timeout)?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            bail!(
                "the daemon ended with {status}, not by SIGKILL:\n{}",
                self.log_tail(25)
            );
        }
        Ok(())
    }

    /// The exit status when the process has ended by itself.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else {
            bail!("the daemon is not running")
        };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// The group's status.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn status(&self) -> Result<Status> {
        Ok(self.call(|client| async move { client.status().await })?)
    }

    /// Any call of the admin client, for example `daemon.call(|c| async move { c.pause("r").await })`.
    ///
    /// # Errors
    /// The client's error.
    pub fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let client = Client::new(self.socket()).with_timeout(Duration::from_secs(30));
        self.runtime.block_on(call(client))
    }

    /// Waits until `probe` finds in the status what it looks for. A daemon that does not answer
    /// for a moment is asked again.
    ///
    /// # Errors
    /// A timeout, showing the last status and the end of the log.
    pub fn wait_status<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T> {
        let mut last = String::from("none was received");
        let found = wait_for(what, timeout, || match self.status() {
            Ok(status) => {
                last = serde_json::to_string_pretty(&status)?;
                Ok(probe(&status))
            }
            Err(error) => {
                last = format!("no answer: {error:#}");
                Ok(None)
            }
        });
        found.with_context(|| {
            format!(
                "last status: {last}\nthe daemon's log ends:\n{}",
                self.log_tail(25)
            )
        })
    }

    /// Waits until one replica satisfies `probe`.
    ///
    /// # Errors
    /// As [`Daemon::wait_status`]; also when the replica is not in the status.
    pub fn wait_replica(
        &self,
        name: &str,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut(&ReplicaStatus) -> bool,
    ) -> Result<ReplicaStatus> {
        self.wait_status(&format!("{name}: {what}"), timeout, |status| {
            let replica = status
                .replicas
                .iter()
                .find(|replica| replica.name == name)?;
            probe(replica).then(|| replica.clone())
        })
    }

    /// Runs `replctl` against this daemon.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn replctl(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(binaries::program("replctl")?)
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot start replctl")
    }

    /// Resident memory now and its peak since the start, in KiB.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn memory_kib(&self) -> Result<(u64, u64)> {
        let pid = self.pid()?;
        Ok((process::rss_kib(pid)?, process::peak_rss_kib(pid)?))
    }

    /// Processor time used since the start.
    ///
    /// # Errors
    /// When the daemon is not running.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.pid()?)
    }

    /// Whether the log contains `text`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_contains(&self, text: &str) -> Result<bool> {
        let log = fs::read(self.log_file())?;
        Ok(String::from_utf8_lossy(&log).contains(text))
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log_file(), lines)
    }

    /// Fails when the log so far holds an undeclared WARN or ERROR.
    ///
    /// # Errors
    /// Those lines.
    pub fn check_log_now(&self) -> Result<()> {
        if self.check_log && self.log_file().exists() {
            return log_check::check(&self.log_file(), &self.allowed);
        }
        Ok(())
    }

    fn write_config(&self) -> Result<()> {
        write_private(&self.config_file(), &self.config.render())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(error) = self.kill9()
        {
            eprintln!("the daemon stays behind: {error:#}");
        }
        if thread::panicking() {
            eprintln!("--- the daemon's log ends:\n{}\n---", self.log_tail(40));
        } else if let Err(error) = self.check_log_now() {
            panic!("{error:#}");
        }
    }
}

/// The configuration holds passwords: nobody else may read it.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let mut file: File = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
