//! Database engines behind a few narrow seams.
//!
//! [`seam`] holds the traits, [`content`] those for reading what a replica holds; each engine has
//! a folder with the same file names: `capture` (reads the source's changes into the log),
//! `snapshot` (exact cuts of the source for copying), `apply` (writes to a replica), `admin` (checks
//! and prepares a server). Nothing outside an engine's folder knows its protocol, its positions or
//! its SQL.

mod answer;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod certificates;
pub mod content;
mod copies;
mod held;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod seam;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod told;

#[cfg(all(test, feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod tests;
