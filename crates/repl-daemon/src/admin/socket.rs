//! Taking and giving back the Unix socket.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::peer;

/// Longest path of a socket in bytes: `sun_path` of unix(7) without its final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// How long a socket found in place is given to answer.
const PROBE: Duration = Duration::from_secs(2);

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A daemon, or another program, is listening there.
    #[error(
        "another process answers on the admin socket {}: stop that daemon first, or give this group its \
         own socket (api.socket)", .0.display()
    )]
    InUse(PathBuf),
    /// Something that is not a socket stands at the path.
    #[error(
        "{} exists and is not a socket, so it is left alone: move it away or set another api.socket",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// The path does not fit into a socket address.
    #[error(
        "the admin socket's path {} is {length} bytes long; the system allows {MAX_SOCKET_PATH}: set a \
         shorter api.socket", path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes, as bound (with the short suffix used while it is prepared).
        length: usize,
    },
    /// The mode would open the socket to everybody, or close it to its owner.
    #[error(
        "api.socket_mode {0:04o} is not usable: the owner needs read and write (0600) and others must have \
         nothing, e.g. \"0660\""
    )]
    Mode(u32),
    /// The group does not exist.
    #[error(
        "api.socket_group {0:?} does not exist: create it (groupadd --system {0}) or change the key"
    )]
    UnknownGroup(String),
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AdminError {
    move |source| AdminError::Io {
        what,
        path: path.to_path_buf(),
        source,
    }
}

/// A bound socket file; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// The group that owns the socket file.
    pub(super) gid: u32,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have replaced it already.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Listens on `path` with file mode `mode` and, when given, group `group` (a name or a number).
///
/// A missing directory is created with mode 0750 and the same group. A socket that nobody answers on is
/// replaced; one that answers, and anything that is no socket, is refused. The socket is prepared under
/// another name and renamed into place, so it is never reachable with a wider mode.
pub(super) async fn bind(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(UnixListener, SocketFile), AdminError> {
    let preparing = preparing_path(path)?;
    if mode & 0o600 != 0o600 || mode & !0o770 != 0 {
        return Err(AdminError::Mode(mode));
    }
    let gid = group.map(resolve_group).transpose()?;
    if let Some(directory) = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        create_directory(directory, gid)?;
    }
    refuse_if_occupied(path).await?;

    // Left behind by a daemon of the same process id that died right here.
    let _ = fs::remove_file(&preparing);
    let listener = UnixListener::bind(&preparing).map_err(failed("bind the admin socket", path))?;
    match adopt(&preparing, path, mode, gid) {
        Ok(file) => Ok((listener, file)),
        Err(error) => {
            let _ = fs::remove_file(&preparing);
            Err(error)
        }
    }
}

/// Gives the prepared socket its owner, mode and final name.
fn adopt(
    preparing: &Path,
    path: &Path,
    mode: u32,
    gid: Option<u32>,
) -> Result<SocketFile, AdminError> {
    if gid.is_some() {
        chown(preparing, None, gid).map_err(failed("set the group of the admin socket", path))?;
    }
    fs::set_permissions(preparing, Permissions::from_mode(mode))
        .map_err(failed("set the mode of the admin socket", path))?;
    let metadata =
        fs::symlink_metadata(preparing).map_err(failed("inspect the admin socket", path))?;
    fs::rename(preparing, path).map_err(failed("put in place the admin socket", path))?;
    Ok(SocketFile {
        path: path.to_path_buf(),
        identity: identity(&metadata),
        gid: metadata.gid(),
    })
}

/// The name the socket is prepared under: in the same directory, and short enough for an address.
fn preparing_path(path: &Path) -> Result<PathBuf, AdminError> {
    let preparing = path.with_file_name(format!(".repl-{}", std::process::id()));
    let length = path.as_os_str().len().max(preparing.as_os_str().len());
    if length > MAX_SOCKET_PATH {
        return Err(AdminError::PathTooLong {
            path: path.to_path_buf(),
            length,
        });
    }
    Ok(preparing)
}

fn resolve_group(group: &str) -> Result<u32, AdminError> {
    peer::group_id(group)
        .map_err(failed("read", Path::new("/etc/group")))?
        .ok_or_else(|| AdminError::UnknownGroup(group.to_owned()))
}

fn create_directory(directory: &Path, gid: Option<u32>) -> Result<(), AdminError> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(failed("create the admin socket's directory", directory))?;
    if gid.is_some() {
        chown(directory, None, gid).map_err(failed(
            "set the group of the admin socket's directory",
            directory,
        ))?;
    }
    // The umask may have taken the group's bits away.
    fs::set_permissions(directory, Permissions::from_mode(0o750)).map_err(failed(
        "set the mode of the admin socket's directory",
        directory,
    ))
}

/// Refuses a path where somebody answers, or where something else than a socket stands.
async fn refuse_if_occupied(path: &Path) -> Result<(), AdminError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("inspect the admin socket", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_path_buf()));
    }
    // Only a refused connection proves that nobody listens: a full backlog, a timeout or a missing
    // permission may all hide a living daemon.
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        _ => Err(AdminError::InUse(path.to_path_buf())),
    }
}
