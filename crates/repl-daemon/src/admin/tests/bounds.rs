//! Slow, huge and numerous clients cost little and harm nobody.

use std::time::{Duration, Instant};

use repl_api::ErrorCode;
use tokio::io::AsyncWriteExt;

use super::fixture::{Fixture, TestControl, post, read_to_end};
use crate::admin::Limits;

fn quick() -> Limits {
    Limits {
        max_connections: 8,
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_secs(5),
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

#[tokio::test]
async fn idle_connections_only_delay_others() {
    let fixture = start().await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(fixture.connect().await);
    }
    fixture.client.status().await.unwrap();
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
