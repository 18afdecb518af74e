//! One table has one form in the log, whoever is the primary.
//!
//! The log knows a table under one name and in the types of the engine it was first captured from: its
//! *form*. A primary of another engine, which took that one's place, holds the table as conversion made
//! it there ([`crate::convert`]). What is captured from it is told in the form again ([`Back`]), so that
//! neither the replicas nor their checkpoints know that the engine has changed. Tables it makes itself
//! have its own form.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::convert::ConvertOptions;
use crate::convert::back::Back;
use crate::log::EventLog;
use crate::schema::{TableName, TableSchema};

/// Two words for one schema: what a node calls its ordinary schema (`public`, `main`), and what the
/// log calls it. A schema of the node that has the log's word for its name goes by the node's own in
/// the log, so that no two tables ever share a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    own: String,
    known: String,
}

impl Naming {
    /// `own` is known as `known`.
    pub fn new(own: &str, known: &str) -> Naming {
        Naming {
            own: own.to_owned(),
            known: known.to_owned(),
        }
    }

    /// The log's name of a node's table.
    pub fn known(&self, table: &TableName) -> TableName {
        self.swapped(table)
    }

    /// The node's name of a table of the log.
    pub fn own(&self, table: &TableName) -> TableName {
        self.swapped(table)
    }

    fn swapped(&self, table: &TableName) -> TableName {
        let schema = match &table.schema {
            schema if *schema == self.own => &self.known,
            schema if *schema == self.known => &self.own,
            schema => schema,
        };
        TableName::new(schema.clone(), table.name.clone())
    }
}

/// How a primary's tables are told to the log.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    /// Their names.
    pub naming: Naming,
    /// How the primary's own copies were made, when it was a replica.
    pub options: ConvertOptions,
}

/// A table as the log knows it.
pub struct Told {
    /// Its form; `id` is of the log where the shape is there already.
    pub schema: TableSchema,
    /// How rows get it; none when they have it.
    pub back: Option<Back>,
}

impl Telling {
    /// What the log knows `own` as, a table in the primary's own words.
    pub fn tell(&self, log: &dyn EventLog, own: &TableSchema) -> Told {
        let schema = TableSchema {
            table: self.naming.known(&own.table),
            ..own.clone()
        };
        match self.foreign(log, &schema.table, &own.engine) {
            Some(form) => {
                let back = Back::new(&schema, &form, &self.options);
                Told {
                    schema: back.form().clone(),
                    back: Some(back),
                }
            }
            None => Told { schema, back: None },
        }
    }

    /// The form of a table of the log, where it is another engine's than the primary's, `engine`.
    pub fn foreign(
        &self,
        log: &dyn EventLog,
        table: &TableName,
        engine: &str,
    ) -> Option<Arc<TableSchema>> {
        log.latest_schema(table)
            .filter(|form| form.engine != engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Changes};
    use crate::log::TxWriter;
    use crate::log::memory::MemoryLog;
    use crate::position::{Epoch, LogId, Seq, SourceIdentity, SourcePosition};
    use crate::record::{Body, History, TxHeader};
    use crate::row::{Row, Value};
    use crate::schema::{Column, Identity, SchemaId};

    #[test]
    fn names_are_told_apart_in_both_directions() {
        let naming = Naming::new("main", "public");
        let name = |schema: &str| TableName::new(schema, "t");
        for (own, known) in [("main", "public"), ("public", "main"), ("app", "app")] {
            assert_eq!(naming.known(&name(own)), name(known));
            assert_eq!(naming.own(&name(known)), name(own));
        }
        assert_eq!(Naming::default().known(&name("main")), name("main"));
    }

    #[test]
    fn what_another_engine_wrote_is_logged_in_the_form_the_log_knows() {
        let log: Arc<dyn EventLog> = Arc::new(MemoryLog::new(LogId(uuid::Uuid::nil())));
        let schema = |engine: &str, place: &str, types: [&str; 2]| TableSchema {
            id: SchemaId(0),
            engine: engine.into(),
            table: TableName::new(place, "t"),
            incarnation: "7".into(),
            columns: vec![
                Column::new("id", types[0], 0, false),
                Column::new("flag", types[1], 0, true),
            ],
            identity: Identity::Key(vec![0]),
            generated: Vec::new(),
        };
        let form = schema("postgres", "public", ["bigint", "boolean"]);
        let mut writer = TxWriter::new(Arc::clone(&log)).unwrap();
        writer
            .history(History {
                epoch: Epoch(1),
                source: SourceIdentity {
                    node: "main".into(),
                    engine: "postgres".into(),
                    system: "1".into(),
                    timeline: "1".into(),
                },
                position: SourcePosition::default(),
                reason: String::new(),
                succession: None,
            })
            .unwrap();
        let id = writer.schema(form).unwrap();
        drop(writer);
        let telling = Telling {
            naming: Naming::new("main", "public"),
            ..Telling::default()
        };
        let mut writer = TxWriter::new(Arc::clone(&log)).unwrap().telling(telling);
        let own = schema("sqlite", "main", ["INTEGER", "BOOLEAN"]);
        assert_eq!(writer.schema(own.clone()).unwrap(), id, "the shape it has");
        let another = TableSchema {
            incarnation: "8".into(),
            ..own
        };
        writer.begin(TxHeader::default()).unwrap();
        let row = |flag| Row::from_values([Value::Integer(1), flag].into_iter());
        for flag in [0, 1] {
            let new = row(Value::Integer(flag));
            writer.change().change(&Change::Insert { schema: id, new });
            writer.changed().unwrap();
        }
        writer.commit(&SourcePosition("1".into())).unwrap();
        let made_anew = writer.schema(another).unwrap();
        log.flush().unwrap();
        let kept = log.schema(made_anew).unwrap();
        assert_eq!(
            (kept.engine.as_str(), kept.table.schema.as_str()),
            ("sqlite", "public")
        );
        let mut told = Vec::new();
        let mut reader = log.reader(Seq(0)).unwrap();
        while let Some(record) = reader.next().unwrap() {
            if let Body::Fragment(fragment) = record.body {
                told.extend(Changes::new(fragment.changes).map(Result::unwrap));
            }
        }
        let wanted = |text| Change::Insert {
            schema: id,
            new: Row::from_values([Value::Text(b"1"), Value::Text(text)].into_iter()),
        };
        assert_eq!(told, [wanted(b"f"), wanted(b"t")]);
    }
}
