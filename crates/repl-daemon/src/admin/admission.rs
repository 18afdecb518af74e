//! Admission of requests: a request is complete before anything is done for it, and those that may take
//! long have places of their own, so that quick answers (status, health) are never behind them.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use repl_api::{ErrorCode, GROUP_HEADER};
use tokio::sync::Semaphore;

use super::body::{Failure, receive};
use super::seats::Seat;
use super::{Control, Limits};

/// What admission decides by.
#[derive(Clone)]
pub(super) struct Admission {
    control: Arc<dyn Control>,
    limits: Limits,
    /// A place for each request that may take long.
    long: Arc<Semaphore>,
    /// A place for each reader of files.
    reading: Arc<Semaphore>,
}

/// Requests that read files at the same time; more wait for each other.
const READING: usize = 4;

impl Admission {
    /// All places free.
    pub(super) fn new(control: Arc<dyn Control>, limits: &Limits) -> Self {
        Self {
            control,
            limits: limits.clone(),
            long: Arc::new(Semaphore::new(limits.max_long)),
            reading: Arc::new(Semaphore::new(READING)),
        }
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Answered from memory at once.
    Quick,
    /// Reads files.
    Reading,
    /// Waits for databases, replicas or the log.
    Long,
    /// Changes something: bounded where it is carried out.
    Verb,
}

fn class(method: &Method, path: &str) -> Class {
    let mut parts = path.split('/').skip(2);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    match (method, first, second) {
        (&Method::GET, "log" | "ledgers", _) => Class::Reading,
        (&Method::GET, _, _) => Class::Quick,
        (_, "wait", None) | (_, "validations", None) | (_, "promotions", Some("check")) => {
            Class::Long
        }
        _ => Class::Verb,
    }
}

/// Takes a request in: it is for this group, it is complete, and it has a place.
pub(super) async fn admit(
    State(admission): State<Admission>,
    request: Request,
    next: Next,
) -> Response {
    let group = admission.control.group();
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    let mut response = match admitted(&admission, &group, seat.as_deref(), request, next).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    if let Ok(name) = HeaderValue::from_str(&group) {
        response.headers_mut().insert(GROUP_HEADER, name);
    }
    if let Some(seat) = seat {
        seat.answered();
    }
    response
}

async fn admitted(
    admission: &Admission,
    group: &str,
    seat: Option<&Seat>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    for meant in request.headers().get_all(GROUP_HEADER) {
        if meant.as_bytes() != group.as_bytes() {
            return Err(wrong_group(meant, group));
        }
    }
    let (parts, body) = request.into_parts();
    // A body that no endpoint looks at is not waited for.
    let body = match parts.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => {
            let whole = Request::from_parts(parts.clone(), body);
            receive(whole, admission.limits.body_timeout).await?
        }
    };
    if seat.is_some_and(|seat| !seat.received()) {
        return Err(busy("too many connections are open"));
    }
    let _place = match class(&parts.method, parts.uri.path()) {
        Class::Quick | Class::Verb => None,
        Class::Long => Some(
            Arc::clone(&admission.long)
                .try_acquire_owned()
                .map_err(|_| {
                    let most = admission.limits.max_long;
                    busy(&format!(
                        "{most} requests that wait for something are under way already"
                    ))
                })?,
        ),
        Class::Reading => {
            let place = Arc::clone(&admission.reading).acquire_owned();
            let place = tokio::time::timeout(admission.limits.request_timeout, place).await;
            let place = place.ok().and_then(Result::ok);
            Some(place.ok_or_else(|| busy("others read the log and the ledgers"))?)
        }
    };
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
}

fn busy(what: &str) -> Failure {
    Failure::new(ErrorCode::Unavailable, what, "try again in a moment")
}

fn wrong_group(meant: &HeaderValue, group: &str) -> Failure {
    let meant = String::from_utf8_lossy(meant.as_bytes());
    Failure::new(
        ErrorCode::WrongGroup,
        format!(
            "this is the daemon of group {group:?}, and the request is for {meant:?}: nothing was done"
        ),
        "name the socket of the other group's daemon (api.socket in its configuration)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let get = |path| class(&Method::GET, path);
        for path in [
            "/v1",
            "/v1/status",
            "/v1/health",
            "/v1/replicas/log",
            "/",
            "/log",
            "",
        ] {
            assert_eq!(get(path), Class::Quick, "{path}");
        }
        assert_eq!(get("/v1/log"), Class::Reading);
        assert_eq!(get("/v1/ledgers/x"), Class::Reading);
        let post = |path| class(&Method::POST, path);
        assert_eq!(post("/v1/wait"), Class::Long);
        assert_eq!(post("/v1/validations"), Class::Long);
        assert_eq!(post("/v1/validations/1/repair"), Class::Verb);
        assert_eq!(post("/v1/promotions/check"), Class::Long);
        assert_eq!(post("/v1/promotions"), Class::Verb);
    }
}
