//! Conditions and generated columns in the target's words, where they mean the same.
//!
//! An expression is translated only when the types at the *target* compare and compute as those at
//! the source: text by equality alone (orders differ by collation), numbers where they are still
//! numbers, dates where they are still dates.

use super::expression::{Binary, Expr};
use crate::convert::mapping::Meaning;
use crate::convert::plan::ColumnPlan;
use crate::convert::{Engine, TablePlan, quote};

/// What an expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Yields {
    Integer,
    Decimal,
    Float,
    Truth,
    Text,
    Date,
    Moment,
    Null,
    /// A number literal, which suits every kind of number.
    Number,
    /// A string literal, which suits text, dates and moments.
    Literal,
}

/// A translated expression.
pub(super) struct Translated {
    pub(super) sql: String,
    pub(super) yields: Yields,
}

/// Translates over the columns of one plan.
pub(super) struct Translator<'a> {
    pub(super) plan: &'a TablePlan,
}

impl Translator<'_> {
    /// A condition of a CHECK; none when it is not portable.
    pub(super) fn condition(&self, expr: &Expr) -> Option<String> {
        let translated = self.expr(expr)?;
        (translated.yields == Yields::Truth).then_some(translated.sql)
    }

    /// The expression of a generated column whose values mean `meaning` at the target.
    pub(super) fn generated(&self, expr: &Expr, meaning: Meaning) -> Option<String> {
        let translated = self.expr(expr)?;
        let same = match meaning {
            Meaning::Integer => translated.yields == Yields::Integer,
            // SQLite computes its numbers as doubles.
            Meaning::Decimal => {
                self.plan.source() == Engine::Postgres
                    && matches!(translated.yields, Yields::Integer | Yields::Decimal)
            }
            Meaning::Truth => translated.yields == Yields::Truth,
            Meaning::Text => translated.yields == Yields::Text,
            _ => false,
        };
        same.then_some(translated.sql)
    }

    fn target(&self) -> Engine {
        self.plan.target()
    }

    fn column(&self, name: &str) -> Option<&ColumnPlan> {
        // SQLite compares names without case.
        let lite = self.plan.source() == Engine::Sqlite;
        self.plan.columns().iter().find(|column| {
            !column.excluded
                && (column.name == name || lite && column.name.eq_ignore_ascii_case(name))
        })
    }

    fn expr(&self, expr: &Expr) -> Option<Translated> {
        match expr {
            Expr::Column(name) => self.column_value(name),
            Expr::Number(digits) => Some(made(digits.clone(), Yields::Number)),
            Expr::Text(text) => Some(made(text_literal(self.target(), text), Yields::Literal)),
            Expr::Truth(truth) => Some(made(truth_literal(self.target(), *truth), Yields::Truth)),
            Expr::Null => Some(made("NULL".into(), Yields::Null)),
            Expr::Not(inner) => {
                let sql = self.condition(inner)?;
                Some(made(format!("(NOT {sql})"), Yields::Truth))
            }
            Expr::Negative(inner) => {
                let inner = self.expr(inner)?;
                is_number(inner.yields).then(|| made(format!("(-{})", inner.sql), inner.yields))
            }
            Expr::Binary(operator, left, right) => self.binary(*operator, left, right),
            Expr::In {
                item,
                list,
                negated,
            } => self.in_list(item, list, *negated),
            Expr::Between {
                item,
                low,
                high,
                negated,
            } => {
                let low = self.compare(Binary::GreaterEqual, item, low)?;
                let high = self.compare(Binary::LessEqual, item, high)?;
                let both = format!("({} AND {})", low.sql, high.sql);
                let sql = if *negated {
                    format!("(NOT {both})")
                } else {
                    both
                };
                Some(made(sql, Yields::Truth))
            }
            Expr::IsNull { item, negated } => self.is_null(item, *negated),
            Expr::Cast(inner, to) => self.cast(inner, to),
            Expr::Bytes(_) | Expr::Call(..) | Expr::List(_) => None,
        }
    }

    fn column_value(&self, name: &str) -> Option<Translated> {
        let column = self.column(name)?;
        let yields = match column.meaning {
            Meaning::Integer => Yields::Integer,
            Meaning::Decimal => Yields::Decimal,
            Meaning::Float => Yields::Float,
            Meaning::Truth => Yields::Truth,
            Meaning::Text => Yields::Text,
            Meaning::Date => Yields::Date,
            Meaning::Moment => Yields::Moment,
            Meaning::Opaque => return None,
        };
        Some(made(quote(self.target(), &column.name), yields))
    }

    fn is_null(&self, item: &Expr, negated: bool) -> Option<Translated> {
        // Being NULL means the same for every type, so any plain column will do.
        let sql = match item {
            Expr::Column(name) => quote(self.target(), &self.column(name)?.name),
            other => self.expr(other)?.sql,
        };
        let not = if negated { " NOT" } else { "" };
        Some(made(format!("({sql} IS{not} NULL)"), Yields::Truth))
    }

    fn in_list(&self, item: &Expr, list: &[Expr], negated: bool) -> Option<Translated> {
        let item = self.expr(item)?;
        let mut values = Vec::new();
        for value in list {
            let value = self.adapted(self.expr(value)?, item.yields)?;
            if !comparable(Binary::Equal, item.yields, value.yields) {
                return None;
            }
            values.push(value.sql);
        }
        let not = if negated { " NOT" } else { "" };
        Some(made(
            format!("({}{not} IN ({}))", item.sql, values.join(", ")),
            Yields::Truth,
        ))
    }

    fn binary(&self, operator: Binary, left: &Expr, right: &Expr) -> Option<Translated> {
        match operator {
            Binary::Or | Binary::And => {
                let word = if operator == Binary::Or { "OR" } else { "AND" };
                let (left, right) = (self.condition(left)?, self.condition(right)?);
                Some(made(format!("({left} {word} {right})"), Yields::Truth))
            }
            Binary::Add | Binary::Subtract | Binary::Multiply => {
                self.arithmetic(operator, left, right)
            }
            Binary::Concat => self.concat(left, right),
            _ => self.compare(operator, left, right),
        }
    }

    fn compare(&self, operator: Binary, left: &Expr, right: &Expr) -> Option<Translated> {
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        let (left_yields, right_yields) = (left.yields, right.yields);
        let left = self.adapted(left, right_yields)?;
        let right = self.adapted(right, left_yields)?;
        let sign = match operator {
            Binary::Equal => "=",
            Binary::NotEqual => "<>",
            Binary::Less => "<",
            Binary::LessEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterEqual => ">=",
            _ => return None,
        };
        comparable(operator, left.yields, right.yields).then(|| {
            made(
                format!("({} {sign} {})", left.sql, right.sql),
                Yields::Truth,
            )
        })
    }

    /// A literal in the type of what it is compared with: SQLite's booleans are 0 and 1, and
    /// PostgreSQL writes numbers as strings with a cast.
    fn adapted(&self, value: Translated, other: Yields) -> Option<Translated> {
        if other == Yields::Truth && value.yields == Yields::Number {
            return match value.sql.as_str() {
                "0" => Some(made(truth_literal(self.target(), false), Yields::Truth)),
                "1" => Some(made(truth_literal(self.target(), true), Yields::Truth)),
                _ => None,
            };
        }
        Some(value)
    }

    fn arithmetic(&self, operator: Binary, left: &Expr, right: &Expr) -> Option<Translated> {
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        let yields = match (left.yields, right.yields) {
            (Yields::Integer, Yields::Integer) => Yields::Integer,
            (Yields::Integer, Yields::Number) if is_whole(&right.sql) => Yields::Integer,
            (Yields::Number, Yields::Integer) if is_whole(&left.sql) => Yields::Integer,
            (Yields::Decimal, Yields::Decimal | Yields::Integer | Yields::Number)
            | (Yields::Integer | Yields::Number, Yields::Decimal) => Yields::Decimal,
            _ => return None,
        };
        let sign = match operator {
            Binary::Add => "+",
            Binary::Subtract => "-",
            _ => "*",
        };
        Some(made(format!("({} {sign} {})", left.sql, right.sql), yields))
    }

    fn concat(&self, left: &Expr, right: &Expr) -> Option<Translated> {
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        let texts = [left.yields, right.yields];
        let suits = texts
            .iter()
            .all(|y| matches!(y, Yields::Text | Yields::Literal))
            && texts.contains(&Yields::Text);
        suits.then(|| {
            let sql = match self.target() {
                Engine::Mysql => format!("CONCAT({}, {})", left.sql, right.sql),
                _ => format!("({} || {})", left.sql, right.sql),
            };
            made(sql, Yields::Text)
        })
    }

    /// PostgreSQL's casts that change nothing for a comparison.
    fn cast(&self, inner: &Expr, to: &str) -> Option<Translated> {
        if self.plan.source() != Engine::Postgres {
            return None;
        }
        let word = crate::convert::kind::TypeWords::of(to);
        let value = self.expr(inner)?;
        let numeric = matches!(
            word.word.as_str(),
            "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision"
        );
        let textual = matches!(word.word.as_str(), "text" | "character varying" | "bpchar")
            && word.arguments.is_empty();
        match value.yields {
            Yields::Null => Some(value),
            Yields::Literal if numeric => match inner {
                Expr::Text(digits) if digits.parse::<f64>().is_ok_and(f64::is_finite) => {
                    Some(made(digits.clone(), Yields::Number))
                }
                _ => None,
            },
            // A literal of any other type is in that type's output form; what it is compared with
            // decides whether it suits.
            Yields::Literal => Some(value),
            Yields::Text if textual => Some(value),
            Yields::Number if numeric => Some(value),
            Yields::Integer if matches!(word.word.as_str(), "integer" | "bigint") => Some(value),
            Yields::Integer | Yields::Decimal
                if word.word == "numeric" && word.arguments.is_empty() =>
            {
                Some(made(value.sql, Yields::Decimal))
            }
            _ => None,
        }
    }
}

fn made(sql: String, yields: Yields) -> Translated {
    Translated { sql, yields }
}

fn is_whole(number: &str) -> bool {
    number.parse::<i64>().is_ok()
}

fn is_number(yields: Yields) -> bool {
    matches!(
        yields,
        Yields::Integer | Yields::Decimal | Yields::Float | Yields::Number
    )
}

fn comparable(operator: Binary, left: Yields, right: Yields) -> bool {
    let equality = matches!(operator, Binary::Equal | Binary::NotEqual);
    match (left, right) {
        (Yields::Number, Yields::Number) | (Yields::Literal, Yields::Literal) => false,
        (Yields::Text, Yields::Text | Yields::Literal) | (Yields::Literal, Yields::Text) => {
            equality
        }
        (Yields::Truth, Yields::Truth) => equality,
        (Yields::Date, Yields::Date) | (Yields::Moment, Yields::Moment) => true,
        // A date's literal is the same text everywhere; a moment's may name a zone.
        (Yields::Date, Yields::Literal) | (Yields::Literal, Yields::Date) => true,
        _ => is_number(left) && is_number(right),
    }
}

/// A string as a literal of the engine, whatever its session settings.
pub(super) fn text_literal(engine: Engine, text: &str) -> String {
    if engine == Engine::Mysql && text.contains('\\') {
        // Whether a string's backslashes are resolved depends on the session's sql_mode. Not
        // `_utf8mb4 X'…'`: MariaDB writes that into a CHECK as a string without escaping it.
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        return format!("convert(X'{digits}' using utf8mb4)");
    }
    let quoted = format!("'{}'", text.replace('\'', "''"));
    match engine {
        Engine::Postgres if text.contains('\\') => format!("E{}", quoted.replace('\\', "\\\\")),
        _ => quoted,
    }
}

pub(super) fn truth_literal(engine: Engine, truth: bool) -> String {
    match engine {
        Engine::Postgres => truth.to_string(),
        _ => u8::from(truth).to_string(),
    }
}
