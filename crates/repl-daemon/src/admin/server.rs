//! The server: accepts on the Unix socket and keeps every connection within its bounds.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use super::audit::AuditLog;
use super::peer::Authority;
use super::routes::{self, App, MAX_VERBS};
use super::seats::{Seat, Seats};
use super::socket::{self, AdminError, SocketFile};
use super::{Actor, Control};

/// Most header fields of one request.
const MAX_HEADERS: usize = 64;

/// Most bytes of one request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Where and for whom the admin API listens.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// File mode of the socket, e.g. `0o660`. Bits for others are refused.
    pub socket_mode: u32,
    /// Group of the socket, by name or number; `None` keeps the daemon's own.
    pub socket_group: Option<String>,
    /// Directory of the audit log: the event log's.
    pub audit_dir: PathBuf,
    /// Bounds on connections and requests.
    pub limits: Limits,
}

impl AdminConfig {
    /// The ordinary configuration: mode 0660, the daemon's own group, default limits.
    pub fn new(socket: impl Into<PathBuf>, audit_dir: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            socket_mode: 0o660,
            socket_group: None,
            audit_dir: audit_dir.into(),
            limits: Limits::default(),
        }
    }
}

/// Bounds on connections and requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections held at the same time; for one more, the oldest that is still sending its request
    /// or not reading its answer makes room.
    pub max_connections: usize,
    /// Requests that may take long (waits, the begin of a comparison) at the same time; more are refused.
    pub max_long: usize,
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long the body of a request may take to arrive.
    pub body_timeout: Duration,
    /// How long the daemon may take for the answer. A mutating verb goes on beyond it.
    pub request_timeout: Duration,
    /// How long the client may take to read the answer.
    pub answer_timeout: Duration,
    /// How long a connection may last in all.
    pub connection_lifetime: Duration,
    /// How long a shutdown waits for requests and verbs under way.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_long: 128,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(15),
            connection_lifetime: Duration::from_secs(75),
            drain: Duration::from_secs(10),
        }
    }
}

/// Decides whether a peer may use the API.
type PeerRule = Arc<dyn Fn(&Actor) -> bool + Send + Sync>;

/// A bound admin socket, ready to serve. Dropping it removes the socket file.
pub struct AdminServer {
    listener: UnixListener,
    file: SocketFile,
    audit: AuditLog,
    limits: Limits,
    pub(super) rule: PeerRule,
    socket: PathBuf,
}

impl AdminServer {
    /// Binds the socket. Nothing is answered before [`AdminServer::serve`].
    ///
    /// # Errors
    /// When another process answers on the socket, the path is not usable, or the mode or group is not.
    pub async fn bind(config: AdminConfig) -> Result<Self, AdminError> {
        let AdminConfig {
            socket,
            socket_mode,
            socket_group,
            audit_dir,
            limits,
        } = config;
        let (listener, file) = socket::bind(&socket, socket_mode, socket_group.as_deref()).await?;
        let own_uid = rustix::process::geteuid().as_raw();
        let authority = Authority {
            own_uid,
            socket_gid: file.gid,
        };
        let rule: PeerRule = Arc::new(move |actor| authority.allows(actor));
        Ok(Self {
            listener,
            file,
            audit: AuditLog::new(&audit_dir),
            limits,
            rule,
            socket,
        })
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Serves until `shutdown` completes, then lets the requests and verbs under way end (for at most
    /// [`Limits::drain`]) and removes the socket file.
    pub async fn serve(self, control: Arc<dyn Control>, shutdown: impl Future<Output = ()>) {
        let Self {
            listener,
            file,
            audit,
            limits,
            rule,
            socket,
        } = self;
        let verbs = Arc::new(Semaphore::new(MAX_VERBS));
        let app = App {
            control,
            audit: audit.clone(),
            verbs: Arc::clone(&verbs),
            request_timeout: limits.request_timeout,
        };
        let (stop, stopping) = watch::channel(false);
        let door = Arc::new(Door {
            router: routes::router(app, &limits),
            rule,
            audit,
            limits,
            stopping,
        });
        info!(socket = %socket.display(), "admin API ready");

        let mut seats = Seats::new(door.limits.max_connections);
        accept_until(&listener, &door, &mut seats, shutdown).await;

        // New clients are refused at once, not left waiting in the backlog.
        drop((listener, file));
        stop.send_replace(true);
        let ended = async {
            seats.emptied().await;
            // All permits back: no verb is under way, and none can begin.
            let _ = verbs.acquire_many(MAX_VERBS as u32).await;
        };
        if tokio::time::timeout(door.limits.drain, ended)
            .await
            .is_err()
        {
            warn!("admin API: requests still under way at shutdown were cut off");
        }
    }
}

/// Accepts connections until `shutdown`.
async fn accept_until(
    listener: &UnixListener,
    door: &Arc<Door>,
    seats: &mut Seats,
    shutdown: impl Future<Output = ()>,
) {
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::select! {
                    () = &mut shutdown => return,
                    () = seats.free() => {}
                }
                seats.take(|seat| Arc::clone(door).connection(stream, seat));
            }
            Err(error) => {
                // Out of file descriptors, most likely: nothing but time helps.
                warn!(%error, "admin API: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// What every connection needs.
struct Door {
    router: Router,
    rule: PeerRule,
    audit: AuditLog,
    limits: Limits,
    stopping: watch::Receiver<bool>,
}

impl Door {
    /// Serves one connection: one request, then it is closed. Keeping it alive would let an idle client
    /// hold a slot, and saves nothing on a local socket.
    async fn connection(self: Arc<Self>, stream: UnixStream, seat: Arc<Seat>) {
        let router = match self.admit(&stream).await {
            Some(actor) => {
                let router = self.router.clone().layer(Extension(actor));
                router.layer(Extension(Arc::clone(&seat)))
            }
            None => routes::deny_router(),
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .keep_alive(false)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::pin!(connection);
        let mut stopping = self.stopping.clone();
        let served = async {
            tokio::select! {
                result = connection.as_mut() => return result,
                _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                debug!(%error, "admin API: connection ended early");
            },
            () = seat.unread_for(self.limits.answer_timeout) => {
                debug!("admin API: connection cut off, its answer is not read");
            }
            () = tokio::time::sleep(self.limits.connection_lifetime) => {
                debug!("admin API: connection cut off at the end of its time");
            }
        }
    }

    /// The peer, if it may use the API; a refusal is logged and audited.
    async fn admit(&self, stream: &UnixStream) -> Option<Actor> {
        let credentials = match stream.peer_cred() {
            Ok(credentials) => credentials,
            Err(error) => {
                warn!(%error, "admin API: connection denied, its peer is not known");
                return None;
            }
        };
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        let actor = Actor { uid, gid, pid };
        if (self.rule)(&actor) {
            return Some(actor);
        }
        warn!(%actor, "admin API: connection denied, the user is not in the socket's group");
        if let Err(error) = self.audit.denied(&actor).await {
            warn!(%error, "admin API: the denial could not be written to the audit log");
        }
        None
    }
}
