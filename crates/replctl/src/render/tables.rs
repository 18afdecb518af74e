//! The source tables.

use repl_api::{TableState, TableStatus};

use super::View;
use super::human::clean;
use super::style::{self, Tone, cell};

/// One line per table; what to do about those that are refused follows, uncut, so that it can be copied.
pub fn tables(tables: &[TableStatus], view: &View) -> String {
    if tables.is_empty() {
        return "no tables\n".to_owned();
    }
    let mut table = style::table(&["TABLE", "STATE", "KEY", "REASON"], view);
    for one in tables {
        let tone = match one.state {
            TableState::Replicated => Tone::Good,
            TableState::New => Tone::Warn,
            _ => Tone::Bad,
        };
        let key = if one.key.is_empty() { "-" } else { &one.key };
        let reason = one.reason.as_deref().unwrap_or("-");
        table.add_row([
            cell(clean(&one.source), Tone::Plain),
            cell(one.state.as_str(), tone),
            cell(clean(key), Tone::Plain),
            cell(clean(reason), Tone::Plain),
        ]);
    }
    let mut text = style::finish(table);
    for one in tables {
        let Some(remedy) = one.remedy.as_deref().filter(|remedy| !remedy.is_empty()) else {
            continue;
        };
        text.push_str(&format!("\nfor {}:\n", clean(&one.source)));
        for line in remedy.lines() {
            text.push_str(&format!("  {}\n", clean(line)));
        }
    }
    text
}
