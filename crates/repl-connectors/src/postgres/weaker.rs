//! Whose commits do not wait for standbys: `synchronous_commit` as the server tells of it.
//!
//! Nothing is acknowledged before it is released, so `on`, `remote_apply` and `remote_write` wait alike;
//! `local` and `off` wait for nobody. What a session sets for itself cannot be seen.

use repl_core::schema::quote_identifier;
use sqlx::{PgConnection, Row};

use super::catalog_error::from_sqlx;
use crate::seam::{Result, WeakerCommits};

/// `synchronous_commit` as it is set somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    /// For this database alone; otherwise in all.
    database: Option<String>,
    /// For this role alone; otherwise for all.
    role: Option<String>,
    value: String,
}

/// What is set for the connection's database and for roles, and what the server does without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    own: bool,
    all: Vec<Set>,
}

/// What is set for the connection's database and for roles.
pub(super) async fn read(connection: &mut PgConnection) -> Result<Settings> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "reading synchronous_commit");
    // Commits of other databases hold nothing that is replicated.
    let rows = sqlx::query(
        "SELECT d.datname::text AS db, coalesce(r.rolname::text, nullif(s.setrole, 0)::text) AS role,
                split_part(c, '=', 2) AS value,
                s.setrole <> 0 AND r.rolname = session_user AS own
           FROM pg_catalog.pg_db_role_setting s
           LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
           LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
           LATERAL unnest(s.setconfig) c
          WHERE lower(split_part(c, '=', 1)) = 'synchronous_commit'
            AND (s.setdatabase = 0 OR d.datname = pg_catalog.current_database())
          ORDER BY db, role",
    )
    .fetch_all(connection)
    .await
    .map_err(doing)?;
    let (mut own, mut all) = (false, Vec::new());
    for row in &rows {
        own |= row.try_get::<Option<bool>, _>("own").map_err(doing)? == Some(true);
        all.push(Set {
            database: row.try_get("db").map_err(doing)?,
            role: row.try_get("role").map_err(doing)?,
            value: row.try_get("value").map_err(doing)?,
        });
    }
    Ok(Settings { own, all })
}

/// Those whose commits wait for nobody, where a session that began with these settings is asked: they, or
/// the server's, are what it would go back to.
pub(super) async fn weaker_commits(
    connection: &mut PgConnection,
    settings: &Settings,
) -> Result<Vec<WeakerCommits>> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "reading synchronous_commit");
    let default = match settings.own {
        // What this session would go back to is its role's, not everybody's.
        true => from_files(connection).await,
        false => sqlx::query(
            "SELECT reset_val::text AS value FROM pg_catalog.pg_settings
              WHERE name = 'synchronous_commit'",
        )
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get("value"))
        .map_err(doing)?,
    };
    Ok(weaker(&settings.all, &default))
}

/// The default in the server's files.
async fn from_files(connection: &mut PgConnection) -> String {
    let sql = "SELECT coalesce((SELECT setting FROM pg_catalog.pg_file_settings
                  WHERE name = 'synchronous_commit' AND error IS NULL
                  ORDER BY seqno DESC LIMIT 1), 'on') AS value";
    let row = sqlx::query(sql).fetch_one(connection).await;
    let value = row.and_then(|row| row.try_get("value"));
    value.unwrap_or_else(|_| NOT_KNOWN.to_owned())
}

/// A default that the daemon may not see.
const NOT_KNOWN: &str = "not known";

fn weaker(all: &[Set], default: &str) -> Vec<WeakerCommits> {
    let mut found: Vec<WeakerCommits> = all
        .iter()
        .filter(|set| !waits(&set.value) && !is_overruled(set, all))
        .map(named)
        .collect();
    let overruled = all.iter().any(|set| set.role.is_none());
    if !overruled && !waits(default) {
        let remedy = match default == NOT_KNOWN {
            true => {
                "the daemon's role has a setting of its own, which hides the server's: ALTER ROLE … RESET \
                     synchronous_commit;  for it, or GRANT SELECT ON pg_file_settings and EXECUTE ON FUNCTION \
                     pg_show_all_file_settings() to it"
            }
            false => "ALTER SYSTEM SET synchronous_commit = 'on';  SELECT pg_reload_conf();",
        };
        found.push(WeakerCommits {
            who: "server default".to_owned(),
            setting: format!("synchronous_commit = {default}"),
            remedy: remedy.to_owned(),
        });
    }
    found
}

/// Whether a commit with this setting waits for standbys. The server takes booleans, too.
fn waits(value: &str) -> bool {
    let waiting = ["on", "remote_apply", "remote_write", "true", "yes", "1"];
    waiting.iter().any(|one| value.eq_ignore_ascii_case(one))
}

/// Whether every session that it is for has another setting that goes before.
fn is_overruled(set: &Set, all: &[Set]) -> bool {
    let here = |one: &Set| one.database.is_some();
    match (&set.database, &set.role) {
        (Some(_), _) => false,
        (None, Some(_)) => all.iter().any(|one| here(one) && one.role == set.role),
        (None, None) => all.iter().any(|one| here(one) && one.role.is_none()),
    }
}

fn named(set: &Set) -> WeakerCommits {
    let (who, statement) = match (&set.database, &set.role) {
        (None, None) => ("all roles".to_owned(), "ALTER ROLE ALL".to_owned()),
        (Some(db), None) => (
            format!("database {db}"),
            format!("ALTER DATABASE {}", quote_identifier(db)),
        ),
        (None, Some(role)) => (
            format!("role {role}"),
            format!("ALTER ROLE {}", quote_identifier(role)),
        ),
        (Some(db), Some(role)) => (
            format!("role {role} in database {db}"),
            format!(
                "ALTER ROLE {} IN DATABASE {}",
                quote_identifier(role),
                quote_identifier(db)
            ),
        ),
    };
    WeakerCommits {
        who,
        setting: format!("synchronous_commit = {}", set.value),
        remedy: format!(
            "{statement} RESET synchronous_commit;  sessions that are connected keep theirs until they end"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(database: &str, role: &str, value: &str) -> Set {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Set {
            database: some(database),
            role: some(role),
            value: value.to_owned(),
        }
    }

    fn who(all: &[Set], default: &str) -> Vec<String> {
        weaker(all, default)
            .into_iter()
            .map(|one| one.who)
            .collect()
    }

    #[test]
    fn only_what_waits_for_standbys_is_not_named_in_whatever_spelling() {
        for value in [
            "on",
            "ON",
            "true",
            "yes",
            "1",
            "remote_apply",
            "remote_write",
        ] {
            assert!(weaker(&[set("", "r", value)], value).is_empty(), "{value}");
        }
        for value in [
            "off", "OFF", "local", "Local", "false", "no", "0", "", "new",
        ] {
            let names = who(&[set("", "r", value)], value);
            assert_eq!(names, ["role r", "server default"], "{value}");
        }
        assert_eq!(who(&[], NOT_KNOWN), ["server default"]);
    }

    #[test]
    fn each_place_it_can_be_set_at_is_named_with_its_statement() {
        let all = [
            set("", "", "off"),
            set("", "a", "off"),
            set("d", "b", "local"),
        ];
        assert_eq!(
            who(&all, "off"),
            ["all roles", "role a", "role b in database d"]
        );
        let remedy = weaker(&all, "off")[2].remedy.clone();
        let statement = r#"ALTER ROLE "b" IN DATABASE "d" RESET synchronous_commit;"#;
        assert!(remedy.starts_with(statement), "{remedy}");
        assert_eq!(who(&[set("d", "", "off")], "on"), ["database d"]);
    }

    #[test]
    fn what_another_setting_goes_before_is_not_named() {
        // Of the database before that of all roles, and before the server's.
        let here = [set("", "", "off"), set("d", "", "on")];
        assert!(weaker(&here, "off").is_empty());
        let role = [set("", "r", "off"), set("d", "r", "on"), set("", "", "on")];
        assert!(weaker(&role, "off").is_empty());
        // Of a role alone it says nothing of the others.
        assert_eq!(who(&[set("d", "r", "on")], "off"), ["server default"]);
        // A role's own goes before its database's.
        let own = [set("d", "", "on"), set("", "r", "off")];
        assert_eq!(who(&own, "on"), ["role r"]);
    }
}
