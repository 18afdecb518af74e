//! The state that changes leave in one table, by key.
//!
//! A key that was changed is compared with its last image; columns the source did not send are
//! taken from the snapshot's row it goes back to. Rows without a key are a multiset: copies that
//! came and went.

use std::collections::HashMap;

use bytes::Bytes;

use super::canon::Canon;
use crate::change::{Before, Change};
use crate::codec::Malformed;
use crate::row::Row;

/// The net effect of changes on one table at one replica; all rows are in canonical form.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    rows: i64,
    keys: HashMap<Bytes, State>,
    copies: HashMap<Bytes, (Row, i64)>,
}

#[derive(Clone, Debug)]
struct State {
    /// The row as it is now; none when it is gone.
    now: Option<Row>,
    /// Key of the snapshot's row that holds what was not sent.
    base: Bytes,
}

impl Delta {
    /// Takes in one change of the table, already converted for the replica.
    ///
    /// # Errors
    /// When an image is damaged or lacks what must be there.
    pub fn add(&mut self, canon: &Canon, change: &Change) -> Result<(), Malformed> {
        let old = |before: &Before| before.row().map(|row| canon.row(row)).transpose();
        match change {
            Change::Insert { new, .. } => {
                self.rows += 1;
                self.insert(canon, canon.row(new)?)
            }
            Change::Delete { before, .. } => {
                self.rows -= 1;
                let row = old(before)?.ok_or(Malformed("a delete without a row"))?;
                self.delete(canon, row)
            }
            Change::Update { before, new, .. } => {
                let (old, new) = (old(before)?, canon.row(new)?);
                match before {
                    _ if !canon.is_keyed() => self.replace(canon, old, new),
                    Before::Full(_) => self.update(canon, old.clone(), filled(new, old.as_ref())?),
                    _ => self.update(canon, old, new),
                }
            }
            Change::Truncate { .. } | Change::Message { .. } => Ok(()),
        }
    }

    fn insert(&mut self, canon: &Canon, new: Row) -> Result<(), Malformed> {
        if !canon.is_keyed() {
            self.count(new, 1);
            return Ok(());
        }
        let key = canon.key(&new)?;
        let base = key.clone();
        let now = Some(new);
        self.keys.insert(key, State { now, base });
        Ok(())
    }

    fn delete(&mut self, canon: &Canon, row: Row) -> Result<(), Malformed> {
        if !canon.is_keyed() {
            self.count(row, -1);
            return Ok(());
        }
        let key = canon.key(&row)?;
        let base = key.clone();
        self.keys.insert(key, State { now: None, base });
        Ok(())
    }

    fn update(&mut self, canon: &Canon, old: Option<Row>, new: Row) -> Result<(), Malformed> {
        let key = canon.key(&new)?;
        let old_key = match &old {
            Some(row) => canon.key(row)?,
            None => key.clone(),
        };
        let (now, base) = match self.keys.get(&old_key) {
            Some(state) => (filled(new, state.now.as_ref())?, state.base.clone()),
            None => (new, old_key.clone()),
        };
        if old_key != key {
            let gone = State {
                now: None,
                base: old_key.clone(),
            };
            self.keys.insert(old_key, gone);
        }
        let now = Some(now);
        self.keys.insert(key, State { now, base });
        Ok(())
    }

    fn replace(&mut self, _canon: &Canon, old: Option<Row>, new: Row) -> Result<(), Malformed> {
        let old = old.ok_or(Malformed("an update without the row before"))?;
        let new = filled(new, Some(&old))?;
        self.count(old, -1);
        self.count(new, 1);
        Ok(())
    }

    fn count(&mut self, row: Row, copies: i64) {
        let entry = self.copies.entry(row.encoded().clone());
        entry.or_insert((row, 0)).1 += copies;
    }

    /// Rows added less rows removed.
    pub fn net_rows(&self) -> i64 {
        self.rows
    }

    /// Whether the key was changed: what a snapshot holds of it says nothing then.
    #[inline]
    pub fn touches(&self, key: &[u8]) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(key)
    }

    /// Whether anything was changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.copies.values().all(|(_, copies)| *copies == 0)
    }

    /// For tables without a key: the rows that came (positive) or went (negative).
    pub fn copies(&self) -> impl Iterator<Item = &(Row, i64)> {
        self.copies.values().filter(|(_, copies)| *copies != 0)
    }

    /// The rows under the changed keys; `snapshot` holds the snapshot's rows of such keys.
    ///
    /// # Errors
    /// When a column that was not sent is nowhere to be found.
    pub fn expected(&self, snapshot: &HashMap<Bytes, Row>) -> Result<Vec<(Bytes, Row)>, Malformed> {
        let mut rows = Vec::new();
        for (key, state) in &self.keys {
            let Some(now) = &state.now else { continue };
            let row = filled(now.clone(), snapshot.get(&state.base))?;
            if row.has_unchanged()? {
                return Err(Malformed("a value was neither sent nor in the snapshot"));
            }
            rows.push((key.clone(), row));
        }
        Ok(rows)
    }
}

fn filled(new: Row, from: Option<&Row>) -> Result<Row, Malformed> {
    match from {
        Some(from) if new.has_unchanged()? => new.filled_from(from),
        _ => Ok(new),
    }
}
