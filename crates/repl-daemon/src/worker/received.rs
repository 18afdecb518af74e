//! How a replica receives each table, by its configuration: not at all, under another name, without some
//! columns.
//!
//! What it holds of a table follows the log only as long as that stays as it is, and the configuration can be
//! another at each start. So it is remembered, and a table that the replica does not receive any more, or
//! in another way, is copied anew once it does again: by difference where its rows are in the same place.

use std::collections::BTreeMap;

use repl_connectors::seam::SourceTable;
use repl_core::schema::TableName;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Failure, Worker};
use crate::coverage::lacks;
use crate::errors;

/// Where a table goes, and which columns of it do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Its name at the replica.
    pub target: TableName,
    /// The columns that the replica does not get, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

impl Way {
    /// As the table is.
    fn plain(table: &TableName) -> Way {
        Way {
            target: table.clone(),
            without: Vec::new(),
        }
    }

    /// What is remembered of it: none where the table is received as it is.
    fn noted(self, table: &TableName) -> Option<Way> {
        Some(self).filter(|way| *way != Way::plain(table))
    }
}

/// How tables were received, by their names; none where as they are.
pub type Received = BTreeMap<String, Option<Way>>;

/// What became of the tables that a replica holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changed {
    /// Not received any more, each with where its rows are.
    gone: Vec<(TableName, TableName)>,
    /// Received under another name.
    moved: Vec<TableName>,
    /// Received with other columns.
    altered: Vec<TableName>,
    /// How all of them are received.
    ways: Received,
}

impl Changed {
    /// Compares how `tables` were received with how they are; what is not in `before` is not known.
    fn look<'a>(
        tables: impl Iterator<Item = &'a TableName>,
        before: Option<&Received>,
        way: impl Fn(&TableName) -> Option<Way>,
    ) -> Changed {
        let mut changed = Changed::default();
        for table in tables {
            let name = table.to_string();
            let was = before.and_then(|before| before.get(&name)).cloned();
            let was = was.map(|was| was.unwrap_or_else(|| Way::plain(table)));
            let Some(now) = way(table) else {
                let place = was.map_or_else(|| table.clone(), |was| was.target);
                changed.gone.push((table.clone(), place));
                continue;
            };
            match was {
                Some(was) if was.target != now.target => changed.moved.push(table.clone()),
                Some(was) if was != now => changed.altered.push(table.clone()),
                _ => {}
            }
            changed.ways.insert(name, now.noted(table));
        }
        changed
    }
}

impl Worker {
    /// Compares how the tables that the replica holds are received with how they were.
    pub(super) async fn check_received(&mut self) -> Result<(), Failure> {
        let Some(record) = self.replica().record() else {
            return Ok(());
        };
        let copies = self.state.copies.iter();
        let begun = copies.filter(|(table, stored)| {
            stored.copy.is_some() && !self.state.tables.contains_key(*table)
        });
        let held = self
            .state
            .tables
            .keys()
            .chain(begun.map(|(table, _)| table));
        let changed = Changed::look(held, record.received.as_ref(), |table| self.way(table));
        let Changed {
            gone,
            moved,
            altered,
            ways,
        } = changed;
        let left: Vec<TableName> = gone
            .iter()
            .map(|(table, _)| table)
            .chain(&moved)
            .cloned()
            .collect();
        if left.is_empty() && altered.is_empty() && record.received.as_ref() == Some(&ways) {
            return Ok(());
        }
        if !left.is_empty() {
            info!(
                not_received = gone.len(),
                under_another_name = moved.len(),
                "tables are not received as they were: they are copied anew when they are again"
            );
            // First: whose rows they are is not known once they are forgotten.
            self.replica()
                .change(|record| record.lacking.extend(gone))
                .map_err(errors::state)?;
            self.forget(&left).await?;
        }
        let reason = "tables are received with other columns than before: they are compared with the primary";
        self.replica()
            .change(|record| {
                lacks(record, &altered, reason);
                record.received = Some(ways);
            })
            .map_err(errors::state)?;
        Ok(())
    }

    /// Remembers how these tables are received, before they are copied.
    pub(super) fn note_received(&self, tables: &[SourceTable]) -> Result<(), Failure> {
        let record = self.replica().record();
        let mut received = record
            .and_then(|record| record.received)
            .unwrap_or_default();
        let before = received.clone();
        for table in tables {
            let way = self.way(&table.name);
            received.extend(way.map(|way| (table.name.to_string(), way.noted(&table.name))));
        }
        if received != before {
            self.replica()
                .change(|record| record.received = Some(received))
                .map_err(errors::state)?;
        }
        Ok(())
    }

    /// How a table is received; none when it is not.
    fn way(&self, table: &TableName) -> Option<Way> {
        let target = self.parts.routing.target(table)?;
        let exclusions = self.parts.conversion.options.exclude.iter();
        let of_it = exclusions.filter(|one| {
            let pattern = one.table.as_ref();
            pattern.is_none_or(|pattern| pattern.matches(table))
        });
        let mut without: Vec<String> = of_it.map(|one| one.column.clone()).collect();
        without.sort();
        Some(Way { target, without })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    #[test]
    fn what_is_received_in_another_way_is_told() {
        let tables = [name("a"), name("b"), name("c"), name("d")];
        let way = |table: &TableName| match table.name.as_str() {
            "a" => None,
            "b" => Some(Way::plain(&name("x"))),
            "c" => Some(Way {
                without: vec!["photo".into()],
                ..Way::plain(table)
            }),
            _ => Some(Way::plain(table)),
        };
        let first = Changed::look(tables.iter(), None, way);
        assert_eq!(first.gone, [(name("a"), name("a"))]);
        assert!(first.moved.is_empty() && first.altered.is_empty());
        let same = Changed::look(tables[1..].iter(), Some(&first.ways), way);
        assert_eq!(same.ways, first.ways);
        assert!(same.moved.is_empty() && same.altered.is_empty() && same.gone.is_empty());
        let plain = Changed::look(tables[1..].iter(), Some(&first.ways), |table| {
            Some(Way::plain(table))
        });
        assert_eq!(plain.moved, [name("b")]);
        assert_eq!(plain.altered, [name("c")]);
        assert!(plain.ways.values().all(Option::is_none));
    }
}
