//! Whether the replica's table can take the source's rows, and making it so where that is exact.

use std::sync::Arc;

use repl_core::ErrorKind;
use repl_core::batch::Route;
use repl_core::schema::{TableName, quote_identifier};

use super::metadata::{Catalog, check_composites};
use super::session::{Session, missing_table};
use crate::postgres::hidden;
use crate::seam::{ConnectorError, GeneratedDdl, Result, TableDdl};

impl Session {
    pub(super) async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        self.forget_target(&route.target);
        if self.batch.is_some() {
            // What is queued comes before the table's new shape, and fails under its own name.
            self.sync().await?;
        }
        let catalog = self.catalog(&route.target).await?;
        let mut catalog = catalog.ok_or_else(|| missing_table(&route.target))?;
        let known = self.known_columns(&route.schema.table).await?;
        let added = ddl.map(additions).unwrap_or_default();
        if !added.is_empty() && only_appended(route, &catalog, known.as_deref()) {
            let before = ddl.map(|ddl| ddl.before.as_slice()).unwrap_or_default();
            self.add_columns(route, before, &added).await?;
            let read = self.catalog(&route.target).await?;
            catalog = read.ok_or_else(|| missing_table(&route.target))?;
        }
        check(route, &catalog, ddl.map_or(&[], |ddl| &ddl.generated))?;
        let changed = |known: Vec<String>| !names(route).eq(known.iter().map(String::as_str));
        if known.is_some_and(changed) {
            self.remember_columns(&route.schema).await?;
        }
        self.know_target(&Arc::new(route.clone()), catalog)
            .map(drop)
    }

    async fn add_columns(
        &mut self,
        route: &Route,
        types: &[String],
        statements: &[&str],
    ) -> Result<()> {
        // Inside a transaction that is applied in parts the columns are part of it.
        let alone = self.batch.is_none();
        if alone {
            self.client.simple("BEGIN").await?;
        }
        for statement in types
            .iter()
            .map(String::as_str)
            .chain(statements.iter().copied())
        {
            self.client.simple(statement).await?;
        }
        self.remember_columns(&route.schema).await?;
        if alone {
            self.client.simple("COMMIT").await?;
        }
        Ok(())
    }

    pub(super) async fn catalog(&mut self, table: &TableName) -> Result<Option<Catalog>> {
        let outcome = Catalog::read(&mut self.client, table).await;
        outcome.map_err(|error| self.explain(error))
    }

    pub(super) async fn add_foreign_keys(&mut self, statements: &[String]) -> Result<()> {
        for statement in statements {
            match self.client.simple(statement).await {
                // It is there already.
                Err(error) if error.code.as_deref() == Some("42710") => {}
                other => {
                    other?;
                }
            }
        }
        Ok(())
    }

    /// The replica's side of a route that is not shared yet.
    pub(super) async fn target_of(
        &mut self,
        route: &Route,
    ) -> Result<Arc<super::metadata::Target>> {
        self.target(&Arc::new(route.clone())).await
    }
}

fn names(route: &Route) -> impl Iterator<Item = &str> {
    route
        .schema
        .columns
        .iter()
        .map(|column| column.name.as_str())
}

/// Whether every column the replica lacks was added at the source since it last fitted: it comes
/// behind all of `known`, the source's columns then. A column before the last of those is an old
/// one under a new name, and one of those themselves was dropped at the replica; neither can be
/// made up for without its values.
fn only_appended(route: &Route, catalog: &Catalog, known: Option<&[String]>) -> bool {
    let Some(last) = known.and_then(<[String]>::last) else {
        return false;
    };
    let Some(old) = names(route).position(|name| name == last) else {
        return false;
    };
    let lacking = |name: &&str| catalog.column(name).is_none();
    names(route).take(old + 1).all(|name| !lacking(&name))
        && names(route).any(|name| lacking(&name))
}

/// Statements that add columns exactly as the source did, and give them its present defaults.
fn additions(ddl: &TableDdl) -> Vec<&str> {
    let adds = |statement: &&str| {
        let upper = statement.trim_start().to_ascii_uppercase();
        upper.starts_with("ALTER TABLE ")
            && (upper.contains(" ADD COLUMN ") || upper.contains(" ALTER COLUMN "))
    };
    ddl.create.iter().map(String::as_str).filter(adds).collect()
}

/// Compares shapes.
///
/// # Errors
/// [`ErrorKind::Schema`] with the statement that mends the first difference found;
/// [`ErrorKind::Privilege`] where row security keeps rows from us.
pub(super) fn check(route: &Route, catalog: &Catalog, generated: &[GeneratedDdl]) -> Result<()> {
    let refuse = |what: String, advice: String| {
        Err(ConnectorError::new(
            ErrorKind::Schema,
            format!("the replica's table {} {what}", route.target),
        )
        .table(route.target.to_string())
        .advice(advice))
    };
    super::meddling::refuse(&route.target, &catalog.meddling)?;
    let table = route.target.quoted();
    if !matches!(catalog.kind.as_str(), "r" | "p") {
        return refuse(
            "is not a table".into(),
            "replace it by a table, or exclude it from this replica's selection".into(),
        );
    }
    if let Some(role) = &catalog.hidden_from {
        return Err(hidden::error("the replica's", &route.target, role));
    }
    let key = route.schema.key_columns();
    for (at, column) in route.schema.columns.iter().enumerate() {
        let name = quote_identifier(&column.name);
        let Some(found) = catalog.column(&column.name) else {
            return refuse(
                format!("has no column {name}"),
                format!(
                    "ALTER TABLE {table} ADD COLUMN {name} {}, with the primary's values for the \
                     rows it holds (a renamed column: rename it); then `replctl retry`",
                    column.type_name
                ),
            );
        };
        if found.generated {
            return refuse(
                format!("generates column {name}, which is an ordinary column at the primary"),
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} DROP EXPRESSION; then `replctl retry`"
                ),
            );
        }
        check_composites(route, column, found)?;
        if !holds(&column.type_name, &found.declared) {
            return refuse(
                format!(
                    "has column {name} as {}, the primary has it as {}",
                    found.declared, column.type_name
                ),
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} TYPE {}; then `replctl retry`",
                    column.type_name
                ),
            );
        }
        if column.nullable && found.not_null && !key.contains(&at) {
            return refuse(
                format!("forbids NULL in column {name}, the primary allows it"),
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL; then `replctl retry`"
                ),
            );
        }
    }
    for column in &route.schema.generated {
        let found = catalog.column(&column.name);
        if found.is_some_and(|found| !found.generated) {
            let name = quote_identifier(&column.name);
            let known = generated.iter().find(|one| one.name == column.name);
            let definition = known.map_or_else(
                || {
                    format!(
                        "{} GENERATED ALWAYS AS (as at the primary) STORED",
                        column.type_name
                    )
                },
                GeneratedDdl::definition,
            );
            return refuse(
                format!(
                    "has an ordinary column {name}, which the primary generates: no value of it would \
                     ever arrive"
                ),
                format!(
                    "ALTER TABLE {table} RENAME COLUMN {name} TO {}; ALTER TABLE {table} ADD COLUMN \
                     {name} {definition}; then `replctl retry`",
                    quote_identifier(&format!("{}_before", column.name))
                ),
            );
        }
    }
    let sent = |name: &str| route.schema.columns.iter().any(|c| c.name == name);
    for column in &catalog.columns {
        let name = quote_identifier(&column.name);
        if column.not_null && !column.has_default && !column.generated && !sent(&column.name) {
            return refuse(
                format!("requires a value for column {name}, which the primary does not have"),
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL; then `replctl retry`"
                ),
            );
        }
    }
    check_key(route, catalog)
}

/// Without an index each change would scan the table, and duplicates would go unnoticed.
fn check_key(route: &Route, catalog: &Catalog) -> Result<()> {
    let key: Vec<&str> = route.schema.key_names().collect();
    if key.is_empty() || catalog.unique_over(&key).is_some() {
        return Ok(());
    }
    let columns: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
    let columns = columns.join(", ");
    Err(ConnectorError::new(
        ErrorKind::Schema,
        format!(
            "the replica's table {} has no unique index over ({columns}), by which the primary's \
             changes name its rows",
            route.target
        ),
    )
    .table(route.target.to_string())
    .advice(format!(
        "CREATE UNIQUE INDEX ON {} ({columns}); then `replctl retry`",
        route.target.quoted()
    )))
}

/// Whether every value of the source's type is held exactly by the replica's.
fn holds(source: &str, replica: &str) -> bool {
    // Quoting of names that need none differs between writers of type names.
    let (source, replica) = (source.replace('"', ""), replica.replace('"', ""));
    if source == replica {
        return true;
    }
    let length = |text: &str, name: &str| -> Option<u64> {
        text.strip_prefix(name)?
            .strip_prefix('(')?
            .strip_suffix(')')?
            .parse()
            .ok()
    };
    const VARYING: &str = "character varying";
    match replica.as_str() {
        "bigint" => matches!(source.as_str(), "integer" | "smallint"),
        "integer" => source == "smallint",
        "numeric" => source.starts_with("numeric("),
        "text" => source.starts_with(VARYING),
        VARYING => source == "text" || source.starts_with("character varying("),
        _ => match (length(&source, VARYING), length(&replica, VARYING)) {
            (Some(source), Some(replica)) => replica >= source,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_types_are_accepted() {
        for (source, replica) in [
            ("\"app\".\"mood\"[]", "app.mood[]"),
            ("smallint", "bigint"),
            ("numeric(10,2)", "numeric"),
            ("character varying(5)", "character varying(9)"),
            ("character varying(5)", "text"),
            ("text", "character varying"),
        ] {
            assert!(holds(source, replica), "{source} in {replica}");
            assert_eq!(
                holds(replica, source),
                source.replace('"', "") == replica || source == "text"
            );
        }
        for (source, replica) in [
            ("real", "double precision"),
            ("character(3)", "text"),
            ("numeric(10,2)", "numeric(12,2)"),
            ("character varying[]", "character varying"),
        ] {
            assert!(!holds(source, replica), "{source} in {replica}");
        }
    }

    #[test]
    fn only_added_columns_are_run() {
        let ddl = TableDdl {
            create: vec![
                "CREATE TABLE s.t (a int)".into(),
                "ALTER TABLE s.t ADD COLUMN b int DEFAULT 5".into(),
                "ALTER TABLE s.t DROP COLUMN c".into(),
            ],
            ..TableDdl::default()
        };
        assert_eq!(
            additions(&ddl),
            ["ALTER TABLE s.t ADD COLUMN b int DEFAULT 5"]
        );
    }
}
