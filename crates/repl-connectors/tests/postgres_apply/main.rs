//! The PostgreSQL wire client and applier against a real server.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apply;
mod bounds;
mod bulk;
mod constraints;
mod counts;
mod exactly_once;
mod fixture;
mod keyless;
mod load;
mod pipelined;
mod server;
mod settings;
mod values;
mod wire;
