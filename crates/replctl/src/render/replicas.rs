//! The table of replicas.

use comfy_table::{Cell, CellAlignment};
use repl_api::{Activity, Membership, ReplicaStatus};

use super::View;
use super::human::{age, bytes, clean, clip, count, duration, rate};
use super::style::{self, Tone, cell};

/// Characters the last error needs in the table to be worth its place; the whole of it stands below.
const MIN_ERROR: usize = 24;

/// Characters of the last error beyond which the table would only get wide.
const MAX_ERROR: usize = 60;

/// Spaces between two columns.
const GAP: usize = 2;

/// One column: its heading, and its value of a replica.
struct Column {
    heading: &'static str,
    /// Whether narrow terminals show it.
    narrow: bool,
    /// Numbers are aligned to the right, words to the left.
    alignment: CellAlignment,
    value: fn(&ReplicaStatus) -> (String, Tone),
}

const fn words(heading: &'static str, value: fn(&ReplicaStatus) -> (String, Tone)) -> Column {
    Column {
        heading,
        narrow: true,
        alignment: CellAlignment::Left,
        value,
    }
}

const fn number(heading: &'static str, value: fn(&ReplicaStatus) -> (String, Tone)) -> Column {
    Column {
        heading,
        narrow: true,
        alignment: CellAlignment::Right,
        value,
    }
}

const fn wide_only(column: Column) -> Column {
    Column {
        narrow: false,
        ..column
    }
}

/// All columns but the last one, the error, which gets what is left of the width.
const COLUMNS: [Column; 9] = [
    words("REPLICA", |r| (clean(&r.name), Tone::Strong)),
    words("STATE", state),
    number("QUEUE TX", |r| (count(r.queue_transactions), Tone::Plain)),
    wide_only(number("QUEUE", |r| (bytes(r.queue_bytes), Tone::Plain))),
    number("LAG", lag),
    number("APPLIED", |r| (count(r.applied_transactions), Tone::Plain)),
    number("FAILED", failed),
    number("TX/S", |r| (rate(r.tx_per_s), Tone::Plain)),
    wide_only(number("ROWS/S", |r| (rate(r.rows_per_s), Tone::Plain))),
];

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
    let all: Vec<&Column> = COLUMNS.iter().collect();
    let (columns, left) = match width.checked_sub(columns_width(&all, replicas)) {
        Some(left) if left >= MIN_ERROR => (all, left),
        _ => {
            let narrow: Vec<&Column> = COLUMNS.iter().filter(|column| column.narrow).collect();
            let left = width.saturating_sub(columns_width(&narrow, replicas));
            (narrow, left)
        }
    };
    let headings: Vec<&str> = columns
        .iter()
        .map(|column| column.heading)
        .chain(["LAST ERROR"])
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

/// Columns of the terminal that `columns` take, gaps included.
fn columns_width(columns: &[&Column], replicas: &[ReplicaStatus]) -> usize {
    let width = |column: &&Column| {
        let values = replicas
            .iter()
            .map(|replica| (column.value)(replica).0.chars().count());
        values.fold(column.heading.len(), usize::max) + GAP
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
    let Some(error) = &replica.last_error else {
        return cell("-", Tone::Dim);
    };
    let tone = if recovered(replica) {
        Tone::Dim
    } else {
        Tone::Bad
    };
    if left < MIN_ERROR {
        return cell(error.kind.as_str(), tone);
    }
    let at = age(error.at_ms, view.now_ms);
    let text = format!("{at}, {}: {}", error.kind, clean(&error.message));
    cell(clip(&text, left.min(MAX_ERROR)), tone)
}

/// Whether the replica works again, so that its last error is history.
pub(super) fn recovered(replica: &ReplicaStatus) -> bool {
    matches!(
        replica.membership,
        Membership::Streaming | Membership::Filtered | Membership::Copying | Membership::Resyncing
    ) && matches!(
        replica.activity,
        Activity::Idle | Activity::Applying | Activity::Copying
    )
}
