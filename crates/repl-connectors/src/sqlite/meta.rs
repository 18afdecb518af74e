//! The connector's own tables in a primary.
//!
//! - `_repl_meta`: format version, the group that captures the database, and its *incarnation*, a
//!   random token made anew whenever a span of history begins.
//! - `_repl_layouts`: the shapes of captured tables, former ones included (see [`super::layout`]).
//! - `_repl_changes`: the recorded changes. Identifiers are dense and never re-used; the row that
//!   was logged last always stays, and its random token proves at every read that the history is
//!   still the one that was followed.
//! - `_repl_reloads`: tables to be sent whole at the change with this identifier.

use std::collections::HashMap;

use repl_core::schema::TableSchema;
use repl_core::{ErrorKind, SourcePosition};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::During;
use super::layout::Layout;
use crate::seam::{ConnectorError, Result};

/// Table of recorded changes.
pub(super) const CHANGES: &str = "\"_repl_changes\"";

/// Version of these tables; a newer one is refused.
const FORMAT: i64 = 1;

/// What a row of `_repl_changes` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// Nothing: a place in history made by the daemon.
    Mark = 0,
    /// New image.
    Insert = 1,
    /// Old key (or image), new image.
    Update = 2,
    /// Old key (or image).
    Delete = 3,
    /// A row that a new one will collide with: number of the index, old key (or image) of the row
    /// in the way, values by which the new row is recognised.
    Announce = 4,
}

impl Op {
    /// The operation with this number.
    pub(super) fn from_number(number: i64) -> Option<Op> {
        [Op::Mark, Op::Insert, Op::Update, Op::Delete, Op::Announce]
            .into_iter()
            .find(|op| *op as i64 == number)
    }
}

/// A place in the recorded changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Identifier of the change.
    pub(super) id: i64,
    /// Its random token, lower-case hexadecimal.
    pub(super) token: String,
}

impl Place {
    /// The position's text: the identifier in fixed width, so that it sorts as text, and the token.
    pub(super) fn position(&self) -> SourcePosition {
        SourcePosition(format!("{:020}-{}", self.id, self.token))
    }

    /// Reads a position's text.
    pub(super) fn parse(position: &SourcePosition) -> Option<Place> {
        let (id, token) = position.as_str().split_once('-')?;
        let id: i64 = id.parse().ok().filter(|&id| id > 0)?;
        let well_formed = token.len() == 16 && token.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed.then(|| Place {
            id,
            token: token.to_owned(),
        })
    }
}

/// A stored layout.
#[derive(Clone, Debug)]
pub(super) struct StoredLayout {
    /// Number that the triggers write with each change.
    pub(super) id: i64,
    /// Number of the table; the same for all layouts of one table.
    pub(super) tab: i64,
    /// The table's incarnation.
    pub(super) incarnation: String,
    /// The shape.
    pub(super) layout: Layout,
    /// Trigger names and their text as SQLite stored it.
    pub(super) triggers: HashMap<String, String>,
    /// Whether the triggers that write it are the present ones.
    pub(super) current: bool,
}

impl StoredLayout {
    /// The neutral schema; its number is assigned by the log.
    pub(super) fn schema(&self) -> TableSchema {
        self.layout.schema(&self.incarnation)
    }
}

/// How much of the tables is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    /// Nothing: not installed, or another file.
    Nothing,
    /// Somebody dropped a part.
    Partly,
    /// Everything.
    Completely,
}

/// Looks for the tables.
pub(super) fn installed(db: &Connection) -> Result<Installed> {
    let tables: i64 = db
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN \
             ('_repl_meta', '_repl_layouts', '_repl_changes', '_repl_reloads')",
            [],
            |row| row.get(0),
        )
        .during("look for the change table")?;
    Ok(match tables {
        0 => Installed::Nothing,
        4 => Installed::Completely,
        _ => Installed::Partly,
    })
}

/// Makes the tables where absent. Inside a write transaction.
pub(super) fn create(db: &Connection, group: &str) -> Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS _repl_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS _repl_layouts (
             id INTEGER PRIMARY KEY AUTOINCREMENT, tab INTEGER NOT NULL, incarnation TEXT NOT NULL,
             layout TEXT NOT NULL, triggers TEXT NOT NULL, retired INTEGER);
         CREATE TABLE IF NOT EXISTS _repl_changes (
             id INTEGER PRIMARY KEY AUTOINCREMENT, layout, op, token, at, v0);
         CREATE TABLE IF NOT EXISTS _repl_reloads (id INTEGER NOT NULL, tab INTEGER NOT NULL);",
    )
    .during("make the change table")?;
    for (key, value) in [("format", FORMAT.to_string()), ("group", group.to_owned())] {
        db.execute(
            "INSERT OR IGNORE INTO _repl_meta VALUES (?1, ?2)",
            params![key, value],
        )
        .during("write the connector's settings")?;
    }
    Ok(())
}

/// Refuses a database that another group captures or a newer version wrote.
pub(super) fn check_owner(db: &Connection, group: &str) -> Result<()> {
    let format = get(db, "format")?.and_then(|text| text.parse::<i64>().ok());
    if format != Some(FORMAT) {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!(
                "the tables _repl_* of the primary have format version {}; this version of the \
                 daemon reads {FORMAT}",
                format.map_or("unknown".to_owned(), |n| n.to_string())
            ),
        )
        .advice("run the newer daemon, or uninstall with it first"));
    }
    let owner = get(db, "group")?.unwrap_or_default();
    if owner != group {
        return Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("the primary is captured by the group `{owner}`, not by `{group}`"),
        )
        .advice("use that group's name, or uninstall its capture first: a primary has one group"));
    }
    Ok(())
}

/// The token of the present span of history.
pub(super) fn incarnation(db: &Connection) -> Result<Option<String>> {
    get(db, "incarnation")
}

/// Begins a new span of history. Inside a write transaction.
pub(super) fn renew_incarnation(db: &Connection) -> Result<String> {
    let token = random_token(db)?;
    db.execute(
        "INSERT OR REPLACE INTO _repl_meta VALUES ('incarnation', ?1)",
        params![token],
    )
    .during("write the incarnation")?;
    Ok(token)
}

/// 16 random bytes, hexadecimal.
pub(super) fn random_token(db: &Connection) -> Result<String> {
    db.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0))
        .during("make a token")
}

fn get(db: &Connection, key: &str) -> Result<Option<String>> {
    db.query_row(
        "SELECT value FROM _repl_meta WHERE key = ?1",
        params![key],
        |row| row.get(0),
    )
    .optional()
    .during("read the connector's settings")
}

/// Records a place in history. Inside a write transaction.
pub(super) fn mark(db: &Connection) -> Result<Place> {
    db.query_row(
        "INSERT INTO _repl_changes (layout, op, token, at) VALUES (0, 0, randomblob(8), \
         CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)) \
         RETURNING id, lower(hex(token))",
        [],
        |row| {
            Ok(Place {
                id: row.get(0)?,
                token: row.get(1)?,
            })
        },
    )
    .during("record a place in history")
}

/// All stored layouts.
pub(super) fn layouts(db: &Connection) -> Result<Vec<StoredLayout>> {
    let doing = "read the layouts of captured tables";
    let mut statement = db
        .prepare_cached(
            "SELECT id, tab, incarnation, layout, triggers, retired IS NULL FROM _repl_layouts \
             ORDER BY id",
        )
        .during(doing)?;
    let mut rows = statement.query([]).during(doing)?;
    let mut layouts = Vec::new();
    while let Some(row) = rows.next().during(doing)? {
        let text = |at: usize| row.get::<_, String>(at).during(doing);
        layouts.push(StoredLayout {
            id: row.get(0).during(doing)?,
            tab: row.get(1).during(doing)?,
            incarnation: text(2)?,
            layout: from_json(&text(3)?)?,
            triggers: from_json(&text(4)?)?,
            current: row.get(5).during(doing)?,
        });
    }
    Ok(layouts)
}

/// Reads what the connector stored as JSON.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        ConnectorError::new(
            ErrorKind::Configuration,
            format!("the table _repl_layouts was changed by somebody: {error}"),
        )
        .advice("uninstall the capture and start it anew")
    })
}

/// Number of value columns of `_repl_changes`.
pub(super) fn width(db: &Connection) -> Result<usize> {
    let own: i64 = db
        .query_row(
            "SELECT count(*) FROM pragma_table_info('_repl_changes') WHERE name GLOB 'v[0-9]*'",
            [],
            |row| row.get(0),
        )
        .during("read the change table's columns")?;
    Ok(usize::try_from(own).unwrap_or(0))
}

/// Widens `_repl_changes`. Inside a write transaction.
pub(super) fn widen(db: &Connection, wanted: usize) -> Result<()> {
    for at in width(db)?..wanted {
        db.execute_batch(&format!("ALTER TABLE _repl_changes ADD COLUMN v{at}"))
            .during("widen the change table")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_sort_by_identifier_and_damaged_ones_are_not_read() {
        let place = |id| Place {
            id,
            token: "00112233445566ff".into(),
        };
        assert!(place(9).position().as_str() < place(10).position().as_str());
        assert_eq!(Place::parse(&place(7).position()), Some(place(7)));
        for bad in [
            "",
            "7",
            "7-",
            "x-00112233445566ff",
            "0-00112233445566ff",
            "7-zz",
        ] {
            assert_eq!(Place::parse(&SourcePosition(bad.into())), None, "{bad}");
        }
    }
}
