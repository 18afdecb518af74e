//! The SQLite connector against real database files, with writers of their own connections and,
//! where it is installed, the `sqlite3` program as another process.
#![cfg(feature = "sqlite")]
#![allow(clippy::result_large_err, clippy::unwrap_used, clippy::expect_used)]

mod applier;
mod conflicts;
mod harness;
mod history;
mod random;
mod schema_changes;
mod settings;
mod values;
mod volume;
