//! Exit codes, and the failures that lead to them.

use std::process::ExitCode;

use repl_api::ClientError;
use serde_json::json;

use crate::render;

/// The exit codes, as `replctl --help` and `replctl help exit-codes` print them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; with `status --check`: nothing needs attention
  1  the daemon refused the operation, or it failed
  2  wrong usage: an unknown option, a missing argument or confirmation
  3  the daemon cannot be reached
  4  only with `status --check`: something needs attention
`validate` ends with 0 when all is equal, 1 when something differs, 2 when it could not tell.
With --socket or --group neither REPLCTL_SOCKET nor REPLCTL_GROUP is looked at.";

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The daemon refused, or the operation failed.
    Failed = 1,
    /// Wrong usage; also: `validate` could not tell.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// `status --check` found something that needs attention.
    Attention = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A run that did not succeed: its exit code, what happened, and what to do.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// Stable word for scripts: an error code of the API, `usage`, `unreachable` or `failed`.
    code: String,
    message: String,
    advice: String,
}

impl Failure {
    /// The operation failed (exit code 1).
    pub fn failed(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", message, advice)
    }

    /// `validate` could not tell (exit code 2).
    pub fn undetermined(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "undetermined", message, advice)
    }

    /// The command was used wrongly (exit code 2).
    pub fn usage(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message, advice)
    }

    /// The reader of stdout has gone (`replctl log | head`): nothing is wrong and nothing is printed.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Exit::Ok, "", "", "")
    }

    fn new(exit: Exit, code: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            advice: advice.into(),
        }
    }

    /// Prints the failure on stderr, as JSON when `json`, and gives its exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        let Self {
            exit,
            code,
            message,
            advice,
        } = self;
        if *exit != Exit::Ok {
            if json {
                let error = json!({"code": code, "message": message, "advice": advice});
                eprintln!("{}", json!({"error": error}));
            } else {
                eprint!("{}", render::failure(message, advice));
            }
        }
        (*exit).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Refused(error) => {
                let word = serde_json::to_value(error.code).unwrap_or_default();
                Self::new(
                    Exit::Failed,
                    word.as_str().unwrap_or("failed"),
                    error.message,
                    error.advice,
                )
            }
            ClientError::Unreachable { source, .. } => {
                let advice = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "run as root or as the daemon's user, or add your user to the socket's group"
                    }
                    std::io::ErrorKind::ConnectionRefused => {
                        "the daemon is not running (it left its socket behind): start it, e.g. \
                         systemctl start repl-daemon@<group>"
                    }
                    _ => {
                        "start the daemon, or name its socket (api.socket in its configuration) with \
                         --socket, or with REPLCTL_SOCKET (which --group goes before)"
                    }
                };
                Self::new(Exit::Unreachable, "unreachable", message, advice)
            }
            ClientError::TimedOut { .. } => Self::new(
                Exit::Unreachable,
                "unreachable",
                message,
                "the daemon is overloaded, stopped (SIGSTOP) or hanging: look at its log",
            ),
            ClientError::WrongGroup { found, .. } => Self::new(
                Exit::Failed,
                "wrong_group",
                format!("{message}; nothing was done"),
                match found {
                    Some(_) => {
                        "name the socket of the group's own daemon with --socket, or the group that is \
                         meant with --group"
                    }
                    None => {
                        "it is another program, or a daemon older than this replctl (replctl --version): \
                         restart the daemon after an upgrade"
                    }
                },
            ),
            ClientError::Protocol { .. } => Self::new(
                Exit::Failed,
                "protocol",
                message,
                "check that the socket is the daemon's and that replctl has its version \
                 (replctl --version)",
            ),
        }
    }
}
