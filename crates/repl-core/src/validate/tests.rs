#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::canon::{Canon, applicable};
use super::delta::Delta;
use super::digest::{BUCKETS, Buckets, RowHasher};
use super::narrow::{Kept, Wanted, compare};
use crate::change::{Before, Change};
use crate::convert::{ConvertOptions, Engine, TablePlan};
use crate::row::{Row, Value};
use crate::schema::{Column, Identity, SchemaId, TableName, TableSchema};

fn schema(engine: &str, types: &[&str], identity: Identity) -> TableSchema {
    TableSchema {
        id: SchemaId(1),
        engine: engine.to_owned(),
        table: TableName::new("public", "t"),
        incarnation: String::new(),
        columns: types
            .iter()
            .enumerate()
            .map(|(at, ty)| Column::new(format!("c{at}"), *ty, 0, true))
            .collect(),
        identity,
        generated: Vec::new(),
    }
}

fn keyed(engine: &str, types: &[&str]) -> TableSchema {
    schema(engine, types, Identity::Key(vec![0]))
}

fn row(values: &[Value<'_>]) -> Row {
    Row::from_values(values.iter().copied())
}

/// One value through a plan's conversion and the canonical form; and the same for what the server
/// says it holds.
fn meets(
    source: &str,
    source_type: &str,
    target: Engine,
    from: Value<'_>,
    held: Value<'_>,
) -> bool {
    let shape = keyed(source, &["integer", source_type]);
    let key = match source {
        "postgres" => Value::Text(b"1"),
        _ => Value::Integer(1),
    };
    let plan = TablePlan::new(&shape, target, &ConvertOptions::default()).unwrap();
    let canon = Canon::new(plan.schema(), source);
    let expected = canon.row(&plan.row(&row(&[key, from])).unwrap()).unwrap();
    let held_key = expected.to_vec().unwrap()[0];
    let actual = canon.row(&row(&[held_key, held])).unwrap();
    canon.differing(&expected, &actual).unwrap().is_empty() && expected == actual
}

#[test]
fn what_servers_say_of_a_value_is_what_was_sent() {
    use Value::{Blob, Integer, Null, Real, Text};
    let pg = |ty, target, from: &'static str, held| {
        meets("postgres", ty, target, Text(from.as_bytes()), held)
    };
    let (mysql, sqlite, postgres) = (Engine::Mysql, Engine::Sqlite, Engine::Postgres);
    assert!(pg(
        "numeric",
        mysql,
        "1.50",
        Text(b"1.500000000000000000000000000000")
    ));
    assert!(pg("numeric(10,2)", mysql, "-0.10", Text(b"-0.10")));
    assert!(pg(
        "timestamp(3) without time zone",
        mysql,
        "2024-02-29 12:00:00.5",
        Text(b"2024-02-29 12:00:00.500")
    ));
    assert!(pg(
        "timestamp with time zone",
        mysql,
        "2024-02-29 12:00:00+00",
        Text(b"2024-02-29 12:00:00.000000")
    ));
    assert!(pg(
        "time without time zone",
        mysql,
        "12:00:00",
        Text(b"12:00:00.000000")
    ));
    assert!(pg("boolean", mysql, "t", Integer(1)));
    assert!(pg("real", mysql, "0.1", Real(f64::from(0.1_f32))));
    assert!(pg("bit(10)", mysql, "1000000001", Blob(&[2, 1])));
    assert!(pg("bytea", sqlite, "\\x00ff", Blob(&[0, 255])));
    assert!(pg("double precision", sqlite, "-0", Real(-0.0)));
    assert!(!pg("double precision", sqlite, "0", Real(-0.0)));
    assert!(pg("numeric", sqlite, "1.50", Text(b"1.50")));
    assert!(!pg("numeric", sqlite, "1.50", Text(b"1.5")));
    assert!(!pg("text", mysql, "", Null));
    assert!(!pg("bytea", mysql, "\\x", Text(b"")));
    let lite = |ty, target, from, held| meets("sqlite", ty, target, from, held);
    assert!(lite("REAL", postgres, Real(1e21), Text(b"1e+21")));
    assert!(lite("REAL", postgres, Real(-0.0), Text(b"0")));
    assert!(lite("NUMERIC", postgres, Real(1.5e-7), Text(b"0.00000015")));
    assert!(lite(
        "NUMERIC",
        postgres,
        Real(1e20),
        Text(b"100000000000000000000")
    ));
    assert!(lite("NUMERIC", postgres, Real(0.1), Text(b"0.1")));
    assert!(!lite("NUMERIC", postgres, Real(0.1), Text(b"0.10")));
    assert!(lite("BOOLEAN", postgres, Integer(1), Text(b"t")));
    assert!(lite("DATETIME", mysql, Integer(5), Text(b"5")));
}

#[test]
fn a_table_of_the_same_engine_is_compared_byte_for_byte() {
    let canon = Canon::new(
        &keyed("postgres", &["numeric", "double precision"]),
        "postgres",
    );
    let one = row(&[Value::Text(b"1.0"), Value::Text(b"1e3")]);
    assert_eq!(canon.row(&one).unwrap(), one);
    // A REAL column of SQLite has no -0, though a trigger sees it.
    let canon = Canon::new(&keyed("sqlite", &["INTEGER", "REAL", ""]), "sqlite");
    let seen = row(&[Value::Integer(1), Value::Real(-0.0), Value::Real(-0.0)]);
    let held = row(&[Value::Integer(1), Value::Real(0.0), Value::Real(-0.0)]);
    assert_eq!(canon.row(&seen).unwrap(), canon.row(&held).unwrap());
    let other = row(&[Value::Integer(1), Value::Real(0.0), Value::Real(0.0)]);
    assert_ne!(canon.row(&seen).unwrap(), canon.row(&other).unwrap());
}

#[test]
fn canonical_rows_can_be_applied() {
    let canonical = row(&[
        Value::Real(1.5e300),
        Value::Real(f64::NEG_INFINITY),
        Value::Null,
    ]);
    let sent = applicable(&canonical, "postgres").unwrap();
    let texts = [
        Value::Text(b"1.5e300"),
        Value::Text(b"-Infinity"),
        Value::Null,
    ];
    assert_eq!(sent.to_vec().unwrap(), texts);
    assert_eq!(applicable(&canonical, "sqlite").unwrap(), canonical);
}

#[test]
fn swapped_values_and_duplicates_change_the_sum() {
    let hasher = RowHasher::new(7);
    let sum = |rows: &[&[Value<'_>]]| {
        let mut buckets = Buckets::default();
        for values in rows {
            let row = row(values);
            buckets.add(0, hasher.row(row.encoded()));
        }
        buckets
    };
    use Value::Integer as I;
    let before = sum(&[&[I(1), I(10)], &[I(2), I(20)]]);
    assert_eq!(before, sum(&[&[I(2), I(20)], &[I(1), I(10)]]));
    assert_ne!(before, sum(&[&[I(1), I(20)], &[I(2), I(10)]]));
    // Under XOR both of these would vanish.
    assert_ne!(sum(&[]), sum(&[&[I(1), I(1)], &[I(1), I(1)]]));
    assert_eq!(before.rows(), 2);
    let mut less = before.clone();
    less.add_copies(0, hasher.row(row(&[I(2), I(20)]).encoded()), -1);
    assert_eq!(less, sum(&[&[I(1), I(10)]]));
}

#[test]
fn values_that_were_not_sent_come_from_the_row_the_key_goes_back_to() {
    let canon = Canon::new(&keyed("postgres", &["integer", "text", "text"]), "postgres");
    use Value::{Text as T, Unchanged as U};
    let id = SchemaId(1);
    let update = |before, new: &[Value<'_>]| Change::Update {
        schema: id,
        before,
        new: row(new),
    };
    let mut delta = Delta::default();
    // The key moves twice while the large value is never sent.
    for change in [
        update(Before::Absent, &[T(b"1"), T(b"x"), U]),
        update(
            Before::Key(row(&[T(b"1"), Value::Null, Value::Null])),
            &[T(b"2"), T(b"y"), U],
        ),
        update(
            Before::Key(row(&[T(b"2"), Value::Null, Value::Null])),
            &[T(b"3"), U, U],
        ),
    ] {
        delta.add(&canon, &change).unwrap();
    }
    let stored = row(&[T(b"1"), T(b"old"), T(b"large")]);
    let snapshot = HashMap::from([(canon.key(&stored).unwrap(), stored.clone())]);
    let rows = delta.expected(&snapshot).unwrap();
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    assert_eq!(rows, [row(&[T(b"3"), T(b"y"), T(b"large")])]);
    assert!(delta.expected(&HashMap::new()).is_err());
    for key in [b"1", b"2", b"3"] {
        let key = canon.key(&row(&[T(key), U, U])).unwrap();
        assert!(delta.touches(&key));
    }
}

/// A table by key, and what a few legal changes make of it.
fn apply(table: &mut BTreeMap<i64, i64>, op: u8, a: i64, b: i64, value: i64) -> Option<Change> {
    let schema = SchemaId(1);
    let image = |key, value| row(&[Value::Integer(key), Value::Integer(value)]);
    match op {
        0 if !table.contains_key(&a) => {
            table.insert(a, value);
            Some(Change::Insert {
                schema,
                new: image(a, value),
            })
        }
        1 if table.contains_key(&a) && (a == b || !table.contains_key(&b)) => {
            let old = table.remove(&a)?;
            table.insert(b, value);
            let before = match a == b {
                true => Before::Absent,
                false => Before::Key(image(a, old)),
            };
            Some(Change::Update {
                schema,
                before,
                new: image(b, value),
            })
        }
        2 => {
            let old = table.remove(&a)?;
            Some(Change::Delete {
                schema,
                before: Before::Key(image(a, old)),
            })
        }
        _ => None,
    }
}

fn digest(
    canon: &Canon,
    hasher: &RowHasher,
    table: &BTreeMap<i64, i64>,
    delta: &Delta,
) -> (Buckets, HashMap<Bytes, Row>) {
    let (mut buckets, mut touched) = (Buckets::default(), HashMap::new());
    for (key, value) in table {
        let row = row(&[Value::Integer(*key), Value::Integer(*value)]);
        let key = canon.key(&row).unwrap();
        if delta.touches(&key) {
            touched.insert(key, row);
        } else {
            buckets.add(hasher.bucket(&key), hasher.row(row.encoded()));
        }
    }
    (buckets, touched)
}

proptest! {
    /// Snapshot plus changes equals the replica exactly when the replica took every change.
    #[test]
    fn a_snapshot_and_its_changes_meet_the_replica(
        start in proptest::collection::btree_set(0i64..12, 0..12),
        ops in proptest::collection::vec((0u8..3, 0i64..12, 0i64..12), 0..40),
        fault in proptest::option::of((0i64..12, 0u8..3)),
    ) {
        let canon = Canon::new(&keyed("sqlite", &["INTEGER", "INTEGER"]), "sqlite");
        let hasher = RowHasher::new(3);
        let primary: BTreeMap<i64, i64> = start.iter().map(|&k| (k, -1)).collect();
        let mut truth = primary.clone();
        let mut delta = Delta::default();
        for (n, (op, a, b)) in ops.into_iter().enumerate() {
            if let Some(change) = apply(&mut truth, op, a, b, n as i64) {
                delta.add(&canon, &change).unwrap();
            }
        }
        prop_assert_eq!(primary.len() as i64 + delta.net_rows(), truth.len() as i64);
        let mut replica = truth.clone();
        if let Some((key, how)) = fault {
            match how {
                0 => { replica.insert(key, 1000); }
                1 => { replica.remove(&key); }
                _ => { replica.entry(key).and_modify(|v| *v += 1); }
            }
        }
        let (mut left, touched) = digest(&canon, &hasher, &primary, &delta);
        for (key, row) in delta.expected(&touched).unwrap() {
            left.add(hasher.bucket(&key), hasher.row(row.encoded()));
        }
        let (right, _) = digest(&canon, &hasher, &replica, &Delta::default());
        prop_assert_eq!(left.rows(), truth.len() as u64);
        prop_assert_eq!(left.differing(&right).is_empty(), replica == truth);
    }

    /// Narrowing names exactly the rows that differ.
    #[test]
    fn narrowing_finds_exactly_the_differing_rows(
        left in proptest::collection::btree_map(0i64..300, 0i64..3, 0..80),
        right in proptest::collection::btree_map(0i64..300, 0i64..3, 0..80),
    ) {
        let canon = Canon::new(&keyed("sqlite", &["INTEGER", "INTEGER"]), "sqlite");
        let hasher = RowHasher::new(11);
        let none = Delta::default();
        let (one, _) = digest(&canon, &hasher, &left, &none);
        let (other, _) = digest(&canon, &hasher, &right, &none);
        let differing = one.differing(&other);
        let wanted = Wanted::of(&differing, 1_000_000);
        let kept = |table: &BTreeMap<i64, i64>| {
            let mut kept = Kept::new(&wanted, 1 << 20);
            for (key, value) in table {
                let row = row(&[Value::Integer(*key), Value::Integer(*value)]);
                let key = canon.key(&row).unwrap();
                kept.add(&wanted, hasher.bucket(&key), key, row, 1);
            }
            kept
        };
        let narrowed = compare(&canon, &wanted, &kept(&left), &kept(&right)).unwrap();
        prop_assert!(narrowed.complete);
        let found: BTreeMap<i64, (bool, bool)> = narrowed.differences.iter().map(|d| {
            let some = d.expected.as_ref().or(d.actual.as_ref()).unwrap();
            let Value::Integer(key) = some.to_vec().unwrap()[0] else { unreachable!() };
            (key, (d.expected.is_some(), d.actual.is_some()))
        }).collect();
        let keys = left.keys().chain(right.keys());
        let truth: BTreeMap<i64, (bool, bool)> = keys
            .filter(|k| left.get(*k) != right.get(*k))
            .map(|k| (*k, (left.contains_key(k), right.contains_key(k))))
            .collect();
        prop_assert_eq!(found, truth);
    }
}

#[test]
fn equal_rows_without_a_key_are_counted() {
    let canon = Canon::new(&schema("sqlite", &["INTEGER"], Identity::FullRow), "sqlite");
    let one = row(&[Value::Integer(5)]);
    let key = canon.key(&one).unwrap();
    let wanted = Wanted::of(&[(3, 5)], 10);
    let kept = |copies: &[i64]| {
        let mut kept = Kept::new(&wanted, 1 << 20);
        for n in copies {
            kept.add(&wanted, 3, key.clone(), one.clone(), *n);
        }
        kept
    };
    let narrowed = compare(
        &canon,
        &wanted,
        &kept(&[1, 1, 1, -1]),
        &kept(&[1, 1, 1, 1, 1]),
    )
    .unwrap();
    let [difference] = narrowed.differences.as_slice() else {
        panic!("{narrowed:?}")
    };
    assert_eq!(
        (difference.copies, difference.expected.is_none()),
        (3, true)
    );
}

#[test]
fn memory_for_narrowing_is_bounded() {
    let canon = Canon::new(&keyed("sqlite", &["INTEGER", "BLOB"]), "sqlite");
    let differing: Vec<(usize, u64)> = (0..100).map(|bucket| (bucket, 1)).collect();
    let wanted = Wanted::of(&differing, 1000);
    let blob = vec![1; 10_000];
    let mut kept = Kept::new(&wanted, 200_000);
    for n in 0..100_usize {
        let row = row(&[Value::Integer(n as i64), Value::Blob(&blob)]);
        let key = canon.key(&row).unwrap();
        kept.add(&wanted, n % BUCKETS, key, row, 1);
    }
    let nothing = Kept::new(&wanted, 200_000);
    let narrowed = compare(&canon, &wanted, &kept, &nothing).unwrap();
    assert!(!narrowed.complete);
    assert!(
        (10..25).contains(&narrowed.differences.len()),
        "{}",
        narrowed.differences.len()
    );
}
