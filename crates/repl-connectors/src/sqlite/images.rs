//! Turns recorded images into row images of the change model.
//!
//! A change recorded under a former layout is told in the present one where that only renamed or
//! appended columns: what the old triggers did not record of an appended column is read from the
//! row itself, at the same snapshot. That is exact for the state after the unit, and a row that is
//! not there any more is deleted or changed later in the unit.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::row::{Row, Value};
use repl_core::schema::quote_identifier;
use rusqlite::{Connection, Row as SqlRow};

use super::error::During;
use super::layout::Layout;
use super::meta::StoredLayout;
use super::schema::Known;
use super::value::{Bound, from_sqlite};
use crate::seam::{ConnectorError, Result};

/// How the changes of one stored layout are told.
pub(super) struct Telling {
    /// The layout the change was recorded under.
    pub(super) recorded: Arc<StoredLayout>,
    /// The layout the change is told in.
    pub(super) told: Arc<StoredLayout>,
    fill: Option<Fill>,
}

/// Reads the columns that were not recorded.
struct Fill {
    sql: String,
    /// Values of the columns where the row is gone.
    defaults: Row,
}

impl Telling {
    /// Decides how changes recorded under `recorded` are told.
    ///
    /// # Errors
    /// When a default cannot be evaluated.
    pub(super) fn new(
        db: &Connection,
        known: &Known,
        recorded: &Arc<StoredLayout>,
    ) -> Result<Self> {
        let told = match known.current_of(recorded.tab) {
            Some(now)
                if now.layout.extends(&recorded.layout)
                    && now.layout.key == recorded.layout.key =>
            {
                Arc::clone(now)
            }
            _ => Arc::clone(recorded),
        };
        let fill = if told.layout.columns.len() > recorded.layout.columns.len() {
            Some(Fill::new(db, &recorded.layout, &told.layout)?)
        } else {
            None
        };
        Ok(Telling {
            recorded: Arc::clone(recorded),
            told,
            fill,
        })
    }

    /// Number of columns of the images told.
    pub(super) fn width(&self) -> usize {
        self.told.layout.columns.len()
    }

    /// Appends the new image recorded from value column `at` on.
    pub(super) fn new_image<'r>(
        &self,
        db: &Connection,
        row: &'r SqlRow<'_>,
        at: usize,
        mut put: impl FnMut(Value<'_>),
    ) -> Result<()> {
        for column in 0..self.recorded.layout.columns.len() {
            put(value(row, at + column)?);
        }
        let Some(fill) = &self.fill else {
            return Ok(());
        };
        let key: Vec<Value<'r>> = self
            .recorded
            .layout
            .key
            .iter()
            .map(|&column| value(row, at + column))
            .collect::<Result<_>>()?;
        for appended in fill.read(db, &key)?.values()? {
            put(appended?);
        }
        Ok(())
    }

    /// The old row recorded from value column `at` on, in full width; columns that are neither
    /// recorded nor part of the key are NULL.
    pub(super) fn old_image(&self, row: &SqlRow<'_>, at: usize) -> Result<Row> {
        let mut values = vec![Value::Null; self.width()];
        let layout = &self.recorded.layout;
        if layout.key.is_empty() {
            for (column, slot) in values.iter_mut().enumerate().take(layout.columns.len()) {
                *slot = value(row, at + column)?;
            }
        } else {
            for (index, &column) in layout.key.iter().enumerate() {
                values[column] = value(row, at + index)?;
            }
        }
        Ok(Row::from_values(values.into_iter()))
    }
}

impl Fill {
    fn new(db: &Connection, recorded: &Layout, told: &Layout) -> Result<Fill> {
        if recorded.key.is_empty() {
            return Err(ConnectorError::new(
                ErrorKind::Internal,
                "rows without a key cannot be completed; the table should have been sent whole",
            )
            .table(told.table_name().to_string()));
        }
        let appended = &told.columns[recorded.columns.len()..];
        let columns: Vec<String> = appended.iter().map(|c| quote_identifier(&c.name)).collect();
        let key: Vec<String> = told
            .key
            .iter()
            .enumerate()
            .map(|(index, &column)| {
                let name = quote_identifier(&told.columns[column].name);
                format!("{name} = ?{0} AND {name} = ?{0} COLLATE BINARY", index + 1)
            })
            .collect();
        let defaults: Vec<&str> = appended
            .iter()
            .map(|column| column.default.as_deref().unwrap_or("NULL"))
            .collect();
        let defaults = db
            .query_row(&format!("SELECT {}", defaults.join(", ")), [], |row| {
                image(row, appended.len())
            })
            .during("evaluate the defaults of columns that were added")?;
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            columns.join(", "),
            told.table_name().quoted(),
            key.join(" AND ")
        );
        Ok(Fill { sql, defaults })
    }

    fn read(&self, db: &Connection, key: &[Value<'_>]) -> Result<Row> {
        let doing = "read the columns that were added";
        let mut statement = db.prepare_cached(&self.sql).during(doing)?;
        for (index, value) in key.iter().enumerate() {
            statement
                .raw_bind_parameter(index + 1, Bound(*value))
                .during(doing)?;
        }
        let mut rows = statement.raw_query();
        match rows.next().during(doing)? {
            Some(row) => image(row, self.defaults.values()?.count()).during(doing),
            None => Ok(self.defaults.clone()),
        }
    }
}

/// The first columns of a statement's row.
fn image(row: &SqlRow<'_>, columns: usize) -> rusqlite::Result<Row> {
    let values: Vec<Value<'_>> = (0..columns)
        .map(|at| row.get_ref(at).map(from_sqlite))
        .collect::<Result<_, _>>()?;
    Ok(Row::from_values(values.into_iter()))
}

/// Column of the reading statement that holds value column `v0`; before it come id, layout and op.
pub(super) const FIRST_VALUE: usize = 3;

/// Value column `v<at>` of a row of `_repl_changes`.
#[inline]
pub(super) fn value<'r>(row: &'r SqlRow<'_>, at: usize) -> Result<Value<'r>> {
    row.get_ref(FIRST_VALUE + at)
        .map(from_sqlite)
        .during("read a recorded value")
}
