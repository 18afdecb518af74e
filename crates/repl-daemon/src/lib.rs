//! The daemon's host: takes a configuration and a shutdown signal and runs one replication group.
//!
//! The flow of a change, by module: [`capture_task`] keeps the capture running, which writes to
//! the event log; [`flusher`] makes the log durable; one [`worker`] per replica applies it;
//! [`retention`] trims what all have applied. [`admin`] and [`control`] serve the operator,
//! [`status`] says what is going on. [`wiring`] is the only module that names an engine.

pub mod admin;
pub mod capture_task;
pub mod clock;
pub mod config;
pub mod control;
pub mod conversion;
pub mod coverage;
mod document;
pub mod errors;
pub mod failover;
pub mod flusher;
pub mod follow;
pub mod guard;
mod handles;
pub mod ingest;
pub mod ledger;
pub mod logview;
pub mod mode;
pub mod pins;
pub mod preflight;
mod private;
pub mod promotion;
pub mod random;
pub mod rates;
pub mod replica;
pub mod retention;
pub mod roles;
pub mod state;
pub mod status;
pub mod validate;
pub mod wiring;
pub mod worker;

mod host;

pub use host::run;
