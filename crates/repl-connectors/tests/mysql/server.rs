//! A MariaDB server for this test binary, and databases in it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql_async::{Conn, OptsBuilder};
use repl_connectors::mysql::target::{MySqlHost, MySqlTarget, MySqlTls, TlsMode};

/// A running server. Our own dies with this process: a shell beside it waits for the end of our
/// pipe.
pub struct Server {
    pub dir: PathBuf,
    pub socket: PathBuf,
    pub port: u16,
    /// Started by us, with the certificates below.
    pub own: bool,
    _keeper: Option<(Child, ChildStdin)>,
}

static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
static SECOND: LazyLock<Server> = LazyLock::new(|| Server::boot("local_infile=OFF\n"));
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server shared by all tests.
pub fn shared() -> &'static Server {
    &SHARED
}

/// A server of our own without LOAD DATA LOCAL, for tests that change its settings.
pub fn second() -> &'static Server {
    &SECOND
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Runs a program as the server's account.
fn as_mysql(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=mysql", "--regid=mysql", "--clear-groups"])
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
        let output = Command::new("id").args([kind, "mysql"]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    // Without the right to it the server runs as ourselves, and nothing is to be given.
    let _ = chown(path, id("-u"), id("-g"));
}

impl Server {
    fn start() -> Server {
        if let Some(socket) = std::env::var_os("REPL_TEST_MYSQL_SOCKET") {
            return Server {
                dir: PathBuf::new(),
                socket: socket.into(),
                port: 0,
                own: false,
                _keeper: None,
            };
        }
        Server::boot("local_infile=ON\n")
    }

    fn boot(settings: &str) -> Server {
        let dir = tempfile::tempdir().unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        give(&dir);
        certificates(&dir);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        configuration(&dir, port, settings);
        let defaults = format!("--defaults-file={}/my.cnf", dir.display());
        install(&dir, &defaults);
        let mut keeper = as_mysql("/bin/sh")
            .arg("-c")
            .arg(format!(
                "mariadbd '{defaults}' >'{0}/log' 2>&1 </dev/null & \
                 read line; kill -KILL $!; wait $!; cd /; rm -rf '{0}'",
                dir.display()
            ))
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = keeper.stdin.take().unwrap();
        let server = Server {
            socket: dir.join("sock"),
            dir,
            port,
            own: true,
            _keeper: Some((keeper, pipe)),
        };
        server.await_start();
        server
    }

    fn await_start(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if UnixStream::connect(&self.socket).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start; see {}", self.dir.display());
    }

    /// Over the Unix socket, as root.
    pub fn target(&self, database: &str) -> MySqlTarget {
        MySqlTarget {
            host: MySqlHost::Unix(self.socket.clone()),
            port: self.port,
            user: "root".into(),
            password: None,
            database: database.into(),
            tls: MySqlTls {
                mode: TlsMode::Disable,
                ..MySqlTls::default()
            },
            connect_timeout: Duration::from_secs(20),
        }
    }

    /// A new database; its name.
    pub async fn database(&self) -> String {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("db{}_{number}", std::process::id());
        let mut admin = self.client("mysql").await;
        let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        mysql_async::prelude::Queryable::query_drop(&mut admin, sql)
            .await
            .unwrap();
        name
    }

    /// A session of an ordinary client.
    pub async fn client(&self, database: &str) -> Conn {
        let options = OptsBuilder::default()
            .user(Some("root"))
            .socket(self.socket.to_str())
            .db_name(Some(database));
        Conn::new(options).await.unwrap()
    }
}

/// Makes the data directory. On a machine whose other tests start servers too this fails now and
/// then for want of something passing, so it is tried again; the last failure is told in full.
fn install(dir: &Path, defaults: &str) {
    let mut told = String::new();
    for _ in 0..3 {
        let output = as_mysql("mariadb-install-db")
            .args([
                defaults,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .current_dir(dir)
            .output()
            .unwrap();
        if output.status.success() {
            return;
        }
        told = format!(
            "{}{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            fs::read_to_string(dir.join("errors")).unwrap_or_default()
        );
        let _ = fs::remove_dir_all(dir.join("data"));
    }
    panic!("mariadb-install-db failed: {told}");
}

// At its start a server removes what it takes for its own temporary files: each has a place apart.
fn configuration(dir: &Path, port: u16, settings: &str) {
    let mut file = fs::File::create(dir.join("my.cnf")).unwrap();
    write!(
        file,
        "[mysqld]\ndatadir={0}/data\ntmpdir={0}\nsocket={0}/sock\npid-file={0}/pid\nport={port}\n\
         bind-address=127.0.0.1\nskip-name-resolve\ninnodb_buffer_pool_size=64M\n\
         innodb_log_file_size=16M\ninnodb_use_native_aio=0\ninnodb_flush_log_at_trx_commit=0\nmax_connections=100\n\
         performance_schema=OFF\nmax_allowed_packet=4M\n{settings}character-set-server=latin1\n\
         sql_mode=\nssl_cert={0}/server.crt\nssl_key={0}/server.key\nssl_ca={0}/ca.crt\n\
         log_error={0}/errors\n",
        dir.display()
    )
    .unwrap();
}

/// An authority, and a certificate of it for `db.example` and 127.0.0.1.
fn certificates(dir: &Path) {
    let script = "set -e; \
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca \
            -keyout ca.key -out ca.crt 2>/dev/null; \
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other-ca \
            -keyout other.key -out other.crt 2>/dev/null; \
        openssl req -newkey rsa:2048 -nodes -subj /CN=db.example \
            -keyout server.key -out server.csr 2>/dev/null; \
        printf 'subjectAltName=DNS:db.example\\nbasicConstraints=CA:FALSE\\n' > ext; \
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
            -sha384 -extfile ext -out server.crt 2>/dev/null; \
        chmod 600 server.key";
    run(Command::new("sh").arg("-c").arg(script).current_dir(dir));
    give(&dir.join("server.key"));
    give(&dir.join("server.crt"));
}
