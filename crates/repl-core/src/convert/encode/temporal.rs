//! Dates and times in PostgreSQL's ISO form.

use super::{Encoded, Reason, put_text};

/// A date, or a date and time, taken apart only as far as conversion needs.
enum Moment<'a> {
    Infinite {
        negative: bool,
    },
    Finite {
        /// The year is between 1 and 9999 of our era, and the body has four digits for it.
        ordinary: bool,
        /// Before our era.
        bc: bool,
        /// Without the era's mark.
        body: &'a [u8],
        /// Where the time begins in the body, at its blank.
        time: usize,
    },
}

fn parse(text: &[u8]) -> Option<Moment<'_>> {
    match text {
        b"infinity" => return Some(Moment::Infinite { negative: false }),
        b"-infinity" => return Some(Moment::Infinite { negative: true }),
        _ => {}
    }
    let (body, bc) = match text.strip_suffix(b" BC") {
        Some(body) => (body, true),
        None => (text, false),
    };
    let year = body.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = body.get(year..year + 6)?;
    let shape = matches!(rest, [b'-', m1, m2, b'-', d1, d2]
        if [m1, m2, d1, d2].iter().all(|b| b.is_ascii_digit()));
    if year < 4 || !shape {
        return None;
    }
    Some(Moment::Finite {
        ordinary: !bc && year == 4 && &body[..4] != b"0000",
        bc,
        body,
        time: year + 6,
    })
}

fn not_iso() -> Reason {
    "is not a date in PostgreSQL's ISO form".into()
}

/// The clamp is the last date or the first one, whichever is nearer.
fn out_of_range(moment: &Moment<'_>) -> (Reason, bool) {
    match moment {
        Moment::Infinite { negative } => (
            "is infinite; the target holds years 1 to 9999".into(),
            *negative,
        ),
        Moment::Finite { bc, .. } => (
            if *bc {
                "is before our era; the target holds years 1 to 9999".into()
            } else {
                "is outside years 1 to 9999, which the target holds".into()
            },
            *bc,
        ),
    }
}

pub(super) fn put_date(text: &[u8], nearest: bool, out: &mut Vec<u8>) -> Encoded {
    let moment = parse(text).ok_or_else(not_iso)?;
    if let Moment::Finite {
        ordinary,
        body,
        time,
        ..
    } = moment
    {
        if body.len() != time {
            return Err(not_iso());
        }
        if ordinary {
            put_text(out, body);
            return Ok(());
        }
    }
    let (reason, first) = out_of_range(&moment);
    if !nearest {
        return Err(reason);
    }
    put_text(out, if first { b"0001-01-01" } else { b"9999-12-31" });
    Ok(())
}

pub(super) fn put_timestamp(
    text: &[u8],
    zoned: bool,
    digits: u8,
    nearest: bool,
    out: &mut Vec<u8>,
) -> Encoded {
    let moment = parse(text).ok_or_else(not_iso)?;
    if let Moment::Finite {
        ordinary,
        body,
        time,
        ..
    } = moment
    {
        let body = if zoned { in_utc(body)? } else { body };
        if !is_clock(body.get(time + 1..).unwrap_or_default()) {
            return Err(not_iso());
        }
        if ordinary {
            put_text(out, body);
            return Ok(());
        }
    }
    let (reason, first) = out_of_range(&moment);
    if !nearest {
        return Err(reason);
    }
    // A fraction beyond the column's would round up, out of range.
    let last = b"9999-12-31 23:59:59.999999";
    let fraction = usize::from(digits.min(6));
    let length = if fraction == 0 { 19 } else { 20 + fraction };
    put_text(
        out,
        if first {
            b"0001-01-01 00:00:00"
        } else {
            &last[..length]
        },
    );
    Ok(())
}

/// `hh:mm:ss` with an optional fraction.
fn is_clock(text: &[u8]) -> bool {
    let (clock, fraction) = text.split_at(text.len().min(8));
    let shape = matches!(clock, [_, _, b':', _, _, b':', _, _])
        && clock.iter().filter(|b| b.is_ascii_digit()).count() == 6;
    shape
        && match fraction {
            [] => true,
            [b'.', digits @ ..] => {
                (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
            }
            _ => false,
        }
}

fn in_utc(body: &[u8]) -> Result<&[u8], Reason> {
    body.strip_suffix(b"+00")
        .ok_or_else(|| "is not in UTC, to which the source's session is pinned".into())
}

pub(super) fn put_time(text: &[u8], out: &mut Vec<u8>) -> Encoded {
    if !is_clock(text) {
        return Err("is not a time in PostgreSQL's ISO form".into());
    }
    put_text(out, text);
    Ok(())
}

/// Any instant, with the zone in the form SQLite's date functions read.
pub(super) fn put_instant(text: &[u8], out: &mut Vec<u8>) -> Encoded {
    match parse(text).ok_or_else(not_iso)? {
        Moment::Infinite { .. } => put_text(out, text),
        Moment::Finite { body, bc, time, .. } => {
            let local = in_utc(body)?;
            if !is_clock(local.get(time + 1..).unwrap_or_default()) {
                return Err(not_iso());
            }
            let mut instant = [0_u8; 48];
            let mut length = 0;
            for part in [local, b"+00:00".as_slice(), if bc { b" BC" } else { b"" }] {
                let room = instant
                    .get_mut(length..length + part.len())
                    .ok_or_else(not_iso)?;
                room.copy_from_slice(part);
                length += part.len();
            }
            put_text(out, &instant[..length]);
        }
    }
    Ok(())
}
