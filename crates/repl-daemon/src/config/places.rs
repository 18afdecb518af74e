//! What stands where a path of the configuration points to.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::model::{Endpoint, PgHost};
use super::problem::{Complaint, complaint};

/// What keeps `dir` from being a directory, or from being made one: itself, or the nearest above it
/// that is there.
pub(super) fn no_directory(dir: &Path) -> Option<PathBuf> {
    let there = dir
        .ancestors()
        .find(|one| one.symlink_metadata().is_ok() && !one.as_os_str().is_empty())?;
    (!there.is_dir()).then(|| there.to_path_buf())
}

/// A directory that is to be used, or made.
pub(super) fn directory(dir: &Path, why: &str, fix: &str) -> Result<(), Complaint> {
    match no_directory(dir) {
        None => Ok(()),
        Some(file) if file == dir => Err(complaint(
            "the path exists and is not a directory",
            why,
            fix,
        )),
        Some(file) => {
            let what = format!("{} in this path is not a directory", file.display());
            Err(complaint(what, why, fix))
        }
    }
}

/// Where the admin socket is to be.
pub(super) fn socket(path: &Path) -> Result<(), Complaint> {
    let fix = "set socket under [api] to a path of its own, such as /run/repl-daemon/shop.sock";
    match path.symlink_metadata() {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(found) => {
            let is = if found.is_dir() {
                "a directory"
            } else {
                "a file"
            };
            let what = format!("the path exists and is {is}, not a socket");
            let why = "the daemon replaces sockets that nobody answers on, and nothing else";
            Err(complaint(what, why, fix))
        }
        Err(_) => match path.parent() {
            Some(dir) => directory(dir, "the socket is made in a directory", fix),
            None => Ok(()),
        },
    }
}

/// Where a database is: a file that holds it or will, or the directory of a server's socket.
pub(super) fn database(endpoint: &Endpoint) -> Result<(), Complaint> {
    match endpoint {
        Endpoint::Sqlite { path } => {
            let fix = "give the path of the database's file";
            match path.metadata() {
                Ok(found) if found.is_file() => Ok(()),
                Ok(found) => {
                    let is = if found.is_dir() {
                        "a directory"
                    } else {
                        "no regular file"
                    };
                    let why = "SQLite keeps a database in a file";
                    Err(complaint(format!("the path is {is}"), why, fix))
                }
                Err(_) => match path.parent() {
                    Some(dir) => directory(dir, "the file is in a directory", fix),
                    None => Ok(()),
                },
            }
        }
        Endpoint::Server(server) => match &server.host {
            PgHost::Unix(dir) if dir.metadata().is_ok_and(|found| !found.is_dir()) => {
                let what = format!("{} is not a directory", dir.display());
                let why = "a host that begins with / is the directory of the server's socket";
                let fix = "give the directory, such as /run/postgresql, and the port as port=5432";
                Err(complaint(what, why, fix))
            }
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink("/nonexistent/there", &dangling).unwrap();
        let ok = |path: &Path| directory(path, "", "").is_ok();
        assert!(ok(dir.path()) && ok(&dir.path().join("new/dir")));
        assert!(!ok(&file) && !ok(&file.join("dir")) && !ok(&dangling));
        let named = directory(&file.join("a/b"), "", "").unwrap_err().what;
        assert!(named.contains(&file.display().to_string()), "{named}");

        assert!(socket(&dir.path().join("new/s.sock")).is_ok());
        for wrong in [file.clone(), dir.path().to_owned(), file.join("s.sock")] {
            assert!(socket(&wrong).is_err(), "{}", wrong.display());
        }
        let _listens = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(socket(&dir.path().join("s")).is_ok());

        let sqlite = |path: &Path| {
            database(&Endpoint::Sqlite {
                path: path.to_owned(),
            })
        };
        assert!(sqlite(&file).is_ok() && sqlite(&dir.path().join("new.db")).is_ok());
        for wrong in [
            dir.path().to_owned(),
            file.join("x.db"),
            dir.path().join("s"),
        ] {
            assert!(sqlite(&wrong).is_err(), "{}", wrong.display());
        }
    }
}
