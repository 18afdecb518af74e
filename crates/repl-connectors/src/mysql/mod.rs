//! MariaDB (10.6 or later) and MySQL (8.0 or later) as replicas.
//!
//! [`apply`] writes the changes. The account of a replica needs, with `app` standing for each
//! database that is written:
//!
//! ```sql
//! CREATE USER repl@'%' IDENTIFIED BY '…' REQUIRE SSL;
//! GRANT ALL PRIVILEGES ON repl.* TO repl@'%';       -- checkpoint, registry, staging tables
//! GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON app.* TO repl@'%';
//! GRANT CREATE, DROP, ALTER, INDEX, REFERENCES ON app.* TO repl@'%';  -- if tables are made by us
//! ```
//!
//! TRIGGER is needed to *see* triggers: without it the server hides them. Where the database `repl`
//! is not to be had, its tables go to the replica's own database under names that begin with `repl_`
//! (`repl_checkpoint`, `repl_tables`, `repl_loads`, `repl_copies`, `repl_copy_parts`), and the
//! account needs `CREATE, CREATE TEMPORARY TABLES` there.
//!
//! # Triggers
//! The server cannot turn a table's triggers off for one session, and their effects arrive from the
//! source already. A table with triggers is refused unless each of them looks at the session
//! variable `@repl_daemon_apply`, which is 1 in our sessions and NULL in all others:
//!
//! ```sql
//! CREATE TRIGGER t_audit AFTER INSERT ON t FOR EACH ROW
//! BEGIN
//!   IF @repl_daemon_apply IS NULL THEN INSERT INTO audit VALUES (NEW.id); END IF;
//! END
//! ```
//!
//! # Not found here
//! No value is ever part of a statement's text, no `REPLACE` and no `ON DUPLICATE KEY UPDATE` is
//! used: both act on whatever row has an equal value in *any* unique key.

// Errors are rare, and made for people: their size does not matter.
#![allow(clippy::result_large_err)]

pub mod admin;
pub mod apply;
mod error;
pub mod settings;
pub mod target;
