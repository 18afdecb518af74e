//! Rows and tables from one engine's form into another's.
//!
//! A [`TablePlan`] is made once per table and replica. It decides for every column, by an explicit
//! table of types (`docs/TYPES.md` shows it), into which type and form its values go, and
//! converts rows by precomputed encoders. Nothing is changed silently: a column that
//! cannot be carried is a [`Refusal`] before anything starts, a single value that cannot be
//! represented is a [`ConvertError`], and a loss is only ever one that an [`Allowance`] declares.
//!
//! Rows arrive in the source's own form — PostgreSQL's text output under the connector's pinned
//! settings (UTC, ISO dates, `postgres` intervals, hexadecimal `bytea`, shortest exact floats, C
//! monetary locale), SQLite's storage classes — and leave in the form the target's applier takes:
//!
//! * PostgreSQL: every value as text in its input syntax;
//! * SQLite: storage classes;
//! * MySQL and MariaDB: integers, doubles, bytes, and everything else as text.
//!
//! [`ddl`] makes the tables for the same plan.

pub mod back;
pub mod ddl;
mod draft;
mod encode;
mod identifier;
pub mod keys;
mod kind;
mod mapping;
mod options;
mod plan;
mod postgres;
pub mod shape;
mod sqlite;
#[cfg(test)]
mod tests;
mod width;

use std::fmt;

pub use identifier::{check_identifier, quote, quote_table, table_collisions};
pub use mapping::Fidelity;
pub use options::{Allowance, ConvertOptions, Exclusion, MysqlFlavor, Rule};
pub use plan::{ColumnPlan, ConvertError, Refusal, TablePlan};

/// A database engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    /// PostgreSQL 14 or newer.
    Postgres,
    /// MySQL 8.0 or MariaDB 10.6, or newer.
    Mysql,
    /// SQLite 3.
    Sqlite,
}

impl Engine {
    /// All engines.
    pub const ALL: [Engine; 3] = [Engine::Postgres, Engine::Mysql, Engine::Sqlite];

    /// The name as the log's schemas and the configuration write it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Postgres => "postgres",
            Engine::Mysql => "mysql",
            Engine::Sqlite => "sqlite",
        }
    }

    /// The engine of that name.
    pub fn from_name(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Postgres => "PostgreSQL",
            Engine::Mysql => "MySQL/MariaDB",
            Engine::Sqlite => "SQLite",
        })
    }
}
