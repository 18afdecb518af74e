//! Net changes against what the history says.

use super::*;
use crate::row::Value;
use crate::schema::{Column, Identity, TableSchema};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn route(id: u32, identity: Identity) -> Arc<Route> {
    let column = |name: &str| Column::new(name, "bigint", 20, false);
    Arc::new(Route {
        schema: Arc::new(TableSchema {
            id: SchemaId(id),
            engine: "postgres".into(),
            table: TableName::new("public", "t"),
            incarnation: String::new(),
            columns: vec![column("k"), column("v")],
            identity,
            generated: Vec::new(),
        }),
        target: TableName::new("public", "t"),
    })
}

fn row(k: i64, v: i64) -> Row {
    Row::from_values([Value::Integer(k), Value::Integer(v)].into_iter())
}

fn unchanged(k: i64) -> Row {
    Row::from_values([Value::Integer(k), Value::Unchanged].into_iter())
}

fn insert(k: i64, v: i64) -> Change {
    Change::Insert {
        schema: SchemaId(1),
        new: row(k, v),
    }
}

fn update(old: i64, new: Row) -> Change {
    Change::Update {
        schema: SchemaId(1),
        before: Before::Key(row(old, 0)),
        new,
    }
}

fn delete(k: i64) -> Change {
    Change::Delete {
        schema: SchemaId(1),
        before: Before::Key(row(k, 0)),
    }
}

fn reduce(route: &Arc<Route>, changes: &[Change]) -> Reduced {
    let mut reducer = Reducer::new();
    for change in changes {
        reducer.add(route, change.clone()).unwrap();
    }
    reducer.finish()
}

fn only(reduced: &Reduced) -> &NetTable {
    match reduced.steps.as_slice() {
        [Step::Net(tables)] => &tables[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shift_of_all_keys_is_free_of_order() {
    let keyed = route(1, Identity::Key(vec![0]));
    let reduced = reduce(
        &keyed,
        &[
            update(3, row(4, 3)),
            update(2, row(3, 2)),
            update(1, row(2, 1)),
        ],
    );
    let net = only(&reduced);
    assert!(!reduced.needs_order);
    assert_eq!(net.deletes, [row(1, 0)]);
    assert_eq!(net.inserts, [row(4, 3)]);
    assert_eq!(net.updates, [row(3, 2), row(2, 1)]);
}

#[test]
fn values_not_sent_come_from_earlier_images_or_ask_for_order() {
    let keyed = route(1, Identity::Key(vec![0]));
    let reduced = reduce(&keyed, &[insert(1, 5), update(1, unchanged(2))]);
    assert_eq!(only(&reduced).inserts, [row(2, 5)]);
    let reduced = reduce(&keyed, &[update(1, unchanged(1))]);
    assert_eq!(only(&reduced).updates, [unchanged(1)]);
    assert!(reduce(&keyed, &[update(1, unchanged(2))]).needs_order);
}

#[test]
fn a_row_that_came_and_went_is_deleted_where_a_copy_may_have_read_it() {
    let keyed = route(1, Identity::Key(vec![0]));
    let changes = [insert(1, 5), delete(1)];
    assert!(reduce(&keyed, &changes).steps.is_empty());
    let mut reducer = Reducer::with_settling(HashSet::from([keyed.schema.table.clone()]));
    for change in &changes {
        reducer.add(&keyed, change.clone()).unwrap();
    }
    let reduced = reducer.finish();
    let net = only(&reduced);
    assert!(net.settling && net.inserts.is_empty());
    assert_eq!(net.deletes, [row(1, 5)]);
}

#[test]
fn rows_that_are_only_inserted_are_looked_up_when_another_change_comes() {
    let keyed = route(1, Identity::Key(vec![0]));
    let (one, two) = (insert(1, 5), insert(2, 6));
    let reduced = reduce(&keyed, &[two.clone(), one.clone()]);
    assert_eq!(only(&reduced).inserts, [row(2, 6), row(1, 5)]);
    let reduced = reduce(&keyed, &[one.clone(), two, delete(1), insert(1, 7)]);
    assert_eq!(only(&reduced).inserts, [row(1, 7), row(2, 6)]);
    assert!(!reduced.needs_order);
    // Which no history has.
    assert!(reduce(&keyed, &[one.clone(), one, delete(3)]).needs_order);
}

#[test]
fn rows_without_a_key_are_counted() {
    let keyless = route(1, Identity::FullRow);
    let gone = Change::Delete {
        schema: SchemaId(1),
        before: Before::Full(row(1, 1)),
    };
    let reduced = reduce(&keyless, &[insert(1, 1), insert(1, 1), insert(2, 2), gone]);
    assert_eq!(only(&reduced).multiset, [(row(1, 1), 1), (row(2, 2), 1)]);
}

#[test]
fn truncate_and_schema_versions_are_barriers() {
    let (first, second) = (
        route(1, Identity::Key(vec![0])),
        route(2, Identity::Key(vec![0])),
    );
    let mut reducer = Reducer::new();
    reducer.add(&first, insert(1, 1)).unwrap();
    reducer.truncate(vec![Arc::clone(&first)], false);
    reducer.add(&first, insert(1, 1)).unwrap();
    reducer.add(&second, insert(2, 1)).unwrap();
    assert_eq!(reducer.finish().steps.len(), 4);
}

proptest! {
    /// Any legal history of keys, applied as deletes, updates, inserts, ends as the history does.
    #[test]
    fn net_changes_equal_the_history(
        start in proptest::collection::btree_set(0i64..8, 0..8),
        ops in proptest::collection::vec((0u8..3, 0i64..8, 0i64..8), 0..60),
    ) {
        let keyed = route(1, Identity::Key(vec![0]));
        let mut truth: BTreeMap<i64, i64> = start.iter().map(|&k| (k, -1)).collect();
        let mut replica = truth.clone();
        let mut changes = Vec::new();
        for (n, (op, a, b)) in ops.into_iter().enumerate() {
            let value = n as i64;
            match op {
                0 if !truth.contains_key(&a) => {
                    truth.insert(a, value);
                    changes.push(insert(a, value));
                }
                1 if truth.contains_key(&a) && (a == b || !truth.contains_key(&b)) => {
                    truth.remove(&a);
                    truth.insert(b, value);
                    changes.push(update(a, row(b, value)));
                }
                2 if truth.remove(&a).is_some() => changes.push(delete(a)),
                _ => {}
            }
        }
        let reduced = reduce(&keyed, &changes);
        prop_assert!(!reduced.needs_order);
        let ints = |row: &Row| match row.to_vec().unwrap()[..] {
            [Value::Integer(k), Value::Integer(v)] => (k, v),
            _ => unreachable!(),
        };
        for step in &reduced.steps {
            let Step::Net(tables) = step else { unreachable!() };
            for r in &tables[0].deletes { prop_assert!(replica.remove(&ints(r).0).is_some()); }
            for r in &tables[0].updates {
                let (k, v) = ints(r);
                prop_assert!(replica.insert(k, v).is_some());
            }
            for r in &tables[0].inserts {
                let (k, v) = ints(r);
                prop_assert!(replica.insert(k, v).is_none());
            }
        }
        prop_assert_eq!(replica, truth);
    }
}
