//! Counting the rows that a COPY put into its table, where the server can still refuse the transaction.
//!
//! COPY tells its count to the client only, and by then the pipeline's COMMIT may have been executed. But
//! the server counts, for its statistics, the rows that a transaction inserts into each table. What
//! that counter says before the COPY and after it is compared by the statement behind it.

use std::sync::Arc;

use super::metadata::Target;
use super::queue::Label;
use super::session::Session;
use super::sql::{Kind, MARK};
use crate::seam::Result;

impl Session {
    /// Whether rows go into the table by COPY: not if nothing could count them.
    pub(super) fn can_copy(&self, target: &Target) -> bool {
        self.counts_rows && target.countable && !target.columns.is_empty()
    }

    /// Starts a COPY into the table, whose rows [`Session::end_copy`] verifies.
    pub(super) fn start_copy(&mut self, target: &Arc<Target>, option: &str) -> Result<()> {
        self.push(&target.count_before(), &[], Label::Other)?;
        let into = target.statement(Kind::CopyIn, &[]);
        let label = Label::Rows("insert", Arc::clone(target), None);
        self.push_copy(&format!("{into}{option}"), label)
    }

    /// Ends it; the transaction fails unless it has put so many rows into the table.
    pub(super) fn end_copy(&mut self, target: &Arc<Target>, rows: u64) -> Result<()> {
        self.client.copy_done();
        let rows = rows.to_string();
        let label = Label::Rows("insert", Arc::clone(target), None);
        self.push(&target.count_after(), &[Some(rows.as_bytes())], label)
    }
}

impl Target {
    /// How many rows the session's present transaction (and those that the server has not yet taken
    /// into its statistics) has inserted.
    fn inserted(&self) -> String {
        let oid = &self.oid;
        match self.partitioned {
            false => format!("pg_catalog.pg_stat_get_xact_tuples_inserted({oid})"),
            true => format!(
                "(SELECT coalesce(sum(pg_catalog.pg_stat_get_xact_tuples_inserted(p.relid)), 0)::int8 \
                 FROM pg_catalog.pg_partition_tree({oid}) AS p WHERE p.isleaf)"
            ),
        }
    }

    fn count_before(&self) -> String {
        let now = self.inserted();
        format!("SELECT pg_catalog.set_config('repl.inserted', ({now})::text, true)")
    }

    fn count_after(&self) -> String {
        format!(
            "SELECT CASE WHEN q.n = $1::int8 THEN 1 ELSE \
             ('{MARK}expected ' || $1::int8 || ' rows, found ' || q.n)::int4 END FROM (SELECT {} - \
             pg_catalog.current_setting('repl.inserted')::int8 AS n) AS q",
            self.inserted()
        )
    }
}
