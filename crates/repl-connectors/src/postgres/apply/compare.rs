//! Making rows that are there equal to the source's, by writing only what differs.
//!
//! The source's rows go to a temporary table, and from there act on the table by three statements:
//! rows the source lacks are deleted, different ones updated, missing ones inserted. All is one
//! target transaction, so a reader sees the rows before or after it.

use std::sync::Arc;

use super::metadata::Target;
use super::session::Session;
use super::sql::join;
use super::store::text;
use crate::seam::{ConnectorError, Loaded, Result, Snapshot, Written};
use repl_core::ErrorKind;
use repl_core::schema::quote_identifier;

/// The temporary table.
const STAGE: &str = "pg_temp.repl_compare";

/// Unlike in the stream there are many rows, and joining them as sets is what planners do well.
const PLANS: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; \
    SET LOCAL enable_mergejoin = on";

impl Session {
    /// Makes the table's rows equal to those of the opened table or range, in the open transaction.
    /// `within` is the range as a condition on `t`; empty for all rows. The table has a key.
    pub(super) async fn compare(
        &mut self,
        target: &Arc<Target>,
        within: &str,
        source: &mut dyn Snapshot,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Loaded> {
        let names = target.names("");
        let make = format!(
            "CREATE TEMPORARY TABLE repl_compare ON COMMIT DROP AS SELECT {names} FROM {} \
             WITH NO DATA",
            target.own_rows
        );
        let made = self.client.simple(&make).await;
        made.map_err(|error| self.explain_stage(error))?;
        let into = format!("COPY {STAGE} ({names}) FROM STDIN");
        let rows = self
            .copy_from(target, Some(&into), source, progress)
            .await?;
        self.client.simple(&format!("ANALYZE {STAGE}")).await?;
        self.client.simple(PLANS).await?;
        // A row may need the unique value of another one, which must have given it up before.
        let alone = self.unique_indexes(&target.oid).await? == 1;
        let update = alone && !target.rewrite_updates;
        let written = Written {
            deleted: self.count_rows(&target.delete_extra(within)).await?,
            updated: match update {
                true => self.count_rows(&target.update_different(within)).await?,
                false => self.count_rows(&target.delete_different(within)).await?,
            },
            inserted: self.count_rows(&target.insert_missing(within)).await?,
        };
        self.verify_count(target, within, rows).await?;
        self.client.simple(&format!("DROP TABLE {STAGE}")).await?;
        let written = Some(if update { written } else { written.replaced() });
        Ok(Loaded { rows, written })
    }

    /// Whatever the statements say that they did: as many rows must be there as the source has.
    async fn verify_count(&mut self, target: &Target, within: &str, rows: u64) -> Result<()> {
        let condition = match within {
            "" => String::new(),
            within => format!(" WHERE {within}"),
        };
        let sql = format!("SELECT count(*) FROM {} AS t{condition}", target.own_rows);
        let counted = self.client.simple(&sql).await?;
        let found = text(&counted, 0, 0);
        if found == rows.to_string() {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Conflict,
            format!(
                "{}: table {} holds {found} rows after it was made equal to the primary's {rows}",
                self.client.server(),
                target.route.target
            ),
        )
        .table(target.route.target.to_string())
        .advice(
            "a trigger or rule of the replica keeps rows out or puts others in: one that is ENABLE ALWAYS or \
             ENABLE REPLICA acts on replicated rows. Switch it off and `replctl retry`",
        ))
    }

    /// Runs a statement that returns a row for each it wrote, and counts them there.
    async fn count_rows(&mut self, sql: &str) -> Result<u64> {
        let counted = format!("WITH written AS ({sql} RETURNING 1) SELECT count(*) FROM written");
        let rows = self.client.simple(&counted).await?;
        let wrong = || ConnectorError::new(ErrorKind::Internal, "a count without a number");
        text(&rows, 0, 0).parse().map_err(|_| wrong())
    }

    fn explain_stage(&self, mut error: ConnectorError) -> ConnectorError {
        if error.kind == ErrorKind::Privilege {
            error.advice = format!(
                "GRANT TEMPORARY ON DATABASE {} TO {}; then `replctl retry`",
                quote_identifier(&self.config.target.database),
                quote_identifier(&self.config.target.user)
            );
        }
        error
    }
}

impl Target {
    /// The images' columns in their order, each behind `lead`.
    fn names(&self, lead: &str) -> String {
        join(&self.columns, ", ", |_, column| {
            format!("{lead}{}", quote_identifier(&column.name))
        })
    }

    /// The key's columns in the key's order, each behind `lead`.
    pub(super) fn key_names(&self, lead: &str) -> Vec<String> {
        let name = |at: &usize| format!("{lead}{}", quote_identifier(&self.columns[*at].name));
        self.key.iter().map(name).collect()
    }

    /// One row of the table and one of the source have the same key.
    fn same_key(&self) -> String {
        let (staged, own) = (self.key_names("s."), self.key_names("t."));
        join(&self.equals, " AND ", |at, equals| {
            format!("{} {equals} {}", staged[at], own[at])
        })
    }

    /// They are the same bit by bit: equality would hold `1.0` and `1.00` to be the same, and not
    /// every type has one.
    fn same_row(&self) -> String {
        format!(
            "ROW({})::record OPERATOR(pg_catalog.*=) ROW({})::record",
            self.names("s."),
            self.names("t.")
        )
    }

    fn delete_extra(&self, within: &str) -> String {
        format!(
            "DELETE FROM {} AS t WHERE {}NOT EXISTS (SELECT FROM {STAGE} AS s WHERE {})",
            self.own_rows,
            and(within),
            self.same_key()
        )
    }

    fn delete_different(&self, within: &str) -> String {
        format!(
            "DELETE FROM {} AS t USING {STAGE} AS s WHERE {}{} AND NOT ({})",
            self.own_rows,
            and(within),
            self.same_key(),
            self.same_row()
        )
    }

    fn update_different(&self, within: &str) -> String {
        let writable: Vec<&str> = self
            .columns
            .iter()
            .filter(|column| !column.identity_always)
            .map(|column| column.name.as_str())
            .collect();
        if writable.is_empty() {
            // Rows of the same key are equal.
            return self.delete_different(&format!("{}false", and(within)));
        }
        format!(
            "UPDATE {} AS t SET {} FROM {STAGE} AS s WHERE {}{} AND NOT ({})",
            self.own_rows,
            join(&writable, ", ", |_, name| {
                let name = quote_identifier(name);
                format!("{name} = s.{name}")
            }),
            and(within),
            self.same_key(),
            self.same_row()
        )
    }

    fn insert_missing(&self, within: &str) -> String {
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {STAGE} AS s \
             WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {}{})",
            self.name,
            self.names(""),
            self.names("s."),
            self.own_rows,
            and(within),
            self.same_key()
        )
    }
}

#[cfg(test)]
impl Target {
    /// All statements of a comparison.
    pub(super) fn comparing(&self) -> Vec<String> {
        let all = [
            Self::delete_extra,
            Self::delete_different,
            Self::update_different,
            Self::insert_missing,
        ];
        all.map(|statement| statement(self, "")).into()
    }
}

/// A condition with more to follow.
fn and(condition: &str) -> String {
    match condition {
        "" => String::new(),
        condition => format!("{condition} AND "),
    }
}
