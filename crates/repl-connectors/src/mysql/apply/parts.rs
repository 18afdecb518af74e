//! The first copy of a large table, in parts.
//!
//! Since statements that make tables commit implicitly, the record of a copy is written once its
//! table is there; what a crash leaves before that is an empty table whose intent was recorded
//! ([`super::load`]).

use std::collections::HashMap;

use mysql_async::Value as Param;
use repl_core::batch::Route;
use repl_core::copy::{PartialCopy, StoredCopy};
use repl_core::schema::TableName;

use super::bulk::Into;
use super::load::LOAD_IDLE;
use super::metadata::Class;
use super::metadata::{optional, text};
use super::session::{IDLE, Session, missing_table};
use super::sql::quote_table;
use super::store::TABLE;
use super::{failpoint, fit};
use crate::copies::{not_in_numbers, stored_form, taken_over};
use crate::seam::{CopiedTable, Existing, LoadPart, Loaded, Making, Result};

impl Session {
    /// Reads the copies that are not complete, and their parts.
    pub(super) async fn read_copies(&mut self) -> Result<HashMap<TableName, StoredCopy>> {
        let sql = format!(
            "SELECT c.table_schema, c.table_name, c.copy, p.part, p.loaded FROM {} AS c LEFT JOIN \
             {} AS p USING (group_name, table_schema, table_name) WHERE c.group_name = ?",
            self.store.copies, self.store.parts
        );
        let group = vec![self.config.group.as_str().into()];
        let mut copies: HashMap<TableName, StoredCopy> = HashMap::new();
        for row in self.rows(&sql, group).await? {
            let stored = copies
                .entry(TableName::new(text(&row, 0), text(&row, 1)))
                .or_insert_with(|| StoredCopy {
                    copy: optional(&row, 2).and_then(|json| PartialCopy::from_json(&json)),
                    ..StoredCopy::default()
                });
            if let Some(part) = optional(&row, 3).and_then(|part| part.parse().ok()) {
                stored.done.insert(part, text(&row, 4).parse().unwrap_or(0));
            }
        }
        Ok(copies)
    }

    /// Whether there is a record of a copy, and then whether the copy made the table.
    pub(super) async fn left_copy(&mut self, table: &TableName) -> Result<Option<bool>> {
        let sql = format!("SELECT made FROM {} WHERE {TABLE}", self.store.copies);
        let params = self.table_params(table);
        let rows = self.rows(&sql, params).await?;
        Ok(rows.first().map(|row| text(row, 0) == "1"))
    }

    /// Removes the record of a copy and its parts, in the open transaction. Waits for sessions that
    /// still load a part.
    pub(super) async fn forget_copy(&mut self, table: &TableName) -> Result<()> {
        for own in [self.store.copies.clone(), self.store.parts.clone()] {
            let params = self.table_params(table);
            self.exec(&format!("DELETE FROM {own} WHERE {TABLE}"), params)
                .await?;
        }
        Ok(())
    }

    /// What an unfinished copy in parts left goes, and so does its record: the table, if the copy
    /// had made it. True when rows of one are still there.
    pub(super) async fn remove_left_copy(&mut self, route: &Route) -> Result<bool> {
        let source = &route.schema.table;
        let Some(made) = self.left_copy(source).await? else {
            return Ok(false);
        };
        if made {
            // It commits: the record goes after the table.
            let drop = format!("DROP TABLE IF EXISTS {}", quote_table(&route.target));
            self.run(&drop).await?;
        }
        self.forget_copy(source).await?;
        Ok(!made)
    }

    pub(super) async fn begin_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
    ) -> Result<bool> {
        self.forget_target(&making.route.target).await?;
        let route = making.route;
        let name = quote_table(&route.target);
        if copy.compare {
            return self.begin_compare(route, copy).await;
        }
        let mut ours = self.remove_left_copy(route).await?;
        // Rows that are compared stay, whoever put them there.
        ours &= making.existing != Existing::Compare;
        let mut present = self.catalog(&route.target).await?;
        if present.is_some()
            && !ours
            && self
                .is_left_over(route, making.create, Existing::Refuse)
                .await?
        {
            self.run(&format!("DROP TABLE {name}")).await?;
            present = None;
        }
        let made = present.is_none();
        match present {
            Some(catalog) => {
                let fits = fit::check(route, &catalog).is_ok();
                if !fits || (!ours && self.has_rows(&name).await?) {
                    self.run("ROLLBACK").await?;
                    return Ok(false);
                }
                self.run(&format!("DELETE FROM {name}")).await?;
            }
            None if making.create => self.make_table(route, making.ddl).await?,
            None => return Err(missing_table(&route.target)),
        }
        self.store_copy(&route.schema.table, made, copy).await?;
        failpoint("mysql.parts.before_begin")?;
        self.run("COMMIT").await?;
        failpoint("mysql.parts.begun")?;
        Ok(true)
    }

    /// Begins to compare part by part, if the table's key orders rows as integers and no other row
    /// can stand in the way of one of a later part.
    async fn begin_compare(&mut self, route: &Route, copy: &PartialCopy) -> Result<bool> {
        let source = &route.schema.table;
        let name = quote_table(&route.target);
        let integers = match self.catalog(&route.target).await? {
            Some(catalog) => route.schema.key_names().all(|name| {
                let column = catalog.column(name);
                column.is_some_and(|column| column.class == Class::Integer)
            }),
            None => false,
        };
        let ready = integers
            && self.left_copy(source).await? != Some(true)
            && self.can_settle(route).await?
            && self.has_rows(&name).await?;
        if !ready {
            self.run("ROLLBACK").await?;
            return Ok(false);
        }
        self.store_copy(source, false, copy).await?;
        failpoint("mysql.parts.before_begin")?;
        self.run("COMMIT").await?;
        failpoint("mysql.parts.begun")?;
        Ok(true)
    }

    async fn store_copy(
        &mut self,
        table: &TableName,
        made: bool,
        copy: &PartialCopy,
    ) -> Result<()> {
        self.forget_copy(table).await?;
        let sql = format!(
            "INSERT INTO {} (group_name, table_schema, table_name, made, id, copy) \
             VALUES (?, ?, ?, ?, ?, ?)",
            self.store.copies
        );
        let mut params = self.table_params(table);
        params.push(made.into());
        params.push(copy.id.to_string().into());
        params.push(stored_form(copy)?.into());
        self.exec(&sql, params).await.map(drop)
    }

    pub(super) async fn resume_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
    ) -> Result<bool> {
        self.forget_target(&making.route.target).await?;
        if !self.can_settle(making.route).await? {
            self.run("ROLLBACK").await?;
            return Ok(false);
        }
        let sql = format!(
            "UPDATE {} SET copy = ? WHERE {TABLE} AND id = ?",
            self.store.copies
        );
        let mut params: Vec<Param> = vec![stored_form(copy)?.into()];
        params.extend(self.table_params(&making.route.schema.table));
        params.push(copy.id.to_string().into());
        let found = self.exec(&sql, params).await?;
        self.run("COMMIT").await?;
        failpoint("mysql.parts.resumed")?;
        Ok(found == 1)
    }

    /// Whether rows of several snapshots can be in the table together: it has the key, and nothing
    /// else that is unique.
    async fn can_settle(&mut self, route: &Route) -> Result<bool> {
        let Some(catalog) = self.catalog(&route.target).await? else {
            return Ok(false);
        };
        let key: Vec<&str> = route.schema.key_names().collect();
        let alone = self.unique_indexes(&route.target).await? == 1;
        Ok(alone && catalog.unique_over(&key).is_some() && fit::check(route, &catalog).is_ok())
    }

    /// Indexes that can refuse a row because of another one.
    pub(super) async fn unique_indexes(&mut self, table: &TableName) -> Result<u64> {
        let rows = self
            .rows(
                "SELECT COUNT(DISTINCT INDEX_NAME) FROM information_schema.STATISTICS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0",
                vec![table.schema.as_str().into(), table.name.as_str().into()],
            )
            .await?;
        let count = rows.first().and_then(|row| text(row, 0).parse().ok());
        Ok(count.unwrap_or(u64::MAX))
    }

    pub(super) async fn load_part(&mut self, part: LoadPart<'_>) -> Result<Loaded> {
        let source = part.copy.schema.table.clone();
        let target = self.target(part.route).await?;
        self.claim_part(part.copy, part.part).await?;
        // The source may be slow.
        self.allow_idle(LOAD_IDLE).await?;
        let loaded = if part.copy.compare {
            let range = part.copy.range(part.part).integers(&part.copy.schema);
            let range = range.ok_or_else(|| not_in_numbers(&source))?;
            let within = range.condition(&target.key_names("t."));
            self.compare(&target, &within, part.rows, part.progress)
                .await?
        } else {
            let into = Into::table(&target);
            let rows = self.copy_from(&target, &into, part.rows, part.progress);
            Loaded::all(rows.await?)
        };
        self.allow_idle(IDLE).await?;
        let sql = format!(
            "UPDATE {} SET loaded = ? WHERE {TABLE} AND part = ?",
            self.store.parts
        );
        let mut params: Vec<Param> = vec![loaded.rows.into()];
        params.extend(self.table_params(&source));
        params.push(part.part.into());
        self.exec(&sql, params).await?;
        failpoint("mysql.part.before_commit")?;
        self.run("COMMIT").await?;
        failpoint("mysql.part.after_commit")?;
        Ok(loaded)
    }

    /// Records the part as done, before its rows: another session that loads it is waited for and
    /// then decides. The lock on the copy's own record keeps it from being begun anew meanwhile.
    async fn claim_part(&mut self, copy: &PartialCopy, part: u32) -> Result<()> {
        let table = &copy.schema.table;
        let sql = format!(
            "SELECT 1 FROM {} WHERE {TABLE} AND id = ? LOCK IN SHARE MODE",
            self.store.copies
        );
        let mut params = self.table_params(table);
        params.push(copy.id.to_string().into());
        if self.rows(&sql, params).await?.is_empty() {
            return Err(taken_over(table));
        }
        let sql = format!(
            "INSERT INTO {} (group_name, table_schema, table_name, part, loaded) \
             VALUES (?, ?, ?, ?, 0)",
            self.store.parts
        );
        let mut params = self.table_params(table);
        params.push(part.into());
        match self.exec(&sql, params).await {
            Err(error) if error.code.as_deref() == Some("1062") => Err(taken_over(table)),
            other => other.map(drop),
        }
    }

    pub(super) async fn end_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        let source = &making.route.schema.table;
        let made = self.left_copy(source).await?;
        let made = made.ok_or_else(|| taken_over(source))?;
        let settles = copy.cut.settles();
        let after: &[String] = if made { &making.ddl.after } else { &[] };
        self.register_table(source, copied).await?;
        if settles {
            let mut left = copy.clone();
            left.finish = after.to_vec();
            self.store_copy(source, made, &left).await?;
        } else {
            self.forget_copy(source).await?;
            if made {
                self.record_statements(source, after).await?;
            }
        }
        failpoint("mysql.parts.before_end")?;
        self.run("COMMIT").await?;
        failpoint("mysql.parts.ended")?;
        if made && !settles {
            self.finish_load(source, after, 0).await?;
        }
        // Indexes made after the rows were not there when the catalog was read.
        self.forget_target(&making.route.target).await
    }

    pub(super) async fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        let sql = format!("SELECT made, copy FROM {} WHERE {TABLE}", self.store.copies);
        let params = self.table_params(table);
        let rows = self.rows(&sql, params).await?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        let made = text(row, 0) == "1";
        let copy = optional(row, 1).and_then(|json| PartialCopy::from_json(&json));
        let finish = copy.map(|copy| copy.finish).unwrap_or_default();
        self.forget_copy(table).await?;
        if made {
            self.record_statements(table, &finish).await?;
        }
        failpoint("mysql.parts.before_finish")?;
        self.run("COMMIT").await?;
        failpoint("mysql.parts.finished")?;
        if made {
            self.finish_load(table, &finish, 0).await?;
        }
        self.forget_targets().await
    }
}
