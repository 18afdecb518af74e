//! Colours and the one look of all tables.

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table,
};

use super::View;

/// Spaces between two columns.
pub(super) const GAP: u16 = 2;

/// How much a person should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// A heading.
    Strong,
    /// Of little importance.
    Dim,
    Good,
    Warn,
    Bad,
}

/// `text` in the colour of `tone`, outside of tables.
pub(super) fn paint(text: &str, tone: Tone, view: &View) -> String {
    let code = match tone {
        _ if !view.colour => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Strong => "1",
        Tone::Dim => "2",
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A cell in the colour of `tone`.
pub(super) fn cell(text: impl Into<String>, tone: Tone) -> Cell {
    let cell = Cell::new(text.into());
    match tone {
        Tone::Plain => cell,
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
    }
}

/// A number, aligned to the right.
pub(super) fn number(text: impl Into<String>, tone: Tone) -> Cell {
    cell(text, tone).set_alignment(CellAlignment::Right)
}

/// An empty table of the project's look: aligned columns without lines.
pub(super) fn table(headers: &[&str], view: &View) -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(view.width)
        .set_header(headers.iter().map(|header| cell(*header, Tone::Strong)));
    if view.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

/// Columns the last column is left with at least, however narrow the terminal.
const MIN_LAST: u16 = 24;

/// The table's lines, without the spaces that pad them on either side. Names and numbers are never
/// wrapped: only the last column gives way, and where that is not enough the lines get longer.
pub(super) fn finish(mut table: Table) -> String {
    let content = table.column_max_content_widths();
    let last = content.len().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if i != last {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let others: u16 = content[..last].iter().map(|width| width + GAP).sum();
    let least = content.get(last).map_or(0, |&width| width.min(MIN_LAST)) + GAP;
    if table.width().is_some_and(|width| width < others + least) {
        table.set_width(others + least);
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
