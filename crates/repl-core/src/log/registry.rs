//! The schema versions of a log, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::position::Seq;
use crate::schema::{SchemaId, TableName, TableSchema};

/// Every version that retained transactions may refer to.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    versions: BTreeMap<SchemaId, Version>,
    latest: HashMap<TableName, SchemaId>,
}

#[derive(Debug)]
struct Version {
    schema: Arc<TableSchema>,
    /// Where its record begins; none when it is known only from a segment's preamble.
    record: Option<u64>,
    superseded: Option<Superseded>,
}

#[derive(Clone, Copy, Debug)]
struct Superseded {
    /// Where the newer version's record begins.
    offset: u64,
    /// Last whole transaction before it.
    seq: Seq,
}

impl Schemas {
    /// Adds a version whose record begins at `record` (none: it stood in the preamble of a segment
    /// that begins at `offset`), behind transaction `seq`.
    pub fn add(&mut self, schema: TableSchema, record: Option<u64>, offset: u64, seq: Seq) {
        let id = schema.id;
        if let Some(known) = self.versions.get_mut(&id) {
            known.record = record.or(known.record);
            return;
        }
        match self.latest.get(&schema.table).copied() {
            Some(newer) if newer > id => {}
            older => {
                self.latest.insert(schema.table.clone(), id);
                if let Some(version) = older.and_then(|older| self.versions.get_mut(&older)) {
                    version.superseded = Some(Superseded { offset, seq });
                }
            }
        }
        let version = Version {
            schema: Arc::new(schema),
            record,
            superseded: None,
        };
        self.versions.insert(id, version);
    }

    /// The version with this number.
    pub fn get(&self, id: SchemaId) -> Option<Arc<TableSchema>> {
        self.versions
            .get(&id)
            .map(|version| Arc::clone(&version.schema))
    }

    /// The newest version of a table.
    pub fn latest(&self, table: &TableName) -> Option<Arc<TableSchema>> {
        self.latest.get(table).and_then(|&id| self.get(id))
    }

    /// Records that begin in `range`, ascending by number.
    pub fn recorded_in(&self, range: std::ops::Range<u64>) -> Vec<(u64, Arc<TableSchema>)> {
        self.versions
            .values()
            .filter_map(|version| Some((version.record?, Arc::clone(&version.schema))))
            .filter(|(record, _)| range.contains(record))
            .collect()
    }

    /// What a segment that begins at `offset`, behind transaction `seq`, must repeat so that it
    /// can be read without the segments before it, the last of which began at `previous`.
    ///
    /// These are the newest versions and those superseded so lately that the transaction in
    /// progress may still use them: since transaction `seq`, or since `previous`.
    pub fn carried(&self, offset: u64, seq: Seq, previous: u64) -> Vec<Arc<TableSchema>> {
        self.versions
            .values()
            .filter(|version| version.record.is_none_or(|record| record < offset))
            .filter(|version| {
                version
                    .superseded
                    .is_none_or(|by| by.offset >= previous || by.seq >= seq)
            })
            .map(|version| Arc::clone(&version.schema))
            .collect()
    }
}
