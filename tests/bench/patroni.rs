//! Patroni with its default settings, as Debian packages it: two nodes, one etcd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use repl_tests::pg::Session;
use repl_tests::pg::binaries::Installation;
use repl_tests::ports::Port;
use repl_tests::process::{is_running, kill_tree, signal, spawn_tied, tied_command};
use repl_tests::scratch::Scratch;
use repl_tests::wait::wait_until;
use rustix::process::Signal;

/// How long a node may take to become part of the cluster.
const PATIENCE: Duration = Duration::from_secs(180);

/// The programs, where they are installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new("/usr/bin").join(name);
    path.is_file().then_some(path)
}

/// The cluster. Dropping it ends its processes.
pub struct Patroni {
    scratch: Scratch,
    installation: &'static Installation,
    etcd: Child,
    client_port: Port,
    nodes: Vec<Node>,
}

struct Node {
    name: &'static str,
    port: Port,
    rest: Port,
    child: Option<Child>,
}

impl Patroni {
    /// Starts both nodes and waits until one takes writes and the other follows; none where Patroni or
    /// etcd is not installed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start() -> Result<Option<Self>> {
        let Some(etcd) = program("etcd").filter(|_| program("patroni").is_some()) else {
            return Ok(None);
        };
        let installation = Installation::get()?;
        let scratch = Scratch::new()?;
        let (client_port, peer_port) = (Port::reserve()?, Port::reserve()?);
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
        let (client, peer) = (url(&client_port), url(&peer_port));
        let mut command = tied_command(&etcd, "KILL", None);
        command.arg("--data-dir").arg(scratch.join("etcd"));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let etcd = spawn_tied(command).context("cannot start etcd")?;
        let mut cluster = Self {
            scratch,
            installation,
            etcd,
            client_port,
            nodes: Vec::new(),
        };
        for name in ["one", "two"] {
            cluster.nodes.push(Node {
                name,
                port: Port::reserve()?,
                rest: Port::reserve()?,
                child: None,
            });
            let at = cluster.nodes.len() - 1;
            cluster.run(at)?;
            // The first makes the cluster.
            cluster.wait_ready(at)?;
        }
        Ok(Some(cluster))
    }

    /// Where clients find the nodes.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Node| {
            let port = node.port.number();
            format!("postgresql://postgres:postgres@127.0.0.1:{port}/postgres")
        };
        self.nodes.iter().map(url).collect()
    }

    /// Kills a node: Patroni, and its server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let data = self.data(at);
        let pid = fs::read_to_string(data.join("postmaster.pid"));
        let pid: Option<u32> = pid.ok().and_then(|text| text.lines().next()?.parse().ok());
        if let Some(mut child) = self.nodes[at].child.take() {
            kill_tree(&mut child)?;
        }
        // Its postmaster is nobody's child.
        if let Some(pid) = pid {
            signal(pid, Signal::KILL)?;
            let gone = || Ok(!is_running(pid));
            wait_until("the server to be gone", Duration::from_secs(20), gone)?;
        }
        Ok(())
    }

    /// Starts a killed node again, from nothing, and waits until it follows.
    ///
    /// # Errors
    /// When it does not.
    pub fn rejoin(&mut self, at: usize) -> Result<()> {
        fs::remove_dir_all(self.data(at))?;
        self.run(at)?;
        self.wait_ready(at)
    }

    fn data(&self, at: usize) -> PathBuf {
        self.scratch.join(self.nodes[at].name)
    }

    fn run(&mut self, at: usize) -> Result<()> {
        let Node {
            name, port, rest, ..
        } = &self.nodes[at];
        let (port, rest, etcd) = (port.number(), rest.number(), self.client_port.number());
        let data = self.data(at);
        let bin = self.installation.program("postgres");
        let bin = bin.parent().context("no directory of programs")?.display();
        let sockets = self.scratch.join(&format!("sockets-{name}"));
        fs::create_dir_all(&sockets)?;
        self.installation.give(&sockets)?;
        // Its default times, which have to be named.
        let text = format!(
            r#"scope: bench
name: {name}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
etcd3: {{host: "127.0.0.1:{etcd}"}}
bootstrap:
  dcs: {{ttl: 30, loop_wait: 10, retry_timeout: 10}}
  initdb: [{{encoding: UTF8}}, {{locale: C.UTF-8}}, {{auth: trust}}]
  pg_hba: ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
postgresql:
  listen: "127.0.0.1:{port}"
  connect_address: "127.0.0.1:{port}"
  data_dir: "{}"
  bin_dir: "{bin}"
  pgpass: "{}/pgpass"
  parameters: {{unix_socket_directories: "{}"}}
  authentication:
    superuser: {{username: postgres, password: postgres}}
    replication: {{username: postgres, password: postgres}}
"#,
            data.display(),
            sockets.display(),
            sockets.display(),
        );
        let file = sockets.join("patroni.yml");
        fs::write(&file, text)?;
        let parent = data.parent().context("no directory for the data")?;
        self.installation.give(parent)?;
        let patroni = program("patroni").context("patroni is gone")?;
        let mut command = tied_command(&patroni, "KILL", self.installation.user());
        let log = fs::File::create(self.scratch.join(&format!("{name}.log")))?;
        command.arg(&file).current_dir("/").stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.nodes[at].child = Some(spawn_tied(command).context("cannot start patroni")?);
        Ok(())
    }

    /// The first node takes writes, a later one follows.
    fn wait_ready(&self, at: usize) -> Result<()> {
        let log = self.scratch.join(&format!("{}.log", self.nodes[at].name));
        let urls = self.urls();
        let wanted = match self.nodes.len() {
            1 => "NOT pg_is_in_recovery()",
            _ => "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        };
        let sql = format!("SELECT CASE WHEN {wanted} THEN 'yes' ELSE 'no' END");
        let ready = || {
            let answer = Session::open(&urls[at])
                .ok()
                .map(|mut open| open.scalar(&sql));
            Ok(matches!(answer, Some(Ok(Some(text))) if text == "yes"))
        };
        wait_until("a node of Patroni to be ready", PATIENCE, ready)
            .with_context(|| repl_tests::process::tail(&log, 20))
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for at in 0..self.nodes.len() {
            if let Err(error) = self.kill(at) {
                eprintln!("{error:#}");
            }
        }
        if let Err(error) = kill_tree(&mut self.etcd) {
            eprintln!("{error:#}");
        }
    }
}
