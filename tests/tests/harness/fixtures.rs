use anyhow::Result;
use repl_tests::content::{self, Content};
use repl_tests::pg::PgServer;
use repl_tests::scratch::Scratch;
use repl_tests::sqlite::SqliteDb;
use repl_tests::workload::fixture;

/// Built-in base types no application can store a value of: they refuse input, or exist for
/// the server's own catalogs and indexes.
const NOT_STORABLE: &str = "'gtsvector', 'pg_node_tree', 'pg_ndistinct', 'pg_dependencies', \
     'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary'";

#[test]
fn the_type_matrix_holds_every_built_in_type() -> Result<()> {
    let server = PgServer::builder("types").start()?;
    server.execute_file(&fixture("pg_types.sql"))?;
    let missing = server.query(&format!(
        "SELECT typname FROM pg_type t
         WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
           AND typcategory <> 'A' AND typname NOT IN ({NOT_STORABLE})
           AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                           WHERE a.atttypid = t.oid AND c.relnamespace = 'types'::regnamespace
                             AND c.relname LIKE 'k\\_%')
         ORDER BY typname"
    ))?;
    assert_eq!(missing, "", "types without a case");
    let side = content::pg(&server, "app");
    assert!(side.tables()?.len() > 200);
    content::assert_all_equal(&side, &side)
}

#[test]
fn the_hostile_identifiers_survive_their_own_creation() -> Result<()> {
    let server = PgServer::builder("identifiers").start()?;
    server.execute_file(&fixture("pg_identifiers.sql"))?;
    let side = content::pg(&server, "app");
    assert_eq!(side.tables()?.len(), 41 + 4);
    assert_eq!(
        server.query_i64("SELECT max(octet_length(relname::text)) FROM pg_class")?,
        63
    );
    content::assert_all_equal(&side, &side)
}

#[test]
fn the_sqlite_matrix_holds_every_storage_class_and_kind_of_table() -> Result<()> {
    let scratch = Scratch::new()?;
    let db = SqliteDb::create(&scratch.join("types.db"))?;
    db.execute_file(&fixture("sqlite_types.sql"))?;
    assert_eq!(
        db.query_i64("SELECT count(DISTINCT typeof(untyped)) FROM classes")?,
        5
    );
    let nan = "SELECT count(*) FROM classes WHERE id = 24 AND untyped IS NULL AND r IS NULL";
    assert_eq!(db.query_i64(nan)?, 1);
    // REAL affinity stores whole numbers as integers, which have no negative zero; BLOB has.
    let kept: f64 =
        db.connect_read_only()?
            .query_row("SELECT b FROM classes WHERE id = 15", [], |row| row.get(0))?;
    assert_eq!(kept.to_bits(), (-0.0_f64).to_bits());
    db.check_integrity()?;
    let side = content::sqlite(&db);
    content::assert_all_equal(&side, &side)
}
