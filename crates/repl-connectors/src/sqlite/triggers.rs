//! The capture triggers of one table.
//!
//! SQLite runs the triggers of a table youngest first. The `AFTER` triggers must run before those
//! of the application, whose own changes to the same row would otherwise be recorded first; that
//! is why they are made last, and made again when an application adds a trigger.

use repl_core::schema::quote_identifier;

use super::layout::{Layout, RowMatch, Unique, UniqueTerm};
use super::meta::{CHANGES, Op};

/// What the name of every capture trigger begins with; the table's name follows.
pub(super) const TRIGGER_PREFIX: &str = "_repl_capture_";

/// Milliseconds since the Unix epoch, in words that libraries before 3.42 know too.
const NOW_MS: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";

/// Name and statement of each trigger of a table, in the order they are to be made.
pub(super) fn triggers(layout: &Layout, id: i64) -> Vec<(String, String)> {
    let writer = Writer { layout, id };
    let mut made = Vec::new();
    let mut add = |suffix: &str, head: &str, body: String| {
        let name = format!("{TRIGGER_PREFIX}{}_{suffix}", layout.table);
        let sql = format!(
            "CREATE TRIGGER {} {head} BEGIN {body} END",
            quote_identifier(&name)
        );
        made.push((name, sql));
    };
    let table = quote_identifier(&layout.table);
    if !layout.uniques.is_empty() {
        let on = format!("BEFORE INSERT ON {table}");
        add("before-insert", &on, writer.announcements(false));
        let on = format!(
            "BEFORE UPDATE ON {table} WHEN {}",
            writer.any_unique_changes()
        );
        add("before-update", &on, writer.announcements(true));
    }
    add(
        "insert",
        &format!("AFTER INSERT ON {table}"),
        writer.insert(),
    );
    add(
        "update",
        &format!("AFTER UPDATE ON {table}"),
        writer.update(),
    );
    add(
        "delete",
        &format!("AFTER DELETE ON {table}"),
        writer.delete(),
    );
    made
}

struct Writer<'a> {
    layout: &'a Layout,
    id: i64,
}

impl Writer<'_> {
    fn insert(&self) -> String {
        self.record(Op::Insert, &self.after("NEW"), None)
    }

    fn delete(&self) -> String {
        self.record(Op::Delete, &self.before("OLD"), None)
    }

    fn update(&self) -> String {
        let mut values = self.before("OLD");
        if !self.layout.cascades_to_itself || self.layout.key.is_empty() {
            values.extend(self.after("NEW"));
            return self.record(Op::Update, &values, None);
        }
        // The action of a foreign key onto the same table has already changed and recorded the
        // row; its present content is what must stand last.
        values.extend(self.after("_r"));
        let row = self
            .layout
            .key
            .iter()
            .map(|&at| {
                let column = quote_identifier(&self.layout.columns[at].name);
                format!("_r.{column} IS NEW.{column} COLLATE BINARY")
            })
            .collect::<Vec<_>>()
            .join(" AND ");
        let from = format!(
            "FROM {} AS _r WHERE {row}",
            quote_identifier(&self.layout.table)
        );
        self.record(Op::Update, &values, Some(&from))
    }

    /// Records, for each unique index, the rows the new one is about to collide with.
    fn announcements(&self, update: bool) -> String {
        let table = quote_identifier(&self.layout.table);
        let mut body = Vec::new();
        for (ordinal, unique) in self.layout.uniques.iter().enumerate() {
            let mut values = vec![ordinal.to_string()];
            values.extend(self.before("_r"));
            values.extend(
                unique
                    .announced_by
                    .iter()
                    .map(|&at| self.announced(unique, at)),
            );
            let mut conditions: Vec<String> = unique.terms.iter().map(collides).collect();
            if update {
                conditions.push(self.not_the_row_itself());
            }
            let from = format!("FROM {table} AS _r WHERE {}", conditions.join(" AND "));
            body.push(self.record(Op::Announce, &values, Some(&from)));
        }
        body.join(" ")
    }

    /// One value of the new row as it will be stored.
    fn announced(&self, unique: &Unique, at: usize) -> String {
        let Some(column) = self.layout.columns.get(at) else {
            return format!(
                "NEW.{}",
                self.layout.hidden_rowid.as_deref().unwrap_or("rowid")
            );
        };
        unique
            .terms
            .iter()
            .find(|term| term.column == column.name)
            .map_or_else(
                || format!("NEW.{}", quote_identifier(&column.name)),
                new_value,
            )
    }

    fn any_unique_changes(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for term in self.layout.uniques.iter().flat_map(|unique| &unique.terms) {
            if !columns.contains(&term.column.as_str()) {
                columns.push(&term.column);
            }
        }
        columns
            .into_iter()
            .map(|column| {
                let column = quote_identifier(column);
                format!("NEW.{column} IS NOT OLD.{column} COLLATE BINARY")
            })
            .collect::<Vec<_>>()
            .join(" OR ")
    }

    fn not_the_row_itself(&self) -> String {
        match &self.layout.row_match {
            RowMatch::Rowid(name) => format!("_r.{name} <> OLD.{name}"),
            RowMatch::Columns(columns) => {
                let same = columns
                    .iter()
                    .map(|(name, collation)| {
                        let name = quote_identifier(name);
                        format!(
                            "_r.{name} = OLD.{name} COLLATE {}",
                            quote_identifier(collation)
                        )
                    })
                    .collect::<Vec<_>>()
                    .join(" AND ");
                format!("NOT ({same})")
            }
        }
    }

    fn before(&self, row: &str) -> Vec<String> {
        let name = |at: usize| format!("{row}.{}", quote_identifier(&self.layout.columns[at].name));
        if self.layout.key.is_empty() {
            (0..self.layout.columns.len()).map(name).collect()
        } else {
            self.layout.key.iter().map(|&at| name(at)).collect()
        }
    }

    fn after(&self, row: &str) -> Vec<String> {
        let columns = self
            .layout
            .columns
            .iter()
            .map(|c| format!("{row}.{}", quote_identifier(&c.name)));
        let rowid = self
            .layout
            .hidden_rowid
            .iter()
            .map(|name| format!("{row}.{name}"));
        columns.chain(rowid).collect()
    }

    fn record(&self, op: Op, values: &[String], from: Option<&str>) -> String {
        let columns: String = (0..values.len()).map(|at| format!(", v{at}")).collect();
        let head = format!("{}, {}, randomblob(8), {NOW_MS}", self.id, op as u8);
        let values: String = values.iter().map(|value| format!(", {value}")).collect();
        let into = format!("INSERT INTO {CHANGES} (layout, op, token, at{columns})");
        match from {
            Some(from) => format!("{into} SELECT {head}{values} {from};"),
            None => format!("{into} VALUES ({head}{values});"),
        }
    }
}

fn collides(term: &UniqueTerm) -> String {
    let column = quote_identifier(&term.column);
    let collation = term
        .collation
        .as_ref()
        .map(|collation| format!(" COLLATE {}", quote_identifier(collation)))
        .unwrap_or_default();
    format!("_r.{column} = {}{collation}", new_value(term))
}

fn new_value(term: &UniqueTerm) -> String {
    let column = quote_identifier(&term.column);
    match &term.instead_of_null {
        Some(default) => format!("ifnull(NEW.{column}, ({default}))"),
        None => format!("NEW.{column}"),
    }
}
