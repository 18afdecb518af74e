//! PostgreSQL's log sequence numbers and their fixed-width text form.

use std::fmt;

use repl_core::SourcePosition;

/// Byte address in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Parses `16/B374D848`, padded or not.
    pub fn parse(text: &str) -> Option<Lsn> {
        let (high, low) = text.split_once('/')?;
        let part = |hex: &str| match hex.len() {
            1..=8 => u32::from_str_radix(hex, 16).ok(),
            _ => None,
        };
        Some(Lsn((u64::from(part(high)?) << 32) | u64::from(part(low)?)))
    }

    /// The position token of this LSN: zero-padded, so that text order is numeric order.
    pub fn position(self) -> SourcePosition {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        // By hand, without the formatting machinery: one is made for every transaction.
        let mut text = String::with_capacity(17);
        for digit in 0..16 {
            if digit == 8 {
                text.push('/');
            }
            let nibble = (self.0 >> (60 - 4 * digit)) & 0xf;
            text.push(char::from(DIGITS[nibble as usize]));
        }
        SourcePosition(text)
    }

    /// Reads a position token made by [`Lsn::position`].
    pub fn from_position(position: &SourcePosition) -> Option<Lsn> {
        Lsn::parse(position.as_str())
    }
}

/// The form PostgreSQL itself prints.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let lsn = Lsn::parse("16/B374D848").unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(lsn.position().as_str(), "00000016/B374D848");
        assert_eq!(Lsn::from_position(&lsn.position()), Some(lsn));
        for bad in ["", "16", "16/", "/1", "x/1", "123456789/0"] {
            assert_eq!(Lsn::parse(bad), None, "{bad}");
        }
    }
}
