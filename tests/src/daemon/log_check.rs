//! Reading the daemon's own log: an unexpected WARN or ERROR fails a test.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

/// Lines of the daemon's log at level WARN or ERROR that contain none of the `allowed` texts;
/// and every line that is not a log record at all (a panic, a library writing to stderr).
///
/// # Errors
/// When there are such lines; the error shows them.
pub fn check(log: &Path, allowed: &[String]) -> Result<()> {
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let unexpected: Vec<&str> = text
        .lines()
        .filter(|line| needs_attention(line))
        .filter(|line| !allowed.iter().any(|text| line.contains(text.as_str())))
        .collect();
    if unexpected.is_empty() {
        return Ok(());
    }
    let shown = &unexpected[..unexpected.len().min(10)];
    bail!(
        "{} unexpected lines in the daemon's log {}:\n{}",
        unexpected.len(),
        log.display(),
        shown.join("\n")
    )
}

fn needs_attention(line: &str) -> bool {
    if line.trim().is_empty() {
        return false;
    }
    match serde_json::from_str::<Value>(line) {
        Ok(record) => !matches!(record["level"].as_str(), Some("INFO" | "DEBUG" | "TRACE")),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::needs_attention;

    #[test]
    fn warnings_and_foreign_lines_need_attention() {
        assert!(!needs_attention(
            r#"{"level":"INFO","fields":{"message":"ready"}}"#
        ));
        assert!(needs_attention(
            r#"{"level":"WARN","fields":{"message":"retrying"}}"#
        ));
        assert!(needs_attention(
            "thread 'main' panicked at src/main.rs:1:1:"
        ));
        assert!(!needs_attention(""));
    }
}
