//! The few file operations the log is built on, so that tests can put a simulated disk below it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A directory tree on some device.
///
/// What the log relies on, and no more: bytes written to a file are durable once
/// [`DiskFile::sync_data`] returned, names once [`Disk::sync_dir`] of their directory did; a
/// rename is atomic. Anything not synced may be lost, kept, or kept in part, in any order.
pub trait Disk: Send + Sync {
    /// Creates a directory and its parents; no error when it exists.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock `path` stands for, until the guard is dropped, and notes the
    /// process in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another holder has it; its message names the holder.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// File names in a directory, in no particular order.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file, or empties the one there is.
    ///
    /// # Errors
    /// When it cannot be created.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file over whatever has the new name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// [`NotOpened`] when nothing was asked of the device; otherwise it failed, and what it holds is
    /// unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A directory that was to be synced could not be opened: nothing is different from before, and it may be
/// tried again.
#[derive(Debug, thiserror::Error)]
#[error("cannot be opened: {0}")]
pub struct NotOpened(#[source] pub io::Error);

impl NotOpened {
    /// Whether this is such an error.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<NotOpened>())
    }
}

/// An open file. Positions are bytes from its start.
pub trait DiskFile: Send + Sync {
    /// Length, bytes.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to `buf.len()` bytes at `at`; 0 at the end of the file.
    ///
    /// # Errors
    /// When the device fails.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes up to `buf.len()` bytes at `at`, growing the file; returns how many.
    ///
    /// # Errors
    /// When the device fails or is full.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize>;

    /// Sets the length.
    ///
    /// # Errors
    /// When the device fails.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes the content and the length durable.
    ///
    /// # Errors
    /// When the device failed; what it holds is then unknown.
    fn sync_data(&self) -> io::Result<()>;
}

/// Reads until `buf` is full or the file ends; returns how many bytes were read.
pub(super) fn read_full(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf`, however many calls it takes.
pub(super) fn write_full(file: &dyn DiskFile, buf: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.write_at(&buf[done..], at + done as u64) {
            // A device that takes nothing and names no error has no room; it is treated alike.
            Ok(0) => return Err(io::ErrorKind::StorageFull.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whole content of a file; none when there is no such file.
pub(super) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
    let read = read_full(file.as_ref(), &mut content, 0)?;
    content.truncate(read);
    Ok(Some(content))
}

/// Deletes a file that need not exist.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mode of the files: they hold rows.
const FILE_MODE: u32 = 0o600;
/// Mode of the directory.
const DIR_MODE: u32 = 0o700;

/// The file system of the host. What it creates nobody else may read.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Box::new(file))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                let text = format!("held by process {}", holder.trim());
                Err(io::Error::new(io::ErrorKind::WouldBlock, text))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(HostFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(HostFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = File::open(dir).map_err(|error| io::Error::other(NotOpened(error)))?;
        dir.sync_all()
    }
}

struct HostFile(File);

impl DiskFile for HostFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.0.write_at(buf, at)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
