//! Staging tables: many rows go there in bulk, and from there act on the table by one join.

use std::sync::Arc;

use super::bulk::Into;
use super::metadata::{ReplicaColumn, Target};
use super::session::Session;
use super::sql::quote;
use crate::seam::Result;
use repl_core::row::Row;

/// Rows above which a staging table is dropped rather than emptied.
const EMPTIED_ROWS: u64 = 2_000;

/// A temporary table with the columns of a table we write to, named `c0`, `c1`…, all of which may
/// be NULL, and the number `g` of the group of rows.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// Quoted name.
    pub(super) name: String,
    /// Rows in it.
    rows: u64,
}

impl Session {
    /// The staging table of a table, empty.
    pub(super) async fn stage(&mut self, target: &Arc<Target>) -> Result<String> {
        let key = (target.route.schema.id, target.route.target.clone());
        if let Some(stage) = self.stages.get(&key) {
            return Ok(stage.name.clone());
        }
        self.staged += 1;
        let name = self.store.own_table(&format!("stage_{}", self.staged));
        let columns: Vec<String> = target
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("c{at} {}", definition(column)))
            .collect();
        self.make_temporary(&format!(
            "{name} (g INT NOT NULL, {}) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
            columns.join(", ")
        ))
        .await?;
        let stage = Stage {
            name: name.clone(),
            rows: 0,
        };
        self.stages.insert(key, stage);
        Ok(name)
    }

    /// Makes a temporary table from its name and definition, which does not commit.
    pub(super) async fn make_temporary(&mut self, definition: &str) -> Result<()> {
        let made = self
            .run(&format!("CREATE TEMPORARY TABLE {definition}"))
            .await;
        made.map_err(|mut error| {
            if error.advice.is_empty() || error.kind == repl_core::ErrorKind::Privilege {
                error.advice = format!(
                    "GRANT CREATE TEMPORARY TABLES, INSERT, SELECT, UPDATE, DELETE, DROP ON {}.* \
                     TO the account of this node",
                    quote(&self.store.database)
                );
            }
            error
        })
    }

    /// Puts columns of rows into the table's stage.
    pub(super) async fn fill_stage(
        &mut self,
        target: &Arc<Target>,
        columns: &[usize],
        group: u32,
        rows: &[&Row],
    ) -> Result<String> {
        let name = self.stage(target).await?;
        let into = Into {
            table: name.clone(),
            names: columns.iter().map(|at| format!("c{at}")).collect(),
            columns: columns.to_vec(),
            group: Some(group),
        };
        self.put_rows(target, &into, rows).await?;
        let key = (target.route.schema.id, target.route.target.clone());
        if let Some(stage) = self.stages.get_mut(&key) {
            stage.rows += rows.len() as u64;
        }
        Ok(name)
    }

    /// Empties the table's stage after use.
    pub(super) async fn clear_stage(&mut self, target: &Arc<Target>) -> Result<()> {
        let key = (target.route.schema.id, target.route.target.clone());
        let Some(stage) = self.stages.get_mut(&key) else {
            return Ok(());
        };
        let name = stage.name.clone();
        if stage.rows <= EMPTIED_ROWS {
            stage.rows = 0;
            return self.run(&format!("DELETE FROM {name}")).await;
        }
        self.stages.remove(&key);
        self.run(&format!("DROP TEMPORARY TABLE {name}")).await
    }
}

pub(super) fn definition(column: &ReplicaColumn) -> String {
    let mut text = column.declared.clone();
    if let (Some(charset), Some(collation)) = (&column.charset, &column.collation) {
        text.push_str(&format!(" CHARACTER SET {charset} COLLATE {collation}"));
    }
    text + " NULL DEFAULT NULL"
}

impl Target {
    /// Joins the stage with the table by the key, in this order and by this index.
    pub(super) fn joined(&self, stage: &str) -> String {
        let keys: Vec<String> = self
            .key
            .iter()
            .map(|&at| format!("t.{} = s.c{at}", quote(&self.columns[at].name)))
            .collect();
        format!(
            "{stage} AS s STRAIGHT_JOIN {} AS t FORCE INDEX ({}) ON {}",
            self.name,
            self.index,
            keys.join(" AND ")
        )
    }
}
