//! Rules of the tree, checked: crate direction, file length, no stubs, nothing that may panic in
//! the daemon's own code.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, lines.
const MAX_LINES: usize = 620;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn crate_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join("crates"), &mut found);
    assert!(found.len() > 50, "the crates were not found");
    found
}

fn is_test(path: &Path) -> bool {
    let folders = ["tests", "benches", "conformance"];
    path.components()
        .any(|part| folders.iter().any(|folder| part.as_os_str() == *folder))
        || path
            .file_name()
            .is_some_and(|name| name == "tests.rs" || name == "conformance.rs")
}

/// The part of a file before its test module.
fn product_code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn crates_depend_in_one_direction() {
    let allowed = [
        ("repl-core", vec![]),
        ("repl-api", vec![]),
        ("repl-connectors", vec!["repl-core"]),
        (
            "repl-daemon",
            vec!["repl-api", "repl-connectors", "repl-core"],
        ),
        ("replctl", vec!["repl-api"]),
    ];
    for (name, allowed) in allowed {
        let manifest =
            fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        for line in manifest.lines() {
            let Some(dependency) = line.split(['.', ' ', '=']).next() else {
                continue;
            };
            if dependency.starts_with("repl-") {
                assert!(
                    allowed.contains(&dependency),
                    "{name} must not depend on {dependency}"
                );
            }
        }
    }
}

#[test]
fn the_core_has_no_runtime_driver_socket_or_clock() {
    let manifest = fs::read_to_string(root().join("crates/repl-core/Cargo.toml")).unwrap();
    for forbidden in ["tokio", "sqlx", "rusqlite", "hyper", "postgres"] {
        assert!(
            !manifest.contains(forbidden),
            "repl-core depends on {forbidden}"
        );
    }
    for path in crate_sources() {
        let inside = path.strip_prefix(root().join("crates/repl-core/src"));
        if inside.is_err() || is_test(&path) || path.ends_with("failpoint.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for forbidden in [
            "SystemTime::now",
            "Instant::now",
            "std::net",
            "std::thread::sleep",
        ] {
            assert!(
                !product_code(&text).contains(forbidden),
                "{} in {}",
                forbidden,
                path.display()
            );
        }
    }
}

#[test]
fn only_the_wiring_names_an_engine() {
    for path in crate_sources() {
        let inside = path.strip_prefix(root().join("crates/repl-daemon/src"));
        if inside.is_err() || path.ends_with("wiring.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for engine in ["repl_connectors::postgres", "repl_connectors::sqlite"] {
            assert!(!text.contains(engine), "{} names {engine}", path.display());
        }
    }
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = crate_sources()
        .iter()
        .map(|path| (path, fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split these files: {long:#?}");
}

#[test]
fn product_code_neither_panics_nor_holds_stubs() {
    // Spelled in two halves so that this file does not find itself.
    let forbidden = [
        concat!(".unw", "rap()"),
        concat!(".exp", "ect("),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
    ];
    let mut found = Vec::new();
    for path in crate_sources().into_iter().filter(|path| !is_test(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in product_code(&text).lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            if forbidden.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {code}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
