//! The configuration as its users meet it: messages, the example file, permissions.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use repl_daemon::config::{
    Config, Endpoint, Engine, Env, NodeRole, TlsMode, check_report, known_keys, load, parse,
};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn example_text() -> String {
    let path = here().join("../../config.example.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a user sees for a text: the problems, or the warnings of an accepted configuration.
fn seen(text: &str, name: &str) -> String {
    let env = Env::of([("EMPTY", ""), ("PGPASSWORD", "hunter2"), ("PW", "hunter2")]);
    // Relative paths must not depend on where the tests run; the directory need not exist.
    let path = Path::new("/etc/repl-daemon").join(name);
    let shown = match parse(text, &path, &env) {
        Ok(config) => {
            assert!(
                !format!("{config:?}").contains("hunter2"),
                "{name}: Debug shows a secret"
            );
            let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
            format!("accepted\n{}\n", warnings.join("\n"))
        }
        Err(problems) => {
            assert!(
                !format!("{problems:?}").contains("hunter2"),
                "{name}: Debug shows a secret"
            );
            format!("{problems}\n")
        }
    };
    shown.replace("/etc/repl-daemon/", "")
}

/// Each fixture `x.toml` must produce exactly `x.txt`. With UPDATE_GOLDEN=1 the texts are rewritten.
#[test]
fn messages_are_as_recorded() {
    let dir = here().join("tests/fixtures/config");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let actual = seen(&std::fs::read_to_string(&path).unwrap(), name);
        assert!(
            !actual.contains("hunter2"),
            "{name}: a secret is shown:\n{actual}"
        );
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &actual).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if expected != actual {
            wrong.push(format!(
                "=== {name}: expected\n{expected}=== but got\n{actual}"
            ));
        }
    }
    assert!(count >= 10, "fixtures are missing: {count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line of the example that shows a key which may be left out.
struct Optional {
    /// Index of the line.
    line: usize,
    /// The line without its `#`.
    enabled: String,
    has_default: bool,
}

fn optional_lines(text: &str) -> Vec<Optional> {
    let enabled = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let (key, _) = rest.split_once(" = ")?;
        let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_key.then(|| rest.to_owned())
    };
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(line, text)| {
            let has_default = !text.ends_with("# no default");
            Some(Optional {
                line,
                enabled: enabled(text)?,
                has_default,
            })
        })
        .collect()
}

fn with_lines(text: &str, enabled: &[&Optional]) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for optional in enabled {
        lines[optional.line] = &optional.enabled;
    }
    lines.join("\n")
}

fn accepted(text: &str, env: &Env) -> Config {
    parse(text, Path::new("/etc/repl-daemon/shop.toml"), env).unwrap_or_else(|e| panic!("{e}"))
}

fn mentioned_keys(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            for (dot, _) in section.match_indices('.') {
                keys.insert(section[..dot].to_owned());
            }
            keys.insert(section.clone());
        } else if let Some((key, value)) = line.split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            keys.insert(format!("{section}.{key}"));
            if let Some(entry) = value
                .strip_prefix("[{")
                .and_then(|rest| rest.split('}').next())
            {
                for field in entry.split(", ") {
                    let name = field.split(" = ").next().unwrap_or_default().trim();
                    keys.insert(format!("{section}.{key}.{name}"));
                }
            }
        }
    }
    keys
}

#[test]
fn the_example_documents_every_key_and_no_other() {
    let known: BTreeSet<String> = known_keys().into_iter().collect();
    assert!(known.len() > 50, "{known:?}");
    assert_eq!(mentioned_keys(&example_text()), known);
}

#[test]
fn the_example_is_accepted_and_its_defaults_are_the_codes() {
    let text = example_text();
    let plain = accepted(&text, &Env::of([]));
    assert_eq!(plain.warnings, []);
    let optional = optional_lines(&text);
    let defaults: Vec<&Optional> = optional.iter().filter(|line| line.has_default).collect();
    assert!(defaults.len() > 30);
    for line in &defaults {
        // Keys of the other engine are accepted with a warning, which is not a setting.
        let mut config = accepted(&with_lines(&text, &[line]), &Env::of([]));
        config.warnings.clear();
        assert_eq!(config, plain, "not the default: {}", line.enabled);
    }
}

#[test]
fn keys_of_the_example_without_default_change_something() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["main.password", "ca.pem", "client.pem", "client.key"] {
        let path = dir.path().join(file);
        std::fs::write(&path, "content").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(dir.path().join("main-password"), "content").unwrap();
    let dir = dir.path().to_str().unwrap();
    let env = Env::of([
        ("SHOP_MAIN_PASSWORD", "content"),
        ("CREDENTIALS_DIRECTORY", dir),
    ]);
    let text = example_text().replace("\"/etc/repl-daemon/", &format!("\"{dir}/"));
    let plain = accepted(&text, &env);
    let optional = optional_lines(&text);
    for line in optional.iter().filter(|line| !line.has_default) {
        let mut enabled = vec![line];
        // Certificate and key are accepted together only.
        if line.enabled.starts_with("cert_file") || line.enabled.starts_with("key_file") {
            let pair = |other: &&Optional| other.enabled.contains("client.");
            enabled = optional.iter().filter(pair).collect();
        }
        let config = accepted(&with_lines(&text, &enabled), &env);
        assert_ne!(config, plain, "without effect: {}", line.enabled);
    }
}

#[test]
fn a_minimal_file_has_every_default() {
    let text = "group.name = 'g'\nlog.dir = 'log'\n\
        [[node]]\nname = 'a'\nrole = 'primary'\nurl = 'sqlite:a.db'\n\
        [[node]]\nname = 'b'\nrole = 'replica'\nurl = 'sqlite:b.db'\n";
    let config = accepted(text, &Env::of([]));
    assert_eq!(config.engine(), Engine::Sqlite);
    assert_eq!(config.log.dir, Path::new("/etc/repl-daemon/log"));
    assert_eq!(
        config.api.socket,
        Path::new("/etc/repl-daemon/log/repl-daemon.sock")
    );
    assert_eq!(config.api.socket_mode, 0o660);
    assert_eq!(config.log.segment_size, 64 << 20);
    assert_eq!(config.retry.initial, Duration::from_millis(200));
    assert_eq!(config.capture.slot_name, "repl_g");
    assert_eq!(config.tables.include, ["*.*"]);
    let path = PathBuf::from("/etc/repl-daemon/b.db");
    assert_eq!(config.replicas[0].endpoint, Endpoint::Sqlite { path });
    assert_eq!(config.replicas[0].tls, None);
    let roles: Vec<NodeRole> = config.nodes().map(|node| node.role).collect();
    assert_eq!(roles, [NodeRole::Primary, NodeRole::Replica]);
}

#[test]
fn tls_is_on_for_every_host_but_this_one() {
    let mode = |host: &str, tls: &str| {
        let text = format!(
            "group.name = 'g'\nlog.dir = 'log'\n\
             [[node]]\nname = 'a'\nrole = 'primary'\nurl = 'postgresql://u@{host}/a'\n{tls}\n\
             [[node]]\nname = 'b'\nrole = 'replica'\nurl = 'postgresql://u@db2/b'\n"
        );
        accepted(&text, &Env::of([])).primary.tls.unwrap().mode
    };
    assert_eq!(mode("db1", ""), TlsMode::VerifyFull);
    assert_eq!(mode("localhost", ""), TlsMode::Disable);
    assert_eq!(mode("127.0.0.9", ""), TlsMode::Disable);
    assert_eq!(mode("[::1]", ""), TlsMode::Disable);
    assert_eq!(mode("localhost", "tls = {}"), TlsMode::VerifyFull);
}

#[test]
fn the_same_file_behind_a_link_is_the_same_database() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.db"), "").unwrap();
    std::os::unix::fs::symlink(dir.path().join("a.db"), dir.path().join("b.db")).unwrap();
    let text = "group.name = 'g'\nlog.dir = 'log'\n\
        [[node]]\nname = 'a'\nrole = 'primary'\nurl = 'sqlite:a.db'\n\
        [[node]]\nname = 'b'\nrole = 'replica'\nurl = 'sqlite:b.db'\n";
    let problems = parse(text, &dir.path().join("c.toml"), &Env::of([])).unwrap_err();
    assert_eq!(problems.errors.len(), 1);
    assert!(
        problems
            .to_string()
            .contains("same database as that of `a`"),
        "{problems}"
    );
}

#[test]
fn check_reports_a_summary_warnings_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.toml");
    let text = "group.name = 'g'\nlog.dir = '/var/lib/g'\ntables.exclude = ['public.tmp_*']\n\
        [[node]]\nname = 'a'\nrole = 'primary'\nurl = 'postgresql://u:hunter2@db1/a'\n\
        [[node]]\nname = 'b'\nrole = 'replica'\nurl = 'postgresql://u@/b?host=/run/postgresql'\n";
    std::fs::write(&path, text).unwrap();
    let shown = path.display();

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let expected = format!(
        "{shown}: ok\n  \
         group     g (PostgreSQL, slot repl_g, publication repl_g)\n  \
         primary   a  postgresql://u@db1:5432/a  tls verify-full  password set\n  \
         replicas  b  postgresql://u@:5432/b?host=/run/postgresql  no password\n  \
         mode      async\n  \
         tables    all; without public.tmp_*\n  \
         log       /var/lib/g (segments of 64MiB, retention unlimited)\n  \
         socket    /var/lib/g/repl-daemon.sock\n"
    );
    assert_eq!(check_report(&path), (expected, true));

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(load(&path).unwrap().warnings.len(), 1);
    let (report, ok) = check_report(&path);
    assert!(
        ok && report.contains("warning: node[a].url: the URL holds a password"),
        "{report}"
    );
    assert!(!report.contains("hunter2"));

    std::fs::write(&path, format!("{text}\nprioritty = 1\nenabled = 1\n")).unwrap();
    let (report, ok) = check_report(&path);
    assert!(
        !ok && report.ends_with(&format!("{shown}: 2 errors, 1 warning\n")),
        "{report}"
    );

    let (report, ok) = check_report(&dir.path().join("absent.toml"));
    assert!(!ok && report.contains("cannot be read"), "{report}");
}

/// Half a file, or a file with a character struck out, is refused or accepted, but never a panic.
#[test]
fn what_stands_at_a_path_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let text = |log: &str, more: &str, url: &str| {
        format!(
            "group.name = 'g'\nlog.dir = '{log}'\n{more}\n\
             [[node]]\nname = 'p'\nrole = 'primary'\nurl = '{url}'\n\
             [[node]]\nname = 'r'\nrole = 'replica'\nurl = 'sqlite:///tmp/repl-no-such-r.db'\n"
        )
    };
    let (log, url) = (at("log"), "sqlite:///tmp/repl-no-such-p.db");
    let (file, below, here) = (at("file"), at("file/x"), dir.path().display().to_string());
    let group = "api.socket_group = 'no-such-group-here'";
    let cases = [
        (text(&file, "", url), 2, "not a directory"),
        (text(&below, "", url), 2, "not a directory"),
        (
            text(&log, &format!("api.socket = '{file}'"), url),
            3,
            "is a file, not a socket",
        ),
        (
            text(&log, &format!("api.socket = '{here}'"), url),
            3,
            "is a directory, not a socket",
        ),
        (
            text(&log, &format!("api.socket = '{below}'"), url),
            3,
            "not a directory",
        ),
        (text(&log, group, url), 3, "no-such-group-here"),
        (
            text(&log, "", &format!("sqlite://{here}")),
            7,
            "is a directory",
        ),
        (
            text(&log, "", &format!("sqlite://{below}")),
            7,
            "not a directory",
        ),
        (text(&log, "", "sqlite:///a%00b"), 7, "url"),
        (
            text(&log, "", &format!("postgresql://u@/d?host={file}")),
            7,
            "is not a directory",
        ),
        (
            text(&log, "capture.slot_name = \"a\\u0000b\"", url),
            3,
            "NUL",
        ),
        (
            text(&log, "tables.include = [\"a\\u0000b\"]", url),
            3,
            "NUL",
        ),
    ];
    for (text, line, said) in cases {
        let path = dir.path().join("shop.toml");
        std::fs::write(&path, &text).unwrap();
        let (report, good) = check_report(&path);
        assert!(!good, "{text}\n{report}");
        let place = format!("shop.toml:{line}:");
        let told = |one: &&str| one.contains(&place) && one.contains(said);
        assert!(report.lines().any(|one| told(&one)), "{text}\n{report}");
    }
    let path = dir.path().join("shop.toml");
    std::fs::write(&path, text(&log, "", url)).unwrap();
    assert!(check_report(&path).1, "{}", check_report(&path).0);
    assert!(
        check_report(dir.path()).0.contains("s a directory"),
        "{}",
        check_report(dir.path()).0
    );
}

#[test]
fn damaged_files_never_panic() {
    let mut texts = vec![example_text()];
    for entry in std::fs::read_dir(here().join("tests/fixtures/config")).unwrap() {
        texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let env = Env::of([]);
    for text in texts {
        for (at, c) in text.char_indices().step_by(5) {
            let struck = format!("{}{}", &text[..at], &text[at + c.len_utf8()..]);
            for damaged in [&text[..at], &struck] {
                if let Err(problems) = parse(damaged, Path::new("/etc/x.toml"), &env) {
                    assert!(
                        !problems.errors.is_empty(),
                        "refused without a reason:\n{damaged}"
                    );
                }
            }
        }
    }
}
