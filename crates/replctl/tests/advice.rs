//! Commands of replctl that messages and documents tell people to run exist.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail tests by panicking"
)]

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use replctl::cli::Cli;

/// Words that follow the program's name in sentences, and are no subcommands.
const WORDS: [&str; 15] = [
    "ends", "and", "talks", "re", "has", "is", "only", "shares", "that", "to", "uses", "was",
    "asks", "says", "on",
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = path
            .extension()
            .is_some_and(|ext| ext == "rs" || ext == "md" || ext == "toml");
        match path.is_dir() {
            true => files(&path, found),
            false if text => found.push(path),
            false => {}
        }
    }
}

/// The first unknown word of the command line that `text` begins with, behind the program's name.
fn unknown(text: &str) -> Option<String> {
    let end = text.find(['\n', '`', '"', '(', ')', ',', ';', ':', '|', '#', '\\']);
    let mut command = Cli::command();
    let mut verb = None;
    for word in text[..end.unwrap_or(text.len())].split_whitespace() {
        let word = word
            .trim_end_matches(['.', '…', '\'', ']'])
            .trim_start_matches('[');
        if let Some(option) = word.strip_prefix("--") {
            let option = option.split('=').next().unwrap_or_default();
            let mut known = command.get_arguments().filter_map(|one| one.get_long());
            let general = ["socket", "group", "json", "help", "version"];
            if general.contains(&option) {
                return None;
            }
            if verb.is_some() && !known.any(|one| one == option) {
                return Some(format!("--{option}"));
            }
        } else if word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.is_empty() {
            let next = command.find_subcommand(word).cloned();
            match next {
                Some(next) => (command, verb) = (next, Some(word)),
                None if verb.is_none() && !WORDS.contains(&word) => return Some(word.to_owned()),
                None if verb.is_none() => return None,
                // An argument, or the sentence goes on.
                None => {}
            }
        } else if verb.is_none() {
            return None;
        }
    }
    None
}

#[test]
fn advised_commands_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    found.push(root.join("config.example.toml"));
    files(&root.join("docs"), &mut found);
    for part in [
        "repl-api",
        "repl-connectors",
        "repl-core",
        "repl-daemon",
        "replctl",
    ] {
        files(&root.join("crates").join(part).join("src"), &mut found);
    }
    let (mut commands, mut wrong) = (0, Vec::new());
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        // A string that goes on in the next line.
        let joined: String = text.split("\\\n").map(str::trim_start).collect();
        for part in joined.split("replctl ").skip(1) {
            commands += 1;
            if let Some(word) = unknown(part) {
                let line: String = part.chars().take(60).collect();
                wrong.push(format!("{}: {word} in: replctl {line}", path.display()));
            }
        }
    }
    assert!(commands > 100, "{commands} are too few to be all");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_does_not_exist_is_found() {
    assert_eq!(unknown("validate --cancle; x"), Some("--cancle".to_owned()));
    assert_eq!(unknown("explode r1"), Some("explode".to_owned()));
    assert_eq!(unknown("slot drop --yes, or"), None);
    assert_eq!(unknown("resync r1 --tables a --wait)"), None);
}
