//! The MariaDB/MySQL applier against a real server.
//!
//! Each run starts a MariaDB server of its own. `REPL_TEST_MYSQL_SOCKET` names the socket of a
//! running server to use instead (as root without a password), e.g. MySQL's.

// Helpers of tests fail by panicking, as tests do.
#![cfg(feature = "mysql")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apply;
mod bounds;
#[cfg(feature = "failpoints")]
mod crash;
mod exactly_once;
mod fit;
mod fixture;
mod keyless;
mod load;
mod server;
mod settings;
mod tls;
mod values;
