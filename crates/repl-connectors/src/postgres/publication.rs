//! Refuses a publication that leaves out changes, with what mends it and loses none.

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use sqlx::Row;

use super::admin::Admin;
use super::catalog_error::from_sqlx;
use crate::seam::{ConnectorError, Result};

/// Row filters and column lists came with PostgreSQL 15.
const FILTERS: i32 = 150_000;

impl Admin {
    /// Refuses a publication that would lose changes. What it lost meanwhile is noticed by the coverage
    /// of its tables, which any of this changes.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`].
    pub(super) async fn check_publication(&mut self) -> Result<()> {
        let read = |e: sqlx::Error| from_sqlx(&e, "reading the publication");
        let row = sqlx::query(
            "SELECT puballtables, pubviaroot,
                    pubinsert AND pubupdate AND pubdelete AND pubtruncate AS whole
               FROM pg_publication WHERE pubname = $1",
        )
        .bind(self.publication().to_owned())
        .fetch_one(&mut self.connection)
        .await
        .map_err(read)?;
        let flag = |column: &str| row.try_get::<bool, _>(column).map_err(read);
        let (all, whole, via_root) = (flag("puballtables")?, flag("whole")?, flag("pubviaroot")?);
        let narrowed = self.narrowed().await?;
        let name = quote_identifier(self.publication());
        let refused = |what: String, advice: String| {
            let what = format!("publication {name} {what}: changes would be lost");
            Err(ConnectorError::new(ErrorKind::Configuration, what).advice(advice))
        };
        if all {
            return refused(
                "is FOR ALL TABLES, and so would break writes to tables without a key; tables cannot \
                 be left out of it"
                    .into(),
                format!(
                    "set capture.publication_name to another name; or, where nothing else uses this \
                     one, run: BEGIN; DROP PUBLICATION {name}; CREATE PUBLICATION {name}; COMMIT;"
                ),
            );
        }
        if !whole || via_root {
            return refused(
                match whole {
                    false => "leaves out an operation".into(),
                    true => "publishes via the partition root".into(),
                },
                format!(
                    "run: ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate', \
                     publish_via_partition_root = false);  the tables are then compared with the \
                     primary"
                ),
            );
        }
        if !narrowed.is_empty() {
            let names: Vec<String> = narrowed.iter().map(TableName::to_string).collect();
            let each = |table: &TableName| format!("ONLY {}", table.quoted());
            let tables: Vec<String> = narrowed.iter().map(each).collect();
            let tables = tables.join(", ");
            return refused(
                format!(
                    "has row filters or column lists for {}",
                    super::role::listed(&names)
                ),
                format!(
                    "run: ALTER PUBLICATION {name} DROP TABLE {tables};  ALTER PUBLICATION {name} ADD \
                     TABLE {tables};  they are then compared with the primary"
                ),
            );
        }
        Ok(())
    }

    /// The tables of which not every row, or column, is published.
    async fn narrowed(&mut self) -> Result<Vec<TableName>> {
        if self.version < FILTERS {
            return Ok(Vec::new());
        }
        let read = |e: sqlx::Error| from_sqlx(&e, "reading the publication");
        let sql = "SELECT n.nspname::text, c.relname::text
                     FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                     JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE p.pubname = $1 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)
                    ORDER BY 1, 2";
        let rows: Vec<(String, String)> = sqlx::query_as(sql)
            .bind(self.publication().to_owned())
            .fetch_all(&mut self.connection)
            .await
            .map_err(read)?;
        let name = |(schema, name)| TableName::new(schema, name);
        Ok(rows.into_iter().map(name).collect())
    }
}
