//! Every type through every pair that is lossless, and read back by small parsers of the test's
//! own.

use proptest::prelude::*;

use super::{Engine, column, convert, plan_of, schema};
use crate::convert::{ConvertOptions, TablePlan};
use crate::row::{Row, Value};

/// One PostgreSQL value at both targets, decoded by the caller.
fn from_postgres(type_name: &str, text: &str) -> [Row; 2] {
    [Engine::Mysql, Engine::Sqlite].map(|target| {
        let plan = plan_of(Engine::Postgres, target, type_name, &[]);
        convert(&plan, Value::Text(text.as_bytes())).unwrap()
    })
}

fn only(row: &Row) -> Value<'_> {
    row.to_vec().unwrap()[0]
}

fn text_of(row: &Row) -> String {
    match only(row) {
        Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("not text: {other:?}"),
    }
}

/// Sign and digits without the zeros that do not count, and the place of the point.
fn number(text: &str) -> (bool, String, usize) {
    let negative = text.starts_with('-');
    let (whole, fraction) = text
        .trim_start_matches('-')
        .split_once('.')
        .unwrap_or((text.trim_start_matches('-'), ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0').to_owned();
    (negative && !digits.is_empty(), digits, fraction.len())
}

fn hexadecimal(bytes: &[u8]) -> String {
    format!("\\x{}", super::hex(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn integers(n in any::<i64>()) {
        for row in from_postgres("bigint", &n.to_string()) {
            prop_assert_eq!(only(&row), Value::Integer(n));
        }
    }

    #[test]
    fn unsigned_integers(n in any::<u64>()) {
        let [mysql, sqlite] = from_postgres("xid8", &n.to_string());
        let read = match only(&mysql) {
            Value::Integer(n) => u64::try_from(n).unwrap(),
            _ => text_of(&mysql).parse().unwrap(),
        };
        prop_assert_eq!(read, n);
        prop_assert_eq!(text_of(&sqlite), n.to_string());
    }

    #[test]
    fn doubles(bits in any::<u64>()) {
        let real = f64::from_bits(bits);
        prop_assume!(real.is_finite() && real != 0.0);
        for row in from_postgres("double precision", &format!("{real:e}")) {
            let Value::Real(got) = only(&row) else { panic!() };
            prop_assert_eq!(got.to_bits(), bits);
        }
    }

    #[test]
    fn singles(bits in any::<u32>()) {
        let real = f32::from_bits(bits);
        prop_assume!(real.is_finite() && real != 0.0);
        for row in from_postgres("real", &format!("{real:e}")) {
            let Value::Real(got) = only(&row) else { panic!() };
            prop_assert_eq!((got as f32).to_bits(), bits);
            prop_assert_eq!(f64::from(got as f32).to_bits(), got.to_bits());
        }
    }

    #[test]
    fn decimals(text in "-?(0|[1-9][0-9]{0,33})(\\.[0-9]{1,30})?") {
        let [mysql, sqlite] = from_postgres("numeric", &text);
        prop_assert_eq!(number(&text_of(&mysql)), number(&text));
        prop_assert_eq!(text_of(&sqlite), text);
    }

    /// Rounding against arithmetic on 128-bit integers.
    #[test]
    fn decimals_round_half_away_from_zero(n in -99_999_999_999i64..99_999_999_999) {
        use crate::convert::Rule;
        let plan = plan_of(Engine::Postgres, Engine::Mysql, "numeric(80,31)", &[Rule::Nearest]);
        let text = format!(
            "{}0.{:031}", if n < 0 { "-" } else { "" }, n.unsigned_abs()
        );
        let got = text_of(&convert(&plan, Value::Text(text.as_bytes())).unwrap());
        let rounded = (i128::from(n.unsigned_abs()) + 5) / 10;
        let expected = format!(
            "{}0.{rounded:030}", if n < 0 { "-" } else { "" }
        );
        prop_assert_eq!(number(&got), number(&expected));
    }

    #[test]
    fn money(cents in any::<i64>()) {
        let whole = (cents.unsigned_abs() / 100).to_string();
        let mut grouped = String::new();
        for (at, digit) in whole.chars().enumerate() {
            if at > 0 && (whole.len() - at) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        let sign = if cents < 0 { "-" } else { "" };
        let text = format!("{sign}${grouped}.{:02}", cents.unsigned_abs() % 100);
        for row in from_postgres("money", &text) {
            let read: i128 = text_of(&row).replace('.', "").parse().unwrap();
            prop_assert_eq!(read, i128::from(cents));
        }
    }

    #[test]
    fn characters(text in "[^\0]{0,40}") {
        for type_name in ["text", "jsonb", "app.mood", "text[]"] {
            for row in from_postgres(type_name, &text) {
                prop_assert_eq!(text_of(&row), text.clone());
            }
        }
    }

    #[test]
    fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for row in from_postgres("bytea", &hexadecimal(&bytes)) {
            prop_assert_eq!(only(&row), Value::Blob(&bytes));
        }
    }

    #[test]
    fn bits(bits in proptest::collection::vec(any::<bool>(), 1..=64)) {
        let text: String = bits.iter().map(|bit| if *bit { '1' } else { '0' }).collect();
        let [mysql, sqlite] = from_postgres(&format!("bit({})", bits.len()), &text);
        prop_assert_eq!(text_of(&sqlite), text);
        let Value::Blob(bytes) = only(&mysql) else { panic!() };
        prop_assert_eq!(bytes.len(), bits.len().div_ceil(8));
        // Bit by bit from the end, as a big-endian number has them.
        for (at, bit) in bits.iter().rev().enumerate() {
            let byte = bytes[bytes.len() - 1 - at / 8];
            prop_assert_eq!(byte >> (at % 8) & 1 == 1, *bit);
        }
    }

    #[test]
    fn moments(
        (y, mo, d) in (1u32..=9999, 1u32..=12, 1u32..=31),
        (h, mi, s, us) in (0u32..24, 0u32..60, 0u32..60, 0u32..1_000_000),
        digits in 0usize..=6,
    ) {
        let fraction = if digits == 0 {
            String::new()
        } else {
            format!(".{}", &format!("{us:06}")[..digits])
        };
        let plain = format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}{fraction}");
        for row in from_postgres("timestamp without time zone", &plain) {
            prop_assert_eq!(text_of(&row), plain.clone());
        }
        let [mysql, sqlite] = from_postgres("timestamp with time zone", &format!("{plain}+00"));
        prop_assert_eq!(text_of(&mysql), plain.clone());
        prop_assert_eq!(text_of(&sqlite), format!("{plain}+00:00"));
        for row in from_postgres("date", &plain[..10]) {
            prop_assert_eq!(text_of(&row), plain[..10].to_owned());
        }
    }

    /// SQLite to PostgreSQL and from there back, by the types the first plan chose.
    #[test]
    fn sqlite_through_postgres_and_back(
        n in any::<i64>(), bits in any::<u64>(), text in "[^\0]{0,20}",
        bytes in proptest::collection::vec(any::<u8>(), 0..20), truth in any::<bool>(),
    ) {
        let real = f64::from_bits(bits);
        prop_assume!(!real.is_nan() && real != 0.0);
        let given = [
            Value::Integer(n), Value::Real(real), Value::Text(text.as_bytes()),
            Value::Blob(&bytes), Value::Integer(i64::from(truth)), Value::Null,
        ];
        let types = ["INTEGER", "REAL", "TEXT", "BLOB", "BOOLEAN", "NUMERIC"];
        let columns = types.iter().map(|name| column(name, name)).collect();
        let there = TablePlan::new(
            &schema(Engine::Sqlite, columns), Engine::Postgres, &ConvertOptions::default(),
        ).unwrap();
        let back = TablePlan::new(there.schema(), Engine::Sqlite, &ConvertOptions::default()).unwrap();
        let row = Row::from_values(given.into_iter());
        let returned = back.row(&there.row(&row).unwrap()).unwrap();
        prop_assert_eq!(returned, row);
    }

    /// A number in a column of NUMERIC affinity keeps every bit in its digits.
    #[test]
    fn sqlite_numbers_in_digits(n in any::<i64>(), bits in any::<u64>()) {
        let real = f64::from_bits(bits);
        prop_assume!(real.is_finite());
        for type_name in ["NUMERIC", "DATETIME"] {
            let plan = plan_of(Engine::Sqlite, Engine::Postgres, type_name, &[]);
            let whole = text_of(&convert(&plan, Value::Integer(n)).unwrap());
            prop_assert_eq!(whole.parse::<i64>().unwrap(), n);
            let digits = text_of(&convert(&plan, Value::Real(real)).unwrap());
            prop_assert_eq!(digits.parse::<f64>().unwrap().to_bits(), bits);
        }
    }

    #[test]
    fn sqlite_at_mysql(n in any::<i64>(), bits in any::<u64>(), text in any::<String>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        let real = f64::from_bits(bits);
        prop_assume!(real.is_finite() && real != 0.0);
        let cases = [
            ("INTEGER", Value::Integer(n)), ("REAL", Value::Real(real)),
            ("TEXT", Value::Text(text.as_bytes())), ("BLOB", Value::Blob(&bytes)),
        ];
        for (type_name, value) in cases {
            let plan = plan_of(Engine::Sqlite, Engine::Mysql, type_name, &[]);
            let row = convert(&plan, value).unwrap();
            prop_assert_eq!(only(&row), value);
        }
    }
}
