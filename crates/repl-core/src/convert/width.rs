//! Lengths of MySQL's text and binary columns: keys and rows have limits.
//!
//! An InnoDB index holds 3072 bytes per entry and a row definition 65,535, where each character
//! counts four. A column that is part of a key gets the share of the index that the
//! others leave; elsewhere short declared lengths are kept and the rest is LONGTEXT, which counts
//! next to nothing.

use super::encode::{Encoder, TextLimits};
use super::mapping::{Fidelity, Mapped, Width};

/// Bytes of an index entry.
pub(super) const KEY_BYTES: u32 = 3072;
/// Bytes a character takes at most.
const CHAR_BYTES: u32 = 4;
/// Longest key column given where no length is declared, in characters.
const LONGEST_KEY_CHARS: u32 = 767;
/// A key column shorter than this is of no use.
const SHORTEST_KEY_CHARS: u32 = 16;
/// Bytes of declared character columns in one row, well inside the limit of the row.
const ROW_BYTES: u32 = 40_000;

/// The width of a column whose type is not chosen here.
pub(super) const UNBOUNDED: Width = Width::Fixed(0);

/// A key whose columns do not fit into an index; the position of the column.
pub(super) struct KeyTooWide(pub(super) usize);

/// Gives every text and binary column its final type. `keys` lists the columns of each unique key
/// by position.
///
/// # Errors
/// The columns that no length suits.
pub(super) fn assign(columns: &mut [Mapped], keys: &[Vec<usize>]) -> Result<(), Vec<KeyTooWide>> {
    let mut bounds: Vec<Option<u32>> = vec![None; columns.len()];
    let mut failed = Vec::new();
    for key in keys {
        for (column, chars) in key_shares(columns, key, &mut failed) {
            let bound = bounds[column].map_or(chars, |other: u32| other.min(chars));
            bounds[column] = Some(bound);
        }
    }
    if !failed.is_empty() {
        return Err(failed);
    }
    let mut row_bytes: u32 = 0;
    for (column, bound) in columns.iter_mut().zip(&bounds) {
        match (*bound, column.width) {
            (Some(chars), _) => {
                bound_key(column, chars);
                row_bytes = row_bytes.saturating_add(chars * CHAR_BYTES);
            }
            (None, Width::Chars(chars)) => {
                let bytes = chars.saturating_mul(CHAR_BYTES).saturating_add(2);
                if row_bytes.saturating_add(bytes) <= ROW_BYTES {
                    row_bytes += bytes;
                    column.type_name = format!("varchar({chars})");
                }
            }
            (None, Width::Text | Width::Bytes | Width::Fixed(_)) => {}
        }
    }
    Ok(())
}

/// How many characters (for binary columns: four bytes each) every variable column of the key can
/// have. The short ones get what they declare, the others share the rest equally.
fn key_shares(
    columns: &[Mapped],
    key: &[usize],
    failed: &mut Vec<KeyTooWide>,
) -> Vec<(usize, u32)> {
    let mut left = KEY_BYTES;
    let mut wants: Vec<(u32, usize)> = Vec::new();
    for &position in key {
        // One byte for NULL, two for a length.
        match columns[position].width {
            Width::Fixed(bytes) => left = left.saturating_sub(bytes + 1),
            Width::Chars(chars) => {
                left = left.saturating_sub(3);
                wants.push((chars, position));
            }
            Width::Text | Width::Bytes => {
                left = left.saturating_sub(3);
                wants.push((LONGEST_KEY_CHARS, position));
            }
        }
    }
    wants.sort_unstable();
    let mut shares = Vec::new();
    let mut waiting = wants.len() as u32;
    for (want, position) in wants {
        let share = want.min(left / CHAR_BYTES / waiting.max(1));
        if share < want.min(SHORTEST_KEY_CHARS) {
            failed.push(KeyTooWide(position));
        }
        left -= share * CHAR_BYTES;
        waiting -= 1;
        shares.push((position, share));
    }
    shares
}

fn bound_key(column: &mut Mapped, chars: u32) {
    let declared = match column.width {
        Width::Chars(declared) => declared,
        _ => u32::MAX,
    };
    column.type_name = match column.width {
        Width::Bytes => format!("varbinary({})", chars * CHAR_BYTES),
        _ => format!("varchar({chars})"),
    };
    if chars < declared {
        limit(&mut column.encoder, chars);
        if matches!(column.fidelity, Fidelity::Lossless | Fidelity::Stated) {
            column.fidelity = Fidelity::ValueDependent;
        }
    }
}

fn limit(encoder: &mut Encoder, chars: u32) {
    let text = |limits: &mut TextLimits| limits.chars = chars;
    match encoder {
        Encoder::PgText(limits) | Encoder::LiteText { limits, .. } => text(limits),
        Encoder::PgBytes { most } | Encoder::LiteBytes { most, .. } => *most = chars * CHAR_BYTES,
        _ => {}
    }
}
