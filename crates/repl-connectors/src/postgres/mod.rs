//! PostgreSQL 14 and later.
//!
//! `wire` is our own client, because replication needs what general drivers lack; `apply` writes
//! to a replica. Everything the server says is input to be checked, everything we send is quoted
//! or bound.

pub mod admin;
pub mod apply;
mod bulk;
pub mod capture;
mod catalog;
mod catalog_error;
mod collations;
mod composites;
mod coverage;
mod ddl;
mod describe;
mod details;
mod divide;
mod enums;
pub mod error;
mod frozen;
pub mod gate;
mod hidden;
mod house;
mod images;
pub mod lsn;
mod pgoutput;
mod publication;
mod rights;
pub mod role;
mod room;
pub mod settings;
mod slot;
pub mod snapshot;
mod standby;
mod stream;
pub mod target;
mod types;
mod verify;
mod weaker;
pub mod wire;
