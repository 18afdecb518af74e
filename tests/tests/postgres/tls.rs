//! Encrypted connections, passwords by SCRAM, and Unix sockets.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use repl_api::{Directive, Membership};
use repl_tests::daemon::{Daemon, DaemonConfig, Toml};
use repl_tests::pg::{DATABASE, PgServer, Role};
use repl_tests::process::run;
use repl_tests::scratch::Scratch;

use super::group::{Group, PATIENCE, assert_contains};

/// An authority of our own and a certificate for `127.0.0.1` and `db.test`.
fn certificates(dir: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        run(Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(dir))
        .map(drop)
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=test-ca -addext keyUsage=critical,keyCertSign -addext basicConstraints=critical,CA:true",
    )?;
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=db.test",
    )?;
    std::fs::write(
        dir.join("names"),
        "subjectAltName=DNS:db.test,IP:127.0.0.1\n",
    )?;
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.pem",
    )
}

/// A server that takes encrypted connections only.
fn tls_server(name: &str, dir: &Path) -> Result<PgServer> {
    let mut server = PgServer::builder(name)
        .setting("ssl", "on")
        .setting("password_encryption", "scram-sha-256")
        .prepare()?;
    let data = server.data_dir();
    std::fs::copy(dir.join("server.pem"), data.join("server.crt"))?;
    std::fs::copy(dir.join("server.key"), data.join("server.key"))?;
    std::fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n",
    )?;
    // Readable for the server's account alone, which is the one that owns its directory.
    for (mode, file) in [
        ("600", "server.key"),
        ("644", "server.crt"),
        ("644", "pg_hba.conf"),
    ] {
        run(Command::new("chmod").arg(mode).arg(data.join(file)))?;
        run(Command::new("chown")
            .arg("--reference")
            .arg(&data)
            .arg(data.join(file)))?;
    }
    server.start()?;
    Ok(server)
}

fn tls(mode: &str, ca: &Path, server_name: Option<&str>) -> Toml {
    let name = server_name
        .map(|name| format!(", server_name = \"{name}\""))
        .unwrap_or_default();
    Toml::raw(&format!(
        "{{ mode = \"{mode}\", ca_file = \"{}\"{name} }}",
        ca.display()
    ))
}

#[test]
fn tls_is_verified_in_full_on_both_sides() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir: PathBuf = scratch.path().to_path_buf();
    certificates(&dir)?;
    let ca = dir.join("ca.pem");
    let primary = tls_server("primary", &dir)?;
    let replica = tls_server("replica-1", &dir)?;
    primary.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v' FROM generate_series(1, 100) n")?;
    let here = primary.url(DATABASE, Role::Superuser);
    let config = |primary_url: &str, replica_tls: Toml| {
        DaemonConfig::new("g", &dir.join("log"))
            .primary("main", primary_url)
            .with("tls", tls("verify-full", &ca, None))
            .replica("replica-1", &replica.url(DATABASE, Role::Superuser))
            .with("tls", replica_tls)
    };
    // The certificate is for 127.0.0.1 and db.test, not for localhost.
    let wrong_host = here.replace("127.0.0.1", "localhost");
    let mut daemon = Daemon::new(config(&wrong_host, tls("verify-full", &ca, None)))?;
    let socket = daemon.socket().display().to_string();
    daemon.ignore_log();
    daemon.start()?;
    let error = daemon.wait_status("the wrong host to be refused", PATIENCE, |status| {
        status.primary.last_error.clone()
    })?;
    assert_contains(
        &error.message,
        "it is not for localhost, but for db.test, 127.0.0.1",
    );
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(primary.query_i64(slots)?, 0);

    // The replica's certificate is for another name, and then of an unknown authority.
    let other = dir.join("other");
    std::fs::create_dir(&other)?;
    certificates(&other)?;
    let unknown = other.join("ca.pem");
    for wrong in [
        tls("verify-full", &ca, Some("other.test")),
        tls("verify-full", &unknown, None),
        tls("verify-ca", &unknown, None),
    ] {
        daemon.terminate()?;
        daemon.set_config(config(&here, wrong).set("api", "socket", socket.as_str()))?;
        daemon.start()?;
        let status = daemon.wait_replica("replica-1", "refused", PATIENCE, |replica| {
            replica
                .last_error
                .as_ref()
                .is_some_and(|error| error.attempts > 1)
        })?;
        let error = status
            .last_error
            .unwrap_or_else(|| unreachable!("asked for above"));
        assert_contains(&error.message, "TLS: the server's certificate is refused: ");
        assert!(
            !error.message.contains("Error") && !error.advice.is_empty(),
            "{error:?}"
        );
        assert_eq!(error.directive, Directive::Retry);
        assert_ne!(status.membership, Membership::Paused);
        assert_eq!(replica.query("SELECT to_regclass('t') IS NULL")?, "t");
    }
    // A file that is corrected is enough: nobody has to be told, and nothing to be restarted.
    let swapped = dir.join("swapped.pem");
    std::fs::copy(&unknown, &swapped)?;
    daemon.terminate()?;
    daemon.set_config(config(&here, tls("verify-full", &swapped, Some("db.test"))))?;
    daemon.start()?;
    daemon.wait_replica("replica-1", "refused", PATIENCE, |replica| {
        replica
            .last_error
            .as_ref()
            .is_some_and(|error| error.message.contains("certificate is refused"))
    })?;
    std::fs::copy(&ca, &swapped)?;
    let group = Group {
        daemon,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
    };
    group.equal()?;
    group
        .primary
        .execute("UPDATE t SET v = 'w' WHERE id < 50; DELETE FROM t WHERE id > 90")?;
    group.equal()?;
    let encrypted = "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                     WHERE application_name LIKE 'repl-daemon%'";
    assert_eq!(group.primary.query(encrypted)?, "t");
    assert_eq!(group.replica().query(encrypted)?, "t");
    Ok(())
}

#[test]
fn unix_sockets_need_no_password() -> Result<()> {
    let scratch = Scratch::new()?;
    let primary = PgServer::builder("primary")
        .setting("listen_addresses", "")
        .start()?;
    let replica = PgServer::builder("replica-1")
        .setting("listen_addresses", "")
        .start()?;
    primary.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")?;
    let url = |server: &PgServer| {
        let (port, dir) = (server.port(), server.socket_dir());
        format!(
            "postgresql://postgres@:{port}/{DATABASE}?host={}",
            dir.display()
        )
    };
    let config = DaemonConfig::new("g", &scratch.join("log"))
        .primary("main", &url(&primary))
        .replica("replica-1", &url(&replica));
    let group = Group {
        daemon: Daemon::launch(config)?,
        primary,
        replicas: vec![replica],
        _scratch: scratch,
    };
    group.equal()?;
    group.primary.execute("INSERT INTO t VALUES (2)")?;
    group.equal()?;
    group.daemon.finish()
}
