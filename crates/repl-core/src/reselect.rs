//! Rows of a replica that are not what the log says, brought in from the primary by their keys.
//!
//! A former primary that committed what the log never saw holds other rows than the log says, under the
//! keys those transactions touched, and under no others. First they are removed, and their tables
//! *settle* from then on (see [`crate::cut::Cut::Several`]): of a key that is removed a change that
//! brings the whole row is applied, one that does not is passed over. So the row under such a key is
//! there as it should be, or not at all, and what a table holds is always a part of what the primary held
//! at one time: nothing that is unique there is refused here.
//!
//! A snapshot of the primary tells these rows as they are in it. Once the stream has passed it, each
//! is brought to what it is at the replica's place in the stream: the snapshot's row and the changes
//! that the replica has applied and the snapshot does not hold ([`crate::validate::changes`]).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{NetTable, Route, Step};
use crate::change::Change;
use crate::codec::Malformed;
use crate::net::Reducer;
use crate::row::{Row, Value};
use crate::schema::TableSchema;

/// Keys of one table.
#[derive(Clone, Debug)]
pub struct Keys {
    route: Arc<Route>,
    /// Images that hold them; NULL in every other column.
    images: Vec<Row>,
    known: HashSet<Bytes>,
}

impl Keys {
    /// None yet, of a table that has a key.
    pub fn new(route: Arc<Route>) -> Keys {
        Keys {
            route,
            images: Vec::new(),
            known: HashSet::new(),
        }
    }

    /// The shape of the rows, and their table at the replica.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Adds the key with these values, in the order of [`TableSchema::key_columns`].
    ///
    /// # Errors
    /// When they are not as many as the key has columns.
    pub fn add(&mut self, values: &[Value<'_>]) -> Result<(), Malformed> {
        let schema = &self.route.schema;
        let columns = schema.key_columns();
        if columns.is_empty() || columns.len() != values.len() {
            return Err(Malformed("a key of another width"));
        }
        let mut image = vec![Value::Null; schema.columns.len()];
        for (&column, value) in columns.iter().zip(values) {
            image[column] = *value;
        }
        let image = Row::from_values(image.into_iter());
        if self.known.insert(key(schema, &image)?) {
            self.images.push(image);
        }
        Ok(())
    }

    /// Images that hold the keys, each once.
    pub fn images(&self) -> &[Row] {
        &self.images
    }

    /// What removes the rows, as far as they are there.
    pub fn removal(&self) -> NetTable {
        let mut net = self.net();
        net.deletes.clone_from(&self.images);
        net
    }

    fn net(&self) -> NetTable {
        let mut net = NetTable::new(Arc::clone(&self.route));
        net.settling = true;
        net
    }

    /// What puts the rows in place that `rows`, of a snapshot, become by `changes`, all of the table's
    /// that came behind it. None where that cannot be told: a row was moved and not sent wholly.
    ///
    /// # Errors
    /// When an image is damaged.
    pub fn replacement(
        &self,
        rows: Vec<Row>,
        changes: impl Iterator<Item = Change>,
    ) -> Result<Option<NetTable>, Malformed> {
        let schema = &self.route.schema;
        let mut reducer = Reducer::new();
        for new in rows {
            let schema = schema.id;
            reducer.add(&self.route, Change::Insert { schema, new })?;
        }
        for change in changes {
            reducer.add(&self.route, change)?;
        }
        let reduced = reducer.finish();
        if reduced.needs_order {
            return Ok(None);
        }
        // Nothing has to go: what is there is right.
        let mut net = self.net();
        for step in reduced.steps {
            let Step::Net(tables) = step else { continue };
            for table in tables {
                // One that was not there cannot change: snapshot and changes do not belong together.
                for row in &table.updates {
                    if self.known.contains(&key(schema, row)?) {
                        return Ok(None);
                    }
                }
                // What became of other keys the stream has brought.
                for row in table.inserts {
                    if self.known.contains(&key(schema, &row)?) {
                        net.inserts.push(row);
                    }
                }
            }
        }
        Ok(Some(net))
    }
}

fn key(schema: &TableSchema, row: &Row) -> Result<Bytes, Malformed> {
    let key = row.key(schema.key_columns())?;
    Ok(Bytes::copy_from_slice(&key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::change::Before;
    use crate::schema::{Column, Identity, SchemaId, TableName};

    type Rows = BTreeMap<i64, (i64, i64)>;

    fn route() -> Arc<Route> {
        let column = |name| Column::new(name, "bigint", 20, true);
        let table = TableName::new("public", "t");
        Arc::new(Route {
            target: table.clone(),
            schema: Arc::new(TableSchema {
                id: SchemaId(1),
                engine: "postgres".into(),
                table,
                incarnation: String::new(),
                columns: vec![column("a"), column("k"), column("b")],
                identity: Identity::Key(vec![1]),
                generated: Vec::new(),
            }),
        })
    }

    fn row(k: i64, (a, b): (i64, i64)) -> Row {
        Row::from_values([Value::Integer(a), Value::Integer(k), Value::Integer(b)].into_iter())
    }

    /// An update that leaves the last column out.
    fn partial(k: i64, a: i64) -> Row {
        Row::from_values([Value::Integer(a), Value::Integer(k), Value::Unchanged].into_iter())
    }

    fn before(k: i64) -> Before {
        Before::Key(Row::from_values(
            [Value::Null, Value::Integer(k), Value::Null].into_iter(),
        ))
    }

    fn change(old: Option<i64>, new: Option<Row>) -> Change {
        let schema = SchemaId(1);
        match (old, new) {
            (None, Some(new)) => Change::Insert { schema, new },
            (Some(old), Some(new)) => Change::Update {
                schema,
                before: before(old),
                new,
            },
            (Some(old), None) => Change::Delete {
                schema,
                before: before(old),
            },
            (None, None) => unreachable!(),
        }
    }

    /// One operation on the truth, if it is possible there, and what the log says of it.
    fn operate(truth: &mut Rows, n: i64, (op, x, y): (u8, i64, i64)) -> Option<Change> {
        match op {
            0 if !truth.contains_key(&x) => {
                truth.insert(x, (n, n));
                Some(change(None, Some(row(x, (n, n)))))
            }
            1 => {
                let (_, b) = *truth.get(&x)?;
                truth.insert(x, (n, b));
                Some(change(Some(x), Some(partial(x, n))))
            }
            2 => {
                *truth.get_mut(&x)? = (n, n);
                Some(change(Some(x), Some(row(x, (n, n)))))
            }
            3 if truth.contains_key(&x) && !truth.contains_key(&y) => {
                truth.remove(&x);
                truth.insert(y, (n, n));
                Some(change(Some(x), Some(row(y, (n, n)))))
            }
            4 => truth.remove(&x).map(|_| change(Some(x), None)),
            _ => None,
        }
    }

    fn integers(row: &Row) -> Vec<Option<i64>> {
        let integer = |value: &Value<'_>| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        };
        row.to_vec().unwrap().iter().map(integer).collect()
    }

    /// Applies a net change as [`NetTable::settling`] asks.
    fn settle(replica: &mut Rows, net: &NetTable) {
        assert!(net.settling);
        let (complete, partial) = net.complete_and_partial().unwrap();
        for row in net.deletes.iter().chain(&complete) {
            replica.remove(&integers(row)[1].unwrap());
        }
        for row in &complete {
            let values = integers(row);
            let value = (values[0].unwrap(), values[2].unwrap());
            assert_eq!(replica.insert(values[1].unwrap(), value), None);
        }
        for row in &partial {
            let values = integers(row);
            if let Some(held) = replica.get_mut(&values[1].unwrap()) {
                held.0 = values[0].unwrap();
            }
        }
    }

    #[test]
    fn a_key_is_kept_once_and_of_its_own_width_only() {
        let mut keys = Keys::new(route());
        keys.add(&[Value::Integer(1)]).unwrap();
        keys.add(&[Value::Integer(1)]).unwrap();
        assert!(keys.add(&[]).is_err());
        assert_eq!(keys.images().len(), 1);
        let removal = keys.removal();
        assert!(removal.settling && removal.deletes.len() == 1 && removal.inserts.is_empty());
    }

    #[test]
    fn a_row_moved_there_without_all_its_columns_cannot_be_told() {
        let mut keys = Keys::new(route());
        keys.add(&[Value::Integer(1)]).unwrap();
        let moved = change(Some(2), Some(partial(1, 9)));
        assert!(
            keys.replacement(Vec::new(), [moved].into_iter())
                .unwrap()
                .is_none()
        );
        let there = change(Some(1), Some(partial(1, 9)));
        assert!(
            keys.replacement(Vec::new(), [there].into_iter())
                .unwrap()
                .is_none()
        );
    }

    proptest! {
        /// Whatever a replica held under some keys, and wherever the snapshot lies in the stream: what is
        /// there is right at any time, and all is there in the end.
        #[test]
        fn it_ends_as_the_primary(
            start in proptest::collection::btree_map(0i64..8, Just((-1, -1)), 0..8),
            strays in proptest::collection::btree_map(0i64..8, proptest::option::of(Just((-9, -9))), 1..5),
            ops in proptest::collection::vec((0u8..5, 0i64..8, 0i64..8), 0..60),
            cut in 0.0f64..1.0,
            size in 1usize..5,
        ) {
            let route = route();
            let mut keys = Keys::new(Arc::clone(&route));
            let mut replica = start.clone();
            for (k, stray) in &strays {
                keys.add(&[Value::Integer(*k)]).unwrap();
                match stray {
                    Some(value) => replica.insert(*k, *value),
                    None => replica.remove(k),
                };
            }
            settle(&mut replica, &keys.removal());
            let mut truth = start;
            let mut history = vec![(None, truth.clone())];
            for (n, op) in ops.into_iter().enumerate() {
                if let Some(change) = operate(&mut truth, n as i64, op) {
                    history.push((Some(change), truth.clone()));
                }
            }
            let snapshot = (cut * history.len() as f64) as usize;
            for batch in history[1..].chunks(size) {
                let settling = HashSet::from([route.schema.table.clone()]);
                let mut reducer = Reducer::with_settling(settling);
                for (change, _) in batch {
                    reducer.add(&route, change.clone().unwrap()).unwrap();
                }
                let reduced = reducer.finish();
                prop_assert!(!reduced.needs_order);
                for step in &reduced.steps {
                    let Step::Net(tables) = step else { unreachable!() };
                    settle(&mut replica, &tables[0]);
                }
                let (_, truth) = batch.last().unwrap();
                for (k, value) in &replica {
                    prop_assert_eq!(truth.get(k), Some(value));
                }
                for k in truth.keys() {
                    prop_assert!(replica.contains_key(k) || strays.contains_key(k));
                }
            }
            let seen = &history[snapshot].1;
            let rows = strays.keys().filter_map(|k| Some(row(*k, *seen.get(k)?)));
            let behind = history[snapshot + 1..].iter().filter_map(|(change, _)| change.clone());
            let net = keys.replacement(rows.collect(), behind).unwrap().unwrap();
            settle(&mut replica, &net);
            prop_assert_eq!(replica, truth);
        }
    }
}
