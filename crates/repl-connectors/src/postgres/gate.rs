//! Makes commits of the primary wait for us: we are its synchronous standby.
//!
//! What the server does: a commit waits until the standbys of `synchronous_standby_names` have told
//! a position past it, as received (`synchronous_commit = remote_write`), as flushed (`on`) or as
//! applied (`remote_apply`): all three are told alike while a commit is to be on replicas
//! ([`super::stream`]). The name a standby goes by is the `application_name` of its replication
//! connection.

use async_trait::async_trait;
use repl_core::ErrorKind;
use repl_core::schema::quote_identifier;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::admin::Admin;
use super::catalog_error::from_sqlx;
use super::standby::{Meaning, StandbyNames};
use super::target::PgTarget;
use super::weaker::{self, weaker_commits};
use crate::seam::{CommitGate, ConnectorError, GateProblem, GateReport, Result};

/// How the gate is kept.
#[derive(Clone, Debug)]
pub struct PgGateOptions {
    /// Name of our replication connection.
    pub standby: String,
    /// Whether we may change `synchronous_standby_names`.
    pub manage: bool,
}

/// The gate of one PostgreSQL primary.
pub struct PgGate {
    target: PgTarget,
    options: PgGateOptions,
    /// Held as long as it works: a server whose connections all wait has none left for us.
    connection: Option<PgConnection>,
    /// What `synchronous_commit` was set to where it was last looked at: the session has begun with that.
    settings: Option<weaker::Settings>,
}

impl PgGate {
    /// A gate that is not connected yet.
    pub fn new(target: PgTarget, options: PgGateOptions) -> Self {
        PgGate {
            target,
            options,
            connection: None,
            settings: None,
        }
    }

    async fn connected(&mut self) -> Result<PgConnection> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            // Its session commits with `synchronous_commit = local`.
            None => Ok(Admin::connect(&self.target, "", "").await?.connection),
        }
    }

    /// A session that began with what is set for databases and roles now: what it tells of the server's own
    /// default is hidden by what it began with.
    async fn up_to_date(&mut self) -> Result<(PgConnection, weaker::Settings)> {
        let kept = self.connection.is_some();
        let mut connection = self.connected().await?;
        let settings = weaker::read(&mut connection).await?;
        if kept && self.settings.as_ref() != Some(&settings) {
            connection = self.connected().await?;
        }
        self.settings = Some(settings.clone());
        Ok((connection, settings))
    }

    /// The statement that sets the names.
    fn statement(names: &StandbyNames) -> String {
        let literal = postgres_protocol::escape::escape_literal(&names.to_string());
        format!(
            "ALTER SYSTEM SET synchronous_standby_names = {}",
            literal.trim_start()
        )
    }

    /// What the names should be; none when they are as wanted, or not ours to decide.
    fn wanted_names(&self, wanted: bool, names: &StandbyNames) -> Option<StandbyNames> {
        let own = &self.options.standby;
        match (wanted, names.meaning(own)) {
            (true, Meaning::Nobody | Meaning::Others) => Some(names.with(own)),
            (false, _) if names.names(own) => Some(names.without(own)),
            _ => None,
        }
    }

    async fn look(
        &self,
        connection: &mut PgConnection,
        settings: &weaker::Settings,
        wanted: Option<bool>,
    ) -> Result<GateReport> {
        let mut seen = read(connection, &self.options.standby).await?;
        let mut problems = Vec::new();
        if let (Some(wanted), Some(names)) = (wanted, &seen.names)
            && let Some(change) = self.wanted_names(wanted, names)
        {
            match self.change(connection, &change).await {
                Ok(()) => seen = read(connection, &self.options.standby).await?,
                Err(problem) => problems.push(problem),
            }
        }
        let state = self.judge(&seen, wanted, &mut problems);
        let own = &self.options.standby;
        let named = seen.names.as_ref().is_none_or(|names| names.names(own));
        Ok(GateReport {
            closed: state,
            named,
            problems,
            weaker: weaker_commits(connection, settings).await?,
            waiting: seen.waiting,
            oldest_ms: seen.oldest_ms,
        })
    }

    async fn change(
        &self,
        connection: &mut PgConnection,
        names: &StandbyNames,
    ) -> std::result::Result<(), GateProblem> {
        let statement = Self::statement(names);
        if !self.options.manage {
            return Err(GateProblem {
                what: "synchronous_standby_names is not as the mode needs it, and \
                       replication.manage_standby_names is false"
                    .into(),
                remedy: format!("run on the primary: {statement};  SELECT pg_reload_conf();"),
            });
        }
        match set(connection, &statement).await {
            Ok(()) => {
                tracing::info!(names = %names, "synchronous_standby_names of the primary set");
                Ok(())
            }
            Err(error) => Err(GateProblem {
                what: format!("synchronous_standby_names cannot be set: {error}"),
                remedy: format!(
                    "as a superuser run: {statement};  SELECT pg_reload_conf();  or let the daemon \
                     do it (PostgreSQL 15 or later): GRANT ALTER SYSTEM ON PARAMETER \
                     synchronous_standby_names TO {role};  GRANT EXECUTE ON FUNCTION \
                     pg_reload_conf() TO {role};",
                    role = quote_identifier(&self.target.user)
                ),
            }),
        }
    }

    /// Whether commits wait for us alone or for us in any case; says why not, if they should.
    fn judge(&self, seen: &Seen, wanted: Option<bool>, problems: &mut Vec<GateProblem>) -> bool {
        let own = &self.options.standby;
        let mut problem = |what: String, remedy: String| {
            if wanted == Some(true) {
                problems.push(GateProblem { what, remedy });
            }
            false
        };
        let Some(names) = &seen.names else {
            let what = format!(
                "synchronous_standby_names = {:?} is not understood",
                seen.text
            );
            return problem(what, format!("set it to {own}"));
        };
        match names.meaning(own) {
            Meaning::Us => {}
            // Being changed, or said already why not.
            Meaning::Nobody | Meaning::Others => return false,
            Meaning::Replaceable => {
                let what = format!(
                    "synchronous_standby_names = {:?} lets another standby stand in for the daemon",
                    seen.text
                );
                let remedy = format!(
                    "name {own} alone, or beside others that are all required, such as FIRST 2 \
                     (other, {own}), without *"
                );
                return problem(what, remedy);
            }
        }
        if seen.senders > 1 {
            let what = format!("{} replication connections are called {own}", seen.senders);
            let remedy = "end the other: its acknowledgements would count for ours".to_owned();
            return problem(what, remedy);
        }
        if seen.senders > 0 && seen.state.is_empty() {
            let what = "whether commits wait cannot be seen: the state of standbys is hidden from \
                        the daemon's role";
            let role = quote_identifier(&self.target.user);
            let remedy = format!("as a superuser run: GRANT pg_read_all_stats TO {role};");
            return problem(what.to_owned(), remedy);
        }
        // While the capture is away nothing is acknowledged: commits wait.
        seen.senders == 0 || matches!(seen.state.as_str(), "sync" | "quorum")
    }
}

#[async_trait]
impl CommitGate for PgGate {
    async fn keep(&mut self, wanted: Option<bool>) -> Result<GateReport> {
        let (mut connection, settings) = self.up_to_date().await?;
        let report = self.look(&mut connection, &settings, wanted).await?;
        self.connection = Some(connection);
        Ok(report)
    }

    async fn release(&mut self) -> Result<String> {
        let mut connection = self.connected().await?;
        let seen = read(&mut connection, &self.options.standby).await?;
        let Some(names) = &seen.names else {
            return Err(ConnectorError::new(
                ErrorKind::Configuration,
                format!(
                    "synchronous_standby_names = {:?} is not understood",
                    seen.text
                ),
            )
            .advice(
                "run: ALTER SYSTEM SET synchronous_standby_names = '';  SELECT pg_reload_conf();",
            ));
        };
        if !names.names(&self.options.standby) {
            return Ok(format!(
                "synchronous_standby_names = {:?} does not name the daemon: no commit waits for it",
                seen.text
            ));
        }
        let change = names.without(&self.options.standby);
        let statement = Self::statement(&change);
        set(&mut connection, &statement)
            .await
            .map_err(|e| from_sqlx(&e, "setting synchronous_standby_names"))?;
        Ok(format!(
            "{statement}; {} commits that waited are free",
            seen.waiting
        ))
    }
}

/// Runs an `ALTER SYSTEM` and has the server read it.
async fn set(connection: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await?;
    connection
        .execute("SELECT pg_reload_conf()")
        .await
        .map(drop)
}

/// What the server says.
struct Seen {
    text: String,
    names: Option<StandbyNames>,
    /// Replication connections of our name.
    senders: i64,
    state: String,
    waiting: u64,
    oldest_ms: Option<u64>,
}

async fn read(connection: &mut PgConnection, standby: &str) -> Result<Seen> {
    let doing = |e: sqlx::Error| from_sqlx(&e, "reading the primary's synchronous standbys");
    let row = sqlx::query(
        "SELECT current_setting('synchronous_standby_names') AS names,
                (SELECT count(*) FROM pg_stat_replication
                  WHERE lower(application_name) = lower($1)) AS senders,
                (SELECT coalesce(max(sync_state), '') FROM pg_stat_replication
                  WHERE lower(application_name) = lower($1)) AS state,
                (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep') AS waiting,
                (SELECT (extract(epoch FROM max(clock_timestamp() - query_start)) * 1000)::int8
                   FROM pg_stat_activity WHERE wait_event = 'SyncRep') AS oldest",
    )
    .bind(standby)
    .fetch_one(connection)
    .await
    .map_err(doing)?;
    let text: String = row.try_get("names").map_err(doing)?;
    let waiting: i64 = row.try_get("waiting").map_err(doing)?;
    let oldest: Option<i64> = row.try_get("oldest").map_err(doing)?;
    Ok(Seen {
        names: StandbyNames::parse(&text),
        text,
        senders: row.try_get("senders").map_err(doing)?,
        state: row.try_get("state").map_err(doing)?,
        waiting: waiting.max(0) as u64,
        oldest_ms: oldest.map(|ms| ms.max(0) as u64),
    })
}
