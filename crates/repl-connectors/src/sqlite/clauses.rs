//! The parts of a `CREATE TABLE` that no pragma tells: checks, generated columns' expressions,
//! collations, and when foreign keys are checked.

use std::ops::Range;

use super::ddl::{Token, tokens};

/// Words that begin a constraint of the table; reserved, so no column has one for its bare name.
const TABLE_CONSTRAINTS: [&str; 5] = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"];

/// Words that begin a constraint of a column other than those of interest, so that a name given
/// before them is theirs.
const OTHER_CONSTRAINTS: [&str; 5] = ["PRIMARY", "UNIQUE", "NOT", "NULL", "DEFAULT"];

/// Appended, as a comment of the language itself, to expressions that name a column of another
/// collation than BINARY: the bare expression means something else in every other engine.
const LOOSE: &str = " /* under a collation that takes different strings for equal */";

/// What a `CREATE TABLE` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Clauses {
    /// Name (empty where it has none) and condition of each CHECK.
    pub(super) checks: Vec<(String, String)>,
    /// Name and expression of each generated column.
    pub(super) generated: Vec<(String, String)>,
    /// The foreign keys in the order they are written.
    pub(super) references: Vec<Reference>,
}

/// One REFERENCES clause.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reference {
    /// The constraint's name; empty where it has none.
    pub(super) name: String,
    /// DEFERRABLE INITIALLY DEFERRED.
    pub(super) deferred: bool,
}

/// Reads the statement; none when it is not of the form SQLite keeps.
pub(super) fn clauses(sql: &str) -> Option<Clauses> {
    let tokens = tokens(sql)?;
    let open = tokens.iter().position(|token| token.sign == Some('('))?;
    let mut reader = Reader {
        sql,
        tokens: &tokens,
        at: open + 1,
        column: None,
        constraint: None,
        checks: Vec::new(),
        generated: Vec::new(),
        loose: Vec::new(),
        references: Vec::new(),
    };
    reader.body()?;
    Some(reader.finish())
}

/// The predicate of a partial index.
pub(super) fn predicate(sql: &str) -> Option<String> {
    let tokens = tokens(sql)?;
    let mut depth = 0;
    let word = tokens.iter().position(|token| {
        match token.sign {
            Some('(') => depth += 1,
            Some(')') => depth -= 1,
            _ => {}
        }
        depth == 0 && token.is(sql, "WHERE")
    })?;
    Some(text(sql, tokens.get(word + 1..)?))
}

struct Reader<'a> {
    sql: &'a str,
    tokens: &'a [Token],
    at: usize,
    /// The column being defined; none within a constraint of the table.
    column: Option<String>,
    /// The name given to the constraint that follows.
    constraint: Option<String>,
    checks: Vec<(String, Range<usize>)>,
    generated: Vec<(String, Range<usize>)>,
    /// Columns of another collation than BINARY.
    loose: Vec<String>,
    references: Vec<Reference>,
}

impl Reader<'_> {
    /// Reads up to the parenthesis that closes the table.
    fn body(&mut self) -> Option<()> {
        let mut begins = true;
        loop {
            let token = self.tokens.get(self.at)?;
            match token.sign {
                Some(')') => return Some(()),
                Some(',') => {
                    begins = true;
                    self.constraint = None;
                    self.at += 1;
                }
                Some('(') => {
                    self.group()?;
                }
                _ if begins => {
                    begins = false;
                    let named = !TABLE_CONSTRAINTS.iter().any(|word| self.is(word));
                    self.column = token.name.clone().filter(|_| named);
                    self.at += usize::from(named);
                }
                _ => self.clause()?,
            }
        }
    }

    fn is(&self, word: &str) -> bool {
        self.ahead(0, word)
    }

    fn ahead(&self, by: usize, word: &str) -> bool {
        self.tokens
            .get(self.at + by)
            .is_some_and(|token| token.is(self.sql, word))
    }

    /// The tokens between the parenthesis here and the one that closes it; moves behind that.
    fn group(&mut self) -> Option<Range<usize>> {
        let start = self.at + 1;
        let mut depth = 0;
        loop {
            match self.tokens.get(self.at)?.sign {
                Some('(') => depth += 1,
                Some(')') => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(start..self.at - 1);
            }
        }
    }

    fn clause(&mut self) -> Option<()> {
        let opens = self.tokens.get(self.at + 1)?.sign == Some('(');
        let following = self.tokens.get(self.at + 1)?.name.clone();
        let word = |word: &str| self.is(word);
        if word("CONSTRAINT") {
            self.constraint = following;
            self.at += 2;
        } else if word("CHECK") && opens {
            self.at += 1;
            let name = self.constraint.take().unwrap_or_default();
            let condition = self.group()?;
            self.checks.push((name, condition));
        } else if word("AS") && opens {
            self.at += 1;
            let column = self.column.clone()?;
            let expression = self.group()?;
            self.generated.push((column, expression));
        } else if word("COLLATE") {
            let binary = following.is_some_and(|name| name.eq_ignore_ascii_case("BINARY"));
            self.loose.extend(self.column.clone().filter(|_| !binary));
            self.at += 2;
        } else if word("REFERENCES") {
            self.references.push(Reference {
                name: self.constraint.take().unwrap_or_default(),
                deferred: false,
            });
            self.at += 1;
        } else if word("NOT") && self.ahead(1, "DEFERRABLE") {
            self.at += 2;
        } else if word("DEFERRABLE") {
            let deferred = self.ahead(1, "INITIALLY") && self.ahead(2, "DEFERRED");
            if let Some(reference) = self.references.last_mut() {
                reference.deferred = deferred;
            }
            self.at += 1;
        } else {
            if OTHER_CONSTRAINTS.iter().any(|other| word(other)) {
                self.constraint = None;
            }
            self.at += 1;
        }
        Some(())
    }

    fn finish(self) -> Clauses {
        let expression = |(name, range): &(String, Range<usize>)| {
            let tokens = &self.tokens[range.clone()];
            let loose = tokens.iter().any(|token| {
                let literal = self.sql[token.span.clone()].starts_with('\'');
                !literal && self.loose.iter().any(|column| token.names(column))
            });
            let mark = if loose { LOOSE } else { "" };
            (name.clone(), text(self.sql, tokens) + mark)
        };
        Clauses {
            checks: self.checks.iter().map(expression).collect(),
            generated: self.generated.iter().map(expression).collect(),
            references: self.references,
        }
    }
}

/// The tokens as written, without the comments between them.
fn text(sql: &str, tokens: &[Token]) -> String {
    let mut text = String::new();
    let mut end = None;
    for token in tokens {
        match end.map(|end: usize| &sql[end..token.span.start]) {
            Some(between) if between.trim().is_empty() => text.push_str(between),
            Some(_) => text.push(' '),
            None => {}
        }
        text.push_str(&sql[token.span.clone()]);
        end = Some(token.span.end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_wherever_they_stand() {
        let sql = "CREATE TABLE t(a INT CONSTRAINT pos CHECK (a > 0 /* no ) */ AND a<9) NOT NULL, \
                   \"CHECK\" TEXT DEFAULT 'CHECK (x)', key CONSTRAINT nn NOT NULL CHECK(key <> ')'), \
                   CONSTRAINT u UNIQUE (a), CHECK ((a) IN (1,2)) CHECK (a != 3))";
        let found = clauses(sql).unwrap();
        let expected = [
            ("pos", "a > 0 AND a<9"),
            ("", "key <> ')'"),
            ("", "(a) IN (1,2)"),
            ("", "a != 3"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(found.checks, expected);
        assert!(found.references.is_empty() && found.generated.is_empty());
    }

    #[test]
    fn foreign_keys_tell_when_they_are_checked() {
        let sql = "CREATE TABLE t(a INT REFERENCES p DEFERRABLE INITIALLY DEFERRED, \
                   b REFERENCES p(x) ON DELETE SET NULL NOT DEFERRABLE INITIALLY DEFERRED, \
                   CONSTRAINT \"f k\" FOREIGN KEY (a, b) REFERENCES q (a, b) \
                   ON UPDATE CASCADE DEFERRABLE INITIALLY IMMEDIATE)";
        let found = clauses(sql).unwrap().references;
        let told: Vec<(&str, bool)> = found
            .iter()
            .map(|reference| (reference.name.as_str(), reference.deferred))
            .collect();
        assert_eq!(told, [("", true), ("", false), ("f k", false)]);
    }

    #[test]
    fn expressions_under_another_collation_are_marked() {
        let sql = "CREATE TABLE t(n TEXT COLLATE NOCASE CHECK (n = 'a'), b TEXT COLLATE binary \
                   CHECK (b = 'n'), g AS (\"N\" || b) VIRTUAL, \
                   h TEXT GENERATED ALWAYS AS (b || 'x') STORED)";
        let found = clauses(sql).unwrap();
        assert_eq!(found.checks[0].1, format!("n = 'a'{LOOSE}"));
        assert_eq!(found.checks[1].1, "b = 'n'");
        assert_eq!(
            found.generated[0],
            ("g".into(), format!("\"N\" || b{LOOSE}"))
        );
        assert_eq!(found.generated[1], ("h".into(), "b || 'x'".into()));
    }

    #[test]
    fn predicates_are_found_behind_the_columns() {
        let sql = "CREATE INDEX i ON t (a, (CASE WHEN a THEN 1 END)) WHERE a > 0 -- some\n AND b";
        assert_eq!(predicate(sql).unwrap(), "a > 0 AND b");
        assert_eq!(predicate("CREATE INDEX i ON t (\"WHERE\")"), None);
    }
}
