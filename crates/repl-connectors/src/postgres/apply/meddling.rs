//! Triggers and rules of a replica that act on replicated rows before they are written.
//!
//! `session_replication_role = replica` turns off all but those that are `ENABLE ALWAYS` or `ENABLE
//! REPLICA`. A `BEFORE` trigger for each row can change the row or leave it out, a rule can put another
//! statement in its place: what the table then holds is not what the primary holds, and no count shows
//! a value that was changed. So such a table is refused, unless the trigger's function heeds
//! `repl.applier`, by which our sessions are known. One that is made later is noticed within a second
//! of writing.

use std::time::{Duration, Instant};

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};

use super::metadata::field;
use super::queue::Label;
use super::session::Session;
use super::sql::MARK;
use crate::postgres::wire::TextRow;
use crate::seam::{ConnectorError, Result};

/// How often a session that writes looks for new ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Lists them for the tables whose OIDs `$tables` selects: schema, table, name, `trigger` or `rule`.
/// Of `tgtype`, 1 is "for each row" and 2 "before".
macro_rules! meddling {
    ($tables:literal) => {
        concat!(
            "SELECT n.nspname, r.relname, m.name, m.what FROM ( \
             SELECT t.tgrelid AS oid, t.tgname AS name, 'trigger' AS what \
             FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
             WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND t.tgtype & 3 = 3 \
             AND pg_catalog.strpos(p.prosrc, 'repl.applier') = 0 \
             UNION ALL SELECT w.ev_class, w.rulename, 'rule' FROM pg_catalog.pg_rewrite w \
             WHERE w.ev_enabled IN ('A', 'R') AND w.ev_type <> '1') AS m \
             JOIN pg_catalog.pg_class r ON r.oid = m.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace WHERE m.oid IN (",
            $tables,
            ")"
        )
    };
}
pub(super) use meddling;

/// Tells a session of new ones: `$1` are the OIDs of the tables it writes to.
const LOOK: &str = concat!(
    "SELECT CASE WHEN q.found IS NULL THEN 1 ELSE ('repl: ' || q.found)::int4 END FROM (SELECT \
     pg_catalog.string_agg(f.what || ' ' || f.name || ' of table ' || f.nspname || '.' || f.relname, \
     ', ') AS found FROM (",
    meddling!(
        "SELECT o FROM pg_catalog.unnest($1::oid[]) AS o UNION SELECT p.relid FROM \
         pg_catalog.unnest($1::oid[]) AS o, pg_catalog.pg_partition_tree(o) p"
    ),
    ") AS f) AS q"
);

/// A trigger or rule that acts on replicated rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meddling {
    table: TableName,
    name: String,
    is_rule: bool,
}

impl Meddling {
    pub(super) fn new(row: &TextRow) -> Meddling {
        Meddling {
            table: TableName::new(field(row, 0), field(row, 1)),
            name: field(row, 2).to_owned(),
            is_rule: field(row, 3) == "rule",
        }
    }
}

/// Refuses a table with any.
///
/// # Errors
/// [`ErrorKind::Schema`] with the statement that makes the first act in other sessions only.
pub(super) fn refuse(table: &TableName, found: &[Meddling]) -> Result<()> {
    let Some(Meddling {
        table: on,
        name,
        is_rule,
    }) = found.first()
    else {
        return Ok(());
    };
    let (name, on) = (quote_identifier(name), on.quoted());
    let (what, advice) = if *is_rule {
        let enable = format!("ALTER TABLE {on} ENABLE RULE {name}");
        (
            "rule",
            format!("{enable}; (it then acts in other sessions only) and `replctl retry`"),
        )
    } else {
        (
            "trigger",
            format!(
                "ALTER TABLE {on} ENABLE TRIGGER {name}; (it then acts in other sessions only), or let its \
                 function begin with IF current_setting('repl.applier', true) = 'on' THEN RETURN \
                 coalesce(NEW, OLD); END IF; then `replctl retry`. Rows that it has acted on already may \
                 differ: `replctl validate --deep` tells"
            ),
        )
    };
    Err(ConnectorError::new(
        ErrorKind::Schema,
        format!(
            "the replica's {what} {name} on {on} acts on replicated rows before they are written, and \
             could leave them out or change them"
        ),
    )
    .table(table.to_string())
    .advice(advice))
}

/// When a session last looked, and for which tables it is to.
#[derive(Default)]
pub(super) struct Watch {
    last: Option<Instant>,
}

impl Session {
    /// Queues a look for new ones, if it is time.
    pub(super) fn watch_meddling(&mut self) -> Result<()> {
        let due = self
            .watch
            .last
            .is_none_or(|last| last.elapsed() >= LOOK_EVERY);
        if !due {
            return Ok(());
        }
        self.watch.last = Some(Instant::now());
        let oids = self.target_oids();
        if oids.is_empty() {
            return Ok(());
        }
        let oids = format!("{{{}}}", oids.join(","));
        self.push(LOOK, &[Some(oids.as_bytes())], Label::Meddling)
    }
}

/// The error for what a look found.
pub(super) fn appeared(server: &str, found: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Schema,
        format!(
            "{server}: {} acts on replicated rows before they are written, and could leave them out or \
             change them",
            found.trim_start_matches(MARK)
        ),
    )
    .advice(
        "ALTER TABLE … ENABLE TRIGGER (or RULE) … makes it act in other sessions only; then `replctl \
         retry`. Rows written since it was made may differ: `replctl validate --deep` tells",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_names_the_trigger_and_the_statement() {
        let row = ["s", "t", "Audit", "trigger"].map(|text| Some(text.to_owned()));
        let table = TableName::new("s", "t");
        let found = [Meddling::new(&row.to_vec())];
        let error = refuse(&table, &found).unwrap_err();
        assert!(error.message.contains("\"Audit\""), "{}", error.message);
        assert!(error.advice.starts_with("ALTER TABLE "), "{}", error.advice);
        assert!(refuse(&table, &[]).is_ok());
    }
}
