//! Every type of PostgreSQL that docs/TYPES.md names, with its boundary values.

/// Where a value can go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Everywhere,
    /// Not to MariaDB.
    Sqlite,
    /// To neither.
    Nowhere,
}
use Carried::{Everywhere, Nowhere, Sqlite};

/// A type of PostgreSQL, whether it can be a key, and values in SQL.
pub struct Type {
    pub name: &'static str,
    pub key: bool,
    pub values: &'static [(Carried, &'static [&'static str])],
}

const fn keyed(name: &'static str, values: &'static [(Carried, &'static [&'static str])]) -> Type {
    Type {
        name,
        key: true,
        values,
    }
}

const fn plain(name: &'static str, values: &'static [(Carried, &'static [&'static str])]) -> Type {
    Type {
        name,
        key: false,
        values,
    }
}

/// What the types below are made of.
pub const PREPARE: &str = "
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE SCHEMA app;
CREATE TYPE app.address AS (street text, number int);
CREATE TYPE mood AS ENUM ('sad', 'Happy', 'it''s', 'ü');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE DOMAIN amount AS numeric(8,3);
";

const TEXTS: &[&str] = &[
    "''",
    "' '",
    "'a '",
    "'a'",
    "'A'",
    "'ä'",
    "'a\u{308}'",
    "'😀'",
    "'NULL'",
    r"'\N'",
    r"'\\'",
    r"E'tab\tnl\ncr\rend'",
    "''''",
    "'\"'",
    r"E'\x01\x1a\x7f'",
    "'ß'",
    "'ss'",
    "E'\\u200b'",
];

/// All types.
pub const TYPES: &[Type] = &[
    keyed("boolean", &[(Everywhere, &["true", "false"])]),
    keyed(
        "smallint",
        &[(Everywhere, &["-32768", "-1", "0", "1", "32767"])],
    ),
    keyed(
        "integer",
        &[(Everywhere, &["-2147483648", "-1", "0", "1", "2147483647"])],
    ),
    keyed(
        "bigint",
        &[(
            Everywhere,
            &[
                "-9223372036854775808",
                "-1",
                "0",
                "9007199254740993",
                "-9007199254740993",
                "9223372036854775807",
            ],
        )],
    ),
    keyed(
        "oid",
        &[(Everywhere, &["0", "1", "2147483648", "4294967295"])],
    ),
    keyed(
        "xid8",
        &[(
            Everywhere,
            &[
                "'0'",
                "'1'",
                "'9223372036854775808'",
                "'18446744073709551615'",
            ],
        )],
    ),
    keyed(
        "numeric(10,2)",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.01",
                    "-0.01",
                    "1.5",
                    "99999999.99",
                    "-99999999.99",
                    "12345678.9",
                ],
            ),
            (Sqlite, &["'NaN'"]),
        ],
    ),
    keyed(
        "numeric(70,40)",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.000000000000000000000000000001",
                    "-99999999999999999999999999999.5",
                    "1.1",
                ],
            ),
            (
                Sqlite,
                &["0.0000000000000000000000000000000000000001", "'NaN'"],
            ),
        ],
    ),
    keyed(
        "numeric",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "-0.5",
                    "1.100",
                    "123456789.123456789",
                    "99999999999999999999999999999999999",
                    "-99999999999999999999999999999999999",
                    "0.000000000000000000000000000001",
                ],
            ),
            (
                Sqlite,
                &[
                    "'NaN'",
                    "'Infinity'",
                    "'-Infinity'",
                    "100000000000000000000000000000000000",
                    "0.0000000000000000000000000000001",
                ],
            ),
        ],
    ),
    keyed(
        "money",
        &[(
            Everywhere,
            &[
                "'0'",
                "'-0.01'",
                "'1234567.89'",
                "'92233720368547758.07'",
                "'-92233720368547758.08'",
            ],
        )],
    ),
    keyed(
        "real",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "1",
                    "1.1",
                    "-0.1",
                    "16777217",
                    "'3.4028235e38'",
                    "'-3.4028235e38'",
                    "'1.1754944e-38'",
                    "'1e-45'",
                ],
            ),
            (Sqlite, &["'Infinity'", "'-Infinity'", "'-0'"]),
            (Nowhere, &["'NaN'"]),
        ],
    ),
    keyed(
        "double precision",
        &[
            (
                Everywhere,
                &[
                    "0",
                    "0.1",
                    "0.30000000000000004",
                    "-1e100",
                    "9007199254740993",
                    "'1.7976931348623157e308'",
                    "'-1.7976931348623157e308'",
                    "'5e-324'",
                    "'2.2250738585072014e-308'",
                    "1e15",
                    "1e16",
                    "123456789012345680",
                ],
            ),
            (Sqlite, &["'Infinity'", "'-Infinity'", "'-0'"]),
            (Nowhere, &["'NaN'"]),
        ],
    ),
    keyed("text", &[(Everywhere, TEXTS)]),
    plain(
        "text",
        &[(
            Everywhere,
            &[
                "repeat('x', 100000)",
                "repeat('😀', 70000)",
                "repeat('''\\', 40000)",
            ],
        )],
    ),
    keyed(
        "character varying(20)",
        &[(
            Everywhere,
            &["''", "repeat('😀', 20)", "' both '", "'x'", "'X'"],
        )],
    ),
    plain(
        "character varying(20000)",
        &[(Everywhere, &["''", "repeat('€', 20000)"])],
    ),
    keyed(
        "character(5)",
        &[(Everywhere, &["''", "'ab'", "'äöüß€'", "'a b'", "'  x'"])],
    ),
    keyed(
        "name",
        &[(Everywhere, &["''", "'pg_class'", "repeat('n', 63)"])],
    ),
    keyed("\"char\"", &[(Everywhere, &["'a'", "''", "'Z'"])]),
    plain(
        "citext",
        &[(Everywhere, &["'ABC'", "'abc'", "''", "'Straße'"])],
    ),
    keyed(
        "bytea",
        &[(
            Everywhere,
            &[
                r"'\x'",
                r"'\x00'",
                r"'\xff00fe'",
                r"'\x275c220a0d1a'",
                r"'\x20'",
                r"'\x2020'",
                r"'\x80'",
                r"decode('000102030405060708090a0b0c0d0e0f', 'hex')",
            ],
        )],
    ),
    plain(
        "bytea",
        &[(Everywhere, &[r"decode(repeat('00ff', 60000), 'hex')"])],
    ),
    keyed(
        "date",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01'",
                    "'1582-10-10'",
                    "'1969-12-31'",
                    "'1970-01-01'",
                    "'2024-02-29'",
                    "'9999-12-31'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0001-12-31 BC'",
                    "'10000-01-01'",
                    "'5874897-12-31'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "time without time zone",
        &[(
            Everywhere,
            &[
                "'00:00'",
                "'00:00:00.000001'",
                "'12:00:00.5'",
                "'23:59:59.999999'",
                "'24:00'",
            ],
        )],
    ),
    keyed(
        "time(0) without time zone",
        &[(Everywhere, &["'00:00'", "'12:00:01'", "'24:00'"])],
    ),
    keyed(
        "time with time zone",
        &[(
            Everywhere,
            &["'00:00+00'", "'24:00:00-15:59'", "'12:00:00.123456+05:30'"],
        )],
    ),
    keyed(
        "timestamp without time zone",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01'",
                    "'1900-02-28 23:59:59.999999'",
                    "'1970-01-01'",
                    "'2024-03-31 02:30'",
                    "'2038-01-19 03:14:08'",
                    "'9999-12-31 23:59:59.999999'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0044-03-15 BC'",
                    "'10000-01-01'",
                    "'294276-12-31 23:59:59.999999'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "timestamp(3) without time zone",
        &[(
            Everywhere,
            &[
                "'2024-02-29 12:00:00.123'",
                "'9999-12-31 23:59:59.999'",
                "'0001-01-01'",
            ],
        )],
    ),
    keyed(
        "timestamp with time zone",
        &[
            (
                Everywhere,
                &[
                    "'0001-01-01 00:00+00'",
                    "'1970-01-01 00:00+00'",
                    "'2024-03-31 02:30:00.5+02'",
                    "'2024-10-27 02:30+02'",
                    "'2038-01-19 03:14:08+00'",
                    "'9999-12-31 23:59:59.999999+00'",
                ],
            ),
            (
                Sqlite,
                &[
                    "'0001-01-01 00:00+01'",
                    "'10000-01-01 00:00+00'",
                    "'infinity'",
                    "'-infinity'",
                ],
            ),
        ],
    ),
    keyed(
        "interval",
        &[(
            Everywhere,
            &[
                "'0'",
                "'1 year 2 mons 3 days 04:05:06.789'",
                "'-178000000 years'",
                "'178000000 years'",
                "'1 mon -1 day'",
                "'-00:00:00.000001'",
            ],
        )],
    ),
    keyed(
        "uuid",
        &[(
            Everywhere,
            &[
                "'00000000-0000-0000-0000-000000000000'",
                "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
                "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
            ],
        )],
    ),
    plain(
        "json",
        &[(
            Everywhere,
            &[
                r#"'{"a": 1.0, "a":2}'"#,
                "'[]'",
                "'null'",
                r#"'"\u00e4"'"#,
                "'123456789012345678901234567890'",
            ],
        )],
    ),
    plain(
        "jsonb",
        &[(
            Everywhere,
            &[
                r#"'{"b": 1.10, "a": [null, true]}'"#,
                "'[]'",
                "'null'",
                r#"'"ä😀"'"#,
                "'123456789012345678901234567890.5'",
            ],
        )],
    ),
    plain(
        "xml",
        &[(Everywhere, &["'<a b=\"1\">ä</a>'", "''", "'<a/>'"])],
    ),
    keyed(
        "inet",
        &[(
            Everywhere,
            &[
                "'0.0.0.0'",
                "'192.168.0.1/24'",
                "'::1'",
                "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127'",
                "'255.255.255.255'",
            ],
        )],
    ),
    keyed(
        "cidr",
        &[(Everywhere, &["'10.0.0.0/8'", "'::/0'", "'2001:db8::/32'"])],
    ),
    keyed(
        "macaddr",
        &[(Everywhere, &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"])],
    ),
    keyed(
        "macaddr8",
        &[(
            Everywhere,
            &["'00:00:00:00:00:00:00:00'", "'08:00:2b:01:02:03:04:05'"],
        )],
    ),
    keyed("bit(1)", &[(Everywhere, &["B'0'", "B'1'"])]),
    keyed(
        "bit(10)",
        &[(
            Everywhere,
            &[
                "B'0000000000'",
                "B'1111111111'",
                "B'0000000001'",
                "B'1000000000'",
            ],
        )],
    ),
    keyed(
        "bit(64)",
        &[(
            Everywhere,
            &[
                "repeat('0', 64)::bit(64)",
                "repeat('1', 64)::bit(64)",
                "(1::bigint)::bit(64)",
            ],
        )],
    ),
    keyed(
        "bit(100)",
        &[(
            Everywhere,
            &["repeat('0', 100)::bit(100)", "repeat('10', 50)::bit(100)"],
        )],
    ),
    keyed(
        "bit varying(20)",
        &[(
            Everywhere,
            &["B''", "B'0'", "B'00'", "B'10101010101010101010'"],
        )],
    ),
    plain(
        "integer[]",
        &[(
            Everywhere,
            &["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'"],
        )],
    ),
    plain(
        "text[]",
        &[(
            Everywhere,
            &[
                "'{}'",
                r#"'{"a,b","c\"d",NULL,"NULL",""}'"#,
                r"ARRAY['\', '{', ' ']",
            ],
        )],
    ),
    plain(
        "int4range",
        &[(Everywhere, &["'empty'", "'[1,5)'", "'(,)'", "'[3,]'"])],
    ),
    plain(
        "int4multirange",
        &[(Everywhere, &["'{}'", "'{[1,3),[7,9)}'"])],
    ),
    plain(
        "point",
        &[(
            Everywhere,
            &["'(0,0)'", "'(1.5,-2.25)'", "'(1e300,-1e-300)'"],
        )],
    ),
    plain(
        "tsvector",
        &[(
            Everywhere,
            &["''", "'a:1A fat:2B,4C cat:5D'", "$$'it''s' b$$"],
        )],
    ),
    keyed(
        "pg_lsn",
        &[(
            Everywhere,
            &["'0/0'", "'16/B374D848'", "'FFFFFFFF/FFFFFFFF'"],
        )],
    ),
    plain(
        "hstore",
        &[(Everywhere, &["''", r#"'a=>1, "b c"=>NULL, d=>"x\"y"'"#])],
    ),
    plain(
        "app.address",
        &[(
            Everywhere,
            &["ROW('Main St', 5)", "ROW(NULL, NULL)", "ROW('a,\"b\"', -1)"],
        )],
    ),
    keyed(
        "mood",
        &[(Everywhere, &["'sad'", "'Happy'", "'it''s'", "'ü'"])],
    ),
    keyed("positive", &[(Everywhere, &["1", "2147483647"])]),
    keyed(
        "amount",
        &[
            (Everywhere, &["0", "-99999.999", "1.5"]),
            (Sqlite, &["'NaN'"]),
        ],
    ),
];

impl Type {
    /// The values that go just there.
    pub fn of(&self, carried: Carried) -> Vec<&'static str> {
        let sorts = self.values.iter().filter(|(sort, _)| *sort == carried);
        sorts
            .flat_map(|(_, values)| values.iter().copied())
            .collect()
    }
}
