//! Secrets, and the places they may come from.

use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::problem::{Complaint, complaint, file_trouble};
use crate::admin::peer::group_id;

/// Longest secret read from a file, in bytes; a larger file is surely not a password.
const MAX_SECRET_BYTES: u64 = 4096;

/// A password. It prints as `***` everywhere; [`Secret::expose`] is the only way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for handing to the database driver and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

type Lookup = dyn Fn(&str) -> Option<OsString>;

type Groups = dyn Fn(&str) -> bool;

/// The process environment as the configuration sees it; tests give their own.
pub struct Env {
    lookup: Box<Lookup>,
    /// Whether the machine has a group of that name or number.
    groups: Box<Groups>,
}

impl Env {
    /// The variables of this process.
    pub fn process() -> Self {
        Self {
            lookup: Box::new(|name| std::env::var_os(name)),
            // What cannot be read is not held against anybody.
            groups: Box::new(|name| !matches!(group_id(name), Ok(None))),
        }
    }

    /// A fixed set of variables, and every group there might be.
    pub fn of<const N: usize>(vars: [(&str, &str); N]) -> Self {
        let vars = vars.map(|(name, value)| (name.to_owned(), OsString::from(value)));
        Self {
            lookup: Box::new(move |name| {
                vars.iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, value)| value.clone())
            }),
            groups: Box::new(|_| true),
        }
    }

    /// Whether the machine has a group of that name or number.
    pub(super) fn has_group(&self, name: &str) -> bool {
        (self.groups)(name)
    }

    fn var(&self, name: &str) -> Option<OsString> {
        (self.lookup)(name)
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env(…)")
    }
}

/// Reads a password file: readable by its owner only, one line, not empty.
///
/// Messages do not repeat the path: a password put there by mistake would be printed.
pub(super) fn from_file(path: &Path) -> Result<Secret, Complaint> {
    let meta = std::fs::metadata(path).map_err(|error| {
        complaint(
            file_trouble(&error),
            "the node's password is kept in it",
            "create the file, owned by the daemon's user, with mode 0600",
        )
    })?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_file() && mode & 0o077 != 0 {
        return Err(complaint(
            format!("the file has mode {mode:04o}: others than its owner have access"),
            "a password that other users can read or replace is no secret",
            "run `chmod 0600` on it",
        ));
    }
    read_secret(path)
}

/// Reads a systemd credential (`LoadCredential=`); systemd itself guards access to it.
pub(super) fn from_credential(name: &str, env: &Env) -> Result<Secret, Complaint> {
    let fix = "add `LoadCredential=NAME:/path/to/file` to the unit and give NAME here";
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if !plain {
        let why = "it names a file in the directory systemd prepares for the service";
        return Err(complaint("it is not a credential name", why, fix));
    }
    let Some(dir) = env.var("CREDENTIALS_DIRECTORY") else {
        let why = "systemd sets it only for services with credentials";
        return Err(complaint("$CREDENTIALS_DIRECTORY is not set", why, fix));
    };
    let path = PathBuf::from(dir).join(name);
    if !path.exists() {
        let why = "the unit passes no credential of that name";
        return Err(complaint("the credential does not exist", why, fix));
    }
    read_secret(&path)
}

/// Reads an environment variable; the message does not repeat its name, as [`from_file`].
pub(super) fn from_env(name: &str, env: &Env) -> Result<Secret, Complaint> {
    let fix = "set the variable in the daemon's environment (systemd: EnvironmentFile=)";
    let Some(value) = env.var(name) else {
        let why = "the node's password is expected in it";
        return Err(complaint(
            "the environment variable it names is not set",
            why,
            fix,
        ));
    };
    let Ok(text) = value.into_string() else {
        let why = "passwords are text";
        return Err(complaint(
            "the environment variable is not valid UTF-8",
            why,
            fix,
        ));
    };
    accept(text, "the environment variable")
}

fn read_secret(path: &Path) -> Result<Secret, Complaint> {
    let unreadable = |reason: String| {
        let fix = "let it hold the password alone, readable by the daemon's user";
        complaint(reason, "the node's password is kept in it", fix)
    };
    // Looked at before opening: opening a FIFO would wait for its other end.
    if !path.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    let cannot = |e: std::io::Error| unreadable(file_trouble(&e));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(unreadable(format!(
            "the file is larger than {MAX_SECRET_BYTES} bytes"
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable("the file is not valid UTF-8".to_owned()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    accept(
        line.strip_suffix('\r').unwrap_or(line).to_owned(),
        "the file",
    )
}

fn accept(text: String, source: &str) -> Result<Secret, Complaint> {
    if text.is_empty() {
        let why = "an empty password would be sent, and refused by the server";
        let fix = "put the password there, or remove the key where none is needed";
        return Err(complaint(format!("{source} is empty"), why, fix));
    }
    if text.contains(['\n', '\r', '\0']) {
        let why = "the whole content is the password, so it must be a single line";
        let fix = "keep the password alone in it";
        return Err(complaint(
            format!("{source} holds more than one line"),
            why,
            fix,
        ));
    }
    Ok(Secret(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let shown = format!("{:?}", Some(Secret::new("hunter2")));
        assert_eq!(shown, "Some(Secret(***))");
    }

    #[test]
    fn a_password_file_must_be_private_and_hold_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pw");
        let write = |content: &str, mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            from_file(&path)
        };
        assert_eq!(write("hunter2\n", 0o600).unwrap().expose(), "hunter2");
        assert_eq!(write(" spaced \r\n", 0o400).unwrap().expose(), " spaced ");
        assert!(write("hunter2\n", 0o640).unwrap_err().what.contains("0640"));
        assert!(write("hunter2\n", 0o604).unwrap_err().what.contains("0604"));
        assert!(write("\n", 0o600).unwrap_err().what.contains("empty"));
        assert!(
            write("a\nb\n", 0o600)
                .unwrap_err()
                .what
                .contains("more than one line")
        );
        assert!(
            from_file(dir.path())
                .unwrap_err()
                .what
                .contains("not a regular file")
        );
    }

    #[test]
    fn credentials_come_from_the_directory_systemd_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("db"), "hunter2").unwrap();
        let env = Env::of([("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())]);
        assert_eq!(from_credential("db", &env).unwrap().expose(), "hunter2");
        assert!(
            from_credential("other", &env)
                .unwrap_err()
                .what
                .contains("does not exist")
        );
        assert!(from_credential("../db", &env).is_err());
        assert!(
            from_credential("db", &Env::of([]))
                .unwrap_err()
                .what
                .contains("is not set")
        );
    }
}
