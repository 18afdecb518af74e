//! Tables whose keys are not integers are copied in parts as well, in the primary's own order.

use anyhow::{Result, ensure};
use repl_tests::wait::wait_until;

use super::group::{Group, PATIENCE};

/// Rows of each table, of one part, and a second: a table takes one.
const ROWS: u64 = 3000;
const PART_ROWS: i64 = 500;
const RATE: i64 = 3000;

/// Name, definition of the key's columns, the key, and its values for the number `n`. Beside the types
/// there are orders that no other server could be trusted to repeat, and values that text must quote.
const KEYS: [(&str, &str, &str, &str); 13] = [
    (
        "c_text",
        "k text COLLATE \"C\"",
        "k",
        "chr(1 + n % 120) || E'\\\\''\\n' || n",
    ),
    (
        "icu_text",
        "k text COLLATE \"und-x-icu\"",
        "k",
        "(ARRAY['ä','a','Z','z','ß','-','é',' '])[1 + n % 8] || n || E'\\t'",
    ),
    (
        "ignoring_case",
        "k text COLLATE nasty.ci",
        "k",
        "(ARRAY['a','B','Ä','ä '])[1 + n % 4] || n",
    ),
    (
        "padded",
        "k char(12)",
        "k",
        "CASE n % 2 WHEN 0 THEN '''' ELSE ' ' END || n",
    ),
    ("one_uuid", "k uuid", "k", "md5(n::text)::uuid"),
    (
        "exact",
        "k numeric",
        "k",
        "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE -(n::numeric) ^ 5 / 7 END",
    ),
    (
        "double",
        "k float8",
        "k",
        "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE sqrt(n) * (1 - 2 * (n % 2)) END",
    ),
    (
        "instant",
        "k timestamptz",
        "k",
        "CASE n WHEN 1 THEN '-infinity' ELSE '0044-03-15 BC'::timestamptz + n * interval '17 days 3 us' END",
    ),
    (
        "span",
        "k interval",
        "k",
        "n * interval '1 mon -1 day 0.5 s'",
    ),
    ("bytes", "k bytea", "k", "decode(md5(n::text), 'hex')"),
    ("list", "k int[]", "k", "ARRAY[n % 10, NULL, n]"),
    (
        "of_color",
        "c nasty.color, k text",
        "c, k",
        "(ARRAY['red', 'it''s', 'green'])[1 + n % 3]::nasty.color, 'x' || n",
    ),
    (
        "several",
        "b bigint, \"a \"\"b\" text, d date",
        "d, \"a \"\"b\", b",
        "n, chr(97 + n % 26), date '2000-01-01' - n % 40",
    ),
];

const COLLATION: &str = "CREATE SCHEMA nasty;
    CREATE COLLATION nasty.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

fn seed() -> String {
    let mut sql = "CREATE TYPE nasty.color AS ENUM ('red', 'it''s', 'green');".to_owned();
    for (name, columns, key, values) in KEYS {
        // In the key's order on disk: a table that lies otherwise is read in few parts.
        sql.push_str(&format!(
            "CREATE TABLE nasty.{name} ({columns}, v text, PRIMARY KEY ({key}));
             INSERT INTO nasty.{name} SELECT {values}, repeat(md5(n::text), 4)
             FROM generate_series(1, {ROWS}) n;
             CLUSTER nasty.{name} USING {name}_pkey;"
        ));
    }
    sql
}

/// Keys change and vanish, and others appear among them.
fn changes() -> String {
    let each = KEYS.map(|(name, _, key, values)| {
        format!(
            "DELETE FROM nasty.{name} WHERE ({key}) IN
                (SELECT {key} FROM nasty.{name} ORDER BY {key} OFFSET 100 LIMIT 300);
             INSERT INTO nasty.{name} SELECT {values}, 'late' FROM generate_series({}, {}) n;
             UPDATE nasty.{name} SET v = 'changed' WHERE length(v) % 3 = 2;",
            ROWS + 1,
            ROWS + 200
        )
    });
    each.concat()
}

#[test]
fn tables_with_any_key_are_copied_in_parts_and_go_on_after_a_kill() -> Result<()> {
    let mut group = Group::prepared(
        1,
        |primary| {
            primary.execute(COLLATION)?;
            primary.execute(&seed())
        },
        |config| {
            config
                .set("copy", "part_rows", PART_ROWS)
                .set("copy", "max_rows_per_second", RATE)
        },
    )?;
    group.daemon.start()?;
    let replica = &group.replicas[0];
    let number = |sql: &str| Ok::<i64, anyhow::Error>(replica.query_i64(sql).unwrap_or(0));
    let all = format!("SELECT (count(*) = {})::int FROM repl.copies", KEYS.len());
    wait_until("all copies to begin", PATIENCE, || Ok(number(&all)? == 1))?;
    let few = "SELECT string_agg(table_name, ', ') FROM repl.copies
        WHERE json_array_length(copy::json -> 'bounds') < 2";
    assert_eq!(replica.query(few)?, "", "tables in one piece");
    let done = "SELECT count(*) FROM repl.copy_parts WHERE rows > 0";
    wait_until("some parts", PATIENCE, || Ok(number(done)? >= 2))?;
    group.daemon.kill9()?;
    group.primary.execute(&changes())?;
    let before = group.replica().query_i64(done)?;
    let unlimited = group.daemon.config().clone();
    let unlimited = unlimited.set("copy", "max_rows_per_second", 0);
    group.daemon.set_config(unlimited)?;
    group.daemon.start()?;
    group.equal()?;
    let left = "SELECT count(*) FROM repl.copies";
    wait_until("the copies to end", PATIENCE, || {
        Ok(group.replica().query_i64(left)? == 0)
    })?;
    let gone_on = group.daemon.log_contains("an interrupted copy goes on")?;
    ensure!(gone_on && before > 0, "nothing was gone on with");
    Ok(())
}
