//! Numbers, sizes, times and foreign text as people read them.

/// `1234567` → `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `0 B`, `1.5 KiB`, `16.0 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // What would round to 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Milliseconds as `350 ms`, `12.3 s`, `5m 12s`, `3h 12m`, `2d 3h`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{s}.{} s", ms % 1000 / 100),
        60_000..3_600_000 => format!("{}m {}s", s / 60, s % 60),
        3_600_000..86_400_000 => format!("{}h {}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3600 % 24),
    }
}

/// The age of an instant, roughly: `now`, `12s ago`, `5m ago`, `3h 12m ago`.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) {
        // Also when the daemon's clock was read after ours.
        0..1_000 => "now".to_owned(),
        ms @ 1_000..60_000 => format!("{}s ago", ms / 1000),
        ms @ 60_000..3_600_000 => format!("{}m ago", ms / 60_000),
        ms => format!("{} ago", duration(ms)),
    }
}

/// A rate per second: one decimal below ten, none above.
pub fn rate(per_s: f64) -> String {
    if !per_s.is_finite() || per_s < 0.05 {
        return "0".to_owned();
    }
    if per_s < 9.95 {
        format!("{per_s:.1}")
    } else {
        count(per_s.round() as u64)
    }
}

/// Text from elsewhere, made harmless for a terminal and fit for one line: line breaks and tabs become
/// spaces, other control characters and those that reorder text are shown escaped.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// At most `limit` characters of `text`, with `…` for what is left out.
pub(super) fn clip(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Breaks `text` at spaces into lines of at most `width` characters; longer words stay whole.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!([count(0), count(999), count(1000)], ["0", "999", "1,000"]);
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn sizes() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024)],
            ["0 B", "1023 B", "1.0 KiB"]
        );
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(16 << 20), "16.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times() {
        assert_eq!(
            [duration(0), duration(999), duration(1000)],
            ["0 ms", "999 ms", "1.0 s"]
        );
        assert_eq!([duration(59_999), duration(60_000)], ["59.9 s", "1m 0s"]);
        assert_eq!(
            [duration(3_599_999), duration(3_600_000)],
            ["59m 59s", "1h 0m"]
        );
        assert_eq!(duration(90_000_000), "1d 1h");
        assert_eq!(
            [age(5, 0), age(0, 59_000), age(0, 61_000)],
            ["now", "59s ago", "1m ago"]
        );
    }

    #[test]
    fn rates() {
        assert_eq!(
            [rate(0.0), rate(0.04), rate(0.06), rate(9.94)],
            ["0", "0", "0.1", "9.9"]
        );
        assert_eq!(
            [rate(9.96), rate(123_456.7), rate(f64::NAN)],
            ["10", "123,457", "0"]
        );
    }

    #[test]
    fn hostile_text() {
        assert_eq!(
            clean("a\x1b[31mred\x07\n\u{202e}é"),
            "a\\u{1b}[31mred\\u{7} \\u{202e}é"
        );
    }

    #[test]
    fn clipping_and_wrapping() {
        assert_eq!([clip("abc", 3), clip("ab cd", 4)], ["abc", "ab…"]);
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("averylongword x", 4), ["averylongword", "x"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
