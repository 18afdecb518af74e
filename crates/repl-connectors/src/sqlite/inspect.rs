//! Reads the tables of a primary and decides how each is captured.

use repl_core::schema::{TableName, quote_identifier};
use repl_core::select::Selection;
use rusqlite::{Connection, params};

use super::error::During;
use super::layout::{Layout, LayoutColumn, RowMatch, Unique, UniqueTerm};
use super::{MAIN, OWN_PREFIX};
use crate::seam::Result;

/// Collations that every SQLite library has.
const BUILT_IN_COLLATIONS: [&str; 3] = ["BINARY", "NOCASE", "RTRIM"];

/// Why a table is not captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For the operator.
    pub(super) reason: String,
    /// The statement or action that mends it; may be empty.
    pub(super) remedy: String,
}

/// A selected table and how it is captured, or why not.
pub(super) struct Inspected {
    /// Table name.
    pub(super) name: String,
    /// The shape, or why there is none.
    pub(super) layout: std::result::Result<Layout, Refusal>,
}

/// Reads the selected tables, in name order.
///
/// # Errors
/// When the database cannot be read.
pub(super) fn selected_tables(db: &Connection, selection: &Selection) -> Result<Vec<Inspected>> {
    let mut tables = Vec::new();
    for (name, kind, without_rowid) in table_list(db)? {
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("sqlite_")
            || lower.starts_with(OWN_PREFIX)
            || !selection.selects(&TableName::new(MAIN, &name))
        {
            continue;
        }
        let layout = match kind.as_str() {
            "table" => layout_of(db, &name, without_rowid)?,
            "view" if !named_by(selection, &name) => continue,
            other => Err(not_a_table(other)),
        };
        tables.push(Inspected { name, layout });
    }
    Ok(tables)
}

/// Views hold no rows of their own; one is reported only when the selection asks for it by name.
fn named_by(selection: &Selection, name: &str) -> bool {
    let name = TableName::new(MAIN, name);
    selection
        .include
        .iter()
        .any(|pattern| pattern.is_literal() && pattern.matches(&name))
}

fn not_a_table(kind: &str) -> Refusal {
    let reason = match kind {
        "view" => "a view has no rows of its own".to_owned(),
        "virtual" => "a virtual table cannot have triggers".to_owned(),
        "shadow" => "the table belongs to a virtual table, which cannot be captured".to_owned(),
        other => format!("it is a {other}, which cannot have triggers"),
    };
    Refusal {
        reason,
        remedy: "exclude it in the table selection".to_owned(),
    }
}

fn table_list(db: &Connection) -> Result<Vec<(String, String, bool)>> {
    let doing = "read the list of tables";
    let mut statement = db
        .prepare_cached(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name",
        )
        .during(doing)?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .during(doing)?;
    rows.collect::<rusqlite::Result<_>>().during(doing)
}

struct RawColumn {
    cid: i64,
    name: String,
    type_name: String,
    not_null: bool,
    default: Option<String>,
    pk: i64,
    generated: bool,
}

struct RawIndex {
    origin: String,
    plain: bool,
    terms: Vec<(i64, String, String)>,
}

fn layout_of(
    db: &Connection,
    table: &str,
    without_rowid: bool,
) -> Result<std::result::Result<Layout, Refusal>> {
    let columns = raw_columns(db, table)?;
    let indexes = unique_indexes(db, table)?;
    let cascades_to_itself = cascades_to_itself(db, table)?;
    Ok(build_layout(
        table,
        without_rowid,
        &columns,
        &indexes,
        cascades_to_itself,
    ))
}

fn build_layout(
    table: &str,
    without_rowid: bool,
    raw: &[RawColumn],
    indexes: &[RawIndex],
    cascades_to_itself: bool,
) -> std::result::Result<Layout, Refusal> {
    check_collations(indexes)?;
    let alias = alias_of(raw, indexes, without_rowid);
    let columns: Vec<LayoutColumn> = raw
        .iter()
        .filter(|column| !column.generated)
        .map(|column| LayoutColumn {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            not_null: column.not_null
                || alias == Some(column.cid)
                || (without_rowid && column.pk > 0),
            default: column.default.clone(),
            added: false,
        })
        .collect();
    if columns.is_empty() {
        let reason = "all its columns are generated".to_owned();
        return Err(Refusal {
            reason,
            remedy: "exclude it in the table selection".to_owned(),
        });
    }
    let row_match = row_match(raw, indexes, without_rowid)?;
    let hidden_rowid = match (&row_match, alias) {
        (RowMatch::Rowid(name), None) => Some(name.clone()),
        _ => None,
    };
    let positions = Positions {
        raw,
        columns: &columns,
    };
    let layout = Layout {
        table: table.to_owned(),
        key: positions.key(alias, indexes),
        uniques: positions.uniques(alias, hidden_rowid.as_deref(), indexes),
        hidden_rowid,
        row_match,
        cascades_to_itself,
        columns: columns.clone(),
    };
    if layout.fits() {
        Ok(layout)
    } else {
        Err(Refusal {
            reason: format!(
                "it has {} columns: old and new row do not fit into one row of the change table",
                columns.len()
            ),
            remedy: "give it a PRIMARY KEY of NOT NULL columns, or exclude it".to_owned(),
        })
    }
}

fn check_collations(indexes: &[RawIndex]) -> std::result::Result<(), Refusal> {
    for (_, column, collation) in indexes.iter().flat_map(|index| &index.terms) {
        if !BUILT_IN_COLLATIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(collation))
        {
            return Err(Refusal {
                reason: format!(
                    "a unique index uses the application's own collation {collation} on {column}, \
                     which the daemon does not have"
                ),
                remedy: "use BINARY, NOCASE or RTRIM, or exclude the table".to_owned(),
            });
        }
    }
    Ok(())
}

/// The column that is an alias of the row number. `INTEGER PRIMARY KEY DESC` is none, which shows
/// by its index.
fn alias_of(raw: &[RawColumn], indexes: &[RawIndex], without_rowid: bool) -> Option<i64> {
    let mut keys = raw.iter().filter(|column| column.pk > 0);
    let (first, second) = (keys.next(), keys.next());
    let indexed = indexes.iter().any(|index| index.origin == "pk");
    match (first, second) {
        (Some(only), None) if !without_rowid && !indexed => only
            .type_name
            .eq_ignore_ascii_case("INTEGER")
            .then_some(only.cid),
        _ => None,
    }
}

fn row_match(
    raw: &[RawColumn],
    indexes: &[RawIndex],
    without_rowid: bool,
) -> std::result::Result<RowMatch, Refusal> {
    if without_rowid {
        let primary = indexes.iter().find(|index| index.origin == "pk");
        let columns = primary.map(|index| {
            index
                .terms
                .iter()
                .map(|(_, name, coll)| (name.clone(), coll.clone()))
                .collect()
        });
        return Ok(RowMatch::Columns(columns.unwrap_or_default()));
    }
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| {
            !raw.iter()
                .any(|column| column.name.eq_ignore_ascii_case(name))
        })
        .map(|name| RowMatch::Rowid(name.to_owned()))
        .ok_or_else(|| Refusal {
            reason: "columns named rowid, _rowid_ and oid hide the row number".to_owned(),
            remedy: "rename one of the three columns, or exclude the table".to_owned(),
        })
}

/// Finds table columns among the replicated ones.
struct Positions<'a> {
    raw: &'a [RawColumn],
    columns: &'a [LayoutColumn],
}

impl Positions<'_> {
    fn of(&self, cid: i64) -> Option<usize> {
        let name = &self.raw.iter().find(|column| column.cid == cid)?.name;
        self.columns.iter().position(|column| column.name == *name)
    }

    /// The alias of the row number, else the primary key, else the narrowest unique index; none of
    /// the columns may be NULL or generated.
    fn key(&self, alias: Option<i64>, indexes: &[RawIndex]) -> Vec<usize> {
        if let Some(position) = alias.and_then(|cid| self.of(cid)) {
            return vec![position];
        }
        let mut candidates: Vec<(bool, usize, Vec<usize>)> = Vec::new();
        for index in indexes.iter().filter(|index| index.plain) {
            let positions: Option<Vec<usize>> = index
                .terms
                .iter()
                .map(|(cid, ..)| self.of(*cid).filter(|&at| self.columns[at].not_null))
                .collect();
            if let Some(mut positions) = positions {
                positions.sort_unstable();
                candidates.push((index.origin != "pk", positions.len(), positions));
            }
        }
        candidates
            .into_iter()
            .min()
            .map(|(.., positions)| positions)
            .unwrap_or_default()
    }

    fn uniques(
        &self,
        alias: Option<i64>,
        hidden_rowid: Option<&str>,
        indexes: &[RawIndex],
    ) -> Vec<Unique> {
        let mut uniques = Vec::new();
        let rowid = |column: String, at: usize| Unique {
            terms: vec![UniqueTerm {
                column,
                collation: None,
                instead_of_null: None,
            }],
            announced_by: vec![at],
        };
        if let Some(at) = alias.and_then(|cid| self.of(cid)) {
            uniques.push(rowid(self.columns[at].name.clone(), at));
        } else if let Some(name) = hidden_rowid {
            uniques.push(rowid(name.to_owned(), self.columns.len()));
        }
        uniques.extend(
            indexes
                .iter()
                .filter(|index| index.plain)
                .map(|index| self.unique(index)),
        );
        uniques
    }

    fn unique(&self, index: &RawIndex) -> Unique {
        let terms = index
            .terms
            .iter()
            .map(|(cid, name, collation)| {
                let raw = self.raw.iter().find(|column| column.cid == *cid);
                let default = raw
                    .filter(|c| c.not_null && !c.generated)
                    .and_then(|c| c.default.clone());
                UniqueTerm {
                    column: name.clone(),
                    collation: Some(collation.clone()),
                    instead_of_null: default,
                }
            })
            .collect();
        let positions: Option<Vec<usize>> =
            index.terms.iter().map(|(cid, ..)| self.of(*cid)).collect();
        // An alias of the row number is not known yet when a row is announced, so where a
        // generated column is part of the index the row is recognised by all other columns.
        let all = || {
            (0..self.columns.len())
                .filter(|&at| !self.is_alias(at))
                .collect()
        };
        Unique {
            terms,
            announced_by: positions.unwrap_or_else(all),
        }
    }

    fn is_alias(&self, at: usize) -> bool {
        let name = &self.columns[at].name;
        self.raw
            .iter()
            .any(|c| c.name == *name && c.pk > 0 && c.type_name.eq_ignore_ascii_case("INTEGER"))
    }
}

fn raw_columns(db: &Connection, table: &str) -> Result<Vec<RawColumn>> {
    let doing = format!("read the columns of {}", quote_identifier(table));
    let mut statement = db
        .prepare_cached(
            "SELECT cid, name, type, \"notnull\", dflt_value, pk, hidden \
             FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![table], |row| {
            Ok(RawColumn {
                cid: row.get(0)?,
                name: row.get(1)?,
                type_name: row.get(2)?,
                not_null: row.get(3)?,
                default: row.get::<_, Option<String>>(4)?.map(default_expression),
                pk: row.get(5)?,
                generated: row.get::<_, i64>(6)? != 0,
            })
        })
        .during(&doing)?;
    rows.collect::<rusqlite::Result<_>>().during(&doing)
}

/// A default as an expression that means the same anywhere: SQLite takes a bare or double-quoted
/// word after DEFAULT as a string, elsewhere it would be a column.
pub(super) fn default_expression(text: String) -> String {
    const WORDS: [&str; 6] = [
        "NULL",
        "TRUE",
        "FALSE",
        "CURRENT_TIME",
        "CURRENT_DATE",
        "CURRENT_TIMESTAMP",
    ];
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let bare = text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    match quoted {
        Some(inner) => format!("'{}'", inner.replace("\"\"", "\"").replace('\'', "''")),
        None if bare => format!("'{text}'"),
        None => text,
    }
}

fn unique_indexes(db: &Connection, table: &str) -> Result<Vec<RawIndex>> {
    let doing = format!("read the indexes of {}", quote_identifier(table));
    let mut statement = db
        .prepare_cached(
            "SELECT name, origin, partial FROM pragma_index_list(?1, 'main') \
             WHERE \"unique\" ORDER BY name",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![table], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, bool>(2)?,
            ))
        })
        .during(&doing)?;
    let mut indexes = Vec::new();
    for row in rows {
        let (name, origin, partial) = row.during(&doing)?;
        let terms = index_terms(db, &name)?;
        let plain = !partial && terms.iter().all(|(cid, ..)| *cid >= 0);
        indexes.push(RawIndex {
            origin,
            plain,
            terms,
        });
    }
    Ok(indexes)
}

fn index_terms(db: &Connection, index: &str) -> Result<Vec<(i64, String, String)>> {
    let doing = format!("read the index {}", quote_identifier(index));
    let mut statement = db
        .prepare_cached(
            "SELECT cid, coalesce(name, ''), coll FROM pragma_index_xinfo(?1, 'main') \
             WHERE key ORDER BY seqno",
        )
        .during(&doing)?;
    let rows = statement
        .query_map(params![index], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .during(&doing)?;
    rows.collect::<rusqlite::Result<_>>().during(&doing)
}

fn cascades_to_itself(db: &Connection, table: &str) -> Result<bool> {
    let doing = format!("read the foreign keys of {}", quote_identifier(table));
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1, 'main') \
         WHERE \"table\" = ?1 COLLATE NOCASE AND on_update NOT IN ('NO ACTION', 'RESTRICT'))",
    )
    .during(&doing)?
    .query_row(params![table], |row| row.get(0))
    .during(&doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_mean_the_same_in_a_trigger() {
        for (written, meant) in [
            ("abc", "'abc'"),
            ("\"it's \"\"so\"\"\"", "'it''s \"so\"'"),
            ("'abc'", "'abc'"),
            ("null", "null"),
            ("CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP"),
            ("-1.5", "-1.5"),
            ("x'00'", "x'00'"),
            ("abs(-1)", "abs(-1)"),
        ] {
            assert_eq!(default_expression(written.into()), meant);
        }
    }
}
