//! Net changes as sets: few statements for many rows.

use std::collections::HashMap;
use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::{Row, Value};

use super::metadata::Target;
use super::queue::Label;
use super::session::Session;
use super::sql::Kind;
use super::text::{put_copy_row, wrong_width};
use crate::seam::Result;

/// Bounds of one statement's arrays.
const CHUNK_ROWS: usize = 10_000;
const CHUNK_BYTES: usize = 1024 * 1024;
/// Up to this many rows, prepared single-row statements are cheaper than sets.
const FEW: usize = 3;

/// Rows of an update by the columns they write: a column that was not sent is not written.
struct Groups<'a>(Vec<(Vec<bool>, Vec<&'a Row>)>);

impl<'a> Groups<'a> {
    fn new(target: &Target, rows: &'a [Row]) -> Result<Self> {
        let mut groups: Vec<(Vec<bool>, Vec<&'a Row>)> = Vec::new();
        let mut by_columns: HashMap<Vec<bool>, usize> = HashMap::new();
        let mut last = usize::MAX;
        let mut written = Vec::new();
        for row in rows {
            written_columns(target, row, &mut written)?;
            // Rows of one shape come in runs: look the shape up only when it changes.
            if groups
                .get(last)
                .is_none_or(|(columns, _)| *columns != written)
            {
                last = *by_columns.entry(written.clone()).or_insert_with(|| {
                    groups.push((written.clone(), Vec::new()));
                    groups.len() - 1
                });
            }
            groups[last].1.push(row);
        }
        Ok(Groups(groups))
    }
}

/// The columns an update writes: those sent, except the key, which did not change.
pub(super) fn written_columns(target: &Target, row: &Row, written: &mut Vec<bool>) -> Result<()> {
    written.clear();
    for value in row.values()? {
        written.push(value? != Value::Unchanged);
    }
    if written.len() != target.columns.len() {
        return Err(wrong_width(written.len(), target.columns.len()));
    }
    for &column in &target.key {
        written[column] = false;
    }
    Ok(())
}

impl Session {
    /// Deletes, updates, inserts.
    pub(super) async fn set_wise(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        if target.rewrite_updates && !net.updates.is_empty() {
            return self.rewrite(target, net).await;
        }
        self.delete_keys(target, &net.deletes).await?;
        let updates = Groups::new(target, &net.updates)?;
        for (written, rows) in &updates.0 {
            self.update_group(target, written, rows).await?;
        }
        self.insert_rows(target, &net.inserts).await?;
        self.multiset(target, &net.multiset).await
    }

    pub(super) async fn delete_keys(&mut self, target: &Arc<Target>, rows: &[Row]) -> Result<()> {
        if rows.len() <= FEW {
            for row in rows {
                self.delete_row(target, row)?;
            }
            return self.relieve().await;
        }
        let sql = target.statement(Kind::DeleteSet, &[]);
        let rows: Vec<&Row> = rows.iter().collect();
        self.in_chunks(target, "delete", &sql, &target.key, &rows)
            .await
    }

    async fn update_group(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        rows: &[&Row],
    ) -> Result<()> {
        if rows.len() <= FEW {
            for row in rows {
                self.update_row(target, written, row, row)?;
            }
            return self.relieve().await;
        }
        self.update_chunks(target, Kind::UpdateSet, written, rows)
            .await
    }

    /// Queues a statement of this kind for the rows, by the columns they write.
    pub(super) async fn update_groups(
        &mut self,
        target: &Arc<Target>,
        kind: Kind,
        rows: &[Row],
    ) -> Result<()> {
        for (written, rows) in &Groups::new(target, rows)?.0 {
            self.update_chunks(target, kind, written, rows).await?;
        }
        Ok(())
    }

    async fn update_chunks(
        &mut self,
        target: &Arc<Target>,
        kind: Kind,
        written: &[bool],
        rows: &[&Row],
    ) -> Result<()> {
        let sql = target.statement(kind, written);
        let arrays = target.written_then_key(&written_list(written));
        self.in_chunks(target, "update", &sql, &arrays, rows).await
    }

    /// Queues `sql` for the rows in chunks: an array per column of `columns`, then the count.
    pub(super) async fn in_chunks(
        &mut self,
        target: &Arc<Target>,
        verb: &'static str,
        sql: &str,
        columns: &[usize],
        rows: &[&Row],
    ) -> Result<()> {
        let label = Label::Rows(verb, Arc::clone(target), None);
        self.arrays.start(columns.len());
        for row in rows {
            self.push_elements(target, columns, row)?;
            self.arrays.end_row();
            if self.arrays.rows() >= CHUNK_ROWS || self.arrays.bytes() >= CHUNK_BYTES {
                self.push_arrays(sql, None, &label)?;
                self.arrays.start(columns.len());
                self.relieve().await?;
            }
        }
        if self.arrays.rows() > 0 {
            self.push_arrays(sql, None, &label)?;
        }
        self.relieve().await
    }

    /// Adds the row's values of `columns` to the arrays.
    pub(super) fn push_elements(
        &mut self,
        target: &Target,
        columns: &[usize],
        row: &Row,
    ) -> Result<()> {
        let values = row.to_vec()?;
        if values.len() != target.columns.len() {
            return Err(wrong_width(values.len(), target.columns.len()));
        }
        for (at, &column) in columns.iter().enumerate() {
            let delimiter = if target.columns[column].in_arrays {
                target.columns[column].delimiter
            } else {
                b','
            };
            self.arrays.push(at, values[column], delimiter)?;
        }
        Ok(())
    }

    /// Queues `sql` with the arrays and their number of rows (or `count`) as parameters.
    fn push_arrays(&mut self, sql: &str, count: Option<i64>, label: &Label) -> Result<()> {
        let mut arrays = std::mem::take(&mut self.arrays);
        let count = count.map_or_else(|| arrays.rows().to_string(), |count| count.to_string());
        let literals = arrays.finish();
        let params: Vec<Option<&[u8]>> = literals
            .iter()
            .map(|literal| Some(literal.as_slice()))
            .chain([Some(count.as_bytes())])
            .collect();
        let outcome = self.push(sql, &params, label.clone());
        drop(params);
        self.arrays = arrays;
        outcome
    }

    /// Queues a statement whose only parameters are the arrays.
    pub(super) fn push_keys(&mut self, sql: &str, label: Label) -> Result<()> {
        let mut arrays = std::mem::take(&mut self.arrays);
        let literals = arrays.finish();
        let params: Vec<Option<&[u8]>> = literals.iter().map(|l| Some(l.as_slice())).collect();
        let outcome = self.push(sql, &params, label);
        drop(params);
        self.arrays = arrays;
        outcome
    }

    /// Whether a chunk of arrays is full.
    pub(super) fn chunk_is_full(&self) -> bool {
        self.arrays.rows() >= CHUNK_ROWS || self.arrays.bytes() >= CHUNK_BYTES
    }

    pub(super) async fn insert_rows(&mut self, target: &Arc<Target>, rows: &[Row]) -> Result<()> {
        if rows.len() <= FEW || !self.can_copy(target) {
            for row in rows {
                self.insert_row(target, row)?;
                self.relieve().await?;
            }
            return Ok(());
        }
        self.start_copy(target, "")?;
        for row in rows {
            self.copy_row(target, row)?;
            if self.is_laden() {
                self.write_now().await?;
            }
        }
        self.end_copy(target, rows.len() as u64)?;
        self.relieve().await
    }

    pub(super) fn copy_row(&mut self, target: &Target, row: &Row) -> Result<()> {
        put_copy_row(self.client.copy_buffer(), row, target.columns.len())
    }

    /// Rows without a key: just so many of each.
    pub(super) async fn multiset(
        &mut self,
        target: &Arc<Target>,
        rows: &[(Row, i64)],
    ) -> Result<()> {
        self.delete_copies(target, rows).await?;
        let added = rows.iter().filter(|(_, count)| *count > 0);
        let total: i64 = added.clone().map(|(_, count)| count).sum();
        if total == 0 {
            return Ok(());
        }
        let single = total <= FEW as i64 || !self.can_copy(target);
        if !single {
            self.start_copy(target, "")?;
        }
        for (row, count) in added {
            for _ in 0..*count {
                if single {
                    self.insert_row(target, row)?;
                } else {
                    self.copy_row(target, row)?;
                }
                self.relieve().await?;
            }
        }
        if !single {
            self.end_copy(target, total.unsigned_abs())?;
        }
        self.relieve().await
    }

    async fn delete_copies(&mut self, target: &Arc<Target>, rows: &[(Row, i64)]) -> Result<()> {
        if rows.iter().all(|(_, count)| *count >= 0) {
            return Ok(());
        }
        self.plan_by_hash(true)?;
        let sql = target.statement(Kind::DeleteCopies, &[]);
        let label = Label::Rows("delete", Arc::clone(target), None);
        let all: Vec<usize> = (0..target.columns.len()).collect();
        let mut deleted = 0;
        self.arrays.start(all.len() + 1);
        for (row, count) in rows.iter().filter(|(_, count)| *count < 0) {
            self.push_elements(target, &all, row)?;
            self.arrays.push(all.len(), Value::Integer(-count), b',')?;
            self.arrays.end_row();
            deleted -= count;
            if self.chunk_is_full() {
                self.push_arrays(&sql, Some(deleted), &label)?;
                self.arrays.start(all.len() + 1);
                deleted = 0;
                self.relieve().await?;
            }
        }
        if self.arrays.rows() > 0 {
            self.push_arrays(&sql, Some(deleted), &label)?;
        }
        self.plan_by_hash(false)?;
        self.relieve().await
    }

    /// Switches the plans of the statements that follow from "few rows by index" to "whole tables
    /// by hash", and back. For rows without a key a table must be read anyway, but only once.
    pub(super) fn plan_by_hash(&mut self, by_hash: bool) -> Result<()> {
        let (hash, nested) = if by_hash {
            ("on", "off")
        } else {
            ("off", "on")
        };
        let sql = format!(
            "SELECT pg_catalog.set_config('enable_hashjoin', '{hash}', true), \
             pg_catalog.set_config('enable_nestloop', '{nested}', true)"
        );
        self.push(&sql, &[], Label::Other)
    }
}

/// Indexes of the flagged columns.
pub(super) fn written_list(written: &[bool]) -> Vec<usize> {
    (0..written.len()).filter(|&at| written[at]).collect()
}
