//! Refusing writes.
//!
//! Every replicated table has a trigger that fires before each INSERT, UPDATE, DELETE and TRUNCATE, in
//! whatever replication role a session is (`ENABLE ALWAYS`). Its function refuses, or, opened, does
//! nothing: to open, the function alone is replaced, for which no lock on a table is waited for.
//!
//! Closing takes a lock on every table that conflicts with writers. A writer holds its own until its
//! transaction has ended, prepared or waiting for standbys included; so once all locks are held, and
//! the trigger is there when they are let go, nothing that was accepted is still under way.
//!
//! The lock is waited for in short attempts: what queues behind it waits no longer than one, and a
//! deadlock is left before the server has to choose a victim.
//!
//! Against whom it holds: every role, the tables' owners and superusers included, unless they disable
//! the trigger, replace its function, or set both `session_replication_role` (which takes a privilege)
//! and `repl.applier`, by which the daemon's own sessions are known.

use std::time::Duration;

use repl_core::ErrorKind;
use repl_core::schema::{TableName, quote_identifier};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::time::Instant;

use super::findings::rules_in_the_way;
use crate::postgres::admin::Admin;
use crate::postgres::catalog_error::from_sqlx;
use crate::seam::{ConnectorError, Result};

/// Longest wait for locks in one attempt, milliseconds; less than `deadlock_timeout`.
const ATTEMPT_MS: u32 = 400;

/// Pause between attempts, in which those that queued get through.
const PAUSE: Duration = Duration::from_millis(100);

/// SQLSTATE of a lock that could not be had in time, and of a deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

/// The tables given, and those they are partitions or children of: a statement fires the triggers of
/// the table it names.
const TABLES: &str = "
    WITH RECURSIVE given AS (
      SELECT c.oid FROM unnest($1::text[], $2::text[]) AS t(schema, name)
        JOIN pg_namespace n ON n.nspname = t.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
      UNION
      SELECT i.inhparent FROM given g JOIN pg_inherits i ON i.inhrelid = g.oid
        JOIN pg_class p ON p.oid = i.inhparent AND p.relkind IN ('r', 'p'))
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
           EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = $3
                      AND t.tgfoid = to_regproc($4)::oid) AS there,
           EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = $3
                      AND t.tgfoid = to_regproc($4)::oid AND t.tgenabled = 'A') AS always
      FROM given g JOIN pg_class c ON c.oid = g.oid JOIN pg_namespace n ON n.oid = c.relnamespace
     ORDER BY c.oid";

/// The fence of one group.
pub(super) struct Fence {
    group: String,
    /// Qualified name of the function; the trigger is called the same.
    function: String,
    trigger: String,
}

/// A table, and what of the fence it has.
struct Guarded {
    name: String,
    there: bool,
    always: bool,
}

impl Fence {
    pub(super) fn new(group: &str) -> Fence {
        let trigger = format!("write_fence_{group}");
        Fence {
            group: group.to_owned(),
            function: format!("repl.{}", quote_identifier(&trigger)),
            trigger,
        }
    }

    /// Has the tables refuse writes. Returns what could not be done beside that.
    pub(super) async fn close(
        &self,
        admin: &mut Admin,
        tables: &[TableName],
        patience: Duration,
    ) -> Result<Vec<String>> {
        self.close_tables(admin, tables, patience).await?;
        Ok(self
            .set_read_only(admin, true)
            .await
            .err()
            .into_iter()
            .collect())
    }

    async fn close_tables(
        &self,
        admin: &mut Admin,
        tables: &[TableName],
        patience: Duration,
    ) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let error = match self.attempt(&mut admin.connection, tables).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let rolled_back = admin.connection.execute("ROLLBACK").await;
            rolled_back.map_err(|e| from_sqlx(&e, "leaving an attempt to refuse writes"))?;
            let locked = error.code.as_deref().is_some_and(|c| LOCKED.contains(&c));
            if !locked {
                return Err(error);
            }
            if Instant::now() >= until {
                return Err(self.in_the_way(admin, tables, patience).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// [`Fence::close`] for a server that nobody is to use any more: clients are sent away first, and
    /// again while they hold locks. What a commit that waits for standbys holds goes with its session.
    pub(super) async fn depose(
        &self,
        admin: &mut Admin,
        tables: &[TableName],
        patience: Duration,
    ) -> Result<Vec<String>> {
        let until = Instant::now() + patience;
        let first = self.set_read_only(admin, true).await.err();
        loop {
            let left = self.end_sessions(admin).await?;
            match self.close_tables(admin, tables, Duration::ZERO).await {
                Ok(()) => return Ok(first.into_iter().chain(left).collect()),
                Err(error) if error.kind == ErrorKind::Transient && Instant::now() < until => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, connection: &mut PgConnection, tables: &[TableName]) -> Result<()> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "refusing writes");
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = '{ATTEMPT_MS}ms'; \
             DO $$ BEGIN IF pg_catalog.to_regnamespace('repl') IS NULL THEN \
             CREATE SCHEMA repl; END IF; END $$; {}",
            self.definition(true)
        );
        connection
            .execute(AssertSqlSafe(begin))
            .await
            .map_err(doing)?;
        let found = self.tables(connection, tables).await?;
        if found.is_empty() {
            connection.execute("COMMIT").await.map_err(doing)?;
            return Ok(());
        }
        let names: Vec<&str> = found.iter().map(|table| table.name.as_str()).collect();
        let mut work = format!(
            "LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE; ",
            names.join(", ONLY ")
        );
        let trigger = quote_identifier(&self.trigger);
        for Guarded {
            name,
            there,
            always,
        } in &found
        {
            if !there {
                work.push_str(&format!(
                    "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON \
                     {name} FOR EACH STATEMENT EXECUTE FUNCTION {}(); ",
                    self.function
                ));
            }
            if !always {
                work.push_str(&format!(
                    "ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {trigger}; "
                ));
            }
        }
        work.push_str("COMMIT");
        let done = connection.execute(AssertSqlSafe(work)).await;
        done.map(drop).map_err(doing)
    }

    async fn tables(
        &self,
        connection: &mut PgConnection,
        tables: &[TableName],
    ) -> Result<Vec<Guarded>> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "looking at the tables to be fenced");
        let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        let rows = sqlx::query(TABLES)
            .bind(schemas)
            .bind(names)
            .bind(&self.trigger)
            .bind(&self.function)
            .fetch_all(connection)
            .await
            .map_err(doing)?;
        rows.iter()
            .map(|row| {
                Ok(Guarded {
                    name: row.try_get("name")?,
                    there: row.try_get("there")?,
                    always: row.try_get("always")?,
                })
            })
            .collect::<sqlx::Result<_>>()
            .map_err(doing)
    }

    /// The statement that makes the function, closed or opened. Its code is that of a read-only
    /// server, which drivers and pools know.
    fn definition(&self, closed: bool) -> String {
        let refuse = format!(
            "IF pg_catalog.current_setting('session_replication_role') = 'replica' AND \
             pg_catalog.current_setting('repl.applier', true) = 'on' THEN RETURN NULL; END IF; \
             RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'writes are refused: this server is \
             not the primary of replication group {}', HINT = 'Connect to the primary; replctl \
             topology shows which it is.'; ",
            self.group
        );
        format!(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS \
             $fence$ BEGIN {}RETURN NULL; END $fence$",
            self.function,
            if closed { refuse.as_str() } else { "" }
        )
    }

    /// Whether the tables refuse writes.
    pub(super) async fn is_closed(&self, admin: &mut Admin, tables: &[TableName]) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pg_proc WHERE oid = to_regproc($1)::oid \
                   AND prosrc LIKE '%RAISE EXCEPTION%')";
        let closed: bool = sqlx::query_scalar(sql)
            .bind(&self.function)
            .fetch_one(&mut admin.connection)
            .await
            .map_err(|e| from_sqlx(&e, "looking whether writes are refused"))?;
        let guarded = self.tables(&mut admin.connection, tables).await?;
        Ok(closed && guarded.iter().all(|table| table.always))
    }

    /// Tries to write to every table, without a row to be written: all must refuse.
    pub(super) async fn probe(&self, admin: &mut Admin, tables: &[TableName]) -> Result<()> {
        let guarded = self.tables(&mut admin.connection, tables).await?;
        let names: Vec<String> = guarded.into_iter().map(|table| table.name).collect();
        let Some(trial) = names.first() else {
            return Ok(());
        };
        let doing = |e: sqlx::Error| from_sqlx(&e, "verifying that writes are refused");
        let one = admin
            .connection
            .execute(AssertSqlSafe(format!(
                "BEGIN READ WRITE; DELETE FROM ONLY {trial} WHERE false; ROLLBACK"
            )))
            .await;
        let refused =
            matches!(&one, Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("25006"));
        let left = admin.connection.execute("ROLLBACK").await;
        left.map_err(doing)?;
        if !refused {
            one.map_err(doing)?;
            return Err(not_refused(&mut admin.connection, trial).await);
        }
        // All others in one go; what a statement would do is taken back by its own subtransaction.
        let sql = "SELECT pg_catalog.set_config('repl.probed', $1, false)";
        let list = names.join("\n");
        let set = sqlx::query(sql).bind(list);
        set.execute(&mut admin.connection).await.map_err(doing)?;
        let all = "DO $$ DECLARE t text; BEGIN \
            FOREACH t IN ARRAY pg_catalog.string_to_array(pg_catalog.current_setting('repl.probed'), E'\\n') LOOP \
            BEGIN EXECUTE 'DELETE FROM ONLY ' || t || ' WHERE false'; \
            RAISE EXCEPTION USING ERRCODE = 'RPW01', MESSAGE = t; \
            EXCEPTION WHEN SQLSTATE '25006' THEN NULL; END; END LOOP; END $$";
        match admin.connection.execute(all).await {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("RPW01") => {
                let table = e.message().to_owned();
                Err(not_refused(&mut admin.connection, &table).await)
            }
            Err(error) => Err(doing(error)),
        }
    }

    /// Ends the clients' sessions in this database: they are to find the new primary. Returns what
    /// could not be done.
    pub(super) async fn end_sessions(&self, admin: &mut Admin) -> Result<Vec<String>> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid() \
                   AND application_name NOT LIKE 'repl-daemon%'";
        let doing = |e: sqlx::Error| from_sqlx(&e, "ending the clients' sessions");
        let pids: Vec<i32> = sqlx::query_scalar(sql)
            .fetch_all(&mut admin.connection)
            .await
            .map_err(doing)?;
        let mut left = Vec::new();
        for pid in pids {
            let ended = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
            if let Err(error) = ended.execute(&mut admin.connection).await {
                let error = doing(error);
                if error.kind == ErrorKind::Connection {
                    return Err(error);
                }
                left.push(format!("session {pid} was not ended: {}", error.message));
            }
        }
        Ok(left)
    }

    /// Prepared transactions can be committed at any time, past every fence.
    pub(super) async fn refuse_prepared(&self, admin: &mut Admin) -> Result<()> {
        let prepared = prepared(&mut admin.connection).await?;
        if prepared.is_empty() {
            return Ok(());
        }
        Err(ConnectorError::new(
            ErrorKind::Configuration,
            format!("prepared transactions are left: {}", prepared.join(", ")),
        )
        .advice("end each by COMMIT PREPARED or ROLLBACK PREPARED, then try again"))
    }

    /// Takes writes again. Sessions from the time before that are read-only by default are ended.
    pub(super) async fn open(&self, admin: &mut Admin) -> Result<()> {
        let doing = |e: sqlx::Error| from_sqlx(&e, "taking writes again");
        let there: bool = sqlx::query_scalar("SELECT to_regproc($1) IS NOT NULL")
            .bind(&self.function)
            .fetch_one(&mut admin.connection)
            .await
            .map_err(doing)?;
        if there {
            let open = AssertSqlSafe(self.definition(false));
            admin.connection.execute(open).await.map_err(doing)?;
        }
        if !self.is_read_only(admin).await? {
            return Ok(());
        }
        self.set_read_only(admin, false)
            .await
            .map_err(|note| ConnectorError::new(ErrorKind::Privilege, note))?;
        self.end_sessions(admin).await.map(drop)
    }

    async fn is_read_only(&self, admin: &mut Admin) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d \
                   ON d.oid = s.setdatabase WHERE d.datname = current_database() AND s.setrole = 0 \
                   AND 'default_transaction_read_only=on' = ANY(s.setconfig))";
        let read = sqlx::query_scalar(sql).fetch_one(&mut admin.connection);
        read.await
            .map_err(|e| from_sqlx(&e, "reading the database's settings"))
    }

    /// New sessions begin read-only, or as usual: says at once what the trigger says at each write.
    async fn set_read_only(&self, admin: &mut Admin, on: bool) -> std::result::Result<(), String> {
        let change = if on { "SET" } else { "RESET" };
        let value = if on { " = on" } else { "" };
        let sql = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {change} \
             default_transaction_read_only{value}', current_database()); END $$"
        );
        let done = admin.connection.execute(AssertSqlSafe(sql)).await;
        done.map(drop).map_err(|error| {
            let error = from_sqlx(&error, "setting default_transaction_read_only");
            format!(
                "{} (the daemon's role is not the database's owner)",
                error.message
            )
        })
    }

    /// Who holds the locks.
    async fn in_the_way(
        &self,
        admin: &mut Admin,
        tables: &[TableName],
        patience: Duration,
    ) -> ConnectorError {
        let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        let sql = "SELECT DISTINCT CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE \
                   format('session %s (%s, %s, in its transaction for %s s)', a.pid, a.usename, \
                   coalesce(nullif(a.application_name, ''), 'unnamed'), \
                   extract(epoch FROM clock_timestamp() - a.xact_start)::int8) END \
                   FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
                   JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
                   JOIN unnest($1::text[], $2::text[]) AS t(schema, name) \
                   ON n.nspname = t.schema AND c.relname = t.name \
                   WHERE l.granted AND l.database = (SELECT oid FROM pg_database \
                   WHERE datname = current_database()) AND l.pid IS DISTINCT FROM pg_backend_pid() \
                   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')";
        let who: Vec<String> = sqlx::query_scalar(sql)
            .bind(schemas)
            .bind(names)
            .fetch_all(&mut admin.connection)
            .await
            .unwrap_or_default();
        let who = match who.as_slice() {
            [] => "transactions that write".to_owned(),
            who => who.join(", "),
        };
        ConnectorError::new(
            ErrorKind::Transient,
            format!(
                "the replicated tables could not be locked within {} s: {who} in the way",
                patience.as_secs()
            ),
        )
        .advice("end them, or wait until they have ended, then try again")
    }
}

/// The prepared transactions of this database, by name.
pub(super) async fn prepared(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT format('%L (%s)', gid, owner) FROM pg_prepared_xacts \
               WHERE database = current_database() ORDER BY prepared";
    sqlx::query_scalar(sql)
        .fetch_all(connection)
        .await
        .map_err(|e| from_sqlx(&e, "looking for prepared transactions"))
}

async fn not_refused(connection: &mut PgConnection, table: &str) -> ConnectorError {
    let rules = rules_in_the_way(connection, table).await;
    let what = format!("a probe write to {table} was not refused");
    let Some(rule) = rules.first() else {
        return ConnectorError::new(ErrorKind::Configuration, what)
            .advice("see whether the trigger write_fence_… of the table was disabled");
    };
    let why =
        format!("{what}: its rule {rule} ON DELETE DO INSTEAD keeps statements from the trigger");
    ConnectorError::new(ErrorKind::Configuration, why).advice(format!(
        "run: ALTER TABLE {table} DISABLE RULE {rule};  then promote again"
    ))
}
