//! The connector's own tables in a replica: checkpoints and the registry of copied tables.
//!
//! Each row carries the group's name, so that one replica may follow several groups, and the
//! checkpoint the origin it covers.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use repl_core::batch::Route;
use repl_core::checkpoint::Checkpoint;
use repl_core::cut::Cut;
use repl_core::schema::{TableName, TableSchema};
use repl_core::{Epoch, ErrorKind, LogId, Seq, SourcePosition};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::During;
use super::parts;
use crate::seam::{ConnectorError, CopiedTable, ReplicaState, Result};

/// The one origin a group has as long as it has one primary at a time.
const ORIGIN: &str = "primary";

/// Makes the tables where absent.
pub(super) fn create(db: &Connection) -> Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS _repl_checkpoint (
             grp TEXT NOT NULL, origin TEXT NOT NULL, log TEXT NOT NULL, epoch INTEGER NOT NULL,
             seq INTEGER NOT NULL, position TEXT NOT NULL, PRIMARY KEY (grp, origin)
         ) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS _repl_tables (
             grp TEXT NOT NULL, tab_schema TEXT NOT NULL, tab_name TEXT NOT NULL,
             incarnation TEXT NOT NULL, cut TEXT, columns TEXT NOT NULL,
             PRIMARY KEY (grp, tab_schema, tab_name)
         ) WITHOUT ROWID;
         {}
         COMMIT;",
        parts::TABLES
    ))
    .during("make the daemon's own tables")
}

/// Reads what the replica says of itself.
pub(super) fn state(db: &Connection, group: &str) -> Result<ReplicaState> {
    Ok(ReplicaState {
        instance: db.path().and_then(|path| instance(Path::new(path)).ok()),
        // The session verified synchronous=FULL.
        forgetful: None,
        checkpoint: checkpoint(db, group)?,
        tables: tables(db, group)?,
        copies: parts::stored(db, group)?,
    })
}

/// Other groups that have copied a table of this name, here or at their primary, into this database.
pub(super) fn other_groups(db: &Connection, group: &str, route: &Route) -> Result<Vec<String>> {
    let doing = "read which groups feed this database";
    let (target, source) = (&route.target, &route.schema.table);
    let mut statement = db
        .prepare_cached(
            "SELECT DISTINCT grp FROM _repl_tables WHERE grp <> ?1 AND ((tab_schema = ?2 AND tab_name = ?3) \
             OR (tab_schema = ?4 AND tab_name = ?5)) ORDER BY 1",
        )
        .during(doing)?;
    let names = params![
        group,
        target.schema,
        target.name,
        source.schema,
        source.name
    ];
    let groups = statement.query_map(names, |row| row.get(0));
    groups.and_then(Iterator::collect).during(doing)
}

/// Which file it is, whatever its path.
pub(super) fn instance(path: &Path) -> std::io::Result<String> {
    let file = std::fs::metadata(path)?;
    Ok(format!("{}/{}", file.dev(), file.ino()))
}

fn damaged(what: &str) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::History,
        format!("the table {what} was changed by somebody: its content cannot be read"),
    )
    .advice("copy the replica anew: replctl resync")
}

fn checkpoint(db: &Connection, group: &str) -> Result<Option<Checkpoint>> {
    let row: Option<(String, i64, i64, String)> = db
        .prepare_cached(
            "SELECT log, epoch, seq, position FROM _repl_checkpoint WHERE grp = ?1 AND origin = ?2",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![group, ORIGIN], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })
                .optional()
        })
        .during("read the checkpoint")?;
    let Some((log, epoch, seq, position)) = row else {
        return Ok(None);
    };
    let broken = || damaged("_repl_checkpoint");
    Ok(Some(Checkpoint {
        log: LogId(uuid::Uuid::parse_str(&log).map_err(|_| broken())?),
        epoch: Epoch(u32::try_from(epoch).map_err(|_| broken())?),
        seq: Seq(u64::try_from(seq).map_err(|_| broken())?),
        position: SourcePosition(position),
    }))
}

fn tables(db: &Connection, group: &str) -> Result<HashMap<TableName, CopiedTable>> {
    let doing = "read the registry of copied tables";
    let mut statement = db
        .prepare_cached(
            "SELECT tab_schema, tab_name, incarnation, cut FROM _repl_tables WHERE grp = ?1",
        )
        .during(doing)?;
    let mut rows = statement.query(params![group]).during(doing)?;
    let mut tables = HashMap::new();
    while let Some(row) = rows.next().during(doing)? {
        let text = |at: usize| row.get::<_, String>(at).during(doing);
        let cut: Option<String> = row.get(3).during(doing)?;
        let cut = cut
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|_| damaged("_repl_tables"))?;
        let name = TableName::new(text(0)?, text(1)?);
        tables.insert(
            name,
            CopiedTable {
                incarnation: text(2)?,
                cut,
            },
        );
    }
    Ok(tables)
}

/// The stored checkpoint is not the expected one.
pub(super) fn moved(db: &Connection, group: &str, expected: Option<&Checkpoint>) -> ConnectorError {
    let tell = |checkpoint: Option<&Checkpoint>| match checkpoint {
        Some(c) => format!(
            "transaction {} of epoch {} in log {}",
            c.seq, c.epoch, c.log
        ),
        None => "none".to_owned(),
    };
    let found = checkpoint(db, group).ok().flatten();
    ConnectorError::new(
        ErrorKind::CheckpointMoved,
        format!(
            "the replica's checkpoint is {}, not {}: another session or daemon has written it",
            tell(found.as_ref()),
            tell(expected)
        ),
    )
    .advice("make sure that only one daemon serves this replica")
}

/// Fails unless the stored checkpoint is the expected one. Under the write lock nobody can change
/// it before this transaction ends.
pub(super) fn compare(db: &Connection, group: &str, expected: &Checkpoint) -> Result<()> {
    if checkpoint(db, group)?.as_ref() == Some(expected) {
        Ok(())
    } else {
        Err(moved(db, group, Some(expected)))
    }
}

/// Replaces `expected` by `next` in the open transaction.
pub(super) fn compare_and_set(
    db: &Connection,
    group: &str,
    expected: Option<&Checkpoint>,
    next: &Checkpoint,
) -> Result<()> {
    let doing = "write the checkpoint";
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (log, epoch, seq) = (next.log.to_string(), next.epoch.0, number(next.seq.0));
    let position = next.position.as_str();
    let changed = match expected {
        Some(now) => db
            .prepare_cached(
                "UPDATE _repl_checkpoint SET log = ?1, epoch = ?2, seq = ?3, position = ?4 \
                 WHERE grp = ?5 AND origin = ?6 AND log = ?7 AND epoch = ?8 AND seq = ?9 \
                 AND position = ?10",
            )
            .and_then(|mut statement| {
                let (now_log, now_seq) = (now.log.to_string(), number(now.seq.0));
                let now_position = now.position.as_str();
                statement.execute(params![
                    log,
                    epoch,
                    seq,
                    position,
                    group,
                    ORIGIN,
                    now_log,
                    now.epoch.0,
                    now_seq,
                    now_position
                ])
            }),
        None => db
            .prepare_cached(
                "INSERT OR IGNORE INTO _repl_checkpoint VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut statement| {
                statement.execute(params![group, ORIGIN, log, epoch, seq, position])
            }),
    }
    .during(doing)?;
    if changed == 1 {
        Ok(())
    } else {
        Err(moved(db, group, expected))
    }
}

/// Clears the cut of tables that the stream has passed.
pub(super) fn joined(db: &Connection, group: &str, tables: &[TableName]) -> Result<()> {
    let doing = "note that a copied table has joined the stream";
    set_cut(db, group, tables, None).during(doing)
}

/// Notes what tables contain of the stream.
pub(super) fn recut(db: &Connection, group: &str, tables: &[TableName], cut: &Cut) -> Result<()> {
    let cut = to_json(cut)?;
    set_cut(db, group, tables, Some(&cut)).during("note what tables contain of the stream")
}

fn set_cut(
    db: &Connection,
    group: &str,
    tables: &[TableName],
    cut: Option<&str>,
) -> rusqlite::Result<()> {
    for table in tables {
        db.prepare_cached(
            "UPDATE _repl_tables SET cut = ?4 WHERE grp = ?1 AND tab_schema = ?2 AND tab_name = ?3",
        )?
        .execute(params![group, table.schema, table.name, cut])?;
    }
    Ok(())
}

/// Notes that a table was copied, in the shape of `schema`.
pub(super) fn copied(
    db: &Connection,
    group: &str,
    schema: &TableSchema,
    copied: &CopiedTable,
) -> Result<()> {
    let cut = copied.cut.as_ref().map(to_json).transpose()?;
    let table = &schema.table;
    db.execute(
        "INSERT OR REPLACE INTO _repl_tables VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            group,
            table.schema,
            table.name,
            copied.incarnation,
            cut,
            column_names(schema)?
        ],
    )
    .during("note that a table was copied")?;
    Ok(())
}

/// Notes the source's columns that the replica's table was fitted to.
pub(super) fn fitted(db: &Connection, group: &str, schema: &TableSchema) -> Result<()> {
    let table = &schema.table;
    let names = column_names(schema)?;
    db.prepare_cached(
        "UPDATE _repl_tables SET columns = ?4 WHERE grp = ?1 AND tab_schema = ?2 AND tab_name = ?3",
    )
    .and_then(|mut statement| statement.execute(params![group, table.schema, table.name, names]))
    .during("note the columns of a table")?;
    Ok(())
}

/// The source's columns that the replica's table was last fitted to; none for a table that was not
/// copied.
pub(super) fn columns(db: &Connection, group: &str, table: &TableName) -> Result<Vec<String>> {
    let text: Option<String> = db
        .prepare_cached(
            "SELECT columns FROM _repl_tables WHERE grp = ?1 AND tab_schema = ?2 AND tab_name = ?3",
        )
        .and_then(|mut statement| {
            statement
                .query_row(params![group, table.schema, table.name], |row| row.get(0))
                .optional()
        })
        .during("read the columns of a copied table")?;
    match text {
        Some(text) => serde_json::from_str(&text).map_err(|_| damaged("_repl_tables")),
        None => Ok(Vec::new()),
    }
}

fn column_names(schema: &TableSchema) -> Result<String> {
    let names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    to_json(&names)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| ConnectorError::new(ErrorKind::Internal, error.to_string()))
}

/// Forgets that tables were copied.
pub(super) fn forget(db: &Connection, group: &str, tables: &[TableName]) -> Result<()> {
    for table in tables {
        db.execute(
            "DELETE FROM _repl_tables WHERE grp = ?1 AND tab_schema = ?2 AND tab_name = ?3",
            params![group, table.schema, table.name],
        )
        .during("forget that a table was copied")?;
        parts::give_up(db, group, table)?;
    }
    Ok(())
}

/// Forgets everything of the tables of the group.
pub(super) fn clear(db: &Connection, group: &str) -> Result<()> {
    for own in ["_repl_tables", "_repl_copies", "_repl_copy_parts"] {
        db.execute(&format!("DELETE FROM {own} WHERE grp = ?1"), params![group])
            .during("forget that tables were copied")?;
    }
    Ok(())
}
