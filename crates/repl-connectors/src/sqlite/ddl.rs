//! Reads and rewrites the `CREATE` statements SQLite keeps, as far as copying tables needs it.

use std::ops::Range;

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};

use super::MAIN;
use crate::seam::{ConnectorError, Result};

/// Refuses names outside `main`: a SQLite file has no other schema.
///
/// # Errors
/// [`ErrorKind::Configuration`].
pub(super) fn check_schema(target: &TableName) -> Result<()> {
    if target.schema == MAIN {
        return Ok(());
    }
    Err(ConnectorError::new(
        ErrorKind::Configuration,
        format!("the table name {target} names a schema that a SQLite replica does not have"),
    )
    .advice("rename tables to main.<table>")
    .table(target.to_string()))
}

/// A word, quoted name, literal or sign of a statement.
#[derive(Debug)]
pub(super) struct Token {
    /// Where it stands.
    pub(super) span: Range<usize>,
    /// The name it stands for if it is one, unquoted.
    pub(super) name: Option<String>,
    /// The sign itself if it is one character of punctuation.
    pub(super) sign: Option<char>,
}

impl Token {
    /// Whether it is this word, in any case and not quoted.
    pub(super) fn is(&self, sql: &str, word: &str) -> bool {
        self.sign.is_none() && sql[self.span.clone()].eq_ignore_ascii_case(word)
    }

    /// Whether it stands for this name, in any case.
    pub(super) fn names(&self, name: &str) -> bool {
        self.name
            .as_deref()
            .is_some_and(|own| own.eq_ignore_ascii_case(name))
    }
}

/// `CREATE TABLE` of `source`, for the name `target`. References of the table to itself follow.
pub(super) fn table_for(sql: &str, source: &str, target: &str) -> Option<String> {
    let tokens = tokens(sql)?;
    let at = after_word(sql, &tokens, "TABLE")?;
    tokens.get(at).filter(|token| token.names(source))?;
    let mut renamed = vec![(tokens[at].span.clone(), quote_identifier(target))];
    for pair in tokens.windows(2) {
        if pair[0].is(sql, "REFERENCES") && pair[1].names(source) {
            renamed.push((pair[1].span.clone(), quote_identifier(target)));
        }
    }
    Some(replace(sql, renamed))
}

/// `CREATE INDEX` of an index on `source`, for the table `target`. On a renamed table the index is
/// renamed too, since index names are unique in a database.
pub(super) fn index_for(sql: &str, source: &str, index: &str, target: &str) -> Option<String> {
    let tokens = tokens(sql)?;
    let at = after_word(sql, &tokens, "INDEX")?;
    let on = tokens
        .iter()
        .position(|token| token.is(sql, "ON"))
        .filter(|&on| on > at)?;
    let table = tokens.get(on + 1).filter(|token| token.names(source))?;
    let name = if source == target {
        index.to_owned()
    } else {
        format!("{target}_{index}")
    };
    Some(replace(
        sql,
        vec![
            (tokens[at].span.clone(), quote_identifier(&name)),
            (table.span.clone(), quote_identifier(target)),
        ],
    ))
}

/// The definition of one column as written in a `CREATE TABLE`.
pub(super) fn column_definition(sql: &str, column: &str) -> Option<String> {
    let tokens = tokens(sql)?;
    let open = tokens.iter().position(|token| token.sign == Some('('))?;
    let mut depth = 0;
    let mut start = open + 1;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        let ends = match token.sign {
            Some('(') => {
                depth += 1;
                false
            }
            Some(')') => {
                depth -= 1;
                depth == 0
            }
            Some(',') => depth == 1,
            _ => false,
        };
        if ends {
            let first = tokens.get(start).filter(|_| start < at)?;
            if first.names(column) {
                return Some(sql[first.span.start..tokens[at - 1].span.end].to_owned());
            }
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    None
}

/// The definition that an `ALTER TABLE … ADD COLUMN` adds for this column, or the one a
/// `CREATE TABLE` has for it.
pub(super) fn definition_for(sql: &str, column: &str) -> Option<String> {
    let words = tokens(sql)?;
    if !words.first()?.is(sql, "ALTER") {
        return column_definition(sql, column);
    }
    let add = words.iter().position(|word| word.is(sql, "ADD"))?;
    let name = words.get(add + 2).filter(|name| name.names(column))?;
    Some(sql[name.span.start..].trim().to_owned())
}

/// The statement that adds a column by its definition.
pub(super) fn add_column(target: &TableName, definition: &str) -> String {
    format!("ALTER TABLE {} ADD COLUMN {definition}", target.quoted())
}

/// Index of the token after the object word, past `IF NOT EXISTS`.
fn after_word(sql: &str, tokens: &[Token], word: &str) -> Option<usize> {
    let at = tokens
        .iter()
        .take(4)
        .position(|token| token.is(sql, word))?
        + 1;
    let skipped = ["IF", "NOT", "EXISTS"]
        .iter()
        .enumerate()
        .all(|(n, word)| tokens.get(at + n).is_some_and(|token| token.is(sql, word)));
    Some(if skipped { at + 3 } else { at })
}

fn replace(sql: &str, mut parts: Vec<(Range<usize>, String)>) -> String {
    parts.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = sql.to_owned();
    for (span, with) in parts {
        text.replace_range(span, &with);
    }
    text
}

/// Splits a statement; none when a quote or comment is not closed.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token>> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let rest = &sql[at..];
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("--") {
            at += rest.find('\n').map_or(rest.len(), |end| end + 1);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            at += comment.find("*/").map_or(rest.len(), |end| end + 4);
        } else if matches!(byte, b'"' | b'`' | b'\'' | b'[') {
            let close = if byte == b'[' { b']' } else { byte };
            let name;
            (at, name) = quoted(sql, at, close)?;
            tokens.push(Token {
                span: start..at,
                name: Some(name),
                sign: None,
            });
        } else if is_word(byte) {
            at += bytes[at..].iter().take_while(|&&b| is_word(b)).count();
            let name = Some(sql[start..at].to_owned());
            tokens.push(Token {
                span: start..at,
                name,
                sign: None,
            });
        } else {
            at += 1;
            tokens.push(Token {
                span: start..at,
                name: None,
                sign: Some(char::from(byte)),
            });
        }
    }
    Some(tokens)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// The text of a quoted name or string that begins at `at`, and where it ends.
fn quoted(sql: &str, at: usize, close: u8) -> Option<(usize, String)> {
    let bytes = sql.as_bytes();
    let mut end = at + 1;
    loop {
        end += bytes[end..].iter().position(|&byte| byte == close)?;
        if close != b']' && bytes.get(end + 1) == Some(&close) {
            end += 2;
        } else {
            break;
        }
    }
    let quote = char::from(close).to_string();
    let text = sql[at + 1..end].replace(&quote.repeat(2), &quote);
    Some((end + 1, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_renamed_with_their_references_to_themselves() {
        let sql = "CREATE TABLE \"a\"\"b\" (id INTEGER PRIMARY KEY /* a\"b */, p REFERENCES \"a\"\"b\"(id), \
                   q TEXT DEFAULT 'a\"b' REFERENCES other)";
        assert_eq!(
            table_for(sql, "a\"b", "c").unwrap(),
            "CREATE TABLE \"c\" (id INTEGER PRIMARY KEY /* a\"b */, p REFERENCES \"c\"(id), \
             q TEXT DEFAULT 'a\"b' REFERENCES other)"
        );
        assert_eq!(table_for("CREATE TABLE t(x)", "u", "v"), None);
        assert_eq!(
            table_for("CREATE TABLE [t x](x)", "t x", "v").unwrap(),
            "CREATE TABLE \"v\"(x)"
        );
    }

    #[test]
    fn indexes_follow_their_table() {
        let sql = "CREATE UNIQUE INDEX `on x` ON t (a, \"ON\") WHERE a > 0";
        assert_eq!(
            index_for(sql, "t", "on x", "t").unwrap(),
            "CREATE UNIQUE INDEX \"on x\" ON \"t\" (a, \"ON\") WHERE a > 0"
        );
        assert!(
            index_for(sql, "t", "on x", "u")
                .unwrap()
                .contains("\"u_on x\" ON \"u\"")
        );
    }

    #[test]
    fn column_definitions_are_found_as_written() {
        let sql = "CREATE TABLE t(a INT, \"b,c\" DECIMAL(10,2) DEFAULT (1+(2)) CHECK(a IN (1,2)), \
                   d, PRIMARY KEY(a, d))";
        assert_eq!(
            column_definition(sql, "B,C").unwrap(),
            "\"b,c\" DECIMAL(10,2) DEFAULT (1+(2)) CHECK(a IN (1,2))"
        );
        assert_eq!(column_definition(sql, "d").unwrap(), "d");
        assert_eq!(column_definition(sql, "x"), None);
        let add = add_column(&TableName::new("main", "t"), "\"b,c\" INT DEFAULT 3");
        assert_eq!(
            definition_for(&add, "b,c").unwrap(),
            "\"b,c\" INT DEFAULT 3"
        );
        assert_eq!(definition_for(&add, "b"), None);
        assert_eq!(definition_for(sql, "a").unwrap(), "a INT");
    }
}
