//! The audit log: who ordered what, when, and how it ended.
//!
//! One JSON object per line in `audit.jsonl` beside the event log, each fsynced before the API goes on.
//! A verb leaves an `intent` line before it is carried out and a `result` line with the same `id` after;
//! an intent without a result means the daemon died in between. The file is opened anew for each record,
//! so it can be rotated by renaming it; it is never shortened by the daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use repl_api::{ActionDone, format_utc};
use serde::Serialize;
use serde_json::Value;

use super::{Actor, ControlError};

/// File name of the audit log within its directory.
pub const AUDIT_FILE: &str = "audit.jsonl";

/// At most one denied connection is recorded per this time, so that a peer without rights cannot fill
/// the disk; the next record counts those left out.
const DENIED_INTERVAL: Duration = Duration::from_secs(1);

/// One line of the audit log.
#[derive(Debug, Default, Serialize)]
struct Record<'a> {
    /// Wall clock, RFC 3339 in UTC, for people.
    time: String,
    /// The same in milliseconds since the Unix epoch, for programs.
    time_ms: u64,
    /// `intent`, `result`, `report` or `denied`.
    event: &'a str,
    /// Joins a result to its intent.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    uid: u32,
    gid: u32,
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verb: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a Value>,
    /// Of a result: `ok` or the error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Value>,
    /// Of a result: what was done, or why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Of a denial: how many more were not recorded since the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

/// A verb about to be carried out.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Unique id that joins the result to the intent.
    pub id: String,
    /// Who ordered it.
    pub actor: Actor,
    /// The verb, e.g. `replica.pause`.
    pub verb: &'static str,
    /// Its arguments.
    pub arguments: Value,
}

impl Intent {
    /// A new intent with an id of its own.
    pub fn new(actor: Actor, verb: &'static str, arguments: Value) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            actor,
            verb,
            arguments,
        }
    }
}

/// The writer of the audit log; cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Serialises writers, so that lines never mix.
    writing: Mutex<()>,
    denied: Mutex<Denied>,
}

#[derive(Debug, Default)]
struct Denied {
    last: Option<Instant>,
    suppressed: u64,
}

impl AuditLog {
    /// The audit log in `directory`, which must exist when the first record is written.
    pub fn new(directory: &Path) -> Self {
        let path = directory.join(AUDIT_FILE);
        let (writing, denied) = (Mutex::new(()), Mutex::new(Denied::default()));
        Self {
            inner: Arc::new(Inner {
                path,
                writing,
                denied,
            }),
        }
    }

    /// The file written to.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Makes `intent` durable.
    ///
    /// # Errors
    /// When the line cannot be written and fsynced; the verb must then not be carried out.
    pub async fn intent(&self, intent: &Intent) -> io::Result<()> {
        self.append(&Record {
            event: "intent",
            ..record(intent)
        })
        .await
    }

    /// Makes the outcome of `intent` durable.
    ///
    /// # Errors
    /// When the line cannot be written and fsynced; the verb has been carried out all the same.
    pub async fn result(
        &self,
        intent: &Intent,
        outcome: &Result<ActionDone, ControlError>,
    ) -> io::Result<()> {
        let (code, message) = match outcome {
            Ok(done) => (Value::from("ok"), &done.message),
            Err(error) => (serde_json::to_value(error.code)?, &error.message),
        };
        let (outcome, message) = (Some(code), Some(message.as_str()));
        self.append(&Record {
            event: "result",
            outcome,
            message,
            ..record(intent)
        })
        .await
    }

    /// Records what came of a verb that was ordered, not awaited.
    ///
    /// # Errors
    /// When the line cannot be written and fsynced.
    pub async fn report(&self, verb: &'static str, arguments: &Value) -> io::Result<()> {
        self.append(&Record {
            event: "report",
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: i32::try_from(std::process::id()).ok(),
            verb: Some(verb),
            arguments: Some(arguments),
            ..stamped()
        })
        .await
    }

    /// Records that `actor` was turned away, at most once per second.
    ///
    /// # Errors
    /// When the line cannot be written and fsynced.
    pub async fn denied(&self, actor: &Actor) -> io::Result<()> {
        let suppressed = {
            let mut denied = self
                .inner
                .denied
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if denied
                .last
                .is_some_and(|last| last.elapsed() < DENIED_INTERVAL)
            {
                denied.suppressed += 1;
                return Ok(());
            }
            denied.last = Some(Instant::now());
            std::mem::take(&mut denied.suppressed)
        };
        let Actor { uid, gid, pid } = *actor;
        let suppressed = Some(suppressed);
        self.append(&Record {
            event: "denied",
            uid,
            gid,
            pid,
            suppressed,
            ..stamped()
        })
        .await
    }

    async fn append(&self, record: &Record<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.append(&line))
            .await
            .map_err(io::Error::other)?
    }
}

impl Inner {
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(crate::private::FILE)
            .open(&self.path)?;
        let length = file.seek(SeekFrom::End(0))?;
        if length == 0 {
            // The name must survive a crash of the host too, not only the content.
            if let Some(directory) = self.path.parent() {
                File::open(directory)?.sync_all()?;
            }
        } else if !ends_with_newline(&mut file, length)? {
            // A crash or a full disk left half a line: close it, so that this record stays readable.
            file.write_all(b"\n")?;
        }
        file.write_all(line)?;
        file.sync_data()
    }
}

fn ends_with_newline(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    Ok(last[0] == b'\n')
}

fn record(intent: &Intent) -> Record<'_> {
    let Actor { uid, gid, pid } = intent.actor;
    Record {
        id: Some(&intent.id),
        uid,
        gid,
        pid,
        verb: Some(intent.verb),
        arguments: Some(&intent.arguments),
        ..stamped()
    }
}

/// An empty record of this moment.
fn stamped<'a>() -> Record<'a> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Record {
        time: format_utc(time_ms),
        time_ms,
        ..Record::default()
    }
}
