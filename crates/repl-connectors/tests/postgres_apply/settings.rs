//! Settings of sessions: every one of the server is judged, and those that matter are as we want them
//! whatever a database says.

use repl_connectors::postgres::admin::Admin;
use repl_connectors::postgres::settings::{self, Judged, SETTINGS, Session};
use repl_connectors::postgres::wire::PgClient;
use sqlx::Row;

use crate::server;

/// What a session can have, by the server's own list.
const LIST: &str = "SELECT name, vartype, context, coalesce(enumvals[1], ''), \
    coalesce(enumvals[2], ''), coalesce(min_val, ''), coalesce(max_val, '') FROM pg_settings \
    WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend') ORDER BY name";

#[tokio::test]
async fn every_setting_of_the_server_is_judged() {
    let mut client = server::shared().client("postgres").await;
    let found = client.simple(LIST).await.unwrap();
    assert!(found.len() > 150, "{} settings", found.len());
    let unjudged: Vec<String> = found
        .into_iter()
        .filter_map(|row| row[0].clone())
        .filter(|name| settings::judged(name).is_none())
        .collect();
    assert!(
        unjudged.is_empty(),
        "nobody has judged whether these can change what a session reads, writes, renders or names \
         (postgres/settings.rs): {unjudged:?}"
    );
}

/// Another value than the wanted one, which the server accepts as a default of a database.
fn hostile(name: &str, kind: &str, wanted: &str, row: &[Option<String>]) -> Option<String> {
    let field = |at: usize| row[at].clone().unwrap_or_default();
    let text = match name {
        "client_encoding" => "LATIN1",
        "DateStyle" => "SQL, DMY",
        "TimeZone" => "Asia/Kathmandu",
        "timezone_abbreviations" => "India",
        "search_path" => "app, public",
        "restrict_nonsystem_relation_kind" => "view",
        "lc_monetary" | "lc_numeric" | "lc_time" => "C.UTF-8",
        // Connections would not live to be asked.
        "tcp_user_timeout" => "12345",
        "idle_session_timeout" | "transaction_timeout" | "statement_timeout" => "60000",
        "idle_in_transaction_session_timeout" | "lock_timeout" => "54321",
        "tcp_keepalives_idle" | "tcp_keepalives_interval" | "tcp_keepalives_count" => "7",
        _ => "",
    };
    if !text.is_empty() {
        return Some(text.to_owned());
    }
    Some(match kind {
        "bool" if wanted == "on" => "off".into(),
        "bool" => "on".into(),
        "enum" if field(3) == wanted => field(4),
        "enum" => field(3),
        "integer" if field(6) == wanted => field(5),
        "integer" => field(6),
        _ => return None,
    })
}

/// Names and values of the settings that a kind of session gives itself, as the server shows them.
async fn wanted(session: Session) -> Vec<(&'static str, String)> {
    let mut client = server::shared().client("postgres").await;
    let mut wanted = Vec::new();
    for (name, judged) in SETTINGS {
        let Some(value) = settings::value(*judged, session) else {
            continue;
        };
        let sql = format!(
            "SELECT set_config('{name}', '{value}', false) \
             WHERE current_setting('{name}', true) IS NOT NULL"
        );
        let rows = client.simple(&sql).await.unwrap();
        if let Some(shown) = rows.first().and_then(|row| row[0].clone()) {
            wanted.push((*name, shown));
        }
    }
    wanted
}

async fn shown(client: &mut PgClient, name: &str) -> String {
    let sql = format!("SELECT current_setting('{name}')");
    let rows = client.simple(&sql).await.unwrap();
    rows[0][0].clone().unwrap_or_default()
}

/// A database all of whose defaults are what no session of ours may have.
async fn hostile_database() -> String {
    let server = server::shared();
    let database = server.database().await;
    let mut client = server.client("postgres").await;
    let rows = client.simple(LIST).await.unwrap();
    for (name, judged) in SETTINGS {
        let wanted = Session::ALL
            .iter()
            .find_map(|s| settings::value(*judged, *s));
        let row = rows.iter().find(|row| row[0].as_deref() == Some(*name));
        let (Some(wanted), Some(row)) = (wanted, row) else {
            continue;
        };
        let kind = row[1].clone().unwrap_or_default();
        let value = hostile(name, &kind, wanted, row)
            .unwrap_or_else(|| panic!("{name} needs a hostile value for this test"));
        let sql = format!("ALTER DATABASE {database} SET {name} = '{value}'");
        let lists = [
            "search_path",
            "DateStyle",
            "restrict_nonsystem_relation_kind",
        ];
        let sql = match lists.contains(name) {
            true => format!("ALTER DATABASE {database} SET {name} = {value}"),
            false => sql,
        };
        client.simple(&sql).await.unwrap();
    }
    database
}

#[tokio::test]
async fn a_database_changes_no_session_of_ours() {
    let server = server::shared();
    let database = hostile_database().await;
    let target = server.target(&database);

    let mut plain = PgClient::connect(&target, &[]).await.unwrap();
    assert_eq!(shown(&mut plain, "array_nulls").await, "off");

    for session in [Session::Reader, Session::Applier] {
        let mut client = settings::connect(&target, session).await.unwrap();
        for (name, value) in wanted(session).await {
            assert_eq!(
                shown(&mut client, name).await,
                value,
                "{name} of {session:?}"
            );
        }
    }

    let mut stream = PgClient::connect(&target, &[("replication", "database")])
        .await
        .unwrap();
    settings::pin(&mut stream, Session::Stream).await.unwrap();
    for (name, value) in wanted(Session::Stream).await {
        assert_eq!(
            shown(&mut stream, name).await,
            value,
            "{name} of the stream"
        );
    }

    let mut admin = Admin::connect(&target, "", "").await.unwrap();
    for (name, value) in wanted(Session::Admin).await {
        let sql = "SELECT current_setting($1)";
        let row = sqlx::query(sql).bind(name).fetch_one(&mut admin.connection);
        let shown: String = row.await.unwrap().get(0);
        assert_eq!(shown, value, "{name} of an administrative session");
    }
}

/// Who may not switch off what makes damaged pages look good is refused, with what to do.
#[tokio::test]
async fn a_session_that_would_take_damage_for_data_is_refused() {
    let server = server::shared();
    let database = server.database().await;
    let mut client = server.client(&database).await;
    client
        .simple(
            "DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN; \
             ALTER ROLE plain SET zero_damaged_pages = on",
        )
        .await
        .unwrap();
    let mut target = server.target(&database);
    target.user = "plain".into();
    for session in Session::ALL {
        let Err(error) = settings::connect(&target, session).await else {
            panic!("{session:?} was let in");
        };
        assert!(error.message.contains("zero_damaged_pages"), "{error}");
        assert!(error.advice.contains("RESET"), "{}", error.advice);
    }
    assert!(Admin::connect(&target, "", "").await.is_err());
    client
        .simple("ALTER ROLE plain RESET zero_damaged_pages")
        .await
        .unwrap();
    settings::connect(&target, Session::Reader).await.unwrap();
    assert!(matches!(
        settings::judged("zero_damaged_pages"),
        Some(Judged::Required("off"))
    ));
}
