//! The JSON names are a promise to scripts: a fixed document must keep its meaning.

use repl_api::{Activity, ErrorBody, ErrorCode, Membership, PrimaryState, Status, TableState};

/// The least a daemon sends: everything that has a default left out.
const MINIMAL: &str = r#"{
  "api_version": "v1", "group": "shop", "daemon_version": "0.1.0", "pid": 7, "started_at_ms": 1000,
  "mode": "async", "epoch": 2, "some_future_field": {"x": 1},
  "log": {"log_id": "b3", "epoch": 2, "first_seq": 1, "durable_seq": 9, "size_bytes": 10, "segments": 1,
          "ingest_state": "ok"},
  "primary": {"name": "main", "engine": "postgres", "state": "streaming", "endpoint": "db:5432/shop"},
  "replicas": [{"name": "r1", "engine": "sqlite", "endpoint": "/r1.db", "enabled": true, "priority": 100,
                "membership": "needs-resync", "activity": "stopped"},
               {"name": "r2", "engine": "sqlite", "endpoint": "/r2.db", "enabled": true, "priority": 100,
                "membership": "streaming", "activity": "levitating"}],
  "tables": [{"source": "public.t", "state": "refused"}]
}"#;

#[test]
fn a_minimal_status_is_read_and_judged() {
    let status: Status = serde_json::from_str(MINIMAL).unwrap();
    assert_eq!(status.primary.state, PrimaryState::Streaming);
    assert_eq!(status.replicas[0].membership, Membership::NeedsResync);
    assert_eq!(
        status.replicas[1].activity,
        Activity::Unknown,
        "a newer daemon's value is no error"
    );
    assert_eq!(status.tables[0].state, TableState::Refused);
    assert_eq!(
        status.attention(),
        ["replica r1 is needs-resync", "table public.t is refused"]
    );
}

#[test]
fn a_status_survives_the_round_trip() {
    let status: Status = serde_json::from_str(MINIMAL).unwrap();
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["replicas"][0]["membership"], "needs-resync");
    assert_eq!(json["replicas"][0]["lag_ms"], serde_json::Value::Null);
    assert_eq!(json["log"]["ingest_state"], "ok");
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
}

#[test]
fn error_bodies() {
    let body: ErrorBody = serde_json::from_str(
        r#"{"error":{"code":"confirmation_required","message":"m","advice":"a"}}"#,
    )
    .unwrap();
    assert_eq!(body.error.code, ErrorCode::ConfirmationRequired);
    assert_eq!(body.error.code.http_status(), 422);
    let newer: ErrorBody =
        serde_json::from_str(r#"{"error":{"code":"teapot","message":"m"}}"#).unwrap();
    assert_eq!(newer.error.code, ErrorCode::Unknown);
}
