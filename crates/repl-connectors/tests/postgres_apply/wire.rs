//! The client: logins, TLS, pipelines, COPY, replication protocol, hostile servers.

use std::time::Duration;

use bytes::BytesMut;
use repl_connectors::postgres::error::WireError;
use repl_connectors::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};
use repl_connectors::postgres::wire::PgClient;
use repl_core::{Directive, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{Server, shared};

fn tcp(server: &Server, user: &str, password: Option<&str>, tls: PgTls) -> PgTarget {
    PgTarget {
        host: PgHost::Tcp("127.0.0.1".into()),
        user: user.into(),
        password: password.map(str::to_owned),
        tls,
        ..server.target("postgres")
    }
}

fn verify(mode: TlsMode, ca: &str, name: Option<&str>) -> PgTls {
    PgTls {
        mode,
        ca_file: Some(shared().dir.join(ca)),
        server_name: name.map(str::to_owned),
        ..PgTls::default()
    }
}

async fn roles() {
    // Several tests make them: only one may at a time.
    let mut admin = shared().client("postgres").await;
    admin
        .simple(
            "BEGIN; SELECT pg_advisory_xact_lock(1); DO $$ BEGIN \
             IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'scram') THEN \
             CREATE ROLE scram LOGIN PASSWORD 'geheim ñ'; CREATE ROLE clear LOGIN PASSWORD 'pw'; \
             SET LOCAL password_encryption = 'md5'; CREATE ROLE md5user LOGIN PASSWORD 'pw'; \
             END IF; END $$; COMMIT",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn tls_is_verified_as_asked() {
    let server = shared();
    let connect = |tls: PgTls| async move {
        PgClient::connect(&tcp(server, "postgres", None, tls), &[]).await
    };
    let full = TlsMode::VerifyFull;
    for tls in [
        verify(full, "ca.crt", None),
        verify(full, "ca.crt", Some("db.example")),
        verify(TlsMode::VerifyCa, "ca.crt", Some("other.example")),
        verify(TlsMode::Require, "other.crt", Some("other.example")),
    ] {
        let mut client = connect(tls).await.unwrap();
        assert!(client.is_tls());
        let rows = client
            .simple("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .await
            .unwrap();
        assert_eq!(rows, [[Some("t".to_owned())]]);
        client.close().await;
    }
    for tls in [
        verify(full, "ca.crt", Some("other.example")),
        verify(full, "other.crt", None),
        verify(TlsMode::VerifyCa, "other.crt", None),
        PgTls {
            mode: full,
            ..PgTls::default()
        },
    ] {
        let error = connect(tls).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
        assert_eq!(error.directive(), Directive::Retry, "{error}");
        let (_, why) = error
            .message
            .split_once("certificate is refused: ")
            .unwrap();
        assert!(!why.contains(['(', '{', ':']), "internal words: {why}");
    }
}

#[tokio::test]
async fn passwords_are_proven_not_sent() {
    roles().await;
    let server = shared();
    let tls = || verify(TlsMode::VerifyFull, "ca.crt", None);
    // The server's certificate has a SHA-384 signature: channel binding is used.
    for (user, password) in [("scram", "geheim ñ"), ("md5user", "pw"), ("clear", "pw")] {
        let target = tcp(server, user, Some(password), tls());
        let mut client = PgClient::connect(&target, &[]).await.unwrap();
        let rows = client.simple("SELECT current_user").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some(user));
    }
    for (user, password) in [
        ("scram", Some("wrong")),
        ("scram", None),
        ("md5user", Some("x")),
    ] {
        let target = tcp(server, user, password, tls());
        let error = PgClient::connect(&target, &[]).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Configuration);
        assert_eq!(error.directive(), Directive::Retry);
        assert!(!error.advice.is_empty());
    }
    // In clear text only where nobody listens.
    let plain = PgTls {
        mode: TlsMode::Disable,
        ..PgTls::default()
    };
    let error = PgClient::connect(&tcp(server, "clear", Some("pw"), plain), &[])
        .await
        .err()
        .unwrap();
    assert!(error.message.contains("clear text"), "{error}");
}

#[tokio::test]
async fn simple_queries_and_errors() {
    let server = shared();
    let mut client = server.client("postgres").await;
    assert_eq!(client.parameter("server_encoding"), Some("UTF8"));
    let rows = client
        .simple("SELECT 1; SELECT NULL, 'ä|' ; SET work_mem = '4MB'")
        .await
        .unwrap();
    assert_eq!(rows, [[None, Some("ä|".to_owned())]]);
    let error = client.simple("SELECT * FROM absent").await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_deref()),
        (ErrorKind::Schema, Some("42P01"))
    );
    assert!(client.simple("").await.unwrap().is_empty());
    let error = PgClient::connect(&server.target("absent"), &[])
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::Configuration);
    let error = client
        .simple("SELECT pg_terminate_backend(pg_backend_pid())")
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection);
    let error = client.simple("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection);
}

#[tokio::test]
async fn behind_an_error_nothing_is_executed_copy_data_included() {
    let database = shared().database().await;
    let mut client = shared().client(&database).await;
    client
        .simple("CREATE TABLE t (a int PRIMARY KEY)")
        .await
        .unwrap();
    let none = || std::iter::empty();
    let one = [Some(b"1".as_slice())];
    client.queue("BEGIN", none()).unwrap();
    client
        .queue("INSERT INTO t VALUES ($1::int)", one.into_iter())
        .unwrap();
    let failing = client
        .queue("INSERT INTO t VALUES ($1::int)", one.into_iter())
        .unwrap();
    client.queue_copy_in("COPY t FROM STDIN").unwrap();
    for n in 2..200_000 {
        client
            .copy_buffer()
            .extend_from_slice(format!("{n}\n").as_bytes());
    }
    client.copy_done();
    client.queue("COMMIT", none()).unwrap();
    let error = client.sync().await.unwrap_err();
    assert_eq!(error.statement, failing);
    assert_eq!(client.explain(error).kind, ErrorKind::Constraint);
    // In step again, within the failed transaction.
    client.simple("ROLLBACK").await.unwrap();
    assert_eq!(
        client.simple("SELECT count(*) FROM t").await.unwrap()[0][0].as_deref(),
        Some("0")
    );

    // An error within the COPY data.
    client.queue("BEGIN", none()).unwrap();
    let failing = client.queue_copy_in("COPY t FROM STDIN").unwrap();
    for n in 0..100_000 {
        client
            .copy_buffer()
            .extend_from_slice(format!("{}\n", n % 99_999).as_bytes());
    }
    client.copy_done();
    client.queue("COMMIT", none()).unwrap();
    let error = client.sync().await.unwrap_err();
    assert_eq!(error.statement, failing);
    client.simple("ROLLBACK").await.unwrap();

    // And without one.
    client.queue("BEGIN", none()).unwrap();
    client.queue_copy_in("COPY t FROM STDIN").unwrap();
    for n in 0..100_000 {
        client
            .copy_buffer()
            .extend_from_slice(format!("{n}\n").as_bytes());
    }
    client.copy_done();
    client.queue("COMMIT", none()).unwrap();
    client.sync().await.unwrap();
    let rows = client
        .query("SELECT count(*) FROM t WHERE a > $1::int", &[Some("9")])
        .await;
    assert_eq!(rows.unwrap()[0][0].as_deref(), Some("99990"));
}

#[tokio::test]
async fn replies_larger_than_the_socket_do_not_deadlock() {
    let mut client = shared().client("postgres").await;
    let large = vec![b'x'; 200_000];
    for _ in 0..200 {
        // Each reply is as large as its request: 40 MB each way.
        let params = [Some(large.as_slice())];
        client.queue("SELECT $1::text", params.into_iter()).unwrap();
    }
    tokio::time::timeout(Duration::from_secs(30), client.sync())
        .await
        .unwrap()
        .unwrap();
    let rows = client
        .query("SELECT length($1::text)", &[Some("abc")])
        .await
        .unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("3"));
}

#[tokio::test]
async fn what_is_queued_as_a_whole_is_one_transaction_that_nothing_cuts() {
    let database = shared().database().await;
    let mut client = shared().client(&database).await;
    let create = "CREATE TABLE t (a int PRIMARY KEY)";
    client.simple(create).await.unwrap();
    let insert = "INSERT INTO t VALUES ($1::int)";
    let queue = |client: &mut PgClient, key: &[u8]| {
        client.queue(insert, [Some(key)].into_iter()).unwrap();
    };
    client.begin_whole();
    queue(&mut client, b"1");
    // A question within is a part of it, and anything that would end it is refused.
    let rows = client.query("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("1"));
    let error = client.simple("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    let error = client.sync().await.unwrap_err();
    assert_eq!(client.explain(error).kind, ErrorKind::Internal);
    queue(&mut client, b"1");
    client.queue_sync();
    let error = client.finish().await.unwrap_err();
    assert_eq!(client.explain(error).kind, ErrorKind::Constraint);
    let rows = client.simple("SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("0"));

    client.begin_whole();
    queue(&mut client, b"1");
    queue(&mut client, b"2");
    client.queue_sync();
    client.finish().await.unwrap();
    let rows = client.simple("SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("2"));
}

#[tokio::test]
async fn a_statement_for_one_row_fails_with_none_and_with_two() {
    let database = shared().database().await;
    let mut client = shared().client(&database).await;
    let create = "CREATE TABLE t (a int); INSERT INTO t VALUES (0), (1), (2)";
    client.simple(create).await.unwrap();
    let update = "UPDATE t SET a = a WHERE a < $1::int RETURNING a";
    for (below, fits) in [(b"0", false), (b"1", true), (b"2", false)] {
        let params = [Some(below.as_slice())];
        let number = client.queue_for_one(update, params.into_iter()).unwrap();
        match client.sync().await {
            Ok(()) => assert!(fits),
            Err(error) => {
                assert!(!fits && matches!(error.error, WireError::Missed));
                assert_eq!(error.statement, number);
            }
        }
        // In step again.
        let rows = client.simple("SELECT count(*) FROM t").await.unwrap();
        assert_eq!(rows[0][0].as_deref(), Some("3"));
    }
}

#[tokio::test]
async fn a_query_within_a_pipeline_sees_what_is_before_it() {
    let mut client = shared().client("postgres").await;
    client.queue("BEGIN", std::iter::empty()).unwrap();
    client
        .queue(
            "CREATE TEMPORARY TABLE p AS SELECT 5 AS a",
            std::iter::empty(),
        )
        .unwrap();
    let rows = client
        .query("SELECT a FROM p WHERE a = $1::int", &[Some("5")])
        .await
        .unwrap();
    assert_eq!(rows, [[Some("5".to_owned())]]);
    client.queue("COMMIT", std::iter::empty()).unwrap();
    client.sync().await.unwrap();
    // More statements than are kept prepared.
    for n in 0..1200 {
        client
            .queue(&format!("SELECT {n}"), std::iter::empty())
            .unwrap();
    }
    client.sync().await.unwrap();
}

#[tokio::test]
async fn copy_out_streams() {
    const PIECE: usize = 64 * 1024;
    let mut client = shared().client("postgres").await;
    client
        .copy_out("COPY (SELECT g, repeat('y', 100) FROM generate_series(1, 50000) g) TO STDOUT")
        .await
        .unwrap();
    let (mut data, mut rows, mut told) = (BytesMut::new(), 0, None);
    while told.is_none() {
        data.clear();
        told = client
            .take_copy_data(&mut data, PIECE, &mut rows)
            .await
            .unwrap();
        assert!(data.ends_with(b"\n") && data.len() < 2 * PIECE);
    }
    assert_eq!((told, rows), (Some(50_000), 50_000));
    assert!(client.copy_out("COPY absent TO STDOUT").await.is_err());
    client
        .copy_out("COPY (SELECT 1 / (5 - g) FROM generate_series(1, 9) g) TO STDOUT")
        .await
        .unwrap();
    let outcome = client.take_copy_data(&mut data, PIECE, &mut rows).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::Data);
    client.simple("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn the_replication_protocol() {
    let server = shared();
    let database = server.database().await;
    let mut admin = server.client(&database).await;
    admin
        .simple("CREATE TABLE t (a int PRIMARY KEY, b text); CREATE PUBLICATION p FOR TABLE t")
        .await
        .unwrap();
    let target = server.target(&database);
    let replication = [("replication", "database")];
    let mut client = PgClient::connect(&target, &replication).await.unwrap();
    assert!(client.simple("IDENTIFY_SYSTEM").await.unwrap()[0][0].is_some());
    client
        .simple("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        .await
        .unwrap();
    admin
        .simple("INSERT INTO t SELECT g, repeat('z', 500) FROM generate_series(1, 3000) g")
        .await
        .unwrap();
    let start = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    let mut stream = client.copy_both(start).await.unwrap();
    let mut inserts = 0;
    while inserts < 3000 {
        let payload = stream.recv().await.unwrap().unwrap();
        inserts += usize::from(payload[0] == b'w' && payload.get(25) == Some(&b'I'));
        while let Some(payload) = stream.try_recv().unwrap() {
            inserts += usize::from(payload[0] == b'w' && payload.get(25) == Some(&b'I'));
        }
    }
    // Ask for a keepalive: flags in the status message.
    let mut status = vec![b'r'];
    status.extend_from_slice(&[0; 32]);
    status.push(1);
    stream.send(&status);
    stream.flush().await.unwrap();
    while stream.recv().await.unwrap().unwrap()[0] != b'k' {}
    // Messages above the limit are refused.
    stream.set_message_limit(10_000);
    admin
        .simple("INSERT INTO t VALUES (0, repeat('z', 20000))")
        .await
        .unwrap();
    let error = loop {
        if let Err(error) = stream.recv().await {
            break error;
        }
    };
    assert_eq!(error.kind, ErrorKind::Data);
    stream.close().await;
    let client = PgClient::connect(&target, &replication).await.unwrap();
    let error = client
        .copy_both("START_REPLICATION SLOT nope LOGICAL 0/0")
        .await
        .err()
        .unwrap();
    assert_eq!(error.code.as_deref(), Some("42704"));
}

#[tokio::test]
async fn hostile_servers_cause_errors() {
    let answers: [&[u8]; 9] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\x00\x00\x00\x03",
        b"R\xff\xff\xff\xff",
        b"R\x7f\xff\xff\xff\x00\x00\x00\x00",
        b"R\x00\x00\x00\x0c\x00\x00\x00\x0aSCRA",
        b"R\x00\x00\x00\x08\x00\x00\x00\x00S\x00\x00\x00\x06ab",
        b"E\x00\x00\x00\x09Sxxxx",
        b"R\x00\x00\x00\x08\x00\x00\x00\x00D\x00\x00\x00\x07\x00\x01\xff",
    ];
    for answer in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer).await;
        });
        let target = PgTarget {
            port,
            connect_timeout: Duration::from_secs(5),
            ..tcp(
                shared(),
                "u",
                None,
                PgTls {
                    mode: TlsMode::Disable,
                    ..PgTls::default()
                },
            )
        };
        assert!(PgClient::connect(&target, &[]).await.is_err(), "{answer:?}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = PgTarget {
        port: listener.local_addr().unwrap().port(),
        connect_timeout: Duration::from_millis(200),
        ..tcp(
            shared(),
            "u",
            None,
            verify(TlsMode::VerifyFull, "ca.crt", None),
        )
    };
    let error = PgClient::connect(&target, &[]).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Connection);
}

#[tokio::test]
async fn sqlx_reaches_the_same_server() {
    let tls = verify(TlsMode::VerifyFull, "ca.crt", None);
    for target in [
        shared().target("postgres"),
        tcp(shared(), "postgres", None, tls),
    ] {
        let mut connection = sqlx::ConnectOptions::connect(&target.sqlx_options())
            .await
            .unwrap();
        let name: String = sqlx::query_scalar("SELECT current_setting('application_name')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(name, "test");
    }
}
