//! The rules of replication: change model, durable log, net-change reduction, table selection,
//! membership and retry.
//!
//! Nothing here knows a database driver, an async runtime, a socket or the wall clock: time and
//! randomness are arguments. Connectors and the daemon build on these types; the line between
//! what is *captured*, *durable*, *applied*, *acknowledged* and *trimmed* is drawn in [`log`].

pub mod backoff;
pub mod batch;
pub mod change;
pub mod checkpoint;
pub mod codec;
pub mod convert;
pub mod copy;
pub mod cut;
pub mod deposed;
pub mod error;
pub mod failover;
pub mod failpoint;
pub mod log;
pub mod membership;
pub mod mode;
pub mod net;
pub mod position;
pub mod promotion;
pub mod record;
pub mod reselect;
pub mod row;
pub mod schema;
pub mod select;
pub mod spelling;
pub mod telling;
pub mod validate;

pub use error::{Directive, ErrorKind};
pub use position::{Epoch, LogId, Seq, SourcePosition};
