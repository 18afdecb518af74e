//! A group of two replicas without any database, and a server for it in a temporary directory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use repl_api::{
    ActionDone, Client, ErrorCode, LedgerPage, Ledgers, LogInfo, LogQuery, ModeRequest,
    PromoteRequest, Promotions, Readiness, ResyncRequest, SkipRequest, Status, TableChanges,
    TransactionInfo, Validation, ValidationRequest, WaitDone, WaitRequest,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::audit::AUDIT_FILE;
use crate::admin::control::unknown_replica;
use crate::admin::{Actor, AdminConfig, AdminServer, Control, ControlError, Limits};

/// Replicas by name, and every mutating call in order.
#[derive(Default)]
pub struct TestControl {
    pub calls: Mutex<Vec<String>>,
    /// How long a mutating call takes.
    pub delay: Duration,
}

impl TestControl {
    async fn act(&self, verb: &str, replica: &str) -> Result<ActionDone, ControlError> {
        let status = self.status().await?;
        status
            .replica(replica)
            .ok_or_else(|| unknown_replica(replica, &status))?;
        tokio::time::sleep(self.delay).await;
        self.calls.lock().unwrap().push(format!("{verb} {replica}"));
        Ok(done(verb, replica))
    }
}

fn done(verb: &str, target: &str) -> ActionDone {
    let message = format!("{verb} of {target} done");
    ActionDone {
        verb: verb.to_owned(),
        target: target.to_owned(),
        message,
    }
}

#[async_trait]
impl Control for TestControl {
    fn group(&self) -> String {
        "shop".to_owned()
    }

    async fn status(&self) -> Result<Status, ControlError> {
        let replica = |name: &str, membership: &str| {
            json!({"name": name, "engine": "sqlite", "endpoint": "/r.db", "enabled": true,
                   "priority": 100, "membership": membership, "activity": "idle"})
        };
        Ok(serde_json::from_value(json!({
            "api_version": "v1", "group": "shop", "daemon_version": "0", "pid": 1,
            "started_at_ms": 0, "mode": "async", "epoch": 1,
            "log": {"log_id": "x", "epoch": 1, "first_seq": 1, "durable_seq": 2, "size_bytes": 3,
                    "segments": 1, "ingest_state": "ok"},
            "primary": {"name": "main", "engine": "sqlite", "state": "streaming", "endpoint": "/p.db"},
            "replicas": [replica("replica-1", "streaming"), replica("replica 2/ü", "paused")],
        }))
        .unwrap())
    }

    async fn log_info(&self, query: &LogQuery) -> Result<LogInfo, ControlError> {
        let table = query.table.clone().unwrap_or_else(|| "t".to_owned());
        let transaction = |seq| TransactionInfo {
            seq,
            epoch: 1,
            source_txid: seq.to_string(),
            position: format!("0/{seq}"),
            commit_ms: seq,
            bytes: 10,
            tables: vec![TableChanges {
                table: table.clone(),
                inserts: 1,
                ..Default::default()
            }],
        };
        let from = query.from_seq.unwrap_or(1);
        Ok(LogInfo {
            log_id: "x".to_owned(),
            epoch: 1,
            first_seq: 1,
            durable_seq: 2,
            size_bytes: 3,
            segments: Vec::new(),
            transactions: (from..)
                .take(query.effective_limit())
                .map(transaction)
                .collect(),
            truncated: true,
        })
    }

    async fn check_promotion(&self, request: &PromoteRequest) -> Result<Readiness, ControlError> {
        Ok(Readiness {
            from: "main".to_owned(),
            to: request.replica.clone(),
            ready: true,
            findings: Vec::new(),
            lag_ms: Some(0),
            applied_seq: Some(2),
            queue_transactions: 0,
            estimated_gap_ms: None,
            may_lose: None,
        })
    }

    async fn promote(
        &self,
        request: &PromoteRequest,
        _: &Actor,
    ) -> Result<ActionDone, ControlError> {
        crate::promotion::cause(request)?;
        self.act("promote", &request.replica).await
    }

    async fn ledgers(&self) -> Result<Ledgers, ControlError> {
        Ok(Ledgers::default())
    }

    async fn ledger(&self, _: &str, from: u64) -> Result<LedgerPage, ControlError> {
        Ok(LedgerPage {
            lines: vec![json!({"from": from})],
            next: None,
        })
    }

    async fn promotions(&self) -> Result<Promotions, ControlError> {
        Ok(Promotions::default())
    }

    async fn pause(&self, replica: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        self.act("pause", replica).await
    }

    async fn resume(&self, replica: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        self.act("resume", replica).await
    }

    async fn retry(&self, replica: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        assert_ne!(replica, "replica 2/ü", "this retry meets a defect");
        self.act("retry", replica).await
    }

    async fn rejoin(&self, replica: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        assert_ne!(replica, "replica 2/ü", "this rejoin meets a defect");
        self.act("rejoin", replica).await
    }

    async fn skip(
        &self,
        replica: &str,
        skip: &SkipRequest,
        _: &Actor,
    ) -> Result<ActionDone, ControlError> {
        if skip.seq != 7 {
            let message = format!("{replica} is not held by transaction {}", skip.seq);
            return Err(ControlError::new(
                ErrorCode::Conflict,
                message,
                "look at replctl status",
            ));
        }
        self.act("skip", replica).await
    }

    async fn resync(
        &self,
        replica: &str,
        _: &ResyncRequest,
        _: &Actor,
    ) -> Result<ActionDone, ControlError> {
        self.act("resync", replica).await
    }

    async fn validate(&self, request: &ValidationRequest) -> Result<Validation, ControlError> {
        let started = json!({"id": "1", "state": "running", "deep": request.deep, "started_ms": 1});
        Ok(serde_json::from_value(started).unwrap())
    }

    async fn validation(&self, id: &str) -> Result<Validation, ControlError> {
        if id != "1" {
            let message = format!("there is no validation {id}");
            return Err(ControlError::new(ErrorCode::NotFound, message, ""));
        }
        let done = json!({"id": id, "state": "done", "deep": true, "started_ms": 1,
                          "finished_ms": 2, "verdict": "equal"});
        Ok(serde_json::from_value(done).unwrap())
    }

    async fn cancel_validation(&self, id: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        self.calls.lock().unwrap().push(format!("cancel {id}"));
        Ok(done("validation.cancel", id))
    }

    async fn repair(&self, id: &str, _: &Actor) -> Result<ActionDone, ControlError> {
        self.calls.lock().unwrap().push(format!("repair {id}"));
        Ok(done("validation.repair", id))
    }

    async fn mode(&self, request: &ModeRequest, _: &Actor) -> Result<ActionDone, ControlError> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("mode {}", request.mode));
        Ok(done("mode", "shop"))
    }

    async fn wait(&self, request: &WaitRequest) -> Result<WaitDone, ControlError> {
        tokio::time::sleep(self.delay).await;
        Ok(WaitDone {
            done: true,
            position: request.token.clone().unwrap_or_default(),
            logged_seq: Some(1),
            wanted: 1,
            applied_on: vec!["replica-1".to_owned()],
        })
    }

    async fn drop_slot(&self, _: &Actor) -> Result<ActionDone, ControlError> {
        self.calls.lock().unwrap().push("drop_slot".to_owned());
        Ok(done("slot.drop", "repl_shop"))
    }
}

/// A server under test; stopped by [`Fixture::stop`] or with the runtime.
pub struct Fixture {
    pub directory: TempDir,
    pub socket: PathBuf,
    pub control: Arc<TestControl>,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::start_with(TestControl::default(), Limits::default(), |_| {}).await
    }

    pub async fn start_with(
        control: TestControl,
        limits: Limits,
        adjust: impl FnOnce(&mut AdminServer),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/admin.sock");
        let config = AdminConfig {
            limits,
            ..AdminConfig::new(&socket, directory.path())
        };
        let mut server = AdminServer::bind(config).await.unwrap();
        adjust(&mut server);
        let control = Arc::new(control);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(control.clone(), async {
            let _ = stopped.await;
        }));
        let client = Client::new(&socket).with_timeout(Duration::from_secs(20));
        Self {
            directory,
            socket,
            control,
            client,
            stop: Some(stop),
            serving,
        }
    }

    pub fn calls(&self) -> Vec<String> {
        self.control.calls.lock().unwrap().clone()
    }

    pub fn audit_path(&self) -> PathBuf {
        self.directory.path().join(AUDIT_FILE)
    }

    /// The audit log's lines.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_path()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Sends raw bytes and reads until the server closes.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        read_to_end(&mut stream).await
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    pub async fn stop(mut self) -> TempDir {
        self.begin_stop();
        self.serving.await.unwrap();
        self.directory
    }
}

pub async fn read_to_end(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// A POST with a JSON body, as raw bytes.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
