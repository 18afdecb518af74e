//! The table of replicas.

use comfy_table::{Cell, CellAlignment};
use repl_api::{Activity, ErrorInfo, Membership, ReplicaStatus};

use super::View;
use super::human::{age, bytes, clean, clip, count, duration, rate};
use super::style::{self, Tone, cell};

/// Characters the last error needs in the table to be worth its place; the whole of it stands below.
const MIN_ERROR: usize = 24;

/// Characters of an error's kind, which is shown where there is no place for more.
const KIND: usize = 13;

/// The heading of the last column.
const LAST_ERROR: &str = "LAST ERROR";

/// Characters of the last error beyond which the table would only get wide.
const MAX_ERROR: usize = 60;

/// One column: its heading, and its value of a replica.
struct Column {
    heading: &'static str,
    /// What is left out first where the terminal is narrow: the highest.
    spared: u8,
    /// Numbers are aligned to the right, words to the left.
    alignment: CellAlignment,
    value: fn(&ReplicaStatus) -> (String, Tone),
}

const fn words(heading: &'static str, value: fn(&ReplicaStatus) -> (String, Tone)) -> Column {
    Column {
        heading,
        spared: 0,
        alignment: CellAlignment::Left,
        value,
    }
}

const fn number(heading: &'static str, value: fn(&ReplicaStatus) -> (String, Tone)) -> Column {
    Column {
        heading,
        spared: 0,
        alignment: CellAlignment::Right,
        value,
    }
}

const fn spared(spared: u8, column: Column) -> Column {
    Column { spared, ..column }
}

/// All columns but the last one, the error, which gets what is left of the width.
const COLUMNS: [Column; 9] = [
    words("REPLICA", |r| (clean(&r.name), Tone::Strong)),
    words("STATE", state),
    number("QUEUE TX", |r| queue(r, count(r.queue_transactions))),
    spared(4, number("QUEUE", |r| queue(r, bytes(r.queue_bytes)))),
    number("LAG", lag),
    spared(
        2,
        number("APPLIED", |r| (count(r.applied_transactions), Tone::Plain)),
    ),
    spared(1, number("FAILED", failed)),
    spared(3, number("TX/S", |r| (rate(r.tx_per_s), Tone::Plain))),
    spared(4, number("ROWS/S", |r| (rate(r.rows_per_s), Tone::Plain))),
];

/// How far behind a replica is means nothing once it does not follow the log.
fn queue(replica: &ReplicaStatus, behind: String) -> (String, Tone) {
    match replica.membership {
        Membership::NeedsResync => ("-".to_owned(), Tone::Plain),
        _ => (behind, Tone::Plain),
    }
}

fn lag(replica: &ReplicaStatus) -> (String, Tone) {
    let tone = if replica.lags() {
        Tone::Bad
    } else {
        Tone::Plain
    };
    (replica.lag_ms.map_or("-".to_owned(), duration), tone)
}

fn failed(replica: &ReplicaStatus) -> (String, Tone) {
    let failed = count(replica.failed);
    match replica.skipped {
        0 if replica.failed == 0 => (failed, Tone::Plain),
        0 => (failed, Tone::Warn),
        skipped => (format!("{failed} ({} skipped)", count(skipped)), Tone::Warn),
    }
}

/// One line per replica.
pub(super) fn table(replicas: &[ReplicaStatus], view: &View) -> String {
    let width = usize::from(view.width);
    let (columns, left) = fitting(width, replicas);
    let headings: Vec<&str> = columns
        .iter()
        .map(|column| column.heading)
        .chain([LAST_ERROR])
        .collect();
    let mut table = style::table(&headings, view);
    for (i, column) in columns.iter().enumerate() {
        if let Some(shown) = table.column_mut(i) {
            shown.set_cell_alignment(column.alignment);
        }
    }
    for replica in replicas {
        let values = columns.iter().map(|column| (column.value)(replica));
        let mut row: Vec<Cell> = values.map(|(text, tone)| cell(text, tone)).collect();
        row.push(last_error(replica, left, view));
        table.add_row(row);
    }
    style::finish(table)
}

/// The columns that leave the last error room, and how much that is: all of it in a wide terminal, in a
/// narrow one its kind.
fn fitting(width: usize, replicas: &[ReplicaStatus]) -> (Vec<&'static Column>, usize) {
    let gap = usize::from(style::GAP);
    let failing = replicas.iter().any(|one| present_error(one).is_some());
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    for spared in [4, 3, 2, 1] {
        let least = match (failing, spared) {
            (false, _) => LAST_ERROR.len(),
            (true, 4) => MIN_ERROR,
            (true, _) => KIND,
        };
        if columns_width(&columns, replicas) + least + gap <= width {
            break;
        }
        columns.retain(|column| column.spared < spared);
    }
    let taken = columns_width(&columns, replicas) + gap;
    (columns, width.saturating_sub(taken))
}

/// Columns of the terminal that `columns` take, gaps included.
fn columns_width(columns: &[&Column], replicas: &[ReplicaStatus]) -> usize {
    let width = |column: &&Column| {
        let values = replicas
            .iter()
            .map(|replica| console::measure_text_width(&(column.value)(replica).0));
        values.fold(column.heading.len(), usize::max) + usize::from(style::GAP)
    };
    columns.iter().map(width).sum()
}

/// The membership state, with what the worker does where that is worth knowing.
fn state(replica: &ReplicaStatus) -> (String, Tone) {
    if !replica.enabled {
        return ("disabled".to_owned(), Tone::Dim);
    }
    let tone = match replica.membership {
        Membership::Streaming | Membership::Filtered => Tone::Good,
        Membership::Copying | Membership::Resyncing | Membership::Paused => Tone::Warn,
        _ => Tone::Bad,
    };
    match (replica.membership, replica.activity) {
        (Membership::Paused, _) if replica.is_paused_by_error() => {
            ("paused (error)".to_owned(), Tone::Bad)
        }
        // A stopped worker is what these states mean.
        (Membership::Paused | Membership::NeedsResync, Activity::Stopped) => {
            (replica.membership.to_string(), tone)
        }
        (
            _,
            activity @ (Activity::Connecting
            | Activity::AwaitingLog
            | Activity::Retrying
            | Activity::Stopped),
        ) => (format!("{}, {activity}", replica.membership), Tone::Warn),
        _ => (replica.membership.to_string(), tone),
    }
}

/// The last error in `left` characters: when, of which kind and what; at least its kind.
fn last_error(replica: &ReplicaStatus, left: usize, view: &View) -> Cell {
    let Some(error) = present_error(replica) else {
        return cell("-", Tone::Dim);
    };
    let tone = Tone::Bad;
    if left < MIN_ERROR {
        return cell(error.kind.as_str(), tone);
    }
    let at = age(error.at_ms, view.now_ms);
    let text = format!("{at}, {}: {}", error.kind, clean(&error.message));
    cell(clip(&text, left.min(MAX_ERROR)), tone)
}

/// The error that holds the replica up now.
pub(super) fn present_error(replica: &ReplicaStatus) -> Option<&ErrorInfo> {
    let error = replica.last_error.as_ref();
    error.filter(|error| !error.past && !recovered(replica))
}

/// Whether the replica works again, so that its last error is history; daemons that do not say so.
fn recovered(replica: &ReplicaStatus) -> bool {
    matches!(
        replica.membership,
        Membership::Streaming | Membership::Filtered | Membership::Copying | Membership::Resyncing
    ) && matches!(
        replica.activity,
        Activity::Idle | Activity::Applying | Activity::Copying
    )
}
