//! Databases, roles and servers whose sessions begin with other settings: what is copied, streamed and
//! compared is the same.

use anyhow::{Result, ensure};
use repl_tests::daemon::Toml;
use repl_tests::pg::PgServer;

use super::group::{Group, replctl};

/// What a database can do to sessions that do not mind.
const HOSTILE: &[(&str, &str)] = &[
    ("array_nulls", "off"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "'Asia/Kathmandu'"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("transform_null_equals", "on"),
    ("gin_fuzzy_search_limit", "1"),
    ("row_security", "on"),
    ("search_path", "elsewhere"),
    ("lc_monetary", "'C.UTF-8'"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "'900ms'"),
    ("idle_in_transaction_session_timeout", "'900ms'"),
    ("idle_session_timeout", "'900ms'"),
    ("client_min_messages", "error"),
];

/// As what the daemon's sessions are, for statements of the test.
const PLAIN: &str = "SET default_transaction_read_only = off; SET standard_conforming_strings = on; \
    SET array_nulls = on; SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; \
    SET search_path = public; SET xmloption = content; SET statement_timeout = 0;";

fn make_hostile(server: &PgServer) -> Result<()> {
    let set: Vec<String> = HOSTILE
        .iter()
        .map(|(name, value)| format!("ALTER DATABASE app SET {name} = {value};"))
        .collect();
    // The first ones take effect in new sessions only.
    server.execute(&set.join("\n"))
}

fn reset(server: &PgServer) -> Result<()> {
    server.execute(&format!("{PLAIN} ALTER DATABASE app RESET ALL"))
}

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'Happy');
    CREATE TABLE t (
        id int PRIMARY KEY,
        a text[], d date DEFAULT DATE '2021-02-03', ts timestamptz, i interval,
        f float8 DEFAULT 0.1, b bytea DEFAULT '\\x0061ff'::bytea, x text DEFAULT 'a\\b', m mood,
        n numeric(12, 3));
    CREATE TABLE pg_only (
        id int PRIMARY KEY,
        i interval DEFAULT INTERVAL '1 day -02:03:04', c regclass, s interval[], p point, x xml,
        CONSTRAINT soon CHECK (i < INTERVAL '-1 day +30:00:00' + INTERVAL '100 years'));
    CREATE TABLE keyless (a text[], f float4);
    ALTER TABLE keyless REPLICA IDENTITY FULL";

fn rows(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO t SELECT n, CASE n % 3 WHEN 0 THEN '{{NULL,a}}' WHEN 1 THEN '{{\"NULL\",b}}' END::text[],
            DATE '2020-01-02' + n, TIMESTAMPTZ '2020-05-06 07:08:09.123456+02' + n * INTERVAL '1 hour',
            INTERVAL '1 day -02:03:04', 1.0 / n, decode('00ff5c27', 'hex'), E'back\\\\slash''' || n,
            CASE n % 2 WHEN 0 THEN 'sad' ELSE 'Happy' END::mood, n / 7.0
          FROM generate_series({from}, {to}) n;
         INSERT INTO pg_only SELECT n, n * INTERVAL '-1 day +02:03:04', 'pg_class'::regclass,
            ARRAY[NULL, INTERVAL '-1 mon +2 days']::interval[], point(0.1, n), '<a/>text'
          FROM generate_series({from}, {to}) n;
         INSERT INTO keyless SELECT '{{NULL,c}}', n / 3.0 FROM generate_series({from}, {to}) n;"
    )
}

#[test]
fn no_servers_settings_change_what_arrives() -> Result<()> {
    let mut group = Group::prepare(true, &[], |primary| {
        primary.execute("CREATE SCHEMA elsewhere")?;
        primary.execute(TABLES)?;
        primary.execute(&rows(1, 2000))?;
        make_hostile(primary)
    })?;
    if let Some(pg) = &group.pg {
        make_hostile(pg)?;
    }
    group.mariadb.execute(
        "SET GLOBAL sql_select_limit = 10; SET GLOBAL sql_safe_updates = 1; SET GLOBAL sql_notes = 0; \
         SET GLOBAL max_error_count = 0; SET GLOBAL completion_type = 'CHAIN'; \
         SET GLOBAL div_precision_increment = 1; SET GLOBAL system_versioning_asof = '2001-01-01'; \
         SET GLOBAL sql_if_exists = 1; SET GLOBAL max_statement_time = 1; \
         SET GLOBAL explicit_defaults_for_timestamp = 0; SET GLOBAL default_storage_engine = 'MyISAM'; \
         SET GLOBAL init_connect = 'SET autocommit = 0, sql_select_limit = 5, timestamp = 1000000000'; \
         SET GLOBAL lc_messages = 'de_DE'; SET GLOBAL idle_write_transaction_timeout = 1",
    )?;
    let exclude = ["public.pg_only", "public.keyless"];
    let list = exclude.map(|table| format!("\"{table}\"")).join(", ");
    let config = group
        .daemon
        .config()
        .clone()
        .with_of(
            super::group::MARIADB,
            "tables.exclude",
            Toml::raw(&format!("[{list}]")),
        )
        .with_of(
            super::group::SQLITE,
            "tables.exclude",
            Toml::raw(&format!("[{list}]")),
        );
    group.daemon.set_config(config)?;
    group.daemon.start()?;
    group.caught_up()?;
    group.primary.execute(&format!(
        "{PLAIN} {} UPDATE t SET a = '{{a,NULL}}', i = INTERVAL '-1 day +1:00' WHERE id < 50; \
         UPDATE t SET f = f * 3 WHERE id < 500; DELETE FROM t WHERE id BETWEEN 100 AND 120; \
         DELETE FROM keyless WHERE f > 300; UPDATE pg_only SET s = '{{NULL}}' WHERE id = 7",
        rows(2001, 2600)
    ))?;
    for id in 3001..3010 {
        let one = rows(id, id);
        group.primary.execute(&format!("{PLAIN} {one}"))?;
    }
    group.caught_up()?;
    let shown = replctl(&group.daemon, &["validate", "--deep"])?;
    ensure!(!shown.contains("differ"), "{shown}");

    reset(&group.primary)?;
    let pg = group.pg.take();
    if let Some(pg) = &pg {
        reset(pg)?;
        for table in ["t", "pg_only", "keyless"] {
            let all = format!("SELECT r::text FROM {table} AS r ORDER BY r::text COLLATE \"C\"");
            let [here, there] = [group.primary.query(&all)?, pg.query(&all)?];
            ensure!(here == there, "{table} differs");
        }
        // Defaults and checks are what they were, too.
        let made = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_class c ON c.oid = adrelid \
            WHERE c.relname IN ('t', 'pg_only') UNION ALL SELECT pg_get_constraintdef(oid) \
            FROM pg_constraint WHERE conname = 'soon' ORDER BY 1";
        assert_eq!(group.primary.query(made)?, pg.query(made)?);
    }
    group.mariadb.execute(
        "SET SESSION sql_select_limit = DEFAULT; SET GLOBAL sql_select_limit = 18446744073709551615, \
         sql_safe_updates = 0, system_versioning_asof = DEFAULT, max_statement_time = 0, completion_type = 0, \
         init_connect = ''",
    )?;
    group.same("public.t")?;
    group.daemon.finish()
}
