//! Inheritance between tables: which other tables' rows a reader of one is shown.
//!
//! Changes are applied to single tables, so it changes nothing in the stream, and everything for whoever
//! reads a parent.

use std::collections::{BTreeMap, BTreeSet};

use repl_core::ErrorKind;
use repl_core::schema::TableName;

use super::session::Session;
use super::store::text;
use crate::seam::{ConnectorError, Inherits, Result};

/// Every inheritance there is, but for partitions.
const FOUND: &str = "SELECT cn.nspname, c.relname, pn.nspname, p.relname \
    FROM pg_catalog.pg_inherits i \
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r' AND NOT c.relispartition \
    JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace \
    JOIN pg_catalog.pg_class p ON p.oid = i.inhparent \
    JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace";

/// A change of a table's inheritance.
struct Step {
    table: TableName,
    statement: String,
    /// What is wrong without it, behind the table's name.
    wrong: String,
}

impl Session {
    pub(super) async fn inherit(
        &mut self,
        tables: &[Inherits],
        held: &[TableName],
        make: bool,
    ) -> Result<()> {
        let rows = self.rows(FOUND, &[]).await?;
        let mut found: BTreeMap<TableName, BTreeSet<TableName>> = BTreeMap::new();
        for at in 0..rows.len() {
            let child = TableName::new(text(&rows, at, 0), text(&rows, at, 1));
            let parent = TableName::new(text(&rows, at, 2), text(&rows, at, 3));
            found.entry(child).or_default().insert(parent);
        }
        for step in steps(tables, held, &found) {
            let statement = step.statement;
            let error = match make {
                true => match self.client.simple(&statement).await {
                    Ok(_) => continue,
                    Err(error) => error,
                },
                false => {
                    let what = format!("the replica's table {} {}", step.table, step.wrong);
                    ConnectorError::new(ErrorKind::Schema, what)
                }
            };
            return Err(error
                .table(step.table.to_string())
                .advice(format!("{statement}; then `replctl retry`")));
        }
        Ok(())
    }
}

/// What is to be changed, leaving apart before joining.
fn steps(
    tables: &[Inherits],
    held: &[TableName],
    found: &BTreeMap<TableName, BTreeSet<TableName>>,
) -> Vec<Step> {
    let none = BTreeSet::new();
    let (mut leave, mut join) = (Vec::new(), Vec::new());
    for Inherits { table, parents } in tables {
        let has = found.get(table).unwrap_or(&none);
        let step = |parent: &TableName, verb: &str, wrong: &str| Step {
            table: table.clone(),
            statement: format!("ALTER TABLE {} {verb} {}", table.quoted(), parent.quoted()),
            wrong: format!("{wrong} {parent}"),
        };
        let extra = |parent: &&TableName| held.contains(parent) && !parents.contains(parent);
        for parent in has.iter().filter(extra) {
            leave.push(step(
                parent,
                "NO INHERIT",
                "inherits, other than at the primary, from",
            ));
        }
        let lacking = |parent: &&TableName| held.contains(parent) && !has.contains(parent);
        for parent in parents.iter().filter(lacking) {
            join.push(step(
                parent,
                "INHERIT",
                "does not inherit, as at the primary, from",
            ));
        }
    }
    leave.extend(join);
    leave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_leaves_what_it_should_not_inherit_from_and_joins_the_rest() {
        let name = |name: &str| TableName::new("s", name);
        let wanted = [Inherits {
            table: name("c"),
            parents: vec![name("a"), name("b"), name("elsewhere")],
        }];
        let held = ["a", "b", "c", "x"].map(name);
        let found = BTreeMap::from([(name("c"), BTreeSet::from(["b", "x", "own"].map(name)))]);
        let statements: Vec<String> = steps(&wanted, &held, &found)
            .into_iter()
            .map(|step| step.statement)
            .collect();
        assert_eq!(
            statements,
            [
                "ALTER TABLE \"s\".\"c\" NO INHERIT \"s\".\"x\"",
                "ALTER TABLE \"s\".\"c\" INHERIT \"s\".\"a\"",
            ]
        );
    }
}
