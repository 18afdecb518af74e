//! TLS: what is verified, and that nothing falls back to plain text.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use repl_connectors::mysql::apply::MySqlApplier;
use repl_connectors::mysql::target::{MySqlHost, MySqlTls, TlsMode};
use repl_connectors::seam::{Applier, Result};
use repl_core::{Directive, ErrorKind};

use crate::fixture::config;
use crate::server::shared;

async fn open(tls: MySqlTls) -> Result<()> {
    let database = shared().database().await;
    let mut admin = shared().client(&database).await;
    for sql in [
        "CREATE USER IF NOT EXISTS tls@'127.0.0.1' IDENTIFIED BY 'pw'",
        "GRANT ALL PRIVILEGES ON *.* TO tls@'127.0.0.1'",
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    let mut config = config(&database);
    config.target.host = MySqlHost::Tcp("127.0.0.1".into());
    config.target.user = "tls".into();
    config.target.password = Some("pw".into());
    config.target.tls = tls;
    config.target.connect_timeout = Duration::from_secs(10);
    MySqlApplier::new(config).open().await.map(|_| ())
}

fn verify(mode: TlsMode, ca: &str, name: Option<&str>) -> MySqlTls {
    MySqlTls {
        mode,
        ca_file: Some(shared().dir.join(ca)),
        server_name: name.map(str::to_owned),
        ..MySqlTls::default()
    }
}

#[tokio::test]
async fn certificates_are_verified_as_far_as_asked() {
    if !shared().own {
        return;
    }
    use TlsMode::{Disable, Require, VerifyCa, VerifyFull};
    for (mode, ca, name, fits) in [
        (Disable, "ca.crt", None, true),
        (Require, "other.crt", None, true),
        (VerifyCa, "ca.crt", None, true),
        (VerifyCa, "other.crt", None, false),
        (VerifyFull, "ca.crt", Some("db.example"), true),
        (VerifyFull, "ca.crt", None, false),
        (VerifyFull, "ca.crt", Some("other.example"), false),
        (VerifyFull, "other.crt", Some("db.example"), false),
    ] {
        match open(verify(mode, ca, name)).await {
            Ok(()) => assert!(fits, "{mode:?} {ca} {name:?}"),
            Err(error) => {
                assert!(!fits, "{mode:?} {ca} {name:?}: {error:?}");
                assert_eq!(error.kind, ErrorKind::Configuration);
                let words = "TLS: the server's certificate is refused: ";
                let (_, why) = error.message.split_once(words).unwrap();
                assert!(!why.contains(['(', '{', ':']), "internal words: {why}");
                assert!(!error.advice.is_empty());
                assert_eq!(error.directive(), Directive::Retry);
            }
        }
    }
}
