//! Slow, huge and numerous clients cost little and harm nobody.

use std::time::{Duration, Instant};

use repl_api::ErrorCode;
use tokio::io::AsyncWriteExt;

use super::fixture::{Fixture, TestControl, post, read_to_end};
use crate::admin::Limits;

fn quick() -> Limits {
    Limits {
        max_connections: 8,
        max_long: 2,
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(5),
        connection_lifetime: Duration::from_secs(5),
        drain: Duration::from_secs(5),
    }
}

async fn start() -> Fixture {
    Fixture::start_with(TestControl::default(), quick(), |_| {}).await
}

#[tokio::test]
async fn huge_bodies_are_refused_unread() {
    let fixture = start().await;
    let body = format!(r#"{{"seq": 7, "reason": "{}"}}"#, "x".repeat(64 * 1024));
    let answer = fixture
        .raw(&post("/v1/replicas/replica-1/skip", &body))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("too_large"), "{answer}");
    let endless = b"POST /v1/slot/drop HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    assert!(fixture.raw(endless).await.starts_with("HTTP/1.1 413 "));
    let chunk = format!("ffff\r\n{}\r\n", "x".repeat(0xffff));
    let chunked = format!(
        "POST /v1/slot/drop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(3)
    );
    assert!(
        fixture
            .raw(chunked.as_bytes())
            .await
            .starts_with("HTTP/1.1 413 ")
    );
    assert!(fixture.calls().is_empty());
}

#[tokio::test]
async fn heads_are_bounded() {
    let fixture = start().await;
    let many = "x: y\r\n".repeat(1000);
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    for headers in [many, long] {
        let request = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let answer = fixture.raw(request.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        assert!(!fixture.raw(garbage).await.contains("200 OK"));
    }
    fixture.client.status().await.unwrap();
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let fixture = start().await;
    let begun = Instant::now();
    let mut slow_head = fixture.connect().await;
    slow_head
        .write_all(b"GET /v1/status HTTP/1.1\r\nho")
        .await
        .unwrap();
    let answer = read_to_end(&mut slow_head).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let slow_body = b"POST /v1/slot/drop HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{";
    let answer = fixture.raw(slow_body).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// What is slow, and patient: its own deadlines are too far to help.
fn patient() -> Limits {
    let far = Duration::from_secs(60);
    Limits {
        header_timeout: far,
        body_timeout: far,
        answer_timeout: far,
        connection_lifetime: far,
        ..quick()
    }
}

/// A quick answer comes at once, whatever is open besides.
async fn answers_at_once(fixture: &Fixture) {
    let begun = Instant::now();
    fixture.client.status().await.unwrap();
    assert!(fixture.client.health().await.unwrap().problems.len() == 1);
    // Without making room it would take until the others' deadlines.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn half_open_connections_delay_nobody() {
    let fixture = Fixture::start_with(TestControl::default(), patient(), |_| {}).await;
    let halves = [
        &b""[..],
        b"GET /v1/status HTTP/1.1\r\nho",
        b"POST /v1/slot/drop HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{",
    ];
    let mut open = Vec::new();
    for half in halves {
        for _ in 0..40 {
            let mut stream = fixture.connect().await;
            // It may have been shown out already.
            let _ = stream.write_all(half).await;
            open.push(stream);
        }
        answers_at_once(&fixture).await;
    }
}

#[tokio::test]
async fn answers_that_are_not_read_delay_nobody() {
    let fixture = Fixture::start_with(TestControl::default(), patient(), |_| {}).await;
    let mut open = Vec::new();
    for _ in 0..12 {
        let mut stream = fixture.connect().await;
        // More than the socket holds.
        let wide = "x".repeat(800);
        let head = format!("GET /v1/log?limit=1000&table={wide} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    answers_at_once(&fixture).await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_cut_off() {
    let limits = Limits {
        answer_timeout: Duration::from_millis(300),
        ..patient()
    };
    let fixture = Fixture::start_with(TestControl::default(), limits, |_| {}).await;
    let mut stream = fixture.connect().await;
    let wide = "x".repeat(8000);
    let head = format!("GET /v1/log?limit=1000&table={wide} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert!(answer.len() < 8_000_000, "{}", answer.len());
}

fn waits_for_now() -> repl_api::WaitRequest {
    serde_json::from_str(r#"{"timeout_ms": 1000}"#).unwrap()
}

#[tokio::test]
async fn waits_have_places_of_their_own() {
    let control = TestControl {
        delay: Duration::from_secs(3),
        ..TestControl::default()
    };
    let fixture = Fixture::start_with(control, quick(), |_| {}).await;
    let mut waits = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = fixture.client.clone();
        waits.spawn(async move { client.wait(&waits_for_now()).await });
    }
    let first = waits.join_next().await.unwrap().unwrap();
    let Err(repl_api::ClientError::Refused(refused)) = first else {
        panic!("{first:?}");
    };
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(!refused.advice.is_empty());
    answers_at_once(&fixture).await;
    assert!(waits.try_join_next().is_none(), "the others still wait");
    for done in waits.join_all().await {
        assert!(done.unwrap().done);
    }
}

#[tokio::test]
async fn requests_in_one_piece_and_resets_do_no_harm() {
    let fixture = start().await;
    let two = b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\nPOST /v1/replicas/replica-1/pause HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = fixture.raw(two).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    assert!(fixture.calls().is_empty(), "one request, one answer");
    for part in [
        &b"GET /v1/sta"[..],
        b"POST /v1/slot/drop HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
    ] {
        for _ in 0..20 {
            let mut stream = fixture.connect().await;
            stream.write_all(part).await.unwrap();
            drop(stream);
        }
    }
    answers_at_once(&fixture).await;
}

#[tokio::test]
async fn concurrent_requests_are_all_answered() {
    let fixture = start().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = fixture.client.clone();
        requests.spawn(async move { client.status().await.map(|status| status.group) });
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), "shop");
    }
}

#[tokio::test]
async fn verbs_are_bounded_too() {
    let control = TestControl {
        delay: Duration::from_millis(1500),
        ..TestControl::default()
    };
    let limits = Limits {
        max_connections: 64,
        ..quick()
    };
    let fixture = Fixture::start_with(control, limits, |_| {}).await;
    let mut verbs = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = fixture.client.clone();
        verbs.spawn(async move { client.pause("replica-1").await });
    }
    let outcomes = verbs.join_all().await;
    let refused = outcomes.iter().filter(|outcome| {
        matches!(outcome, Err(repl_api::ClientError::Refused(e)) if e.code == ErrorCode::Unavailable)
    });
    assert_eq!((refused.count(), fixture.calls().len()), (12, 8));
}
