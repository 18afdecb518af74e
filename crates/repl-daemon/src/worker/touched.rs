//! Tables of which a former primary touched single rows that the log never saw: their keys in the words
//! of the replica, which it was, and of the log, in which the new primary is asked for them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use repl_connectors::seam::{ConnectorError, Snapshot, SourceTable, Stray, StrayKey, StrayOp};
use repl_core::batch::{NetTable, Route};
use repl_core::change::Change;
use repl_core::codec::Malformed;
use repl_core::convert::TablePlan;
use repl_core::convert::back::Back;
use repl_core::convert::keys::one_spelling;
use repl_core::reselect::Keys;
use repl_core::row::{Row, Value};
use repl_core::schema::{TableName, TableSchema};
use repl_core::spelling::Spelt;

use crate::conversion::{self, Conversion};
use crate::ledger;

/// Most keys of one table: where more were touched it is compared as a whole.
const MOST_KEYS: usize = 100_000;
/// Most memory for the keys of all tables, bytes: where it is exceeded a table is compared as a whole.
const KEYS_BYTES: usize = 64 * 1024 * 1024;
/// Memory that a key takes beside its values, bytes.
const KEY_OVERHEAD: usize = 128;
/// Keys that one query asks for.
const KEYS_PER_QUERY: usize = 500;

/// One such table.
pub(super) struct Touched {
    /// As the primary has it.
    pub(super) source: SourceTable,
    /// Shape of its rows in the log.
    form: Arc<TableSchema>,
    /// Where the replica is of another engine.
    across: Option<Across>,
    /// In the replica's shape.
    keys: Keys,
    /// Memory of the keys, bytes.
    bytes: usize,
}

/// Rows of the log as the replica holds them, and back.
struct Across {
    plan: TablePlan,
    back: Back,
}

impl Touched {
    /// No key yet; none where rows of the table cannot be told by their keys.
    pub(super) fn new(
        source: SourceTable,
        target: TableName,
        conversion: &Conversion,
    ) -> Option<Touched> {
        let form = source.schema.clone()?;
        let across = match conversion.converts(&form) {
            false => None,
            true => {
                let plan = conversion.plan(&form).ok()?;
                let back = Back::new(plan.schema(), &form, &conversion.options);
                let whole = back.form().columns == form.columns;
                (whole && one_spelling(&form)).then_some(())?;
                Some(Across { plan, back })
            }
        };
        let schema = match &across {
            Some(across) => Arc::new(across.plan.schema().clone()),
            None => Arc::clone(&form),
        };
        let keyed = !schema.key_columns().is_empty();
        keyed.then(|| Touched {
            source,
            form,
            across,
            keys: Keys::new(Arc::new(Route { schema, target })),
            bytes: 0,
        })
    }

    /// Its name in the log.
    pub(super) fn name(&self) -> &TableName {
        &self.source.name
    }

    /// Where its rows go, and their shape there.
    pub(super) fn route(&self) -> &Arc<Route> {
        self.keys.route()
    }

    /// Number of keys.
    pub(super) fn count(&self) -> usize {
        self.keys.images().len()
    }

    /// What removes the rows at the replica, as far as they are there.
    pub(super) fn removal(&self) -> NetTable {
        self.keys.removal()
    }

    /// Notes the keys of a change; false where it does not tell them, or they are too many.
    fn touch(&mut self, stray: &Stray) -> bool {
        let images = usize::from(stray.old.is_some()) + usize::from(stray.new.is_some());
        let row_by_row = stray.op != StrayOp::Truncate && images > 0;
        let told = row_by_row && stray.keys.len() == images && self.has_shape_of(stray);
        told && stray.keys.iter().all(|key| self.add(key)) && self.count() <= MOST_KEYS
    }

    /// Whether a row had the columns that the log knew.
    fn has_shape_of(&self, stray: &Stray) -> bool {
        let columns = &self.route().schema.columns;
        let known = |name: &String| columns.iter().any(|column| column.name == *name);
        stray.new.as_ref().is_none_or(|row| {
            let complete = stray.op != StrayOp::Insert || row.len() == columns.len();
            complete && row.keys().all(known)
        })
    }

    fn add(&mut self, key: &StrayKey) -> bool {
        let value = |name| Spelt::read(key.get(name)?);
        let values: Option<Vec<Spelt>> = self.route().schema.key_names().map(value).collect();
        let Some(values) = values else {
            return false;
        };
        let before = self.count();
        let values: Vec<Value<'_>> = values.iter().map(Spelt::value).collect();
        let added = self.keys.add(&values).is_ok();
        if self.count() > before {
            // Kept as an image and as a key.
            let text: usize = key.values().map(String::len).sum();
            self.bytes += 2 * text + KEY_OVERHEAD;
        }
        added
    }

    /// The rows that `snapshot`, of the primary, has under the keys, as the replica is to hold them; none
    /// where that cannot be told exactly, or they are more than there is `room` for, in bytes.
    pub(super) async fn rows(
        &self,
        snapshot: &mut dyn Snapshot,
        room: &mut usize,
    ) -> Result<Option<Vec<Row>>, ConnectorError> {
        let mut found = Vec::new();
        for some in self.keys.images().chunks(KEYS_PER_QUERY) {
            let Some(asked) = self.in_log(some)? else {
                return Ok(None);
            };
            if !snapshot.open_keys(&self.form, &asked).await? {
                return Ok(None);
            }
            loop {
                let rows = snapshot.next_rows().await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    *room = room.saturating_sub(row.encoded().len());
                    let Some(row) = self.at_replica(row) else {
                        return Ok(None);
                    };
                    found.push(row);
                }
            }
            if *room == 0 {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// Images of keys as the log has them; none where one is not told exactly there.
    fn in_log(&self, keys: &[Row]) -> Result<Option<Vec<Row>>, Malformed> {
        let Some(across) = &self.across else {
            return Ok(Some(keys.to_vec()));
        };
        let key = self.route().schema.key_columns();
        let mut told = Vec::with_capacity(keys.len());
        for image in keys {
            let form = across.back.row(image)?;
            match across.plan.row(&form) {
                Ok(again) if again.key(key)? == image.key(key)? => told.push(form),
                _ => return Ok(None),
            }
        }
        Ok(Some(told))
    }

    /// A row of the log as the replica holds it; none where it cannot.
    fn at_replica(&self, row: Row) -> Option<Row> {
        match &self.across {
            Some(across) => across.plan.row(&row).ok(),
            None => Some(row),
        }
    }

    /// What puts the rows in place that `rows`, of a snapshot, become by `changes`, all of the table's that
    /// came behind it.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) fn replacement(
        &self,
        rows: Vec<Row>,
        changes: Vec<Change>,
    ) -> Result<NetTable, String> {
        let changes = match &self.across {
            Some(across) => {
                let convert = |change| conversion::change(&across.plan, change);
                let converted: Result<Vec<_>, _> = changes.into_iter().map(convert).collect();
                converted.map_err(|error| error.to_string())?
            }
            None => changes,
        };
        let net = self.keys.replacement(rows, changes.into_iter());
        let net = net.map_err(|error| error.to_string())?;
        net.ok_or_else(|| format!("rows of table {} were moved meanwhile", self.name()))
    }

    /// Whether rows in the log have the shape they had.
    pub(super) fn has_shape(&self, schema: &TableSchema) -> bool {
        schema.columns == self.form.columns
    }
}

/// Notes the keys that the ledger `id` tells; the tables of which it tells all.
///
/// # Errors
/// When the ledger cannot be read.
pub(super) fn told_by(
    log_dir: &Path,
    id: &str,
    tables: Vec<Touched>,
) -> anyhow::Result<Vec<Touched>> {
    let named = tables
        .into_iter()
        .map(|table| (table.name().clone(), table));
    let mut tables: HashMap<TableName, Touched> = named.collect();
    let mut bytes = 0;
    ledger::changes(log_dir, id, |stray| {
        let Some(table) = tables.get_mut(&stray.table) else {
            return Ok(());
        };
        bytes -= table.bytes;
        let told = table.touch(&stray) && bytes + table.bytes <= KEYS_BYTES;
        match told {
            true => bytes += table.bytes,
            false => drop(tables.remove(&stray.table)),
        }
        Ok(())
    })?;
    Ok(tables.into_values().collect())
}

#[cfg(test)]
mod tests {
    use repl_connectors::seam::stray_key;
    use repl_core::SourcePosition;
    use repl_core::convert::{ConvertOptions, Engine};
    use repl_core::schema::{Column, Identity, SchemaId};
    use serde_json::{Map, json};

    use super::*;

    /// A table of a server at a replica of this engine.
    fn touched(target: Engine, key_type: &str) -> Option<Touched> {
        let name = TableName::new("public", "t");
        let schema = TableSchema {
            id: SchemaId(1),
            engine: "postgres".into(),
            table: name.clone(),
            incarnation: "1".into(),
            columns: vec![
                Column::new("v", "text", 0, true),
                Column::new("k", key_type, 0, false),
            ],
            identity: Identity::Key(vec![1]),
            generated: Vec::new(),
        };
        let source = SourceTable {
            name: name.clone(),
            incarnation: "1".into(),
            schema: Some(Arc::new(schema)),
            refusal: String::new(),
            remedy: String::new(),
            coverage: String::new(),
            waits: String::new(),
            parents: Vec::new(),
        };
        let options = ConvertOptions::default();
        Touched::new(source, name, &Conversion { target, options })
    }

    fn stray(op: StrayOp, columns: &[&str], key: Option<Value<'_>>) -> Stray {
        let row = columns.iter().map(|name| ((*name).to_owned(), json!("x")));
        let image: Map<_, _> = row.collect();
        let (old, new) = match op {
            StrayOp::Delete => (Some(image), None),
            StrayOp::Truncate => (None, None),
            _ => (None, Some(image)),
        };
        let key = key.and_then(|value| stray_key([("k", value)].into_iter()));
        Stray {
            transaction: 1,
            committed_us: 1,
            position: SourcePosition::default(),
            table: TableName::new("public", "t"),
            op,
            old,
            new,
            keys: key.into_iter().collect(),
        }
    }

    #[test]
    fn a_change_that_does_not_tell_its_key_or_its_columns_is_found_out() {
        let key = Some(Value::Text(b"5"));
        let both = &["v", "k"][..];
        for (stray, told) in [
            (stray(StrayOp::Insert, both, key), true),
            (stray(StrayOp::Update, both, key), true),
            // What did not change may not have been sent.
            (stray(StrayOp::Update, &["k"], key), true),
            (stray(StrayOp::Delete, &["k"], key), true),
            (stray(StrayOp::Truncate, &[], None), false),
            (stray(StrayOp::Delete, &["k"], None), false),
            (stray(StrayOp::Insert, both, Some(Value::Null)), false),
            (stray(StrayOp::Insert, &["k"], key), false),
            (stray(StrayOp::Update, &["v", "k", "more"], key), false),
        ] {
            let mut table = touched(Engine::Postgres, "bigint").unwrap();
            assert_eq!(table.touch(&stray), told, "{stray:?}");
            assert_eq!(table.count(), usize::from(told), "{stray:?}");
        }
    }

    #[test]
    fn keys_of_a_file_are_told_in_the_log_or_not_at_all() {
        assert!(touched(Engine::Sqlite, "double precision").is_none());
        let asked = |value: Value<'_>| {
            let mut table = touched(Engine::Sqlite, "bigint").unwrap();
            assert!(table.touch(&stray(StrayOp::Update, &["k"], Some(value))));
            let keys = table.keys.images().to_vec();
            table.in_log(&keys).unwrap()
        };
        let key = Row::from_values([Value::Null, Value::Text(b"-5")].into_iter());
        assert_eq!(asked(Value::Integer(-5)), Some(vec![key]));
        for other in [Value::Real(0.5), Value::Text(b"-5"), Value::Blob(b"5")] {
            assert_eq!(asked(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_table_with_too_many_keys_is_left_to_a_comparison() {
        let mut table = touched(Engine::Postgres, "bigint").unwrap();
        let one = |n: usize| stray(StrayOp::Delete, &["k"], Some(Value::Integer(n as i64)));
        assert!((0..MOST_KEYS).all(|n| table.touch(&one(n))));
        assert!(table.touch(&one(0)), "known already");
        assert!(!table.touch(&one(MOST_KEYS)));
    }

    #[test]
    fn the_memory_of_a_key_is_counted_once() {
        let mut table = touched(Engine::Postgres, "text").unwrap();
        let long = vec![b'x'; 1000];
        let one = stray(StrayOp::Delete, &["k"], Some(Value::Text(&long)));
        assert!(table.touch(&one) && table.touch(&one));
        assert!((2_000..3_000).contains(&table.bytes), "{}", table.bytes);
    }
}
