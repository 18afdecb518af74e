//! Request bodies and error answers.

use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use repl_api::{ErrorBody, ErrorCode, MAX_REQUEST_BODY};
use serde::de::DeserializeOwned;

use super::{ControlError, Limits};

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

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

/// How long a request's body may take to arrive; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyTimeout(pub(super) Duration);

/// The whole body of a request, bounded in size and time. The content type is not looked at, so that
/// `curl -d` works without a header.
pub(super) struct RequestBody(Bytes);

impl<S: Send + Sync> FromRequest<S> for RequestBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        // A declared length is believed at once; an undeclared one is counted while it arrives.
        if request.body().size_hint().lower() > MAX_REQUEST_BODY as u64 {
            return Err(too_large());
        }
        let limit = match request.extensions().get::<BodyTimeout>() {
            Some(timeout) => timeout.0,
            None => Limits::default().body_timeout,
        };
        let read = tokio::time::timeout(limit, Bytes::from_request(request, state));
        match read.await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(too_large())
            }
            Ok(Err(rejection)) => Err(Failure::new(
                ErrorCode::BadRequest,
                format!("the request body cannot be read: {}", rejection.body_text()),
                "",
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
        serde_json::from_slice(text).map_err(|error| {
            Failure::new(
                ErrorCode::BadRequest,
                format!("the request body is not what this endpoint takes: {error}"),
                format!("send {expected}"),
            )
        })
    }
}
