//! Facts about the machine and the programs, so that numbers can be placed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use repl_tests::pg::binaries::Installation;
use repl_tests::scratch::Scratch;
use serde::{Deserialize, Serialize};

use crate::stats::percentile;

/// File system type of tmpfs, from statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Appended and synced 4 KiB blocks whose median is the disk's latency.
const SYNCS: u64 = 300;

/// What numbers depend on besides the code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors usable by this process.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Median of appending 4 KiB and fdatasync, microseconds, where the servers' data are.
    pub fdatasync_us: f64,
    /// PostgreSQL's version.
    pub postgresql: String,
    /// MariaDB's version, where installed.
    pub mariadb: Option<String>,
    /// SQLite's version.
    pub sqlite: String,
    /// The commit measured; `+` when the working tree differs from it.
    pub commit: String,
}

impl Machine {
    /// Looks at this machine.
    ///
    /// # Errors
    /// When PostgreSQL is absent or the scratch directory is in memory.
    pub fn look() -> Result<Self> {
        let status = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib: u64 = line_value(&status, "MemTotal:")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Self {
            cpu: line_value(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            fdatasync_us: fdatasync_us()?,
            postgresql: Installation::get()?.version().to_owned(),
            mariadb: repl_tests::mariadb::version().ok(),
            sqlite: rusqlite::version().to_owned(),
            commit: commit(),
        })
    }

    /// The facts, a line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "machine: {} x {}, {} MiB, Linux {}, 4 KiB append + fdatasync {:.0} us",
            self.cores, self.cpu, self.memory_mib, self.kernel, self.fdatasync_us
        );
        let mariadb = self.mariadb.as_deref().unwrap_or("not installed");
        let _ = writeln!(
            text,
            "versions: commit {}, PostgreSQL {}, MariaDB {mariadb}, SQLite {}",
            self.commit, self.postgresql, self.sqlite
        );
        text
    }
}

fn line_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let (_, value) = line.split_once(':')?;
    Some(value.trim().to_owned())
}

fn fdatasync_us() -> Result<f64> {
    let scratch = Scratch::new()?;
    let file = File::create(scratch.join("latency"))?;
    if rustix::fs::fstatfs(&file)?.f_type == TMPFS_MAGIC {
        bail!(
            "{} is in memory; set TMPDIR to a directory on a disk, or durability costs nothing",
            scratch.path().display()
        );
    }
    let block = vec![7; 4096];
    let mut taken = Vec::new();
    for number in 0..SYNCS {
        let started = Instant::now();
        file.write_all_at(&block, number * 4096)?;
        file.sync_data()?;
        taken.push(started.elapsed().as_secs_f64() * 1e6);
    }
    percentile(&taken, 50.0).context("no disk latency was taken")
}

fn commit() -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let clean = changed.is_some_and(|text| text.is_empty());
    if clean { hash } else { hash + "+" }
}
