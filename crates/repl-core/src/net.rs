//! Reduces whole transactions to their net change per key.
//!
//! The source enforces its key after every single row change, so at no instant do two rows share
//! one; the sequence of changes of a key is therefore a walk between "there" and "not there", and
//! only its ends matter. Rows without a key are a multiset of full images, where only counts
//! matter. TRUNCATE and a new schema version end a step.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::batch::{NetTable, Route, Step};
use crate::change::{Before, Change};
use crate::codec::Malformed;
use crate::row::Row;
use crate::schema::{SchemaId, TableName};

/// Collects changes and hands out the steps.
#[derive(Default)]
pub struct Reducer {
    steps: Vec<Step>,
    tables: Vec<Table>,
    by_schema: HashMap<SchemaId, usize>,
    /// The table of the last change: the next is mostly one of the same.
    last: usize,
    seed: Seed,
    by_target: HashMap<TableName, SchemaId>,
    /// Source tables that are settling.
    settling: HashSet<TableName>,
    rows: u64,
    needs_order: bool,
}

/// The outcome of a reduction.
#[derive(Debug, Default)]
pub struct Reduced {
    /// Steps to apply in order.
    pub steps: Vec<Step>,
    /// Row changes that went in.
    pub rows: u64,
    /// The changes cannot be expressed as net changes (a key changed while a column's value was
    /// not sent, or the sequence contradicts itself): apply them in the source's order instead.
    pub needs_order: bool,
}

/// The seed of the keys' hashes. Nobody who chooses keys knows it, so nobody can have them collide.
#[derive(Clone, Copy)]
struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Seed(RandomState::new().hash_one(0))
    }
}

struct Table {
    route: Arc<Route>,
    seed: Seed,
    /// The rows of a keyed table while all its changes are inserts: nobody has asked for a row by
    /// its key yet. Two of one key are then met by the replica.
    inserted: Vec<Row>,
    /// Where the entries are, by their keys.
    places: HashTable<Place>,
    entries: Vec<Entry>,
}

/// The place of an entry. Its key is not kept: the entry's image holds it.
struct Place {
    hash: u64,
    index: usize,
}

struct Entry {
    /// The row was there before the step.
    existed: bool,
    /// The row is there now.
    present: bool,
    /// The row as it is now, or, when it is gone, an image that holds its key.
    image: Row,
    /// Net number of copies, for tables without a key.
    count: i64,
}

impl Reducer {
    /// Starts empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts empty; the net changes of these source tables are marked as settling.
    pub fn with_settling(settling: HashSet<TableName>) -> Self {
        Reducer {
            settling,
            ..Self::default()
        }
    }

    /// Whether this source table is settling.
    pub fn settles(&self, table: &TableName) -> bool {
        self.settling.contains(table)
    }

    /// Whether the changes taken in so far cannot be expressed as net changes.
    pub fn needs_order(&self) -> bool {
        self.needs_order
    }

    /// Row changes taken in so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in one row change of a routed table.
    ///
    /// # Errors
    /// When a row image is damaged.
    pub fn add(&mut self, route: &Arc<Route>, change: Change) -> Result<(), Malformed> {
        self.rows += 1;
        let table = self.table(route);
        let fits = match change {
            Change::Insert { new, .. } => table.insert(new)?,
            Change::Update { before, new, .. } => {
                table.enter_inserted()? & table.update(before, new)?
            }
            Change::Delete { before, .. } => table.enter_inserted()? & table.delete(before)?,
            Change::Truncate { .. } | Change::Message { .. } => true,
        };
        self.needs_order |= !fits;
        Ok(())
    }

    /// Takes in a truncation: what was collected becomes a step of its own before it.
    pub fn truncate(&mut self, tables: Vec<Arc<Route>>, restart_identity: bool) {
        self.close_step();
        if !tables.is_empty() {
            self.steps.push(Step::Truncate {
                tables,
                restart_identity,
            });
        }
    }

    /// Ends the reduction.
    pub fn finish(mut self) -> Reduced {
        self.close_step();
        Reduced {
            steps: self.steps,
            rows: self.rows,
            needs_order: self.needs_order,
        }
    }

    fn table(&mut self, route: &Arc<Route>) -> &mut Table {
        let schema = route.schema.id;
        let known = self.tables.get(self.last);
        if known.is_none_or(|table| table.route.schema.id != schema) {
            self.last = match self.by_schema.get(&schema) {
                Some(&index) => index,
                None => self.new_table(route),
            };
        }
        &mut self.tables[self.last]
    }

    fn new_table(&mut self, route: &Arc<Route>) -> usize {
        // Another version of the same table, or another table onto the same target: keep order.
        if self.by_target.contains_key(&route.target) {
            self.close_step();
        }
        let index = self.tables.len();
        self.tables.push(Table {
            route: Arc::clone(route),
            seed: self.seed,
            inserted: Vec::new(),
            places: HashTable::new(),
            entries: Vec::new(),
        });
        let schema = route.schema.id;
        self.by_schema.insert(schema, index);
        self.by_target.insert(route.target.clone(), schema);
        index
    }

    fn close_step(&mut self) {
        self.by_schema.clear();
        self.by_target.clear();
        let settling = &self.settling;
        let tables: Vec<NetTable> = self
            .tables
            .drain(..)
            .map(|table| {
                let settling = settling.contains(&table.route.schema.table);
                table.into_net(settling)
            })
            .filter(|table| !table.is_empty())
            .collect();
        if !tables.is_empty() {
            self.steps.push(Step::Net(tables));
        }
    }
}

impl Table {
    fn keyed(&self) -> bool {
        !self.route.schema.key_columns().is_empty()
    }

    /// What tells rows apart: the key; the whole row where there is none.
    fn key<'r>(&self, row: &'r Row) -> Result<Cow<'r, [u8]>, Malformed> {
        match self.route.schema.key_columns() {
            [] => Ok(Cow::Borrowed(row.encoded())),
            columns => row.key(columns),
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed.0)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let place = self.places.find(hash, |place| {
            // An image whose key cannot be read has not come here.
            let same = |image| self.key(image).is_ok_and(|found| found == key);
            place.hash == hash && same(&self.entries[place.index].image)
        });
        place.map(|place| place.index)
    }

    fn push(&mut self, hash: u64, entry: Entry) {
        let index = self.entries.len();
        self.entries.push(entry);
        self.places
            .insert_unique(hash, Place { hash, index }, |place| place.hash);
    }

    /// Each of these returns false when the change does not fit a net change.
    fn insert(&mut self, new: Row) -> Result<bool, Malformed> {
        if !self.keyed() {
            self.add_copies(new, 1)?;
            return Ok(true);
        }
        if self.entries.is_empty() {
            self.inserted.push(new);
            return Ok(true);
        }
        self.insert_entry(new)
    }

    /// Makes entries of what was only inserted so far: another change is to be taken in.
    fn enter_inserted(&mut self) -> Result<bool, Malformed> {
        let rows = std::mem::take(&mut self.inserted);
        let mut fits = true;
        self.entries.reserve(rows.len());
        self.places.reserve(rows.len(), |place| place.hash);
        for row in rows {
            fits &= self.insert_entry(row)?;
        }
        Ok(fits)
    }

    fn insert_entry(&mut self, new: Row) -> Result<bool, Malformed> {
        let key = self.key(&new)?;
        let hash = self.hash(&key);
        if let Some(index) = self.find(hash, &key) {
            let entry = &mut self.entries[index];
            let fits = !entry.present;
            entry.present = true;
            entry.image = new;
            return Ok(fits);
        }
        self.push(hash, Entry::of(false, true, new));
        Ok(true)
    }

    fn update(&mut self, before: Before, new: Row) -> Result<bool, Malformed> {
        if !self.keyed() {
            return self.update_copy(before, new);
        }
        let key = self.key(&new)?;
        if let Some(old) = before.row()
            && self.key(old)? != key
        {
            return self.move_row(before, new);
        }
        let hash = self.hash(&key);
        if let Some(index) = self.find(hash, &key) {
            let entry = &mut self.entries[index];
            if !entry.present {
                return Ok(false);
            }
            entry.image = if new.has_unchanged()? {
                new.filled_from(&entry.image)?
            } else {
                new
            };
            return Ok(true);
        }
        self.push(hash, Entry::of(true, true, new));
        Ok(true)
    }

    /// A key change is a delete of the old key and an insert of the new one, which makes swaps and
    /// shifts of keys independent of order.
    fn move_row(&mut self, before: Before, new: Row) -> Result<bool, Malformed> {
        let mut image = new;
        if image.has_unchanged()? {
            if let Some(known) = self.known(&before)? {
                image = image.filled_from(known)?;
            }
            if let Before::Full(row) = &before {
                image = image.filled_from(row)?;
            }
            if image.has_unchanged()? {
                return Ok(false);
            }
        }
        let deleted = self.delete(before)?;
        Ok(self.insert(image)? && deleted)
    }

    /// The row that an earlier change of the step left.
    fn known(&self, before: &Before) -> Result<Option<&Row>, Malformed> {
        let Some(row) = before.row() else {
            return Ok(None);
        };
        let key = self.key(row)?;
        let index = self.find(self.hash(&key), &key);
        let entry = index.map(|index| &self.entries[index]);
        Ok(entry
            .filter(|entry| entry.present)
            .map(|entry| &entry.image))
    }

    fn delete(&mut self, before: Before) -> Result<bool, Malformed> {
        let full = matches!(before, Before::Full(_));
        let (Before::Key(row) | Before::Full(row)) = before else {
            return Ok(false);
        };
        if !self.keyed() {
            self.add_copies(row, -1)?;
            return Ok(full);
        }
        let key = self.key(&row)?;
        let hash = self.hash(&key);
        if let Some(index) = self.find(hash, &key) {
            return Ok(std::mem::replace(&mut self.entries[index].present, false));
        }
        self.push(hash, Entry::of(true, false, row));
        Ok(true)
    }

    fn update_copy(&mut self, before: Before, new: Row) -> Result<bool, Malformed> {
        let Before::Full(old) = before else {
            return Ok(false);
        };
        let image = if new.has_unchanged()? {
            new.filled_from(&old)?
        } else {
            new
        };
        self.add_copies(old, -1)?;
        self.add_copies(image, 1)?;
        Ok(true)
    }

    fn add_copies(&mut self, row: Row, count: i64) -> Result<(), Malformed> {
        let key = self.key(&row)?;
        let hash = self.hash(&key);
        if let Some(index) = self.find(hash, &key) {
            self.entries[index].count += count;
            return Ok(());
        }
        let entry = Entry {
            count,
            ..Entry::of(false, false, row)
        };
        self.push(hash, entry);
        Ok(())
    }

    fn into_net(self, settling: bool) -> NetTable {
        let keyed = self.keyed();
        let mut net = NetTable::new(self.route);
        net.settling = settling;
        net.inserts = self.inserted;
        for entry in self.entries {
            if !keyed {
                if entry.count != 0 {
                    net.multiset.push((entry.image, entry.count));
                }
                continue;
            }
            match (entry.existed, entry.present) {
                (true, false) => net.deletes.push(entry.image),
                (true, true) => net.updates.push(entry.image),
                (false, true) => net.inserts.push(entry.image),
                // The copy may have read the row while it was there.
                (false, false) if settling => net.deletes.push(entry.image),
                (false, false) => {}
            }
        }
        net
    }
}

impl Entry {
    fn of(existed: bool, present: bool, image: Row) -> Self {
        Entry {
            existed,
            present,
            image,
            count: 0,
        }
    }
}

#[cfg(test)]
mod tests;
