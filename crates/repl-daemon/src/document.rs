//! Small documents that are replaced atomically: a crash leaves the old one or the new one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::private;

/// The content of the document at `path`; none while there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Gives the file `from`, which was fsynced, the name `to` in the same directory, for good.
///
/// # Errors
/// When it cannot be renamed, or its directory cannot be fsynced.
pub fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    let place = || format!("cannot write {}", to.display());
    std::fs::rename(from, to).with_context(place)?;
    to.parent().map_or(Ok(()), sync_dir).with_context(place)
}

/// Makes what was created or renamed in a directory durable.
///
/// # Errors
/// When it cannot be opened or fsynced.
pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a file, or empties the one there is, that nobody else may read.
///
/// # Errors
/// When it cannot be created.
pub fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(private::FILE)
        .open(path)
}

/// A new version that lies beside the present one, fsynced.
pub struct Replacement {
    temporary: PathBuf,
}

impl Replacement {
    /// Writes `document` beside `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(path: &Path, document: &impl Serialize) -> anyhow::Result<Self> {
        let new = Replacement {
            temporary: path.with_extension("json.new"),
        };
        let place = || new.place();
        let text = serde_json::to_vec_pretty(document)?;
        let mut file = create(&new.temporary).with_context(place)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .with_context(place)?;
        Ok(new)
    }

    /// Puts it in the place of `path`, for good.
    ///
    /// # Errors
    /// When it cannot be renamed, or its directory cannot be fsynced.
    pub fn commit(self, path: &Path) -> anyhow::Result<()> {
        rename(&self.temporary, path)
    }

    fn place(&self) -> String {
        format!("cannot write {}", self.temporary.display())
    }
}
