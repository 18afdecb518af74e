//! Values of many types arrive as they were, whichever way they are written.

use repl_core::change::Before;

use crate::fixture::*;

const DDL: &str = "CREATE TYPE mood AS ENUM ('sad', 'o,k', 'ha\"ppy'); \
    CREATE TYPE pair AS (n int, t text); CREATE DOMAIN small AS int CHECK (value < 100); \
    CREATE DOMAIN boxes AS box[]; CREATE TABLE t (id int PRIMARY KEY, a text, b varchar(5), \
    c char(4), d \"char\", e name, f numeric, g numeric(6,2), h float4, i float8, j bool, k bytea, \
    l date, m timestamp, n timestamptz, o interval, p uuid, q json, r jsonb, s mood, s2 mood[], \
    u pair, u2 pair[], v small, v2 small[], w box, w2 boxes, x int[], x2 text[], y int4range, \
    y2 int4multirange, z inet, z2 macaddr, aa bit(3), ab varbit, ac money, ad tsvector, ae point, \
    af oid, ag timetz, ah xml, ai int2vector, aj regclass, ak pg_lsn, al hstore_like, am circle)";

const COLUMNS: &[&str] = &[
    "*id integer",
    "a text",
    "b character varying(5)",
    "c character(4)",
    "d \"char\"",
    "e name",
    "f numeric",
    "g numeric(6,2)",
    "h real",
    "i double precision",
    "j boolean",
    "k bytea",
    "l date",
    "m timestamp without time zone",
    "n timestamp with time zone",
    "o interval",
    "p uuid",
    "q json",
    "r jsonb",
    "s public.mood",
    "s2 public.mood[]",
    "u public.pair",
    "u2 public.pair[]",
    "v public.small",
    "v2 public.small[]",
    "w box",
    "w2 public.boxes",
    "x integer[]",
    "x2 text[]",
    "y int4range",
    "y2 int4multirange",
    "z inet",
    "z2 macaddr",
    "aa bit(3)",
    "ab bit varying",
    "ac money",
    "ad tsvector",
    "ae point",
    "af oid",
    "ag time with time zone",
    "ah xml",
    "ai int2vector",
    "aj regclass",
    "ak pg_lsn",
    "al public.hstore_like",
    "am circle",
];

/// Texts as the server itself puts them out.
const SAMPLES: &[&[&str]] = &[
    &[
        "1",
        "tab\tnl\ncr\rback\\slash\"quote'{},NULL",
        "abcde",
        "ab  ",
        "x",
        "a name",
        "-123456789012345678901234567890.000000000100",
        "1234.50",
        "1e-37",
        "-0",
        "t",
        "\\x00ff5c",
        "4713-01-01 BC",
        "294276-12-31 23:59:59.999999",
        "infinity",
        "-178000000 years",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "{\"a\":  \"\\u00e4\\\\\"}",
        "{\"b\": [1, 2.50, null]}",
        "ha\"ppy",
        "{sad,\"o,k\",\"ha\\\"ppy\",NULL}",
        "(1,\"a,\"\"b\")",
        "{\"(1,x)\",\"(,)\",NULL}",
        "99",
        "{1,2,NULL}",
        "(2,2),(1,1)",
        "{(2,2),(1,1);(4,4),(3,3)}",
        "{{1,2},{3,NULL}}",
        "[2:3]={\"NULL\",NULL}",
        "[1,5)",
        "{[1,3),[5,)}",
        "::1",
        "08:00:2b:01:02:03",
        "101",
        "",
        "-$1,234.50",
        "'a b':1A 'it''s':2",
        "(1e+300,-0)",
        "4294967295",
        "24:00:00-15:59",
        "<a b=\"c\">&amp;\n</a>",
        "1 2 3",
        "pg_class",
        "16/B374D848",
        "(x,\"\\\\\")",
        "<(1,2),3>",
    ],
    &[
        "2",
        "",
        "",
        "    ",
        "",
        "",
        "NaN",
        "NaN",
        "NaN",
        "Infinity",
        "f",
        "\\x",
        "infinity",
        "-infinity",
        "0001-01-01 00:00:00+00 BC",
        "00:00:00",
        "00000000-0000-0000-0000-000000000000",
        "[]",
        "{}",
        "sad",
        "{}",
        "(,\"\")",
        "{}",
        "-5",
        "{}",
        "(1,1),(1,1)",
        "{}",
        "{}",
        "{\"\"}",
        "empty",
        "{}",
        "10.0.0.0/8",
        "ff:ff:ff:ff:ff:ff",
        "000",
        "1",
        "$0.00",
        "",
        "(NaN,0)",
        "0",
        "00:00:00+00",
        "",
        "",
        "-",
        "0/0",
        "(,)",
        "<(0,0),0>",
    ],
];

#[tokio::test]
async fn every_way_of_writing_is_lossless() {
    let ddl = format!("CREATE TYPE hstore_like AS (k text, v text); {DDL}");
    let mut replica = Replica::new(&ddl).await;
    replica
        .admin
        .simple("SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET search_path = ''")
        .await
        .unwrap();
    let t = route("t", COLUMNS);
    let nulls: Vec<&str> = COLUMNS.iter().map(|_| "~").collect();
    let keyed = |values: &[&'static str], id: &'static str| -> Vec<&'static str> {
        [id].into_iter()
            .chain(values[1..].iter().copied())
            .collect()
    };
    let ids = ["11", "12", "13", "14", "15", "16", "17", "18"];
    let null_rows: Vec<Vec<&str>> = ids
        .iter()
        .map(|id| {
            [*id]
                .into_iter()
                .chain(nulls[1..].iter().copied())
                .collect()
        })
        .collect();
    let full_rows: Vec<Vec<&str>> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| keyed(SAMPLES[n % SAMPLES.len()], id))
        .collect();
    let slices = |rows: &[Vec<&'static str>]| -> Vec<Vec<&'static str>> { rows.to_vec() };
    let (null_rows, full_rows) = (slices(&null_rows), slices(&full_rows));
    let null_rows: Vec<&[&str]> = null_rows.iter().map(Vec::as_slice).collect();
    let full_rows: Vec<&[&str]> = full_rows.iter().map(Vec::as_slice).collect();
    let same = async |replica: &mut Replica, rows: &[&[&str]], how: &str| {
        let stored = replica
            .admin
            .simple("SELECT * FROM public.t ORDER BY id")
            .await
            .unwrap();
        assert_eq!(stored.len(), rows.len(), "{how}");
        for (stored, expected) in stored.iter().zip(rows) {
            for ((stored, expected), column) in stored.iter().zip(*expected).zip(COLUMNS) {
                let stored = stored.as_deref().unwrap_or("~");
                assert_eq!(stored, *expected, "{how}, column {column}");
            }
        }
        replica.admin.simple("TRUNCATE public.t").await.unwrap();
    };
    replica.net(net(&t, &[], &[], SAMPLES)).await.unwrap();
    same(&mut replica, SAMPLES, "single inserts").await;
    replica.net(net(&t, &[], &[], &full_rows)).await.unwrap();
    same(&mut replica, &full_rows, "COPY").await;
    for style in ["set-wise", "rewrite", "ordered"] {
        replica.net(net(&t, &[], &[], &null_rows)).await.unwrap();
        match style {
            "set-wise" => replica.net(net(&t, &[], &full_rows, &[])).await.unwrap(),
            "rewrite" => replica
                .rewrite(net(&t, &[], &full_rows, &[]))
                .await
                .unwrap(),
            _ => {
                let change = |values: &&[&str]| update(&t, Before::Absent, values);
                let changes = full_rows.iter().map(change).collect();
                replica.ordered(&t, changes).await.unwrap();
            }
        }
        same(&mut replica, &full_rows, style).await;
    }
    // As rows without a key.
    let columns: Vec<&str> = COLUMNS.iter().map(|c| c.trim_start_matches('*')).collect();
    let keyless = route("t", &columns);
    replica.net(net(&t, &[], &[], &full_rows)).await.unwrap();
    let gone: Vec<(&[&str], i64)> = full_rows[..7].iter().map(|values| (*values, -1)).collect();
    replica.net(copies(&keyless, &gone)).await.unwrap();
    same(&mut replica, &full_rows[7..], "without a key").await;
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_never_cut() {
    let mut replica =
        Replica::new("CREATE TABLE t (id int PRIMARY KEY, v varchar(3), b bit(2))").await;
    let t = route("t", &["*id integer", "v character varying", "b bit(2)"]);
    let start: Vec<Vec<String>> = (0..9)
        .map(|n| vec![n.to_string(), "abc".into(), "10".into()])
        .collect();
    let start: Vec<Vec<&str>> = start
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let start: Vec<&[&str]> = start.iter().map(Vec::as_slice).collect();
    replica.net(net(&t, &[], &[], &start)).await.unwrap();
    let long: Vec<Vec<&str>> = start.iter().map(|r| vec![r[0], "abcd", r[2]]).collect();
    let bits: Vec<Vec<&str>> = start.iter().map(|r| vec![r[0], r[1], "101"]).collect();
    for wrong in [long, bits] {
        let wrong: Vec<&[&str]> = wrong.iter().map(Vec::as_slice).collect();
        let new = ["50", wrong[0][1], wrong[0][2]];
        let new: &[&str] = &new;
        for change in [
            net(&t, &[], &wrong, &[]),
            net(&t, &[], &wrong[..1], &[]),
            net(&t, &[], &[], &[new]),
        ] {
            let error = replica.net(change).await.unwrap_err();
            assert_eq!(error.kind, repl_core::ErrorKind::Data, "{error:?}");
            assert!(!error.message.contains("abcd"));
            replica.reopen().await;
        }
        assert!(replica.rewrite(net(&t, &[], &wrong, &[])).await.is_err());
        replica.reopen().await;
    }
}
