//! Which tables take part, and under which name a replica knows them.

use crate::schema::TableName;
use crate::telling::Naming;

/// A pattern over qualified table names: `*` and `?` wildcards in both parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern {
    /// Pattern of the schema.
    pub schema: String,
    /// Pattern of the table.
    pub table: String,
}

impl TablePattern {
    /// Parses `schema.table`; a part may be double-quoted, in which case it is taken literally up
    /// to wildcards. A single part means the table in `default_schema`.
    ///
    /// # Errors
    /// A description of what is wrong with the text.
    pub fn parse(text: &str, default_schema: &str) -> Result<TablePattern, String> {
        let parts = split_name(text)?;
        match parts.as_slice() {
            [table] => Ok(TablePattern {
                schema: default_schema.to_owned(),
                table: table.clone(),
            }),
            [schema, table] => Ok(TablePattern {
                schema: schema.clone(),
                table: table.clone(),
            }),
            _ => Err(format!(
                "`{text}` has more than two parts; write schema.table"
            )),
        }
    }

    /// Whether the pattern matches.
    pub fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.table, &table.name)
    }

    /// Whether the pattern names exactly one table.
    pub fn is_literal(&self) -> bool {
        !self.schema.contains(['*', '?']) && !self.table.contains(['*', '?'])
    }
}

/// Splits a possibly quoted, dotted name into its parts.
///
/// # Errors
/// A description of what is wrong with the text.
pub fn split_name(text: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let part = parts.last_mut().ok_or("empty name")?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => part.push(c),
        }
    }
    if quoted {
        return Err(format!("`{text}` has an unclosed double quote"));
    }
    if parts.iter().any(String::is_empty) {
        return Err(format!("`{text}` has an empty part"));
    }
    Ok(parts)
}

/// Include and exclude patterns; a table takes part when it is included and not excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Any of these must match; none at all means every table.
    pub include: Vec<TablePattern>,
    /// None of these may match.
    pub exclude: Vec<TablePattern>,
    /// What the patterns call the tables that are asked for.
    pub naming: Naming,
}

impl Selection {
    /// These tables, by the names that they are asked for under; every one where there are none.
    pub fn of<'a>(tables: impl Iterator<Item = &'a TableName>) -> Selection {
        let pattern = |table: &TableName| TablePattern {
            schema: table.schema.clone(),
            table: table.name.clone(),
        };
        Selection {
            include: tables.map(pattern).collect(),
            ..Selection::default()
        }
    }

    /// Whether the table takes part.
    pub fn selects(&self, table: &TableName) -> bool {
        let table = &self.naming.known(table);
        (self.include.is_empty() || self.include.iter().any(|p| p.matches(table)))
            && !self.exclude.iter().any(|p| p.matches(table))
    }
}

/// One renaming on the way to a replica. With `*` as table on both sides the schema is renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Name at the source; table may be `*`.
    pub from: TableName,
    /// Name at the replica; table is `*` exactly when `from`'s is.
    pub to: TableName,
}

/// What one replica receives and under which names.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// The group's selection.
    pub group: Selection,
    /// The replica's own narrowing.
    pub replica: Selection,
    /// Renames, the first match wins (table renames should stand before schema renames).
    pub renames: Vec<Rename>,
}

impl Routing {
    /// The table's name at the replica, or none when the replica does not receive it.
    pub fn target(&self, source: &TableName) -> Option<TableName> {
        if !self.group.selects(source) || !self.replica.selects(source) {
            return None;
        }
        for rename in &self.renames {
            if rename.from.schema != source.schema {
                continue;
            }
            if rename.from.name == source.name {
                return Some(rename.to.clone());
            }
            if rename.from.name == "*" {
                return Some(TableName::new(
                    rename.to.schema.clone(),
                    source.name.clone(),
                ));
            }
        }
        Some(source.clone())
    }
}

/// Matches `*` (any run) and `?` (one character), case-sensitively.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TablePattern {
        TablePattern::parse(text, "public").unwrap()
    }

    #[test]
    fn patterns_match_both_parts() {
        let users = TableName::new("public", "users");
        for text in [
            "users",
            "public.users",
            "*.*",
            "p*.us?rs",
            "public.*s",
            "\"public\".\"users\"",
        ] {
            assert!(pattern(text).matches(&users), "{text}");
        }
        for text in ["Users", "app.users", "public.user", "public.users?"] {
            assert!(!pattern(text).matches(&users), "{text}");
        }
        let odd = TableName::new("a.b", "c\"d");
        assert!(pattern("\"a.b\".\"c\"\"d\"").matches(&odd));
        for bad in ["a.b.c", "\"a", "a.", ""] {
            assert!(TablePattern::parse(bad, "public").is_err(), "{bad}");
        }
    }

    #[test]
    fn renames_apply_after_selection() {
        let routing = Routing {
            group: Selection {
                include: vec![pattern("public.*")],
                ..Selection::default()
            },
            replica: Selection {
                exclude: vec![pattern("public.secret")],
                ..Selection::default()
            },
            renames: vec![
                Rename {
                    from: TableName::new("public", "a"),
                    to: TableName::new("x", "b"),
                },
                Rename {
                    from: TableName::new("public", "*"),
                    to: TableName::new("y", "*"),
                },
            ],
        };
        let target = |name: &str| routing.target(&TableName::new("public", name));
        assert_eq!(target("a"), Some(TableName::new("x", "b")));
        assert_eq!(target("c"), Some(TableName::new("y", "c")));
        assert_eq!(target("secret"), None);
        assert_eq!(routing.target(&TableName::new("other", "a")), None);
    }
}
