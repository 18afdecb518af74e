//! The endpoints: HTTP in, [`Control`] calls, JSON out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use repl_api::{
    API_VERSION, ActionDone, Endpoint, ErrorCode, Health, Index, LogInfo, LogQuery, MAX_LOG_LIMIT,
    MAX_REQUEST_BODY, Mode, ModeRequest, PromoteRequest, Promotions, Readiness, ReplicaStatus,
    ReplicaVerb, ResyncRequest, SkipRequest, SlotDropRequest, Status, Validation,
    ValidationRequest, WaitDone, WaitRequest,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use super::admission::{self, Admission};
use super::audit::{AuditLog, Intent};
use super::body::{Failure, RequestBody};
use super::control::unknown_replica;
use super::{Actor, Control, ControlError, Limits};

/// Mutating verbs carried out at the same time; more are refused, not queued.
pub(super) const MAX_VERBS: usize = 8;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) control: Arc<dyn Control>,
    pub(super) audit: AuditLog,
    /// One permit per verb under way; the server waits for all of them before it ends.
    pub(super) verbs: Arc<Semaphore>,
    pub(super) request_timeout: Duration,
}

/// Every endpoint: method, path and what it does. The index and its test are made from this.
pub(super) const ENDPOINTS: [(&str, &str, &str); 23] = [
    ("GET", "/v1", "This list."),
    (
        "GET",
        "/v1/status",
        "The state of the group: log, primary, tables, replicas.",
    ),
    (
        "GET",
        "/v1/health",
        "200 when nothing needs attention, else 503 with the reasons.",
    ),
    (
        "GET",
        "/v1/log",
        "The event log: range, segments, transactions (?limit=&table=&from_seq=).",
    ),
    ("GET", "/v1/replicas/{name}", "The state of one replica."),
    (
        "POST",
        "/v1/replicas/{name}/pause",
        "Stop applying; the backlog waits in the log.",
    ),
    (
        "POST",
        "/v1/replicas/{name}/resume",
        "Continue a paused replica.",
    ),
    (
        "POST",
        "/v1/replicas/{name}/retry",
        "Try the failed transaction again, now.",
    ),
    (
        "POST",
        "/v1/replicas/{name}/skip",
        "Leave out the failed transaction {\"seq\", \"reason\"}; the replica becomes diverged.",
    ),
    (
        "POST",
        "/v1/replicas/{name}/resync",
        "Bring the replica, or {\"tables\"} of it, to what the primary holds; {\"full\": true} copies all.",
    ),
    (
        "POST",
        "/v1/replicas/{name}/rejoin",
        "Have a former primary, whose place was taken by force, join as a replica.",
    ),
    (
        "POST",
        "/v1/mode",
        "What commits wait for {\"mode\", \"min_replicas\", \"quorum\", \"level\", \"on_timeout\", …}.",
    ),
    (
        "POST",
        "/v1/wait",
        "Wait until a commit is on replicas {\"token\", \"replicas\", \"timeout_ms\"}.",
    ),
    (
        "POST",
        "/v1/validations",
        "Compare replicas with the primary {\"tables\", \"replicas\", \"deep\", \"show_values\"}.",
    ),
    (
        "GET",
        "/v1/validations/{id}",
        "How a comparison stands, and its outcome; `latest` is the last one.",
    ),
    (
        "POST",
        "/v1/validations/{id}/repair",
        "Repair the rows it found to differ, and compare again.",
    ),
    ("POST", "/v1/validations/{id}/cancel", "End a comparison."),
    (
        "POST",
        "/v1/promotions/check",
        "Whether {\"replica\", \"force\"} could become the primary now, and what that would mean.",
    ),
    (
        "POST",
        "/v1/promotions",
        "Make {\"replica\", \"force\", \"overrule\"} the primary; answers when that has begun.",
    ),
    (
        "GET",
        "/v1/promotions",
        "The promotion under way, and those before.",
    ),
    (
        "GET",
        "/v1/ledgers",
        "What former primaries had committed that the log never saw.",
    ),
    ("GET", "/v1/ledgers/{id}", "The lines of one (?from=)."),
    (
        "POST",
        "/v1/slot/drop",
        "Drop the slot and publication on the primary; {\"confirm\": the group's name}.",
    ),
];

/// The router for peers that may use the API. Each request must carry an [`Actor`] extension.
pub(super) fn router(app: App, limits: &Limits) -> Router {
    let admission = Admission::new(Arc::clone(&app.control), limits);
    Router::new()
        .route("/v1", get(index))
        .route("/v1/status", get(status))
        .route("/v1/health", get(health))
        .route("/v1/log", get(log))
        .route("/v1/replicas/{name}", get(replica))
        .route("/v1/replicas/{name}/{verb}", post(replica_verb))
        .route("/v1/slot/drop", post(slot_drop))
        .route("/v1/mode", post(mode))
        .route("/v1/wait", post(wait))
        .route("/v1/promotions", get(promotions).post(promote))
        .route("/v1/promotions/check", post(check_promotion))
        .route("/v1/ledgers", get(super::ledgers::all))
        .route("/v1/ledgers/{id}", get(super::ledgers::one))
        .route("/v1/validations", post(validate))
        .route("/v1/validations/{id}", get(validation))
        .route("/v1/validations/{id}/{verb}", post(validation_verb))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(admission, admission::admit))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BODY))
        .with_state(app)
}

/// The router for everybody else: every request is answered with 403.
pub(super) fn deny_router() -> Router {
    Router::new().fallback(|| async {
        Failure::new(
            ErrorCode::Forbidden,
            "this user may not use the daemon's admin socket",
            "run as root or as the daemon's user, or add the user to the socket's group",
        )
    })
}

async fn index() -> Json<Index> {
    let endpoint = |(method, path, summary): (&str, &str, &str)| Endpoint {
        method: method.to_owned(),
        path: path.to_owned(),
        summary: summary.to_owned(),
    };
    let endpoints = ENDPOINTS.into_iter().map(endpoint).collect();
    Json(Index {
        api_version: API_VERSION.to_owned(),
        endpoints,
    })
}

async fn status(State(app): State<App>) -> Result<Json<Status>, Failure> {
    app.bounded(app.control.status()).await.map(Json)
}

async fn health(State(app): State<App>) -> Result<Response, Failure> {
    let problems = app.bounded(app.control.status()).await?.attention();
    let healthy = problems.is_empty();
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((code, Json(Health { healthy, problems })).into_response())
}

async fn log(
    State(app): State<App>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Json<LogInfo>, Failure> {
    let advice = format!("use ?limit=1..{MAX_LOG_LIMIT} &table=schema.table &from_seq=N");
    let Query(query) = query
        .map_err(|bad| Failure::new(ErrorCode::BadRequest, bad.body_text(), advice.clone()))?;
    if query
        .limit
        .is_some_and(|limit| limit == 0 || limit > MAX_LOG_LIMIT)
    {
        let message = format!("limit must be 1 to {MAX_LOG_LIMIT}");
        return Err(Failure::new(ErrorCode::BadRequest, message, advice));
    }
    app.bounded(app.control.log_info(&query)).await.map(Json)
}

async fn replica(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ReplicaStatus>, Failure> {
    let Path(name) = name.map_err(bad_path)?;
    let status = app.bounded(app.control.status()).await?;
    match status.replica(&name) {
        Some(replica) => Ok(Json(replica.clone())),
        None => Err(unknown_replica(&name, &status).into()),
    }
}

/// What a verb on a replica carries.
enum Order {
    Plain,
    Skip(SkipRequest),
    Resync(ResyncRequest),
}

/// The body of the verbs that take no arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

async fn replica_verb(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: RequestBody,
) -> Result<Json<ActionDone>, Failure> {
    let Path((name, verb)) = path.map_err(bad_path)?;
    let Some(verb) = ReplicaVerb::ALL
        .into_iter()
        .find(|known| known.as_str() == verb)
    else {
        return Err(no_endpoint(&format!("/v1/replicas/{name}/{verb}")));
    };
    let order = match verb {
        ReplicaVerb::Skip => Order::Skip(skip_arguments(&body)?),
        ReplicaVerb::Resync => Order::Resync(body.parse(r#"{"tables": [], "full": false}"#)?),
        _ => {
            body.parse::<NoArguments>("no body, or {}")?;
            Order::Plain
        }
    };
    let arguments = match &order {
        Order::Skip(skip) => json!({"replica": name, "seq": skip.seq, "reason": skip.reason}),
        Order::Resync(resync) => {
            json!({"replica": name, "tables": resync.tables, "full": resync.full})
        }
        Order::Plain => json!({"replica": name}),
    };
    app.carry_out(
        actor,
        audit_name(verb),
        arguments,
        move |control| async move {
            match (order, verb) {
                (Order::Skip(skip), _) => control.skip(&name, &skip, &actor).await,
                (Order::Resync(resync), _) => control.resync(&name, &resync, &actor).await,
                (Order::Plain, ReplicaVerb::Pause) => control.pause(&name, &actor).await,
                (Order::Plain, ReplicaVerb::Resume) => control.resume(&name, &actor).await,
                (Order::Plain, ReplicaVerb::Rejoin) => control.rejoin(&name, &actor).await,
                (Order::Plain, _) => control.retry(&name, &actor).await,
            }
        },
    )
    .await
}

fn skip_arguments(body: &RequestBody) -> Result<SkipRequest, Failure> {
    let expected = r#"{"seq": <the failed transaction's sequence>, "reason": "<why>"}"#;
    let skip: SkipRequest = body.parse(expected)?;
    if skip.reason.trim().is_empty() {
        return Err(Failure::new(
            ErrorCode::BadRequest,
            "the reason for skipping is empty",
            "say why the transaction may be left out; it is kept in the audit log",
        ));
    }
    Ok(skip)
}

fn audit_name(verb: ReplicaVerb) -> &'static str {
    match verb {
        ReplicaVerb::Pause => "replica.pause",
        ReplicaVerb::Resume => "replica.resume",
        ReplicaVerb::Retry => "replica.retry",
        ReplicaVerb::Skip => "replica.skip",
        ReplicaVerb::Resync => "replica.resync",
        ReplicaVerb::Rejoin => "replica.rejoin",
    }
}

async fn slot_drop(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: RequestBody,
) -> Result<Json<ActionDone>, Failure> {
    let group = app.control.group();
    let wanted = format!("{{\"confirm\": {group:?}}}");
    let confirmed = body.parse::<SlotDropRequest>(&wanted);
    // A missing confirmation is the ordinary mistake; say that rather than quote the parser.
    if confirmed
        .as_ref()
        .map_or(true, |request| request.confirm != group)
    {
        return Err(Failure::new(
            ErrorCode::ConfirmationRequired,
            format!(
                "dropping the slot ends the history this group follows (every replica needs a resync \
                 afterwards), so it must be confirmed with the group's name, {group:?}"
            ),
            format!("send {wanted}, or run: replctl slot drop --yes"),
        ));
    }
    let run = move |control: Arc<dyn Control>| async move { control.drop_slot(&actor).await };
    app.carry_out(actor, "slot.drop", json!({"group": group}), run)
        .await
}

async fn mode(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: RequestBody,
) -> Result<Json<ActionDone>, Failure> {
    let expected = r#"{"mode": "async"}, "semi-sync" or "sync""#;
    let request: ModeRequest = body.parse(expected)?;
    if request.mode == Mode::Unknown {
        let what = "this daemon knows no such mode";
        let advice = format!("send {expected}");
        return Err(Failure::new(ErrorCode::BadRequest, what, advice));
    }
    let arguments = json!(request);
    let run = move |control: Arc<dyn Control>| async move { control.mode(&request, &actor).await };
    app.carry_out(actor, "mode", arguments, run).await
}

/// Changes nothing, and is bounded by the timeout that the request names.
async fn wait(State(app): State<App>, body: RequestBody) -> Result<Json<WaitDone>, Failure> {
    let expected = r#"{"token": "…", "replicas": 1, "timeout_ms": 10000}"#;
    let request: WaitRequest = body.parse(expected)?;
    let done = app.control.wait(&request).await;
    done.map(Json).map_err(Failure)
}

/// What a request for a promotion looks like.
const PROMOTE: &str = r#"{"replica": "<its name>", "force": false, "overrule": false}"#;

async fn check_promotion(
    State(app): State<App>,
    body: RequestBody,
) -> Result<Json<Readiness>, Failure> {
    let request: PromoteRequest = body.parse(PROMOTE)?;
    let check = app.control.check_promotion(&request);
    app.bounded(check).await.map(Json)
}

async fn promote(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    body: RequestBody,
) -> Result<Json<ActionDone>, Failure> {
    let request: PromoteRequest = body.parse(PROMOTE)?;
    let arguments = json!(request);
    let run =
        move |control: Arc<dyn Control>| async move { control.promote(&request, &actor).await };
    app.carry_out(actor, "promote", arguments, run).await
}

async fn promotions(State(app): State<App>) -> Result<Json<Promotions>, Failure> {
    app.bounded(app.control.promotions()).await.map(Json)
}

async fn validate(State(app): State<App>, body: RequestBody) -> Result<Json<Validation>, Failure> {
    let expected = r#"{"tables": [], "replicas": [], "deep": false, "show_values": false}"#;
    let request: ValidationRequest = body.parse(expected)?;
    app.bounded(app.control.validate(&request)).await.map(Json)
}

async fn validation(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Validation>, Failure> {
    let Path(id) = id.map_err(bad_path)?;
    app.bounded(app.control.validation(&id)).await.map(Json)
}

async fn validation_verb(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: RequestBody,
) -> Result<Json<ActionDone>, Failure> {
    let Path((id, verb)) = path.map_err(bad_path)?;
    body.parse::<NoArguments>("no body, or {}")?;
    let arguments = json!({"validation": id});
    match verb.as_str() {
        "repair" => {
            let run =
                move |control: Arc<dyn Control>| async move { control.repair(&id, &actor).await };
            app.carry_out(actor, "validation.repair", arguments, run)
                .await
        }
        "cancel" => {
            let run = move |control: Arc<dyn Control>| async move {
                control.cancel_validation(&id, &actor).await
            };
            app.carry_out(actor, "validation.cancel", arguments, run)
                .await
        }
        _ => Err(no_endpoint(&format!("/v1/validations/{id}/{verb}"))),
    }
}

async fn not_found(uri: Uri) -> Failure {
    no_endpoint(uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure::new(
        ErrorCode::MethodNotAllowed,
        format!("{method} is not possible on {}", uri.path()),
        "GET /v1 lists the endpoints with their methods",
    )
}

fn no_endpoint(path: &str) -> Failure {
    let message = format!("there is no endpoint {path}");
    Failure::new(ErrorCode::NotFound, message, "GET /v1 lists the endpoints")
}

pub(super) fn bad_path(rejection: PathRejection) -> Failure {
    Failure::new(
        ErrorCode::BadRequest,
        rejection.body_text(),
        "percent-encode names as UTF-8",
    )
}

impl App {
    /// Waits for a read, but not longer than a request may take.
    pub(super) async fn bounded<T>(
        &self,
        read: impl Future<Output = Result<T, ControlError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.request_timeout, read).await {
            Ok(result) => result.map_err(Failure),
            Err(_) => Err(Failure::new(
                ErrorCode::Timeout,
                format!(
                    "the daemon had no answer after {} s",
                    self.request_timeout.as_secs_f64()
                ),
                "try again; if it stays so, look at the daemon's log",
            )),
        }
    }

    /// Carries out a mutating verb: audit, execute, audit. It runs in a task of its own, so that it
    /// ends properly whatever its client does; the answer is awaited for as long as a request may take.
    async fn carry_out<F, Fut>(
        &self,
        actor: Actor,
        verb: &'static str,
        arguments: Value,
        run: F,
    ) -> Result<Json<ActionDone>, Failure>
    where
        F: FnOnce(Arc<dyn Control>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<ActionDone, ControlError>> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.verbs).try_acquire_owned() else {
            return Err(Failure::new(
                ErrorCode::Unavailable,
                format!("{MAX_VERBS} operations are under way already, or the daemon is stopping"),
                "wait for them (replctl status), then try again",
            ));
        };
        let intent = Intent::new(actor, verb, arguments);
        let (app, id) = (self.clone(), intent.id.clone());
        let task = tokio::spawn(async move {
            let _permit = permit;
            app.audited(intent, run).await
        });
        match tokio::time::timeout(self.request_timeout, task).await {
            Ok(Ok(outcome)) => outcome.map(Json).map_err(Failure),
            Ok(Err(panic)) => Err(Failure(internal(verb, &panic))),
            Err(_) => Err(Failure::new(
                ErrorCode::Timeout,
                format!(
                    "{verb} is still under way after {} s",
                    self.request_timeout.as_secs_f64()
                ),
                format!(
                    "it goes on; its outcome will be in the status and, with id {id}, in {}",
                    self.audit.path().display()
                ),
            )),
        }
    }

    async fn audited<F, Fut>(&self, intent: Intent, run: F) -> Result<ActionDone, ControlError>
    where
        F: FnOnce(Arc<dyn Control>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<ActionDone, ControlError>> + Send + 'static,
    {
        let verb = intent.verb;
        self.audit.intent(&intent).await.map_err(|cause| {
            error!(verb, actor = %intent.actor, %cause, "operation refused: audit log not writable");
            ControlError::new(
                ErrorCode::Unavailable,
                format!(
                    "{verb} was not carried out: the audit log {} cannot be written: {cause}",
                    self.audit.path().display()
                ),
                "free space on that filesystem or mend its permissions, then repeat the command",
            )
        })?;
        // A task of its own once more: a panic in there must not cost the result line.
        let outcome = tokio::spawn(run(Arc::clone(&self.control)))
            .await
            .unwrap_or_else(|panic| Err(internal(verb, &panic)));
        match &outcome {
            Ok(_) => {
                info!(verb, actor = %intent.actor, arguments = %intent.arguments, "operation done")
            }
            Err(cause) => warn!(
                verb, actor = %intent.actor, arguments = %intent.arguments, %cause, "operation failed"
            ),
        }
        if let Err(cause) = self.audit.result(&intent, &outcome).await {
            error!(verb, id = intent.id, %cause, "the outcome could not be written to the audit log");
        }
        outcome
    }
}

fn internal(verb: &str, panic: &tokio::task::JoinError) -> ControlError {
    error!(verb, %panic, "operation ended in a defect of the daemon");
    ControlError::new(
        ErrorCode::Internal,
        format!("{verb} ended in a defect of the daemon; it may have been carried out in part"),
        "look at replctl status and at the daemon's log, and report the defect",
    )
}
