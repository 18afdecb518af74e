//! The seam between the admin API and the daemon's host.

use async_trait::async_trait;
use repl_api::{
    ActionDone, ErrorCode, LedgerPage, Ledgers, LogInfo, LogQuery, ModeRequest, PromoteRequest,
    Promotions, Readiness, ResyncRequest, SkipRequest, Status, Validation, ValidationRequest,
    WaitDone, WaitRequest,
};

/// Why an operation was refused or failed: a code (it fixes the HTTP status), what happened and why,
/// and what to do.
pub type ControlError = repl_api::ApiError;

/// Who ordered an operation, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// Effective user id of the peer when it connected.
    pub uid: u32,
    /// Effective group id of the peer when it connected.
    pub gid: u32,
    /// Process id of the peer when it connected, where the kernel gives it.
    pub pid: Option<i32>,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "uid {} (pid {pid})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What the admin API can ask of the daemon.
///
/// Mutating methods return when the change is durable; long work (a resync) is ordered, not awaited, and
/// shows in the status. They may be called concurrently and repeatedly: the implementation serialises
/// them per target, and ordering what is already so succeeds. They are never cancelled half-way: the
/// API runs them to their end even when the client has gone.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// The group's name; confirmations are compared with it.
    fn group(&self) -> String;

    /// The state of the whole group. Must not wait for a database.
    async fn status(&self) -> Result<Status, ControlError>;

    /// The log's range, segments and the transactions asked for. The implementation bounds how much of
    /// the log it reads for one request and says so in [`LogInfo::truncated`].
    async fn log_info(&self, query: &LogQuery) -> Result<LogInfo, ControlError>;

    /// Stops applying to `replica`; its backlog waits in the log.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when its state cannot be paused.
    async fn pause(&self, replica: &str, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Continues a paused `replica`.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when it is not paused, or needs a resync.
    async fn resume(&self, replica: &str, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Tries the failed transaction of `replica` again, now.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when nothing has failed.
    async fn retry(&self, replica: &str, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Leaves the failed transaction `skip.seq` out of `replica`, which becomes `diverged`.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when `skip.seq` is not the transaction the replica
    /// is held by.
    async fn skip(
        &self,
        replica: &str,
        skip: &SkipRequest,
        actor: &Actor,
    ) -> Result<ActionDone, ControlError>;

    /// Brings the tables of `replica` to what the primary holds.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica or table; `Conflict` when it is disabled, or single tables are
    /// asked for and its state does not allow it.
    async fn resync(
        &self,
        replica: &str,
        request: &ResyncRequest,
        actor: &Actor,
    ) -> Result<ActionDone, ControlError>;

    /// Has `replica`, a former primary whose place was taken by force, join whatever it holds.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when it is no such.
    async fn rejoin(&self, replica: &str, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Drops the daemon's slot and publication on the primary. The confirmation has been checked.
    ///
    /// # Errors
    /// `Conflict` when the engine has no slot; `Unavailable` when the primary cannot be reached.
    async fn drop_slot(&self, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Asks for another mode.
    ///
    /// # Errors
    /// `Conflict` when the guarantee cannot be given by this group.
    async fn mode(&self, request: &ModeRequest, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Waits until a commit is on replicas, or the request's own timeout has passed.
    ///
    /// # Errors
    /// `BadRequest` when it can never be; `Unavailable` when the primary cannot be asked.
    async fn wait(&self, request: &WaitRequest) -> Result<WaitDone, ControlError>;

    /// Whether a replica could become the primary now, and what that would mean. Changes nothing.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica; `Conflict` when its engine cannot; `Unavailable` when a node
    /// cannot be asked.
    async fn check_promotion(&self, request: &PromoteRequest) -> Result<Readiness, ControlError>;

    /// Makes a replica the primary; returns when that has begun.
    ///
    /// # Errors
    /// As [`Control::check_promotion`], and `Conflict` when something speaks against it or another
    /// promotion is under way.
    async fn promote(
        &self,
        request: &PromoteRequest,
        actor: &Actor,
    ) -> Result<ActionDone, ControlError>;

    /// The promotion under way, and those before.
    async fn promotions(&self) -> Result<Promotions, ControlError>;

    /// What former primaries had committed that the log never saw.
    async fn ledgers(&self) -> Result<Ledgers, ControlError>;

    /// Some lines of one of them, from line `from` on.
    ///
    /// # Errors
    /// `NotFound` when there is no such.
    async fn ledger(&self, id: &str, from: u64) -> Result<LedgerPage, ControlError>;

    /// Starts comparing replicas with the primary; nothing is changed but that a diverged replica which
    /// turns out to be equal is diverged no more.
    ///
    /// # Errors
    /// `NotFound` for an unknown replica or table; `Conflict` while another one is under way.
    async fn validate(&self, request: &ValidationRequest) -> Result<Validation, ControlError>;

    /// How a comparison stands; `latest` is the last one begun.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more).
    async fn validation(&self, id: &str) -> Result<Validation, ControlError>;

    /// Ends a comparison.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more); `Conflict` when it has ended.
    async fn cancel_validation(&self, id: &str, actor: &Actor) -> Result<ActionDone, ControlError>;

    /// Repairs the rows that a deep comparison found to differ, and compares their tables again; returns
    /// when that has ended.
    ///
    /// # Errors
    /// `NotFound` when it is not known (any more); `Conflict` when there is nothing to repair.
    async fn repair(&self, id: &str, actor: &Actor) -> Result<ActionDone, ControlError>;
}

/// The error for a replica that the configuration does not name.
pub fn unknown_replica(name: &str, status: &Status) -> ControlError {
    let names: Vec<&str> = status
        .replicas
        .iter()
        .map(|replica| replica.name.as_str())
        .collect();
    ControlError::new(
        ErrorCode::NotFound,
        format!(
            "there is no replica called {name:?} in group {:?}",
            status.group
        ),
        format!("use one of: {}", names.join(", ")),
    )
}
