//! Decimal numbers in digits, against a precision.

use super::{Encoded, put_text};

/// Digits a DECIMAL holds before and after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::convert) struct DecimalLimits {
    pub(in crate::convert) whole: u16,
    pub(in crate::convert) scale: u16,
}

struct Digits<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a [u8],
    /// As written.
    fraction: &'a [u8],
}

fn parse(text: &[u8]) -> Option<Digits<'_>> {
    let (negative, unsigned) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = unsigned.iter().position(|b| *b == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&unsigned[..at], &unsigned[at + 1..]),
        None => (unsigned, &unsigned[..0]),
    };
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = whole.iter().take_while(|b| **b == b'0').count();
    Some(Digits {
        negative,
        whole: &whole[zeros..],
        fraction,
    })
}

/// Writes a `numeric` within the limits. Zeros at the end of the fraction beyond the scale are not
/// part of the number and are left away.
pub(super) fn put(text: &[u8], limits: DecimalLimits, nearest: bool, out: &mut Vec<u8>) -> Encoded {
    let whole_most = usize::from(limits.whole);
    let scale = usize::from(limits.scale);
    let Some(digits) = parse(text) else {
        return put_special(text, limits, nearest, out);
    };
    let ending_zeros = |d: &[u8]| d.iter().rev().take_while(|b| **b == b'0').count();
    let fits = digits.whole.len() <= whole_most;
    if fits && digits.fraction.len() <= scale {
        put_text(out, text);
        return Ok(());
    }
    let spare = digits.fraction.len().saturating_sub(scale);
    if fits && ending_zeros(digits.fraction) >= spare {
        // The point goes with the last fractional digit.
        let cut = spare + usize::from(scale == 0);
        put_text(out, &text[..text.len() - cut]);
        return Ok(());
    }
    if nearest {
        put_rounded(&digits, limits, out);
        return Ok(());
    }
    Err(if fits {
        format!("has more than {scale} fractional digits")
    } else {
        format!("has more than {whole_most} digits before the point")
    }
    .into())
}

fn put_special(text: &[u8], limits: DecimalLimits, nearest: bool, out: &mut Vec<u8>) -> Encoded {
    match text {
        b"NaN" => Err("is NaN, which a DECIMAL cannot hold".into()),
        b"Infinity" | b"-Infinity" if nearest => {
            put_clamped(text[0] == b'-', limits, out);
            Ok(())
        }
        b"Infinity" | b"-Infinity" => Err("is infinite, which a DECIMAL cannot hold".into()),
        _ => Err("is not a decimal number".into()),
    }
}

fn put_clamped(negative: bool, limits: DecimalLimits, out: &mut Vec<u8>) {
    let mut digits = vec![b'9'; usize::from(limits.whole.max(1) + limits.scale)];
    if limits.whole == 0 {
        digits[0] = b'0';
    }
    put_digits(negative, &digits, limits, out);
}

/// Half away from zero, as the databases round; beyond the largest number, that.
fn put_rounded(digits: &Digits<'_>, limits: DecimalLimits, out: &mut Vec<u8>) {
    let scale = usize::from(limits.scale);
    let kept = digits.fraction.len().min(scale);
    let mut all = vec![b'0'];
    all.extend_from_slice(digits.whole);
    all.extend_from_slice(&digits.fraction[..kept]);
    all.resize(all.len() + scale - kept, b'0');
    if digits.fraction.get(scale).is_some_and(|d| *d >= b'5') {
        for digit in all.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
    }
    let zeros = all.iter().take_while(|d| **d == b'0').count();
    let whole = all.len() - scale;
    if whole.saturating_sub(zeros) > usize::from(limits.whole) {
        return put_clamped(digits.negative, limits, out);
    }
    let negative = digits.negative && zeros < all.len();
    put_digits(negative, &all[zeros.min(whole - 1)..], limits, out);
}

/// Writes digits of which the last `scale` are the fraction.
fn put_digits(negative: bool, digits: &[u8], limits: DecimalLimits, out: &mut Vec<u8>) {
    let whole = digits.len() - usize::from(limits.scale);
    let mut text = Vec::with_capacity(digits.len() + 2);
    if negative {
        text.push(b'-');
    }
    text.extend_from_slice(&digits[..whole]);
    if limits.scale > 0 {
        text.push(b'.');
        text.extend_from_slice(&digits[whole..]);
    }
    put_text(out, &text);
}

/// `-$1,234.50` to `-1234.50`: the form of the C monetary locale, as PostgreSQL writes it.
pub(super) fn put_money(text: &[u8], out: &mut Vec<u8>) -> Encoded {
    let mut plain = [0_u8; 32];
    let mut length = 0;
    for byte in text {
        match byte {
            b'$' | b',' => continue,
            b'0'..=b'9' | b'-' | b'.' if length < plain.len() => {
                plain[length] = *byte;
                length += 1;
            }
            _ => return Err("is not money in the form of the C locale".into()),
        }
    }
    let plain = &plain[..length];
    if parse(plain).is_none() {
        return Err("is not money in the form of the C locale".into());
    }
    put_text(out, plain);
    Ok(())
}
