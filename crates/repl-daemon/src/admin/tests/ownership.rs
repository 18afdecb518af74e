//! Who may connect, and who owns the socket file.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use repl_api::{Client, ClientError, ErrorCode};

use super::fixture::{Fixture, TestControl};
use crate::admin::{AdminConfig, AdminError, AdminServer, Limits};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn modes_of_socket_and_directory() {
    let fixture = Fixture::start().await;
    assert_eq!(mode(&fixture.socket), 0o660);
    assert_eq!(mode(fixture.socket.parent().unwrap()), 0o750);
    fixture.client.pause("replica-1").await.unwrap();
    assert_eq!(
        mode(&fixture.audit_path()) & 0o137,
        0,
        "the audit log is not for everybody"
    );
}

#[tokio::test]
async fn denied_peers_get_403_and_a_line_in_the_audit_log() {
    let deny = |server: &mut AdminServer| server.rule = Arc::new(|_| false);
    let fixture = Fixture::start_with(TestControl::default(), Limits::default(), deny).await;
    for _ in 0..5 {
        match fixture.client.pause("replica-1").await {
            Err(ClientError::Refused(error)) => assert_eq!(error.code, ErrorCode::Forbidden),
            other => panic!("{other:?}"),
        }
    }
    assert!(fixture.calls().is_empty());
    let audit = fixture.audit();
    assert!(
        matches!(audit.len(), 1 | 2),
        "at most one per second: {audit:?}"
    );
    assert_eq!(
        (&audit[0]["event"], &audit[0]["suppressed"]),
        (&"denied".into(), &0.into())
    );
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "closing a listener leaves its file");
    let config = AdminConfig::new(&path, directory.path());
    let first = AdminServer::bind(config.clone()).await.unwrap();
    let second = AdminServer::bind(config).await;
    assert!(matches!(second, Err(AdminError::InUse(_))));
    assert!(path.exists(), "the refused one left the socket alone");
    drop(first);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let refused = AdminServer::bind(AdminConfig::new(&path, directory.path())).await;
    assert!(matches!(refused, Err(AdminError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn unusable_settings_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let good = AdminConfig::new(directory.path().join("s.sock"), directory.path());
    for bad in [0o666, 0o060, 0o7660, 0] {
        let config = AdminConfig {
            socket_mode: bad,
            ..good.clone()
        };
        assert!(matches!(AdminServer::bind(config).await, Err(AdminError::Mode(m)) if m == bad));
    }
    let group = Some("no-such-group-here".to_owned());
    let config = AdminConfig {
        socket_group: group,
        ..good.clone()
    };
    assert!(matches!(
        AdminServer::bind(config).await,
        Err(AdminError::UnknownGroup(_))
    ));
    let socket = directory.path().join("x".repeat(100));
    let config = AdminConfig { socket, ..good };
    assert!(matches!(
        AdminServer::bind(config).await,
        Err(AdminError::PathTooLong { .. })
    ));
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[tokio::test]
async fn stopping_lets_requests_end_and_removes_the_socket() {
    let control = TestControl {
        delay: Duration::from_millis(400),
        ..TestControl::default()
    };
    let mut fixture = Fixture::start_with(control, Limits::default(), |_| {}).await;
    let client = fixture.client.clone();
    let under_way = tokio::spawn(async move { client.pause("replica-1").await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    fixture.begin_stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late: Result<_, ClientError> = Client::new(&fixture.socket).status().await;
    assert!(late.unwrap_err().is_unreachable());
    assert_eq!(under_way.await.unwrap().unwrap().target, "replica-1");
    let socket = fixture.socket.clone();
    let _directory = fixture.stop().await;
    assert!(!socket.exists());
}
