//! Small JSON documents that are replaced atomically: a crash leaves the old one or the new one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

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
        let mut file = File::create(&new.temporary).with_context(place)?;
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
        let place = || self.place();
        std::fs::rename(&self.temporary, path).with_context(place)?;
        if let Some(dir) = path.parent() {
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .with_context(place)?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        format!("cannot write {}", self.temporary.display())
    }
}
