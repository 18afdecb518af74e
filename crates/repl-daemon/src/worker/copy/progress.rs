//! What a round of copying shows of itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use repl_api::{CopyProgress, TableCopyProgress, TableCopyState};
use repl_connectors::seam::{Existing, Written};
use tokio::time::Instant;

use super::indexing::{Indexing, indexes};
use super::plan::TableCopy;
use super::rate::Rate;
use crate::replica::Replica;

/// How often the shown state follows the rows.
const REFRESH: Duration = Duration::from_millis(100);

/// What one part may differ from the mean without showing anything, as a share of it; several parts
/// differ by less.
const PART_DOUBT: f64 = 0.6;

/// The shared view of a round.
pub(super) struct Shown {
    replica: Arc<Replica>,
    state: Mutex<State>,
}

struct State {
    tables: Vec<Table>,
    rate: Rate,
    indexing: Indexing,
    paused: Option<String>,
    refreshed: Option<Instant>,
}

struct Table {
    name: String,
    estimate: Option<u64>,
    state: TableCopyState,
    rows: u64,
    /// Parts in all and done, and the rows of those done.
    parts: u64,
    parts_done: u64,
    part_rows: u64,
    /// Indexes that are made after the rows, and since when.
    indexes: u64,
    indexing: Option<Instant>,
    /// Rows written in this round because they differed; none while nothing was compared.
    written: Option<Written>,
}

/// One lane's share in a table's progress.
pub(super) struct Progress<'a> {
    shown: &'a Shown,
    table: usize,
    /// Rows this lane has told of so far.
    told: Mutex<u64>,
}

impl Shown {
    pub(super) fn new(replica: Arc<Replica>, tables: &[TableCopy]) -> Shown {
        let tables: Vec<Table> = tables.iter().map(Table::new).collect();
        let rate = Rate::new(tables.iter().map(|table| table.rows).sum());
        let shown = Shown {
            replica,
            state: Mutex::new(State {
                tables,
                rate,
                indexing: Indexing::default(),
                paused: None,
                refreshed: None,
            }),
        };
        shown.change(true, |_| {});
        shown
    }

    /// Progress of a table, for one lane.
    pub(super) fn table(&self, table: usize) -> Progress<'_> {
        Progress {
            shown: self,
            table,
            told: Mutex::new(0),
        }
    }

    /// Shows why the copy waits, or that it does not.
    pub(super) fn paused(&self, reason: Option<String>) {
        self.change(true, |state| state.paused = reason);
    }

    /// Rows loaded in this round and before.
    pub(super) fn rows(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tables.iter().map(|table| table.rows).sum()
    }

    /// The tables whose rows were compared in this round, and what was written there.
    pub(super) fn written(&self) -> Vec<(String, Written)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = |table: &Table| Some((table.name.clone(), table.written?));
        state.tables.iter().filter_map(compared).collect()
    }

    fn change(&self, now: bool, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let due = state.refreshed.is_none_or(|at| at.elapsed() >= REFRESH);
        if now || due {
            state.refreshed = Some(Instant::now());
            let progress = state.progress();
            self.replica.view().copy = Some(progress);
        }
    }
}

impl Drop for Shown {
    /// However the round ended, nothing is being copied any more.
    fn drop(&mut self) {
        self.replica.view().copy = None;
    }
}

impl Progress<'_> {
    /// This many rows of what the lane loads were loaded.
    pub(super) fn loaded(&self, rows: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let more = rows.saturating_sub(*told);
        *told = rows;
        self.shown.change(false, |state| {
            let table = &mut state.tables[self.table];
            table.rows += more;
            table.state = TableCopyState::Copying;
        });
    }

    /// What was written where rows were compared.
    pub(super) fn written(&self, written: Option<Written>) {
        let Some(written) = written else { return };
        self.shown.change(false, |state| {
            let table = &mut state.tables[self.table];
            *table.written.get_or_insert_default() += written;
        });
    }

    /// A part is complete.
    pub(super) fn part_done(&self, rows: u64) {
        self.shown.change(false, |state| {
            let table = &mut state.tables[self.table];
            table.parts_done += 1;
            table.part_rows += rows;
        });
    }

    /// All rows are there; key and indexes are being made.
    pub(super) fn indexing(&self) {
        self.set(TableCopyState::Indexing);
    }

    /// The table is complete.
    pub(super) fn done(&self) {
        self.set(TableCopyState::Done);
    }

    fn set(&self, now: TableCopyState) {
        self.shown.change(true, |state| {
            let table = &mut state.tables[self.table];
            table.state = now;
            match (now, table.indexing.take()) {
                (TableCopyState::Indexing, _) => table.indexing = Some(Instant::now()),
                (_, Some(since)) => {
                    state
                        .indexing
                        .made(table.indexes, table.rows, since.elapsed());
                }
                (_, None) => {}
            }
        });
    }
}

impl Table {
    fn new(copy: &TableCopy) -> Table {
        let parts = copy.parts.as_ref();
        let rows = parts.map_or(0, |parts| parts.rows_before);
        let all = parts.map_or(0, |parts| u64::from(parts.copy.parts()));
        Table {
            name: copy.name.to_string(),
            estimate: copy.estimate,
            state: TableCopyState::Waiting,
            rows,
            parts: all,
            parts_done: parts.map_or(0, |parts| all - parts.open.len() as u64),
            part_rows: rows,
            // A table that was there has them.
            indexes: match copy.existing {
                Existing::Refuse if copy.create => indexes(&copy.ddl),
                _ => 0,
            },
            indexing: None,
            written: parts
                .filter(|parts| parts.copy.compare)
                .map(|_| Written::default()),
        }
    }

    /// Rows in the whole table, by the statistics unless the parts that are done show that these are
    /// stale.
    fn estimate(&self) -> Option<u64> {
        if self.state == TableCopyState::Done || self.state == TableCopyState::Indexing {
            return Some(self.rows);
        }
        let by_parts = (self.parts_done > 0).then(|| {
            (self.part_rows as f64 / self.parts_done as f64 * self.parts as f64).round() as u64
        });
        let known = match (by_parts, self.estimate) {
            (Some(by_parts), Some(stated)) => {
                // Parts are of about equal size only, and the small ones are done first.
                let doubt = PART_DOUBT / (self.parts_done as f64).sqrt();
                let stale = by_parts.abs_diff(stated) as f64 > doubt * stated as f64;
                if stale { by_parts } else { stated }
            }
            (by_parts, stated) => by_parts.or(stated)?,
        };
        Some(known.max(self.rows))
    }

    /// Seconds that its indexes are still expected to take.
    fn indexes_left(&self, indexing: &Indexing, rows_per_s: f64) -> f64 {
        if self.state == TableCopyState::Done {
            return 0.0;
        }
        let rows = self.estimate().unwrap_or(0);
        let all = self.indexes as f64 * indexing.expected(rows, rows_per_s);
        let passed = self
            .indexing
            .map_or(0.0, |since| since.elapsed().as_secs_f64());
        (all - passed).max(0.0)
    }

    fn shown(&self) -> TableCopyProgress {
        TableCopyProgress {
            table: self.name.clone(),
            state: self.state,
            rows_done: self.rows,
            rows_estimate: self.estimate(),
        }
    }
}

impl State {
    fn progress(&mut self) -> CopyProgress {
        let rows_done = self.tables.iter().map(|table| table.rows).sum();
        let rows_estimate: Option<u64> = self.tables.iter().map(Table::estimate).sum();
        let rows_per_s = self.rate.look(Instant::now(), rows_done).unwrap_or(0.0);
        let left = rows_estimate.map(|all| all.saturating_sub(rows_done));
        let indexes = self.tables.iter();
        let indexes = indexes.map(|table| table.indexes_left(&self.indexing, rows_per_s));
        let indexes_s: f64 = indexes.sum();
        let written = self.tables.iter().filter_map(|table| table.written);
        let rows_written = written
            .map(|written| written.inserted + written.updated + written.deleted)
            .reduce(|all, rows| all + rows);
        let under_way = |table: &&Table| {
            matches!(
                table.state,
                TableCopyState::Copying | TableCopyState::Indexing
            )
        };
        let tables: Vec<TableCopyProgress> = self
            .tables
            .iter()
            .filter(under_way)
            .map(Table::shown)
            .collect();
        let done = |table: &&Table| table.state == TableCopyState::Done;
        CopyProgress {
            table: tables.first().map(|table| table.table.clone()),
            tables_done: self.tables.iter().filter(done).count() as u64,
            tables_total: self.tables.len() as u64,
            rows_done,
            rows_estimate,
            rows_written,
            rows_per_s,
            eta_s: left
                .filter(|_| rows_per_s > 0.0)
                .map(|left| left as f64 / rows_per_s + indexes_s),
            paused: self.paused.clone(),
            tables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_parts_correct_the_statistics() {
        let mut table = Table {
            name: "t".into(),
            estimate: Some(10),
            state: TableCopyState::Copying,
            rows: 0,
            parts: 10,
            parts_done: 0,
            part_rows: 0,
            indexes: 0,
            indexing: None,
            written: None,
        };
        assert_eq!(table.estimate(), Some(10));
        table.rows = 250;
        table.parts_done = 2;
        table.part_rows = 200;
        assert_eq!(table.estimate(), Some(1000));
        // A first part that is small says little against them, many of them do.
        table.estimate = Some(1000);
        (table.parts_done, table.part_rows) = (1, 60);
        assert_eq!(table.estimate(), Some(1000));
        (table.rows, table.parts_done, table.part_rows) = (540, 9, 540);
        assert_eq!(table.estimate(), Some(600));
        table.rows = 250;
        table.state = TableCopyState::Done;
        assert_eq!(table.estimate(), Some(250));
    }
}
