//! What a change of primary asks of the nodes it concerns.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use repl_core::SourcePosition;
use repl_core::deposed::{Deposed, Found};
use repl_core::position::SourceIdentity;
use repl_core::schema::{Column, TableName, TableSchema, quote_identifier};
use repl_core::select::Selection;
use serde::{Deserialize, Serialize};

use super::{Result, SourceTable, StraySink};

/// The part a node has in a change of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It was the primary, and becomes a replica.
    HandsOver,
    /// It was a replica, and becomes the primary.
    TakesOver,
}

/// Something that speaks against a change of primary, or that it does not carry over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// It cannot be done like this; otherwise it is only said.
    pub blocks: bool,
    /// What was found.
    pub what: String,
    /// What to do; empty when there is nothing to do.
    pub remedy: String,
}

impl Finding {
    /// Something that makes it impossible.
    pub fn blocker(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            blocks: true,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A table that is to be there.
    pub fn missing(name: &TableName) -> Finding {
        let remedy = format!("copy it there: replctl resync, or exclude {name} from the selection");
        Finding::blocker(format!("table {name} is not there"), remedy)
    }

    /// A column that the table has there and the primary's has not; `same` compares names. With it
    /// would return what was dropped at the primary.
    pub fn superfluous(
        wanted: &TableSchema,
        here: &TableSchema,
        same: impl Fn(&str, &str) -> bool,
    ) -> Option<Finding> {
        let known = |one: &&Column| wanted.columns.iter().any(|c| same(&c.name, &one.name));
        let more = here.columns.iter().find(|one| !known(one))?;
        let name = &wanted.table;
        let what = format!(
            "table {name} has a column {} there, which the primary has not (any more)",
            more.name
        );
        let remedy = format!(
            "what it holds is nowhere else: add the column at the primary, or drop {} of {} there if nobody needs it",
            quote_identifier(&more.name),
            name.quoted()
        );
        Some(Finding::blocker(what, remedy))
    }

    /// Something worth knowing.
    pub fn note(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            blocks: false,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// Where a sequence stands at the old primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Name of the sequence.
    pub name: TableName,
    /// The table and column it belongs to, by which it is found where it has another name.
    pub owner: Option<(TableName, String)>,
    /// The last value given out; none when none was.
    pub last: Option<i64>,
    /// Step; negative where it counts down.
    pub increment: i64,
}

/// What a primary tells while it lives, for the time when it does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Everything before this is durable there.
    pub position: SourcePosition,
    /// Where its sequences stand.
    pub counters: Vec<Counter>,
}

/// Where capture begins at a new primary: nothing written from there on is missed.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptureStart {
    /// The server.
    pub source: SourceIdentity,
    /// Position before everything that will be captured.
    pub position: SourcePosition,
    /// Its selected tables, with incarnations in the server's own words.
    pub tables: Vec<SourceTable>,
}

/// One node, as far as its role is concerned. Every call may be repeated; a node that cannot be
/// reached is an error of the kind `Connection`.
#[async_trait]
pub trait RoleSwitch: Send + Sync {
    /// What speaks against the part that is meant for this node, with these tables replicated.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn findings(&self, part: Part, tables: &[SourceTable]) -> Result<Vec<Finding>>;

    /// What the database holds beside rows and tables that applications may rely on, as kind and name:
    /// whatever the old primary has of it, and the new one has not, was not carried over.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn beside(&self) -> Result<BTreeSet<(String, String)>>;

    /// Has these tables refuse every write that is not the daemon's own, and verifies that they do.
    /// When this returns, each write that was ever accepted is committed or gone. Locks are waited
    /// for no longer than `patience`; after an error the node takes writes as before. With `sessions`
    /// other sessions are ended. Returns what could not be done beside that.
    ///
    /// # Errors
    /// When it cannot be done in that time; names who is in the way.
    async fn close(
        &self,
        tables: &[TableName],
        sessions: bool,
        patience: Duration,
    ) -> Result<Vec<String>>;

    /// Answers, over a connection that is kept for this.
    ///
    /// # Errors
    /// When it does not. An answer that is a refusal for want of connections is an answer.
    async fn answer(&self) -> Result<()>;

    /// As [`RoleSwitch::close`] for a primary whose place was taken while it could not be asked: its
    /// clients are sent away before anything else, and again as long as they are in the way.
    ///
    /// # Errors
    /// As [`RoleSwitch::close`]; it goes on refusing what it refuses by then.
    async fn depose(&self, tables: &[TableName], patience: Duration) -> Result<Vec<String>>;

    /// What a deposed primary, which refuses writes, has committed beyond the log's last position of
    /// its epoch, passed on to `sink` change by change. Nothing there is altered.
    ///
    /// # Errors
    /// When it cannot be asked now.
    async fn beyond(&self, deposed: &Deposed, sink: &mut dyn StraySink) -> Result<Found>;

    /// Takes writes again.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn open(&self) -> Result<()>;

    /// Whether these tables, as far as they are here, refuse writes already.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn is_closed(&self, tables: &[TableName]) -> Result<bool>;

    /// A position behind everything that is committed here, which the capture will soon be told.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn end(&self) -> Result<SourcePosition>;

    /// How many bytes of history lie between two positions of this engine; none when that is not
    /// known.
    fn distance(&self, from: &SourcePosition, to: &SourcePosition) -> Option<u64>;

    /// Whether its commits can be made to wait for others. Where they cannot, only clients that ask know what is
    /// on the replicas.
    fn commits_can_wait(&self) -> bool;

    /// Whether every commit here waits for the daemon, as far as settings tell; nothing is altered.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn all_commits_wait(&self) -> Result<bool>;

    /// What to know of it when it cannot be asked any more.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn sample(&self) -> Result<Sample>;

    /// The furthest values in the columns that sequences serve here, as counters of these sequences:
    /// for a primary whose own cannot be read. Columns that could not be read within `patience` are
    /// named.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn used(&self, patience: Duration) -> Result<(Vec<Counter>, Vec<String>)>;

    /// Where the sequences stand.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn counters(&self) -> Result<Vec<Counter>>;

    /// Sets the sequences that are here too to at least `margin` steps beyond `counters` and their own
    /// state, and verifies it. Returns what is to be known of single ones.
    ///
    /// # Errors
    /// When one could not be set.
    async fn advance(&self, counters: &[Counter], margin: u64) -> Result<Vec<String>>;

    /// Readies what capture needs and what takes no effect yet: the publication.
    ///
    /// # Errors
    /// When the node cannot be captured from.
    async fn prepare_capture(&self, selection: &Selection) -> Result<()>;

    /// Begins anew what capture reads from, whatever was left of an earlier time, within `patience`.
    ///
    /// # Errors
    /// When the node cannot be captured from.
    async fn begin_capture(
        &self,
        selection: &Selection,
        patience: Duration,
    ) -> Result<CaptureStart>;

    /// From when it takes writes on, these tables take only values that have a place in these shapes, which
    /// are of another engine; as far as the engine can see to that.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn keep_forms(&self, _forms: &[TableSchema]) -> Result<()> {
        Ok(())
    }

    /// Removes what capture left here: no commit waits for the daemon, no history is kept for it.
    /// Returns what was done.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn end_capture(&self) -> Result<Vec<String>>;
}

#[cfg(test)]
mod tests {
    use repl_core::schema::{Identity, SchemaId};

    use super::*;

    fn table(columns: &[&str]) -> TableSchema {
        let column = |name: &&str| Column::new(*name, "int", 0, true);
        TableSchema {
            id: SchemaId(1),
            engine: "sqlite".into(),
            table: TableName::new("main", "t"),
            incarnation: String::new(),
            columns: columns.iter().map(column).collect(),
            identity: Identity::FullRow,
            generated: Vec::new(),
        }
    }

    #[test]
    fn a_column_too_many_is_told_by_the_engines_own_way_to_compare_names() {
        let (wanted, here) = (table(&["a", "B"]), table(&["a", "b"]));
        let any_case = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        assert_eq!(Finding::superfluous(&wanted, &here, any_case), None);
        let found = Finding::superfluous(&wanted, &here, |a, b| a == b).unwrap();
        assert!(found.blocks);
        assert!(
            found.remedy.contains(r#"drop "b" of "main"."t""#),
            "{found:?}"
        );
        // One that is missing is not one too many.
        assert_eq!(Finding::superfluous(&here, &table(&["a"]), any_case), None);
    }
}
