//! Names at the target: quoting, limits, and names that the target takes for the same.

use super::Engine;
use crate::schema::{TableName, quote_identifier};

/// An identifier quoted for the engine, quotes doubled inside.
pub fn quote(engine: Engine, name: &str) -> String {
    match engine {
        Engine::Mysql => format!("`{}`", name.replace('`', "``")),
        Engine::Postgres | Engine::Sqlite => quote_identifier(name),
    }
}

/// A table's qualified name quoted for the engine.
pub fn quote_table(engine: Engine, table: &TableName) -> String {
    format!(
        "{}.{}",
        quote(engine, &table.schema),
        quote(engine, &table.name)
    )
}

/// Checks that the engine keeps the name exactly as it is.
///
/// # Errors
/// Why it would not, in words that follow "the name".
pub fn check_identifier(engine: Engine, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".into());
    }
    if name.contains('\0') {
        return Err("contains a NUL character".into());
    }
    match engine {
        Engine::Postgres if name.len() > 63 => Err(format!(
            "has {} bytes; PostgreSQL cuts names after 63",
            name.len()
        )),
        Engine::Mysql if name.chars().count() > 64 => Err(format!(
            "has {} characters; MySQL allows 64",
            name.chars().count()
        )),
        Engine::Mysql if name.ends_with(' ') => {
            Err("ends with a blank, which MySQL does not allow".into())
        }
        Engine::Mysql if name.chars().any(|c| c > '\u{ffff}') => {
            Err("has a character beyond U+FFFF, which MySQL does not allow in names".into())
        }
        _ => Ok(()),
    }
}

/// The form under which the engine compares names of columns.
pub(super) fn folded_column(engine: Engine, name: &str) -> String {
    match engine {
        Engine::Postgres => name.to_owned(),
        Engine::Mysql => name.to_lowercase(),
        Engine::Sqlite => name.to_ascii_lowercase(),
    }
}

/// The form under which tables collide. Whether MySQL folds the case of table names depends on the
/// server and its file system, so names that differ in case only are never relied upon.
fn folded_table(engine: Engine, table: &TableName) -> (String, String) {
    match engine {
        Engine::Postgres => (table.schema.clone(), table.name.clone()),
        Engine::Mysql => (table.schema.to_lowercase(), table.name.to_lowercase()),
        Engine::Sqlite => (
            table.schema.to_ascii_lowercase(),
            table.name.to_ascii_lowercase(),
        ),
    }
}

/// Pairs of target names that the engine may take for the same table, in the order given.
pub fn table_collisions(engine: Engine, tables: &[TableName]) -> Vec<(TableName, TableName)> {
    let mut seen = std::collections::HashMap::new();
    let mut collisions = Vec::new();
    for table in tables {
        match seen.get(&folded_table(engine, table)) {
            None => {
                seen.insert(folded_table(engine, table), table);
            }
            Some(first) => collisions.push(((*first).clone(), table.clone())),
        }
    }
    collisions
}

/// `name` where the engine keeps it, else a shortened one that ends in a hash of the whole; for
/// names that carry no data (indexes).
pub(super) fn fitted(engine: Engine, name: &str) -> String {
    let cleaned: String = name.replace('\0', "_").trim_end().to_owned();
    if check_identifier(engine, &cleaned).is_ok() && cleaned == name {
        return cleaned;
    }
    // FNV-1a: stable across versions, unlike the standard library's hasher.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut short = String::new();
    for c in cleaned.chars().filter(|c| *c <= '\u{ffff}') {
        if short.len() + c.len_utf8() > 46 {
            break;
        }
        short.push(c);
    }
    format!("{short}_{hash:016x}")
}
