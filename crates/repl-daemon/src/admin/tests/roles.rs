//! Role checks are answered at once, whoever else is connected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::TestControl;
use crate::admin::roles::RoleServer;

async fn start() -> SocketAddr {
    let server = RoleServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.serve(Arc::new(TestControl::default()), std::future::pending()));
    address
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

const PRIMARY: &str = "GET /primary HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn half_open_connections_delay_no_role_check() {
    let address = start().await;
    let mut open = Vec::new();
    for part in [&b""[..], b"GET /pri", b"GET /primary HTTP/1.1\r\nhost:"] {
        for number in 1..=300 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It may have been shown out already.
            let _ = stream.write_all(part).await;
            open.push(stream);
            if number == 4 || number == 300 {
                let begun = Instant::now();
                let answer = ask(address, PRIMARY).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                // Without making room it would take until the others' deadlines, 5 s.
                let took = begun.elapsed();
                assert!(took < Duration::from_secs(4), "{took:?}");
            }
        }
        open.clear();
    }
}

#[tokio::test]
async fn odd_requests_are_refused_and_change_nothing() {
    let address = start().await;
    let wide = format!(
        "GET /primary?node={} HTTP/1.1\r\nhost: x\r\n\r\n",
        "x".repeat(20_000)
    );
    let cases = [
        ("404", "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n"),
        (
            "405",
            "POST /primary HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        ),
        ("400", "GET /primary?nodes=main HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("400", "GET /replica?lag=%00 HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("503", "GET /primary?node=%00 HTTP/1.1\r\nhost: x\r\n\r\n"),
        ("4", wide.as_str()),
    ];
    for (code, request) in cases {
        let answer = ask(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
    assert!(
        ask(address, &PRIMARY.repeat(3))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}
