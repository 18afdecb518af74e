//! The binary itself: exit codes, what goes to stdout and what to stderr, against a scripted daemon.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail tests by panicking"
)]

mod samples;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// Answers each connection with the next scripted answer, and keeps the requests.
struct Daemon {
    _directory: TempDir,
    socket: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn answering(answers: Vec<(u16, String)>) -> Self {
        Self::of_group("x-repl-group: shop\r\n", answers)
    }

    /// One whose answers carry this header.
    fn of_group(header: &'static str, answers: Vec<(u16, String)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for (code, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                seen.lock().unwrap().push(read_request(&mut stream));
                let length = body.len();
                let head = format!("HTTP/1.1 {code} X\r\n{header}content-length: {length}\r\n");
                let _ =
                    stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes());
            }
        });
        Self {
            _directory: directory,
            socket,
            requests,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = replctl();
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// Head and body of one request, as text.
fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).unwrap();
        request.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8(request.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if n == 0 || body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
    }
}

fn replctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replctl"));
    command
        .env_remove("REPLCTL_SOCKET")
        .env_remove("REPLCTL_GROUP");
    command.env("COLUMNS", "100");
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(status: &repl_api::Status) -> (u16, String) {
    (200, serde_json::to_string(status).unwrap())
}

fn done() -> (u16, String) {
    (
        200,
        r#"{"verb":"pause","target":"replica-1","message":"replica-1 is paused"}"#.to_owned(),
    )
}

#[test]
fn status_as_text_and_json() {
    let daemon = Daemon::answering(vec![json(&samples::healthy()), json(&samples::paused())]);
    let text = daemon.run(&["status"]);
    assert_eq!(text.status.code(), Some(0));
    assert!(out(&text).contains("replica-1"), "{}", out(&text));
    assert!(!out(&text).contains('\x1b'), "no colour in a pipe");
    assert_eq!(err(&text), "");
    let document = daemon.run(&["status", "--json"]);
    let status: repl_api::Status = serde_json::from_str(&out(&document)).unwrap();
    assert_eq!(status, samples::paused());
}

#[test]
fn check_reports_by_exit_code() {
    let daemon = Daemon::answering(vec![
        json(&samples::healthy()),
        json(&samples::needs_resync()),
    ]);
    assert_eq!(daemon.run(&["status", "--check"]).status.code(), Some(0));
    let bad = daemon.run(&["status", "--check"]);
    assert_eq!(bad.status.code(), Some(4));
    assert!(out(&bad).contains("needs-resync"));
}

#[test]
fn watch_prints_one_document_per_line_until_the_daemon_is_gone() {
    let daemon = Daemon::answering(vec![json(&samples::healthy()), json(&samples::copying())]);
    let watched = daemon.run(&["status", "--watch", "--json", "--interval", "100ms"]);
    assert_eq!(watched.status.code(), Some(3), "{}", err(&watched));
    let documents: Vec<repl_api::Status> = out(&watched)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(documents, [samples::healthy(), samples::copying()]);
}

#[test]
fn verbs_send_what_they_say() {
    let daemon = Daemon::answering(vec![done(), done(), done(), done(), done()]);
    for verb in ["pause", "resume", "retry"] {
        let output = daemon.run(&[verb, "replica-1"]);
        assert_eq!(
            (output.status.code(), out(&output).as_str()),
            (Some(0), "replica-1 is paused\n")
        );
    }
    daemon.run(&[
        "skip",
        "replica-1",
        "--seq",
        "34000",
        "--reason",
        " row is obsolete ",
    ]);
    daemon.run(&["resync", "replica-1", "--yes"]);
    let requests = daemon.requests.lock().unwrap();
    for (request, verb) in requests
        .iter()
        .zip(["pause", "resume", "retry", "skip", "resync"])
    {
        let line = format!("POST /v1/replicas/replica-1/{verb} HTTP/1.1\r\n");
        assert!(request.starts_with(&line), "{request}");
    }
    assert!(
        requests[3].ends_with(r#"{"seq":34000,"reason":"row is obsolete"}"#),
        "{}",
        requests[3]
    );
}

#[test]
fn resync_says_what_it_will_do_and_sends_what_was_asked() {
    let daemon = Daemon::answering(vec![done(), done()]);
    let output = daemon.run(&["resync", "replica-1", "--tables", "a,b.c"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("compares a, b.c on replica-1"),
        "{}",
        err(&output)
    );
    let output = daemon.run(&["resync", "replica-1", "--full"]);
    assert!(
        err(&output).contains("replaces all rows of the replicated tables"),
        "{}",
        err(&output)
    );
    daemon.run(&["resync", "replica-1", "--tables", "a,b.c", "--yes"]);
    daemon.run(&["resync", "replica-1", "--full", "--yes"]);
    let requests = daemon.requests.lock().unwrap();
    assert!(
        requests[0].ends_with(r#"{"tables":["a","b.c"],"full":false}"#),
        "{}",
        requests[0]
    );
    assert!(
        requests[1].ends_with(r#"{"tables":[],"full":true}"#),
        "{}",
        requests[1]
    );
}

#[test]
fn resync_waits_for_the_copy() {
    let daemon = Daemon::answering(vec![
        done(),
        json(&samples::copying()),
        json(&samples::healthy()),
    ]);
    let output = daemon.run(&["resync", "replica-1", "--yes", "--wait"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("resynced"), "{}", out(&output));
    let daemon = Daemon::answering(vec![done(), json(&samples::needs_resync())]);
    let output = daemon.run(&["resync", "replica-1", "--yes", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("did not complete"),
        "{}",
        err(&output)
    );
}

#[test]
fn the_slot_is_dropped_with_the_group_as_confirmation() {
    let daemon = Daemon::answering(vec![json(&samples::healthy()), done()]);
    assert_eq!(
        daemon.run(&["slot", "drop", "--yes"]).status.code(),
        Some(0)
    );
    let requests = daemon.requests.lock().unwrap();
    assert!(
        requests[1].starts_with("POST /v1/slot/drop "),
        "{}",
        requests[1]
    );
    assert!(
        requests[1].ends_with(r#"{"confirm":"shop"}"#),
        "{}",
        requests[1]
    );
}

#[test]
fn refusals_go_to_stderr_with_advice() {
    let body = r#"{"error":{"code":"conflict","message":"replica-1 is not paused","advice":"look at replctl status"}}"#;
    let daemon = Daemon::answering(vec![(409, body.to_owned()), (409, body.to_owned())]);
    let text = daemon.run(&["resume", "replica-1"]);
    assert_eq!((text.status.code(), out(&text).as_str()), (Some(1), ""));
    assert_eq!(
        err(&text),
        "replctl: replica-1 is not paused\n  look at replctl status\n"
    );
    let json = daemon.run(&["resume", "replica-1", "--json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&err(&json)).unwrap()["error"]["code"],
        "conflict"
    );
}

#[test]
fn answers_that_are_not_the_apis_are_failures() {
    let answers = vec![
        (200, "<html>".to_owned()),
        (500, "oops".to_owned()),
        (200, "{}".to_owned()),
    ];
    let daemon = Daemon::answering(answers);
    for _ in 0..3 {
        let output = daemon.run(&["status"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains("not understood"), "{}", err(&output));
    }
}

#[test]
fn an_unreachable_daemon_is_code_3() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let missing = replctl()
        .arg("--socket")
        .arg(&socket)
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert!(err(&missing).contains("none.sock") && err(&missing).contains("--socket"));
    drop(UnixListener::bind(&socket).unwrap());
    let stale = replctl()
        .env("REPLCTL_SOCKET", &socket)
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(stale.status.code(), Some(3));
    assert!(err(&stale).contains("not running"), "{}", err(&stale));
}

#[test]
fn another_groups_daemon_is_told_by_its_answer() {
    let index = || (200, r#"{"api_version":"v1","endpoints":[]}"#.to_owned());
    // Another group's daemon, one that is too old to tell its group, and the right one.
    let other = Daemon::answering(vec![index(), json(&samples::healthy())]);
    let old = Daemon::of_group("", vec![index(), json(&samples::healthy())]);
    for (daemon, group) in [(&other, "billing"), (&old, "shop")] {
        for arguments in [["pause", "replica-1"], ["status", "--check"]] {
            let arguments = [&["--group", group][..], &arguments].concat();
            let refused = daemon.run(&arguments);
            assert_eq!(refused.status.code(), Some(1), "{}", out(&refused));
            assert!(
                err(&refused).contains("nothing was done"),
                "{}",
                err(&refused)
            );
            assert!(err(&refused).contains(group), "{}", err(&refused));
        }
        let requests = daemon.requests.lock().unwrap();
        assert!(
            requests.iter().all(|one| one.starts_with("GET ")),
            "{requests:?}"
        );
    }
    let right = Daemon::answering(vec![index(), done()]);
    let paused = right.run(&["--group", "shop", "pause", "replica-1"]);
    assert_eq!(paused.status.code(), Some(0), "{}", err(&paused));
    let requests = right.requests.lock().unwrap();
    assert!(
        requests[1].contains("x-repl-group: shop\r\n"),
        "{requests:?}"
    );
}

#[test]
fn the_command_line_goes_before_the_environment() {
    let index = || (200, r#"{"api_version":"v1","endpoints":[]}"#.to_owned());
    let daemon = Daemon::answering(vec![index(), index(), done(), done()]);
    let run = |options: &[&str], group: &str| {
        let mut command = replctl();
        command
            .env("REPLCTL_SOCKET", &daemon.socket)
            .env("REPLCTL_GROUP", group);
        command
            .args(options)
            .args(["pause", "replica-1"])
            .output()
            .unwrap()
    };
    let asked = || daemon.requests.lock().unwrap().len();
    // There is no such group here, and the daemon of the environment is not asked.
    let named = run(&["--group", "no_such_group"], "");
    assert_eq!(named.status.code(), Some(3), "{}", out(&named));
    assert!(
        err(&named).contains("no_such_group.sock"),
        "{}",
        err(&named)
    );
    let named = run(&["--socket", "/nonexistent/d.sock"], "shop");
    assert_eq!((named.status.code(), asked()), (Some(3), 0));
    // The environment alone: both variables count.
    let other = run(&[], "billing");
    assert_eq!(
        (other.status.code(), asked()),
        (Some(1), 1),
        "{}",
        out(&other)
    );
    let right = run(&[], "shop");
    assert_eq!(
        (right.status.code(), asked()),
        (Some(0), 3),
        "{}",
        err(&right)
    );
    let socket_alone = run(&[], "");
    assert_eq!((socket_alone.status.code(), asked()), (Some(0), 4));
    // An empty variable is none.
    let mut nothing = replctl();
    nothing.env("REPLCTL_SOCKET", "").env("REPLCTL_GROUP", "");
    let nothing = nothing
        .args(["--group", "no_such_group", "status"])
        .output()
        .unwrap();
    assert_eq!(nothing.status.code(), Some(3), "{}", err(&nothing));
}

#[test]
fn wrong_usage_is_code_2() {
    let wrong: [&[&str]; 15] = [
        &[],
        &["explode"],
        &["pause"],
        &["skip", "replica-1", "--seq", "1"],
        &["skip", "replica-1", "--reason", "x"],
        &["skip", "replica-1", "--seq", "1", "--reason", " "],
        &["log", "--limit", "0"],
        &["status", "--interval", "1s"],
        &["status", "--watch", "--check"],
        &["--group", "../x", "status"],
        &["--group", "", "status"],
        &["--group", "Shop", "status"],
        &["--group", "..", "status"],
        &["--socket", "", "status"],
        &["help", "nonsense"],
    ];
    for arguments in wrong {
        let output = replctl().args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            err(&output)
        );
        assert_eq!(out(&output), "", "{arguments:?}");
    }
}

#[test]
fn destruction_is_not_assumed() {
    let output = replctl()
        .args(["--socket", "/nonexistent", "resync", "replica-1"])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(2),
        "asked before the daemon is even contacted"
    );
    assert!(err(&output).contains("--yes"), "{}", err(&output));
    let daemon = Daemon::answering(vec![json(&samples::healthy())]);
    assert_eq!(daemon.run(&["slot", "drop"]).status.code(), Some(2));
    assert_eq!(
        daemon.requests.lock().unwrap().len(),
        1,
        "only the status was asked for"
    );
}

#[test]
fn help_documents_the_exit_codes() {
    for arguments in [&["--help"][..], &["help"], &["help", "exit-codes"]] {
        let output = replctl().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(
            out(&output).contains("3  the daemon cannot be reached"),
            "{arguments:?}"
        );
    }
    let output = replctl().args(["help", "slot", "drop"]).output().unwrap();
    assert!(out(&output).contains("--yes"), "{}", out(&output));
}
