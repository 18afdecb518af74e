//! Whether a replica holds what its primary holds: the rules, without the reading.
//!
//! A replica that has applied the log through sequence `S` holds a snapshot of the primary plus the
//! logged transactions through `S` which that snapshot does not contain. [`changes`] collects those
//! from the log; [`delta`] turns those of one table into the state they leave. Rows of both sides are
//! brought into one canonical form ([`canon`]): the replica must hold exactly what
//! [`crate::convert`] makes of the primary's row. [`digest`] compares whole tables by sums of row
//! hashes in buckets, [`narrow`] finds the rows behind buckets that differ.

pub mod canon;
pub mod changes;
pub mod delta;
pub mod digest;
pub mod narrow;
#[cfg(test)]
mod tests;
