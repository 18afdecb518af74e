//! Whether the replica's table can take the source's rows, and making it so where that is exact.

use repl_core::ErrorKind;
use repl_core::batch::Route;

use super::metadata::{Catalog, ReplicaColumn};
use super::session::{Session, missing_table};
use super::sql::{quote, quote_table};
use super::types::{declared_charset, holds, is_bounded};
use crate::seam::{ConnectorError, Result, TableDdl};

/// Longest identifier, characters.
const NAME_CHARACTERS: usize = 64;

impl Session {
    pub(super) async fn fit(&mut self, route: &Route, ddl: Option<&TableDdl>) -> Result<()> {
        check_names(route)?;
        self.check_trigger_privilege(route).await?;
        let catalog = self.catalog(&route.target).await?;
        let mut catalog = catalog.ok_or_else(|| missing_table(&route.target))?;
        let added = ddl.map(additions).unwrap_or_default();
        let columns = &route.schema.columns;
        let lacks = columns.iter().any(|c| catalog.column(&c.name).is_none());
        if lacks && !added.is_empty() {
            self.add_columns(route, &added).await?;
            let read = self.catalog(&route.target).await?;
            catalog = read.ok_or_else(|| missing_table(&route.target))?;
        }
        check(route, &catalog)?;
        if self.batch.as_ref().is_none_or(|batch| !batch.locked) {
            self.forget_targets().await?;
            self.run("COMMIT").await?;
        }
        Ok(())
    }

    /// Adding a column commits implicitly. What a transaction has done so far is therefore taken
    /// back first, and the transaction starts again from the checkpoint: the columns are then
    /// there.
    async fn add_columns(&mut self, route: &Route, statements: &[&str]) -> Result<()> {
        let under_way = self.batch.as_ref().is_some_and(|batch| batch.locked);
        self.run("ROLLBACK").await?;
        for statement in statements {
            match self.run(statement).await {
                Err(error) if error.code.as_deref() == Some("1060") => {}
                other => other?,
            }
        }
        if under_way {
            return Err(ConnectorError::new(
                ErrorKind::Transient,
                format!(
                    "{}: columns were added to {} in the middle of a transaction, which starts \
                     again",
                    self.config.target, route.target
                ),
            )
            .table(route.target.to_string()));
        }
        Ok(())
    }

    /// The server hides triggers from accounts without the privilege.
    async fn check_trigger_privilege(&mut self, route: &Route) -> Result<()> {
        let (schema, name) = (&route.target.schema, &route.target.name);
        let rows = self
            .rows(
                "SELECT 1 FROM information_schema.USER_PRIVILEGES \
                 WHERE PRIVILEGE_TYPE IN ('TRIGGER', 'SUPER') UNION ALL \
                 SELECT 1 FROM information_schema.SCHEMA_PRIVILEGES \
                 WHERE PRIVILEGE_TYPE = 'TRIGGER' AND ? LIKE TABLE_SCHEMA UNION ALL \
                 SELECT 1 FROM information_schema.TABLE_PRIVILEGES \
                 WHERE PRIVILEGE_TYPE = 'TRIGGER' AND TABLE_SCHEMA = ? AND TABLE_NAME = ? LIMIT 1",
                vec![
                    schema.as_str().into(),
                    schema.as_str().into(),
                    name.as_str().into(),
                ],
            )
            .await?;
        if !rows.is_empty() {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Privilege,
            format!(
                "{}: whether {} has triggers cannot be seen without the privilege TRIGGER",
                self.config.target, route.target
            ),
        )
        .table(route.target.to_string())
        .advice(format!(
            "GRANT TRIGGER ON {}.* TO the account of this node (not through a role)",
            quote(schema)
        )))
    }
}

/// Statements that add columns exactly as the source did.
fn additions(ddl: &TableDdl) -> Vec<&str> {
    let adds = |statement: &&str| {
        let upper = statement.trim_start().to_ascii_uppercase();
        upper.starts_with("ALTER TABLE ") && upper.contains(" ADD COLUMN ")
    };
    ddl.create.iter().map(String::as_str).filter(adds).collect()
}

/// A refusal, with the statement that mends it.
struct Refusal(String, String);

/// Names the server cannot have: too long, or equal but for case.
///
/// # Errors
/// [`ErrorKind::Schema`].
pub(super) fn check_names(route: &Route) -> Result<()> {
    let columns = route.schema.columns.iter().map(|column| &column.name);
    let tables = [&route.target.schema, &route.target.name];
    let refuse = |what: String| {
        Err(ConnectorError::new(
            ErrorKind::Schema,
            format!("the replica's table {} {what}", route.target),
        )
        .table(route.target.to_string())
        .advice("rename it at the primary, or map the table to another name for this replica"))
    };
    for name in columns.clone().chain(tables) {
        if name.chars().count() > NAME_CHARACTERS {
            return refuse(format!(
                "cannot be: the name \"{name}\" is longer than the engine's {NAME_CHARACTERS} \
                 characters"
            ));
        }
    }
    let mut seen = std::collections::HashSet::new();
    for name in columns {
        if !seen.insert(name.to_lowercase()) {
            return refuse(format!(
                "cannot have the column \"{name}\": another one's name differs only by case"
            ));
        }
    }
    Ok(())
}

/// Compares shapes.
///
/// # Errors
/// [`ErrorKind::Schema`] with the statement that mends the first difference found.
pub(super) fn check(route: &Route, catalog: &Catalog) -> Result<()> {
    let checks = [check_table, check_columns, check_extra, check_key];
    for check in checks {
        if let Err(Refusal(what, advice)) = check(route, catalog) {
            return Err(ConnectorError::new(
                ErrorKind::Schema,
                format!("the replica's table {} {what}", route.target),
            )
            .table(route.target.to_string())
            .advice(advice));
        }
    }
    Ok(())
}

fn check_table(route: &Route, catalog: &Catalog) -> Result<(), Refusal> {
    let table = quote_table(&route.target);
    if !matches!(catalog.kind.as_str(), "BASE TABLE" | "SYSTEM VERSIONED") {
        return Err(Refusal(
            "is not a table".into(),
            "replace it by a table, or exclude it from this replica's selection".into(),
        ));
    }
    if !catalog.engine.eq_ignore_ascii_case("InnoDB") {
        return Err(Refusal(
            format!(
                "uses the engine {}, which has no transactions",
                catalog.engine
            ),
            format!("ALTER TABLE {table} ENGINE = InnoDB; then `replctl retry`"),
        ));
    }
    if let Some(trigger) = catalog.triggers.first() {
        return Err(Refusal(
            format!("has the trigger {trigger}, which would act on replicated changes too"),
            format!(
                "let the body of {}.{} begin with IF @repl_daemon_apply IS NULL THEN … (the variable is 1 in the \
                 daemon's sessions), or drop the trigger if nothing at this replica needs it; then `replctl retry`",
                quote(&route.target.schema),
                quote(trigger)
            ),
        ));
    }
    Ok(())
}

fn check_columns(route: &Route, catalog: &Catalog) -> Result<(), Refusal> {
    let table = quote_table(&route.target);
    let key = route.schema.key_columns();
    for (at, column) in route.schema.columns.iter().enumerate() {
        let name = quote(&column.name);
        let Some(found) = catalog.column(&column.name) else {
            return Err(Refusal(
                format!("has no column {name}"),
                format!(
                    "ALTER TABLE {table} ADD COLUMN {name} {}, with the primary's values for the \
                     rows it holds (a renamed column: rename it); then `replctl retry`",
                    column.type_name
                ),
            ));
        };
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        let modify = format!(
            "ALTER TABLE {table} MODIFY COLUMN {name} {} {null}; then `replctl retry`",
            column.type_name
        );
        if found.generated {
            return Err(Refusal(
                format!("generates column {name}, which is an ordinary column at the primary"),
                modify,
            ));
        }
        // What an index holds has a bound, which tables made by us have as well; strict mode
        // refuses a longer value with its row.
        let bounded =
            catalog.indexed.contains(&found.name) && is_bounded(&column.type_name, &found.declared);
        if !bounded && !holds(&column.type_name, &found.declared) {
            return Err(Refusal(
                format!(
                    "has column {name} as {}, the primary's values need {}",
                    found.declared, column.type_name
                ),
                modify,
            ));
        }
        check_charset(&column.type_name, found, &table)?;
        if column.nullable && found.not_null && !key.contains(&at) {
            return Err(Refusal(
                format!("forbids NULL in column {name}, the primary allows it"),
                format!(
                    "ALTER TABLE {table} MODIFY COLUMN {name} {} NULL; then `replctl retry`",
                    found.declared
                ),
            ));
        }
    }
    Ok(())
}

/// Texts of the source are Unicode; a column that holds less would refuse some.
fn check_charset(source: &str, found: &ReplicaColumn, table: &str) -> Result<(), Refusal> {
    let Some(charset) = found.charset.as_deref().filter(|_| !found.listed) else {
        return Ok(());
    };
    let wanted = declared_charset(source).unwrap_or_else(|| "utf8mb4".into());
    let same = |name: &str| name.replace("utf8mb3", "utf8");
    if charset == "utf8mb4" || same(charset) == same(&wanted) {
        return Ok(());
    }
    let name = quote(&found.name);
    Err(Refusal(
        format!("has column {name} in the character set {charset}, which cannot hold all texts"),
        format!(
            "ALTER TABLE {table} MODIFY COLUMN {name} {} CHARACTER SET utf8mb4{}; then `replctl \
             retry`",
            found.declared,
            if found.not_null { " NOT NULL" } else { "" }
        ),
    ))
}

fn check_extra(route: &Route, catalog: &Catalog) -> Result<(), Refusal> {
    let sent = |name: &str| {
        let lower = name.to_lowercase();
        let mut columns = route.schema.columns.iter();
        columns.any(|column| column.name.to_lowercase() == lower)
    };
    for column in &route.schema.generated {
        let Some(found) = catalog
            .column(&column.name)
            .filter(|found| !found.generated)
        else {
            continue;
        };
        let (table, name) = (quote_table(&route.target), quote(&found.name));
        return Err(Refusal(
            format!(
                "has an ordinary column {name}, which the primary generates: no value of it would ever \
                 arrive"
            ),
            format!(
                "ALTER TABLE {table} RENAME COLUMN {name} TO {}; and, where it is wanted here, add it \
                 as GENERATED ALWAYS AS with the primary's expression; or declare that this replica does \
                 without it: exclude = [{{ column = {:?} }}] in the replica's [node.convert]; then \
                 `replctl retry`",
                quote(&format!("{}_before", found.name)),
                column.name
            ),
        ));
    }
    for column in &catalog.columns {
        if column.not_null && !column.has_default && !column.generated && !sent(&column.name) {
            let name = quote(&column.name);
            return Err(Refusal(
                format!("requires a value for column {name}, which the primary does not have"),
                format!(
                    "ALTER TABLE {} MODIFY COLUMN {name} {} NULL; then `replctl retry`",
                    quote_table(&route.target),
                    column.declared
                ),
            ));
        }
    }
    Ok(())
}

/// Without an index each change would scan the table, and duplicates would go unnoticed; with one
/// whose collation holds different keys to be equal, a change would hit another row.
fn check_key(route: &Route, catalog: &Catalog) -> Result<(), Refusal> {
    let table = quote_table(&route.target);
    let key: Vec<&ReplicaColumn> = route
        .schema
        .key_columns()
        .iter()
        .filter_map(|&at| route.schema.columns.get(at))
        .filter_map(|column| catalog.column(&column.name))
        .collect();
    for column in &key {
        if is_exact(column) {
            continue;
        }
        let collation = column.collation.as_deref().unwrap_or_default();
        let name = quote(&column.name);
        let exact = if collation.contains("0900") {
            "utf8mb4_0900_bin"
        } else {
            "utf8mb4_nopad_bin (MySQL: utf8mb4_0900_bin)"
        };
        return Err(Refusal(
            format!(
                "has the key column {name} in the collation {collation}, by which different keys \
                 of the primary are equal (case, accents or blanks at the end)"
            ),
            format!(
                "ALTER TABLE {table} MODIFY COLUMN {name} {} CHARACTER SET utf8mb4 COLLATE \
                 {exact} NOT NULL; then `replctl retry`",
                column.declared
            ),
        ));
    }
    let names: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    if names.is_empty() || catalog.unique_over(&names).is_some() {
        return Ok(());
    }
    let columns: Vec<String> = names.iter().map(|name| quote(name)).collect();
    let columns = columns.join(", ");
    Err(Refusal(
        format!(
            "has no unique index over ({columns}), by which the primary's changes name its rows"
        ),
        format!("ALTER TABLE {table} ADD UNIQUE ({columns}); then `replctl retry`"),
    ))
}

/// Whether a key column's values are equal only if their bytes are.
fn is_exact(column: &ReplicaColumn) -> bool {
    let Some(collation) = column.collation.as_deref().filter(|_| !column.listed) else {
        return true;
    };
    collation == "binary"
        || (collation.ends_with("_bin")
            && (collation.contains("nopad") || collation.contains("_0900_")))
}

#[cfg(test)]
mod tests {
    use super::*;

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
