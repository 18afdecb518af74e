//! Content of a PostgreSQL database, computed by the server.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{BUCKETS, Content, Digest};
use crate::pg::{PgServer, Role, Session};

/// Schemas that hold no application data. `repl` is where the daemon keeps its checkpoint,
/// `repl_audit` what the harness counts on replicas.
const OWN_SCHEMAS: &str = "'pg_catalog', 'information_schema', 'repl', 'repl_audit'";

/// Every setting that changes a value's text form, fixed equally on both sides. The last lines
/// also make the planner's and the collation's choices irrelevant to the result.
const SETTINGS: &str = "\
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET lc_numeric = 'C';
SET xmloption = 'content'; SET search_path = pg_catalog; SET row_security = off;
SET statement_timeout = 0; SET standard_conforming_strings = on;
";

pub(super) struct PgContent<'a> {
    server: &'a PgServer,
    database: &'a str,
    // Opened at the first question and again after an error (the server may have been restarted).
    session: RefCell<Option<Session>>,
}

impl<'a> PgContent<'a> {
    pub(super) fn new(server: &'a PgServer, database: &'a str) -> Self {
        Self {
            server,
            database,
            session: RefCell::new(None),
        }
    }

    /// Runs a query for one text.
    fn ask(&self, sql: &str) -> Result<String> {
        let open = self.session.borrow_mut().take();
        let mut session = match open {
            Some(session) => session,
            None => {
                let mut fresh =
                    Session::open(&self.server.socket_url(self.database, Role::Superuser))?;
                fresh.execute(SETTINGS)?;
                fresh
            }
        };
        let answer = session
            .scalar(sql)
            .with_context(|| format!("in {}: {sql}", self.label()))?;
        self.session.replace(Some(session));
        answer.with_context(|| format!("NULL in {} for {sql}", self.label()))
    }

    /// A query of one column `r`, the row's lossless text: composite output keeps NULL (nothing)
    /// and an empty string (`""`) apart and quotes what is ambiguous.
    fn rows_query(table: &str, columns: &[String]) -> String {
        if columns.is_empty() {
            return format!("SELECT '()' AS r FROM {table}");
        }
        let list: Vec<String> = columns.iter().map(|name| quote(name)).collect();
        // Alias t: a column may have the table's name.
        let list = list.join(", t.");
        format!("SELECT ROW(t.{list})::text COLLATE \"C\" AS r FROM {table} t")
    }
}

impl Content for PgContent<'_> {
    fn label(&self) -> String {
        format!("PostgreSQL {}/{}", self.server.name(), self.database)
    }

    fn tables(&self) -> Result<Vec<String>> {
        // Partitions are read through their root; format(%I) is the quoting `table` arguments use.
        let text = self.ask(&format!(
            "SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname)
                             ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"), '[]')::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
               AND n.nspname NOT IN ({OWN_SCHEMAS}) AND n.nspname !~ '^pg_'"
        ))?;
        serde_json::from_str(&text).with_context(|| format!("list of tables {text:?}"))
    }

    fn columns(&self, table: &str) -> Result<Vec<String>> {
        let literal = table.replace('\'', "''");
        let text = self.ask(&format!(
            "SELECT coalesce(json_agg(attname ORDER BY attname COLLATE \"C\"), '[]')::text
             FROM pg_attribute
             WHERE attrelid = '{literal}'::regclass AND attnum > 0 AND NOT attisdropped"
        ))?;
        serde_json::from_str(&text).with_context(|| format!("columns of {table}: {text:?}"))
    }

    fn digest(&self, table: &str, columns: &[String]) -> Result<Digest> {
        let rows = Self::rows_query(table, columns);
        let text = self.ask(&format!(
            "SELECT json_build_array(count(*), coalesce(sum(hashtextextended(r, 7)::numeric), 0)::text)::text
             FROM ({rows}) q"
        ))?;
        let (rows, sum) = serde_json::from_str(&text).with_context(|| format!("digest {text}"))?;
        Ok(Digest { rows, sum })
    }

    fn bucket_digests(&self, table: &str, columns: &[String]) -> Result<BTreeMap<usize, Digest>> {
        let rows = Self::rows_query(table, columns);
        let text = self.ask(&format!(
            "SELECT coalesce(json_agg(json_build_array(b, n, s)), '[]')::text
             FROM (SELECT h & {mask} AS b, count(*) AS n, sum(h::numeric)::text AS s
                   FROM (SELECT hashtextextended(r, 7) AS h FROM ({rows}) q) p GROUP BY 1) g",
            mask = BUCKETS - 1
        ))?;
        let buckets: Vec<(usize, u64, String)> =
            serde_json::from_str(&text).with_context(|| format!("buckets {text}"))?;
        Ok(buckets
            .into_iter()
            .map(|(bucket, rows, sum)| (bucket, Digest { rows, sum }))
            .collect())
    }

    fn bucket_rows(&self, table: &str, columns: &[String], bucket: usize) -> Result<Vec<String>> {
        let rows = Self::rows_query(table, columns);
        let text = self.ask(&format!(
            "SELECT coalesce(json_agg(r), '[]')::text FROM ({rows}) q
             WHERE hashtextextended(r, 7) & {mask} = {bucket}",
            mask = BUCKETS - 1
        ))?;
        serde_json::from_str(&text).context("the rows of a bucket")
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
