//! The daemon's answers as text. Everything here is pure: the same value and [`View`] give the same text.
//!
//! Texts that come from databases (names, keys, messages) are passed through [`clean`], so that they
//! cannot send control sequences to the operator's terminal.

mod human;
mod log;
mod mode;
mod promotion;
mod replicas;
mod status;
mod style;
mod tables;
mod validate;

pub use human::{age, bytes, clean, count, duration, rate};
pub use log::log;
pub use mode::commits;
pub use promotion::{history, ledgers, promotion, promotion_step, readiness, topology};
pub use status::{copies, copy_summary, status};
pub use tables::tables;
pub use validate::{rows_to_repair, validation, validation_progress};

/// For whom and when something is rendered.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The present, in milliseconds since the Unix epoch; ages are relative to it.
    pub now_ms: u64,
    /// Columns available.
    pub width: u16,
    /// Whether to use ANSI colours.
    pub colour: bool,
}

/// An error as it goes to stderr: what happened, then what to do.
pub fn failure(message: &str, advice: &str) -> String {
    let mut text = format!("replctl: {}\n", clean(message));
    for line in advice.lines() {
        text.push_str(&format!("  {}\n", clean(line)));
    }
    text
}
