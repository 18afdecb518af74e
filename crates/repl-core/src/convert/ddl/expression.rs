//! The part of SQL's expressions that means the same everywhere, read from the source's words.
//!
//! Anything outside it is no expression here; the caller then leaves the constraint out.

use crate::convert::Engine;

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    Column(String),
    /// Digits, with an optional minus, point and exponent.
    Number(String),
    Text(String),
    /// `X'…'` or a `bytea` literal, in hexadecimal digits.
    Bytes(String),
    Truth(bool),
    Null,
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    In {
        item: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    Between {
        item: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    IsNull {
        item: Box<Expr>,
        negated: bool,
    },
    Cast(Box<Expr>, String),
    /// A function, or a word like `current_timestamp`; the name in lower case.
    Call(String, Vec<Expr>),
    /// `ARRAY[…]`, only as the right side of `= ANY`.
    List(Vec<Expr>),
}

/// Operators of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Concat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Not quoted; in lower case.
    Word(String),
    Quoted(String),
    Number(String),
    Text(String),
    Bytes(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 20] = [
    "::", "||", "<=", ">=", "<>", "!=", "==", "<", ">", "=", "+", "-", "*", "(", ")", "[", "]",
    ",", ".", "/",
];

/// Deeper expressions are left out rather than followed.
const DEEPEST: usize = 60;

/// Reads an expression; none when it is not of the portable part.
pub(super) fn parse(text: &str, engine: Engine) -> Option<Expr> {
    let tokens = tokens(text, engine)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        depth: 0,
        engine,
    };
    let expr = parser.or()?;
    (parser.at == tokens.len()).then_some(expr)
}

fn tokens(text: &str, engine: Engine) -> Option<Vec<Token>> {
    let mut rest = text.trim_start();
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (token, after) = token(first, rest, engine)?;
        tokens.push(token);
        rest = after.trim_start();
    }
    Some(tokens)
}

fn token(first: char, rest: &str, engine: Engine) -> Option<(Token, &str)> {
    // Comments are not followed.
    if rest.starts_with("--") || rest.starts_with("/*") {
        return None;
    }
    let second = rest.chars().nth(1);
    match first {
        '\'' => quoted(rest, '\'', false).map(|(text, rest)| (Token::Text(text), rest)),
        '"' => quoted(rest, '"', false).map(|(name, rest)| (Token::Quoted(name), rest)),
        '`' if engine != Engine::Postgres => {
            quoted(rest, '`', false).map(|(name, rest)| (Token::Quoted(name), rest))
        }
        '[' if engine == Engine::Sqlite => {
            let (name, rest) = rest[1..].split_once(']')?;
            Some((Token::Quoted(name.to_owned()), rest))
        }
        'E' | 'e' if second == Some('\'') && engine == Engine::Postgres => {
            quoted(&rest[1..], '\'', true).map(|(text, rest)| (Token::Text(text), rest))
        }
        'x' | 'X' if second == Some('\'') => {
            let (digits, rest) = quoted(&rest[1..], '\'', false)?;
            let valid = digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then_some((Token::Bytes(digits.to_lowercase()), rest))
        }
        c if c.is_ascii_digit() => Some(number(rest)),
        '.' if second.is_some_and(|c| c.is_ascii_digit()) => Some(number(rest)),
        c if c == '_' || c.is_alphabetic() => {
            let end = rest
                .find(|c: char| c != '_' && c != '$' && !c.is_alphanumeric())
                .unwrap_or(rest.len());
            Some((Token::Word(rest[..end].to_lowercase()), &rest[end..]))
        }
        _ => SYMBOLS
            .iter()
            .find_map(|symbol| Some((Token::Symbol(symbol), rest.strip_prefix(symbol)?))),
    }
}

/// The content of a quoted string, with doubled quotes and, in PostgreSQL's `E''`, `\\` resolved.
fn quoted(rest: &str, quote: char, escapes: bool) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            match chars.next() {
                Some((_, escaped @ ('\\' | '\''))) => content.push(escaped),
                _ => return None,
            }
        } else if c != quote {
            content.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            chars.next();
            content.push(quote);
        } else {
            return Some((content, &rest[at + quote.len_utf8()..]));
        }
    }
    None
}

fn number(rest: &str) -> (Token, &str) {
    let bytes = rest.as_bytes();
    let mut end = 0;
    while bytes
        .get(end)
        .is_some_and(|b| b.is_ascii_digit() || *b == b'.')
    {
        end += 1;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end += 1 + sign;
            while bytes.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
        }
    }
    (Token::Number(rest[..end].to_owned()), &rest[end..])
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    engine: Engine,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(s)) if *s == symbol);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(found);
        found
    }

    fn or(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let mut left = self.and()?;
        while self.word("or") {
            left = binary(Binary::Or, left, self.and()?);
        }
        self.depth -= 1;
        Some(left)
    }

    fn and(&mut self) -> Option<Expr> {
        let mut left = self.not()?;
        while self.word("and") {
            left = binary(Binary::And, left, self.not()?);
        }
        Some(left)
    }

    fn not(&mut self) -> Option<Expr> {
        let mut negations = 0;
        while self.word("not") {
            negations += 1;
        }
        let mut expr = self.comparison()?;
        if negations % 2 == 1 {
            expr = Expr::Not(Box::new(expr));
        }
        Some(expr)
    }

    fn comparison(&mut self) -> Option<Expr> {
        let left = self.sum()?;
        if self.word("is") {
            let negated = self.word("not");
            return self.word("null").then(|| Expr::IsNull {
                item: Box::new(left),
                negated,
            });
        }
        if self.word("notnull") {
            return Some(Expr::IsNull {
                item: Box::new(left),
                negated: true,
            });
        }
        let negated = self.word("not");
        if self.word("in") {
            return self.list(left, negated);
        }
        if self.word("between") {
            let low = Box::new(self.sum()?);
            return self
                .word("and")
                .then_some(())
                .and_then(|()| self.sum())
                .map(|high| Expr::Between {
                    item: Box::new(left),
                    low,
                    high: Box::new(high),
                    negated,
                });
        }
        if negated {
            return None;
        }
        self.compared(left)
    }

    fn compared(&mut self, left: Expr) -> Option<Expr> {
        let operators = [
            ("<=", Binary::LessEqual),
            (">=", Binary::GreaterEqual),
            ("<>", Binary::NotEqual),
            ("!=", Binary::NotEqual),
            ("==", Binary::Equal),
            ("<", Binary::Less),
            (">", Binary::Greater),
            ("=", Binary::Equal),
        ];
        let found = operators
            .into_iter()
            .find(|(symbol, _)| self.symbol(symbol));
        let Some((_, operator)) = found else {
            return Some(left);
        };
        // PostgreSQL keeps `x IN (…)` as `x = ANY (ARRAY[…])`.
        let quantifier = match operator {
            Binary::Equal => "any",
            Binary::NotEqual => "all",
            _ => "",
        };
        if !quantifier.is_empty() && self.word(quantifier) {
            let list = self.symbol("(").then_some(()).and_then(|()| self.or())?;
            return match (self.symbol(")"), plain_list(list)) {
                (true, Some(list)) => Some(Expr::In {
                    item: Box::new(left),
                    list,
                    negated: operator == Binary::NotEqual,
                }),
                _ => None,
            };
        }
        Some(binary(operator, left, self.sum()?))
    }

    fn list(&mut self, item: Expr, negated: bool) -> Option<Expr> {
        if !self.symbol("(") {
            return None;
        }
        let list = self.items(")")?;
        (!list.is_empty()).then(|| Expr::In {
            item: Box::new(item),
            list,
            negated,
        })
    }

    /// Expressions up to the closing symbol, separated by commas.
    fn items(&mut self, close: &str) -> Option<Vec<Expr>> {
        let mut items = Vec::new();
        if self.symbol(close) {
            return Some(items);
        }
        loop {
            items.push(self.or()?);
            if self.symbol(close) {
                return Some(items);
            }
            if !self.symbol(",") {
                return None;
            }
        }
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut left = self.product()?;
        loop {
            let operator = if self.symbol("+") {
                Binary::Add
            } else if self.symbol("-") {
                Binary::Subtract
            } else if self.symbol("||") {
                Binary::Concat
            } else {
                return Some(left);
            };
            left = binary(operator, left, self.product()?);
        }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut left = self.unary()?;
        while self.symbol("*") {
            left = binary(Binary::Multiply, left, self.unary()?);
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Expr> {
        if !self.symbol("-") {
            return self.postfix();
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let operand = self.unary()?;
        self.depth -= 1;
        Some(match operand {
            Expr::Number(digits) if !digits.starts_with('-') => Expr::Number(format!("-{digits}")),
            other => Expr::Negative(Box::new(other)),
        })
    }

    fn postfix(&mut self) -> Option<Expr> {
        let mut expr = self.primary()?;
        while self.symbol("::") {
            expr = Expr::Cast(Box::new(expr), self.type_name()?);
        }
        Some(expr)
    }

    /// A type's name as `format_type` writes it.
    fn type_name(&mut self) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.peek() {
                Some(Token::Word(word)) if name.is_empty() || continues_type(word) => {
                    if !name.is_empty() && !name.ends_with('.') {
                        name.push(' ');
                    }
                    name.push_str(word);
                }
                Some(Token::Quoted(quoted)) if name.is_empty() || name.ends_with('.') => {
                    name.push_str(&crate::schema::quote_identifier(quoted));
                }
                // A lone bracket ends an ARRAY around the cast.
                Some(Token::Symbol("["))
                    if self.tokens.get(self.at + 1) == Some(&Token::Symbol("]")) =>
                {
                    name.push_str("[]");
                    self.at += 1;
                }
                Some(Token::Symbol(".")) => {
                    name.push('.');
                    self.at += 1;
                    match self.peek() {
                        Some(Token::Word(part)) => name.push_str(part),
                        Some(Token::Quoted(part)) => {
                            name.push_str(&crate::schema::quote_identifier(part));
                        }
                        _ => return None,
                    }
                }
                Some(Token::Symbol("(")) => {
                    name.push_str(&self.arguments()?);
                    continue;
                }
                _ => break,
            }
            self.at += 1;
        }
        (!name.is_empty()).then_some(name)
    }

    /// `(10,2)` of a type.
    fn arguments(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.peek()? {
                Token::Symbol(")") => {
                    self.at += 1;
                    text.push(')');
                    return Some(text);
                }
                Token::Symbol(symbol @ ("(" | "," | "-")) => text.push_str(symbol),
                Token::Number(number) => text.push_str(number),
                _ => return None,
            }
            self.at += 1;
        }
    }

    fn primary(&mut self) -> Option<Expr> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token {
            Token::Symbol("(") => {
                let expr = self.or()?;
                self.symbol(")").then_some(expr)
            }
            Token::Number(digits) => Some(Expr::Number(digits)),
            Token::Text(text) => Some(Expr::Text(text)),
            Token::Bytes(digits) => Some(Expr::Bytes(digits)),
            Token::Quoted(name) => Some(Expr::Column(name)),
            Token::Word(word) => self.named(word),
            Token::Symbol(_) => None,
        }
    }

    fn named(&mut self, word: String) -> Option<Expr> {
        match word.as_str() {
            "null" => return Some(Expr::Null),
            "true" => return Some(Expr::Truth(true)),
            "false" => return Some(Expr::Truth(false)),
            "array" if self.symbol("[") => return self.items("]").map(Expr::List),
            "current_timestamp" | "current_date" | "current_time" | "localtimestamp"
            | "localtime" => {
                // A precision narrows the value only.
                if self.symbol("(") {
                    self.items(")")?;
                }
                return Some(Expr::Call(word, Vec::new()));
            }
            "case" | "cast" | "collate" | "exists" | "select" | "distinct" | "row" | "interval" => {
                return None;
            }
            _ => {}
        }
        let mut name = word;
        // A function may be qualified by its schema; a column is not in these expressions.
        if self.engine == Engine::Postgres && self.symbol(".") {
            match self.peek()?.clone() {
                Token::Word(part) | Token::Quoted(part) => name = part,
                _ => return None,
            }
            self.at += 1;
            return self
                .symbol("(")
                .then_some(())
                .and_then(|()| self.call(name));
        }
        if self.symbol("(") {
            return self.call(name);
        }
        Some(Expr::Column(name))
    }

    fn call(&mut self, name: String) -> Option<Expr> {
        self.items(")").map(|arguments| Expr::Call(name, arguments))
    }
}

fn continues_type(word: &str) -> bool {
    matches!(
        word,
        "varying"
            | "precision"
            | "with"
            | "without"
            | "time"
            | "zone"
            | "to"
            | "second"
            | "minute"
            | "hour"
            | "day"
            | "month"
            | "year"
    )
}

fn plain_list(expr: Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::List(list) if !list.is_empty() => Some(list),
        Expr::Cast(inner, _) => plain_list(*inner),
        _ => None,
    }
}

fn binary(operator: Binary, left: Expr, right: Expr) -> Expr {
    Expr::Binary(operator, Box::new(left), Box::new(right))
}
