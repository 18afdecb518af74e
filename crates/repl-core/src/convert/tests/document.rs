//! `docs/TYPES.md` shows what the code does: its tables are made here and compared.
//!
//! `UPDATE_DOCS=1 cargo test -p repl-core document` writes them anew.

use std::fmt::Write as _;

use super::{Engine, Rule, column, plan_of, schema};
use crate::convert::{ConvertOptions, TablePlan};
use crate::schema::{Identity, TypeDetail};

const POSTGRES: [&str; 45] = [
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "oid",
    "xid8",
    "numeric(10,2)",
    "numeric(70,40)",
    "numeric",
    "money",
    "real",
    "double precision",
    "text",
    "character varying(20)",
    "character(5)",
    "name",
    "\"char\"",
    "citext",
    "bytea",
    "date",
    "time without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp(3) without time zone",
    "timestamp with time zone",
    "interval",
    "uuid",
    "json",
    "jsonb",
    "xml",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit(10)",
    "bit(100)",
    "bit varying(20)",
    "integer[]",
    "int4range",
    "int4multirange",
    "point",
    "tsvector",
    "pg_lsn",
    "hstore",
    "app.address",
];
const SQLITE: [&str; 13] = [
    "INTEGER",
    "BIGINT",
    "REAL",
    "DOUBLE",
    "BOOLEAN",
    "NUMERIC",
    "DECIMAL(10,2)",
    "TEXT",
    "VARCHAR(20)",
    "BLOB",
    "DATETIME",
    "JSON",
    "",
];

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/TYPES.md");

fn table(source: Engine, types: &[&str], targets: [Engine; 2]) -> String {
    let mut out = String::new();
    for target in targets {
        let _ = writeln!(out, "### {source} to {target}\n");
        let _ = writeln!(
            out,
            "| {source} | {target} | as a key | carried | form and limits |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|");
        for type_name in types {
            let _ = writeln!(out, "{}", line(source, target, type_name));
        }
        if source == Engine::Postgres {
            let label = column("c", "app.mood").with_detail(TypeDetail::Enum { labels: vec![] });
            let plan = TablePlan::new(
                &schema(source, vec![label]),
                target,
                &ConvertOptions::default(),
            )
            .unwrap();
            let found = &plan.columns()[0];
            let _ = writeln!(
                out,
                "| an enum | {} | {} | {} | {} |",
                code(&found.target_type),
                code(&found.target_type),
                found.fidelity,
                found.note
            );
            let _ = writeln!(out, "| a domain | | | | as the type it stands on |");
        }
        out.push('\n');
    }
    out
}

fn line(source: Engine, target: Engine, type_name: &str) -> String {
    let shown = if type_name.is_empty() {
        "none, or `ANY`".to_owned()
    } else {
        code(type_name)
    };
    let mut keyed = schema(source, vec![column("c", type_name)]);
    let options = ConvertOptions::default();
    let Ok(plan) = TablePlan::new(&keyed, target, &options) else {
        let plan = plan_of(source, target, type_name, &[Rule::Text]);
        let found = &plan.columns()[0];
        return format!(
            "| {shown} | refused; {} by the rule `text` | | | {} |",
            code(&found.target_type),
            found.note
        );
    };
    keyed.identity = Identity::Key(vec![0]);
    let key = TablePlan::new(&keyed, target, &options).unwrap();
    let found = &plan.columns()[0];
    format!(
        "| {shown} | {} | {} | {} | {} |",
        code(&found.target_type),
        code(&key.columns()[0].target_type),
        found.fidelity,
        found.note
    )
}

fn code(type_name: &str) -> String {
    if type_name.is_empty() {
        "no declared type".to_owned()
    } else {
        format!("`{type_name}`")
    }
}

#[test]
fn the_document_shows_what_the_code_does() {
    const BEGIN: &str = "<!-- made by the tests of repl-core: do not edit from here -->\n";
    const END: &str = "<!-- to here -->\n";
    let tables = format!(
        "{}{}",
        table(Engine::Postgres, &POSTGRES, [Engine::Mysql, Engine::Sqlite]),
        table(Engine::Sqlite, &SQLITE, [Engine::Postgres, Engine::Mysql])
    );
    let text = std::fs::read_to_string(PATH).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the begin mark");
    let (_, tail) = rest.split_once(END).expect("the end mark");
    let wanted = format!("{head}{BEGIN}\n{tables}{END}{tail}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "docs/TYPES.md differs from the code; UPDATE_DOCS=1 cargo test -p repl-core document \
             writes it anew"
        );
    }
}
