//! The PostgreSQL wire client and applier against a real server.

mod apply;
mod constraints;
mod exactly_once;
mod fixture;
mod keyless;
mod load;
mod server;
mod values;
mod wire;
