//! The composite types that a column's values are made of.
//!
//! A value is a text without the names of its attributes, so what it means is what the type is at the time;
//! and no message of the stream tells that a type was altered. So the types are part of a column's shape.

use serde::Deserialize;
use sqlx::PgConnection;

use super::catalog_error::from_sqlx;
use crate::seam::Result;

/// As an expression on `a.atttypid`: every composite type that is reached through arrays, domains, ranges
/// and attributes, with name and type of each attribute; NULL where there is none. The server's own types
/// are not looked at.
macro_rules! composites_of {
    () => {
        "CASE WHEN a.atttypid >= 16384 THEN (WITH RECURSIVE reached(oid) AS (
            SELECT a.atttypid
            UNION
            SELECT n.oid FROM reached r JOIN pg_catalog.pg_type t ON t.oid = r.oid
             CROSS JOIN LATERAL (
                SELECT t.typelem AS oid WHERE t.typelem <> 0 AND t.typcategory = 'A'
                UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL SELECT b.atttypid FROM pg_catalog.pg_attribute b
                           WHERE t.typtype = 'c' AND b.attrelid = t.typrelid AND b.attnum > 0
                             AND NOT b.attisdropped
                UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range g
                           WHERE t.oid IN (g.rngtypid, g.rngmultitypid)) n)
         SELECT pg_catalog.json_agg(s.shape ORDER BY s.name COLLATE \"C\")::text
           FROM (SELECT pg_catalog.format_type(t.oid, NULL) AS name,
                        pg_catalog.json_build_array(pg_catalog.format_type(t.oid, NULL),
                            (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(b.attname,
                                        pg_catalog.format_type(b.atttypid, b.atttypmod))
                                        ORDER BY b.attnum)
                               FROM pg_catalog.pg_attribute b
                              WHERE b.attrelid = t.typrelid AND b.attnum > 0
                                AND NOT b.attisdropped)) AS shape
                   FROM reached r JOIN pg_catalog.pg_type t ON t.oid = r.oid
                  WHERE t.typtype = 'c') s) END"
    };
}
pub(super) use composites_of;

/// One type: its name, and name and type of each attribute.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Composite(pub(super) String, pub(super) Option<Vec<(String, String)>>);

/// Reads what [`composites_of`] gives; nothing where it cannot be read.
pub(super) fn parse(composites: &str) -> Vec<Composite> {
    serde_json::from_str(composites).unwrap_or_default()
}

/// The composites of these types now.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn now(
    connection: &mut PgConnection,
    types: &[u32],
) -> Result<Vec<Option<String>>> {
    let types: Vec<i64> = types.iter().map(|oid| i64::from(*oid)).collect();
    sqlx::query_scalar(concat!(
        "SELECT ",
        composites_of!(),
        " FROM (SELECT oid::oid AS atttypid, place
                  FROM unnest($1::int8[]) WITH ORDINALITY g(oid, place)) a ORDER BY a.place"
    ))
    .bind(types)
    .fetch_all(connection)
    .await
    .map_err(|e| from_sqlx(&e, "reading the columns' types"))
}

/// The statements that give `here` the attributes of `wanted`. Attributes that are not in the same place
/// are taken out and put in again, at the end.
pub(super) fn statements(wanted: &[Composite], here: &[Composite]) -> Vec<String> {
    let quote = repl_core::schema::quote_identifier;
    let mut all = Vec::new();
    for Composite(name, attributes) in wanted {
        let found = here.iter().find(|one| one.0 == *name);
        let found = found.and_then(|one| one.1.as_deref()).unwrap_or_default();
        let attributes = attributes.as_deref().unwrap_or_default();
        if found == attributes {
            continue;
        }
        // What stays: the beginning that both have once the others are gone.
        let mut kept = Vec::new();
        for attribute in found {
            if attributes.get(kept.len()) == Some(attribute) {
                kept.push(attribute);
            }
        }
        let dropped = found.iter().filter(|one| !kept.contains(one));
        let dropped = dropped.map(|(attribute, _)| format!("DROP ATTRIBUTE {}", quote(attribute)));
        let added = attributes[kept.len()..].iter();
        let added = added.map(|(attribute, of)| format!("ADD ATTRIBUTE {} {of}", quote(attribute)));
        let changes: Vec<String> = dropped.chain(added).collect();
        all.push(format!("ALTER TYPE {name} {}", changes.join(", ")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composite(attributes: &[&str]) -> Composite {
        let attribute = |name: &&str| ((*name).to_owned(), "integer".to_owned());
        let all = attributes.iter().map(attribute).collect();
        Composite("public.basket".into(), Some(all))
    }

    #[test]
    fn attributes_come_to_stand_where_the_primary_has_them() {
        let made = |wanted: &[&str], here: &[&str]| {
            statements(&[composite(wanted)], &[composite(here)]).join("; ")
        };
        assert_eq!(made(&["a", "b"], &["a", "b"]), "");
        assert_eq!(
            made(&["pears", "kiwis"], &["apples", "pears"]),
            "ALTER TYPE public.basket DROP ATTRIBUTE \"apples\", ADD ATTRIBUTE \"kiwis\" integer"
        );
        assert_eq!(
            made(&["b", "a"], &["a", "b"]),
            "ALTER TYPE public.basket DROP ATTRIBUTE \"a\", ADD ATTRIBUTE \"a\" integer"
        );
    }

    #[test]
    fn what_the_server_says_is_read() {
        let text =
            r#"[["public.basket", [["apples", "integer"], ["p", "text"]]], ["public.none", null]]"#;
        let read = parse(text);
        assert_eq!(read[0].1.as_ref().unwrap()[1], ("p".into(), "text".into()));
        assert_eq!(read[1], Composite("public.none".into(), None));
    }
}
