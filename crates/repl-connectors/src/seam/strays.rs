//! What a deposed primary has committed beyond the log, row by row.

use std::collections::BTreeMap;

use repl_core::SourcePosition;
use repl_core::row;
use repl_core::schema::TableName;
use repl_core::spelling::spell;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Result;

/// What was done to a row, or to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrayOp {
    /// A row appeared.
    Insert,
    /// A row changed.
    Update,
    /// A row went.
    Delete,
    /// The table was emptied.
    Truncate,
}

/// One change that the log never saw. Values are the engine's own text; what was not sent because it
/// did not change is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stray {
    /// The server's number of the transaction.
    pub transaction: u64,
    /// When that was committed, microseconds since the Unix epoch.
    pub committed_us: i64,
    /// Where in the server's history.
    pub position: SourcePosition,
    /// The table.
    pub table: TableName,
    /// What was done.
    pub op: StrayOp,
    /// The row before, or its key, where it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Map<String, Value>>,
    /// The row after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Map<String, Value>>,
    /// The key of each of them, exactly; one that is not wholly known is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<StrayKey>,
}

/// The values of a key by their columns' names, as [`repl_core::spelling`] writes them: what people read of a
/// row does not tell every value apart.
pub type StrayKey = BTreeMap<String, String>;

/// The key of these columns; none without one, and where a value is NULL or was not sent.
pub fn stray_key<'a>(columns: impl Iterator<Item = (&'a str, row::Value<'a>)>) -> Option<StrayKey> {
    let spelled = columns.map(|(name, value)| Some((name.to_owned(), spell(value)?)));
    let key: Option<StrayKey> = spelled.collect();
    key.filter(|key| !key.is_empty())
}

/// Takes them, in order.
pub trait StraySink: Send {
    /// Takes the next one.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn stray(&mut self, stray: Stray) -> Result<()>;
}
