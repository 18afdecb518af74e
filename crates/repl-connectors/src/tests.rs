//! `docs/SETTINGS.md` shows what the code does: its tables are made here and compared.
//!
//! `UPDATE_DOCS=1` in the environment of the test writes them anew.

use std::fmt::Write as _;

use crate::{mysql, postgres, sqlite};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SETTINGS.md");
const BEGIN: &str = "<!-- generated: begin -->";
const END: &str = "<!-- generated: end -->";

fn shown(value: Option<&str>) -> String {
    match value {
        None => "–".into(),
        Some("") => "(empty)".into(),
        Some(value) => format!("`{}`", value.trim_matches('\'')),
    }
}

fn left(class: &impl std::fmt::Debug) -> String {
    let text = format!("{class:?}");
    match text.strip_prefix("Elsewhere(") {
        Some(note) => note.trim_end_matches(')').trim_matches('"').to_owned(),
        None => text.to_lowercase(),
    }
}

/// One line for each setting that is pinned in some session, then the others by why they are left.
fn table<const N: usize>(
    head: [&str; N],
    settings: impl Iterator<Item = (&'static str, [Option<&'static str>; N], Option<String>)>,
) -> String {
    let mut out = format!("| setting | {} |\n|---|", head.join(" | "));
    out.push_str(&"---|".repeat(N));
    out.push('\n');
    let mut others: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, values, left) in settings {
        match left {
            None => {
                let values: Vec<String> = values.iter().map(|value| shown(*value)).collect();
                let _ = writeln!(out, "| `{name}` | {} |", values.join(" | "));
            }
            Some(why) => match others.iter_mut().find(|(known, _)| *known == why) {
                Some((_, names)) => names.push(name),
                None => others.push((why, vec![name])),
            },
        }
    }
    out.push_str("\n| left as the server has it, because | settings |\n|---|---|\n");
    for (why, names) in others {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(out, "| {why} | {} |", names.join(", "));
    }
    out
}

fn document() -> String {
    let mut out = String::from("## PostgreSQL\n\n");
    let settings = postgres::settings::SETTINGS.iter().map(|(name, judged)| {
        let values =
            postgres::settings::Session::ALL.map(|s| postgres::settings::value(*judged, s));
        let why = match judged {
            postgres::settings::Judged::Left(class) => Some(left(class)),
            _ => None,
        };
        (*name, values, why)
    });
    out.push_str(&table(["stream", "readers", "applier", "admin"], settings));
    out.push_str("\n## MariaDB and MySQL\n\n");
    let settings = mysql::settings::SETTINGS.iter().map(|(name, judged)| {
        let values = mysql::settings::Session::ALL.map(|s| mysql::settings::value(*judged, s));
        let why = match judged {
            mysql::settings::Judged::Left(class) => Some(left(class)),
            _ => None,
        };
        (*name, values, why)
    });
    out.push_str(&table(["applier", "readers"], settings));
    out.push_str("\n## SQLite\n\n");
    let settings = sqlite::settings::SETTINGS.iter().map(|(name, judged)| {
        use sqlite::settings::Judged;
        match judged {
            Judged::Pinned(value) => (*name, [Some(*value)], None),
            Judged::ByUse(note) => (*name, [None], Some((*note).to_owned())),
            Judged::File(note) => (*name, [None], Some(format!("kept in the file: {note}"))),
            other => (*name, [None], Some(left(other))),
        }
    });
    out.push_str(&table(["every connection"], settings));
    out
}

#[test]
fn the_document_shows_what_the_code_does() {
    let text = std::fs::read_to_string(PATH).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let wanted = format!("{head}{BEGIN}\n{}{END}{tail}", document());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &wanted).unwrap();
    }
    assert!(
        text == wanted || std::env::var_os("UPDATE_DOCS").is_some(),
        "docs/SETTINGS.md is not as the code is: run this test with UPDATE_DOCS=1"
    );
}
