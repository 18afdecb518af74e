//! The admin API: HTTP/1.1 with JSON over the daemon's Unix socket.
//!
//! [`server`] owns the socket and its bounds, [`routes`] translates between HTTP and the [`Control`]
//! trait, [`peer`] decides who may speak, [`audit`] records what was ordered. Nothing here knows how the
//! daemon does its work: the host implements [`Control`].
//!
//! What holds for every request, whoever sends it:
//! * a client that is slow to send or to read makes room as soon as its place is wanted, and requests
//!   that may take long have places of their own: quick answers are never behind either;
//! * connections, header size, body size and the time of each phase are bounded, so that a slow or
//!   hostile client costs one slot for a bounded time and never memory;
//! * a mutating verb is in the audit log, fsynced, before it is carried out, and its outcome after; when
//!   the audit log cannot be written, the verb is refused;
//! * a verb that has begun is carried out to its end, also when its client goes away.

mod admission;
pub mod audit;
mod body;
mod control;
mod ledgers;
pub mod peer;
pub mod roles;
pub mod routes;
mod seats;
pub mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use control::{Actor, Control, ControlError, unknown_replica};
pub use server::{AdminConfig, AdminServer, Limits};
pub use socket::AdminError;
