//! Role checks for load balancers, proxies and scripts: read-only HTTP over TCP, without accounts.
//!
//! `GET /primary?node=NAME` answers 200 while that node is the primary and takes writes, else 503;
//! without `node`, 200 with the primary's name while there is one. `GET /replica?node=NAME` answers
//! 200 while that node is a replica that streams, `&lag=5s` while it also lags by no more; without
//! `node`, 200 with the names of all such. The body is JSON either way, and names no secrets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use repl_api::{Membership, PromotionState, ReplicaStatus, Status};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use super::Control;
use super::seats::{Seat, Seats};

/// Connections held at the same time; for one more, the oldest that is still sending its request or not
/// reading its answer makes room.
const MAX_CONNECTIONS: usize = 256;

/// How long a connection may last, a request and its answer included.
const LIFETIME: Duration = Duration::from_secs(5);

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// A bound listener.
pub struct RoleServer {
    listener: TcpListener,
}

impl RoleServer {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<RoleServer> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve role checks on api.listen = {address}"))?;
        Ok(RoleServer { listener })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not tell it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes.
    pub async fn serve(self, control: Arc<dyn Control>, shutdown: impl Future<Output = ()>) {
        let router = Router::new()
            .route("/primary", get(primary))
            .route("/replica", get(replica))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(from_fn(seated))
            .with_state(control);
        if let Ok(address) = self.address() {
            info!(%address, "role checks ready");
        }
        let mut seats = Seats::new(MAX_CONNECTIONS);
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::select! {
                        () = &mut shutdown => return,
                        () = seats.free() => {}
                    }
                    seats.take(|seat| connection(stream, router.clone(), seat));
                }
                Err(error) => {
                    warn!(%error, "role checks: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, seat: Arc<Seat>) {
    let router = router.layer(Extension(seat));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFETIME)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = tokio::time::timeout(LIFETIME, served).await {
        debug!(%error, "role checks: connection ended early");
    }
}

/// Answers a request, whose head is complete.
async fn seated(Extension(seat): Extension<Arc<Seat>>, request: Request, next: Next) -> Response {
    if !seat.received() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let response = next.run(request).await;
    seat.answered();
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    node: Option<String>,
    lag: Option<String>,
}

fn answer(yes: bool, body: Value) -> Response {
    let code = match yes {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(body)).into_response()
}

async fn primary(State(control): State<Arc<dyn Control>>, Query(asked): Query<Asked>) -> Response {
    let Ok(status) = control.status().await else {
        return answer(false, json!({"error": "the daemon does not know"}));
    };
    let name = writable(&status);
    let yes = name.is_some_and(|name| asked.node.is_none_or(|node| node == name));
    answer(yes, json!({"primary": name, "epoch": status.epoch}))
}

/// The node that takes writes; none while roles change.
fn writable(status: &Status) -> Option<&str> {
    let failover = status.failover.as_ref();
    if failover.is_some_and(|failover| failover.doubted) {
        return None;
    }
    let primary = Some(status.primary.name.as_str());
    let Some(promotion) = &status.promotion else {
        return primary;
    };
    let step = promotion.step.as_deref().unwrap_or_default();
    match (promotion.state, step) {
        // Between the point of no return and the start of what depends on the roles.
        (PromotionState::Running, "retire") => Some(promotion.to.as_str()),
        (PromotionState::Running, "prepare") if promotion.cause == "planned" => primary,
        (PromotionState::Running, _) | (PromotionState::RollingBack, "reopen") => None,
        _ => primary,
    }
}

async fn replica(State(control): State<Arc<dyn Control>>, Query(asked): Query<Asked>) -> Response {
    let lag = asked.lag.as_deref().map(milliseconds);
    let lag = match lag {
        Some(None) => {
            let wrong = json!({"error": "write lag as in lag=500ms or lag=5s"});
            return (StatusCode::BAD_REQUEST, Json(wrong)).into_response();
        }
        Some(lag) => lag,
        None => None,
    };
    let Ok(status) = control.status().await else {
        return answer(false, json!({"error": "the daemon does not know"}));
    };
    // That the primary cannot be asked is no reason to take its readers away as well.
    let lags = |one: &ReplicaStatus| match one.queue_transactions {
        0 => Some(0),
        _ => one.lag_ms,
    };
    let serves = |one: &&ReplicaStatus| {
        one.enabled
            && one.membership == Membership::Streaming
            && lag.is_none_or(|most| lags(one).is_some_and(|lag| lag <= most))
            && asked.node.as_ref().is_none_or(|node| *node == one.name)
    };
    let names: Vec<&str> = status
        .replicas
        .iter()
        .filter(serves)
        .map(|one| one.name.as_str())
        .collect();
    answer(
        !names.is_empty(),
        json!({"replicas": names, "epoch": status.epoch}),
    )
}

/// `500ms`, `5s`, or seconds.
fn milliseconds(text: &str) -> Option<u64> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok();
    }
    let seconds: u64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    seconds.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags() {
        assert_eq!(milliseconds("500ms"), Some(500));
        assert_eq!(milliseconds("5s"), Some(5000));
        assert_eq!(milliseconds("5"), Some(5000));
        for wrong in ["", "s", "ms", "-1s", "1m", "99999999999999999999"] {
            assert_eq!(milliseconds(wrong), None, "{wrong}");
        }
    }
}
