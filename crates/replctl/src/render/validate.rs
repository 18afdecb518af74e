//! The outcome of a validation.

use repl_api::{
    DifferenceKind, ReplicaValidation, RowDifference, TableValidation, Validation,
    ValidationProgress, Verdict,
};

use super::View;
use super::human::{clean, count, duration};
use super::style::{self, Tone, cell, number};

/// Differing rows shown per table.
const SHOWN: usize = 20;

/// One table per replica; what differs or could not be told follows.
pub fn validation(found: &Validation, view: &View) -> String {
    let mut text = String::new();
    for replica in &found.replicas {
        text.push_str(&one(replica, found.deep, view));
        text.push('\n');
    }
    for (table, reason) in &found.not_replicated {
        let line = format!("not replicated: {} ({})\n", clean(table), clean(reason));
        text.push_str(&line);
    }
    for repair in &found.repairs {
        let (inserted, updated, deleted) = (repair.inserted, repair.updated, repair.deleted);
        let mut line = format!(
            "repaired {} at {}: {} inserted, {} updated, {} deleted",
            clean(&repair.table),
            clean(&repair.replica),
            count(inserted),
            count(updated),
            count(deleted)
        );
        if let Some(error) = &repair.error {
            line.push_str(&format!("; not entirely: {}", clean(error)));
        }
        text.push_str(&line);
        text.push('\n');
    }
    let verdict = found.verdict.unwrap_or(Verdict::Undetermined);
    let took = found
        .finished_ms
        .map_or(0, |end| end.saturating_sub(found.started_ms));
    let compared = if found.deep {
        "every value"
    } else {
        "numbers of rows"
    };
    let line = format!("{} ({compared}, {})", word(verdict), duration(took));
    text.push_str(&style::paint(&line, tone(verdict), view));
    text.push('\n');
    text
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equal => "equal",
        Verdict::Different => "different",
        Verdict::Undetermined | Verdict::Unknown => "could not tell",
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Equal => Tone::Good,
        Verdict::Different => Tone::Bad,
        Verdict::Undetermined | Verdict::Unknown => Tone::Warn,
    }
}

fn one(replica: &ReplicaValidation, deep: bool, view: &View) -> String {
    let heading = format!("{}: {}\n", clean(&replica.replica), word(replica.verdict));
    let mut text = style::paint(&heading, tone(replica.verdict), view);
    let mut table = style::table(&["TABLE", "PRIMARY", "", "REPLICA", "RESULT"], view);
    for one in &replica.tables {
        let rows = |rows: Option<u64>| rows.map_or("-".to_owned(), count);
        let sign = match (one.primary_rows, one.replica_rows) {
            (Some(left), Some(right)) if left == right => "=",
            (Some(_), Some(_)) => "≠",
            _ => "",
        };
        table.add_row([
            cell(clean(&one.table), Tone::Plain),
            number(rows(one.primary_rows), Tone::Plain),
            cell(sign, Tone::Plain),
            number(rows(one.replica_rows), Tone::Plain),
            cell(result(one, deep), tone(one.verdict)),
        ]);
    }
    if !replica.tables.is_empty() {
        text.push_str(&style::finish(table));
    }
    for one in &replica.tables {
        text.push_str(&differences(one));
    }
    for (what, names) in [
        ("not sent to this replica", &replica.excluded),
        ("only at this replica", &replica.only_here),
    ] {
        if !names.is_empty() {
            text.push_str(&format!("  {what}: {}\n", clean(&names.join(", "))));
        }
    }
    text
}

fn result(one: &TableValidation, deep: bool) -> String {
    if let Some(reason) = &one.reason {
        return format!("{}: {}", word(one.verdict), clean(reason));
    }
    if one.verdict != Verdict::Different || !deep {
        return word(one.verdict).to_owned();
    }
    let parts = [
        (one.missing, "missing"),
        (one.extra, "extra"),
        (one.changed, "changed"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(rows, _)| *rows > 0)
        .map(|(rows, what)| format!("{} {what}", count(rows)))
        .collect();
    let more = match (one.complete, one.differing_buckets) {
        (false, Some(buckets)) => format!(", and more: {} parts of 16,384 differ", count(buckets)),
        _ => String::new(),
    };
    format!("different: {}{more}", parts.join(", "))
}

fn differences(one: &TableValidation) -> String {
    let mut text = String::new();
    for row in one.differences.iter().take(SHOWN) {
        text.push_str(&format!("  {} {}\n", clean(&one.table), line(row)));
    }
    let rows = one.differences.len();
    if rows > SHOWN {
        let more = count((rows - SHOWN) as u64);
        text.push_str(&format!("  {} … and {more} more\n", clean(&one.table)));
    }
    let notes = [
        ("columns not sent", &one.excluded_columns),
        ("columns only at the replica", &one.extra_columns),
    ];
    for (what, names) in notes {
        if !names.is_empty() {
            let names = clean(&names.join(", "));
            text.push_str(&format!("  {} {what}: {names}\n", clean(&one.table)));
        }
    }
    text
}

fn line(row: &RowDifference) -> String {
    let mut line = match row.kind {
        DifferenceKind::Missing => "missing at the replica".to_owned(),
        DifferenceKind::Extra => "only at the replica".to_owned(),
        _ => "changed".to_owned(),
    };
    if let Some(key) = &row.key {
        line.push_str(&format!(": {}", clean(key)));
    }
    if row.copies != 1 {
        line.push_str(&format!(" ({} equal rows)", count(row.copies)));
    }
    if !row.columns.is_empty() && row.expected.is_none() {
        line.push_str(&format!(" ({})", clean(&row.columns.join(", "))));
    }
    let value = |value: Option<&Option<String>>| match value {
        Some(Some(text)) => format!("'{}'", clean(text)),
        _ => "NULL".to_owned(),
    };
    match (&row.expected, &row.actual) {
        (Some(expected), Some(actual)) => {
            for name in &row.columns {
                let (left, right) = (value(expected.get(name)), value(actual.get(name)));
                line.push_str(&format!(
                    "; {}: {left} at the primary, {right} here",
                    clean(name)
                ));
            }
        }
        (Some(values), None) | (None, Some(values)) => {
            for (name, held) in values {
                line.push_str(&format!("; {}: {}", clean(name), value(Some(held))));
            }
        }
        (None, None) => {}
    }
    line
}

/// How many rows a repair would write, in words; none when there is nothing to repair.
pub fn rows_to_repair(found: &Validation) -> Option<String> {
    let tables = || found.replicas.iter().flat_map(|replica| &replica.tables);
    let differing = tables().filter(|table| table.differing_buckets.is_some_and(|n| n > 0));
    let rows: u64 = differing
        .clone()
        .map(|table| table.missing + table.extra + table.changed)
        .sum();
    let complete = differing.clone().all(|table| table.complete);
    let least = if complete { "" } else { "at least " };
    (rows > 0 || !complete).then(|| format!("{least}{} rows", count(rows)))
}

/// One line about a validation under way.
pub fn validation_progress(progress: &ValidationProgress) -> String {
    let mut text = progress.phase.clone();
    if let Some(table) = &progress.table {
        text.push_str(&format!(" {}", clean(table)));
    }
    text.push_str(&format!(
        " ({} of {} tables",
        count(progress.tables_done),
        count(progress.tables_total)
    ));
    if progress.rows_done > 0 {
        text.push_str(&format!(", {} rows read", count(progress.rows_done)));
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            now_ms: 0,
            width: 120,
            colour: false,
        }
    }

    fn found(tables: serde_json::Value, verdict: &str) -> Validation {
        serde_json::from_value(serde_json::json!({
            "id": "1", "state": "done", "deep": true, "started_ms": 0, "finished_ms": 1200,
            "verdict": verdict,
            "replicas": [{"replica": "r1", "verdict": verdict, "tables": tables,
                          "excluded": ["public.secret"]}],
            "not_replicated": {"public.odd": "no key"},
        }))
        .unwrap()
    }

    #[test]
    fn counts_stand_side_by_side() {
        let tables = serde_json::json!([{"table": "public.users", "target": "public.users",
            "verdict": "equal", "primary_rows": 1204331, "replica_rows": 1204331}]);
        let text = validation(&found(tables, "equal"), &view());
        let line = text.lines().find(|line| line.contains("users")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            ["public.users", "1,204,331", "=", "1,204,331", "equal"]
        );
        assert!(
            text.contains("not sent to this replica: public.secret"),
            "{text}"
        );
        assert!(text.ends_with("equal (every value, 1.2 s)\n"), "{text}");
        assert_eq!(rows_to_repair(&found(serde_json::json!([]), "equal")), None);
    }

    #[test]
    fn differences_name_key_column_and_values() {
        let tables = serde_json::json!([{"table": "public.t", "target": "public.t",
        "verdict": "different", "primary_rows": 3, "replica_rows": 3, "complete": true,
        "differing_buckets": 2, "changed": 1, "missing": 1, "extra": 1,
        "differences": [
            {"kind": "changed", "key": "id=1", "columns": ["v"], "copies": 1},
            {"kind": "changed", "key": "id=2", "columns": ["v"], "copies": 1,
             "expected": {"id": "2", "v": ""}, "actual": {"id": "2", "v": null}},
            {"kind": "extra", "key": null, "copies": 2},
        ]}]);
        let found = found(tables, "different");
        let text = validation(&found, &view());
        for part in [
            "different: 1 missing, 1 extra, 1 changed",
            "public.t changed: id=1 (v)",
            "public.t changed: id=2; v: '' at the primary, NULL here",
            "public.t only at the replica (2 equal rows)",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert_eq!(rows_to_repair(&found).unwrap(), "3 rows");
    }
}
