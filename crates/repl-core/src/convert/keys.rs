//! Whether a row is found by its key in an engine other than that of the log's form of its table.

use super::Engine;
use super::kind::{Kind, Lite};
use crate::schema::TableSchema;

/// Whether two keys of `form` are equal, at a node of any engine that may be the primary, exactly when they
/// are spelled the same in the log: no value of the key's types has two spellings that a node takes.
///
/// Of what has two, one node may hold one and another node the other: numbers without a declared
/// scale (`1.0`, `1.00`), floating point (`0`, `-0`), times that are rounded, and whatever conversion carries as
/// text without knowing it (`interval`, `jsonb`, arrays …).
pub fn one_spelling(form: &TableSchema) -> bool {
    let Some(engine) = Engine::from_name(&form.engine) else {
        return false;
    };
    let columns = form.key_columns().iter().map(|&at| &form.columns[at]);
    let one = |kind: Option<Kind>, type_name: &str| match kind {
        Some(
            Kind::Bool
            | Kind::Int(_)
            | Kind::Unsigned(_)
            | Kind::Text(_)
            | Kind::Padded(_)
            | Kind::Bytes
            | Kind::Date
            | Kind::Timestamp(6)
            | Kind::TimestampTz(6)
            | Kind::Label
            | Kind::Lite(Lite::Integer | Lite::Boolean | Lite::Text | Lite::Blob),
        ) => true,
        // A negative scale rounds.
        Some(Kind::Decimal(Some((_, scale)))) => scale >= 0,
        Some(Kind::Form(_)) => type_name == "uuid",
        _ => false,
    };
    !form.key_columns().is_empty()
        && columns
            .into_iter()
            .all(|column| one(Kind::of(engine, column), &column.type_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, Identity, SchemaId, TableName, TypeDetail};

    fn of(engine: &str, types: &[&str]) -> TableSchema {
        let column = |name: &&str| Column::new(*name, *name, 0, false);
        TableSchema {
            id: SchemaId(1),
            engine: engine.into(),
            table: TableName::new("s", "t"),
            incarnation: String::new(),
            columns: types.iter().map(column).collect(),
            identity: Identity::Key((0..types.len()).collect()),
            generated: Vec::new(),
        }
    }

    #[test]
    fn only_types_without_a_second_spelling_are_found_by_key_elsewhere() {
        for (engine, yes, no) in [
            (
                "postgres",
                &[
                    "bigint",
                    "boolean",
                    "numeric(10,2)",
                    "text",
                    "character varying(9)",
                    "character(4)",
                    "bytea",
                    "uuid",
                    "date",
                    "timestamp without time zone",
                    "timestamp with time zone",
                ][..],
                &[
                    "numeric",
                    "numeric(5,-2)",
                    "double precision",
                    "real",
                    "interval",
                    "jsonb",
                    "timestamp(3) without time zone",
                    "time without time zone",
                    "money",
                    "citext",
                    "integer[]",
                ][..],
            ),
            (
                "sqlite",
                &["INTEGER", "BOOLEAN", "VARCHAR(20)", "BLOB"],
                &["REAL", "NUMERIC", "DATETIME", ""],
            ),
            ("mysql", &[], &["bigint"]),
        ] {
            for one in yes {
                assert!(one_spelling(&of(engine, &[one])), "{one}");
            }
            for one in no {
                assert!(!one_spelling(&of(engine, &[one])), "{one}");
                let with_another = [yes.first().unwrap_or(&"x"), one].map(|name| *name);
                assert!(!one_spelling(&of(engine, &with_another)), "{one}");
            }
        }
        assert!(!one_spelling(&of("postgres", &[])));
        let mut domain = of("postgres", &["amount"]);
        domain.columns[0].detail = Some(TypeDetail::Domain {
            base: "numeric".into(),
            detail: None,
        });
        assert!(!one_spelling(&domain));
    }
}
