//! The uniform error body of every failed request.

use serde::{Deserialize, Serialize};

/// What kind of failure a request met; fixes the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed: bad JSON, an unknown field, a parameter out of range (400).
    BadRequest,
    /// The peer may not use the API, or not this verb (403).
    Forbidden,
    /// No such endpoint, replica or transaction (404).
    NotFound,
    /// The path exists but not for this HTTP method (405).
    MethodNotAllowed,
    /// The client was too slow to send its request (408).
    RequestTimeout,
    /// The present state does not allow it, e.g. resuming a replica that needs a resync (409).
    Conflict,
    /// A destructive verb came without its confirmation, or with a wrong one (422).
    ConfirmationRequired,
    /// The body exceeds [`crate::MAX_REQUEST_BODY`] (413).
    TooLarge,
    /// The request is meant for another group than this daemon's (421).
    WrongGroup,
    /// The daemon, or a part of it, cannot serve the request now; try again later (503).
    Unavailable,
    /// The operation is still running; its outcome will be in the status and the audit log (504).
    Timeout,
    /// A defect or an unexpected failure inside the daemon (500).
    Internal,
    /// A code this build does not know: the daemon is newer.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that carries this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::WrongGroup => 421,
            Self::ConfirmationRequired => 422,
            Self::Internal | Self::Unknown => 500,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// A refused or failed request, as an operator reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The kind of failure, for scripts.
    pub code: ErrorCode,
    /// What happened and why.
    pub message: String,
    /// What to do next: an exact command where there is one; empty when nothing can be advised.
    #[serde(default)]
    pub advice: String,
}

impl ApiError {
    /// An error of `code` that says what happened and what to do about it.
    pub fn new(code: ErrorCode, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            advice: advice.into(),
        }
    }
}

/// The JSON document of a failed request: `{"error": {"code", "message", "advice"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}
