//! Durations and sizes as people write them: a whole number and a unit, in one string.

use std::time::Duration;

use super::problem::{Complaint, complaint};

/// Bytes in a KiB.
pub(super) const KIB: u64 = 1024;
/// Bytes in a MiB.
pub(super) const MIB: u64 = 1024 * KIB;
/// Bytes in a GiB.
pub(super) const GIB: u64 = 1024 * MIB;
/// Bytes in a TiB.
pub(super) const TIB: u64 = 1024 * GIB;

/// One kind of quantity: its units, largest first, in terms of the smallest.
struct Quantity {
    name: &'static str,
    units: &'static [(&'static str, u64)],
    /// What people write for a unit that has another spelling here.
    aliases: &'static [(&'static str, &'static str)],
    /// Offered when the number stands alone.
    usual: &'static str,
    ambiguity: &'static str,
}

const DURATION: Quantity = Quantity {
    name: "duration",
    units: &[
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ],
    aliases: &[
        ("sec", "s"),
        ("secs", "s"),
        ("second", "s"),
        ("seconds", "s"),
        ("min", "m"),
        ("mins", "m"),
        ("minute", "m"),
        ("minutes", "m"),
        ("hr", "h"),
        ("hour", "h"),
        ("hours", "h"),
        ("day", "d"),
        ("days", "d"),
        ("msec", "ms"),
        ("millis", "ms"),
        ("milliseconds", "ms"),
    ],
    usual: "s",
    ambiguity: "a number without a unit could be seconds or milliseconds",
};

const SIZE: Quantity = Quantity {
    name: "size",
    units: &[
        ("TiB", TIB),
        ("TB", 1_000_000_000_000),
        ("GiB", GIB),
        ("GB", 1_000_000_000),
        ("MiB", MIB),
        ("MB", 1_000_000),
        ("KiB", KIB),
        ("KB", 1_000),
        ("B", 1),
    ],
    aliases: &[
        ("k", "KiB"),
        ("m", "MiB"),
        ("g", "GiB"),
        ("t", "TiB"),
        ("kbyte", "KB"),
        ("byte", "B"),
        ("bytes", "B"),
    ],
    usual: "MiB",
    ambiguity: "a number without a unit could be bytes, KiB or MiB",
};

/// Reads a duration such as `500ms`, `10s`, `5m`, `1h`, `7d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Complaint> {
    parse(text, &DURATION, &SIZE).map(Duration::from_millis)
}

/// Reads a size in bytes such as `64MiB`, `1GB`, `512KiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, Complaint> {
    parse(text, &SIZE, &DURATION)
}

/// What to say when a duration is given as a bare number.
pub(super) fn plain_duration(number: &str) -> Complaint {
    plain(number, &DURATION)
}

/// What to say when a size is given as a bare number.
pub(super) fn plain_size(number: &str) -> Complaint {
    plain(number, &SIZE)
}

/// The shortest exact spelling of a duration; parts below a millisecond are dropped.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        "0s".to_owned()
    } else {
        format(millis, &DURATION)
    }
}

/// The shortest exact spelling of a size in bytes.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        "0B".to_owned()
    } else {
        format(bytes, &SIZE)
    }
}

fn parse(text: &str, quantity: &Quantity, other: &Quantity) -> Result<u64, Complaint> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    if digits.is_empty() {
        return Err(not_a_quantity(text, quantity));
    }
    if unit.is_empty() {
        return Err(plain(digits, quantity));
    }
    if unit.starts_with(['.', ',']) {
        let what = format!("`{text}` has a fraction");
        let fix = format!(
            "write a whole number with a smaller unit; {}",
            accepted(quantity)
        );
        return Err(complaint(
            what,
            "fractions are not read, to avoid rounding",
            fix,
        ));
    }
    let Some((_, factor)) = quantity.units.iter().find(|(name, _)| *name == unit) else {
        return Err(wrong_unit(digits, unit, quantity, other));
    };
    let value = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor));
    value.ok_or_else(|| {
        let what = format!("`{text}` is too large for a {}", quantity.name);
        complaint(what, "it does not fit 64 bits", "write a smaller value")
    })
}

fn wrong_unit(digits: &str, unit: &str, quantity: &Quantity, other: &Quantity) -> Complaint {
    let trimmed = unit.trim();
    let exact = quantity.units.iter().map(|(name, _)| *name);
    let by_case = exact
        .clone()
        .find(|name| name.eq_ignore_ascii_case(trimmed));
    let alias = || {
        quantity
            .aliases
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(trimmed))
    };
    let meant = by_case.or_else(|| alias().map(|(_, name)| *name));
    let what = format!("`{digits}{unit}` has no known unit of {}", quantity.name);
    if let Some(name) = meant {
        let why = "units have one exact spelling, without spaces";
        return complaint(
            what,
            why,
            format!("write \"{digits}{name}\"; {}", accepted(quantity)),
        );
    }
    let foreign = other.units.iter().any(|(name, _)| *name == trimmed);
    let why = if foreign {
        format!(
            "`{trimmed}` is a unit of {}, and a {} is needed",
            other.name, quantity.name
        )
    } else {
        format!("a {} needs a unit this program knows", quantity.name)
    };
    complaint(what, why, accepted(quantity))
}

fn plain(number: &str, quantity: &Quantity) -> Complaint {
    let what = format!("`{number}` has no unit");
    let whole = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let example = if whole { number } else { "10" };
    let fix = format!(
        "write a string with a unit, for example \"{example}{}\"; {}",
        quantity.usual,
        accepted(quantity)
    );
    complaint(what, quantity.ambiguity, fix)
}

fn not_a_quantity(text: &str, quantity: &Quantity) -> Complaint {
    let what = format!("`{text}` is not a {}", quantity.name);
    let why = format!("a {} is a whole number followed by a unit", quantity.name);
    complaint(what, why, accepted(quantity))
}

fn accepted(quantity: &Quantity) -> String {
    let names: Vec<&str> = quantity.units.iter().rev().map(|(name, _)| *name).collect();
    format!("accepted units: {}", names.join(", "))
}

fn format(value: u64, quantity: &Quantity) -> String {
    // Binary and decimal units interleave, so the largest exact divisor wins, not the first.
    let exact = quantity
        .units
        .iter()
        .filter(|(_, factor)| value.is_multiple_of(*factor));
    let (name, factor) = exact.max_by_key(|(_, factor)| *factor).unwrap_or(&("", 1));
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_round_trip() {
        for text in ["1ms", "500ms", "10s", "5m", "1h", "7d"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1B", "512KiB", "64MiB", "1GB", "3TiB", "5MB"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        assert_eq!(parse_size("64MiB"), Ok(67_108_864));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
    }

    #[test]
    fn a_wrong_unit_names_the_right_one() {
        assert!(
            parse_size("64mib")
                .unwrap_err()
                .fix
                .starts_with("write \"64MiB\"")
        );
        assert!(
            parse_duration("10 s")
                .unwrap_err()
                .fix
                .starts_with("write \"10s\"")
        );
        assert!(
            parse_duration("10min")
                .unwrap_err()
                .fix
                .starts_with("write \"10m\"")
        );
        assert!(
            parse_duration("10MB")
                .unwrap_err()
                .why
                .contains("unit of size")
        );
        assert!(parse_duration("10").unwrap_err().fix.contains("\"10s\""));
        for bad in [
            "",
            "s",
            "-5s",
            "1.5s",
            "99999999999999999999s",
            "20000000000000000GiB",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
