//! Checks of the primary's settings and privileges, its slot and its publication.
//!
//! All of this goes over an ordinary connection that writes with `synchronous_commit=local`: the
//! daemon must never wait for its own acknowledgement.

use std::collections::{BTreeMap, BTreeSet};

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use super::catalog_error::from_sqlx;
use super::lsn::Lsn;
use super::settings::{self, Session};
use super::standby::StandbyNames;
use super::target::PgTarget;
use crate::seam::{ConnectorError, Result};

/// Lowest server version supported.
const MIN_VERSION: i32 = 140_000;

/// How long adding a table to the publication may hold up its writers, milliseconds.
const LOCK_WAIT_MS: u32 = 300;

/// SQLSTATE of a lock that could not be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// An administrative connection to the primary.
pub struct Admin {
    /// The connection.
    pub connection: PgConnection,
    /// Server version, e.g. 150018.
    pub version: i32,
    pub(super) slot: String,
    publication: String,
}

/// What the server says of our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Everything before this was acknowledged as flushed.
    pub confirmed: Lsn,
    /// Process that streams from it, if any.
    pub active_pid: Option<i32>,
    /// Bytes of WAL kept for it.
    pub retained_bytes: i64,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
}

/// Where the server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPosition {
    /// System identifier and database, which together name the history.
    pub system: String,
    /// What [`INSTANCE`] says.
    pub instance: String,
    /// Timeline.
    pub timeline: String,
    /// End of the flushed WAL.
    pub flushed: Lsn,
}

/// Tells the running server and the database from all others: when it was started, its port, the
/// database. The system identifier does not, which copied files share.
pub(super) const INSTANCE: &str = "SELECT \
    extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text || '/' || \
    pg_catalog.current_setting('port') || '/' || d.oid::text \
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

impl Admin {
    /// Name of the publication.
    pub(super) fn publication(&self) -> &str {
        &self.publication
    }

    /// Connects and pins the session's settings.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn connect(target: &PgTarget, slot: &str, publication: &str) -> Result<Admin> {
        // Some are meant to wait for long, and what is wrong is told by errors.
        let options = target.sqlx_options().disable_statement_logging();
        let connecting = PgConnection::connect_with(&options);
        let mut connection = tokio::time::timeout(target.connect_timeout, connecting)
            .await
            .map_err(|_| {
                ConnectorError::new(
                    ErrorKind::Connection,
                    format!(
                        "no answer from {} within {} s",
                        target,
                        target.connect_timeout.as_secs()
                    ),
                )
            })?
            .map_err(|e| from_sqlx(&e, &format!("connecting to {}", target)).connecting())?;
        let prepare = settings::statements(Session::Admin).join("; ");
        connection
            .execute(AssertSqlSafe(prepare))
            .await
            .map_err(|e| from_sqlx(&e, "preparing the administrative session"))
            .map_err(settings::explain)?;
        let version: i32 = scalar(
            &mut connection,
            "SELECT current_setting('server_version_num')::int4",
        )
        .await?;
        Ok(Admin {
            connection,
            version,
            slot: slot.to_owned(),
            publication: publication.to_owned(),
        })
    }

    /// Refuses a server that cannot be captured from, with the statement that mends it.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] or [`ErrorKind::Privilege`].
    pub async fn preflight(&mut self) -> Result<()> {
        if self.version < MIN_VERSION {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "the primary runs PostgreSQL {}; 14 or later is needed",
                    self.version / 10_000
                ),
            )
            .advice("upgrade the primary"));
        }
        let row = self
            .connection
            .fetch_one(
                "SELECT current_setting('wal_level') AS wal_level,
                        current_setting('max_replication_slots')::int4 AS slots,
                        current_setting('max_wal_senders')::int4 AS senders,
                        pg_is_in_recovery() AS standby, current_user::text AS role,
                        (SELECT rolreplication OR rolsuper FROM pg_roles
                          WHERE rolname = current_user) AS may_replicate,
                        current_setting('server_encoding') AS encoding",
            )
            .await
            .map_err(|e| from_sqlx(&e, "reading the primary's settings"))?;
        let get = |e: sqlx::Error| from_sqlx(&e, "reading the primary's settings");
        let wal_level: String = row.try_get("wal_level").map_err(get)?;
        if wal_level != "logical" {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!("the server has wal_level = {wal_level}; logical decoding needs logical"),
            )
            .advice("run: ALTER SYSTEM SET wal_level = 'logical';  and restart that server"));
        }
        if row.try_get("standby").map_err(get)? {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                "the primary node is a physical standby (pg_is_in_recovery() is true)",
            )
            .advice("point the primary's url at the writable server"));
        }
        let role: String = row.try_get("role").map_err(get)?;
        if !row
            .try_get::<Option<bool>, _>("may_replicate")
            .map_err(get)?
            .unwrap_or(false)
        {
            return Err(ConnectorError::new(
                ErrorKind::Privilege,
                format!("role {role} may not start replication on the server"),
            )
            .advice(format!(
                "run: ALTER ROLE {} REPLICATION;",
                quote_identifier(&role)
            )));
        }
        for (setting, column) in [
            ("max_replication_slots", "slots"),
            ("max_wal_senders", "senders"),
        ] {
            if row.try_get::<i32, _>(column).map_err(get)? == 0 {
                return Err(ConnectorError::new(
                    ErrorKind::Configuration,
                    format!("the server has {setting} = 0"),
                )
                .advice(format!(
                    "run: ALTER SYSTEM SET {setting} = 10;  and restart that server"
                )));
            }
        }
        Ok(())
    }

    /// Where the server stands now.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn position(&mut self) -> Result<ServerPosition> {
        let row = self
            .connection
            .fetch_one(
                "SELECT s.system_identifier::text || '/' || d.oid::text AS system,
                        c.timeline_id::text AS timeline, pg_current_wal_flush_lsn()::text AS flushed
                   FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d
                  WHERE d.datname = current_database()",
            )
            .await
            .map_err(|e| from_sqlx(&e, "asking the primary for its position"))?;
        let text = |name: &str| -> Result<String> {
            row.try_get(name)
                .map_err(|e| from_sqlx(&e, "asking the primary for its position"))
        };
        Ok(ServerPosition {
            system: text("system")?,
            instance: scalar(&mut self.connection, INSTANCE).await?,
            timeline: text("timeline")?,
            flushed: lsn(&text("flushed")?)?,
        })
    }

    /// The end of the WAL, flushed or not.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn insert_position(&mut self) -> Result<Lsn> {
        let text: String = scalar(
            &mut self.connection,
            "SELECT pg_current_wal_insert_lsn()::text",
        )
        .await?;
        lsn(&text)
    }

    /// Our slot, if it is there.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] when a slot of our name belongs to something else.
    pub async fn slot(&mut self) -> Result<Option<Slot>> {
        let row = sqlx::query(
            "SELECT slot_type::text AS slot_type, coalesce(plugin::text, '') AS plugin,
                    coalesce(database::text, '') AS database, current_database()::text AS here,
                    coalesce(confirmed_flush_lsn, '0/0')::text AS confirmed, active_pid::int4,
                    coalesce(wal_status, 'lost') AS wal_status,
                    coalesce(pg_current_wal_lsn() - restart_lsn, 0)::int8 AS retained
               FROM pg_replication_slots WHERE slot_name = $1",
        )
        .bind(&self.slot)
        .fetch_optional(&mut self.connection)
        .await
        .map_err(|e| from_sqlx(&e, "reading the replication slot"))?;
        let Some(row) = row else { return Ok(None) };
        let read = |e: sqlx::Error| from_sqlx(&e, "reading the replication slot");
        let text = |name: &str| row.try_get::<String, _>(name).map_err(read);
        if text("slot_type")? != "logical"
            || text("plugin")? != "pgoutput"
            || text("database")? != text("here")?
        {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "replication slot {} exists but is not a pgoutput slot of this database",
                    self.slot
                ),
            )
            .advice("choose another capture.slot_name, or drop that slot if nothing uses it"));
        }
        Ok(Some(Slot {
            confirmed: lsn(&text("confirmed")?)?,
            active_pid: row.try_get("active_pid").map_err(read)?,
            retained_bytes: row.try_get("retained").map_err(read)?,
            wal_status: text("wal_status")?,
        }))
    }

    /// Whether commits wait for the standby `name`. A setting that is not understood counts as if
    /// they did.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn commits_wait_for(&mut self, name: &str) -> Result<bool> {
        let names: String = scalar(
            &mut self.connection,
            "SELECT current_setting('synchronous_standby_names')",
        )
        .await?;
        Ok(StandbyNames::parse(&names).is_none_or(|names| names.names(name)))
    }

    /// Drops the slot if it is there; returns whether it was.
    ///
    /// # Errors
    /// When it is in use or the role may not.
    pub async fn drop_slot(&mut self) -> Result<bool> {
        if self.slot().await?.is_none() {
            return Ok(false);
        }
        sqlx::query("SELECT pg_drop_replication_slot($1)")
            .bind(&self.slot)
            .execute(&mut self.connection)
            .await
            .map_err(|e| from_sqlx(&e, "dropping the replication slot"))?;
        Ok(true)
    }

    /// Drops the publication if it is there; returns whether it was.
    ///
    /// # Errors
    /// When the role may not.
    pub async fn drop_publication(&mut self) -> Result<bool> {
        let there = self.published().await?.is_some();
        let sql = format!(
            "DROP PUBLICATION IF EXISTS {}",
            quote_identifier(&self.publication)
        );
        self.run(sql, "dropping the publication").await?;
        Ok(there)
    }

    /// Makes the publication where there is none, refuses one that would lose changes, and returns the
    /// tables it holds. With `manage` false it is only checked.
    ///
    /// # Errors
    /// With the exact statement to run, when the role may not or must not change it.
    pub async fn prepare_publication(&mut self, manage: bool) -> Result<BTreeSet<TableName>> {
        let name = quote_identifier(&self.publication);
        let published = match self.published().await? {
            Some(published) => published,
            None => {
                self.change_publication(format!("CREATE PUBLICATION {name}"), manage)
                    .await?;
                BTreeSet::new()
            }
        };
        self.check_publication().await?;
        Ok(published)
    }

    /// Makes the publication, which holds `published`, hold exactly `wanted`; returns the tables it could
    /// not add, each with why: it is being written to, or the role may not. One table must not hold up the
    /// others. With `manage` false nothing is changed.
    ///
    /// Once a slot exists (`slot_exists`) a table is added under a lock that waits, briefly, for
    /// its writers: a transaction that wrote to it before would otherwise be in no stream, and yet
    /// be invisible to the snapshot the table is copied from. A slot made afterwards waits for all
    /// running transactions by itself.
    ///
    /// # Errors
    /// With the exact statement to run, when the role may not or must not change it.
    pub async fn fill_publication(
        &mut self,
        wanted: &BTreeSet<TableName>,
        published: &BTreeSet<TableName>,
        manage: bool,
        slot_exists: bool,
    ) -> Result<BTreeMap<TableName, ConnectorError>> {
        let name = quote_identifier(&self.publication);
        let mut left_out = BTreeMap::new();
        for table in wanted.difference(published) {
            match self.publish(table, manage, slot_exists).await {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::Connection => return Err(error),
                Err(error) => {
                    left_out.insert(table.clone(), error);
                }
            }
        }
        let extra: BTreeSet<TableName> = published.difference(wanted).cloned().collect();
        // What a publication holds beyond the selection does no harm when it is not ours to change.
        if !extra.is_empty() && manage {
            let sql = format!("ALTER PUBLICATION {name} DROP TABLE {}", list(&extra));
            self.change_publication(sql, manage).await?;
        }
        Ok(left_out)
    }

    /// Adds one table.
    async fn publish(&mut self, table: &TableName, manage: bool, lock: bool) -> Result<()> {
        let add = format!(
            "ALTER PUBLICATION {} ADD TABLE ONLY {}",
            quote_identifier(&self.publication),
            table.quoted()
        );
        let sql = if lock {
            format!(
                "BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'; LOCK TABLE ONLY {} IN SHARE ROW \
                 EXCLUSIVE MODE; {add}; COMMIT",
                table.quoted()
            )
        } else {
            add
        };
        let result = self.change_publication(sql, manage).await;
        if let (Err(error), true, true) = (&result, lock, manage) {
            self.run("ROLLBACK".into(), "ending a failed change")
                .await?;
            if error.code.as_deref() == Some(LOCK_NOT_AVAILABLE) {
                return Err(ConnectorError::new(
                    ErrorKind::Transient,
                    "new: waiting for a moment without writers to add it to the publication",
                )
                .advice("end the long transactions that write to it"));
            }
        }
        result
    }

    async fn change_publication(&mut self, sql: String, manage: bool) -> Result<()> {
        let advice = format!("as the tables' owner or a superuser, run: {sql};");
        if !manage {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "publication {} does not cover the selection and capture.manage_publication is \
                     false",
                    self.publication
                ),
            )
            .advice(advice));
        }
        self.run(sql, "changing the publication")
            .await
            .map_err(|mut error| {
                if error.kind == ErrorKind::Privilege {
                    error.advice = advice;
                }
                error
            })
    }

    pub(super) async fn published(&mut self) -> Result<Option<BTreeSet<TableName>>> {
        let read = |e: sqlx::Error| from_sqlx(&e, "reading the publication");
        let there = sqlx::query("SELECT 1 FROM pg_publication WHERE pubname = $1")
            .bind(&self.publication)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(read)?;
        if there.is_none() {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT n.nspname::text AS schema, c.relname::text AS name
               FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
               JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE p.pubname = $1",
        )
        .bind(&self.publication)
        .fetch_all(&mut self.connection)
        .await
        .map_err(read)?;
        rows.iter()
            .map(|row| {
                Ok(TableName::new(
                    row.try_get::<String, _>("schema")?,
                    row.try_get::<String, _>("name")?,
                ))
            })
            .collect::<sqlx::Result<_>>()
            .map(Some)
            .map_err(read)
    }

    /// Writes a heartbeat into the WAL, so that an idle set of tables does not pin it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn heartbeat(&mut self) -> Result<()> {
        self.connection
            .execute("SELECT pg_logical_emit_message(false, 'repl-daemon', 'heartbeat')")
            .await
            .map(drop)
            .map_err(|e| from_sqlx(&e, "writing a heartbeat"))
    }

    /// [`Admin::heartbeat`], flushed when it returns, but for standbys. A message by itself is
    /// flushed, and so decoded, when the server's WAL writer next comes round; a transaction with an
    /// id is when it commits.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn prompt_heartbeat(&mut self) -> Result<()> {
        self.connection
            .execute(
                "SELECT set_config('synchronous_commit', 'local', true), pg_current_xact_id(), \
                 pg_logical_emit_message(false, 'repl-daemon', 'heartbeat')",
            )
            .await
            .map(drop)
            .map_err(|e| from_sqlx(&e, "writing a heartbeat"))
    }

    async fn run(&mut self, sql: String, doing: &str) -> Result<()> {
        self.connection
            .execute(AssertSqlSafe(sql))
            .await
            .map(drop)
            .map_err(|e| from_sqlx(&e, doing))
    }
}

async fn scalar<T>(connection: &mut PgConnection, sql: &'static str) -> Result<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(sql)
        .fetch_one(connection)
        .await
        .map_err(|e| from_sqlx(&e, "asking the primary"))
}

fn lsn(text: &str) -> Result<Lsn> {
    Lsn::parse(text).ok_or_else(|| {
        ConnectorError::new(
            ErrorKind::Internal,
            format!("the server sent `{text}` as an LSN"),
        )
    })
}

/// Each by itself: a bare name means the tables that inherit from it too.
fn list(tables: &BTreeSet<TableName>) -> String {
    tables
        .iter()
        .map(|table| format!("ONLY {}", table.quoted()))
        .collect::<Vec<_>>()
        .join(", ")
}
