//! What is in the event log.

use repl_api::{LogInfo, SegmentInfo, TableChanges, TransactionInfo, format_utc};

use super::View;
use super::human::{bytes, clean, count};
use super::style::{self, Tone, cell, number};

/// Segments listed when not all are asked for.
const NEWEST_SEGMENTS: usize = 5;

/// Range, segments (all of them, or the newest) and transactions.
pub fn log(info: &LogInfo, all_segments: bool, view: &View) -> String {
    let range = if info.first_seq <= info.durable_seq {
        format!("transactions {} to {}", info.first_seq, info.durable_seq)
    } else {
        format!("empty after transaction {}", info.durable_seq)
    };
    let mut text = format!(
        "log {} · epoch {} · {range} · {} in {} segments\n",
        clean(&info.log_id),
        info.epoch,
        bytes(info.size_bytes),
        count(info.segments.len() as u64),
    );
    text.push_str(&segments(&info.segments, all_segments, view));
    text.push_str(&transactions(info, view));
    text
}

fn segments(segments: &[SegmentInfo], all: bool, view: &View) -> String {
    let hidden = if all {
        0
    } else {
        segments.len().saturating_sub(NEWEST_SEGMENTS)
    };
    if segments.is_empty() {
        return String::new();
    }
    let mut table = style::table(&["SEGMENT", "TRANSACTIONS", "SIZE", "STATE"], view);
    for segment in &segments[hidden..] {
        let range = match (segment.first_seq, segment.last_seq) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "-".to_owned(),
        };
        let state = if segment.sealed { "sealed" } else { "open" };
        table.add_row([
            cell(clean(&segment.file), Tone::Plain),
            cell(range, Tone::Plain),
            number(bytes(segment.bytes), Tone::Plain),
            cell(state, Tone::Plain),
        ]);
    }
    let mut text = format!("\n{}", style::finish(table));
    if hidden > 0 {
        text.push_str(&format!(
            "({} older segments: --segments)\n",
            count(hidden as u64)
        ));
    }
    text
}

fn transactions(info: &LogInfo, view: &View) -> String {
    if info.transactions.is_empty() {
        let what = if info.truncated {
            "in the part that was searched"
        } else {
            "to show"
        };
        return format!("\nno transactions {what}\n");
    }
    let headers = [
        "SEQ",
        "EPOCH",
        "SOURCE ID",
        "POSITION",
        "COMMITTED",
        "SIZE",
        "CHANGES",
    ];
    let mut table = style::table(&headers, view);
    for transaction in &info.transactions {
        table.add_row([
            number(transaction.seq.to_string(), Tone::Strong),
            number(transaction.epoch.to_string(), Tone::Plain),
            cell(clean(&transaction.source_txid), Tone::Plain),
            cell(clean(&transaction.position), Tone::Plain),
            cell(format_utc(transaction.commit_ms), Tone::Plain),
            number(bytes(transaction.bytes), Tone::Plain),
            cell(changes(transaction), Tone::Plain),
        ]);
    }
    let mut text = format!("\n{}", style::finish(table));
    if info.truncated {
        text.push_str("(more of the log may match: --limit, --from-seq)\n");
    }
    text
}

fn changes(transaction: &TransactionInfo) -> String {
    let tables: Vec<String> = transaction.tables.iter().map(table_changes).collect();
    if tables.is_empty() {
        "-".to_owned()
    } else {
        tables.join("; ")
    }
}

/// `public.orders: 3 inserted, 1 deleted`
fn table_changes(changes: &TableChanges) -> String {
    let kinds = [
        (changes.inserts, "inserted"),
        (changes.updates, "updated"),
        (changes.deletes, "deleted"),
        (changes.truncates, "truncated"),
    ];
    let counts: Vec<String> = kinds
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, kind)| format!("{} {kind}", count(n)))
        .collect();
    format!("{}: {}", clean(&changes.table), counts.join(", "))
}
