//! Table selection: reading the lists, and checking them once the engine is known.

use std::collections::HashMap;

use super::defaults::ALL_TABLES;
use super::model::{Engine, Rename, TablesConfig};
use super::pattern::{Pattern, TableName, parse};
use super::problem::{Complaint, Findings, complaint};
use super::reader::Section;

/// Reads `include`, `exclude` and `rename` of `[tables]` or `[node.tables]`.
pub(super) fn read(section: &mut Section<'_>) -> TablesConfig {
    let include = section.strings("include");
    if include.as_ref().is_some_and(Vec::is_empty) {
        let why = "a selection without patterns replicates nothing";
        section.fail(
            "include",
            complaint("the list is empty", why, "name tables, or remove the key"),
        );
    }
    let include = include.unwrap_or_else(|| vec![ALL_TABLES.to_owned()]);
    let exclude = section.strings("exclude").unwrap_or_default();
    let rename = section
        .sections("rename")
        .into_iter()
        .map(read_rename)
        .collect();
    TablesConfig {
        include,
        exclude,
        rename,
    }
}

/// An incomplete rename is kept, empty, so that the places of the others stay aligned.
fn read_rename(mut entry: Section<'_>) -> Rename {
    let why = "a rename needs both names";
    let fix = "write { from = \"public.users\", to = \"app.customers\" }";
    let from = entry.required("from", why, fix).unwrap_or_default();
    let to = entry.required("to", why, fix).unwrap_or_default();
    entry.finish();
    Rename { from, to }
}

/// What a rename does.
#[derive(Clone)]
enum Action {
    Table(TableName, TableName),
    Schema(String, String),
}

/// A checked rename and where it stands.
#[derive(Clone)]
struct Placed {
    key: String,
    action: Action,
}

/// A selection whose patterns were understood.
pub(super) struct Checked {
    include: Vec<(String, Pattern)>,
    exclude: Vec<Pattern>,
    renames: Vec<Placed>,
}

/// Checks the group's selection.
pub(super) fn check_group(findings: &Findings, tables: &TablesConfig, engine: Engine) -> Checked {
    let checked = check(findings, "tables", tables, (engine, engine));
    check_collisions(findings, &checked, &checked, &checked.renames);
    checked
}

/// Checks a replica's selection together with the group's.
pub(super) fn check_replica(
    findings: &Findings,
    path: &str,
    tables: &TablesConfig,
    group: &Checked,
    engines: (Engine, Engine),
) {
    let own = check(findings, path, tables, engines);
    if own.renames.is_empty() {
        return;
    }
    // The replica's own renames go first, so of two for one source the group's is never reached.
    let renames: Vec<Placed> = own.renames.iter().chain(&group.renames).cloned().collect();
    check_collisions(findings, group, &own, &renames);
}

/// `engines` are the primary's and the replica's: names on the left are of the one, names to rename
/// to are of the other.
fn check(
    findings: &Findings,
    path: &str,
    tables: &TablesConfig,
    engines: (Engine, Engine),
) -> Checked {
    let engine = engines.0;
    let patterns = |list: &'static str, texts: &[String]| {
        let mut read = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let key = format!("{path}.{list}[{}]", i + 1);
            match parse(text, engine) {
                Ok(pattern) => read.push((key, pattern)),
                Err(complaint) => findings.error(&key, complaint),
            }
        }
        read
    };
    let include = patterns("include", &tables.include);
    let exclude = patterns("exclude", &tables.exclude);
    for (key, pattern) in &exclude {
        let all = pattern.matches_all(engine);
        if all || include.iter().all(|(_, included)| included == pattern) && !include.is_empty() {
            let why = "exclude wins over include, so no table is replicated";
            findings.error(
                key,
                complaint("it excludes everything", why, "narrow the pattern"),
            );
        }
    }
    let renames = check_renames(findings, path, &tables.rename, engines);
    let exclude = exclude.into_iter().map(|(_, pattern)| pattern).collect();
    Checked {
        include,
        exclude,
        renames,
    }
}

fn check_renames(
    findings: &Findings,
    path: &str,
    renames: &[Rename],
    engines: (Engine, Engine),
) -> Vec<Placed> {
    let mut placed: Vec<Placed> = Vec::new();
    for (i, rename) in renames.iter().enumerate() {
        let key = format!("{path}.rename[{}]", i + 1);
        if rename.from.is_empty() || rename.to.is_empty() {
            continue;
        }
        let Some(action) = read_action(findings, &key, rename, engines) else {
            continue;
        };
        if let Some(earlier) = placed
            .iter()
            .find(|other| same_source(&other.action, &action))
        {
            let line = findings.line_of(&earlier.key);
            let what = format!("`{}` is renamed already on line {line}", rename.from);
            let why = "one name cannot become two";
            findings.error(
                &format!("{key}.from"),
                complaint(what, why, "remove one of the two"),
            );
        } else {
            warn_if_merging(findings, &key, &placed, &action);
            placed.push(Placed { key, action });
        }
    }
    placed
}

fn read_action(
    findings: &Findings,
    key: &str,
    rename: &Rename,
    (engine, target): (Engine, Engine),
) -> Option<Action> {
    let read = |side: &str, text: &str, engine: Engine| {
        let report = |complaint: Complaint| findings.error(&format!("{key}.{side}"), complaint);
        parse(text, engine).map_err(report).ok()
    };
    // Both sides are read before giving up, so that both are reported.
    let (from, to) = (
        read("from", &rename.from, engine),
        read("to", &rename.to, target),
    );
    let (from, to) = (from?, to?);
    if let (Some(from), Some(to)) = (from.table_name(), to.table_name()) {
        return Some(Action::Table(from, to));
    }
    if let (Engine::Postgres, Some(from), Some(to)) =
        (engine, from.whole_schema(), to.whole_schema())
    {
        return Some(Action::Schema(from.to_owned(), to.to_owned()));
    }
    let what = format!("`{}` cannot be renamed to `{}`", rename.from, rename.to);
    findings.error(key, match engine {
        Engine::Postgres | Engine::Mysql => complaint(
            what,
            "a table becomes a table, a whole schema becomes a whole schema; other globs have no single target",
            "write public.users → app.customers, or sales.* → archive.*",
        ),
        Engine::Sqlite => complaint(
            what,
            "a SQLite file has one schema, so tables are renamed one by one",
            "write two table names without globs",
        ),
    });
    None
}

fn same_source(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Table(a, _), Action::Table(b, _)) => a == b,
        (Action::Schema(a, _), Action::Schema(b, _)) => a == b,
        _ => false,
    }
}

/// Two schemas into one are possible as long as no table name occurs in both, which only the
/// running daemon can see.
fn warn_if_merging(findings: &Findings, key: &str, placed: &[Placed], action: &Action) {
    let Action::Schema(_, target) = action else {
        return;
    };
    let other = placed.iter().find_map(|other| match &other.action {
        Action::Schema(from, to) if to == target => Some(from),
        _ => None,
    });
    if let Some(other) = other {
        let what = format!("schema `{other}` is renamed to `{target}` too");
        let why = "a table name that occurs in both schemas would have one target for two sources";
        let fix = "make sure the names differ, or rename the schemas apart";
        findings.warning(key, complaint(what, why, fix));
    }
}

/// Finds two tables that are known by name, are selected by the group and by its narrowing for a
/// replica, and end under one name there.
fn check_collisions(findings: &Findings, group: &Checked, narrowed: &Checked, renames: &[Placed]) {
    let included = group
        .include
        .iter()
        .filter_map(|(key, p)| Some((key, p.table_name()?)));
    let renamed = renames.iter().filter_map(|rename| match &rename.action {
        Action::Table(from, _) => Some((&rename.key, from.clone())),
        Action::Schema(..) => None,
    });
    let mut sources: HashMap<TableName, TableName> = HashMap::new();
    for (key, source) in included.chain(renamed) {
        let included = |by: &Checked| {
            by.include
                .iter()
                .any(|(_, pattern)| pattern.matches(&source))
                && !by.exclude.iter().any(|pattern| pattern.matches(&source))
        };
        if !included(group) || !included(narrowed) {
            continue;
        }
        let target = target_of(&source, renames);
        match sources.get(&target) {
            Some(other) if *other != source => {
                let what = format!("`{other}` and `{source}` both end as `{target}`");
                let why = "rows of two tables would overwrite each other on the replica";
                let fix = "give them different names, or exclude one";
                findings.error(key, complaint(what, why, fix));
            }
            _ => {
                sources.insert(target, source);
            }
        }
    }
}

fn target_of(source: &TableName, renames: &[Placed]) -> TableName {
    let table = renames.iter().find_map(|rename| match &rename.action {
        Action::Table(from, to) if from == source => Some(to.clone()),
        _ => None,
    });
    let schema = || {
        renames.iter().find_map(|rename| match &rename.action {
            Action::Schema(from, to) if *from == source.schema => Some(TableName {
                schema: to.clone(),
                table: source.table.clone(),
            }),
            _ => None,
        })
    };
    table.or_else(schema).unwrap_or_else(|| source.clone())
}
