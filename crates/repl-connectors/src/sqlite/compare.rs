//! Making rows that are there equal to the source's, by writing only what differs.
//!
//! The source's rows go to a temporary table, and from there act on the table by three statements:
//! rows the source lacks are deleted, different ones updated, missing ones inserted. All is one
//! target transaction, so a reader sees the rows before or after it.

use repl_core::batch::Route;
use repl_core::row::Row;
use repl_core::schema::quote_identifier;
use rusqlite::Connection;

use super::error::During;
use super::fit::target_table;
use super::parts;
use super::value::Bound;
use crate::seam::{Result, Written};

/// The temporary table, its columns called `c0`, `c1`…
const STAGE: &str = "temp._repl_compare";

/// A comparison under way, in the open transaction. The table has a key.
pub(super) struct Compare {
    route: Route,
    /// The range as a condition on `t`; empty for all rows.
    within: String,
    /// Columns that keep the sign of a zero, since their type converts no number.
    as_given: Vec<bool>,
}

/// Whether a column of this declared type stores numbers as they are given.
fn stores_as_given(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let converts = ["INT", "CHAR", "CLOB", "TEXT"];
    declared.is_empty()
        || declared.contains("BLOB") && !converts.iter().any(|word| declared.contains(word))
}

/// The key's columns in the key's order, each behind `lead`.
pub(super) fn key_names(route: &Route, lead: &str) -> Vec<String> {
    let names = route.schema.key_names();
    let names = names.map(|name| format!("{lead}{}", quote_identifier(name)));
    names.collect()
}

impl Compare {
    /// Makes the temporary table. Its columns have the types of the replica's, so that they hold
    /// values as the replica would.
    pub(super) fn begin(db: &Connection, route: Route, within: String) -> Result<Compare> {
        let found = target_table(db, &route.target)?;
        let declared = |name: &str| {
            let own = found.as_ref().and_then(|table| table.column(name));
            own.map_or("", |own| own.type_name.as_str())
        };
        let types = route.schema.columns.iter();
        let types: Vec<&str> = types.map(|column| declared(&column.name)).collect();
        let columns = types.iter().enumerate();
        let columns: Vec<String> = columns.map(|(at, name)| format!("c{at} {name}")).collect();
        let as_given = types.iter().map(|name| stores_as_given(name)).collect();
        let compare = Compare {
            route,
            within,
            as_given,
        };
        let make = format!(
            "DROP TABLE IF EXISTS {STAGE}; CREATE TABLE {STAGE} ({})",
            columns.join(", ")
        );
        db.execute_batch(&make).during(compare.doing())?;
        Ok(compare)
    }

    fn doing(&self) -> String {
        format!("compare the table {}", self.route.target)
    }

    /// Takes rows of the source.
    pub(super) fn add(&self, db: &Connection, rows: &[Row]) -> Result<()> {
        let places: Vec<String> = (1..=self.route.schema.columns.len())
            .map(|place| format!("?{place}"))
            .collect();
        let sql = format!("INSERT INTO {STAGE} VALUES ({})", places.join(", "));
        let mut insert = db.prepare_cached(&sql).during(self.doing())?;
        for row in rows {
            for (at, value) in row.values()?.enumerate() {
                let bound = insert.raw_bind_parameter(at + 1, Bound(value?));
                bound.during(self.doing())?;
            }
            insert.raw_execute().during(self.doing())?;
        }
        Ok(())
    }

    /// Writes what differs.
    pub(super) fn end(&self, db: &Connection) -> Result<Written> {
        let keys = self.route.schema.key_columns();
        let staged: Vec<String> = keys.iter().map(|at| format!("c{at}")).collect();
        let run = |sql: &str| db.execute(sql, []).during(self.doing());
        run(&format!(
            "CREATE INDEX temp._repl_compare_key ON _repl_compare ({})",
            staged.join(", ")
        ))?;
        // A row may need the unique value of another one, which must have given it up before.
        let update = parts::can_settle(db, &self.route.target, &self.route.schema)?;
        let different = match update {
            true => self.update_different(),
            false => self.delete_different(),
        };
        let written = Written {
            deleted: run(&self.delete_extra())? as u64,
            updated: run(&different)? as u64,
            inserted: run(&self.insert_missing())? as u64,
        };
        db.execute_batch(&format!("DROP TABLE {STAGE}"))
            .during(self.doing())?;
        Ok(if update { written } else { written.replaced() })
    }

    fn table(&self) -> String {
        self.route.target.quoted()
    }

    /// The range, with more to follow.
    fn within(&self) -> String {
        match self.within.as_str() {
            "" => String::new(),
            within => format!("{within} AND "),
        }
    }

    /// One row of the table and one of the source have the same key: by the column's own collation,
    /// so that its index is used, and byte for byte.
    fn same_key(&self) -> String {
        let names = key_names(&self.route, "t.").into_iter();
        let pairs = names.zip(self.route.schema.key_columns()).map(|(own, at)| {
            format!(
                "{own} = s.c{at} AND s.c{at} = {own} COLLATE BINARY \
                 AND typeof({own}) = typeof(s.c{at})"
            )
        });
        pairs.collect::<Vec<_>>().join(" AND ")
    }

    /// They are the same in storage class and bits: equality does not know 1 from 1.0. Nothing tells
    /// 0.0 from -0.0, so where both can be stored a zero is written again.
    fn same_row(&self) -> String {
        let columns = self.route.schema.columns.iter().enumerate();
        let same = columns.map(|(at, column)| {
            let own = format!("t.{}", quote_identifier(&column.name));
            format!(
                "s.c{at} IS {own} COLLATE BINARY AND typeof(s.c{at}) = typeof({own}){}",
                if self.as_given[at] {
                    format!(" AND (typeof(s.c{at}) <> 'real' OR s.c{at} <> 0.0)")
                } else {
                    String::new()
                }
            )
        });
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn delete_extra(&self) -> String {
        format!(
            "DELETE FROM {} AS t WHERE {}NOT EXISTS (SELECT 1 FROM {STAGE} AS s WHERE {})",
            self.table(),
            self.within(),
            self.same_key()
        )
    }

    fn delete_different(&self) -> String {
        format!(
            "DELETE FROM {} AS t WHERE {}EXISTS (SELECT 1 FROM {STAGE} AS s WHERE {} AND NOT ({}))",
            self.table(),
            self.within(),
            self.same_key(),
            self.same_row()
        )
    }

    fn update_different(&self) -> String {
        let columns = self.route.schema.columns.iter().enumerate();
        let sets =
            columns.map(|(at, column)| format!("{} = s.c{at}", quote_identifier(&column.name)));
        format!(
            "UPDATE OR ABORT {} AS t SET {} FROM {STAGE} AS s WHERE {}{} AND NOT ({})",
            self.table(),
            sets.collect::<Vec<_>>().join(", "),
            self.within(),
            self.same_key(),
            self.same_row()
        )
    }

    fn insert_missing(&self) -> String {
        let columns = self.route.schema.columns.iter();
        let names: Vec<String> = columns
            .map(|column| quote_identifier(&column.name))
            .collect();
        let staged: Vec<String> = (0..names.len()).map(|at| format!("s.c{at}")).collect();
        format!(
            "INSERT OR ABORT INTO {} ({}) SELECT {} FROM {STAGE} AS s WHERE NOT EXISTS \
             (SELECT 1 FROM {} AS t WHERE {})",
            self.table(),
            names.join(", "),
            staged.join(", "),
            self.table(),
            self.same_key()
        )
    }
}
