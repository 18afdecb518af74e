//! Defaults in the target's words.

use super::expression::{Expr, parse};
use super::translate::text_literal;
use crate::codec::put_u64;
use crate::convert::Engine;
use crate::convert::encode::encode;
use crate::convert::kind::{Kind, Lite};
use crate::convert::plan::ColumnPlan;
use crate::row::{Row, Value};

/// The default's SQL at the target, to follow the word DEFAULT; none when it has no equal.
pub(super) fn translate(
    expression: &str,
    source: Engine,
    target: Engine,
    column: &ColumnPlan,
) -> Option<String> {
    let expr = parse(expression, source)?;
    match uncast(&expr) {
        Expr::Null => Some("NULL".into()),
        Expr::Call(name, arguments) => function(name, arguments, target, column),
        literal => constant(literal, target, column),
    }
}

fn uncast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(inner, _) => uncast(inner),
        other => other,
    }
}

/// A literal goes the way of the column's values, so it fits the column or is left out.
fn constant(literal: &Expr, target: Engine, column: &ColumnPlan) -> Option<String> {
    let mut row = Vec::new();
    put_u64(&mut row, 1);
    let text;
    let value = match column.kind {
        Some(Kind::Lite(lite)) => lite_value(literal, lite)?,
        kind => {
            let kind = kind.filter(|_| target == Engine::Sqlite);
            text = printed(postgres_text(literal)?, kind);
            Value::Text(text.as_bytes())
        }
    };
    encode(&column.encoder, value, false, &mut row).ok()?;
    let row = Row::from_encoded(row.into());
    let values = row.to_vec().ok()?;
    sql_literal(*values.first()?, target, &column.target_type)
}

/// The text as PostgreSQL prints the column's values: with the digits behind the point that it declares.
fn printed(mut text: String, kind: Option<Kind>) -> String {
    let Some(Kind::Decimal(Some((_, scale)))) = kind else {
        return text;
    };
    let scale = usize::try_from(scale).unwrap_or(0);
    let behind = text.split_once('.').map(|(_, digits)| digits.len());
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-');
    if plain && behind.unwrap_or(0) < scale {
        if behind.is_none() {
            text.push('.');
        }
        text.push_str(&"0".repeat(scale - behind.unwrap_or(0)));
    }
    text
}

fn postgres_text(literal: &Expr) -> Option<String> {
    Some(match literal {
        Expr::Number(digits) => digits.clone(),
        Expr::Text(text) => text.clone(),
        Expr::Truth(true) => "t".into(),
        Expr::Truth(false) => "f".into(),
        _ => return None,
    })
}

/// The value SQLite stores for the literal, by the column's affinity.
fn lite_value(literal: &Expr, lite: Lite) -> Option<Value<'_>> {
    let number = |digits: &str| -> Option<Value<'static>> {
        match digits.parse::<i64>() {
            Ok(integer) => Some(Value::Integer(integer)),
            Err(_) => digits.parse::<f64>().ok().map(Value::Real),
        }
    };
    match literal {
        // The digits of a number are the text of it, in a column of text.
        Expr::Number(digits) if lite == Lite::Text => {
            digits.parse::<i64>().ok()?;
            Some(Value::Text(digits.as_bytes()))
        }
        Expr::Number(digits) => number(digits),
        Expr::Text(text) if matches!(lite, Lite::Text | Lite::Blob | Lite::Any | Lite::Other) => {
            Some(Value::Text(text.as_bytes()))
        }
        Expr::Text(text) => number(text.trim()),
        Expr::Truth(truth) => Some(Value::Integer(i64::from(*truth))),
        _ => None,
    }
}

fn sql_literal(value: Value<'_>, target: Engine, type_name: &str) -> Option<String> {
    let literal = match value {
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) if real.is_finite() => format!("{real:?}"),
        Value::Text(text) => text_literal(target, std::str::from_utf8(text).ok()?),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("X'{digits}'")
        }
        _ => return None,
    };
    // MySQL takes a plain literal for no LOB, and a function only in parentheses.
    let lob = type_name.starts_with("long");
    Some(
        if target == Engine::Mysql && (lob || literal.starts_with("convert(")) {
            format!("({literal})")
        } else {
            literal
        },
    )
}

fn function(name: &str, arguments: &[Expr], target: Engine, column: &ColumnPlan) -> Option<String> {
    let plain = arguments.is_empty();
    match name {
        "now"
        | "transaction_timestamp"
        | "statement_timestamp"
        | "clock_timestamp"
        | "current_timestamp"
        | "localtimestamp"
            if plain =>
        {
            now(target, column)
        }
        "datetime" if is_now(arguments) => now(target, column),
        "current_date" if plain => today(target, column),
        "date" if is_now(arguments) => today(target, column),
        "gen_random_uuid" | "uuid_generate_v4" | "uuidv4" if plain => uuid(target),
        _ => None,
    }
}

fn is_now(arguments: &[Expr]) -> bool {
    matches!(arguments, [Expr::Text(text)] if text == "now")
}

/// The present moment in the form the column's values have.
fn now(target: Engine, column: &ColumnPlan) -> Option<String> {
    let sql = match (column.kind?, target) {
        (Kind::TimestampTz(digits), Engine::Mysql) => format!("(UTC_TIMESTAMP({digits}))"),
        (Kind::Timestamp(digits), Engine::Mysql) => format!("CURRENT_TIMESTAMP({digits})"),
        // Without zeros at the end of the fraction, as PostgreSQL prints it.
        (Kind::TimestampTz(_), Engine::Sqlite) => {
            "(rtrim(rtrim(strftime('%Y-%m-%d %H:%M:%f', 'now'), '0'), '.') || '+00:00')".into()
        }
        (Kind::Timestamp(_), Engine::Sqlite) => {
            "(rtrim(rtrim(strftime('%Y-%m-%d %H:%M:%f', 'now'), '0'), '.'))".into()
        }
        (Kind::Date, _) => return today(target, column),
        // SQLite's CURRENT_TIMESTAMP is text in UTC, whole seconds.
        (Kind::Lite(Lite::Other | Lite::Text), Engine::Postgres) => {
            "to_char((now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD HH24:MI:SS')".into()
        }
        (Kind::Lite(Lite::Other | Lite::Text), Engine::Mysql) => {
            "(date_format(utc_timestamp(), '%Y-%m-%d %H:%i:%s'))".into()
        }
        _ => return None,
    };
    // A column that carries text under a rule has no moment's type any more.
    let moment = column.encoder_is_native();
    moment.then_some(sql)
}

fn today(target: Engine, column: &ColumnPlan) -> Option<String> {
    let sql = match (column.kind?, target) {
        (Kind::Date, Engine::Mysql) => "(curdate())",
        (Kind::Date, Engine::Sqlite) => "CURRENT_DATE",
        (Kind::Lite(Lite::Other | Lite::Text), Engine::Postgres) => {
            "to_char((now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD')"
        }
        (Kind::Lite(Lite::Other | Lite::Text), Engine::Mysql) => {
            "(date_format(utc_date(), '%Y-%m-%d'))"
        }
        _ => return None,
    };
    column.encoder_is_native().then(|| sql.to_owned())
}

fn uuid(target: Engine) -> Option<String> {
    Some(
        match target {
            Engine::Postgres => "gen_random_uuid()",
            Engine::Mysql => "(uuid())",
            // Version 4, variant 1.
            Engine::Sqlite => {
                "(lower(hex(randomblob(4))) || '-' || lower(hex(randomblob(2))) || '-4' || \
                 substr(lower(hex(randomblob(2))), 2) || '-' || substr('89ab', 1 + (random() & 3), 1) \
                 || substr(lower(hex(randomblob(2))), 2) || '-' || lower(hex(randomblob(6))))"
            }
        }
        .to_owned(),
    )
}
