//! Tables made at replicas of other engines.

use super::{Engine, schema};
use crate::convert::ddl::{
    CheckDescription, ColumnDescription, ForeignKeyAction, ForeignKeyDescription, GeneratedDdl,
    IndexDescription, TableDescription, UniqueDescription, ddl,
};
use crate::convert::{ConvertOptions, TablePlan};
use crate::schema::{Column, Identity, TableName, TableSchema};

fn described(name: &str, type_name: &str) -> ColumnDescription {
    ColumnDescription {
        name: name.into(),
        type_name: type_name.into(),
        nullable: true,
        ..ColumnDescription::default()
    }
}

fn empty(engine: Engine, columns: Vec<ColumnDescription>) -> TableDescription {
    TableDescription {
        engine,
        table: TableName::new("public", "t"),
        columns,
        primary_key: Vec::new(),
        uniques: Vec::new(),
        indexes: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
    }
}

/// What capture knows of the table: without generated columns, identified by the primary key.
fn captured(description: &TableDescription) -> TableSchema {
    let columns: Vec<Column> = description
        .columns
        .iter()
        .filter(|column| column.generated.is_none())
        .map(|column| Column {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            type_id: 0,
            nullable: column.nullable,
            detail: column.detail.clone(),
            composites: None,
        })
        .collect();
    let key: Vec<usize> = description
        .primary_key
        .iter()
        .filter_map(|name| columns.iter().position(|c| c.name == *name))
        .collect();
    let mut schema = schema(description.engine, columns);
    if !key.is_empty() {
        schema.identity = Identity::Key(key);
    }
    schema
}

fn plan(description: &TableDescription, target: Engine) -> TablePlan {
    description
        .plan(&captured(description), target, &ConvertOptions::default())
        .unwrap()
}

fn made(description: &TableDescription, target: Engine) -> GeneratedDdl {
    let name = TableName::new(
        if target == Engine::Sqlite {
            "main"
        } else {
            "app"
        },
        "t",
    );
    ddl(description, &plan(description, target), &name, &|table| {
        TableName::new("app", format!("x_{}", table.name))
    })
    .unwrap()
}

/// A table with a bit of everything.
fn orders() -> TableDescription {
    let mut id = described("id", "bigint");
    id.identity = true;
    id.nullable = false;
    let mut status = described("status", "character varying(10)");
    status.default = Some("'new'::character varying".into());
    status.nullable = false;
    let mut total = described("total", "numeric(10,2)");
    total.default = Some("0.00".into());
    let mut at = described("at", "timestamp with time zone");
    at.default = Some("now()".into());
    let mut gross = described("gross", "numeric(12,2)");
    gross.generated = Some(("(total * (2)::numeric)".into(), true));
    let mut search = described("search", "tsvector");
    search.generated = Some(("to_tsvector('english'::regconfig, status)".into(), true));
    let mut table = empty(
        Engine::Postgres,
        vec![
            id,
            status,
            total,
            at,
            gross,
            search,
            described("Parent", "bigint"),
        ],
    );
    table.primary_key = vec!["id".into()];
    table.uniques = vec![UniqueDescription {
        name: "t_status_at".into(),
        columns: vec!["status".into(), "at".into()],
        nulls_equal: false,
    }];
    table.indexes = vec![
        IndexDescription {
            name: "by_total".into(),
            columns: vec!["total".into()],
            ..IndexDescription::default()
        },
        IndexDescription {
            name: "part".into(),
            columns: vec!["total".into()],
            predicate: Some("(total > 0)".into()),
            ..IndexDescription::default()
        },
    ];
    table.checks = vec![
        CheckDescription {
            name: "known".into(),
            expression: "((status)::text = ANY ((ARRAY['new'::character varying, \
                         'it''s'::character varying])::text[]))"
                .into(),
        },
        CheckDescription {
            name: "shape".into(),
            expression: "(status ~ '^[a-z]+$'::text)".into(),
        },
    ];
    table.foreign_keys = vec![ForeignKeyDescription {
        name: "parent".into(),
        columns: vec!["Parent".into()],
        refers: TableName::new("public", "p"),
        referred_columns: vec!["id".into()],
        on_update: ForeignKeyAction::NoAction,
        on_delete: ForeignKeyAction::Cascade,
        deferred: true,
    }];
    table
}

#[test]
fn a_table_of_postgres_at_mysql() {
    let ddl = made(&orders(), Engine::Mysql);
    assert_eq!(
        ddl.create,
        [
            "CREATE TABLE `app`.`t` (`id` bigint NOT NULL AUTO_INCREMENT, `status` varchar(10) NOT \
             NULL DEFAULT 'new', `total` decimal(10,2) DEFAULT '0.00', `at` datetime(6) DEFAULT \
             (UTC_TIMESTAMP(6)), `gross` decimal(12,2) GENERATED ALWAYS AS (ROUND((`total` * 2), 2)) STORED, \
             `Parent` bigint, PRIMARY KEY (`id`), CHECK (`status` IN ('new', 'it''s'))) \
             ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE \
             utf8mb4_nopad_bin"
        ]
    );
    assert_eq!(
        ddl.after,
        [
            "CREATE UNIQUE INDEX `t_status_at` ON `app`.`t` (`status`, `at`)",
            "CREATE INDEX `by_total` ON `app`.`t` (`total`)"
        ]
    );
    let key = &ddl.foreign_keys[0];
    assert_eq!(
        key.head,
        "ALTER TABLE `app`.`t` ADD FOREIGN KEY (`Parent`) REFERENCES "
    );
    assert_eq!(key.tail, " (`id`) ON DELETE CASCADE");
    assert_eq!(
        ddl.notes,
        [
            "generated column `search` left out: its expression to_tsvector('english'::regconfig, \
             status) has no equal here",
            "check constraint `shape` left out: (status ~ '^[a-z]+$'::text) has no certain equal \
             here",
            "index `part` left out: it covers a part of the rows"
        ]
    );
}

#[test]
fn a_table_of_postgres_at_sqlite() {
    let ddl = made(&orders(), Engine::Sqlite);
    assert_eq!(
        ddl.create,
        [
            "CREATE TABLE \"main\".\"t\" (\"id\" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \"status\" \
             TEXT NOT NULL DEFAULT 'new', \"total\" TEXT DEFAULT '0.00', \"at\" TEXT DEFAULT \
             (rtrim(rtrim(strftime('%Y-%m-%d %H:%M:%f', 'now'), '0'), '.') || '+00:00'), \"Parent\" INTEGER, CHECK (\"status\" \
             IN ('new', 'it''s')), FOREIGN KEY (\"Parent\") REFERENCES \"x_p\" (\"id\") ON DELETE \
             CASCADE DEFERRABLE INITIALLY DEFERRED)"
        ]
    );
    assert!(ddl.before.is_empty() && ddl.foreign_keys.is_empty());
    assert_eq!(
        ddl.after[0],
        "CREATE UNIQUE INDEX \"main\".\"t_status_at\" ON \"t\" (\"status\", \"at\")"
    );
    // The numbers are text there, and nothing is computed with text.
    assert!(
        ddl.notes
            .iter()
            .any(|note| note.contains("`gross` left out"))
    );
}

#[test]
fn a_table_of_sqlite_at_the_others() {
    let mut id = described("Id", "INTEGER");
    id.identity = true;
    let mut name = described("Name", "NVARCHAR(120)");
    name.nullable = false;
    let mut active = described("Active", "BOOLEAN");
    active.default = Some("1".into());
    let mut at = described("At", "DATETIME");
    at.default = Some("CURRENT_TIMESTAMP".into());
    let mut double = described("Twice", "INTEGER");
    double.generated = Some(("[Id] * 2".into(), false));
    let mut table = empty(Engine::Sqlite, vec![id, name, active, at, double]);
    table.primary_key = vec!["Id".into()];
    table.checks = vec![CheckDescription {
        name: String::new(),
        expression: "Active IN (0, 1) AND Id BETWEEN 1 AND 100".into(),
    }];
    table.uniques = vec![UniqueDescription {
        name: String::new(),
        columns: vec!["Name".into()],
        nulls_equal: false,
    }];
    let ddl = made(&table, Engine::Postgres);
    assert_eq!(
        ddl.create,
        [
            "CREATE TABLE \"app\".\"t\" (\"Id\" bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY, \
             \"Name\" text NOT NULL, \"Active\" boolean DEFAULT 't', \"At\" text DEFAULT \
             to_char((now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD HH24:MI:SS'), \"Twice\" bigint \
             GENERATED ALWAYS AS ((\"Id\" * 2)) STORED, CHECK ((\"Active\" IN (false, true)) AND \
             ((\"Id\" >= 1) AND (\"Id\" <= 100))))"
        ]
    );
    assert_eq!(
        ddl.key,
        ["ALTER TABLE \"app\".\"t\" ADD PRIMARY KEY (\"Id\")"]
    );
    assert_eq!(
        ddl.after[0],
        "CREATE UNIQUE INDEX \"t_Name_key\" ON \"app\".\"t\" (\"Name\")"
    );
    let ddl = made(&table, Engine::Mysql);
    assert!(
        ddl.create[0].contains("`Name` varchar(767) NOT NULL"),
        "{:?}",
        ddl.create
    );
    assert!(
        ddl.create[0].contains("`Active` tinyint(1) DEFAULT 1"),
        "{:?}",
        ddl.create
    );
    assert!(
        ddl.create[0].contains("CHECK ((`Active` IN (0, 1)) AND"),
        "{:?}",
        ddl.create
    );
    assert!(
        ddl.create[0]
            .contains("`At` longtext DEFAULT (date_format(utc_timestamp(), '%Y-%m-%d %H:%i:%s'))"),
        "{:?}",
        ddl.create
    );
}

/// expression | at MySQL | at SQLite; `-` where it is left out.
const CHECKS: &str = r#"
(n > 0) | (`n` > 0) | ("n" > 0)
((n >= 1) AND (n <= 10)) | ((`n` >= 1) AND (`n` <= 10)) | (("n" >= 1) AND ("n" <= 10))
(n <> ALL (ARRAY[1, 2])) | (`n` NOT IN (1, 2)) | ("n" NOT IN (1, 2))
(n IS NOT NULL) | (`n` IS NOT NULL) | ("n" IS NOT NULL)
((s IS NULL) OR (n = 1)) | ((`s` IS NULL) OR (`n` = 1)) | (("s" IS NULL) OR ("n" = 1))
(s = 'a\b'::text) | (`s` = convert(X'615c62' using utf8mb4)) | ("s" = 'a\b')
(s = E'a\\b') | (`s` = convert(X'615c62' using utf8mb4)) | ("s" = 'a\b')
(s < 'b'::text) | - | -
(s ~~ 'a%'::text) | - | -
(length(s) > 3) | - | -
(d >= (0)::numeric) | (`d` >= 0) | -
(d >= '-1.5'::numeric) | (`d` >= -1.5) | -
(d > (n)::numeric) | (`d` > `n`) | -
(f > (0)::double precision) | (`f` > 0) | ("f" > 0)
(day > '2000-01-01'::date) | (`day` > '2000-01-01') | -
(day < other) | (`day` < `other`) | -
b | (`b`) | ("b")
(NOT b) | (NOT `b`) | (NOT "b")
(b = true) | (`b` = 1) | ("b" = 1)
((n + 1) > (n * 2)) | ((`n` + 1) > (`n` * 2)) | (("n" + 1) > ("n" * 2))
((n / 2) > 1) | - | -
(n = s) | - | -
(e = 'ok'::app.mood) | (`e` = 'ok') | ("e" = 'ok')
(e = ANY (ARRAY['a'::app.mood, 'b'::app.mood])) | (`e` IN ('a', 'b')) | ("e" IN ('a', 'b'))
((v)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])) | (`v` IN ('a', 'b')) | ("v" IN ('a', 'b'))
((v)::text = 'x'::text) | (`v` = 'x') | ("v" = 'x')
(n > '-1'::integer) | (`n` > -1) | ("n" > -1)
((q)::numeric > (0)::numeric) | (`q` > 0) | -
((s <> ''::text) OR (n IS NULL)) | ((`s` <> '') OR (`n` IS NULL)) | (("s" <> '') OR ("n" IS NULL))
((d >= (0)::numeric) AND (d <= 1.5)) | ((`d` >= 0) AND (`d` <= 1.5)) | -
(c = 'x'::bpchar) | - | -
(missing = 1) | - | -
(n > 0 -- comment | - | -
(n > 0)) | - | -
('a'::text = 'a'::text) | - | -
(n IN (SELECT 1)) | - | -
"#;

#[test]
fn checks_are_translated_only_where_they_mean_the_same() {
    let mut columns: Vec<ColumnDescription> = [
        ("n", "integer"),
        ("s", "text"),
        ("v", "character varying(10)"),
        ("d", "numeric(10,2)"),
        ("f", "double precision"),
        ("day", "date"),
        ("other", "date"),
        ("b", "boolean"),
        ("c", "character(3)"),
    ]
    .iter()
    .map(|(name, type_name)| described(name, type_name))
    .collect();
    let mut mood = described("e", "app.mood");
    mood.detail = Some(crate::schema::TypeDetail::Enum { labels: vec![] });
    columns.push(mood);
    let mut domain = described("q", "app.dom");
    domain.detail = Some(crate::schema::TypeDetail::Domain {
        base: "numeric(8,2)".into(),
        detail: None,
    });
    columns.push(domain);
    for line in CHECKS.lines().filter(|line| !line.is_empty()) {
        let [expression, mysql, sqlite] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        for (target, expected) in [(Engine::Mysql, mysql), (Engine::Sqlite, sqlite)] {
            let mut table = empty(Engine::Postgres, columns.clone());
            table.checks = vec![CheckDescription {
                name: "x".into(),
                expression: expression.into(),
            }];
            let ddl = made(&table, target);
            if expected == "-" {
                assert!(
                    !ddl.create[0].contains("CHECK"),
                    "{expression}: {:?}",
                    ddl.create
                );
                assert_eq!(ddl.notes.len(), 1, "{expression}");
            } else {
                let check = format!(", CHECK {expected})");
                assert!(
                    ddl.create[0].contains(&check),
                    "{expression}: {:?}",
                    ddl.create
                );
            }
        }
    }
}

/// type | default | at MySQL | at SQLite; `-` where it is left out.
const DEFAULTS: &str = r#"
integer | 5 | 5 | 5
integer | '-5'::integer | -5 | -5
integer | (1 + 2) | - | -
boolean | true | 1 | 1
text | 'it''s'::text | ('it''s') | 'it''s'
character varying(9) | 'a\b'::character varying | (convert(X'615c62' using utf8mb4)) | 'a\b'
text | NULL::text | NULL | NULL
character varying(9) | 'x'::character varying | 'x' | 'x'
jsonb | '{}'::jsonb | ('{}') | '{}'
integer[] | '{}'::integer[] | ('{}') | '{}'
bytea | '\x00ff'::bytea | (X'00ff') | X'00ff'
numeric | 1.50 | '1.50' | '1.50'
numeric | 'NaN'::numeric | - | 'NaN'
date | '2024-01-01'::date | '2024-01-01' | '2024-01-01'
date | 'infinity'::date | - | 'infinity'
date | CURRENT_DATE | (curdate()) | CURRENT_DATE
timestamp(3) without time zone | now() | CURRENT_TIMESTAMP(3) | (rtrim(rtrim(strftime('%Y-%m-%d %H:%M:%f', 'now'), '0'), '.'))
timestamp with time zone | CURRENT_TIMESTAMP | (UTC_TIMESTAMP(6)) | (rtrim(rtrim(strftime('%Y-%m-%d %H:%M:%f', 'now'), '0'), '.') || '+00:00')
double precision | random() | - | -
bit(8) | '10000001'::"bit" | X'81' | '10000001'
interval | '1 day'::interval | '1 day' | '1 day'
"#;

#[test]
fn defaults_go_the_way_of_the_values() {
    for line in DEFAULTS.lines().filter(|line| !line.is_empty()) {
        let [type_name, default, mysql, sqlite] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        for (target, expected) in [(Engine::Mysql, mysql), (Engine::Sqlite, sqlite)] {
            let mut column = described("c", type_name);
            column.default = Some(default.into());
            let ddl = made(&empty(Engine::Postgres, vec![column]), target);
            if expected == "-" {
                let columns = ddl.create[0].split(") ENGINE").next().unwrap();
                assert!(!columns.contains("DEFAULT "), "{line}: {:?}", ddl.create);
                assert_eq!(ddl.notes.len(), 1, "{line}");
            } else {
                let sql = format!(" DEFAULT {expected})");
                assert!(ddl.create[0].contains(&sql), "{line}: {:?}", ddl.create);
            }
        }
    }
}

#[test]
fn generated_columns_are_computed_where_they_can_be() {
    let generated = |name: &str, type_name: &str, expression: &str| ColumnDescription {
        generated: Some((expression.into(), true)),
        ..described(name, type_name)
    };
    let table = empty(
        Engine::Postgres,
        vec![
            described("n", "integer"),
            described("d", "numeric(10,2)"),
            described("s", "text"),
            described("v", "character varying(10)"),
            generated("g1", "numeric", "(d * (n)::numeric)"),
            generated("g2", "text", "((s || ' '::text) || (v)::text)"),
            generated("g3", "integer", "(n + 1)"),
            generated("g4", "double precision", "(d * 2.0)"),
        ],
    );
    let mysql = made(&table, Engine::Mysql);
    assert!(mysql.create[0].contains(
        "`g1` decimal(65,30) GENERATED ALWAYS AS (ROUND((`d` * `n`), 30)) STORED, `g2` longtext GENERATED \
         ALWAYS AS (CONCAT(CONCAT(`s`, ' '), `v`)) STORED, `g3` int GENERATED ALWAYS AS ((`n` + 1)) \
         STORED)"
    ), "{:?}", mysql.create);
    assert_eq!(mysql.notes.len(), 1);
    let sqlite = made(&table, Engine::Sqlite);
    assert!(
        sqlite.create[0].contains(
            "\"g2\" TEXT GENERATED ALWAYS AS (((\"s\" || ' ') || \"v\")) STORED, \"g3\" INTEGER"
        ),
        "{:?}",
        sqlite.create
    );
    assert_eq!(sqlite.notes.len(), 2);
}

#[test]
fn names_are_data_and_those_the_target_changes_are_refused() {
    let mut column = described("a`b\"c", "integer");
    column.nullable = false;
    let mut table = empty(Engine::Postgres, vec![column]);
    table.primary_key = vec!["a`b\"c".into()];
    let evil = TableName::new("x`y", "t`; DROP TABLE z; --");
    let made = ddl(&table, &plan(&table, Engine::Mysql), &evil, &Clone::clone).unwrap();
    assert!(
        made.create[0]
            .starts_with("CREATE TABLE `x``y`.`t``; DROP TABLE z; --` (`a``b\"c` int NOT NULL")
    );
    let long = TableName::new("app", "é".repeat(33));
    assert!(ddl(&table, &plan(&table, Engine::Mysql), &long, &Clone::clone).is_ok());
    let refused = |target, name: &str| {
        let name = TableName::new("app", name);
        let source = if target == Engine::Postgres {
            Engine::Sqlite
        } else {
            Engine::Postgres
        };
        let mut table = table.clone();
        table.engine = source;
        ddl(&table, &plan(&table, target), &name, &Clone::clone).is_err()
    };
    assert!(refused(Engine::Postgres, &"é".repeat(32)));
    assert!(refused(Engine::Mysql, &"x".repeat(65)));
    assert!(refused(Engine::Mysql, "blank "));
    assert!(refused(Engine::Sqlite, "sqlite_x"));
}

#[test]
fn long_index_names_are_shortened_and_long_columns_indexed_in_part() {
    let mut table = empty(
        Engine::Postgres,
        vec![described("s", "text"), described("b", "bytea")],
    );
    let index = |name: String| IndexDescription {
        name,
        columns: vec!["s".into(), "b".into()],
        ..IndexDescription::default()
    };
    table.indexes = vec![
        index(format!("{}a", "i".repeat(70))),
        index(format!("{}b", "i".repeat(70))),
    ];
    let ddl = made(&table, Engine::Mysql);
    assert_ne!(ddl.after[0], ddl.after[1]);
    assert!(
        ddl.after[0].ends_with("ON `app`.`t` (`s`(191), `b`(764))"),
        "{:?}",
        ddl.after
    );
}
