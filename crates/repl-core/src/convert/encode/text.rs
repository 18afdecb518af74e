//! Characters, against what the target stores.

use super::{Encoded, put_text};

/// What a text column of the target holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::convert) struct TextLimits {
    /// Most characters.
    pub(in crate::convert) chars: u32,
    /// Most bytes.
    pub(in crate::convert) bytes: u32,
    /// Only valid UTF-8.
    utf8: bool,
    /// NUL characters are possible.
    nul: bool,
}

impl TextLimits {
    /// A `text` of PostgreSQL: 1 GB with its header.
    pub(in crate::convert) const POSTGRES: TextLimits = TextLimits {
        chars: u32::MAX,
        bytes: 0x3fff_ff00,
        utf8: true,
        nul: false,
    };
    /// A LONGTEXT.
    pub(in crate::convert) const MYSQL: TextLimits = TextLimits {
        chars: u32::MAX,
        bytes: u32::MAX,
        utf8: true,
        nul: true,
    };
    /// A TEXT of SQLite, whose default limit is a thousand million bytes.
    pub(in crate::convert) const SQLITE: TextLimits = TextLimits {
        chars: u32::MAX,
        bytes: 1_000_000_000,
        utf8: false,
        nul: true,
    };
}

pub(super) fn put(text: &[u8], limits: TextLimits, nearest: bool, out: &mut Vec<u8>) -> Encoded {
    if text.len() > limits.bytes as usize {
        return Err(format!(
            "has {} bytes; the target's column holds {}",
            text.len(),
            limits.bytes
        )
        .into());
    }
    if limits.chars != u32::MAX && text.len() > limits.chars as usize {
        // Bytes that continue a character do not count.
        let chars = text.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        if chars > limits.chars as usize {
            return Err(format!(
                "has {chars} characters; the target's key column holds {}",
                limits.chars
            )
            .into());
        }
    }
    let valid = !limits.utf8 || text.is_ascii() || std::str::from_utf8(text).is_ok();
    let without_nul = limits.nul || !text.contains(&0);
    if valid && without_nul {
        put_text(out, text);
        return Ok(());
    }
    if nearest {
        let mended = String::from_utf8_lossy(text);
        match limits.nul {
            true => put_text(out, mended.as_bytes()),
            false => put_text(out, mended.replace('\0', "\u{fffd}").as_bytes()),
        }
        return Ok(());
    }
    Err(if valid {
        "contains a NUL character, which PostgreSQL's text cannot hold".into()
    } else {
        "is not valid UTF-8".into()
    })
}
