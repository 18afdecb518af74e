//! From a connector's error to what the operator sees.

use std::time::Duration;

use repl_api::{Directive, ErrorInfo, ErrorKind, FailedTransaction};
use repl_connectors::seam::ConnectorError;

use crate::worker::collect::TxInfo;

/// An error of a replica as status shows it.
pub fn of_replica(
    replica: &str,
    error: &ConnectorError,
    transaction: Option<&TxInfo>,
    attempts: u32,
) -> ErrorInfo {
    let seq = transaction.map(|tx| tx.seq.0);
    ErrorInfo {
        advice: for_replica(replica, error, seq),
        transaction: transaction.map(|tx| FailedTransaction {
            seq: tx.seq.0,
            source_txid: tx.txid.to_string(),
            position: tx.position.0.clone(),
        }),
        ..info(error, attempts)
    }
}

/// An error of the capture as status shows it. Whatever it is, the capture tries again by itself.
pub fn of_primary(primary: &str, error: &ConnectorError, attempts: u32) -> ErrorInfo {
    ErrorInfo {
        advice: for_primary(primary, error),
        directive: Directive::Retry,
        ..info(error, attempts)
    }
}

fn info(error: &ConnectorError, attempts: u32) -> ErrorInfo {
    ErrorInfo {
        at_ms: crate::clock::now_ms(),
        kind: kind(error.kind),
        message: error.message.clone(),
        advice: String::new(),
        transaction: None,
        table: error.table.clone(),
        key: error.key.clone(),
        database_code: error.code.clone(),
        directive: match error.directive() {
            repl_core::Directive::Retry => Directive::Retry,
            repl_core::Directive::Pause => Directive::Pause,
            repl_core::Directive::Resync => Directive::Stop,
        },
        attempts,
        past: false,
    }
}

/// What the connector advises, else what can be said of the kind; then the commands that end it.
fn for_replica(replica: &str, error: &ConnectorError, seq: Option<u64>) -> String {
    use repl_core::ErrorKind as Kind;
    let table = error.table.as_deref();
    let mut advice = vec![match (error.advice.trim(), error.kind) {
        ("", Kind::Connection) => format!(
            "see whether {replica} runs and can be reached from here; the daemon connects by itself"
        ),
        ("", Kind::Transient | Kind::CheckpointMoved) => {
            format!("nothing, unless it lasts: then see the log of {replica}'s server")
        }
        ("", Kind::Constraint) => {
            format!(
                "remove what is in the way at {replica}: the row, or the constraint that the primary has not"
            )
        }
        ("", Kind::Data) => format!("change the column at {replica} so that it can hold the value"),
        ("", Kind::Conflict) => {
            format!("{replica} was written to by others than the daemon: see what it holds there")
        }
        ("", Kind::Schema) => {
            format!("give the table at {replica} the shape that it has at the primary")
        }
        ("", Kind::Privilege) => {
            format!("grant the daemon's role at {replica} what the message names")
        }
        ("", Kind::Configuration) => {
            format!(
                "change the setting at {replica}, or in the daemon's configuration and restart it"
            )
        }
        ("", Kind::History) => format!("bring {replica} to what the primary holds"),
        ("", Kind::Internal) => "report the message; a retry may get past it".to_owned(),
        (own, _) => named(own, replica, table, seq),
    }];
    let mut command = |text: String, said: &str| {
        if !advice.iter().any(|line| line.contains(said)) {
            advice.push(text);
        }
    };
    match error.directive() {
        repl_core::Directive::Retry => {}
        repl_core::Directive::Resync => {
            command(format!("replctl resync {replica}"), "replctl re");
        }
        repl_core::Directive::Pause => {
            command(format!("then: replctl retry {replica}"), "replctl retry");
            let by_row = matches!(error.kind, Kind::Conflict | Kind::Constraint | Kind::Data);
            if let Some(table) = table.filter(|_| by_row) {
                let text = format!(
                    "or have {table} made equal to the primary's: replctl resync {replica} --tables {}",
                    quoted(table)
                );
                command(text, "replctl resync");
            }
            if let Some(seq) = seq {
                let text = format!(
                    "or leave the transaction out ({replica} becomes diverged): replctl skip {replica} \
                     --seq {seq} --reason TEXT"
                );
                command(text, "replctl skip");
            }
        }
    }
    advice.join("\n")
}

fn for_primary(primary: &str, error: &ConnectorError) -> String {
    use repl_core::ErrorKind as Kind;
    match (error.advice.trim(), error.kind) {
        ("", Kind::Connection) => format!(
            "see whether {primary} runs and can be reached from here; the daemon connects by itself"
        ),
        ("", Kind::Transient | Kind::CheckpointMoved) => {
            format!("nothing, unless it lasts: then see the log of {primary}'s server")
        }
        ("", Kind::Privilege) => {
            format!(
                "grant the daemon's role at {primary} what the message names; it is tried again by itself"
            )
        }
        ("", Kind::History) => {
            "see which replicas need a new copy (replctl status), then: replctl resync REPLICA"
                .to_owned()
        }
        ("", Kind::Internal) => "report the message, with the daemon's log".to_owned(),
        ("", _) => {
            format!("mend at {primary} what the message names; it is tried again by itself")
        }
        (own, _) => own.to_owned(),
    }
}

/// A connector knows neither the node's name nor the transaction: fills them into the commands that it
/// advises, so that they can be pasted.
fn named(advice: &str, replica: &str, table: Option<&str>, seq: Option<u64>) -> String {
    let mut text = String::with_capacity(advice.len() + 64);
    let advice = advice.replace(" <replica>", "");
    let mut parts = advice.split("replctl ");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        text.push_str("replctl ");
        let end = part.find(|c: char| !c.is_ascii_lowercase());
        let (verb, rest) = part.split_at(end.unwrap_or(part.len()));
        text.push_str(verb);
        let takes = ["pause", "resume", "retry", "skip", "resync", "rejoin"].contains(&verb);
        let has = rest
            .strip_prefix(' ')
            .and_then(|rest| rest.strip_prefix(replica))
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-'));
        if takes && !has {
            text.push(' ');
            text.push_str(replica);
        }
        match (verb, table, seq) {
            ("resync", Some(table), _) if takes && !has && !rest.starts_with(" --") => {
                text.push_str(&format!(" --tables {}", quoted(table)));
            }
            ("skip", _, Some(seq)) if !has && !rest.starts_with(" --") => {
                text.push_str(&format!(" --seq {seq} --reason TEXT"));
            }
            _ => {}
        }
        text.push_str(rest);
    }
    text
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-/".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn kind(kind: repl_core::ErrorKind) -> ErrorKind {
    match kind {
        repl_core::ErrorKind::Connection => ErrorKind::Connection,
        repl_core::ErrorKind::Transient | repl_core::ErrorKind::CheckpointMoved => {
            ErrorKind::Transient
        }
        repl_core::ErrorKind::Constraint => ErrorKind::Constraint,
        repl_core::ErrorKind::Data => ErrorKind::Data,
        repl_core::ErrorKind::Conflict => ErrorKind::Conflict,
        repl_core::ErrorKind::Schema => ErrorKind::Schema,
        repl_core::ErrorKind::Privilege => ErrorKind::Privilege,
        repl_core::ErrorKind::Configuration => ErrorKind::Configuration,
        repl_core::ErrorKind::History => ErrorKind::History,
        repl_core::ErrorKind::Internal => ErrorKind::Internal,
    }
}

/// Longest wait before a server that was not reached is tried again.
const RETURN: Duration = Duration::from_secs(5);

/// The wait before the next attempt: a server that is back is to be noticed within seconds, however long it
/// was away.
pub fn wait_after(error: &ConnectorError, wait: Duration) -> Duration {
    let reached = error.kind != repl_core::ErrorKind::Connection && !error.connecting;
    if reached { wait } else { wait.min(RETURN) }
}

/// The state file could not be written: try again.
pub fn state(error: anyhow::Error) -> ConnectorError {
    ConnectorError::new(repl_core::ErrorKind::Transient, format!("{error:#}"))
        .advice("free space or mend the permissions of the log directory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use repl_core::ErrorKind as Kind;

    const KINDS: [Kind; 11] = [
        Kind::Connection,
        Kind::Transient,
        Kind::Constraint,
        Kind::Data,
        Kind::Conflict,
        Kind::Schema,
        Kind::Privilege,
        Kind::Configuration,
        Kind::History,
        Kind::CheckpointMoved,
        Kind::Internal,
    ];

    /// Whatever an engine's connector leaves unsaid: the daemon never shows an error without advice.
    #[test]
    fn no_error_is_without_advice() {
        for kind in KINDS {
            for own in ["", "  ", "drop the trigger"] {
                let error = ConnectorError::new(kind, "x").advice(own);
                let shown = [
                    of_primary("main", &error, 1),
                    of_replica("r1", &error, None, 1),
                ];
                for shown in shown {
                    assert!(!shown.advice.trim().is_empty(), "{kind:?}");
                    assert!(
                        shown.advice.contains(own.trim()),
                        "{kind:?}: {}",
                        shown.advice
                    );
                }
                let advice = for_replica("r1", &error, Some(42));
                match kind.directive() {
                    repl_core::Directive::Retry => {}
                    repl_core::Directive::Resync => {
                        assert!(advice.contains("replctl resync r1"), "{advice}");
                    }
                    repl_core::Directive::Pause => {
                        assert!(advice.contains("replctl retry r1"), "{advice}");
                        assert!(advice.contains("replctl skip r1 --seq 42"), "{advice}");
                    }
                }
            }
        }
    }

    #[test]
    fn commands_can_be_pasted_and_stand_once() {
        let mut error = ConnectorError::new(Kind::Conflict, "a row is missing");
        error.table = Some("public.My Orders".to_owned());
        let advice = for_replica("r1", &error, Some(7));
        assert!(
            advice.contains("replctl resync r1 --tables 'public.My Orders'"),
            "{advice}"
        );
        let fills = |advice: &str| named(advice, "r1", error.table.as_deref(), Some(7));
        let filled = [
            (
                "drop it; then `replctl retry`",
                "drop it; then `replctl retry r1`",
            ),
            (
                "copy the table again: replctl resync",
                "copy the table again: replctl resync r1 --tables 'public.My Orders'",
            ),
            (
                "copy it with: replctl resync <replica>",
                "copy it with: replctl resync r1 --tables 'public.My Orders'",
            ),
            (
                "replctl resync --tables 'a'",
                "replctl resync r1 --tables 'a'",
            ),
            (
                "step over it with replctl skip",
                "step over it with replctl skip r1 --seq 7 --reason TEXT",
            ),
            (
                "replctl retry r1, replctl status",
                "replctl retry r1, replctl status",
            ),
        ];
        for (advice, expected) in filled {
            assert_eq!(fills(advice), expected);
        }
        error.advice =
            "replctl resync r1 --tables x, or replctl skip r1 --seq 7; then replctl retry r1"
                .into();
        assert_eq!(for_replica("r1", &error, Some(7)), error.advice);
    }

    #[test]
    fn a_capture_goes_on_by_itself() {
        let wrong = ConnectorError::new(Kind::Privilege, "password authentication failed");
        assert_eq!(of_primary("main", &wrong, 3).directive, Directive::Retry);
        assert_eq!(
            of_replica("r1", &wrong, None, 1).directive,
            Directive::Pause
        );
    }
}
