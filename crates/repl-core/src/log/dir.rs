//! The log's directory: names, atomic small files, and system errors turned into log errors.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::LogError;
use super::disk::{Disk, DiskFile, NotOpened, read_file, remove_if_there, write_full};

/// The lock file of the one process that writes.
pub(super) const LOCK: &str = "LOCK";
/// Identity and format version of the log.
pub(super) const META: &str = "log.json";
/// The last known durable end; see [`super::watermark`].
pub(super) const WATERMARK: &str = "durable";
/// Ending of a file that is not complete yet; it is deleted at the next start.
pub(super) const UNFINISHED: &str = ".new";
/// Ending of a segment.
pub(super) const SEGMENT: &str = ".seg";
/// Ending of a segment's index.
pub(super) const INDEX: &str = ".idx";

/// Name of the segment that begins at `base`.
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:020}{SEGMENT}")
}

/// Name of that segment's index.
pub(super) fn index_name(base: u64) -> String {
    format!("{base:020}{INDEX}")
}

/// The offset in the name of a segment, if it is the name of one.
pub(super) fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// A failed operation on a file as the log reports it.
pub(super) fn failed(path: &Path, action: &str, error: io::Error) -> LogError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let dir = path.parent().unwrap_or(path);
            LogError::Full(dir.display().to_string())
        }
        _ => LogError::Io {
            place: format!("{} ({action})", path.display()),
            source: error,
        },
    }
}

/// The directory on its disk.
#[derive(Clone)]
pub(super) struct LogDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl LogDir {
    pub fn new(path: &Path, disk: Arc<dyn Disk>) -> LogDir {
        LogDir {
            path: path.to_owned(),
            disk,
        }
    }

    /// Full path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory for people.
    pub fn display(&self) -> String {
        self.path.display().to_string()
    }

    /// Creates the directory and takes its lock.
    pub fn lock(&self) -> Result<Box<dyn Send + Sync>, LogError> {
        self.disk
            .create_dir(&self.path)
            .map_err(|error| failed(&self.path(""), "create the directory", error))?;
        let path = self.path(LOCK);
        self.disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                LogError::Locked(format!("{} ({error})", self.path.display()))
            }
            _ => failed(&path, "lock", error),
        })
    }

    pub fn list(&self) -> Result<Vec<String>, LogError> {
        self.disk
            .list(&self.path)
            .map_err(|error| failed(&self.path(""), "list the directory", error))
    }

    /// Opens a file that may be missing.
    pub fn try_open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.path(name))
    }

    pub fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, LogError> {
        self.try_open(name)
            .map_err(|error| failed(&self.path(name), "open", error))
    }

    pub fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, LogError> {
        let path = self.path(name);
        self.disk
            .create(&path)
            .map_err(|error| failed(&path, "create", error))
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<(), LogError> {
        let to = self.path(to);
        self.disk
            .rename(&self.path(from), &to)
            .map_err(|error| failed(&to, "rename to", error))
    }

    /// Deletes a file that need not exist.
    pub fn remove(&self, name: &str) -> Result<(), LogError> {
        let path = self.path(name);
        remove_if_there(self.disk.as_ref(), &path).map_err(|error| failed(&path, "delete", error))
    }

    /// Makes the names durable.
    pub fn sync(&self) -> Result<(), LogError> {
        self.disk.sync_dir(&self.path).map_err(|error| {
            if NotOpened::is(&error) {
                return failed(&self.path, "open for fsync", error);
            }
            LogError::SyncFailed(format!("{}: {error}", self.path.display()))
        })
    }

    /// Whole content of a file; none when there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        let path = self.path(name);
        read_file(self.disk.as_ref(), &path).map_err(|error| failed(&path, "read", error))
    }

    /// Creates a file under its unfinished name and fills it; [`LogDir::finish`] puts it in place.
    /// `after_create` is a failpoint.
    pub fn prepare(
        &self,
        name: &str,
        content: &[u8],
        after_create: &str,
    ) -> Result<Arc<dyn DiskFile>, LogError> {
        let unfinished = format!("{name}{UNFINISHED}");
        let path = self.path(&unfinished);
        let file = self.create(&unfinished)?;
        crate::failpoint::hit(after_create).map_err(|error| failed(&path, "create", error))?;
        write_full(file.as_ref(), content, 0).map_err(|error| failed(&path, "write", error))?;
        file.sync_data()
            .map_err(|error| LogError::SyncFailed(format!("{}: {error}", path.display())))?;
        Ok(file)
    }

    /// Gives a prepared file its name, durably. A file of that name is therefore always whole.
    pub fn finish(&self, name: &str) -> Result<(), LogError> {
        self.rename(&format!("{name}{UNFINISHED}"), name)?;
        self.sync()
    }
}

/// JSON with a checksum in the last line: small files a person can read, and a program can trust.
pub(super) fn encode_checked<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec(value)?;
    let crc = crc32c::crc32c(&text);
    text.extend_from_slice(format!("\ncrc32c {crc:08x}\n").as_bytes());
    Ok(text)
}

/// Bytes of the line [`encode_checked`] adds, the line break before it included.
const CHECK_LINE: usize = 17;

/// Reads what [`encode_checked`] wrote; the error says what is wrong with it.
pub(super) fn decode_checked<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let split = text.len().checked_sub(CHECK_LINE).ok_or("is too short")?;
    let (json, check) = text.split_at(split);
    let crc = crc32c::crc32c(json);
    if check != format!("\ncrc32c {crc:08x}\n").as_bytes() {
        return Err("checksum mismatch".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        assert_eq!(segment_base(&segment_name(77)), Some(77));
        assert_eq!(segment_base("77.seg"), None);
        assert_eq!(segment_base("00000000000000000077.idx"), None);
    }

    #[test]
    fn checked_json_notices_every_flipped_bit() {
        let text = encode_checked(&vec![1, 2, 3]).unwrap();
        assert_eq!(decode_checked::<Vec<i32>>(&text), Ok(vec![1, 2, 3]));
        for bit in 0..text.len() * 8 {
            let mut copy = text.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_checked::<Vec<i32>>(&copy).is_err(), "bit {bit}");
        }
        for length in 0..text.len() {
            assert!(decode_checked::<Vec<i32>>(&text[..length]).is_err());
        }
    }
}
