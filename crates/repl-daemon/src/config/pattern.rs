//! Table patterns: `schema.table` for PostgreSQL, `table` for SQLite, with globs or quoted names.

use std::fmt;

use super::model::Engine;
use super::problem::{Complaint, complaint};

/// Longest PostgreSQL name, in bytes.
const PG_NAME_BYTES: usize = 63;
/// The schema of a SQLite database's own tables.
const SQLITE_SCHEMA: &str = "main";

/// One part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// Exactly this name.
    Literal(String),
    /// `*` stands for any text, `?` for one character.
    Glob(String),
}

impl Name {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Glob(glob) => glob_matches(glob, name),
        }
    }

    fn is_any(&self) -> bool {
        matches!(self, Self::Glob(glob) if glob.chars().all(|c| c == '*'))
    }
}

/// A table that is named without globs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TableName {
    pub schema: String,
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// A pattern of table names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    pub schema: Name,
    pub table: Name,
}

impl Pattern {
    pub fn matches(&self, name: &TableName) -> bool {
        self.schema.matches(&name.schema) && self.table.matches(&name.table)
    }

    /// Whether no table of this engine escapes it.
    pub fn matches_all(&self, engine: Engine) -> bool {
        let every_schema = match engine {
            Engine::Postgres | Engine::Mysql => self.schema.is_any(),
            Engine::Sqlite => true,
        };
        every_schema && self.table.is_any()
    }

    /// The one table it names, if it has no globs.
    pub fn table_name(&self) -> Option<TableName> {
        match (&self.schema, &self.table) {
            (Name::Literal(schema), Name::Literal(table)) => Some(TableName {
                schema: schema.clone(),
                table: table.clone(),
            }),
            _ => None,
        }
    }

    /// The schema of a `schema.*` pattern.
    pub fn whole_schema(&self) -> Option<&str> {
        match &self.schema {
            Name::Literal(schema) if self.table.is_any() => Some(schema),
            _ => None,
        }
    }
}

/// Reads a pattern; SQLite names are folded to lower case, since SQLite compares them so.
pub(super) fn parse(text: &str, engine: Engine) -> Result<Pattern, Complaint> {
    let parts = split(text)?;
    let pattern = match engine {
        Engine::Postgres | Engine::Mysql => postgres(text, parts)?,
        Engine::Sqlite => sqlite(text, parts)?,
    };
    never_valid(text, &pattern, engine).map_or(Ok(pattern), Err)
}

fn postgres(text: &str, parts: Vec<Name>) -> Result<Pattern, Complaint> {
    match <[Name; 2]>::try_from(parts) {
        Ok([schema, table]) => Ok(Pattern { schema, table }),
        Err(parts) if parts.len() == 1 => Err(complaint(
            format!("`{text}` names no schema"),
            "PostgreSQL patterns are schema.table, and the daemon has no search_path",
            format!("write \"public.{text}\", or \"*.{text}\" for every schema"),
        )),
        Err(parts) => Err(complaint(
            format!("`{text}` has {} parts", parts.len()),
            "PostgreSQL patterns are schema.table, within the database of the URL",
            "write schema.table; quote a name that itself holds a dot: '\"odd.schema\".\"my.table\"'",
        )),
    }
}

fn sqlite(text: &str, mut parts: Vec<Name>) -> Result<Pattern, Complaint> {
    for part in &mut parts {
        let (Name::Literal(name) | Name::Glob(name)) = part;
        name.make_ascii_lowercase();
    }
    let main = Name::Literal(SQLITE_SCHEMA.to_owned());
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(table), None, None) => Ok(Pattern {
            schema: main,
            table,
        }),
        (Some(schema), Some(table), None) if schema.matches(SQLITE_SCHEMA) => Ok(Pattern {
            schema: main,
            table,
        }),
        _ => Err(complaint(
            format!("`{text}` names a schema other than main"),
            "a SQLite file has the schema main alone",
            "write the table name; quote a name that itself holds a dot: '\"my.table\"'",
        )),
    }
}

/// Why a well-formed pattern can still never select anything.
fn never_valid(text: &str, pattern: &Pattern, engine: Engine) -> Option<Complaint> {
    let system =
        |name: &Name, prefix: &str| matches!(name, Name::Literal(n) if n.starts_with(prefix));
    let is_system = match engine {
        Engine::Postgres => {
            system(&pattern.schema, "pg_")
                || matches!(&pattern.schema, Name::Literal(n) if n == "information_schema")
        }
        Engine::Mysql => false,
        Engine::Sqlite => system(&pattern.table, "sqlite_"),
    };
    if is_system {
        let what = format!("`{text}` names system tables");
        let why = "each server keeps its own; they are never replicated";
        return Some(complaint(what, why, "remove it"));
    }
    let long = |name: &Name| matches!(name, Name::Literal(n) if n.len() > PG_NAME_BYTES);
    if engine == Engine::Postgres && (long(&pattern.schema) || long(&pattern.table)) {
        let what = format!("`{text}` holds a name longer than {PG_NAME_BYTES} bytes");
        let why = "PostgreSQL cuts names at that length, so no table has this one";
        return Some(complaint(what, why, "write the name as `\\d` shows it"));
    }
    None
}

/// Splits at dots outside quotes.
fn split(text: &str) -> Result<Vec<Name>, Complaint> {
    let malformed = |why: &str| {
        let fix = "write for example public.users, sales.*, or '\"odd.schema\".\"my.table\"'";
        complaint(format!("`{text}` is not a pattern"), why, fix)
    };
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted_name(quoted).ok_or_else(|| malformed("a quote is not closed"))?
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (plain_name(&rest[..end]).map_err(malformed)?, &rest[end..])
            }
        };
        if matches!(&part, Name::Literal(name) if name.is_empty()) {
            return Err(malformed("a part of the name is empty"));
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(malformed("text follows the closing quote")),
        }
    }
}

/// The name up to the closing quote (doubled quotes stand for one), and what follows it.
fn quoted_name(text: &str) -> Option<(Name, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                name.push('"');
                rest = next;
            }
            None => return Some((Name::Literal(name), rest)),
        }
    }
}

fn plain_name(text: &str) -> Result<Name, &'static str> {
    let odd = |c: char| {
        c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '$' | '*' | '?')
    };
    if text.contains(odd) {
        return Err(
            "a name with special characters must be in double quotes; the globs are * and ?",
        );
    }
    let glob = text.contains(['*', '?']);
    Ok(if glob {
        Name::Glob(text.to_owned())
    } else {
        Name::Literal(text.to_owned())
    })
}

/// Linear-time matching: on a mismatch the last `*` takes one character more.
fn glob_matches(glob: &str, name: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut g, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                retry = Some((g + 1, n));
                g += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                g += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    (g, n) = (star, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pg(text: &str) -> Pattern {
        parse(text, Engine::Postgres).unwrap()
    }

    fn name(schema: &str, table: &str) -> TableName {
        TableName {
            schema: schema.into(),
            table: table.into(),
        }
    }

    #[test]
    fn patterns_match_as_written() {
        assert!(pg("*.*").matches(&name("a", "b")));
        assert!(pg("sales.*_log").matches(&name("sales", "x_log")));
        assert!(!pg("sales.*_log").matches(&name("sales", "x_logs")));
        assert!(pg("s?.t*t*").matches(&name("s1", "tat")));
        assert!(!pg("public.Users").matches(&name("public", "users")));
        let odd = pg(r#""odd.schema"."my ""*"" table""#);
        assert_eq!(odd.table_name(), Some(name("odd.schema", "my \"*\" table")));
        let lite = parse("Users", Engine::Sqlite).unwrap();
        assert!(lite.matches(&name("main", "users")));
        assert!(
            parse("*.*", Engine::Sqlite)
                .unwrap()
                .matches(&name("main", "t"))
        );
    }

    #[test]
    fn malformed_and_impossible_patterns_are_refused() {
        for bad in [
            "",
            "users",
            "a.b.c",
            "a.",
            ".b",
            "\"a.b",
            "\"a\"x.b",
            "a b.c",
            "a.[bc]",
            "pg_catalog.pg_class",
            "information_schema.tables",
        ] {
            assert!(parse(bad, Engine::Postgres).is_err(), "{bad}");
        }
        for bad in ["public.users", "a.b.c", "sqlite_sequence", ""] {
            assert!(parse(bad, Engine::Sqlite).is_err(), "{bad}");
        }
        let long = format!("public.{}", "x".repeat(64));
        assert!(parse(&long, Engine::Postgres).is_err());
    }
}
