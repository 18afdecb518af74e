//! Single-row statements: for few rows, and for changes in the source's order.

use std::sync::Arc;

use mysql_async::Value as Param;
use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::change::{Before, Change};
use repl_core::row::{Row, Value};

use super::bulk::{Into, whole};
use super::metadata::Target;
use super::session::{Doing, Session};
use super::setwise::{flagged, kept_columns, written_columns};
use super::sql::{key_equals, param, quote};
use crate::seam::{ConnectorError, Result};

impl Session {
    /// Applies changes one by one.
    pub(super) async fn ordered(&mut self, changes: &[(Arc<Route>, Change)]) -> Result<()> {
        for (route, change) in changes {
            let target = self.target(route).await?;
            match change {
                Change::Insert { new, .. } => {
                    self.put_rows(&target, &Into::table(&target), &[new])
                        .await?;
                }
                Change::Update { before, new, .. } => {
                    self.ordered_update(&target, before, new).await?;
                }
                Change::Delete { before, .. } => {
                    let row = before.row().ok_or_else(|| no_image(&target))?;
                    if target.key.is_empty() {
                        self.delete_copies(&target, row, 1).await?;
                    } else {
                        self.delete_row(&target, row).await?;
                    }
                }
                Change::Truncate { .. } => {
                    return Err(ConnectorError::new(
                        ErrorKind::Internal,
                        "a truncation among ordered changes",
                    ));
                }
                Change::Message { .. } => {}
            }
        }
        Ok(())
    }

    async fn ordered_update(
        &mut self,
        target: &Arc<Target>,
        before: &Before,
        new: &Row,
    ) -> Result<()> {
        let mut written = written_columns(target, new)?;
        let Some(old) = before.row() else {
            if target.key.is_empty() {
                return Err(no_image(target));
            }
            return self.update_row(target, &written, new, new).await;
        };
        if target.key.is_empty() {
            return self.update_copy(target, &written, old, new).await;
        }
        // The key may have changed: it is written too.
        let values = target.values(new)?;
        for &column in &target.key {
            written[column] = values[column] != Value::Unchanged;
        }
        self.update_row(target, &written, old, new).await
    }

    /// Deletes by key.
    pub(super) async fn delete_row(&mut self, target: &Arc<Target>, row: &Row) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE {}", target.name, target.by_key());
        let params = selected(target, &target.key, row)?;
        self.change(Doing::one("delete", target, row), &sql, params, 1)
            .await
    }

    /// Updates the flagged columns of the row whose key `old` holds.
    pub(super) async fn update_row(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        old: &Row,
        new: &Row,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            target.name,
            assignments(target, written),
            target.by_key()
        );
        self.check_size(target, new)?;
        let mut params = selected(target, &flagged(written), new)?;
        params.extend(selected(target, &target.key, old)?);
        self.change(Doing::one("update", target, old), &sql, params, 1)
            .await
    }

    async fn update_copy(
        &mut self,
        target: &Arc<Target>,
        written: &[bool],
        old: &Row,
        new: &Row,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {} WHERE {} LIMIT 1",
            target.name,
            assignments(target, written),
            target.same_row()
        );
        let mut params = selected(target, &flagged(written), new)?;
        params.extend(whole(target, old)?);
        self.change(Doing::one("update", target, old), &sql, params, 1)
            .await
    }
}

fn assignments(target: &Target, written: &[bool]) -> String {
    let mut sets: Vec<String> = flagged(written)
        .iter()
        .map(|&at| format!("{} = ?", quote(&target.columns[at].name)))
        .collect();
    sets.extend(kept_columns(target, written, ""));
    sets.join(", ")
}

/// Parameters of some columns.
fn selected(target: &Target, columns: &[usize], row: &Row) -> Result<Vec<Param>> {
    let values = target.values(row)?;
    columns
        .iter()
        .map(|&at| param(&target.columns[at], values[at]))
        .collect()
}

impl Target {
    fn by_key(&self) -> String {
        let equals: Vec<String> = self
            .key
            .iter()
            .map(|&at| key_equals(&self.columns[at]))
            .collect();
        equals.join(" AND ")
    }
}

fn no_image(target: &Target) -> ConnectorError {
    ConnectorError::new(
        ErrorKind::Internal,
        format!(
            "a change of {} without the image of its row",
            target.route.target
        ),
    )
    .table(target.route.target.to_string())
}
