//! Comparisons in the words of the API.

use std::collections::BTreeMap;

use repl_api::{DifferenceKind, RowDifference, TableValidation, Verdict};
use repl_core::row::{Row, Value};
use repl_core::schema::TableSchema;
use repl_core::validate::narrow::Difference;

use super::scan::Compared;

/// Differing rows listed per table.
const LISTED: usize = 100;
/// Longest value shown, characters.
const LONGEST: usize = 200;

/// The report of one table at one replica.
pub fn table(compared: &Compared, show_values: bool) -> TableValidation {
    let mut report = compared.subject.report.clone();
    if let Some(reason) = &compared.failed {
        report.verdict = Verdict::Undetermined;
        report.reason = Some(reason.clone());
        return report;
    }
    let Some((expected, actual)) = compared.rows else {
        report.reason = Some("it was not read".to_owned());
        return report;
    };
    report.primary_rows = Some(expected);
    report.replica_rows = Some(actual);
    if compared.counted {
        report.verdict = match expected == actual {
            true => Verdict::Equal,
            false => Verdict::Different,
        };
        return report;
    }
    report.differing_buckets = Some(compared.differing as u64);
    report.verdict = match compared.differing {
        0 => Verdict::Equal,
        _ => Verdict::Different,
    };
    report.complete = compared.differing == 0;
    if let Some(what) = &compared.miscomputed {
        report.verdict = Verdict::Different;
        report.reason = Some(what.clone());
    }
    if let Some(narrowed) = &compared.narrowed {
        report.complete = narrowed.complete;
        for difference in &narrowed.differences {
            let counter = match kind(difference) {
                DifferenceKind::Missing => &mut report.missing,
                DifferenceKind::Extra => &mut report.extra,
                _ => &mut report.changed,
            };
            *counter += difference.copies;
        }
        let listed = narrowed.differences.iter().take(LISTED);
        let schema = &compared.subject.form.schema;
        report.differences = listed.map(|one| row(one, schema, show_values)).collect();
    }
    report
}

/// What generated columns hold, if they hold other values than they should.
pub fn miscomputed(columns: &[(String, u64)]) -> Option<String> {
    let one = |(name, rows): &(String, u64)| format!("{name} in {rows} rows");
    let all: Vec<String> = columns.iter().map(one).collect();
    (!all.is_empty()).then(|| {
        format!(
            "columns that the replica generates differ from what the primary's expressions give: {}; \
             give them the primary's expressions",
            all.join(", ")
        )
    })
}

fn kind(difference: &Difference) -> DifferenceKind {
    match (&difference.expected, &difference.actual) {
        (Some(_), Some(_)) => DifferenceKind::Changed,
        (Some(_), None) => DifferenceKind::Missing,
        (None, _) => DifferenceKind::Extra,
    }
}

fn row(difference: &Difference, schema: &TableSchema, show_values: bool) -> RowDifference {
    let name = |at: &usize| schema.columns.get(*at).map(|column| column.name.clone());
    let values = |row: &Option<Row>| {
        row.as_ref()
            .filter(|_| show_values)
            .map(|row| all(row, schema))
    };
    let some = difference.expected.as_ref().or(difference.actual.as_ref());
    RowDifference {
        kind: kind(difference),
        key: some.and_then(|row| key(row, schema)),
        columns: difference.columns.iter().filter_map(name).collect(),
        copies: difference.copies,
        expected: values(&difference.expected),
        actual: values(&difference.actual),
    }
}

/// `id=42, region=eu`; none in a table without a key.
fn key(row: &Row, schema: &TableSchema) -> Option<String> {
    let values = row.to_vec().ok()?;
    let part = |at: &usize| {
        let column = schema.columns.get(*at)?;
        let value = values.get(*at).copied().and_then(shown);
        Some(format!(
            "{}={}",
            column.name,
            value.unwrap_or_else(|| "NULL".to_owned())
        ))
    };
    let parts: Vec<String> = schema.key_columns().iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn all(row: &Row, schema: &TableSchema) -> BTreeMap<String, Option<String>> {
    let values = row.to_vec().unwrap_or_default();
    let names = schema.columns.iter().map(|column| column.name.clone());
    names.zip(values.into_iter().map(shown)).collect()
}

/// A value for people; none for NULL.
fn shown(value: Value<'_>) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::Unchanged => "?".to_owned(),
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => format!("{real:?}"),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Blob(bytes) => {
            let digits = bytes.iter().take(LONGEST).map(|byte| format!("{byte:02x}"));
            format!("x'{}'", digits.collect::<String>())
        }
    };
    Some(match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}
