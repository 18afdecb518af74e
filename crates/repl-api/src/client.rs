//! The client: one short HTTP/1.1 exchange per call, over the daemon's Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    ActionDone, ApiError, ErrorBody, GROUP_HEADER, Health, Index, LedgerPage, Ledgers, LogInfo,
    LogQuery, ModeRequest, PromoteRequest, Promotions, Readiness, ReplicaStatus, ReplicaVerb,
    ResyncRequest, SkipRequest, SlotDropRequest, Status, Validation, ValidationRequest, WaitDone,
    WaitRequest,
};

/// Largest answer the client reads, in bytes; a bound against a peer that is not the daemon.
const MAX_RESPONSE_BODY: usize = 64 * 1024 * 1024;

/// Everything but RFC 3986's unreserved characters, so that a name can never change the path.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket, or this user may not connect.
    #[error("cannot connect to the daemon on {socket}: {source}", socket = socket.display())]
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The daemon took the connection but did not answer in time.
    #[error("the daemon on {socket} did not answer within {}s", timeout.as_secs_f64(), socket = socket.display())]
    TimedOut {
        /// The socket that was tried.
        socket: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The daemon refused the request or failed to carry it out.
    #[error("{0}")]
    Refused(ApiError),
    /// Another group's daemon answers on the socket, or one that does not tell its group.
    #[error("the daemon on {socket} is {}, not that of group {expected:?}", whose(found.as_deref()), socket = socket.display())]
    WrongGroup {
        /// The socket that was used.
        socket: PathBuf,
        /// The group that was meant.
        expected: String,
        /// The daemon's own, where it tells it.
        found: Option<String>,
    },
    /// The exchange broke off, or the answer is not one of this API.
    #[error("the answer on {socket} is not understood: {detail}", socket = socket.display())]
    Protocol {
        /// The socket that was used.
        socket: PathBuf,
        /// What was wrong.
        detail: String,
    },
}

impl ClientError {
    /// Whether the daemon could not be reached at all (as opposed to: it answered with an error).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

/// A client of one daemon. Holds no connection; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    group: Option<String>,
}

impl Client {
    /// A client for the daemon listening on the Unix socket `socket`, waiting 35 s for each answer
    /// (somewhat longer than the daemon's own limit on a request).
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: Duration::from_secs(35),
            group: None,
        }
    }

    /// The same client, for the daemon of `group` alone: another group's daemon on the socket carries
    /// out nothing, and its answers are errors.
    pub fn expecting(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The same client, waiting at most `timeout` for each whole exchange.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket this client connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1`: the endpoints.
    pub async fn index(&self) -> Result<Index, ClientError> {
        self.get("/v1").await
    }

    /// `GET /v1/status`: the whole group.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/replicas/{name}`: one replica.
    pub async fn replica(&self, name: &str) -> Result<ReplicaStatus, ClientError> {
        self.get(&format!("/v1/replicas/{}", component(name))).await
    }

    /// `GET /v1/health`: whether something needs attention. Being unhealthy is an answer, not an error.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let (status, body) = self
            .exchange(Method::GET, "/v1/health", Bytes::new())
            .await?;
        match serde_json::from_slice(&body) {
            Ok(health) => Ok(health),
            Err(_) => self.decode(status, &body),
        }
    }

    /// `GET /v1/log`: the range, segments and transactions of the event log.
    pub async fn log(&self, query: &LogQuery) -> Result<LogInfo, ClientError> {
        let mut parameters = Vec::new();
        if let Some(limit) = query.limit {
            parameters.push(format!("limit={limit}"));
        }
        if let Some(table) = &query.table {
            parameters.push(format!("table={}", component(table)));
        }
        if let Some(seq) = query.from_seq {
            parameters.push(format!("from_seq={seq}"));
        }
        let separator = if parameters.is_empty() { "" } else { "?" };
        self.get(&format!("/v1/log{separator}{}", parameters.join("&")))
            .await
    }

    /// `POST /v1/replicas/{name}/pause`: stop applying to the replica.
    pub async fn pause(&self, replica: &str) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Pause, &Empty {}).await
    }

    /// `POST /v1/replicas/{name}/rejoin`: have a former primary join as a replica.
    pub async fn rejoin(&self, replica: &str) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Rejoin, &Empty {}).await
    }

    /// `POST /v1/replicas/{name}/resume`: continue a paused replica.
    pub async fn resume(&self, replica: &str) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Resume, &Empty {}).await
    }

    /// `POST /v1/replicas/{name}/retry`: try the failed transaction again now.
    pub async fn retry(&self, replica: &str) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Retry, &Empty {}).await
    }

    /// `POST /v1/replicas/{name}/skip`: leave the failed transaction out; the replica becomes diverged.
    pub async fn skip(&self, replica: &str, skip: &SkipRequest) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Skip, skip).await
    }

    /// `POST /v1/replicas/{name}/resync`: bring the replica's tables to what the primary holds. Returns
    /// when the resync is durably ordered, not when it is complete.
    pub async fn resync(
        &self,
        replica: &str,
        request: &ResyncRequest,
    ) -> Result<ActionDone, ClientError> {
        self.act(replica, ReplicaVerb::Resync, request).await
    }

    /// `POST /v1/slot/drop`: drop the slot and publication on the primary.
    pub async fn drop_slot(&self, request: &SlotDropRequest) -> Result<ActionDone, ClientError> {
        self.post("/v1/slot/drop", request).await
    }

    /// `POST /v1/mode`: ask for another mode. Returns when the order is durable, not when the mode is
    /// in force.
    pub async fn mode(&self, request: &ModeRequest) -> Result<ActionDone, ClientError> {
        self.post("/v1/mode", request).await
    }

    /// `POST /v1/wait`: wait until a commit is on replicas.
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitDone, ClientError> {
        let patience = self.timeout + Duration::from_millis(request.timeout_ms);
        let client = self.clone().with_timeout(patience);
        client.post("/v1/wait", request).await
    }

    /// `POST /v1/promotions/check`: whether a replica could become the primary.
    pub async fn check_promotion(
        &self,
        request: &PromoteRequest,
    ) -> Result<Readiness, ClientError> {
        self.post("/v1/promotions/check", request).await
    }

    /// `POST /v1/promotions`: make a replica the primary. Answers when that has begun;
    /// [`Client::promotions`] tells how it goes on.
    pub async fn promote(&self, request: &PromoteRequest) -> Result<ActionDone, ClientError> {
        self.post("/v1/promotions", request).await
    }

    /// `GET /v1/ledgers`: what former primaries had committed that the log never saw.
    pub async fn ledgers(&self) -> Result<Ledgers, ClientError> {
        self.get("/v1/ledgers").await
    }

    /// `GET /v1/ledgers/{id}`: some lines of one, from line `from` on.
    pub async fn ledger(&self, id: &str, from: u64) -> Result<LedgerPage, ClientError> {
        self.get(&format!("/v1/ledgers/{}?from={from}", component(id)))
            .await
    }

    /// `GET /v1/promotions`: the promotion under way, and those before.
    pub async fn promotions(&self) -> Result<Promotions, ClientError> {
        self.get("/v1/promotions").await
    }

    /// `POST /v1/validations`: start comparing replicas with the primary.
    pub async fn validate(&self, request: &ValidationRequest) -> Result<Validation, ClientError> {
        self.post("/v1/validations", request).await
    }

    /// `GET /v1/validations/{id}`: how a comparison stands; `latest` is the last one begun.
    pub async fn validation(&self, id: &str) -> Result<Validation, ClientError> {
        self.get(&format!("/v1/validations/{}", component(id)))
            .await
    }

    /// `POST /v1/validations/{id}/repair`: repair what it found. When it takes longer than a request may,
    /// the answer is an error with the code `timeout`, and the repair goes on.
    pub async fn repair(&self, id: &str) -> Result<ActionDone, ClientError> {
        let path = format!("/v1/validations/{}/repair", component(id));
        self.post(&path, &Empty {}).await
    }

    /// `POST /v1/validations/{id}/cancel`: end a comparison.
    pub async fn cancel_validation(&self, id: &str) -> Result<ActionDone, ClientError> {
        let path = format!("/v1/validations/{}/cancel", component(id));
        self.post(&path, &Empty {}).await
    }

    async fn act(
        &self,
        replica: &str,
        verb: ReplicaVerb,
        body: &impl Serialize,
    ) -> Result<ActionDone, ClientError> {
        let path = format!("/v1/replicas/{}/{}", component(replica), verb.as_str());
        self.post(&path, body).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.exchange(Method::GET, path, Bytes::new()).await?;
        self.decode(status, &body)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| self.protocol(error))?;
        if self.group.is_some() {
            // A daemon too old to look at the header must not carry out what is meant for another.
            self.exchange(Method::GET, "/v1", Bytes::new()).await?;
        }
        let (status, body) = self.exchange(Method::POST, path, json.into()).await?;
        self.decode(status, &body)
    }

    /// Turns an answer into the wanted document, or into the error it carries.
    fn decode<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, ClientError> {
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|error| self.protocol(error));
        }
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(refused) => Err(ClientError::Refused(refused.error)),
            Err(_) => Err(self.protocol(format!("HTTP {status} without an error document"))),
        }
    }

    /// One request and its whole answer, within the timeout.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        tokio::time::timeout(self.timeout, self.exchange_unbounded(method, path, body))
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::TimedOut {
                    socket: self.socket.clone(),
                    timeout: self.timeout,
                })
            })
    }

    async fn exchange_unbounded(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.protocol(error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        if let Some(group) = &self.group {
            request = request.header(GROUP_HEADER, group);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| self.protocol(error))?;
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| self.protocol(error))?;
            let status = response.status();
            let told = response.headers().get(GROUP_HEADER).cloned();
            let body = Limited::new(response.into_body(), MAX_RESPONSE_BODY)
                .collect()
                .await
                .map_err(|error| self.protocol(error))?
                .to_bytes();
            self.verify_group(told.as_ref(), status, &body)?;
            Ok((status, body))
        };
        // The connection future moves the bytes. Driving it here, not in a task of its own, ties the
        // socket's life to this call; the answer is polled first so that an error of the transport
        // surfaces there, with what was being done.
        tokio::pin!(answer);
        tokio::pin!(connection);
        tokio::select! {
            biased;
            result = &mut answer => result,
            _ = &mut connection => answer.await,
        }
    }

    /// Holds the group that answered against the one that is meant.
    fn verify_group(
        &self,
        told: Option<&HeaderValue>,
        status: StatusCode,
        body: &[u8],
    ) -> Result<(), ClientError> {
        let Some(expected) = &self.group else {
            return Ok(());
        };
        if told.is_some_and(|told| told == expected.as_str()) {
            return Ok(());
        }
        // A refusal says itself what is wrong, and that nothing was done.
        let refused = !status.is_success() && serde_json::from_slice::<ErrorBody>(body).is_ok();
        if refused && told.is_none() {
            return Ok(());
        }
        Err(ClientError::WrongGroup {
            socket: self.socket.clone(),
            expected: expected.clone(),
            found: told.and_then(|told| Some(told.to_str().ok()?.to_owned())),
        })
    }

    fn protocol(&self, detail: impl std::fmt::Display) -> ClientError {
        ClientError::Protocol {
            socket: self.socket.clone(),
            detail: detail.to_string(),
        }
    }
}

fn whose(found: Option<&str>) -> String {
    match found {
        Some(group) => format!("that of group {group:?}"),
        None => "one that does not tell its group".to_owned(),
    }
}

/// A body without fields, for the verbs that need none.
#[derive(Serialize)]
struct Empty {}

fn component(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::component;

    #[test]
    fn a_name_cannot_change_the_path() {
        assert_eq!(component("replica-1"), "replica-1");
        assert_eq!(
            component("../status?x=1#é\r\n"),
            "..%2Fstatus%3Fx%3D1%23%C3%A9%0D%0A"
        );
    }
}
