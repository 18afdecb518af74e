//! How long the indexes will take that are made once a table's rows are there.

use std::time::Duration;

use repl_connectors::seam::TableDdl;

/// Part of the time that loading took which an index is taken to need, until one has been made. An
/// index over numbers takes about half, one over texts twice as long (PostgreSQL 15).
const SHARE: f64 = 0.5;
/// But no more than this for a row, seconds: what held up the loading (a limit, the network) does not
/// hold up the indexes.
const MOST: f64 = 1e-6;

/// What indexes have taken in this round.
#[derive(Default)]
pub(super) struct Indexing {
    seconds: f64,
    /// Rows, once for each index.
    rows: u64,
}

impl Indexing {
    /// `indexes` of so many rows took this long.
    pub(super) fn made(&mut self, indexes: u64, rows: u64, took: Duration) {
        if indexes > 0 {
            self.seconds += took.as_secs_f64();
            self.rows += rows * indexes;
        }
    }

    /// Seconds an index of so many rows is expected to take, where they are loaded at `rows_per_s`.
    pub(super) fn expected(&self, rows: u64, rows_per_s: f64) -> f64 {
        let each = match self.rows {
            0 => (SHARE / rows_per_s).min(MOST),
            rows => self.seconds / rows as f64,
        };
        each * rows as f64
    }
}

/// How many indexes are made after the rows.
pub(super) fn indexes(ddl: &TableDdl) -> u64 {
    let words = [" INDEX ", " PRIMARY KEY ", " UNIQUE ", " EXCLUDE "];
    let makes = |statement: &&String| words.iter().any(|word| statement.contains(word));
    ddl.key.iter().chain(&ddl.after).filter(makes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experience_counts_more_than_the_assumption() {
        let mut indexing = Indexing::default();
        assert_eq!(indexing.expected(1_000_000, 1_000_000.0), 0.5);
        assert_eq!(indexing.expected(1_000_000, 1_000.0), 1.0);
        indexing.made(2, 100, Duration::from_secs(1));
        assert_eq!(indexing.expected(1_000, 1_000_000.0), 5.0);
        indexing.made(0, 100, Duration::from_secs(1));
        assert_eq!(indexing.expected(1_000, 1_000_000.0), 5.0);
    }

    #[test]
    fn what_makes_an_index_is_counted() {
        let ddl = TableDdl {
            key: vec!["ALTER TABLE t ADD CONSTRAINT t_pkey PRIMARY KEY (id)".into()],
            after: vec![
                "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)".into(),
                "ALTER TABLE t ADD CONSTRAINT u UNIQUE (a)".into(),
                "CREATE INDEX i ON t USING btree (a)".into(),
                "ALTER SEQUENCE s OWNED BY t.id".into(),
            ],
            ..TableDdl::default()
        };
        assert_eq!(indexes(&ddl), 3);
    }
}
