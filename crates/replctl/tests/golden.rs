//! The rendered texts, compared with golden files.
//!
//! To accept a changed look: `UPDATE_GOLDEN=1 cargo test -p replctl --test golden`, then read the diff.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail tests by panicking"
)]

mod samples;

use std::path::Path;

use repl_api::{LogInfo, SegmentInfo, TableChanges, TransactionInfo};
use replctl::render::{self, View};
use samples::NOW;

const VIEW: View = View {
    now_ms: NOW,
    width: 150,
    colour: false,
};

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; see this file's head", path.display()));
    assert!(
        text == golden,
        "{name} has changed.\n--- golden\n{golden}\n--- now\n{text}"
    );
}

#[test]
fn status_healthy() {
    check("healthy", &render::status(&samples::healthy(), &VIEW));
}

#[test]
fn status_paused() {
    check("paused", &render::status(&samples::paused(), &VIEW));
}

#[test]
fn status_degraded() {
    check("degraded", &render::status(&samples::degraded(), &VIEW));
}

#[test]
fn a_degraded_mode_needs_attention() {
    let attention = samples::degraded().attention().join("; ");
    assert!(
        attention.contains("degraded") && attention.contains("replica-1"),
        "{attention}"
    );
}

#[test]
fn status_copying() {
    check("copying", &render::status(&samples::copying(), &VIEW));
}

#[test]
fn status_needs_resync() {
    check(
        "needs-resync",
        &render::status(&samples::needs_resync(), &VIEW),
    );
}

#[test]
fn status_primary_down() {
    check(
        "primary-down",
        &render::status(&samples::primary_down(), &VIEW),
    );
}

#[test]
fn status_on_a_narrow_terminal() {
    check(
        "narrow",
        &render::status(&samples::paused(), &View { width: 80, ..VIEW }),
    );
}

#[test]
fn rows_stay_whole_at_every_width() {
    let mut status = samples::paused();
    status.replicas[0].name = "replica-in-frankfurt-1".into();
    status.replicas[1].max_lag_ms = None;
    status
        .replicas
        .push(samples::needs_resync().replicas[0].clone());
    for width in 40..=220 {
        let text = render::status(&status, &View { width, ..VIEW });
        let lines: Vec<&str> = text.lines().collect();
        let heading = lines
            .iter()
            .position(|line| line.starts_with("REPLICA"))
            .unwrap();
        for (row, replica) in lines[heading + 1..].iter().zip(&status.replicas) {
            assert!(row.starts_with(&replica.name), "{width}:\n{text}");
            let widest = usize::from(width).max(79);
            assert!(row.chars().count() <= widest, "{width}: {row:?}\n{text}");
        }
        assert!(
            lines[heading + 4].is_empty(),
            "{width}: a row is on two lines\n{text}"
        );
        assert!(lines[heading].contains("LAST ERROR"), "{width}:\n{text}");
        let tables = render::tables(&status.tables, &View { width, ..VIEW });
        for table in &status.tables {
            assert!(tables.contains(&table.source), "{width}:\n{tables}");
        }
    }
}

#[test]
fn who_paused_it_is_told_apart() {
    let mut status = samples::paused();
    let text = render::status(&status, &VIEW);
    assert!(text.contains("paused (error)"), "{text}");
    let attention = status.attention().join("\n");
    assert!(
        attention.contains("replica-2 is paused by an error: cannot insert"),
        "{attention}"
    );
    let ordered = &mut status.replicas[1];
    ordered.paused_by = Some("operator".into());
    // It had gone on after that error.
    ordered.last_error.as_mut().unwrap().past = true;
    let text = render::status(&status, &VIEW);
    assert!(
        !text.contains("paused (error)") && !text.contains("until you decide"),
        "{text}"
    );
    assert!(text.contains("replica-2: paused by order"), "{text}");
    assert!(
        text.contains("replica-2: recovered from a constraint error 2m ago"),
        "{text}"
    );
    let day = 24 * 3_600_000;
    let later = View {
        now_ms: NOW + day,
        ..VIEW
    };
    assert!(!render::status(&status, &later).contains("recovered"));
}

#[test]
fn what_is_not_known_of_a_lost_replica_is_not_shown() {
    let text = render::status(&samples::needs_resync(), &VIEW);
    let row = text
        .lines()
        .find(|line| line.starts_with("replica-1  needs-resync"))
        .unwrap();
    let cells: Vec<&str> = row.split_whitespace().take(5).collect();
    assert_eq!(cells, ["replica-1", "needs-resync", "-", "-", "-"], "{row}");
    assert!(!text.contains("found equal"), "{text}");
}

#[test]
fn a_refused_capture_is_said_to_try_again() {
    let mut status = samples::primary_down();
    status.primary.state = repl_api::PrimaryState::Stopped;
    status.primary.refusal = status.primary.last_error.clone();
    let text = render::status(&status, &VIEW);
    assert!(
        text.contains("needs you; it is tried again by itself"),
        "{text}"
    );
    assert!(!text.contains("paused until you decide"), "{text}");
}

#[test]
fn tables() {
    check("tables", &render::tables(&samples::paused().tables, &VIEW));
}

#[test]
fn log() {
    check("log", &render::log(&log_info(), false, &VIEW));
}

#[test]
fn colour_changes_nothing_but_colour() {
    for status in [
        samples::healthy(),
        samples::paused(),
        samples::copying(),
        samples::primary_down(),
    ] {
        let coloured = render::status(
            &status,
            &View {
                colour: true,
                ..VIEW
            },
        );
        assert!(coloured.contains("\x1b["));
        let plain: Vec<String> = without_ansi(&coloured);
        let expected = render::status(&status, &VIEW);
        let expected: Vec<&str> = expected.lines().map(str::trim_end).collect();
        assert_eq!(plain, expected);
    }
}

#[test]
fn foreign_text_reaches_no_terminal_raw() {
    let mut status = samples::paused();
    let hostile = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\u{202e}";
    status.replicas[1].name = hostile.into();
    status.primary.endpoint = hostile.into();
    status.alerts = vec![hostile.into()];
    status.tables[0].source = hostile.into();
    status.tables[2].remedy = Some(hostile.into());
    if let Some(error) = &mut status.replicas[1].last_error {
        error.message = hostile.into();
        error.advice = hostile.into();
        error.key = Some(hostile.into());
    }
    let text = render::status(&status, &VIEW) + &render::tables(&status.tables, &VIEW);
    assert!(
        !text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')),
        "{text}"
    );
}

fn without_ansi(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("\x1b[") {
        plain.push_str(&rest[..start]);
        let end = rest[start..].find('m').unwrap();
        rest = &rest[start + end + 1..];
    }
    plain.push_str(rest);
    plain
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn log_info() -> LogInfo {
    let segment = |i: u64| SegmentInfo {
        file: format!("{:020}.seg", i * 1000 + 1),
        first_seq: (i < 7).then_some(i * 1000 + 1),
        last_seq: (i < 7).then_some(i * 1000 + 1000),
        bytes: if i < 7 { 64 << 20 } else { 4096 },
        sealed: i < 7,
    };
    let changes = |table: &str, inserts, updates, deletes, truncates| TableChanges {
        table: table.into(),
        inserts,
        updates,
        deletes,
        truncates,
    };
    let transaction = |seq: u64, tables| TransactionInfo {
        seq,
        epoch: 1,
        source_txid: (700 + seq).to_string(),
        position: format!("0/16B{seq:X}"),
        commit_ms: NOW - 60_000 + seq,
        bytes: seq * 17,
        tables,
    };
    LogInfo {
        log_id: "0d5f3a52-7f0e-4f8e-9a55-0f6d3a1c2b11".into(),
        epoch: 1,
        first_seq: 1,
        durable_seq: 7000,
        size_bytes: 7 * (64 << 20) + 4096,
        segments: (0..8).map(segment).collect(),
        transactions: vec![
            transaction(6998, vec![changes("public.orders", 3, 1, 0, 0)]),
            transaction(6999, vec![]),
            transaction(
                7000,
                vec![
                    changes("public.orders", 0, 0, 1204, 0),
                    changes("public.audit", 0, 0, 0, 1),
                ],
            ),
        ],
        truncated: true,
    }
}
