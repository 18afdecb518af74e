//! Net changes by sets: few rows by single statements, many through the staging table.

use std::collections::HashMap;
use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::row::{Row, Value};

use super::bulk::{Into, whole};
use super::metadata::Target;
use super::session::{Doing, Session};
use super::sql::{quote, same};
use crate::seam::Result;

/// Rows below which single statements cost fewer round trips than staging does.
const STAGED_ROWS: usize = 4;
/// Rows staged at a time.
const CHUNK_ROWS: usize = 20_000;

/// Updates by the columns they write: one flag per column.
pub(super) struct Groups<'a>(pub(super) Vec<(Vec<bool>, Vec<&'a Row>)>);

impl<'a> Groups<'a> {
    pub(super) fn new(target: &Target, rows: &'a [Row]) -> Result<Self> {
        let mut places: HashMap<Vec<bool>, usize> = HashMap::new();
        let mut groups: Vec<(Vec<bool>, Vec<&'a Row>)> = Vec::new();
        for row in rows {
            let written = written_columns(target, row)?;
            let place = match places.get(&written) {
                Some(&place) => place,
                None => {
                    places.insert(written.clone(), groups.len());
                    groups.push((written, Vec::new()));
                    groups.len() - 1
                }
            };
            groups[place].1.push(row);
        }
        Ok(Groups(groups))
    }
}

/// Which columns an update writes: those sent, without the key's.
pub(super) fn written_columns(target: &Target, row: &Row) -> Result<Vec<bool>> {
    let values = target.values(row)?;
    let written = values.iter().enumerate();
    Ok(written
        .map(|(at, value)| *value != Value::Unchanged && !target.key.contains(&at))
        .collect())
}

/// Indexes of the flagged columns.
pub(super) fn flagged(flags: &[bool]) -> Vec<usize> {
    (0..flags.len()).filter(|&at| flags[at]).collect()
}

impl Session {
    pub(super) async fn set_wise(&mut self, target: &Arc<Target>, net: &NetTable) -> Result<()> {
        self.delete_keys(target, &net.deletes).await?;
        for (written, rows) in &Groups::new(target, &net.updates)?.0 {
            self.update_group(target, written, rows).await?;
        }
        self.insert_rows(target, &net.inserts).await?;
        self.multiset(target, &net.multiset).await
    }

    /// Deletes rows by their keys.
    pub(super) async fn delete_keys(&mut self, target: &Arc<Target>, rows: &[Row]) -> Result<()> {
        if rows.len() < STAGED_ROWS {
            for row in rows {
                self.delete_row(target, row).await?;
            }
            return Ok(());
        }
        let rows: Vec<&Row> = rows.iter().collect();
        self.staged_delete(target, &rows, true).await
    }

    /// Deletes rows by their keys, through the stage; `all_there` when a missing one is an error.
    pub(super) async fn staged_delete(
        &mut self,
        target: &Arc<Target>,
        rows: &[&Row],
        all_there: bool,
    ) -> Result<()> {
        for chunk in rows.chunks(CHUNK_ROWS) {
            let stage = self.fill_stage(target, &target.key, 0, chunk).await?;
            let sql = format!("DELETE t FROM {}", target.joined(&stage));
            let expected = all_there.then_some(chunk.len() as u64);
            self.change_plain(Doing::new("delete", target), &sql, expected)
                .await?;
            self.clear_stage(target).await?;
        }
        Ok(())
    }

    async fn update_group(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        rows: &[&Row],
    ) -> Result<()> {
        if rows.len() < STAGED_ROWS {
            for row in rows {
                self.update_row(target, written, row, row).await?;
            }
            return Ok(());
        }
        self.staged_update(target, written, rows, true).await
    }

    /// Updates rows by their keys, through the stage; `all_there` when a missing one is an error.
    pub(super) async fn staged_update(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        rows: &[&Row],
        all_there: bool,
    ) -> Result<()> {
        let mut sets: Vec<String> = flagged(written)
            .iter()
            .map(|&at| format!("t.{} = s.c{at}", quote(&target.columns[at].name)))
            .collect();
        sets.extend(kept_columns(target, written, "t."));
        let columns = [target.key.as_slice(), &flagged(written)].concat();
        for chunk in rows.chunks(CHUNK_ROWS) {
            let stage = self.fill_stage(target, &columns, 0, chunk).await?;
            let sql = format!("UPDATE {} SET {}", target.joined(&stage), sets.join(", "));
            let expected = all_there.then_some(chunk.len() as u64);
            self.change_plain(Doing::new("update", target), &sql, expected)
                .await?;
            self.clear_stage(target).await?;
        }
        Ok(())
    }

    /// Inserts whole rows.
    pub(super) async fn insert_rows(&mut self, target: &Arc<Target>, rows: &[Row]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<&Row> = rows.iter().collect();
        self.put_rows(target, &Into::table(target), &rows).await
    }

    /// Rows without a key: removes exactly as many equal ones as it must, each image by one pass
    /// over the table, then adds.
    pub(super) async fn multiset(
        &mut self,
        target: &Arc<Target>,
        rows: &[(Row, i64)],
    ) -> Result<()> {
        for (row, count) in rows.iter().filter(|(_, count)| *count < 0) {
            self.delete_copies(target, row, count.unsigned_abs())
                .await?;
        }
        let mut added: Vec<&Row> = Vec::new();
        for (row, count) in rows {
            for _ in 0..(*count).max(0) {
                added.push(row);
                if added.len() == CHUNK_ROWS {
                    self.put_rows(target, &Into::table(target), &added).await?;
                    added.clear();
                }
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        self.put_rows(target, &Into::table(target), &added).await
    }

    pub(super) async fn delete_copies(
        &mut self,
        target: &Arc<Target>,
        row: &Row,
        count: u64,
    ) -> Result<()> {
        let sql = format!(
            "DELETE FROM {} WHERE {} LIMIT {count}",
            target.name,
            target.same_row()
        );
        let params = whole(target, row)?;
        self.change(Doing::one("delete", target, row), &sql, params, count)
            .await
    }
}

/// Assignments that keep columns with ON UPDATE CURRENT_TIMESTAMP as they are, unless written; an
/// assignment of nothing, where nothing is written at all, still finds the row.
pub(super) fn kept_columns(target: &Target, written: &[bool], lead: &str) -> Vec<String> {
    let keep = |name: &str| format!("{lead}{0} = {lead}{0}", quote(name));
    let is_written = |at: usize| written.get(at).copied().unwrap_or(false);
    let mut kept: Vec<String> = target
        .columns
        .iter()
        .enumerate()
        .filter(|(at, column)| column.on_update && *at < target.sent && !is_written(*at))
        .map(|(_, column)| keep(&column.name))
        .collect();
    if kept.is_empty()
        && !written.contains(&true)
        && let Some(column) = target.columns.first()
    {
        kept.push(keep(&column.name));
    }
    kept
}

impl Target {
    /// Compares all sent columns with parameters.
    pub(super) fn same_row(&self) -> String {
        let all: Vec<String> = self.columns[..self.sent].iter().map(same).collect();
        all.join(" AND ")
    }
}
