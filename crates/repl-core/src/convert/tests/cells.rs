//! Boundary values, one line per source value: what arrives at each of the two other engines.
//!
//! `i:` integer, `r:` real, `t:` text, `tx:` text in hexadecimal, `b:` bytes, `=` the input as
//! text, `!words` a refusal whose reason holds the words. `␠` is a blank, `␀` a NUL.

use super::{Engine, Rule, convert, plan_of, unhex, written};
use crate::row::Value;

/// type | PostgreSQL's text | at MySQL | at SQLite
const POSTGRES: &str = r#"
boolean | t | i:1 | i:1
boolean | f | i:0 | i:0
boolean | x | !boolean | !boolean
smallint | -32768 | i:-32768 | i:-32768
smallint | 32767 | i:32767 | i:32767
integer | -2147483648 | i:-2147483648 | i:-2147483648
integer | 2147483647 | i:2147483647 | i:2147483647
integer | 0 | i:0 | i:0
integer | -1 | i:-1 | i:-1
bigint | -9223372036854775808 | i:-9223372036854775808 | i:-9223372036854775808
bigint | 9223372036854775807 | i:9223372036854775807 | i:9223372036854775807
bigint | 9223372036854775808 | !64-bit | !64-bit
bigint | 1x | !64-bit | !64-bit
bigint | - | !64-bit | !64-bit
oid | 4294967295 | i:4294967295 | i:4294967295
xid | 3 | i:3 | i:3
xid8 | 9223372036854775807 | i:9223372036854775807 | =
xid8 | 18446744073709551615 | = | =
numeric(10,2) | 99999999.99 | = | =
numeric(10,2) | -99999999.99 | = | =
numeric(10,2) | 0.00 | = | =
numeric(10,2) | NaN | !NaN | =
numeric(5,-2) | 1234500 | = | =
numeric(3,5) | 0.00123 | = | =
numeric(3,5) | -0.00999 | = | =
numeric(65,30) | 12345678901234567890123456789012345.123456789012345678901234567890 | = | =
numeric(65,0) | 99999999999999999999999999999999999999999999999999999999999999999 | = | =
numeric(66,0) | 99999999999999999999999999999999999999999999999999999999999999999 | = | =
numeric(66,0) | 999999999999999999999999999999999999999999999999999999999999999999 | !digits | =
numeric(70,40) | 1.0000000000000000000000000000001000000000 | !fractional | =
numeric(70,40) | 1.0000000000000000000000000000100000000000 | t:1.000000000000000000000000000010 | =
numeric(1000,500) | 1.5 | = | =
numeric | 0 | = | =
numeric | 1.10 | = | =
numeric | -1.10 | = | =
numeric | 00.5 | = | =
numeric | 12345678901234567890123456789012345 | = | =
numeric | 123456789012345678901234567890123456 | !before the point | =
numeric | 0.000000000000000000000000000001 | = | =
numeric | 0.0000000000000000000000000000001 | !fractional | =
numeric | 1.00000000000000000000000000000000000 | t:1.000000000000000000000000000000 | =
numeric | NaN | !NaN | =
numeric | Infinity | !infinite | =
numeric | -Infinity | !infinite | =
numeric | abc | !decimal | =
money | $0.00 | t:0.00 | t:0.00
money | $1,234,567.89 | t:1234567.89 | t:1234567.89
money | -$92,233,720,368,547,758.08 | t:-92233720368547758.08 | t:-92233720368547758.08
money | 12 EUR | !C locale | !C locale
real | 0.1 | r:0.10000000149011612 | r:0.10000000149011612
real | 3.4028235e+38 | r:3.4028234663852886e38 | r:3.4028234663852886e38
real | 1e-45 | r:1.401298464324817e-45 | r:1.401298464324817e-45
real | NaN | !NaN | !NaN
real | Infinity | !infinite | r:inf
real | -0 | !-0 | r:-0.0
double precision | 0.1 | r:0.1 | r:0.1
double precision | 0.30000000000000004 | r:0.30000000000000004 | r:0.30000000000000004
double precision | 1.7976931348623157e+308 | r:1.7976931348623157e308 | r:1.7976931348623157e308
double precision | 5e-324 | r:5e-324 | r:5e-324
double precision | 2.2250738585072014e-308 | r:2.2250738585072014e-308 | r:2.2250738585072014e-308
double precision | -0 | !-0 | r:-0.0
double precision | 0 | r:0.0 | r:0.0
double precision | 9007199254740993 | r:9007199254740992.0 | r:9007199254740992.0
double precision | NaN | !NaN | !NaN
double precision | Infinity | !infinite | r:inf
double precision | -Infinity | !infinite | r:-inf
text | | = | =
text | plain | = | =
text | ␠a␠ | = | =
text | naïve 😀 ﷽ | = | =
text | \N | = | =
text | it's "quoted" \ `x` | = | =
text | tx:ff | !UTF-8 | tx:ff
text | tx:c3 | !UTF-8 | tx:c3
character varying(5) | 12345 | = | =
character varying(5) | ééééé | = | =
character varying | any | = | =
character(5) | ab␠␠␠ | = | =
character(1) | x | = | =
bpchar | ab␠ | = | =
name | pg_class | = | =
"char" | a | = | =
citext | MiXed | = | =
public.citext | MiXed | = | =
bytea | \x | b: | b:
bytea | \x00 | b:00 | b:00
bytea | \xDEADbeef | b:deadbeef | b:deadbeef
bytea | \xf | !hexadecimal | !hexadecimal
bytea | \xzz | !hexadecimal | !hexadecimal
bytea | abc | !hexadecimal | !hexadecimal
date | 2024-02-29 | = | =
date | 0001-01-01 | = | =
date | 9999-12-31 | = | =
date | 10000-01-01 | !9999 | =
date | 5874897-12-31 | !9999 | =
date | 0044-03-15 BC | !before our era | =
date | 4713-01-01 BC | !before our era | =
date | infinity | !infinite | =
date | -infinity | !infinite | =
date | 29/02/2024 | !ISO | =
time without time zone | 00:00:00 | = | =
time without time zone | 24:00:00 | = | =
time without time zone | 23:59:59.999999 | = | =
time(3) without time zone | 12:00:00.123 | = | =
time without time zone | noon | !ISO | =
time with time zone | 12:00:00+00 | = | =
time with time zone | 23:59:59.999999-15:59:59 | = | =
time with time zone | 24:00:00+15:59 | = | =
timestamp without time zone | 2024-02-29 12:34:56 | = | =
timestamp without time zone | 2024-02-29 12:34:56.789012 | = | =
timestamp without time zone | 0001-01-01 00:00:00 | = | =
timestamp without time zone | 9999-12-31 23:59:59.999999 | = | =
timestamp without time zone | 10000-01-01 00:00:00 | !9999 | =
timestamp without time zone | 294276-12-31 23:59:59.999999 | !9999 | =
timestamp without time zone | 0044-03-15 00:00:00 BC | !before our era | =
timestamp without time zone | infinity | !infinite | =
timestamp without time zone | -infinity | !infinite | =
timestamp without time zone | 2024-02-29 | !ISO | =
timestamp(3) without time zone | 2024-02-29 12:34:56.7 | = | =
timestamp with time zone | 2024-03-31 01:30:00+00 | t:2024-03-31␠01:30:00 | t:2024-03-31␠01:30:00+00:00
timestamp with time zone | 2024-03-31 01:30:00.5+00 | t:2024-03-31␠01:30:00.5 | t:2024-03-31␠01:30:00.5+00:00
timestamp with time zone | 1969-12-31 23:59:59.999999+00 | t:1969-12-31␠23:59:59.999999 | t:1969-12-31␠23:59:59.999999+00:00
timestamp with time zone | 2038-01-19 03:14:08+00 | t:2038-01-19␠03:14:08 | t:2038-01-19␠03:14:08+00:00
timestamp with time zone | 0044-03-15 00:00:00+00 BC | !before our era | t:0044-03-15␠00:00:00+00:00␠BC
timestamp with time zone | 294276-12-31 23:59:59.999999+00 | !9999 | t:294276-12-31␠23:59:59.999999+00:00
timestamp with time zone | infinity | !infinite | =
timestamp with time zone | -infinity | !infinite | =
timestamp with time zone | 2024-03-31 01:30:00+02 | !UTC | !UTC
timestamp with time zone | 2024-03-31 01:30:00+05:30 | !UTC | !UTC
interval | 00:00:00 | = | =
interval | 1 year 2 mons -3 days +04:05:06.789 | = | =
interval | -178000000 years -11 mons -2147483648 days -2562047788:00:54.775808 | = | =
interval day to second | 1 day 02:00:00 | = | =
interval(3) | 00:00:00.123 | = | =
uuid | a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 | = | =
uuid | 00000000-0000-0000-0000-000000000000 | = | =
json | {"b":1, "a": 1.50, "a": null} | = | =
json | null | = | =
jsonb | {"a": 123456789012345678901234567890.123} | = | =
jsonb | "\u00e9" | = | =
xml | <a b="c">d &amp; é</a> | = | =
inet | 192.168.0.1 | = | =
inet | 2001:db8::1/64 | = | =
inet | ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/127 | = | =
cidr | 10.0.0.0/8 | = | =
macaddr | 08:00:2b:01:02:03 | = | =
macaddr8 | 08:00:2b:01:02:03:04:05 | = | =
bit(1) | 1 | b:01 | =
bit(8) | 10000001 | b:81 | =
bit(10) | 1000000001 | b:0201 | =
bit(64) | 1111111111111111111111111111111111111111111111111111111111111111 | b:ffffffffffffffff | =
bit(65) | 11111111111111111111111111111111111111111111111111111111111111110 | = | =
bit(3) | 1a1 | !bits | =
bit varying(5) | 101 | = | =
bit varying(5) | | = | =
bit varying | 10101 | = | =
integer[] | {1,NULL,3} | = | =
integer[] | {{1,2},{3,4}} | = | =
integer[] | [0:1]={1,2} | = | =
text[] | {"a,b","c\"d",NULL,"NULL",""} | = | =
numeric(10,2)[] | {1.10,NaN} | = | =
int4range | [1,10) | = | =
int4range | empty | = | =
numrange | (,1.5] | = | =
tstzrange | ["2024-01-01 00:00:00+00",infinity) | = | =
int8multirange | {[1,2),[5,9)} | = | =
point | (1,-0) | = | =
box | (1,1),(0,0) | = | =
polygon | ((0,0),(1,1),(1,0)) | = | =
circle | <(0,0),1e+300> | = | =
line | {1,-1,0} | = | =
path | [(0,0),(1,1)] | = | =
tsvector | 'a':1A 'b':2,3 | = | =
tsquery | 'a' & !'b' | = | =
pg_lsn | FFFFFFFF/FFFFFFFF | = | =
pg_snapshot | 10:20:10,14,15 | = | =
txid_snapshot | 10:20: | = | =
regclass | pg_class | = | =
hstore | "a"=>"1", "b"=>NULL | = | =
app.mood | so-so | = | =
app.address | (street,"12, b",) | = | =
"#;

/// declared type | value | at PostgreSQL | at MySQL
const SQLITE: &str = r#"
INTEGER | i:0 | t:0 | i:0
INTEGER | i:-9223372036854775808 | t:-9223372036854775808 | i:-9223372036854775808
INTEGER | i:9223372036854775807 | t:9223372036854775807 | i:9223372036854775807
INTEGER | r:1.5 | !a REAL | !a REAL
INTEGER | r:1e300 | !a REAL | !a REAL
INTEGER | t:abc | !a TEXT | !a TEXT
INTEGER | b:00 | !a BLOB | !a BLOB
TINYINT | i:300 | t:300 | i:300
UNSIGNED BIG INT | i:-1 | t:-1 | i:-1
INT8 | i:5 | t:5 | i:5
BOOLEAN | i:1 | t:t | i:1
BOOLEAN | i:0 | t:f | i:0
BOOLEAN | i:2 | !other than 0 and 1 | !other than 0 and 1
BOOLEAN | r:0.5 | !a REAL | !a REAL
BOOLEAN | t:true | !a TEXT | !a TEXT
REAL | r:0.1 | t:0.1 | r:0.1
REAL | r:-0.0 | t:0.0 | r:0.0
REAL | r:5e-324 | t:5e-324 | r:5e-324
REAL | r:1.7976931348623157e308 | t:1.7976931348623157e308 | r:1.7976931348623157e308
REAL | r:inf | t:Infinity | !not finite
REAL | r:-inf | t:-Infinity | !not finite
REAL | i:3 | t:3.0 | r:3.0
REAL | t:abc | !a TEXT | !a TEXT
REAL | b:ff | !a BLOB | !a BLOB
DOUBLE PRECISION | r:2.5 | t:2.5 | r:2.5
FLOAT | r:1e16 | t:1e16 | r:1e16
NUMERIC | i:9223372036854775807 | t:9223372036854775807 | !double
NUMERIC | i:-9223372036854775808 | t:-9223372036854775808 | r:-9.223372036854776e18
NUMERIC | i:9007199254740992 | t:9007199254740992 | r:9007199254740992.0
NUMERIC | i:9007199254740993 | t:9007199254740993 | !double
NUMERIC | r:0.99 | t:0.99 | r:0.99
DECIMAL(10,2) | r:0.30000000000000004 | t:0.30000000000000004 | r:0.30000000000000004
DECIMAL(10,2) | i:12 | t:12 | r:12.0
DECIMAL(10,2) | r:inf | t:Infinity | !not finite
DECIMAL(10,2) | t:n/a | !a TEXT | !a TEXT
NUMERIC | b:00 | !a BLOB | !a BLOB
TEXT | t: | t: | t:
TEXT | t:naïve␠😀 | t:naïve␠😀 | t:naïve␠😀
TEXT | t:a␀b | !NUL | t:a␀b
TEXT | tx:ff | !UTF-8 | !UTF-8
TEXT | tx:eda080 | !UTF-8 | !UTF-8
TEXT | b:00ff | !a BLOB | !a BLOB
VARCHAR(3) | t:longer␠than␠declared | t:longer␠than␠declared | t:longer␠than␠declared
NVARCHAR(20) | t:x␠ | t:x␠ | t:x␠
CLOB | t:c | t:c | t:c
BLOB | b: | t:\x | b:
BLOB | b:00ff10 | t:\x00ff10 | b:00ff10
BLOB | t:text | !a TEXT | !a TEXT
BLOB | i:1 | !an INTEGER | !an INTEGER
BLOB | r:1.0 | !a REAL | !a REAL
DATE | t:2024-02-29 | t:2024-02-29 | t:2024-02-29
DATETIME | t:2024-02-29␠12:00:00 | t:2024-02-29␠12:00:00 | t:2024-02-29␠12:00:00
DATETIME | t:2024-02-29T12:00:00.000Z | t:2024-02-29T12:00:00.000Z | t:2024-02-29T12:00:00.000Z
DATETIME | i:1709208000000 | t:1709208000000 | t:1709208000000
TIMESTAMP | r:2460370.0 | t:2460370.0 | t:2460370.0
TIME | t:25:61 | t:25:61 | t:25:61
JSON | t:{"a":1} | t:{"a":1} | t:{"a":1}
JSON | i:5 | t:5 | t:5
UUID | t:not␠one | t:not␠one | t:not␠one
UUID | b:00 | !a BLOB | !a BLOB
"#;

/// source | type | rule | value | at the target given
const DECLARED: &str = r#"
postgres | mysql | numeric | text | t:NaN | t:NaN
postgres | mysql | numeric | nearest | t:Infinity | t:99999999999999999999999999999999999.999999999999999999999999999999
postgres | mysql | numeric | nearest | t:NaN | !NaN
postgres | mysql | numeric | null | t:NaN | null
postgres | mysql | numeric | nearest | t:0.0000000000000000000000000000005 | t:0.000000000000000000000000000001
postgres | mysql | numeric | nearest | t:-0.0000000000000000000000000000004 | t:0.000000000000000000000000000000
postgres | mysql | numeric | nearest | t:123456789012345678901234567890123456 | t:99999999999999999999999999999999999.999999999999999999999999999999
postgres | mysql | numeric(66,0) | nearest | t:-999999999999999999999999999999999999999999999999999999999999999999 | t:-99999999999999999999999999999999999999999999999999999999999999999
postgres | mysql | double precision | nearest | t:-Infinity | r:-1.7976931348623157e308
postgres | mysql | real | nearest | t:-0 | r:0.0
postgres | mysql | real | nearest | t:Infinity | r:3.4028234663852886e38
postgres | mysql | double precision | null | t:NaN | null
postgres | mysql | double precision | text | t:NaN | t:NaN
postgres | mysql | date | nearest | t:infinity | t:9999-12-31
postgres | mysql | date | nearest | t:-infinity | t:0001-01-01
postgres | mysql | date | nearest | t:0044-03-15␠BC | t:0001-01-01
postgres | mysql | date | nearest | t:12024-01-01 | t:9999-12-31
postgres | mysql | date | text | t:infinity | t:infinity
postgres | mysql | date | null | t:infinity | null
postgres | mysql | timestamp(3) without time zone | nearest | t:infinity | t:9999-12-31␠23:59:59.999
postgres | mysql | timestamp(0) without time zone | nearest | t:infinity | t:9999-12-31␠23:59:59
postgres | mysql | timestamp with time zone | nearest | t:-infinity | t:0001-01-01␠00:00:00
postgres | mysql | timestamp with time zone | text | t:2024-01-01␠00:00:00+00 | t:2024-01-01␠00:00:00+00
postgres | mysql | text | nearest | tx:61ff62 | t:a�b
postgres | mysql | text | null | tx:61ff62 | null
postgres | sqlite | double precision | null | t:NaN | null
postgres | sqlite | boolean | text | t:t | t:t
sqlite | postgres | INTEGER | nearest | r:1.5 | t:2
sqlite | postgres | INTEGER | nearest | r:-2.5 | t:-3
sqlite | postgres | INTEGER | nearest | r:1e300 | t:9223372036854775807
sqlite | postgres | INTEGER | nearest | t:abc | !a TEXT
sqlite | postgres | INTEGER | null | t:abc | null
sqlite | postgres | INTEGER | text | t:abc | t:abc
sqlite | postgres | INTEGER | text | r:1.5 | t:1.5
sqlite | postgres | INTEGER | text | i:7 | t:7
sqlite | postgres | BOOLEAN | nearest | i:2 | t:t
sqlite | mysql | BOOLEAN | nearest | r:0.0 | i:0
sqlite | mysql | REAL | nearest | r:inf | r:1.7976931348623157e308
sqlite | mysql | NUMERIC | nearest | i:9007199254740993 | r:9007199254740992.0
sqlite | postgres | TEXT | nearest | t:a␀b | t:a�b
sqlite | postgres | TEXT | nearest | tx:ff00 | t:��
sqlite | mysql | TEXT | nearest | tx:ff00 | t:�␀
sqlite | postgres | TEXT | null | t:a␀b | null
sqlite | postgres |  | text | b:00ff | t:X'00ff'
sqlite | mysql |  | text | i:5 | t:5
sqlite | mysql | BLOB | text | b:00ff | t:X'00ff'
sqlite | postgres | ANY | text | r:-0.0 | t:-0.0
"#;

enum Given {
    Text(Vec<u8>),
    Integer(i64),
    Real(f64),
    Blob(Vec<u8>),
}

impl Given {
    fn parse(text: &str) -> Given {
        let plain = |text: &str| text.replace('␠', " ").replace('␀', "\0").into_bytes();
        match text.split_once(':') {
            Some(("i", digits)) => Given::Integer(digits.parse().unwrap()),
            Some(("r", digits)) => Given::Real(digits.parse().unwrap()),
            Some(("tx", digits)) => Given::Text(unhex(digits)),
            Some(("b", digits)) => Given::Blob(unhex(digits)),
            Some(("t", text)) => Given::Text(plain(text)),
            _ => panic!("not a value: {text}"),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Given::Text(text) => Value::Text(text),
            Given::Integer(integer) => Value::Integer(*integer),
            Given::Real(real) => Value::Real(*real),
            Given::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

/// What a cell got, where it is not what it should be.
fn check(plan: &super::TablePlan, given: &Given, expected: &str) -> Option<String> {
    let got = match convert(plan, given.value()) {
        Ok(row) => written(row.to_vec().unwrap()[0]),
        Err(error) => format!("!{}", error.reason),
    };
    let right = match expected.strip_prefix('!') {
        Some(words) => got.starts_with('!') && got.contains(words),
        None if expected == "=" => got == written(given.value()),
        None => got == expected,
    };
    (!right).then_some(got)
}

fn lines(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().filter(|line| !line.is_empty()).map(|line| {
        line.split(" | ")
            .flat_map(|part| part.split("| "))
            .map(str::trim)
            .collect()
    })
}

/// Runs a table of two targets; the number of cells.
fn two_targets(table: &str, source: Engine, targets: [Engine; 2], bare: bool) -> usize {
    let mut wrong = Vec::new();
    let mut cells = 0;
    for line in lines(table) {
        let [type_name, input, first, second] = line[..] else {
            panic!("not four parts: {line:?}");
        };
        let text = if bare && !input.starts_with("tx:") {
            format!("t:{input}")
        } else {
            input.to_owned()
        };
        let given = Given::parse(&text);
        for (target, expected) in targets.into_iter().zip([first, second]) {
            cells += 1;
            let plan = plan_of(source, target, type_name, &[]);
            if let Some(got) = check(&plan, &given, expected) {
                wrong.push(format!(
                    "{type_name} {input} at {target}: {got}, not {expected}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cells
}

#[test]
fn boundary_values_arrive_as_stated_or_are_refused() {
    let postgres = two_targets(
        POSTGRES,
        Engine::Postgres,
        [Engine::Mysql, Engine::Sqlite],
        true,
    );
    let sqlite = two_targets(
        SQLITE,
        Engine::Sqlite,
        [Engine::Postgres, Engine::Mysql],
        false,
    );
    assert!(postgres + sqlite >= 400, "{postgres} + {sqlite} cells");
}

#[test]
fn declared_losses_are_those_stated() {
    let mut wrong = Vec::new();
    for line in lines(DECLARED) {
        let [source, target, type_name, rule, input, expected] = line[..] else {
            panic!("not six parts: {line:?}");
        };
        let plan = plan_of(
            Engine::from_name(source).unwrap(),
            Engine::from_name(target).unwrap(),
            type_name,
            &[Rule::from_name(rule).unwrap()],
        );
        if let Some(got) = check(&plan, &Given::parse(input), expected) {
            wrong.push(format!("{line:?}: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
