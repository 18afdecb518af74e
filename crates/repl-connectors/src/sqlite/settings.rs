//! The settings (PRAGMAs) a connection of SQLite can have, and what each of ours makes of them.
//!
//! Nobody but the connection itself can change most of them; they begin as the library was compiled, and a few
//! are kept in the file. [`SETTINGS`] judges each PRAGMA; a test asks the library for its list and fails for
//! one that is not here. `docs/SETTINGS.md` shows the table.

use rusqlite::Connection;

/// What is made of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Every connection of ours has this value.
    Pinned(&'static str),
    /// Set by what the connection is for; see the note.
    ByUse(&'static str),
    /// Kept in the file; see the note.
    File(&'static str),
    /// Decides how fast something is done, or with how much memory or room.
    Speed,
    /// Only asks or orders; it holds no value.
    Order,
    /// Concerns what no connection of ours does, or the form of what it does not ask for.
    Unused,
}

use Judged::{ByUse, File, Order, Pinned, Speed, Unused};

/// Every PRAGMA of SQLite 3.40 to 3.50.
pub const SETTINGS: &[(&str, Judged)] = &[
    ("analysis_limit", Speed),
    ("application_id", File("the application's")),
    ("auto_vacuum", File("where rows lie, not what they are")),
    ("automatic_index", Speed),
    ("busy_timeout", ByUse("5 s; for upkeep and fences shorter")),
    ("cache_size", Speed),
    ("cache_spill", Speed),
    ("case_sensitive_like", Pinned("OFF")),
    ("cell_size_check", Speed),
    ("checkpoint_fullfsync", Speed),
    ("collation_list", Order),
    ("compile_options", Order),
    ("count_changes", Pinned("OFF")),
    ("data_version", Order),
    ("database_list", Order),
    ("default_cache_size", Speed),
    ("defer_foreign_keys", Unused),
    ("empty_result_callbacks", Unused),
    ("encoding", File("a primary that is not UTF-8 is refused")),
    ("foreign_key_check", Order),
    ("foreign_key_list", Order),
    ("foreign_keys", ByUse("OFF wherever something is written")),
    ("freelist_count", Order),
    ("full_column_names", Unused),
    ("fullfsync", Speed),
    ("function_list", Order),
    ("hard_heap_limit", Speed),
    ("ignore_check_constraints", Pinned("OFF")),
    ("incremental_vacuum", Order),
    ("index_info", Order),
    ("index_list", Order),
    ("index_xinfo", Order),
    ("integrity_check", Order),
    (
        "journal_mode",
        File("WAL: set in a replica, and a primary without it is refused"),
    ),
    ("journal_size_limit", Speed),
    ("legacy_alter_table", Pinned("OFF")),
    ("locking_mode", Pinned("NORMAL")),
    ("max_page_count", Speed),
    ("mmap_size", Speed),
    ("module_list", Order),
    ("optimize", Order),
    ("page_count", Order),
    ("page_size", File("where rows lie, not what they are")),
    ("pragma_list", Order),
    (
        "query_only",
        ByUse("ON in connections that only read a replica"),
    ),
    ("quick_check", Order),
    ("read_uncommitted", Pinned("OFF")),
    ("recursive_triggers", Pinned("OFF")),
    ("reverse_unordered_selects", Pinned("OFF")),
    ("schema_version", File("the library's own")),
    ("secure_delete", Speed),
    ("short_column_names", Unused),
    ("shrink_memory", Order),
    ("soft_heap_limit", Speed),
    (
        "synchronous",
        ByUse("FULL for replicas and fences, NORMAL for upkeep of a primary"),
    ),
    ("table_info", Order),
    ("table_list", Order),
    ("table_xinfo", Order),
    ("temp_store", Speed),
    ("temp_store_directory", Speed),
    ("threads", Speed),
    ("trusted_schema", Unused),
    ("user_version", File("the application's")),
    ("wal_autocheckpoint", Speed),
    ("wal_checkpoint", Order),
    ("writable_schema", Pinned("OFF")),
];

/// What is made of a PRAGMA; none when nobody has judged it.
pub fn judged(name: &str) -> Option<Judged> {
    let found = SETTINGS.iter().find(|(known, _)| *known == name);
    found.map(|(_, judged)| *judged)
}

/// Gives a connection the settings that all of ours have, however the library was compiled.
///
/// # Errors
/// What the library reports.
pub fn pin(db: &Connection) -> rusqlite::Result<()> {
    let mut statements = String::new();
    for (name, judged) in SETTINGS {
        if let Pinned(value) = judged {
            statements.push_str(&format!("PRAGMA {name}={value};"));
        }
    }
    db.execute_batch(&statements)
}
