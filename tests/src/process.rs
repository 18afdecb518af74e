//! Child processes: started tied to the test process, signalled by pid, observed through /proc.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// A command for a long-running child which the kernel signals with `death_signal` (a name such
/// as `KILL`) when the test process dies, and which runs as `user` when one is given.
///
/// `setpriv` (util-linux, essential on Debian) does both and then *becomes* the program, so the
/// child's pid is the program's.
#[must_use]
pub fn tied_command(program: &Path, death_signal: &str, user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg(death_signal);
    if let Some(user) = user {
        command
            .args([format!("--reuid={user}"), format!("--regid={user}")])
            .arg("--init-groups");
    }
    command.arg("--").arg(program);
    command
}

/// Spawns a [`tied_command`].
///
/// The kernel's death signal follows the spawning *thread*; spawning from a test's helper thread
/// would end the server with that thread. One thread that lives as long as the process spawns all.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_tied(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox): (Sender<Order>, Receiver<Order>) = channel();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A requester that gave up has no use for the child; it ends with this process.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = channel();
    let gone = || io::Error::other("the spawning thread has ended");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Sends `signal` to one process; a process that is gone already is no error.
///
/// # Errors
/// When the pid is invalid or the signal is not permitted.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = raw.with_context(|| format!("{pid} is not a process id"))?;
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Waits for a child's end.
///
/// # Errors
/// When it still runs after `timeout`; it is left running.
pub fn wait_exit(child: &mut Child, what: &str, timeout: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() >= timeout {
            bail!("{what} (pid {}) still runs after {timeout:?}", child.id());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Kills a process and everything below it with SIGKILL, and waits until all of them are gone.
///
/// The root is frozen first, so that it can neither start nor clean up children meanwhile.
///
/// # Errors
/// When a signal is refused or a process survives for 10 s.
pub fn kill_tree(child: &mut Child) -> Result<()> {
    let root = child.id();
    if child.try_wait()?.is_none() {
        signal(root, Signal::STOP)?;
    }
    let below = descendants(root)?;
    signal(root, Signal::KILL)?;
    for &pid in &below {
        signal(pid, Signal::KILL)?;
    }
    child.wait()?;
    wait_until(
        "killed processes to disappear",
        Duration::from_secs(10),
        || Ok(!below.iter().any(|&pid| is_running(pid))),
    )
}

/// All processes below `root`, children before grandchildren.
///
/// # Errors
/// When /proc is unreadable.
pub fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<u32>().ok()) else {
            continue;
        };
        // A process that ended between the listing and the read is simply not there.
        if let Some(parent) = stat_field(pid, 1).and_then(|text| text.parse::<u32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found: Vec<u32> = Vec::new();
    let mut frontier = vec![root];
    while let Some(current) = frontier.pop() {
        for &(pid, _) in parents.iter().filter(|(_, parent)| *parent == current) {
            found.push(pid);
            frontier.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process exists and is no zombie.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// Resident memory of a process now, in KiB.
///
/// # Errors
/// When the process is gone.
pub fn rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// The largest resident memory a process ever had, in KiB.
///
/// # Errors
/// When the process is gone.
pub fn peak_rss_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

/// Processor time a process has used (user and system).
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    // Linux reports in USER_HZ, which is 100 on every architecture it runs on today.
    const TICK_MS: u64 = 10;
    let ticks = |field| -> Option<u64> { stat_field(pid, field)?.parse().ok() };
    let total = ticks(11)
        .zip(ticks(12))
        .map(|(user, system)| user + system)
        .ok_or_else(|| anyhow!("process {pid} is gone; its processor time cannot be read"))?;
    Ok(Duration::from_millis(total * TICK_MS))
}

/// Runs a short command to its end.
///
/// # Errors
/// When it cannot be started or ends with a failure; the error carries its output.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    check_output(&format!("{command:?}"), output)
}

/// Turns a failed [`Output`] into an error that shows what the command printed.
///
/// # Errors
/// When the command failed.
pub fn check_output(what: &str, output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let end = match output.status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("failed with status {}", output.status.code().unwrap_or(-1)),
    };
    bail!(
        "{what} {end}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The last `lines` lines of a file, or a note that it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Field `index` of /proc/<pid>/stat counted from the state (0), the first after the name.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and parentheses; fields are counted after its last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(index).map(str::to_owned)
}

fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone; its memory cannot be read"))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .with_context(|| format!("/proc/{pid}/status has no {key}"))
}
