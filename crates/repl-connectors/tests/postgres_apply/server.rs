//! A PostgreSQL server for this test binary, and databases in it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use repl_connectors::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};
use repl_connectors::postgres::wire::PgClient;

/// A running server. It dies with this process: a shell beside it waits for the end of our pipe.
pub struct Server {
    pub dir: PathBuf,
    pub port: u16,
    _keeper: Child,
    _pipe: ChildStdin,
}

static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server shared by all tests.
pub fn shared() -> &'static Server {
    &SHARED
}

fn bin() -> PathBuf {
    std::env::var_os("REPL_TEST_PG_BIN").map_or_else(newest, PathBuf::from)
}

fn newest() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed")
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().expect("a PostgreSQL server is installed")
}

/// Runs a program as the server's account.
fn as_postgres(program: &Path) -> Command {
    let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    if root.ok() != Some(0) {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// Makes the files' owner the account the server runs as.
fn give(path: &Path) {
    let id = |kind: &str| -> Option<u32> {
        let output = Command::new("id").args([kind, "postgres"]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    // Without the right to it the server runs as ourselves, and nothing is to be given.
    let _ = chown(path, id("-u"), id("-g"));
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        give(&dir);
        let data = dir.join("data");
        fs::create_dir(&data).unwrap();
        give(&data);
        run(as_postgres(&bin().join("initdb"))
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "-N",
                "-D",
            ])
            .arg(&data)
            .current_dir(&dir));
        certificates(&dir);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut conf = fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .unwrap();
        write!(
            conf,
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{0}'\n\
             fsync = off\nfull_page_writes = off\nwal_level = logical\nshared_buffers = 64MB\n\
             max_connections = 60\nmax_wal_size = 1GB\nssl = on\nssl_cert_file = '{0}/server.crt'\n\
             ssl_key_file = '{0}/server.key'\nlc_messages = 'C'\n",
            data.display()
        )
        .unwrap();
        fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl all scram 127.0.0.1/32 scram-sha-256\n\
             hostssl all md5user 127.0.0.1/32 md5\nhostnossl all clear 127.0.0.1/32 password\n\
             hostssl all clear 127.0.0.1/32 password\nhost all postgres 127.0.0.1/32 trust\n\
             local replication all trust\n",
        )
        .unwrap();
        let mut keeper = as_postgres(Path::new("/bin/sh"))
            .arg("-c")
            .arg(format!(
                "'{0}/postgres' -D '{1}/data' >'{1}/log' 2>&1 </dev/null & \
                 read line; kill -QUIT $!; wait $!; cd /; rm -rf '{1}'",
                bin().display(),
                dir.display()
            ))
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = keeper.stdin.take().unwrap();
        let server = Server {
            dir,
            port,
            _keeper: keeper,
            _pipe: pipe,
        };
        server.await_start();
        server
    }

    fn await_start(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if self.greets() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start; see {}", self.dir.display());
    }

    /// Whether a login is let in: while starting up, the server answers with an error.
    fn greets(&self) -> bool {
        let login = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = (login.len() as u32 + 4).to_be_bytes();
        let file = self.dir.join(format!("data/.s.PGSQL.{}", self.port));
        let mut answer = [0];
        UnixStream::connect(file).is_ok_and(|mut socket| {
            socket
                .write_all(&[&length, login.as_slice()].concat())
                .is_ok()
                && socket.read_exact(&mut answer).is_ok()
                && answer == *b"R"
        })
    }

    /// Over the Unix socket, as superuser.
    pub fn target(&self, database: &str) -> PgTarget {
        PgTarget {
            host: PgHost::Unix(self.dir.join("data")),
            port: self.port,
            user: "postgres".into(),
            password: None,
            database: database.into(),
            tls: PgTls {
                mode: TlsMode::Disable,
                ..PgTls::default()
            },
            connect_timeout: Duration::from_secs(10),
            application_name: "test".into(),
        }
    }

    /// A new database; its name.
    pub async fn database(&self) -> String {
        let name = format!("db{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut admin = self.client("postgres").await;
        admin
            .simple(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        name
    }

    /// A session of an ordinary client.
    pub async fn client(&self, database: &str) -> PgClient {
        PgClient::connect(&self.target(database), &[])
            .await
            .unwrap()
    }
}

/// An authority, and a certificate of it for `db.example` and 127.0.0.1.
fn certificates(dir: &Path) {
    let data = dir.join("data");
    let script = "set -e; \
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca \
            -keyout ca.key -out ca.crt 2>/dev/null; \
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other-ca \
            -keyout other.key -out other.crt 2>/dev/null; \
        openssl req -newkey rsa:2048 -nodes -subj /CN=db.example \
            -keyout data/server.key -out server.csr 2>/dev/null; \
        printf 'subjectAltName=DNS:db.example,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext; \
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
            -sha384 -extfile ext -out data/server.crt 2>/dev/null; \
        chmod 600 data/server.key";
    run(Command::new("sh").arg("-c").arg(script).current_dir(dir));
    give(&data.join("server.key"));
    give(&data.join("server.crt"));
}
