//! Making rows that are there equal to the source's, by writing only what differs.
//!
//! The source's rows go to a temporary table, and from there act on the table by three statements:
//! rows the source lacks are deleted, different ones updated, missing ones inserted. All is one
//! target transaction, so a reader sees the rows before or after it.

use std::sync::Arc;

use super::bulk::Into;
use super::metadata::{Class, Target};
use super::session::{Doing, Session};
use super::setwise::kept_columns;
use super::sql::quote;
use super::stage::definition;
use crate::seam::{Loaded, Result, Snapshot, Written};

impl Session {
    /// Makes the table's rows equal to those of the opened table or range, in the open transaction.
    /// `within` is the range as a condition on `t`; empty for all rows. The table has a key.
    pub(super) async fn compare(
        &mut self,
        target: &Arc<Target>,
        within: &str,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Loaded> {
        let stage = self.store.own_table("compare");
        let columns: Vec<String> = target.columns[..target.sent]
            .iter()
            .enumerate()
            .map(|(at, column)| format!("c{at} {}", definition(column)))
            .collect();
        let key: Vec<String> = target.key.iter().map(|at| format!("c{at}")).collect();
        let make = format!(
            "{stage} ({}, KEY ({})) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
            columns.join(", "),
            key.join(", ")
        );
        self.make_temporary(&make).await?;
        let into = Into {
            table: stage.clone(),
            names: (0..target.sent).map(|at| format!("c{at}")).collect(),
            columns: (0..target.sent).collect(),
            group: None,
        };
        let rows = self.copy_from(target, &into, source, progress).await?;
        // A row may need the unique value of another one, which must have given it up before.
        let update = self.unique_indexes(&target.route.target).await? == 1;
        let different = match update {
            true => target.update_different(&stage),
            false => target.delete_different(&stage),
        };
        let (delete, insert) = (
            target.delete_extra(&stage, within),
            target.insert_missing(&stage),
        );
        let written = Written {
            deleted: self.write(Doing::new("delete", target), &delete).await?,
            updated: self.write(Doing::new("update", target), &different).await?,
            inserted: self.write(Doing::new("insert", target), &insert).await?,
        };
        self.run(&format!("DROP TEMPORARY TABLE {stage}")).await?;
        let written = Some(if update { written } else { written.replaced() });
        Ok(Loaded { rows, written })
    }
}

impl Target {
    /// The key's columns in the key's order, each behind `lead`.
    pub(super) fn key_names(&self, lead: &str) -> Vec<String> {
        let name = |at: &usize| format!("{lead}{}", quote(&self.columns[*at].name));
        self.key.iter().map(name).collect()
    }

    /// One row of the table and one of the source have the same key.
    fn same_key(&self) -> String {
        let pairs = self.key_names("t.").into_iter().zip(&self.key);
        let pairs: Vec<String> = pairs.map(|(own, at)| format!("{own} = s.c{at}")).collect();
        pairs.join(" AND ")
    }

    /// They are the same byte by byte: a collation may hold `a` and `A` to be equal.
    fn is_same(&self) -> String {
        let columns = self.columns[..self.sent].iter().enumerate();
        let same = columns.map(|(at, column)| {
            let (own, staged) = (format!("t.{}", quote(&column.name)), format!("s.c{at}"));
            let plain = format!("{own} <=> {staged}");
            let cast = |to: &str| format!("CAST({own} AS {to}) <=> CAST({staged} AS {to})");
            match column.class {
                Class::Text | Class::Other => cast("BINARY"),
                Class::Json => cast("CHAR"),
                // Zero has a sign that shows only as a text.
                Class::Float | Class::Double => format!("{plain} AND {}", cast("CHAR")),
                _ => plain,
            }
        });
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn delete_extra(&self, stage: &str, within: &str) -> String {
        let within = match within {
            "" => String::new(),
            condition => format!("{condition} AND "),
        };
        format!(
            "DELETE t FROM {} AS t LEFT JOIN {stage} AS s ON {} WHERE {within}s.c{} IS NULL",
            self.name,
            self.same_key(),
            self.key.first().copied().unwrap_or_default()
        )
    }

    fn delete_different(&self, stage: &str) -> String {
        let same = self.is_same();
        format!("DELETE t FROM {} WHERE NOT ({same})", self.joined(stage))
    }

    fn update_different(&self, stage: &str) -> String {
        let columns = self.columns[..self.sent].iter().enumerate();
        let mut sets: Vec<String> = columns
            .map(|(at, column)| format!("t.{} = s.c{at}", quote(&column.name)))
            .collect();
        sets.extend(kept_columns(self, &vec![true; self.sent], "t."));
        format!(
            "UPDATE {} SET {} WHERE NOT ({})",
            self.joined(stage),
            sets.join(", "),
            self.is_same()
        )
    }

    fn insert_missing(&self, stage: &str) -> String {
        let into = Into::table(self);
        let staged: Vec<String> = (0..self.sent).map(|at| format!("s.c{at}")).collect();
        let first = self.key_names("t.");
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM {stage} AS s LEFT JOIN {} AS t FORCE INDEX ({}) \
             ON {} WHERE {} IS NULL",
            self.name,
            into.names.join(", "),
            staged.join(", "),
            self.name,
            self.index,
            self.same_key(),
            first.first().map(String::as_str).unwrap_or_default()
        )
    }
}
