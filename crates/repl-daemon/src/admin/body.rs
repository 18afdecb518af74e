//! Request bodies and error answers.

use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use repl_api::{ErrorBody, ErrorCode, MAX_REQUEST_BODY};
use serde::de::DeserializeOwned;

use super::ControlError;

/// A failed request; becomes the uniform error document with its HTTP status.
#[derive(Debug)]
pub(super) struct Failure(pub(super) ControlError);

impl Failure {
    pub(super) fn new(
        code: ErrorCode,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self(ControlError::new(code, message, advice))
    }
}

/// What can be said where nobody said more.
fn general_advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest | ErrorCode::TooLarge | ErrorCode::RequestTimeout => {
            "GET /v1 lists the endpoints and what they take (docs/API.md)"
        }
        ErrorCode::NotFound | ErrorCode::MethodNotAllowed => {
            "replctl status shows the names; GET /v1 lists the endpoints"
        }
        ErrorCode::Forbidden => "run as root or as the daemon's user, or join the socket's group",
        ErrorCode::WrongGroup => "name the socket of the other group's daemon",
        ErrorCode::ConfirmationRequired => "repeat it with the confirmation that it names",
        ErrorCode::Conflict => "see the present state with: replctl status",
        ErrorCode::Unavailable | ErrorCode::Timeout => {
            "try again; if it stays so, see replctl status and the daemon's log"
        }
        ErrorCode::Internal | ErrorCode::Unknown => "see the daemon's log, and report the message",
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut error = self.0;
        if error.advice.trim().is_empty() {
            general_advice(error.code).clone_into(&mut error.advice);
        }
        (status, Json(ErrorBody { error })).into_response()
    }
}

/// The whole body of a request, bounded in size and time.
pub(super) async fn receive(request: Request, limit: Duration) -> Result<Bytes, Failure> {
    // A declared length is believed at once; an undeclared one is counted while it arrives.
    if request.body().size_hint().lower() > MAX_REQUEST_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(limit, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(too_large())
        }
        Ok(Err(rejection)) => Err(Failure::new(
            ErrorCode::BadRequest,
            format!("the request body cannot be read: {}", rejection.body_text()),
            "send a Content-Length that matches the body, or whole chunks",
        )),
        Err(_) => Err(Failure::new(
            ErrorCode::RequestTimeout,
            format!(
                "the request body was not complete after {} s",
                limit.as_secs_f64()
            ),
            "send the body without pauses, and a Content-Length that matches it",
        )),
    }
}

/// The body of a request that was received. The content type is not looked at, so that `curl -d` works
/// without a header.
pub(super) struct RequestBody(Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state).await;
        bytes.map(Self).map_err(|rejection| {
            Failure::new(
                ErrorCode::BadRequest,
                format!("the request body cannot be read: {}", rejection.body_text()),
                "send JSON; GET /v1 lists the endpoints",
            )
        })
    }
}

fn too_large() -> Failure {
    Failure::new(
        ErrorCode::TooLarge,
        format!("the request body exceeds {MAX_REQUEST_BODY} bytes"),
        "no request of this API needs as much; see GET /v1",
    )
}

impl RequestBody {
    /// Parses the body as JSON; an empty body counts as `{}`. `expected` shows its form in the error.
    pub(super) fn parse<T: DeserializeOwned>(&self, expected: &str) -> Result<T, Failure> {
        let text: &[u8] = if self.0.trim_ascii().is_empty() {
            b"{}"
        } else {
            &self.0
        };
        let refused = |why: &dyn std::fmt::Display| {
            Failure::new(
                ErrorCode::BadRequest,
                format!("the request body is not what this endpoint takes: {why}"),
                format!("send {expected}"),
            )
        };
        // A list would be taken for the fields in their order.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(refused(&"it is no JSON object"));
        }
        serde_json::from_slice(text).map_err(|error| refused(&error))
    }
}
