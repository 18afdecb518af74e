//! docs/PROMISES.md says which tests hold what the documents promise: those promises are still written
//! there, and those tests still exist.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A document as one line of words, without what only changes how they look.
fn words(text: &str) -> String {
    let plain = text.replace("**", "");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One row of the tables.
struct Promise {
    document: String,
    /// Pieces of the document's own words, in their order.
    quote: Vec<String>,
    /// What is quoted, for people.
    text: String,
    /// File and function.
    tests: Vec<(String, String)>,
}

fn promises() -> Vec<Promise> {
    let text = fs::read_to_string(root().join("docs/PROMISES.md")).unwrap();
    let mut document = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            document = heading.to_owned();
        }
        let Some(row) = line.strip_prefix("| ") else {
            continue;
        };
        // A bar within a cell is escaped.
        let row = row.replace("\\|", "\u{0}");
        let cells: Vec<String> = row
            .split(" |")
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect();
        if cells[0] == "promise" {
            continue;
        }
        assert!(cells.len() >= 2, "no table of two columns: {line}");
        let named = cells[1].split('`').skip(1).step_by(2);
        let tests = named
            .filter_map(|name| name.split_once("::"))
            .map(|(file, test)| (file.to_owned(), test.to_owned()));
        all.push(Promise {
            document: document.clone(),
            quote: cells[0].split('…').map(words).collect(),
            text: cells[0].clone(),
            tests: tests.collect(),
        });
    }
    assert!(all.len() > 100, "the tables were not found");
    all
}

/// Whether the pieces stand in the text, one behind the other.
fn stands(text: &str, quote: &[String]) -> bool {
    let mut rest = text;
    quote.iter().all(|piece| {
        let found = rest.find(piece.as_str());
        rest = found.map_or("", |at| &rest[at + piece.len()..]);
        found.is_some()
    })
}

/// Whether the function is a test that is run.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let call = format!("fn {name}(");
    let starts = |line: &&str| line.starts_with(&call) || line.contains(&format!(" {call}"));
    let Some(at) = lines.iter().position(starts) else {
        return false;
    };
    let attributes = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<&&str> = attributes.filter(|line| line.starts_with("#[")).collect();
    let has = |what: &str| attributes.iter().any(|line| line.contains(what));
    (has("#[test]") || has("::test")) && !has("#[ignore")
}

#[test]
fn every_promise_is_held_by_tests_that_exist() {
    let mut files = Vec::new();
    for dir in ["crates", "tests"] {
        sources(&root().join(dir), &mut files);
    }
    let mut wrong = Vec::new();
    for promise in promises() {
        if promise.tests.is_empty() {
            wrong.push(format!("no test holds: {}", promise.text));
        }
        for (file, test) in &promise.tests {
            let named = files.iter().filter(|path| path.ends_with(file));
            let has = |path: &&PathBuf| is_test(&fs::read_to_string(path).unwrap(), test);
            let found = named.filter(has).count();
            if found != 1 {
                wrong.push(format!("{file}::{test} is there {found} times"));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/PROMISES.md: {wrong:#?}");
}

#[test]
fn every_promise_is_still_made() {
    let mut gone = Vec::new();
    for promise in promises() {
        let text = fs::read_to_string(root().join(&promise.document)).unwrap();
        if !stands(&words(&text), &promise.quote) {
            gone.push(format!("{}: {}", promise.document, promise.text));
        }
    }
    assert!(
        gone.is_empty(),
        "docs/PROMISES.md quotes what its documents do not say (any more): {gone:#?}"
    );
}

/// The two lists of the README are promises from end to end.
#[test]
fn every_point_of_what_is_guaranteed_has_its_tests() {
    let promises = promises();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, lists) = readme.split_once("## What is guaranteed").unwrap();
    let (lists, _) = lists.split_once("\n[ARCHITECTURE.md]").unwrap();
    let mut points = lists.split("\n- ").skip(1);
    let untold: Vec<String> = points
        .by_ref()
        .map(words)
        .filter(|point| {
            let of_it = |one: &&Promise| one.document == "README.md" && stands(point, &one.quote);
            !promises.iter().any(|one| of_it(&one))
        })
        .collect();
    assert!(untold.is_empty(), "not in docs/PROMISES.md: {untold:#?}");
}

/// Links between the documents, the scripts they run, and what the systemd unit reads.
#[test]
fn what_the_documents_name_is_there() {
    let mut missing = Vec::new();
    let documents = ["README.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    let more = fs::read_dir(root().join("docs")).unwrap();
    let more = more.map(|entry| entry.unwrap().path());
    for document in documents.into_iter().chain(more) {
        let text = fs::read_to_string(&document).unwrap();
        let links = text.split("](").skip(1);
        let links = links.filter_map(|link| link.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            if !document.with_file_name(link).exists() {
                missing.push(format!("{}: {link}", document.display()));
            }
        }
        let scripts = text.split("scripts/").skip(1);
        let ends = |c: char| !(c.is_alphanumeric() || "-_.@".contains(c));
        for script in scripts.filter_map(|script| script.split(ends).next()) {
            let name = script.trim_end_matches('.');
            if !root().join("scripts").join(name).exists() {
                missing.push(format!("{}: scripts/{name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    let unit = fs::read_to_string(root().join("scripts/repl-daemon@.service")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("put the file at `/etc/repl-daemon/shop.toml`"));
    assert!(unit.contains("/etc/repl-daemon/%i.toml"), "{unit}");
}
