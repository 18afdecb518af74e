//! The settings a session of PostgreSQL can have, and what each of ours makes of them.
//!
//! A database or a role may give every session other values (`ALTER DATABASE … SET`), and many change what
//! is read, written, rendered or named. [`SETTINGS`] judges each setting of the servers supported; a
//! test asks a server for its list and fails for one that is not here. `docs/SETTINGS.md` shows the table.

use postgres_protocol::escape::escape_literal;

use super::target::PgTarget;
use super::wire::PgClient;
use crate::seam::Result;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// The replication stream (a walsender).
    Stream,
    /// Reads rows: snapshots of a primary, validation at either side.
    Reader,
    /// Writes to a replica, copies and repairs included.
    Applier,
    /// Everything else: catalog, slot, publication, heartbeats, the gate, roles, fences, `--check`.
    Admin,
}

impl Session {
    /// All of them.
    pub const ALL: [Session; 4] = [
        Session::Stream,
        Session::Reader,
        Session::Applier,
        Session::Admin,
    ];
}

/// Why a setting may be left as the server, database or role has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Decides how fast something is done, or with how much memory.
    Speed,
    /// Decides how long something waits, or what is refused; shows as an error.
    Bounds,
    /// Concerns the server's log, statistics and messages.
    Reporting,
    /// Decides where and how the replica stores what it is given: its owner's choice.
    Storage,
    /// Concerns what no session of ours does, or says for each transaction anew.
    Unused,
    /// Concerns code that the server's owner loads.
    Extensions,
    /// Is dealt with where it matters; see the note.
    Elsewhere(&'static str),
}

/// What is made of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    /// Every session has this value.
    Pinned(&'static str),
    /// Every session has this value; one that may not set it is refused where it has another.
    Required(&'static str),
    /// Values by the order of [`Session::ALL`]; none leaves it.
    By([Option<&'static str>; 4]),
    /// Left as it is.
    Left(Class),
}

use Class::{Bounds, Elsewhere, Extensions, Reporting, Speed, Storage, Unused};
use Judged::{By, Left, Pinned, Required};

const fn applier(value: &'static str) -> Judged {
    By([None, None, Some(value), None])
}

/// Every setting that a session can have, in PostgreSQL 14 to 18.
pub const SETTINGS: &[(&str, Judged)] = &[
    ("allow_in_place_tablespaces", Left(Unused)),
    ("allow_system_table_mods", Left(Unused)),
    ("application_name", Left(Elsewhere("given at login"))),
    ("array_nulls", Pinned("on")),
    ("backend_flush_after", Left(Speed)),
    ("backslash_quote", Pinned("safe_encoding")),
    ("backtrace_functions", Left(Reporting)),
    ("bytea_output", Pinned("hex")),
    ("check_function_bodies", applier("off")),
    ("client_connection_check_interval", Left(Bounds)),
    // `SQL_ASCII`, as it is stored, where rows are read from a database of that encoding.
    ("client_encoding", Pinned("UTF8")),
    ("client_min_messages", Pinned("warning")),
    ("commit_delay", Left(Speed)),
    ("commit_siblings", Left(Speed)),
    ("compute_query_id", Left(Reporting)),
    ("constraint_exclusion", Left(Speed)),
    ("cpu_index_tuple_cost", Left(Speed)),
    ("cpu_operator_cost", Left(Speed)),
    ("cpu_tuple_cost", Left(Speed)),
    ("createrole_self_grant", Left(Unused)),
    ("cursor_tuple_fraction", Left(Speed)),
    ("DateStyle", Pinned("ISO, YMD")),
    ("deadlock_timeout", Left(Bounds)),
    ("debug_discard_caches", Left(Speed)),
    ("debug_logical_replication_streaming", Left(Unused)),
    ("debug_parallel_query", Left(Speed)),
    ("debug_pretty_print", Left(Reporting)),
    ("debug_print_parse", Left(Reporting)),
    ("debug_print_plan", Left(Reporting)),
    ("debug_print_rewritten", Left(Reporting)),
    ("default_statistics_target", Left(Speed)),
    ("default_table_access_method", Left(Storage)),
    ("default_tablespace", Left(Storage)),
    // No index, check or generated column may depend on it.
    ("default_text_search_config", Left(Unused)),
    ("default_toast_compression", Left(Storage)),
    ("default_transaction_deferrable", Pinned("off")),
    ("default_transaction_isolation", Pinned("read committed")),
    ("default_transaction_read_only", Pinned("off")),
    ("dynamic_library_path", Left(Extensions)),
    ("effective_cache_size", Left(Speed)),
    ("effective_io_concurrency", Left(Speed)),
    ("enable_async_append", Left(Speed)),
    ("enable_bitmapscan", Left(Speed)),
    ("enable_distinct_reordering", Left(Speed)),
    ("enable_gathermerge", Left(Speed)),
    ("enable_group_by_reordering", Left(Speed)),
    ("enable_hashagg", Left(Speed)),
    ("enable_hashjoin", applier("off")),
    ("enable_incremental_sort", Left(Speed)),
    ("enable_indexonlyscan", Left(Speed)),
    ("enable_indexscan", Left(Speed)),
    ("enable_material", Left(Speed)),
    ("enable_memoize", Left(Speed)),
    ("enable_mergejoin", applier("off")),
    ("enable_nestloop", Left(Speed)),
    ("enable_parallel_append", Left(Speed)),
    ("enable_parallel_hash", Left(Speed)),
    ("enable_partition_pruning", Left(Speed)),
    ("enable_partitionwise_aggregate", Left(Speed)),
    ("enable_partitionwise_join", Left(Speed)),
    ("enable_presorted_aggregate", Left(Speed)),
    ("enable_self_join_elimination", Left(Speed)),
    ("enable_seqscan", applier("off")),
    ("enable_sort", Left(Speed)),
    ("enable_tidscan", Left(Speed)),
    ("escape_string_warning", Left(Reporting)),
    ("event_triggers", Left(Extensions)),
    ("exit_on_error", Left(Bounds)),
    ("extension_control_path", Left(Extensions)),
    ("extension_destdir", Left(Extensions)),
    ("extra_float_digits", Pinned("3")),
    ("file_copy_method", Left(Speed)),
    ("force_parallel_mode", Left(Speed)),
    ("from_collapse_limit", Left(Speed)),
    ("geqo", Left(Speed)),
    ("geqo_effort", Left(Speed)),
    ("geqo_generations", Left(Speed)),
    ("geqo_pool_size", Left(Speed)),
    ("geqo_seed", Left(Speed)),
    ("geqo_selection_bias", Left(Speed)),
    ("geqo_threshold", Left(Speed)),
    // It lets a search by a GIN index leave out rows.
    ("gin_fuzzy_search_limit", Pinned("0")),
    ("gin_pending_list_limit", Left(Speed)),
    ("hash_mem_multiplier", Left(Speed)),
    ("icu_validation_level", Left(Bounds)),
    (
        "idle_in_transaction_session_timeout",
        By([Some("0"), Some("0"), Some("60s"), Some("0")]),
    ),
    ("idle_session_timeout", Pinned("0")),
    // Damaged pages would be read, or taken for empty.
    ("ignore_checksum_failure", Required("off")),
    ("ignore_system_indexes", Left(Speed)),
    ("IntervalStyle", Pinned("postgres")),
    ("io_combine_limit", Left(Speed)),
    ("jit", applier("off")),
    ("jit_above_cost", Left(Speed)),
    ("jit_debugging_support", Left(Reporting)),
    ("jit_dump_bitcode", Left(Reporting)),
    ("jit_expressions", Left(Speed)),
    ("jit_inline_above_cost", Left(Speed)),
    ("jit_optimize_above_cost", Left(Speed)),
    ("jit_profiling_support", Left(Reporting)),
    ("jit_tuple_deforming", Left(Speed)),
    ("join_collapse_limit", Left(Speed)),
    // Errors are told apart by their codes.
    ("lc_messages", Left(Reporting)),
    ("lc_monetary", Pinned("C")),
    ("lc_numeric", Pinned("C")),
    ("lc_time", Pinned("C")),
    ("lo_compat_privileges", Left(Unused)),
    ("local_preload_libraries", Left(Extensions)),
    (
        "lock_timeout",
        By([Some("0"), Some("0"), Some("10s"), Some("5s")]),
    ),
    ("log_connections", Left(Reporting)),
    ("log_disconnections", Left(Reporting)),
    ("log_duration", Left(Reporting)),
    ("log_error_verbosity", Left(Reporting)),
    ("log_executor_stats", Left(Reporting)),
    ("log_lock_failures", Left(Reporting)),
    ("log_lock_waits", Left(Reporting)),
    ("log_min_duration_sample", Left(Reporting)),
    ("log_min_duration_statement", Left(Reporting)),
    ("log_min_error_statement", Left(Reporting)),
    ("log_min_messages", Left(Reporting)),
    ("log_parameter_max_length", Left(Reporting)),
    ("log_parameter_max_length_on_error", Left(Reporting)),
    ("log_parser_stats", Left(Reporting)),
    ("log_planner_stats", Left(Reporting)),
    ("log_replication_commands", Left(Reporting)),
    ("log_statement", Left(Reporting)),
    ("log_statement_sample_rate", Left(Reporting)),
    ("log_statement_stats", Left(Reporting)),
    ("log_temp_files", Left(Reporting)),
    ("log_transaction_sample_rate", Left(Reporting)),
    ("logical_decoding_work_mem", Left(Speed)),
    ("maintenance_io_concurrency", Left(Speed)),
    ("maintenance_work_mem", Left(Speed)),
    ("max_parallel_maintenance_workers", Left(Speed)),
    ("max_parallel_workers", Left(Speed)),
    ("max_parallel_workers_per_gather", Left(Speed)),
    ("max_stack_depth", Left(Bounds)),
    ("md5_password_warnings", Left(Unused)),
    ("min_parallel_index_scan_size", Left(Speed)),
    ("min_parallel_table_scan_size", Left(Speed)),
    ("parallel_leader_participation", Left(Speed)),
    ("parallel_setup_cost", Left(Speed)),
    ("parallel_tuple_cost", Left(Speed)),
    ("password_encryption", Left(Unused)),
    ("plan_cache_mode", applier("auto")),
    ("post_auth_delay", Left(Bounds)),
    // Names of types, tables and columns are compared, and values of `regclass` are names.
    ("quote_all_identifiers", Pinned("off")),
    ("random_page_cost", Left(Speed)),
    ("recursive_worktable_factor", Left(Speed)),
    ("restrict_nonsystem_relation_kind", Pinned("")),
    // A policy makes a statement fail instead of hiding rows from it.
    ("row_security", Pinned("off")),
    ("scram_iterations", Left(Unused)),
    ("search_path", Pinned("")),
    ("seq_page_cost", Left(Speed)),
    ("session_preload_libraries", Left(Extensions)),
    (
        "session_replication_role",
        Left(Elsewhere(
            "`replica` in sessions that write to a replica, which are refused without it; nobody \
             else writes rows",
        )),
    ),
    ("standard_conforming_strings", Pinned("on")),
    ("statement_timeout", Pinned("0")),
    ("stats_fetch_consistency", Left(Reporting)),
    ("synchronize_seqscans", Left(Speed)),
    ("synchronous_commit", By([None, None, None, Some("local")])),
    ("tcp_keepalives_count", Pinned("3")),
    ("tcp_keepalives_idle", Pinned("15")),
    ("tcp_keepalives_interval", Pinned("5")),
    ("tcp_user_timeout", Pinned("30s")),
    ("temp_buffers", Left(Speed)),
    ("temp_file_limit", Left(Bounds)),
    ("temp_tablespaces", Left(Storage)),
    ("TimeZone", Pinned("UTC")),
    ("timezone_abbreviations", Pinned("Default")),
    ("trace_notify", Left(Reporting)),
    ("trace_sort", Left(Reporting)),
    ("track_activities", Left(Reporting)),
    ("track_cost_delay_timing", Left(Reporting)),
    (
        "track_counts",
        Left(Elsewhere(
            "rows put by COPY are counted by it; where it is off, they are inserted one by one",
        )),
    ),
    ("track_functions", Left(Reporting)),
    ("track_io_timing", Left(Reporting)),
    ("track_wal_io_timing", Left(Reporting)),
    ("transaction_deferrable", Left(Unused)),
    ("transaction_isolation", Left(Unused)),
    ("transaction_read_only", Left(Unused)),
    ("transaction_timeout", Pinned("0")),
    ("transform_null_equals", Pinned("off")),
    ("update_process_title", Left(Reporting)),
    ("vacuum_buffer_usage_limit", Left(Speed)),
    ("vacuum_cost_delay", Left(Speed)),
    ("vacuum_cost_limit", Left(Speed)),
    ("vacuum_cost_page_dirty", Left(Speed)),
    ("vacuum_cost_page_hit", Left(Speed)),
    ("vacuum_cost_page_miss", Left(Speed)),
    ("vacuum_failsafe_age", Left(Unused)),
    ("vacuum_freeze_min_age", Left(Unused)),
    ("vacuum_freeze_table_age", Left(Unused)),
    ("vacuum_max_eager_freeze_failure_rate", Left(Unused)),
    ("vacuum_multixact_failsafe_age", Left(Unused)),
    ("vacuum_multixact_freeze_min_age", Left(Unused)),
    ("vacuum_multixact_freeze_table_age", Left(Unused)),
    ("vacuum_truncate", Left(Unused)),
    ("wal_compression", Left(Speed)),
    ("wal_consistency_checking", Left(Reporting)),
    ("wal_init_zero", Left(Speed)),
    ("wal_recycle", Left(Speed)),
    // The stream says every 5 s that it is there.
    ("wal_sender_timeout", Left(Bounds)),
    ("wal_skip_threshold", Left(Speed)),
    ("work_mem", Left(Speed)),
    ("xmlbinary", Pinned("base64")),
    ("xmloption", Pinned("content")),
    ("zero_damaged_pages", Required("off")),
];

/// What is made of a setting; none when nobody has judged it. Those with a dot in their names
/// belong to extensions.
pub fn judged(name: &str) -> Option<Judged> {
    if name.contains('.') {
        return Some(Left(Extensions));
    }
    let found = SETTINGS.iter().find(|(known, _)| *known == name);
    found.map(|(_, judged)| *judged)
}

/// The value a session of this kind has; none where it is left as it is.
pub fn value(judged: Judged, session: Session) -> Option<&'static str> {
    match judged {
        Pinned(value) | Required(value) => Some(value),
        By([stream, reader, applier, admin]) => match session {
            Session::Stream => stream,
            Session::Reader => reader,
            Session::Applier => applier,
            Session::Admin => admin,
        },
        Left(_) => None,
    }
}

/// The statements that give a session its settings, each to be sent by itself (a walsender takes no
/// two in one message). Settings that the server does not know are left out; one that only a
/// superuser may set is touched only if it has another value.
pub fn statements(session: Session) -> [String; 3] {
    let mut values = Vec::new();
    for (name, judged) in SETTINGS {
        if let Some(value) = value(*judged, session) {
            let required = matches!(judged, Required(_));
            values.push(format!(
                "({}, {}, {required})",
                escape_literal(name),
                escape_literal(value)
            ));
        }
    }
    [
        // The names in the statement below are to mean what they say, whatever the path was.
        "SET search_path = ''".into(),
        "SET statement_timeout = 0".into(),
        format!(
            "SELECT pg_catalog.set_config(w.name, w.value, false) FROM (VALUES {}) \
             AS w(name, value, required) WHERE pg_catalog.current_setting(w.name, true) IS NOT NULL \
             AND (NOT w.required OR pg_catalog.current_setting(w.name, true) <> w.value)",
            values.join(", ")
        ),
    ]
}

/// Connects, and gives the session its settings.
///
/// # Errors
/// As [`PgClient::connect`]; [`repl_core::ErrorKind::Privilege`] when the role has a setting that it must not have and
/// may not change.
pub async fn connect(target: &PgTarget, session: Session) -> Result<PgClient> {
    let mut client = PgClient::connect(target, &[]).await?;
    pin(&mut client, session).await?;
    Ok(client)
}

/// Gives a session its settings.
///
/// # Errors
/// As [`connect`].
pub async fn pin(client: &mut PgClient, session: Session) -> Result<()> {
    let statements = statements(session);
    let texts = statements.each_ref().map(String::as_str);
    for outcome in client.simple_all(texts).await? {
        outcome.map_err(explain)?;
    }
    let reads_rows = matches!(session, Session::Stream | Session::Reader);
    if reads_rows && client.parameter("server_encoding") == Some("SQL_ASCII") {
        client.simple(AS_STORED).await?;
    }
    Ok(())
}

/// A database of this encoding takes any bytes, and the server would refuse to send those that are not UTF-8:
/// the whole stream would end at one. As they are, the log carries them, and the replica that cannot hold
/// one refuses it with its table and key.
const AS_STORED: &str = "SET client_encoding = 'SQL_ASCII'";

/// A setting that the role may not change was given to it by somebody who may.
pub(super) fn explain(error: crate::seam::ConnectorError) -> crate::seam::ConnectorError {
    let mut error = error.connecting();
    if error.kind == repl_core::ErrorKind::Privilege {
        error.advice = "with this setting the server reads damaged pages as if they were good. Take it back (as a \
                        superuser: ALTER ROLE … RESET, ALTER DATABASE … RESET, or ALTER SYSTEM RESET \
                        and SELECT pg_reload_conf()), or let the daemon's role set it (PostgreSQL 15 \
                        or later: GRANT SET ON PARAMETER … TO …)"
            .into();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_judged_once() {
        let mut names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn what_changes_values_is_pinned_in_every_session() {
        for name in [
            "array_nulls",
            "DateStyle",
            "row_security",
            "gin_fuzzy_search_limit",
        ] {
            for session in Session::ALL {
                assert!(
                    judged(name).and_then(|j| value(j, session)).is_some(),
                    "{name}"
                );
            }
        }
        assert!(judged("a_setting_of_tomorrow").is_none());
    }
}
