//! Verifying deferrable constraints, which the server leaves unchecked for our session.

use std::sync::Arc;

use bytes::Bytes;
use repl_core::batch::NetTable;
use repl_core::change::Change;
use repl_core::row::{Row, Value};

use super::metadata::{Deferrable, Target};
use super::queue::Label;
use super::session::Session;
use crate::seam::Result;

/// Most bytes of rows that are remembered for the end of a transaction; beyond, whole tables are looked
/// at.
const MOST_REMEMBERED: usize = 16 * 1024 * 1024;

/// What a remembered row takes beside its bytes.
const ROW_OVERHEAD: usize = 64;

/// The rows written to tables with deferrable constraints.
#[derive(Default)]
pub(super) struct Touched {
    tables: Vec<(Arc<Target>, Which)>,
    bytes: usize,
}

/// Which rows of a table are to be verified.
enum Which {
    These(Vec<Row>),
    /// They were too many to remember.
    All,
}

impl Touched {
    fn add<'r>(&mut self, target: &Arc<Target>, rows: impl Iterator<Item = &'r Row>) {
        let known = |(known, _): &(Arc<Target>, Which)| Arc::ptr_eq(known, target);
        let at = self.tables.iter().position(known).unwrap_or_else(|| {
            let none = Which::These(Vec::new());
            self.tables.push((Arc::clone(target), none));
            self.tables.len() - 1
        });
        let Which::These(remembered) = &mut self.tables[at].1 else {
            return;
        };
        for row in rows {
            // A copy: the row itself would keep all that was read from the log with it.
            let row = Row::from_encoded(Bytes::copy_from_slice(row.encoded()));
            self.bytes += row.encoded().len() + ROW_OVERHEAD;
            remembered.push(row);
            if self.bytes > MOST_REMEMBERED {
                return self.forget();
            }
        }
    }

    fn forget(&mut self) {
        for (_, which) in &mut self.tables {
            *which = Which::All;
        }
        self.bytes = 0;
    }
}

impl Session {
    /// Remembers the rows a net change writes, where a deferrable constraint needs it.
    pub(super) fn touch(&mut self, target: &Arc<Target>, net: &NetTable) {
        let added = net.multiset.iter().filter(|(_, count)| *count > 0);
        let rows = net.updates.iter().chain(&net.inserts);
        self.remember(target, rows.chain(added.map(|(row, _)| row)));
    }

    /// The same for one change.
    pub(super) fn touch_change(&mut self, target: &Arc<Target>, change: &Change) {
        if let Change::Insert { new, .. } | Change::Update { new, .. } = change {
            self.remember(target, std::iter::once(new));
        }
    }

    fn remember<'r>(&mut self, target: &Arc<Target>, rows: impl Iterator<Item = &'r Row>) {
        if !target.deferrable.is_empty()
            && let Some(batch) = &mut self.batch
        {
            batch.touched.add(target, rows);
        }
    }

    /// Queues the verification of all touched rows, at the end of the transaction: in between a
    /// deferrable constraint may be violated.
    pub(super) async fn verify_constraints(&mut self, touched: &Touched) -> Result<()> {
        for (target, which) in &touched.tables {
            for constraint in &target.deferrable {
                self.verify_constraint(target, constraint, which).await?;
            }
        }
        Ok(())
    }

    async fn verify_constraint(
        &mut self,
        target: &Arc<Target>,
        constraint: &Deferrable,
        which: &Which,
    ) -> Result<()> {
        let label = Label::Constraint(Arc::clone(target), constraint.name.clone());
        let (rows, by) = match which {
            Which::These(rows) => (rows.as_slice(), lookup(target, constraint, rows)?),
            Which::All => (&[][..], None),
        };
        let Some((columns, equals)) = by else {
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
