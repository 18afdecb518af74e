//! Settings of sessions: every one of the server is judged, and those that matter are as we want them
//! whatever the server's own are.

use mysql_async::prelude::Queryable;
use repl_connectors::mysql::settings::{self, SETTINGS, Session};

use crate::server;

/// What a session can have, by the server's own list: MariaDB's, else MySQL's.
const LISTS: [&str; 2] = [
    "SELECT LOWER(VARIABLE_NAME) FROM information_schema.SYSTEM_VARIABLES \
     WHERE VARIABLE_SCOPE LIKE 'SESSION%'",
    "SELECT LOWER(VARIABLE_NAME) FROM performance_schema.variables_metadata \
     WHERE VARIABLE_SCOPE <> 'GLOBAL'",
];

#[tokio::test]
async fn every_setting_of_the_server_is_judged() {
    let mut conn = server::shared().client("mysql").await;
    let mut names: Vec<String> = Vec::new();
    for list in LISTS {
        if names.is_empty() {
            names = conn.query(list).await.unwrap_or_default();
        }
    }
    assert!(names.len() > 150, "{} settings", names.len());
    names.retain(|name| settings::judged(name).is_none());
    assert!(
        names.is_empty(),
        "nobody has judged whether these can change what a session reads, writes, renders or refuses \
         (mysql/settings.rs): {names:?}"
    );
}

/// A session that begins with these has, once it is pinned, ours.
const HOSTILE: &[&str] = &[
    "alter_algorithm = 'INSTANT'",
    "completion_type = 'RELEASE'",
    "default_storage_engine = 'MyISAM'",
    "default_week_format = 3",
    "div_precision_increment = 9",
    "explicit_defaults_for_timestamp = 0",
    "lc_messages = 'de_DE'",
    "max_error_count = 0",
    "max_statement_time = 60",
    "max_execution_time = 60000",
    "sql_auto_is_null = 1",
    "sql_big_selects = 0",
    "sql_if_exists = 1",
    "sql_mode = 'NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'",
    "sql_notes = 0",
    "sql_quote_show_create = 0",
    "sql_safe_updates = 1",
    "sql_select_limit = 3",
    "system_versioning_asof = '2001-01-01 00:00:00'",
    "time_zone = '-03:30'",
    "timestamp = 1000000000",
    "check_constraint_checks = 0",
    "character_set_results = 'latin1'",
];

#[tokio::test]
async fn a_server_changes_no_session_of_ours() {
    for session in Session::ALL {
        let mut conn = server::shared().client("mysql").await;
        let before: Vec<(String, String)> = conn.query("SHOW SESSION VARIABLES").await.unwrap();
        for setting in HOSTILE {
            let name = setting.split(' ').next().unwrap();
            if before.iter().any(|(known, _)| known == name) {
                conn.query_drop(format!("SET SESSION {setting}"))
                    .await
                    .unwrap();
            }
        }
        settings::pin(&mut conn, session).await.unwrap();
        let after: Vec<(String, String)> = conn.query("SHOW SESSION VARIABLES").await.unwrap();
        for (name, judged) in SETTINGS {
            let Some(wanted) = settings::value(*judged, session) else {
                continue;
            };
            let Some((_, found)) = after.iter().find(|(known, _)| known == name) else {
                continue;
            };
            let wanted = match (*name, wanted) {
                ("timestamp", _) => {
                    assert!(!found.starts_with("1000000000"), "{found}");
                    continue;
                }
                ("autocommit", "0") => "OFF",
                ("autocommit", _) => "ON",
                (_, wanted) => wanted.trim_matches('\''),
            };
            let same = match found.parse::<f64>() {
                Ok(number) => wanted.parse() == Ok(number),
                Err(_) => found.eq_ignore_ascii_case(wanted),
            };
            // A list of modes is shown in the server's own order.
            let sorted = |list: &str| {
                let mut parts: Vec<String> = list.split(',').map(str::to_uppercase).collect();
                parts.sort();
                parts
            };
            assert!(
                same || sorted(found) == sorted(wanted),
                "{name} of {session:?} is {found}, not {wanted}"
            );
        }
    }
}
