//! By what the stream covers each table, and since when all of its writers are seen.
//!
//! A table is in the stream because of a row of `pg_publication_rel`, which is another one, by its OID,
//! once the table was taken out, filtered or had its columns listed, and of a row of `pg_publication`,
//! whose version is another one, by its `xmin`, once an option of the publication was changed.
//! Neither is changed by anything else, VACUUM (FREEZE, FULL) included. The rest that could keep a change
//! out of the stream is refused by the server as long as the table is published: `SET UNLOGGED`, and
//! updates of a table without a replica identity.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Row;

use super::admin::Admin;
use super::catalog::CatalogTable;
use super::catalog_error::from_sqlx;
use crate::seam::Result;

/// By what each published table is covered, by the table's OID as its incarnation has it.
pub(super) type Coverage = HashMap<String, String>;

/// The tables whose coverage began while nobody wrote to them, or whose writers of then have ended: one
/// that wrote to a table before it was covered is in no stream, and in no snapshot before it ends.
#[derive(Clone, Default)]
pub(super) struct Settled {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    settled: Coverage,
    /// The coverage that was found, and the transactions that were writing then.
    awaited: HashMap<String, (String, BTreeSet<String>)>,
}

impl Settled {
    /// What covers these tables is known to have begun without writers.
    pub(super) fn accept<'a>(&self, tables: impl Iterator<Item = &'a CatalogTable>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for table in tables.filter(|table| !table.coverage.is_empty()) {
            let oid = &table.schema.incarnation;
            known.settled.insert(oid.clone(), table.coverage.clone());
        }
    }

    /// Says of the tables whose writers of before have not ended that they wait.
    ///
    /// # Errors
    /// When the server cannot be asked who writes.
    pub(super) async fn judge(&self, admin: &mut Admin, tables: &mut [CatalogTable]) -> Result<()> {
        let open: Vec<i64> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let is_open = |table: &&CatalogTable| {
                let settled = known.settled.get(&table.schema.incarnation);
                !table.coverage.is_empty() && settled != Some(&table.coverage)
            };
            let oids = tables.iter().filter(is_open);
            oids.filter_map(|table| table.schema.incarnation.parse().ok())
                .collect()
        };
        if open.is_empty() {
            return Ok(());
        }
        let mut writers = admin.writers(&open).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let open: BTreeSet<String> = open.iter().map(i64::to_string).collect();
        for table in tables {
            let oid = table.schema.incarnation.clone();
            table.waits.clear();
            if !open.contains(&oid) {
                continue;
            }
            let now = writers.remove(&oid).unwrap_or_default();
            let before = match known.awaited.remove(&oid) {
                Some((coverage, before)) if coverage == table.coverage => {
                    before.intersection(&now).cloned().collect()
                }
                _ => now,
            };
            if before.is_empty() {
                known.settled.insert(oid, table.coverage.clone());
                continue;
            }
            table.waits = format!(
                "{} transactions that wrote to it before it was in the stream have not ended",
                before.len()
            );
            known.awaited.insert(oid, (table.coverage.clone(), before));
        }
        Ok(())
    }
}

impl Admin {
    /// By what the publication covers its tables; none when there is no publication.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub(super) async fn coverage(&mut self) -> Result<Coverage> {
        let read = |e: sqlx::Error| from_sqlx(&e, "reading the publication");
        let rows = sqlx::query(
            "SELECT r.prrelid::text AS oid, p.xmin::text || '.' || r.oid::text AS coverage
               FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
              WHERE p.pubname = $1",
        )
        .bind(self.publication().to_owned())
        .fetch_all(&mut self.connection)
        .await
        .map_err(read)?;
        rows.iter()
            .map(|row| Ok((row.try_get("oid")?, row.try_get("coverage")?)))
            .collect::<sqlx::Result<_>>()
            .map_err(read)
    }

    /// The transactions, prepared ones included, that write to these tables.
    async fn writers(&mut self, oids: &[i64]) -> Result<HashMap<String, BTreeSet<String>>> {
        let read = |e: sqlx::Error| from_sqlx(&e, "looking for transactions that write");
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT l.relation::text, l.virtualtransaction
               FROM pg_locks l JOIN pg_database d ON d.oid = l.database
              WHERE d.datname = current_database() AND l.locktype = 'relation' AND l.granted
                AND l.mode IN ('RowExclusiveLock', 'AccessExclusiveLock')
                AND l.relation::int8 = ANY($1)",
        )
        .bind(oids)
        .fetch_all(&mut self.connection)
        .await
        .map_err(read)?;
        let mut writers: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (oid, transaction) in rows {
            writers.entry(oid).or_default().insert(transaction);
        }
        Ok(writers)
    }
}
