//! The first copy of a large table, in parts.

use std::collections::HashMap;

use repl_core::ErrorKind;
use repl_core::copy::{PartialCopy, StoredCopy};
use repl_core::schema::TableName;

use super::session::{Session, missing_table};
use super::store::text;
use super::{failpoint, fit};
use crate::copies::{not_in_numbers, stored_form, taken_over};
use crate::seam::{CopiedTable, Existing, LoadPart, Loaded, Making, Result};

/// Names one table among the copies and their parts.
const TABLE: &str = "group_name = $1::text AND table_schema = $2::text AND table_name = $3::text";

impl Session {
    /// Reads the copies that are not complete, and their parts.
    pub(super) async fn read_copies(&mut self) -> Result<HashMap<TableName, StoredCopy>> {
        let group = self.config.group.clone();
        let rows = self
            .rows(
                "SELECT c.table_schema, c.table_name, c.copy, p.part, p.rows FROM repl.copies AS c \
                 LEFT JOIN repl.copy_parts AS p USING (group_name, table_schema, table_name) \
                 WHERE c.group_name = $1::text",
                &[Some(&group)],
            )
            .await?;
        let mut copies: HashMap<TableName, StoredCopy> = HashMap::new();
        for at in 0..rows.len() {
            let name = TableName::new(text(&rows, at, 0), text(&rows, at, 1));
            let stored = copies.entry(name).or_insert_with(|| StoredCopy {
                copy: PartialCopy::from_json(text(&rows, at, 2)),
                ..StoredCopy::default()
            });
            if let Ok(part) = text(&rows, at, 3).parse() {
                let loaded = text(&rows, at, 4).parse().unwrap_or(0);
                stored.done.insert(part, loaded);
            }
        }
        Ok(copies)
    }

    /// Runs a statement on the record of a table's copy; `more` are its parameters from `$4` on.
    async fn on_copy(
        &mut self,
        sql: &str,
        table: &TableName,
        more: &[&str],
    ) -> Result<Vec<crate::postgres::wire::TextRow>> {
        let group = self.config.group.clone();
        let mut params = vec![
            Some(group.as_str()),
            Some(table.schema.as_str()),
            Some(table.name.as_str()),
        ];
        params.extend(more.iter().map(|param| Some(*param)));
        self.rows(&format!("{sql} WHERE {TABLE}"), &params).await
    }

    /// Removes the record of a copy and its parts; whether the copy had made the table, if there
    /// was one. Waits for sessions that still load a part.
    pub(super) async fn forget_copy(&mut self, table: &TableName) -> Result<Option<bool>> {
        let rows = self
            .on_copy("SELECT made FROM repl.copies", table, &[])
            .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        self.on_copy("DELETE FROM repl.copies", table, &[]).await?;
        self.on_copy("DELETE FROM repl.copy_parts", table, &[])
            .await?;
        Ok(Some(text(&rows, 0, 0) == "t"))
    }

    async fn store_copy(
        &mut self,
        table: &TableName,
        made: bool,
        copy: &PartialCopy,
    ) -> Result<()> {
        let (id, json) = (copy.id.to_string(), stored_form(copy)?);
        let group = self.config.group.clone();
        self.rows(
            "INSERT INTO repl.copies (group_name, table_schema, table_name, made, id, copy) \
             VALUES ($1::text, $2::text, $3::text, $4::boolean, $5::uuid, $6::text)",
            &[
                Some(&group),
                Some(&table.schema),
                Some(&table.name),
                Some(if made { "true" } else { "false" }),
                Some(&id),
                Some(&json),
            ],
        )
        .await
        .map(drop)
    }

    pub(super) async fn begin_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
    ) -> Result<bool> {
        self.forget_target(&making.route.target);
        let source = &making.route.schema.table;
        self.client.simple("BEGIN").await?;
        let left = self.forget_copy(source).await?;
        let ready = if copy.compare {
            let filled = left != Some(true) && self.can_compare(making).await?;
            filled.then_some(false)
        } else {
            self.make_empty(making, left).await?
        };
        let Some(made) = ready else {
            self.client.simple("ROLLBACK").await?;
            return Ok(false);
        };
        self.store_copy(source, made, copy).await?;
        failpoint("pg.parts.before_begin")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.parts.begun")?;
        Ok(true)
    }

    /// Leaves an empty table: one it made (true), or one that was there. None when there are rows
    /// that no copy left, or the table does not fit.
    async fn make_empty(&mut self, making: Making<'_>, left: Option<bool>) -> Result<Option<bool>> {
        let table = &making.route.target;
        let name = table.quoted();
        if left == Some(true) {
            let drop = format!("DROP TABLE IF EXISTS {name}");
            self.client.simple(&drop).await?;
        }
        let Some(catalog) = self.catalog(table).await? else {
            if !making.create {
                return Err(missing_table(table));
            }
            self.run_all(&making.ddl.before).await?;
            self.run_all(&making.ddl.create).await?;
            return Ok(Some(true));
        };
        match fit::check(making.route, &catalog, &making.ddl.generated) {
            Err(error) if error.kind != ErrorKind::Schema => return Err(error),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        if left == Some(false) && making.existing != Existing::Compare {
            self.remove_rows(&catalog.own_rows(table), &catalog.oid)
                .await?;
            return Ok(Some(false));
        }
        // Nobody else may write while rows are looked for.
        let rows = catalog.own_rows(table);
        self.client
            .simple(&format!("LOCK TABLE {rows} IN SHARE ROW EXCLUSIVE MODE"))
            .await?;
        Ok((!self.holds_rows(&rows).await?).then_some(false))
    }

    async fn holds_rows(&mut self, rows: &str) -> Result<bool> {
        let exists = format!("SELECT EXISTS (SELECT 1 FROM {rows})");
        let rows = self.client.simple(&exists).await?;
        Ok(text(&rows, 0, 0) == "t")
    }

    /// Whether the table holds rows that can be compared part by part: its key orders rows as
    /// integers, and no other row can stand in the way of one of a later part.
    async fn can_compare(&mut self, making: Making<'_>) -> Result<bool> {
        let route = making.route;
        let Some(catalog) = self.catalog(&route.target).await? else {
            return Ok(false);
        };
        let integer = |name: &str| {
            let cast = catalog.column(name).map(|column| column.cast.as_str());
            matches!(cast, Some("smallint" | "integer" | "bigint"))
        };
        let key: Vec<&str> = route.schema.key_names().collect();
        Ok(fit::check(route, &catalog, &making.ddl.generated).is_ok()
            && catalog.unique_over(&key).is_some()
            && key.into_iter().all(integer)
            && self.unique_indexes(&catalog.oid).await? == 1
            && self.holds_rows(&catalog.own_rows(&route.target)).await?)
    }

    /// Indexes that can refuse a row because of another one.
    pub(super) async fn unique_indexes(&mut self, oid: &str) -> Result<u64> {
        let rows = self
            .rows(
                "SELECT count(*) FROM pg_catalog.pg_index \
                 WHERE indrelid = $1::oid AND (indisunique OR indisexclusion)",
                &[Some(oid)],
            )
            .await?;
        Ok(text(&rows, 0, 0).parse().unwrap_or(u64::MAX))
    }

    pub(super) async fn resume_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
    ) -> Result<bool> {
        self.forget_target(&making.route.target);
        let route = making.route;
        let Some(catalog) = self.catalog(&route.target).await? else {
            return Ok(false);
        };
        let key: Vec<&str> = route.schema.key_names().collect();
        let keyed = catalog.unique_over(&key).is_some();
        // With the key made at the end, nothing unique may be there yet; else the key alone.
        let (others, fits) = if keyed {
            (
                1,
                fit::check(route, &catalog, &making.ddl.generated).is_ok(),
            )
        } else {
            (0, !making.ddl.key.is_empty())
        };
        let updatable = |name: &str, always: bool| !always || key.contains(&name);
        let mut columns = catalog.columns.iter();
        let settles = columns.all(|column| updatable(&column.name, column.identity_always));
        if self.unique_indexes(&catalog.oid).await? != others || !fits || !settles {
            return Ok(false);
        }
        let (id, json) = (copy.id.to_string(), stored_form(copy)?);
        let group = self.config.group.clone();
        let source = &route.schema.table;
        let rows = self
            .rows(
                &format!(
                    "UPDATE repl.copies SET copy = $5::text WHERE {TABLE} AND id = $4::uuid \
                     RETURNING 1"
                ),
                &[
                    Some(&group),
                    Some(&source.schema),
                    Some(&source.name),
                    Some(&id),
                    Some(&json),
                ],
            )
            .await?;
        failpoint("pg.parts.resumed")?;
        Ok(!rows.is_empty())
    }

    pub(super) async fn load_part(&mut self, part: LoadPart<'_>) -> Result<Loaded> {
        let source = &part.copy.schema.table;
        let target = self.target(part.route).await?;
        self.client.simple("BEGIN").await?;
        self.claim_part(part.copy, part.part).await?;
        let loaded = if part.copy.compare {
            let range = part.copy.range(part.part).integers(&part.copy.schema);
            let range = range.ok_or_else(|| not_in_numbers(source))?;
            let within = range.condition(&target.key_names("t."));
            self.compare(&target, &within, part.rows, part.progress)
                .await?
        } else {
            let rows = self.copy_from(&target, None, part.rows, part.progress);
            Loaded::all(rows.await?)
        };
        let (number, rows) = (part.part.to_string(), loaded.rows.to_string());
        self.rows(
            &format!(
                "UPDATE repl.copy_parts SET rows = $5::int8 WHERE {TABLE} AND part = $4::int4"
            ),
            &[
                Some(&self.config.group.clone()),
                Some(&source.schema),
                Some(&source.name),
                Some(&number),
                Some(&rows),
            ],
        )
        .await?;
        failpoint("pg.part.before_commit")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.part.after_commit")?;
        Ok(loaded)
    }

    /// Records the part as done, before its rows: another session that loads it, of ours or left
    /// over from a broken connection, is waited for and then decides. The lock on the copy's own
    /// record keeps it from being begun anew meanwhile.
    async fn claim_part(&mut self, copy: &PartialCopy, part: u32) -> Result<()> {
        let table = &copy.schema.table;
        let (id, number) = (copy.id.to_string(), part.to_string());
        let group = self.config.group.clone();
        let names = [
            Some(group.as_str()),
            Some(table.schema.as_str()),
            Some(table.name.as_str()),
        ];
        let [group, schema, name] = names;
        let current = self
            .rows(
                &format!("SELECT 1 FROM repl.copies WHERE {TABLE} AND id = $4::uuid FOR KEY SHARE"),
                &[group, schema, name, Some(&id)],
            )
            .await?;
        if current.is_empty() {
            return Err(taken_over(table));
        }
        let claimed = self
            .rows(
                "INSERT INTO repl.copy_parts (group_name, table_schema, table_name, part, rows) \
                 VALUES ($1::text, $2::text, $3::text, $4::int4, 0) ON CONFLICT DO NOTHING \
                 RETURNING 1",
                &[group, schema, name, Some(&number)],
            )
            .await?;
        if claimed.is_empty() {
            return Err(taken_over(table));
        }
        Ok(())
    }

    pub(super) async fn end_parts(
        &mut self,
        making: Making<'_>,
        copy: &PartialCopy,
        copied: &CopiedTable,
    ) -> Result<()> {
        let source = &making.route.schema.table;
        self.client.simple("BEGIN").await?;
        let Some(made) = self.forget_copy(source).await? else {
            return Err(taken_over(source));
        };
        if made {
            self.run_all(&making.ddl.key).await?;
        }
        if copy.cut.settles() {
            // Remembered also where nothing is left to make: rows that are there are a copy's.
            let mut left = copy.clone();
            if made {
                left.finish.clone_from(&making.ddl.after);
            }
            self.store_copy(source, made, &left).await?;
        } else if made {
            self.run_all(&making.ddl.after).await?;
        }
        self.register_table(&making.route.schema, copied)?;
        self.sync().await?;
        failpoint("pg.parts.before_end")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.parts.ended")?;
        // Indexes made after the rows were not there when the catalog was read.
        self.forget_target(&making.route.target);
        Ok(())
    }

    pub(super) async fn finish_parts(&mut self, table: &TableName) -> Result<()> {
        self.client.simple("BEGIN").await?;
        let rows = self
            .on_copy("SELECT copy FROM repl.copies", table, &[])
            .await?;
        let copy = PartialCopy::from_json(text(&rows, 0, 0));
        self.run_all(&copy.map(|copy| copy.finish).unwrap_or_default())
            .await?;
        self.forget_copy(table).await?;
        failpoint("pg.parts.before_finish")?;
        self.client.simple("COMMIT").await?;
        failpoint("pg.parts.finished")?;
        self.forget_targets();
        Ok(())
    }
}
