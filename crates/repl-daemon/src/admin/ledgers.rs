//! What former primaries had committed that the log never saw.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use repl_api::{ErrorCode, LedgerPage, Ledgers};
use serde::Deserialize;

use super::body::Failure;
use super::routes::{App, bad_path};

/// Which lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    #[serde(default)]
    from: u64,
}

fn bad_from(rejection: QueryRejection) -> Failure {
    Failure::new(
        ErrorCode::BadRequest,
        rejection.body_text(),
        "use ?from=<line>",
    )
}

pub(super) async fn all(State(app): State<App>) -> Result<Json<Ledgers>, Failure> {
    app.bounded(app.control.ledgers()).await.map(Json)
}

pub(super) async fn one(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<From>, QueryRejection>,
) -> Result<Json<LedgerPage>, Failure> {
    let Path(id) = path.map_err(bad_path)?;
    let Query(From { from }) = query.map_err(bad_from)?;
    app.bounded(app.control.ledger(&id, from)).await.map(Json)
}
