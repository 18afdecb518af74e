//! Verifying deferrable constraints, which the server leaves unchecked for our session.

use std::sync::Arc;

use repl_core::batch::NetTable;
use repl_core::change::Change;
use repl_core::row::{Row, Value};

use super::metadata::{Deferrable, Target};
use super::queue::Label;
use super::session::Session;
use crate::seam::Result;

impl Session {
    /// Remembers the rows a net change writes, where a deferrable constraint needs it.
    pub(super) fn touch(&mut self, target: &Arc<Target>, net: &NetTable) {
        if target.deferrable.is_empty() {
            return;
        }
        let added = net.multiset.iter().filter(|(_, count)| *count > 0);
        let rows = net.updates.iter().chain(&net.inserts);
        let rows: Vec<Row> = rows.chain(added.map(|(row, _)| row)).cloned().collect();
        self.remember(target, rows);
    }

    /// The same for one change.
    pub(super) fn touch_change(&mut self, target: &Arc<Target>, change: &Change) {
        if target.deferrable.is_empty() {
            return;
        }
        if let Change::Insert { new, .. } | Change::Update { new, .. } = change {
            self.remember(target, vec![new.clone()]);
        }
    }

    fn remember(&mut self, target: &Arc<Target>, mut rows: Vec<Row>) {
        let Some(batch) = &mut self.batch else {
            return;
        };
        match batch.touched.last_mut() {
            Some((last, known)) if Arc::ptr_eq(last, target) => known.append(&mut rows),
            _ => batch.touched.push((Arc::clone(target), rows)),
        }
    }

    /// Queues the verification of all touched rows, at the end of the transaction: in between a
    /// deferrable constraint may be violated.
    pub(super) async fn verify_constraints(
        &mut self,
        touched: &[(Arc<Target>, Vec<Row>)],
    ) -> Result<()> {
        for (target, rows) in touched {
            for constraint in &target.deferrable {
                self.verify_constraint(target, constraint, rows).await?;
            }
        }
        Ok(())
    }

    async fn verify_constraint(
        &mut self,
        target: &Arc<Target>,
        constraint: &Deferrable,
        rows: &[Row],
    ) -> Result<()> {
        let label = Label::Constraint(Arc::clone(target), constraint.name.clone());
        let Some((columns, equals)) = lookup(target, constraint, rows)? else {
            self.plan_by_hash(true)?;
            self.push(&target.constraint_holds(constraint, None), &[], label)?;
            return self.plan_by_hash(false);
        };
        let sql = target.constraint_holds(constraint, Some((&columns, equals)));
        self.arrays.start(columns.len());
        for row in rows {
            self.push_elements(target, &columns, row)?;
            self.arrays.end_row();
            if self.chunk_is_full() {
                self.push_keys(&sql, label.clone())?;
                self.arrays.start(columns.len());
                self.relieve().await?;
            }
        }
        if self.arrays.rows() > 0 {
            self.push_keys(&sql, label)?;
        }
        self.relieve().await
    }
}

/// By which columns the touched rows are found again: the key, else the constraint's own columns
/// where every image has them; none means the whole table must be looked at.
fn lookup<'a>(
    target: &'a Target,
    constraint: &'a Deferrable,
    rows: &[Row],
) -> Result<Option<(Vec<usize>, &'a [String])>> {
    if !target.key.is_empty() {
        return Ok(Some((target.key.clone(), &target.equals)));
    }
    let (Some(plain), false) = (&constraint.plain, constraint.nulls_equal) else {
        return Ok(None);
    };
    let mut columns = Vec::new();
    for name in plain {
        match target
            .columns
            .iter()
            .position(|column| column.name == *name)
        {
            Some(column) => columns.push(column),
            None => return Ok(None),
        }
    }
    for row in rows {
        let values = row.to_vec()?;
        if columns
            .iter()
            .any(|&c| values.get(c) == Some(&Value::Unchanged))
        {
            return Ok(None);
        }
    }
    // The operators of an exclusion constraint find every row that could clash, itself included.
    Ok(Some((columns, &constraint.operators)))
}
