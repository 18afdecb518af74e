//! What former primaries had committed that the log never saw: one file for each time, in the
//! directory `ledger` beside the log.
//!
//! The first line says whose it is, each of the others is one change (`repl_connectors::seam::Stray`), the last
//! one counts them. A file is fsynced before it gets its name: one that is there is complete.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use repl_api::{ErrorCode, LedgerInfo, LedgerPage, Ledgers};
use repl_connectors::seam::{ConnectorError, Stray, StraySink};
use repl_core::ErrorKind;
use repl_core::deposed::Deposed;
use repl_core::schema::TableName;
use serde::{Deserialize, Serialize};

use crate::admin::ControlError;
use crate::{document, private};

/// Version of the format.
const FORMAT: u32 = 1;

/// Most lines of one page.
const PAGE_LINES: usize = 1000;
/// Bytes above which a page ends.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    node: String,
    /// The log holds everything up to here.
    log_end: String,
    /// The node's place was taken then, milliseconds since the Unix epoch.
    deposed_ms: u64,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct Foot {
    complete: bool,
    transactions: u64,
    changes: u64,
}

/// Writes one.
pub struct LedgerWriter {
    path: PathBuf,
    head: Head,
    out: Option<BufWriter<File>>,
    last: Option<u64>,
    foot: Foot,
    tables: BTreeSet<TableName>,
}

impl LedgerWriter {
    /// For what `node`, deposed as told, will be found to hold. Nothing is written until there is something.
    pub fn new(log_dir: &Path, node: &str, deposed: &Deposed) -> LedgerWriter {
        LedgerWriter {
            path: path(log_dir, &format!("{node}-{}", deposed.at_ms)),
            head: Head {
                format: FORMAT,
                node: node.to_owned(),
                log_end: deposed.end.0.clone(),
                deposed_ms: deposed.at_ms,
            },
            out: None,
            last: None,
            foot: Foot {
                complete: true,
                transactions: 0,
                changes: 0,
            },
            tables: BTreeSet::new(),
        }
    }

    /// The name it will have.
    pub fn id(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let place = || format!("cannot write {}", self.path.display());
        let out = match &mut self.out {
            Some(out) => out,
            None => {
                let dir = self.path.parent().unwrap_or(Path::new("."));
                let made = DirBuilder::new()
                    .recursive(true)
                    .mode(private::DIRECTORY)
                    .create(dir);
                made.with_context(place)?;
                let file = document::create(&self.path.with_extension("new"));
                let file = file.with_context(place)?;
                let mut out = BufWriter::new(file);
                put(&mut out, &self.head).with_context(place)?;
                self.out.insert(out)
            }
        };
        put(out, line).with_context(place)
    }

    /// Completes the file, durably, if anything was written; the tables it concerns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> anyhow::Result<BTreeSet<TableName>> {
        let place = || format!("cannot write {}", self.path.display());
        let Some(mut out) = self.out.take() else {
            return Ok(self.tables);
        };
        put(&mut out, &self.foot).with_context(place)?;
        let file = out
            .into_inner()
            .map_err(|error| error.into_error())
            .with_context(place)?;
        file.sync_all().with_context(place)?;
        document::rename(&self.path.with_extension("new"), &self.path)?;
        // The directory itself may be new.
        if let Some(above) = self.path.ancestors().nth(2) {
            document::sync_dir(above).with_context(place)?;
        }
        Ok(self.tables)
    }
}

fn put(out: &mut BufWriter<File>, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl StraySink for LedgerWriter {
    fn stray(&mut self, stray: Stray) -> repl_connectors::seam::Result<()> {
        if self.last.replace(stray.transaction) != Some(stray.transaction) {
            self.foot.transactions += 1;
        }
        self.foot.changes += 1;
        if !self.tables.contains(&stray.table) {
            self.tables.insert(stray.table.clone());
        }
        self.write(&stray)
            .map_err(|error| ConnectorError::new(ErrorKind::Transient, format!("{error:#}")))
    }
}

/// For the API: all that are there.
///
/// # Errors
/// `Internal` when they cannot be read.
pub async fn all(log_dir: PathBuf) -> Result<Ledgers, ControlError> {
    let ledgers = apart(move || list(&log_dir)).await?;
    Ok(Ledgers { ledgers })
}

/// For the API: lines of the ledger `id` from line `from` on.
///
/// # Errors
/// `NotFound` when there is no such; `Internal` when it cannot be read.
pub async fn one(log_dir: PathBuf, id: &str, from: u64) -> Result<LedgerPage, ControlError> {
    let (wanted, from) = (id.to_owned(), usize::try_from(from).unwrap_or(usize::MAX));
    let found = apart(move || page(&log_dir, &wanted, from)).await?;
    found.ok_or_else(|| {
        let what = format!("there is no ledger {id:?}");
        ControlError::new(ErrorCode::NotFound, what, "list them with: replctl ledger")
    })
}

/// Reads files where it holds up nobody.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ControlError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(anyhow::Error::from).and_then(|done| done);
    done.map_err(|error| {
        let advice = "look at the files in ledger beside the event log";
        ControlError::new(ErrorCode::Internal, format!("{error:#}"), advice)
    })
}

/// All that are there, newest first.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(log_dir: &Path) -> anyhow::Result<Vec<LedgerInfo>> {
    let dir = log_dir.join("ledger");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot read {}", dir.display()))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            all.push(info(&path)?);
        }
    }
    all.sort_by_key(|one: &LedgerInfo| std::cmp::Reverse(one.deposed_ms));
    Ok(all)
}

fn info(path: &Path) -> anyhow::Result<LedgerInfo> {
    let place = || format!("cannot read {}", path.display());
    let mut lines = BufReader::new(File::open(path).with_context(place)?).lines();
    let first = lines
        .next()
        .transpose()
        .with_context(place)?
        .unwrap_or_default();
    let head: Head = serde_json::from_str(&first).with_context(place)?;
    if head.format != FORMAT {
        bail!(
            "{} has format {}; this version knows {FORMAT}",
            path.display(),
            head.format
        );
    }
    let mut last = String::new();
    for line in lines {
        last = line.with_context(place)?;
    }
    let foot: Foot = serde_json::from_str(&last).with_context(place)?;
    let stem = path.file_stem().unwrap_or_default();
    Ok(LedgerInfo {
        id: stem.to_string_lossy().into_owned(),
        node: head.node,
        deposed_ms: head.deposed_ms,
        log_end: head.log_end,
        transactions: foot.transactions,
        changes: foot.changes,
        path: path.display().to_string(),
    })
}

/// Passes on the changes of the ledger `id`, in their order.
///
/// # Errors
/// When it is not there, cannot be read, or `take` fails.
pub fn changes(
    log_dir: &Path,
    id: &str,
    mut take: impl FnMut(Stray) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = path(log_dir, id);
    let place = || format!("cannot read {}", path.display());
    let mut lines = BufReader::new(File::open(&path).with_context(place)?).lines();
    // The head; and what follows the last change is the foot.
    let mut next = lines.nth(1).transpose().with_context(place)?;
    while let Some(line) = next {
        next = lines.next().transpose().with_context(place)?;
        if next.is_some() {
            take(serde_json::from_str(&line).with_context(place)?)?;
        }
    }
    Ok(())
}

fn path(log_dir: &Path, id: &str) -> PathBuf {
    log_dir.join("ledger").join(format!("{id}.jsonl"))
}

/// Lines of the ledger `id` from line `from` on; none when there is no such.
///
/// # Errors
/// When it cannot be read.
pub fn page(log_dir: &Path, id: &str, from: usize) -> anyhow::Result<Option<LedgerPage>> {
    // An id is a file's name and no path.
    if id.contains(['/', '\\']) {
        return Ok(None);
    }
    let path = path(log_dir, id);
    let place = || format!("cannot read {}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(place)?,
    };
    let lines = BufReader::new(file).lines();
    let (mut page, mut bytes, mut more) = (Vec::new(), 0, false);
    for line in lines.skip(from) {
        if page.len() == PAGE_LINES || bytes >= PAGE_BYTES {
            more = true;
            break;
        }
        let line = line.with_context(place)?;
        bytes += line.len();
        page.push(serde_json::from_str(&line).with_context(place)?);
    }
    let next = more.then(|| (from + page.len()) as u64);
    Ok(Some(LedgerPage { lines: page, next }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_connectors::seam::StrayOp;
    use repl_core::SourcePosition;
    use repl_core::position::SourceIdentity;

    #[test]
    fn what_was_written_is_listed_and_read_in_pages_and_what_is_unfinished_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let deposed = Deposed {
            source: SourceIdentity {
                node: "main".into(),
                engine: "postgres".into(),
                system: "1".into(),
                timeline: "1".into(),
            },
            end: SourcePosition("0/1".into()),
            at_ms: 7,
            found: None,
            ordered: false,
            unacknowledged: false,
        };
        let stray = |transaction| Stray {
            transaction,
            committed_us: 1,
            position: SourcePosition("0/2".into()),
            table: TableName::new("public", "t"),
            op: StrayOp::Insert,
            old: None,
            new: Some(serde_json::json!({"id": "1"}).as_object().unwrap().clone()),
            keys: Vec::new(),
        };
        let empty = LedgerWriter::new(dir.path(), "main", &deposed);
        assert!(empty.finish().unwrap().is_empty());
        assert!(list(dir.path()).unwrap().is_empty());
        let mut writer = LedgerWriter::new(dir.path(), "main", &deposed);
        for n in 0..2500 {
            writer.stray(stray(n / 2)).unwrap();
        }
        assert!(list(dir.path()).unwrap().is_empty(), "not complete yet");
        assert_eq!(writer.finish().unwrap().len(), 1);
        let all = list(dir.path()).unwrap();
        assert_eq!(
            (all.len(), all[0].transactions, all[0].changes),
            (1, 1250, 2500)
        );
        let (mut from, mut count) = (0, 0);
        loop {
            let page = page(dir.path(), &all[0].id, from).unwrap().unwrap();
            count += page.lines.len();
            let Some(next) = page.next else { break };
            from = next as usize;
        }
        assert_eq!(count, 2502, "with the first and the last line");
        let mut changed = 0;
        let read = changes(dir.path(), &all[0].id, |_| {
            changed += 1;
            Ok(())
        });
        read.unwrap();
        assert_eq!(changed, 2500);
        assert!(changes(dir.path(), "main-8", |_| Ok(())).is_err());
        assert!(page(dir.path(), "../state", 0).unwrap().is_none());
    }
}
