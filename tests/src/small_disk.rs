//! A file system of a fixed, small size, for tests of full disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// A tmpfs of a fixed size, unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk {
    mount_point: PathBuf,
}

impl SmallDisk {
    /// Mounts a tmpfs of `size_kib` at `mount_point` (made when absent).
    ///
    /// Mounting needs root and may be forbidden in a container: then this is `None` and the
    /// reason is printed, so that a test that cannot run is visible in its output.
    ///
    /// # Errors
    /// When the mount point cannot be made.
    pub fn mount(mount_point: &Path, size_kib: u64) -> Result<Option<Self>> {
        fs::create_dir_all(mount_point)
            .with_context(|| format!("cannot make {}", mount_point.display()))?;
        let mounted = run(Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size_kib}k,mode=0755"),
                "tmpfs",
            ])
            .arg(mount_point));
        match mounted {
            Ok(_) => Ok(Some(Self {
                mount_point: mount_point.to_path_buf(),
            })),
            Err(error) => {
                eprintln!(
                    "NOT TESTED: no file system of a fixed size here (needs root): {error:#}"
                );
                Ok(None)
            }
        }
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Fills the disk with one file (`ballast`) until the kernel says it is full.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut ballast = fs::File::create(self.mount_point.join("ballast"))?;
        let block = [0_u8; 4096];
        while ballast.write_all(&block).is_ok() {}
        Ok(())
    }

    /// Removes what [`SmallDisk::fill`] wrote.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.mount_point.join("ballast")).context("cannot remove the ballast")
    }

    /// Changes the size of the mounted file system.
    ///
    /// # Errors
    /// When the remount is refused.
    pub fn resize(&self, size_kib: u64) -> Result<()> {
        let options = format!("remount,size={size_kib}k");
        run(Command::new("mount")
            .args(["-o", &options])
            .arg(&self.mount_point))
        .map(drop)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still holds a file must not keep the mount point in the tree.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.mount_point)) {
            eprintln!("{} stays mounted: {error:#}", self.mount_point.display());
        }
    }
}
