//! Wire types of the admin API (version 1) and a small async client for it.
//!
//! The API is HTTP/1.1 with JSON bodies over the daemon's Unix socket, so `curl --unix-socket` works
//! as well as this client. This crate holds no daemon code: it is the contract between the daemon,
//! `replctl` and scripts.
//!
//! Conventions of the wire format:
//! * field names are snake_case and stable within one API version; fields may be added, never renamed
//!   or given another meaning, so readers ignore what they do not know;
//! * instants are `*_ms`: milliseconds since the Unix epoch, UTC; durations are `*_ms` too and their
//!   documentation says so; sizes are bytes; rates are per second;
//! * a value that is not known (yet) is `null`, never a made-up zero.

mod attention;
mod client;
mod error;
mod log;
mod request;
#[macro_use]
mod status;
mod mode;
mod promotion;
mod time;
mod validate;

pub use client::{Client, ClientError};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub use log::{LogInfo, LogQuery, SegmentInfo, TableChanges, TransactionInfo};
pub use mode::{
    MemberStatus, MinReplicas, ModeProblem, ModeRequest, ModeState, ModeStatus, WaitDone,
    WaitRequest,
};
pub use promotion::{
    LedgerInfo, LedgerPage, Ledgers, Loss, PromoteRequest, PromotionInfo, PromotionState,
    PromotionStep, Promotions, Readiness, ReadinessFinding,
};
pub use request::{
    ActionDone, Endpoint, Health, Index, ReplicaVerb, ResyncRequest, SkipRequest, SlotDropRequest,
};
pub use status::{
    Activity, CopyProgress, Directive, ErrorInfo, ErrorKind, FailedTransaction, FailoverStatus,
    IngestState, LogStatus, Membership, Mode, PrimaryState, PrimaryStatus, ReplicaStatus, Status,
    TableCopyProgress, TableCopyState, TableState, TableStatus,
};
pub use time::format_utc;
pub use validate::{
    DifferenceKind, RepairReport, ReplicaValidation, RowDifference, TableValidation, Validated,
    Validation, ValidationProgress, ValidationRequest, ValidationState, Verdict,
};

/// The version of the API described by this crate: the first path segment of every endpoint.
pub const API_VERSION: &str = "v1";

/// The header that carries a group's name: in a request, the group it is meant for, and a daemon of
/// another one refuses it; in every answer of a daemon, its own.
pub const GROUP_HEADER: &str = "x-repl-group";

/// Largest request body the daemon accepts, in bytes.
pub const MAX_REQUEST_BODY: usize = 64 * 1024;

/// Transactions listed by `GET /v1/log` when the request names no limit.
pub const DEFAULT_LOG_LIMIT: u32 = 20;

/// Most transactions one `GET /v1/log` lists.
pub const MAX_LOG_LIMIT: u32 = 1000;
