//! `synchronous_standby_names`: what it says, and what we write into it.

use std::fmt;

/// The setting, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StandbyNames {
    /// `ANY n (…)`: any of them; otherwise the first by their order.
    any: bool,
    /// How many are waited for.
    number: usize,
    names: Vec<String>,
}

/// What the setting means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// No commit waits for anybody.
    Nobody,
    /// Commits wait for us, alone or beside others that are all waited for.
    Us,
    /// All those named are waited for, and we are not among them.
    Others,
    /// Somebody else can stand in for us.
    Replaceable,
}

impl StandbyNames {
    /// Takes a setting apart; none when it is not understood. Empty: `number` is 0.
    pub(super) fn parse(text: &str) -> Option<StandbyNames> {
        let mut tokens = tokens(text)?.into_iter().peekable();
        let none = StandbyNames {
            any: false,
            number: 0,
            names: Vec::new(),
        };
        let Some(first) = tokens.next() else {
            return Some(none);
        };
        let keyword = |token: &Token, word: &str| matches!(token, Token::Word(text, false) if text.eq_ignore_ascii_case(word));
        let is_count = |token: &Token| matches!(token, Token::Word(text, false) if text.bytes().all(|b| b.is_ascii_digit()));
        let any = keyword(&first, "any");
        let method = any || keyword(&first, "first");
        let followed_by_count = tokens.peek().is_some_and(is_count);
        let opens = matches!(tokens.peek(), Some(Token::Open));
        let (any, number, first) = if method && followed_by_count {
            (any, number(&tokens.next()?)?, None)
        } else if is_count(&first) && opens {
            (false, number(&first)?, None)
        } else {
            (false, 1, Some(first))
        };
        let listed = first.is_none();
        if listed && tokens.next()? != Token::Open {
            return None;
        }
        let mut names = Vec::new();
        let mut next = first.or_else(|| tokens.next());
        loop {
            let Some(Token::Word(name, _)) = next else {
                return None;
            };
            names.push(name);
            match tokens.next() {
                Some(Token::Comma) => next = tokens.next(),
                None if !listed => break,
                Some(Token::Close) if listed && tokens.next().is_none() => break,
                _ => return None,
            }
        }
        Some(StandbyNames { any, number, names })
    }

    /// What it means for the standby `own`. Names are compared as the server does.
    pub(super) fn meaning(&self, own: &str) -> Meaning {
        if self.number == 0 || self.names.is_empty() {
            return Meaning::Nobody;
        }
        let all = self.number >= self.names.len();
        let us = self.names.iter().any(|name| name.eq_ignore_ascii_case(own));
        // The star stands for everybody, us included.
        if !all || self.names.iter().any(|name| name == "*") {
            return Meaning::Replaceable;
        }
        if us { Meaning::Us } else { Meaning::Others }
    }

    /// Whether it names `own`.
    pub(super) fn names(&self, own: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(own))
    }

    /// With `own` as one more that is waited for.
    pub(super) fn with(&self, own: &str) -> StandbyNames {
        let mut names = self.names.clone();
        names.push(own.to_owned());
        StandbyNames {
            any: self.any,
            number: self.number + 1,
            names,
        }
    }

    /// Without `own`, whom it names: the others are waited for as before.
    pub(super) fn without(&self, own: &str) -> StandbyNames {
        let mut names = self.names.clone();
        names.retain(|name| !name.eq_ignore_ascii_case(own));
        // Where all were waited for, all that are left are.
        let all = self.number >= self.names.len();
        let number = if all {
            names.len()
        } else {
            self.number.min(names.len())
        };
        StandbyNames {
            any: self.any,
            number,
            names,
        }
    }
}

impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
        match (self.any, self.number, names.as_slice()) {
            (_, _, []) => Ok(()),
            (false, 1, [one]) => f.write_str(one),
            (any, number, _) => {
                let method = if any { "ANY" } else { "FIRST" };
                write!(f, "{method} {number} ({})", names.join(", "))
            }
        }
    }
}

/// A name as an element of the setting.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !["any", "first"].contains(&name);
    if plain || name == "*" {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Debug, PartialEq)]
enum Token {
    /// A name or number, and whether it was quoted.
    Word(String, bool),
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_ascii_whitespace() => {}
            ',' => tokens.push(Token::Comma),
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '*' => tokens.push(Token::Word("*".into(), false)),
            '"' => {
                let mut name = String::new();
                loop {
                    match rest.next()? {
                        '"' if rest.peek() == Some(&'"') => {
                            rest.next();
                            name.push('"');
                        }
                        '"' => break,
                        other => name.push(other),
                    }
                }
                tokens.push(Token::Word(name, true));
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(&next) = rest.peek().filter(|&&next| is_word(next)) {
                    word.push(next);
                    rest.next();
                }
                tokens.push(Token::Word(word, false));
            }
            _ => return None,
        }
    }
    Some(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn number(token: &Token) -> Option<usize> {
    match token {
        Token::Word(text, false) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Option<Meaning> {
        StandbyNames::parse(text).map(|names| names.meaning("repl_shop"))
    }

    #[test]
    fn only_what_cannot_be_met_without_us_waits_for_us() {
        for text in [
            "repl_shop",
            "Repl_Shop",
            "\"repl_shop\"",
            "1 (repl_shop)",
            "FIRST 1 (repl_shop)",
            "any 1 (repl_shop)",
            "2 (a, repl_shop)",
            "FIRST 2 (repl_shop, \"b c\")",
            "ANY 3(a,b,repl_shop)",
        ] {
            assert_eq!(meaning(text), Some(Meaning::Us), "{text}");
        }
        for text in [
            "a, repl_shop",
            "repl_shop, a",
            "ANY 1 (repl_shop, x)",
            "*",
            "2 (*, repl_shop)",
        ] {
            assert_eq!(meaning(text), Some(Meaning::Replaceable), "{text}");
        }
        assert_eq!(meaning("  "), Some(Meaning::Nobody));
        assert_eq!(meaning("2 (a, b)"), Some(Meaning::Others));
        assert_eq!(meaning("first"), Some(Meaning::Others));
        for text in ["2 (a", "a b", "(a)", "\"a", "2 (a,)", "a;b"] {
            assert_eq!(meaning(text), None, "{text}");
        }
    }

    #[test]
    fn we_are_added_and_taken_out() {
        let changed = |text: &str, change: fn(StandbyNames) -> StandbyNames| {
            StandbyNames::parse(text).map(change).unwrap().to_string()
        };
        let with = |names: StandbyNames| names.with("repl_shop");
        let without = |names: StandbyNames| names.without("repl_shop");
        assert_eq!(changed("", with), "repl_shop");
        assert_eq!(changed("a", with), "FIRST 2 (a, repl_shop)");
        assert_eq!(
            changed("ANY 2 (\"A\", b)", with),
            "ANY 3 (\"A\", b, repl_shop)"
        );
        assert_eq!(changed("repl_shop", without), "");
        assert_eq!(changed("2 (a, repl_shop)", without), "a");
        assert_eq!(changed("ANY 1 (a, repl_shop, b)", without), "ANY 1 (a, b)");
    }
}
