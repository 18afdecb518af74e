//! What the subcommands share: the daemon to talk to and the terminal to write to.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use console::Term;
use repl_api::Client;
use serde::Serialize;

use crate::cli::{Global, group_name};
use crate::exit::Failure;
use crate::render::View;

/// Where the sockets of system-wide daemons are.
const RUN_DIRECTORY: &str = "/run/repl-daemon";

/// Columns assumed where output does not go to a terminal: enough to keep every row on one line.
const PIPE_WIDTH: u16 = 200;

/// The global options, resolved when they are needed.
pub(crate) struct Context {
    global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// Whether to print JSON.
    pub(crate) fn json(&self) -> bool {
        self.global.json
    }

    /// A client for the daemon that the options name, else the environment, else the only one there is.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let Named { socket, group } = self.named()?;
        let directory = Path::new(RUN_DIRECTORY);
        let socket = match (socket, &group) {
            (Some(socket), _) => socket,
            (None, Some(group)) => directory.join(format!("{group}.sock")),
            (None, None) => only_socket(directory)?,
        };
        let client = Client::new(socket);
        Ok(match group {
            Some(group) => client.expecting(group),
            None => client,
        })
    }

    /// The group that is meant, where one is named.
    pub(crate) fn group(&self) -> Result<Option<String>, Failure> {
        Ok(self.named()?.group)
    }

    fn named(&self) -> Result<Named, Failure> {
        named(&self.global, |variable| std::env::var_os(variable))
    }

    /// How to render for stdout at this moment.
    pub(crate) fn view(&self) -> View {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = if terminal {
            Term::stdout().size().1.max(40)
        } else {
            PIPE_WIDTH
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        View {
            now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            width,
            colour: terminal && !plain,
        }
    }

    /// Prints `value` as JSON when that was asked for, else the text that `text` renders.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&View) -> String,
    ) -> Result<(), Failure> {
        if self.json() {
            let mut json = serde_json::to_string_pretty(value).map_err(unprintable)?;
            json.push('\n');
            return write_out(&json);
        }
        write_out(&text(&self.view()))
    }
}

/// The daemon that is meant, as far as somebody said it.
#[derive(Debug, PartialEq)]
struct Named {
    /// Its socket.
    socket: Option<PathBuf>,
    /// Its group, which its answers are held against.
    group: Option<String>,
}

/// What the command line says goes before the environment: one option there, and no variable counts. An
/// empty variable is none.
fn named(global: &Global, variable: impl Fn(&str) -> Option<OsString>) -> Result<Named, Failure> {
    if global.socket.is_some() || global.group.is_some() {
        return Ok(Named {
            socket: global.socket.clone(),
            group: global.group.clone(),
        });
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let group = set("REPLCTL_GROUP").map(|value| {
        let text = value.to_string_lossy();
        group_name(&text).map_err(|why| {
            Failure::usage(
                format!("REPLCTL_GROUP is {text:?}: {why}"),
                "unset it, or set it to the group's name",
            )
        })
    });
    Ok(Named {
        socket: set("REPLCTL_SOCKET").map(PathBuf::from),
        group: group.transpose()?,
    })
}

/// A value that does not serialize: a defect, said plainly.
pub(crate) fn unprintable(error: serde_json::Error) -> Failure {
    Failure::failed(
        format!("cannot print the answer as JSON: {error}"),
        "report this defect",
    )
}

/// Writes to stdout. A reader that has gone ends the program without a complaint.
pub(crate) fn write_out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Failure::reader_gone();
            }
            Failure::failed(format!("cannot write to stdout: {error}"), "")
        })
}

/// The one socket in `directory`; with none or several, the operator has to choose.
fn only_socket(directory: &Path) -> Result<PathBuf, Failure> {
    let mut sockets: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default();
    sockets.retain(|path| path.extension() == Some(OsStr::new("sock")));
    sockets.sort();
    match &sockets[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::usage(
            format!(
                "no daemon was named, and there is no socket in {}",
                directory.display()
            ),
            "give --socket PATH (api.socket in the daemon's configuration), or set REPLCTL_SOCKET to it",
        )),
        several => {
            let groups: Vec<_> = several
                .iter()
                .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
                .collect();
            Err(Failure::usage(
                format!("several daemons run on this machine: {}", groups.join(", ")),
                "choose one with --group",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        // --socket, --group, REPLCTL_SOCKET, REPLCTL_GROUP, and what they mean: socket, group.
        let cases = [
            ["", "", "", "", "", ""],
            ["", "", "/a", "", "/a", ""],
            ["", "", "", "a", "", "a"],
            ["", "", "/a", "a", "/a", "a"],
            ["", "b", "/a", "", "", "b"],
            ["", "b", "", "a", "", "b"],
            ["", "b", "/a", "a", "", "b"],
            ["/b", "", "/a", "", "/b", ""],
            ["/b", "", "", "a", "/b", ""],
            ["/b", "", "/a", "a", "/b", ""],
            ["/b", "b", "/a", "a", "/b", "b"],
        ];
        for [
            socket,
            group,
            env_socket,
            env_group,
            wants_socket,
            wants_group,
        ] in cases
        {
            let global = Global {
                socket: some(socket).map(PathBuf::from),
                group: some(group),
                json: false,
            };
            // An empty variable is none.
            let variable = |name: &str| match name {
                "REPLCTL_SOCKET" => Some(OsString::from(env_socket)),
                _ => Some(OsString::from(env_group)),
            };
            let wants = Named {
                socket: some(wants_socket).map(PathBuf::from),
                group: some(wants_group),
            };
            let case = format!("{socket} {group} {env_socket} {env_group}");
            assert_eq!(named(&global, variable).unwrap(), wants, "{case}");
            if env_socket.is_empty() && env_group.is_empty() {
                assert_eq!(named(&global, |_| None).unwrap(), wants, "{case}");
            }
        }
        let nothing = Global {
            socket: None,
            group: None,
            json: false,
        };
        let wrong = named(&nothing, |_| Some(OsString::from("../x"))).unwrap_err();
        assert!(format!("{wrong:?}").contains("REPLCTL_GROUP"), "{wrong:?}");
    }

    #[test]
    fn the_only_socket_is_found() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_socket(directory.path()).is_err());
        std::fs::write(directory.path().join("shop.sock"), "").unwrap();
        std::fs::write(directory.path().join("shop.pid"), "").unwrap();
        assert_eq!(
            only_socket(directory.path()).unwrap(),
            directory.path().join("shop.sock")
        );
        std::fs::write(directory.path().join("other.sock"), "").unwrap();
        let failure = format!("{:?}", only_socket(directory.path()).unwrap_err());
        assert!(failure.contains("other, shop"), "{failure}");
    }
}
