//! PostgreSQL 14 and later.
//!
//! `wire` is our own client, because replication needs what general drivers lack; `apply` writes
//! to a replica. Everything the server says is input to be checked, everything we send is quoted
//! or bound.

pub mod error;
pub mod target;
pub mod wire;
