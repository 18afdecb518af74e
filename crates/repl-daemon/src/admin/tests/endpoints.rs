//! What each endpoint answers, and what the audit log holds afterwards.

use std::time::Duration;

use repl_api::{ApiError, ClientError, ErrorCode, LogQuery, SkipRequest, SlotDropRequest};

use super::fixture::{Fixture, TestControl, post};
use crate::admin::Limits;
use crate::admin::routes::ENDPOINTS;

const ODD: &str = "replica 2/ü";

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result.unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("not an answer of the API: {other}"),
    }
}

#[tokio::test]
async fn reading() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    assert_eq!(client.status().await.unwrap().group, "shop");
    assert_eq!(client.replica(ODD).await.unwrap().name, ODD);
    let missing = refusal(client.replica("replica-9").await);
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert!(missing.advice.contains("replica-1"), "{missing:?}");
    let health = client.health().await.unwrap();
    assert_eq!(
        (health.healthy, health.problems.len()),
        (false, 1),
        "one replica is paused"
    );
    let query = LogQuery {
        limit: Some(2),
        table: Some("a b&c.ü".into()),
        from_seq: Some(5),
    };
    let log = client.log(&query).await.unwrap();
    assert_eq!(
        log.transactions.iter().map(|t| t.seq).collect::<Vec<_>>(),
        [5, 6]
    );
    assert_eq!(log.transactions[0].tables[0].table, "a b&c.ü");
    assert!(fixture.audit().is_empty(), "reading is not audited");
}

#[tokio::test]
async fn every_listed_endpoint_exists() {
    let fixture = Fixture::start().await;
    let index = fixture.client.index().await.unwrap();
    assert_eq!(index.endpoints.len(), ENDPOINTS.len());
    for endpoint in index.endpoints {
        let path = endpoint.path.replace("{name}", "replica-1");
        let path = path.replace("{id}", "1");
        let request = format!("{} {path} HTTP/1.1\r\nhost: x\r\n\r\n", endpoint.method);
        let answer = fixture.raw(request.as_bytes()).await;
        let code = answer.split(' ').nth(1).unwrap();
        assert!(
            !["404", "405", "500"].contains(&code),
            "{request}: {answer}"
        );
    }
}

#[test]
fn every_endpoint_is_documented() {
    let documentation = include_str!("../../../../../docs/API.md");
    for (method, path, _) in ENDPOINTS {
        let heading = format!("### {method} {path}\n");
        assert!(
            documentation.contains(&heading),
            "docs/API.md lacks {method} {path}"
        );
    }
}

#[tokio::test]
async fn comparisons_are_started_followed_repaired_and_ended() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    let request = repl_api::ValidationRequest {
        deep: true,
        ..Default::default()
    };
    let started = client.validate(&request).await.unwrap();
    assert!(started.deep && !started.is_over());
    let found = client.validation(&started.id).await.unwrap();
    assert_eq!(found.verdict, Some(repl_api::Verdict::Equal));
    let unknown = refusal(client.validation("2").await);
    assert_eq!(unknown.code, ErrorCode::NotFound);
    client.repair("1").await.unwrap();
    client.cancel_validation("1").await.unwrap();
    assert_eq!(fixture.calls(), ["repair 1", "cancel 1"]);
    let audit = fixture.audit();
    let verbs: Vec<_> = audit.iter().map(|line| line["verb"].clone()).collect();
    let expected = [
        "validation.repair",
        "validation.repair",
        "validation.cancel",
        "validation.cancel",
    ];
    assert_eq!(verbs, expected);
    let misspelt = post("/v1/validations", r#"{"dep": true}"#);
    assert!(fixture.raw(&misspelt).await.contains("400"));
}

#[tokio::test]
async fn verbs_are_carried_out_and_audited() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    assert_eq!(client.pause("replica-1").await.unwrap().target, "replica-1");
    client.resume(ODD).await.unwrap();
    client.retry("replica-1").await.unwrap();
    let skip = SkipRequest {
        seq: 7,
        reason: "row is obsolete".into(),
    };
    client.skip("replica-1", &skip).await.unwrap();
    client
        .resync("replica-1", &Default::default())
        .await
        .unwrap();
    let resume_odd = format!("resume {ODD}");
    let expected = [
        "pause replica-1",
        &resume_odd,
        "retry replica-1",
        "skip replica-1",
        "resync replica-1",
    ];
    assert_eq!(fixture.calls(), expected);

    let audit = fixture.audit();
    assert_eq!(audit.len(), 10);
    for pair in audit.chunks(2) {
        assert_eq!(
            (&pair[0]["event"], &pair[1]["event"]),
            (&"intent".into(), &"result".into())
        );
        assert_eq!(pair[0]["id"], pair[1]["id"]);
        assert_eq!(pair[1]["outcome"], "ok");
        assert_eq!(
            pair[0]["pid"],
            std::process::id(),
            "the kernel's word, not the client's"
        );
    }
    assert_eq!(audit[6]["verb"], "replica.skip");
    assert_eq!(audit[6]["arguments"]["seq"], 7);
    assert_eq!(audit[6]["arguments"]["reason"], "row is obsolete");
}

#[tokio::test]
async fn failures_keep_their_code_and_are_audited() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    assert_eq!(
        refusal(client.pause("nobody").await).code,
        ErrorCode::NotFound
    );
    let skip = SkipRequest {
        seq: 8,
        reason: "r".into(),
    };
    assert_eq!(
        refusal(client.skip("replica-1", &skip).await).code,
        ErrorCode::Conflict
    );
    let defect = refusal(client.retry(ODD).await);
    assert_eq!(
        defect.code,
        ErrorCode::Internal,
        "a panic is an answer, not a lost connection"
    );
    let outcomes: Vec<_> = fixture
        .audit()
        .iter()
        .skip(1)
        .step_by(2)
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["not_found", "conflict", "internal"]);
    assert_eq!(
        client.status().await.unwrap().group,
        "shop",
        "and the server lives on"
    );
}

#[tokio::test]
async fn the_slot_is_dropped_only_when_confirmed() {
    let fixture = Fixture::start().await;
    let client = &fixture.client;
    let wrong = SlotDropRequest {
        confirm: "shop2".into(),
    };
    assert_eq!(
        refusal(client.drop_slot(&wrong).await).code,
        ErrorCode::ConfirmationRequired
    );
    for body in ["", "{}", "{\"confirm\":true}", "null"] {
        let answer = fixture.raw(&post("/v1/slot/drop", body)).await;
        assert!(answer.starts_with("HTTP/1.1 422"), "{body}: {answer}");
    }
    assert!(fixture.calls().is_empty());
    client
        .drop_slot(&SlotDropRequest {
            confirm: "shop".into(),
        })
        .await
        .unwrap();
    assert_eq!(fixture.calls(), ["drop_slot"]);
}

#[tokio::test]
async fn malformed_requests_change_nothing() {
    let fixture = Fixture::start().await;
    let cases: [(&str, Vec<u8>); 13] = [
        ("400", post("/v1/replicas/replica-1/skip", "{")),
        ("400", post("/v1/replicas/replica-1/skip", "")),
        (
            "400",
            post(
                "/v1/replicas/replica-1/skip",
                r#"{"seq": "7", "reason": "r"}"#,
            ),
        ),
        (
            "400",
            post(
                "/v1/replicas/replica-1/skip",
                r#"{"seq": -7, "reason": "r"}"#,
            ),
        ),
        (
            "400",
            post(
                "/v1/replicas/replica-1/skip",
                r#"{"seq": 7, "reason": " "}"#,
            ),
        ),
        (
            "400",
            post(
                "/v1/replicas/replica-1/skip",
                r#"{"seq": 7, "reason": "r", "x": 1}"#,
            ),
        ),
        (
            "400",
            post("/v1/replicas/replica-1/pause", r#"{"for": "1h"}"#),
        ),
        (
            "400",
            post("/v1/replicas/replica-1/pause", &"[".repeat(60_000)),
        ),
        ("400", post("/v1/replicas/%ff/pause", "")),
        ("404", post("/v1/replicas/replica-1/explode", "")),
        ("404", post("/v2/status", "")),
        ("405", post("/v1/status", "")),
        (
            "405",
            b"GET /v1/replicas/replica-1/pause HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        ),
    ];
    for (code, request) in cases {
        let answer = fixture.raw(&request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")),
            "{shown}\n{answer}"
        );
        assert!(
            answer.contains(r#"{"error":{"code":""#),
            "{shown}\n{answer}"
        );
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limits=3",
        "from_seq=-1",
    ] {
        let request = format!("GET /v1/log?{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = fixture.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{query}: {answer}");
        assert!(answer.contains("bad_request"), "{query}: {answer}");
    }
    assert!(fixture.calls().is_empty());
    assert!(fixture.audit().is_empty());
}

#[tokio::test]
async fn what_is_meant_for_another_group_is_refused() {
    let fixture = Fixture::start().await;
    let other = fixture.client.clone().expecting("billing");
    for result in [
        other.pause("replica-1").await,
        other.resume("replica-1").await,
    ] {
        let wrong = result.unwrap_err();
        assert!(
            matches!(&wrong, ClientError::WrongGroup { found: Some(group), .. } if group == "shop"),
            "{wrong:?}"
        );
        assert!(wrong.to_string().contains("billing"), "{wrong}");
    }
    assert!(matches!(
        other.status().await,
        Err(ClientError::WrongGroup { .. })
    ));
    assert!(matches!(
        other.health().await,
        Err(ClientError::WrongGroup { .. })
    ));
    // The order itself is refused too: a daemon may have been replaced since it was asked.
    for header in ["billing", "Shop", "", "shop, billing", "\u{e9}"] {
        let request = format!(
            "POST /v1/replicas/replica-1/pause HTTP/1.1\r\nhost: x\r\nX-Repl-Group: {header}\r\n\r\n"
        );
        let answer = fixture.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        assert!(answer.contains(r#""code":"wrong_group""#), "{answer}");
    }
    assert!(fixture.calls().is_empty() && fixture.audit().is_empty());
    let own = fixture.client.clone().expecting("shop");
    own.pause("replica-1").await.unwrap();
    assert_eq!(own.status().await.unwrap().group, "shop");
    assert!(!own.health().await.unwrap().healthy);
    assert_eq!(refusal(own.pause("nobody").await).code, ErrorCode::NotFound);
    assert_eq!(fixture.calls(), ["pause replica-1"]);
    let named = fixture.raw(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(named.contains("x-repl-group: shop\r\n"), "{named}");
}

/// The table of errors in docs/API.md, row by row.
#[tokio::test]
async fn errors_are_as_documented() {
    let documentation = include_str!("../../../../../docs/API.md");
    let codes = [
        ErrorCode::BadRequest,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::RequestTimeout,
        ErrorCode::Conflict,
        ErrorCode::TooLarge,
        ErrorCode::WrongGroup,
        ErrorCode::ConfirmationRequired,
        ErrorCode::Internal,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
    ];
    for code in codes {
        let word = serde_json::to_value(code).unwrap();
        let row = format!("| {} | `{}` |", code.http_status(), word.as_str().unwrap());
        assert!(documentation.contains(&row), "docs/API.md lacks {row}");
    }
    let rows = documentation.lines().filter(|line| {
        let number = line
            .strip_prefix("| ")
            .and_then(|rest| rest.split(' ').next());
        number.is_some_and(|number| number.len() == 3 && number.parse::<u16>().is_ok())
    });
    assert_eq!(rows.count(), codes.len(), "rows of codes that do not exist");

    let fixture = Fixture::start().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes();
    let large = "x".repeat(repl_api::MAX_REQUEST_BODY + 1);
    let largest = format!(
        "{{\"tables\": [\"{}\"]}}",
        "x".repeat(repl_api::MAX_REQUEST_BODY - 16)
    );
    assert_eq!(largest.len(), repl_api::MAX_REQUEST_BODY);
    let cases = [
        // Malformed, unknown fields and parameters, out of range.
        (400, post("/v1/mode", "{")),
        (400, post("/v1/mode", r#"{"mode": "quick"}"#)),
        (400, post("/v1/mode", r#"{"mode": "async", "modes": 1}"#)),
        (400, post("/v1/wait", "{}")),
        (400, post("/v1/wait", r#"{"timeout_ms": -1}"#)),
        (400, post("/v1/promotions", r#"{"replicas": "r"}"#)),
        (400, post("/v1/validations", r#"{"tables": "public.t"}"#)),
        (400, post("/v1/validations/1/repair", r#"{"x": 1}"#)),
        (400, post("/v1/replicas/replica-1/resync", "[]")),
        (400, get("/v1/log?limit=0")),
        (400, get("/v1/log?limit=1001")),
        (400, get("/v1/log?tables=t")),
        (400, get("/v1/ledgers/x?from=-1")),
        (400, get("/v1/replicas/%ff")),
        // No such endpoint, replica, validation; whatever stands in a name.
        (404, get("/")),
        (404, get("/v1/")),
        (404, get("/v1/state")),
        (404, get("/v1/status/more")),
        (404, get("/v1/replicas/replica-9")),
        (404, get("/v1/replicas/replica-1%00")),
        (404, get("/v1/replicas/..%2f..%2fetc")),
        (404, get("/v1/validations/9")),
        (404, post("/v1/replicas/replica-9/pause", "")),
        (404, post("/v1/replicas/%00/pause", "")),
        (404, post("/v1/replicas/replica-1/drop", "")),
        (404, post("/v1/validations/1/explode", "")),
        (404, post("/v1/promotions", r#"{"replica": "r\u0000"}"#)),
        // The path exists, for another method.
        (405, post("/v1", "")),
        (405, get("/v1/mode")),
        (405, post("/v1/health", "")),
        (405, get("/v1/slot/drop")),
        (
            405,
            b"DELETE /v1/replicas/replica-1 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        ),
        // Exceeds 64 KiB, on endpoints that exist or not.
        (413, post("/v1/validations", &large)),
        (413, post("/v1/nothing", &large)),
        (200, post("/v1/replicas/replica-1/resync", &largest)),
        (422, post("/v1/slot/drop", "{}")),
    ];
    for (code, request) in cases {
        let answer = fixture.raw(&request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let told = answer.starts_with(&format!("HTTP/1.1 {code} "));
        assert!(told, "{shown}\n{answer}");
        assert!(
            answer.contains("x-repl-group: shop\r\n"),
            "{shown}\n{answer}"
        );
        if code == 200 {
            continue;
        }
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let document: repl_api::ErrorBody = serde_json::from_str(body).unwrap();
        assert_eq!(document.error.code.http_status(), code, "{shown}\n{answer}");
        assert!(!document.error.message.is_empty(), "{shown}\n{answer}");
        assert!(!document.error.advice.is_empty(), "{shown}\n{answer}");
    }
    assert_eq!(fixture.calls(), ["resync replica-1"]);
}

#[tokio::test]
async fn without_audit_nothing_is_carried_out() {
    let fixture = Fixture::start().await;
    std::fs::create_dir(fixture.audit_path()).unwrap();
    let refused = refusal(fixture.client.pause("replica-1").await);
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(refused.message.contains("audit.jsonl"), "{refused:?}");
    assert!(fixture.calls().is_empty());
}

#[tokio::test]
async fn a_torn_audit_line_is_closed() {
    let fixture = Fixture::start().await;
    std::fs::write(fixture.audit_path(), "{\"torn\": tr").unwrap();
    fixture.client.pause("replica-1").await.unwrap();
    let text = std::fs::read_to_string(fixture.audit_path()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "{\"torn\": tr"));
}

#[tokio::test]
async fn a_verb_goes_on_without_its_client() {
    let control = TestControl {
        delay: Duration::from_secs(1),
        ..TestControl::default()
    };
    let limits = Limits {
        request_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let fixture = Fixture::start_with(control, limits, |_| {}).await;
    let late = refusal(fixture.client.pause("replica-1").await);
    assert_eq!(late.code, ErrorCode::Timeout);
    assert!(fixture.audit().len() < 2, "no result yet");
    let directory = fixture.stop().await;
    let audit = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    assert_eq!(
        audit.lines().count(),
        2,
        "stopping waited for the verb: {audit}"
    );
}
