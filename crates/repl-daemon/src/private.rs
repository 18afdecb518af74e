//! The log directory holds rows of every replicated table: nobody but the daemon's user may read in it,
//! whatever the umask.
//!
//! What the daemon creates there is closed from the start. What an earlier version, or somebody else, left
//! open is closed at the start, with a warning: refusing it instead would stop a running system for what a
//! `chmod` mends. Where closing is not up to the daemon (the files are another user's, the directory is used
//! for other things) it does not start.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::admin::audit::AUDIT_FILE;
use crate::admin::peer;
use crate::config::ApiConfig;

/// Mode of the files in the log directory.
pub const FILE: u32 = 0o600;
/// Mode of a directory in it, and of itself.
pub const DIRECTORY: u32 = 0o700;
/// Mode of the log directory where a socket in it is for a group: it may pass, and not list.
const PASSABLE: u32 = 0o710;

/// Most names in a message.
const NAMED: usize = 5;

/// Who may pass the log directory on the way to the admin socket in it.
#[derive(Debug, Default)]
struct Passage {
    group: bool,
    gid: Option<u32>,
}

impl Passage {
    fn of(dir: &Path, api: &ApiConfig) -> anyhow::Result<Passage> {
        if !api.socket.starts_with(dir) || api.socket_mode & 0o060 == 0 {
            return Ok(Passage::default());
        }
        let gid = api.socket_group.as_deref().map(peer::group_id);
        let gid = gid.transpose().context("cannot read /etc/group")?;
        Ok(Passage {
            group: true,
            // One that does not exist is refused with the socket.
            gid: gid.flatten(),
        })
    }

    fn mode(&self) -> u32 {
        if self.group { PASSABLE } else { DIRECTORY }
    }
}

/// Makes the log directory, or closes it and what the daemon keeps in it.
///
/// # Errors
/// When it cannot be made or closed.
pub fn prepare(dir: &Path, api: &ApiConfig) -> anyhow::Result<()> {
    let place = || format!("cannot create the log directory {}", dir.display());
    let passage = Passage::of(dir, api)?;
    if !dir.is_dir() {
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
        above
            .map_or(Ok(()), fs::create_dir_all)
            .with_context(place)?;
        DirBuilder::new()
            .mode(DIRECTORY)
            .create(dir)
            .with_context(place)?;
    }
    let found = fs::metadata(dir).with_context(place)?;
    let open = open_files(dir)?;
    let read_by_others = found.mode() & 0o005 != 0;
    if read_by_others {
        refuse_foreign(dir)?;
    }
    close_directory(dir, &found, &passage)?;
    for path in &open {
        set_mode(path, if path.is_dir() { DIRECTORY } else { FILE })?;
    }
    if read_by_others && !open.is_empty() {
        let names: Vec<String> = open.iter().take(NAMED).map(|path| name(path)).collect();
        warn!(
            dir = %dir.display(),
            files = open.len(),
            such_as = names.join(", "),
            "the log directory could be read by every user of this host, rows of replicated tables included; \
             it is closed now"
        );
    } else if !open.is_empty() {
        info!(
            files = open.len(),
            "files in the log directory are closed to the group"
        );
    }
    Ok(())
}

fn close_directory(dir: &Path, found: &Metadata, passage: &Passage) -> anyhow::Result<()> {
    if let Some(gid) = passage.gid.filter(|gid| *gid != found.gid()) {
        chown(dir, None, Some(gid)).with_context(|| {
            format!(
                "cannot give {} to the group of the admin socket in it: run  chgrp {gid} {}  or set api.socket to a \
                 path elsewhere",
                dir.display(),
                dir.display()
            )
        })?;
    }
    if found.mode() & 0o777 == passage.mode() {
        return Ok(());
    }
    set_mode(dir, passage.mode())
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| {
        let shown = path.display();
        format!(
            "{shown} can be read by others, and its mode cannot be changed to {mode:04o}: run  chmod {mode:04o} {shown}  \
             as its owner"
        )
    })
}

/// What the daemon keeps in the directory and others may read.
fn open_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut open = Vec::new();
    for path in entries(dir)? {
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if !is_own(&name(&path)) || !(found.is_file() || found.is_dir()) {
            continue;
        }
        if found.mode() & 0o077 != 0 {
            open.push(path.clone());
        }
        if found.is_dir() {
            let readable = |path: &PathBuf| {
                fs::symlink_metadata(path).is_ok_and(|one| one.is_file() && one.mode() & 0o077 != 0)
            };
            open.extend(entries(&path)?.into_iter().filter(readable));
        }
    }
    open.sort();
    Ok(open)
}

/// A directory that everybody can read, that holds no log yet, and that holds other things is theirs.
fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    if dir.join("log.json").exists() {
        return Ok(());
    }
    let mut others = entries(dir)?.into_iter().map(|path| name(&path));
    if let Some(other) = others.find(|name| !is_own(name)) {
        bail!(
            "the log directory {} can be read by every user, and is used for other things ({other}): give the event log a \
             directory of its own (log.dir), which the daemon closes to others",
            dir.display()
        );
    }
    Ok(())
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let place = || format!("cannot read {}", dir.display());
    let all = fs::read_dir(dir).with_context(place)?;
    all.map(|entry| Ok(entry.with_context(place)?.path()))
        .collect()
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether the daemon gives such names to what it keeps.
fn is_own(name: &str) -> bool {
    let starts = [
        "state",
        "promotions",
        "primary",
        "validation",
        "log.json",
        AUDIT_FILE,
    ];
    let ends = [".seg", ".idx", ".new", ".sock"];
    ["LOCK", "durable", "ledger", "lost+found"].contains(&name)
        || starts.iter().any(|start| name.starts_with(start))
        || ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(socket: &Path, mode: u32) -> ApiConfig {
        ApiConfig {
            socket: socket.to_owned(),
            socket_mode: mode,
            socket_group: None,
            listen: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_closed_and_a_socket_in_it_can_be_reached() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("above/log");
        prepare(&dir, &api(Path::new("/run/x.sock"), 0o660)).unwrap();
        assert_eq!(mode(&dir), 0o700);
        prepare(&dir, &api(&dir.join("x.sock"), 0o660)).unwrap();
        assert_eq!(mode(&dir), 0o710);
        prepare(&dir, &api(&dir.join("x.sock"), 0o600)).unwrap();
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn what_was_left_open_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("ledger")).unwrap();
        let own = [
            "log.json",
            "0.seg",
            "state.json.older-5",
            "ledger/main-1.jsonl",
            "audit.jsonl.1",
        ];
        for name in own.iter().chain(&["notes"]) {
            fs::write(dir.join(name), "x").unwrap();
            fs::set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        prepare(dir, &api(Path::new("/run/x.sock"), 0o660)).unwrap();
        assert_eq!((mode(dir), mode(&dir.join("ledger"))), (0o700, 0o700));
        for name in own {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
        // Whatever else lies there is somebody's, behind the closed door.
        assert_eq!(mode(&dir.join("notes")), 0o644);
    }

    #[test]
    fn a_directory_of_others_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("index.html"), "x").unwrap();
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        let refused = prepare(dir, &api(Path::new("/run/x.sock"), 0o660)).unwrap_err();
        assert!(format!("{refused:#}").contains("index.html"), "{refused:#}");
        assert_eq!(mode(dir), 0o755);
        // One that nobody else can read may hold what it likes.
        fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
        prepare(dir, &api(Path::new("/run/x.sock"), 0o660)).unwrap();
    }
}
