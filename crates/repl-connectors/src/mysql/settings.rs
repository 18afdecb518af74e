//! The settings a session of MariaDB or MySQL can have, and what each of ours makes of them.
//!
//! They begin as the server's global ones, and `init_connect` may change them again; many change what is read,
//! written, rendered or refused. [`SETTINGS`] judges each setting of the servers supported; a test asks a server
//! for its list and fails for one that is not here. `docs/SETTINGS.md` shows the table.

use std::collections::HashMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Writes to a replica, copies and repairs included.
    Applier,
    /// Reads: validation and `--check`.
    Reader,
}

impl Session {
    /// All of them.
    pub const ALL: [Session; 2] = [Session::Applier, Session::Reader];
}

/// Why a setting may be left as the server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Decides how fast something is done, or with how much memory.
    Speed,
    /// Decides how long something waits, or what is refused; shows as an error.
    Bounds,
    /// Concerns the server's log, statistics and messages.
    Reporting,
    /// Decides where and how the server stores what it is given: its owner's choice.
    Storage,
    /// Concerns the server's own binlog: its owner's choice.
    Binlog,
    /// Concerns what no session of ours does.
    Unused,
    /// Is dealt with where it matters; see the note.
    Elsewhere(&'static str),
}

/// What is made of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    /// Every session has this value, an SQL expression.
    Pinned(&'static str),
    /// Values by the order of [`Session::ALL`]; none leaves it.
    By([Option<&'static str>; 2]),
    /// Left as it is.
    Left(Class),
}

use Class::{Binlog, Bounds, Elsewhere, Reporting, Speed, Storage, Unused};
use Judged::{By, Left, Pinned};

/// Every setting that a session can have, in MariaDB 10.11 and MySQL 9.
///
/// Of those that are less evident: a warning is most often a value that the server changed, so `sql_notes`,
/// `note_verbosity` and `max_error_count` must let us see them all; `explicit_defaults_for_timestamp`
/// turns NULL into the present time, `sql_select_limit` and `system_versioning_asof` leave rows out,
/// `completion_type` makes a COMMIT end the session, `sql_if_exists` makes what failed look done.
pub const SETTINGS: &[(&str, Judged)] = &[
    ("alter_algorithm", By([Some("'DEFAULT'"), None])),
    ("analyze_max_length", Left(Speed)),
    ("analyze_sample_percentage", Left(Speed)),
    ("aria_repair_threads", Left(Speed)),
    ("aria_sort_buffer_size", Left(Speed)),
    ("aria_stats_method", Left(Speed)),
    ("auto_increment_increment", Left(Storage)),
    ("auto_increment_offset", Left(Storage)),
    ("autocommit", By([Some("0"), Some("1")])),
    ("big_tables", Left(Speed)),
    ("binlog_alter_two_phase", Left(Binlog)),
    ("binlog_annotate_row_events", Left(Binlog)),
    ("binlog_direct_non_transactional_updates", Left(Speed)),
    (
        "binlog_format",
        Left(Elsewhere(
            "`STATEMENT` is refused where the server writes a binlog",
        )),
    ),
    ("binlog_row_image", Left(Binlog)),
    ("binlog_row_value_options", Left(Binlog)),
    ("binlog_rows_query_log_events", Left(Binlog)),
    ("binlog_transaction_compression", Left(Binlog)),
    ("binlog_transaction_compression_level_zstd", Left(Binlog)),
    ("block_encryption_mode", Left(Unused)),
    ("bulk_insert_buffer_size", Left(Speed)),
    (
        "character_set_client",
        Left(Elsewhere("`SET NAMES utf8mb4`")),
    ),
    (
        "character_set_connection",
        Left(Elsewhere("`SET NAMES utf8mb4`")),
    ),
    ("character_set_database", Left(Storage)),
    ("character_set_filesystem", Left(Unused)),
    (
        "character_set_results",
        Left(Elsewhere("`SET NAMES utf8mb4`")),
    ),
    ("character_set_server", Left(Storage)),
    ("check_constraint_checks", By([Some("'ON'"), None])),
    (
        "collation_connection",
        Left(Elsewhere(
            "`SET NAMES utf8mb4`; texts are compared as bytes or by their column",
        )),
    ),
    ("collation_database", Left(Storage)),
    ("collation_server", Left(Storage)),
    ("column_compression_threshold", Left(Storage)),
    ("column_compression_zlib_level", Left(Storage)),
    ("column_compression_zlib_strategy", Left(Storage)),
    ("column_compression_zlib_wrap", Left(Storage)),
    ("completion_type", Pinned("'NO_CHAIN'")),
    ("connection_memory_chunk_size", Left(Bounds)),
    ("connection_memory_limit", Left(Bounds)),
    ("cte_max_recursion_depth", Left(Bounds)),
    ("deadlock_search_depth_long", Left(Speed)),
    ("deadlock_search_depth_short", Left(Speed)),
    ("deadlock_timeout_long", Left(Bounds)),
    ("deadlock_timeout_short", Left(Bounds)),
    (
        "default_collation_for_utf8mb4",
        Left(Elsewhere(
            "`SET NAMES utf8mb4`; texts are compared as bytes or by their column",
        )),
    ),
    ("default_master_connection", Left(Unused)),
    ("default_regex_flags", Left(Unused)),
    ("default_storage_engine", By([Some("'InnoDB'"), None])),
    ("default_table_encryption", Left(Storage)),
    ("default_tmp_storage_engine", Left(Storage)),
    ("default_week_format", Pinned("0")),
    ("div_precision_increment", Pinned("4")),
    ("enable_cascade_triggers", Left(Unused)),
    ("enable_secondary_engine_statistics", Left(Speed)),
    ("end_markers_in_json", Left(Reporting)),
    ("enforce_storage_engine", Left(Bounds)),
    ("eq_range_index_dive_limit", Left(Speed)),
    ("error_count", Left(Reporting)),
    ("expensive_subquery_limit", Left(Speed)),
    ("explain_format", Left(Reporting)),
    ("explain_json_format_version", Left(Reporting)),
    ("explicit_defaults_for_timestamp", By([Some("'ON'"), None])),
    ("external_table_secondary_storage_engine", Left(Storage)),
    ("external_table_storage_engine", Left(Storage)),
    ("external_user", Left(Reporting)),
    ("foreign_key_checks", By([Some("'OFF'"), None])),
    ("generated_random_password_length", Left(Unused)),
    ("global_connection_memory_tracking", Left(Reporting)),
    ("group_concat_max_len", Left(Unused)),
    ("group_replication_consistency", Left(Bounds)),
    ("gtid_domain_id", Left(Binlog)),
    ("gtid_next", Left(Binlog)),
    ("gtid_owned", Left(Binlog)),
    ("gtid_seq_no", Left(Binlog)),
    ("histogram_generation_max_mem_size", Left(Speed)),
    ("histogram_size", Left(Speed)),
    ("histogram_type", Left(Speed)),
    ("identity", Left(Unused)),
    ("idle_readonly_transaction_timeout", Pinned("0")),
    (
        "idle_transaction_timeout",
        Left(Elsewhere(
            "60 s in the applier, an hour while it loads rows",
        )),
    ),
    ("idle_write_transaction_timeout", Pinned("0")),
    ("immediate_server_version", Left(Binlog)),
    ("in_predicate_conversion_threshold", Left(Speed)),
    ("in_transaction", Left(Reporting)),
    ("information_schema_stats_expiry", Left(Speed)),
    ("innodb_compression_default", Left(Storage)),
    ("innodb_ddl_buffer_size", Left(Speed)),
    ("innodb_ddl_threads", Left(Speed)),
    ("innodb_default_encryption_key_id", Left(Storage)),
    ("innodb_ft_enable_stopword", Left(Storage)),
    ("innodb_ft_user_stopword_table", Left(Storage)),
    ("innodb_lock_wait_timeout", By([Some("10"), None])),
    ("innodb_parallel_read_threads", Left(Speed)),
    ("innodb_snapshot_isolation", Left(Bounds)),
    ("innodb_strict_mode", By([Some("'ON'"), None])),
    ("innodb_table_locks", Left(Bounds)),
    ("innodb_tmpdir", Left(Storage)),
    ("insert_id", Left(Unused)),
    ("interactive_timeout", Left(Bounds)),
    ("internal_tmp_mem_storage_engine", Left(Speed)),
    ("join_buffer_size", Left(Speed)),
    ("join_buffer_space_limit", Left(Speed)),
    ("join_cache_level", Left(Speed)),
    ("keep_files_on_create", Left(Storage)),
    ("last_gtid", Left(Reporting)),
    ("last_insert_id", Left(Unused)),
    ("lc_messages", Pinned("'en_US'")),
    ("lc_time_names", Pinned("'en_US'")),
    ("lock_wait_timeout", By([Some("10"), None])),
    ("log_disabled_statements", Left(Reporting)),
    ("log_queries_not_using_indexes", Left(Reporting)),
    ("log_slow_admin_statements", Left(Reporting)),
    ("log_slow_disabled_statements", Left(Reporting)),
    ("log_slow_filter", Left(Reporting)),
    ("log_slow_max_warnings", Left(Reporting)),
    ("log_slow_min_examined_row_limit", Left(Reporting)),
    ("log_slow_query", Left(Reporting)),
    ("log_slow_query_time", Left(Reporting)),
    ("log_slow_rate_limit", Left(Reporting)),
    ("log_slow_slave_statements", Left(Reporting)),
    ("log_slow_verbosity", Left(Reporting)),
    ("log_warnings", Left(Reporting)),
    ("long_query_time", Left(Reporting)),
    ("low_priority_updates", Left(Speed)),
    (
        "max_allowed_packet",
        Left(Elsewhere("read, and rows are held against it")),
    ),
    ("max_delayed_threads", Left(Unused)),
    ("max_error_count", Pinned("65535")),
    ("max_execution_time", Pinned("0")),
    ("max_heap_table_size", Left(Speed)),
    ("max_insert_delayed_threads", Left(Unused)),
    ("max_join_size", Left(Bounds)),
    ("max_length_for_sort_data", Left(Speed)),
    ("max_points_in_geometry", Left(Bounds)),
    ("max_recursive_iterations", Left(Bounds)),
    ("max_relay_log_size", Left(Binlog)),
    ("max_rowid_filter_size", Left(Speed)),
    ("max_seeks_for_key", Left(Speed)),
    ("max_session_mem_used", Left(Bounds)),
    ("max_sort_length", Left(Unused)),
    ("max_sp_recursion_depth", Left(Bounds)),
    ("max_statement_time", Pinned("0")),
    ("max_tmp_tables", Left(Unused)),
    ("max_user_connections", Left(Bounds)),
    ("min_examined_row_limit", Left(Reporting)),
    ("mrr_buffer_size", Left(Speed)),
    ("myisam_repair_threads", Left(Speed)),
    ("myisam_sort_buffer_size", Left(Speed)),
    ("myisam_stats_method", Left(Speed)),
    ("net_buffer_length", Left(Speed)),
    ("net_read_timeout", Pinned("60")),
    ("net_retry_count", Left(Bounds)),
    ("net_write_timeout", By([Some("60"), Some("3600")])),
    ("note_verbosity", By([Some("'basic'"), None])),
    ("old", Left(Unused)),
    ("old_alter_table", Left(Bounds)),
    ("old_mode", Pinned("'UTF8_IS_UTF8MB3'")),
    ("old_passwords", Left(Unused)),
    ("optimizer_adjust_secondary_key_costs", Left(Speed)),
    ("optimizer_extra_pruning_depth", Left(Speed)),
    ("optimizer_join_limit_pref_ratio", Left(Speed)),
    ("optimizer_max_sel_arg_weight", Left(Speed)),
    ("optimizer_max_sel_args", Left(Speed)),
    ("optimizer_max_subgraph_pairs", Left(Speed)),
    ("optimizer_prune_level", Left(Speed)),
    ("optimizer_search_depth", Left(Speed)),
    ("optimizer_selectivity_sampling_limit", Left(Speed)),
    ("optimizer_switch", Left(Speed)),
    ("optimizer_trace", Left(Reporting)),
    ("optimizer_trace_features", Left(Reporting)),
    ("optimizer_trace_limit", Left(Reporting)),
    ("optimizer_trace_max_mem_size", Left(Reporting)),
    ("optimizer_trace_offset", Left(Reporting)),
    ("optimizer_use_condition_selectivity", Left(Speed)),
    ("original_commit_timestamp", Left(Binlog)),
    ("original_server_version", Left(Binlog)),
    ("parser_max_mem_size", Left(Bounds)),
    ("preload_buffer_size", Left(Speed)),
    ("print_identified_with_as_hex", Left(Reporting)),
    ("profiling", Left(Reporting)),
    ("profiling_history_size", Left(Reporting)),
    ("progress_report_time", Left(Reporting)),
    ("proxy_user", Left(Reporting)),
    ("pseudo_replica_mode", Left(Unused)),
    ("pseudo_slave_mode", Left(Unused)),
    ("pseudo_thread_id", Left(Unused)),
    ("query_alloc_block_size", Left(Speed)),
    ("query_cache_strip_comments", Left(Speed)),
    ("query_cache_type", Left(Speed)),
    ("query_cache_wlock_invalidate", Left(Speed)),
    ("query_prealloc_size", Left(Speed)),
    ("rand_seed1", Left(Unused)),
    ("rand_seed2", Left(Unused)),
    ("range_alloc_block_size", Left(Speed)),
    ("range_optimizer_max_mem_size", Left(Bounds)),
    ("rbr_exec_mode", Left(Unused)),
    ("read_buffer_size", Left(Speed)),
    ("read_rnd_buffer_size", Left(Speed)),
    ("require_row_format", Left(Unused)),
    ("restrict_fk_on_non_standard_key", Left(Bounds)),
    ("resultset_metadata", Left(Unused)),
    ("rowid_merge_buff_size", Left(Speed)),
    ("secondary_engine_cost_threshold", Left(Speed)),
    ("select_into_buffer_size", Left(Speed)),
    ("select_into_disk_sync", Left(Unused)),
    ("select_into_disk_sync_delay", Left(Unused)),
    ("server_id", Left(Binlog)),
    ("session_track_gtids", Left(Reporting)),
    ("session_track_schema", Left(Reporting)),
    ("session_track_state_change", Left(Reporting)),
    ("session_track_system_variables", Left(Reporting)),
    ("session_track_transaction_info", Left(Reporting)),
    ("set_operations_buffer_size", Left(Speed)),
    ("show_create_table_skip_secondary_engine", Left(Reporting)),
    ("show_create_table_verbosity", Left(Reporting)),
    (
        "show_gipk_in_create_table_and_information_schema",
        Left(Reporting),
    ),
    ("show_old_temporals", Left(Reporting)),
    ("skip_parallel_replication", Left(Binlog)),
    ("skip_replication", Left(Binlog)),
    ("slow_query_log", Left(Reporting)),
    ("sort_buffer_size", Left(Speed)),
    ("sql_auto_is_null", Pinned("'OFF'")),
    ("sql_big_selects", Pinned("'ON'")),
    ("sql_buffer_result", Left(Speed)),
    ("sql_generate_invisible_primary_key", Left(Storage)),
    ("sql_if_exists", By([Some("'OFF'"), None])),
    ("sql_log_bin", Left(Binlog)),
    ("sql_log_off", Left(Reporting)),
    (
        "sql_mode",
        By([
            Some(
                "'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO,ERROR_FOR_DIVISION_BY_ZERO'",
            ),
            Some("''"),
        ]),
    ),
    ("sql_notes", Pinned("'ON'")),
    ("sql_quote_show_create", Pinned("'ON'")),
    ("sql_require_primary_key", Left(Bounds)),
    ("sql_safe_updates", Pinned("'OFF'")),
    ("sql_select_limit", Pinned("18446744073709551615")),
    ("sql_slave_skip_counter", Left(Unused)),
    ("sql_warnings", Left(Reporting)),
    ("standard_compliant_cte", Left(Unused)),
    ("statement_id", Left(Reporting)),
    (
        "storage_engine",
        Left(Elsewhere("another name of `default_storage_engine`")),
    ),
    ("system_versioning_alter_history", Left(Bounds)),
    ("system_versioning_asof", Pinned("DEFAULT")),
    (
        "system_versioning_insert_history",
        By([Some("'OFF'"), None]),
    ),
    ("tcp_nodelay", Left(Speed)),
    ("terminology_use_previous", Left(Reporting)),
    ("thread_pool_priority", Left(Speed)),
    ("time_zone", Pinned("'+00:00'")),
    ("timestamp", Pinned("DEFAULT")),
    ("tmp_disk_table_size", Left(Speed)),
    ("tmp_memory_table_size", Left(Speed)),
    ("tmp_table_size", Left(Speed)),
    ("transaction_alloc_block_size", Left(Speed)),
    ("transaction_allow_batching", Left(Unused)),
    (
        "transaction_isolation",
        Left(Elsewhere(
            "`SET SESSION TRANSACTION`: READ COMMITTED writes, REPEATABLE READ reads",
        )),
    ),
    ("transaction_prealloc_size", Left(Speed)),
    (
        "transaction_read_only",
        Left(Elsewhere(
            "`SET SESSION TRANSACTION READ WRITE`, or of the transaction",
        )),
    ),
    (
        "tx_isolation",
        Left(Elsewhere(
            "`SET SESSION TRANSACTION`: READ COMMITTED writes, REPEATABLE READ reads",
        )),
    ),
    (
        "tx_read_only",
        Left(Elsewhere(
            "`SET SESSION TRANSACTION READ WRITE`, or of the transaction",
        )),
    ),
    ("unique_checks", By([Some("'ON'"), None])),
    ("updatable_views_with_limit", Left(Bounds)),
    ("use_secondary_engine", Left(Unused)),
    ("use_stat_tables", Left(Speed)),
    ("wait_timeout", Pinned("28800")),
    ("warning_count", Left(Reporting)),
    ("windowing_use_high_precision", Left(Unused)),
    ("wsrep_causal_reads", Left(Bounds)),
    ("wsrep_dirty_reads", Pinned("'OFF'")),
    ("wsrep_gtid_seq_no", Left(Binlog)),
    ("wsrep_on", Left(Binlog)),
    ("wsrep_osu_method", Left(Bounds)),
    ("wsrep_retry_autocommit", Left(Bounds)),
    ("wsrep_sync_wait", Left(Bounds)),
    ("wsrep_trx_fragment_size", Left(Bounds)),
    ("wsrep_trx_fragment_unit", Left(Bounds)),
    ("xa_detach_on_prepare", Left(Unused)),
];

/// What is made of a setting; none when nobody has judged it.
pub fn judged(name: &str) -> Option<Judged> {
    let found = SETTINGS.iter().find(|(known, _)| *known == name);
    found.map(|(_, judged)| *judged)
}

/// The value a session of this kind has; none where it is left as it is.
pub fn value(judged: Judged, session: Session) -> Option<&'static str> {
    match judged {
        Pinned(value) => Some(value),
        By([applier, reader]) => match session {
            Session::Applier => applier,
            Session::Reader => reader,
        },
        Left(_) => None,
    }
}

/// What comes first: the names asked for below are to be found, all of them.
const FIRST: &str = "SET SESSION sql_select_limit = 18446744073709551615, sql_mode = ''";

/// Gives a session its settings: those that the server has, where it has another value. Some may be
/// changed by privileged accounts only.
///
/// # Errors
/// What the server reports; beside it the assignments that it refused, if it was they.
pub async fn pin(conn: &mut Conn, session: Session) -> Result<(), (Error, String)> {
    let plain = |error| (error, String::new());
    conn.query_drop("SET NAMES utf8mb4").await.map_err(plain)?;
    conn.query_drop(FIRST).await.map_err(plain)?;
    let wanted: Vec<(&str, &str)> = SETTINGS
        .iter()
        .filter_map(|(name, judged)| Some((*name, value(*judged, session)?)))
        .collect();
    let names: Vec<String> = wanted.iter().map(|(name, _)| format!("'{name}'")).collect();
    let ask = format!(
        "SHOW SESSION VARIABLES WHERE Variable_name IN ({})",
        names.join(", ")
    );
    let present: Vec<(String, String)> = conn.query(ask).await.map_err(plain)?;
    let present: HashMap<String, String> = present.into_iter().collect();
    let assignments: Vec<String> = wanted
        .iter()
        .filter(|(name, value)| present.get(*name).is_some_and(|found| !is(found, value)))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if assignments.is_empty() {
        return Ok(());
    }
    let assignments = assignments.join(", ");
    let set = conn.query_drop(format!("SET SESSION {assignments}")).await;
    set.map_err(|error| (error, assignments))
}

/// Whether a value as the server shows it is that of an expression.
fn is(found: &str, expression: &str) -> bool {
    found.eq_ignore_ascii_case(expression.trim_matches('\''))
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
    fn values_are_compared_as_the_server_shows_them() {
        assert!(is("utc", "'UTC'") && is("10", "10") && is("", "''"));
        assert!(!is("OFF", "'ON'"));
    }
}
