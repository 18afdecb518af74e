//! Colours and the one look of all tables.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};

use super::View;

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

/// The table's lines, without the spaces that pad them on either side.
pub(super) fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
