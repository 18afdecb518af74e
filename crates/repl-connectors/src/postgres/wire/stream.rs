//! The byte stream to a server: TCP or a Unix socket, with TLS on top of TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetStruct;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls;
use crate::postgres::error::WireError;
use crate::postgres::target::{PgHost, PgTarget, TlsMode};

/// Silence after which the kernel probes the peer, time between probes, and their number.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Time that sent bytes may stay unacknowledged before the connection counts as lost.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Receive buffer of [`Room::LittleWithin`], bytes. Measured with PostgreSQL 15 and a look every 1 to 2 ms,
/// processor time of the server for each change of 66 bytes: 2.2 µs with 64 KiB or what the kernel
/// chooses, 1.0 to 1.3 with 16, as with 8. It has to be set before the connection is made: segments
/// are as large as the first window allows, and one that does not fit a smaller one waits for a timer.
pub(super) const NARROW: usize = 16 << 10;

/// How much a server may send before we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// What the kernel finds right.
    Usual,
    /// Little, if it is on this machine.
    LittleWithin,
}

/// `SO_RCVLOWAT`, bytes, which `socket2` does not know.
#[derive(Clone, Copy)]
struct ReceiveLowWatermark;

nix::setsockopt_impl!(
    ReceiveLowWatermark,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    i32,
    SetStruct<'_, i32>
);

/// A connected stream.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Connects, and negotiates TLS where the target requires it.
    pub(super) async fn connect(target: &PgTarget, room: Room) -> Result<Self, WireError> {
        let host = match &target.host {
            PgHost::Unix(_) => {
                let file = target.socket_file().unwrap_or_default();
                let stream = UnixStream::connect(&file)
                    .await
                    .map_err(|e| WireError::Lost(format!("cannot connect: {e}")))?;
                return Ok(Stream::Unix(stream));
            }
            PgHost::Tcp(host) => host,
        };
        let stream = dial(host, target.port, room)
            .await
            .map_err(|e| WireError::Lost(format!("cannot connect: {e}")))?;
        prepare(&stream)?;
        if target.tls.mode == TlsMode::Disable {
            return Ok(Stream::Tcp(stream));
        }
        let stream = negotiate(stream, target).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Has a reader that waits be woken once so many bytes have arrived, instead of by each that
    /// does. Lowering the mark wakes it if there is enough by then (`tcp_set_rcvlowat` in Linux). A Unix
    /// socket wakes its reader at every write whatever the mark.
    pub(super) fn wake_at(&self, bytes: usize) -> io::Result<()> {
        let Some(socket) = self.tcp() else {
            return Ok(());
        };
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        Ok(setsockopt(socket, ReceiveLowWatermark, &bytes)?)
    }

    /// Whether [`Room::LittleWithin`] is in effect.
    pub(super) fn is_narrow(&self) -> bool {
        let buffer = |tcp| SockRef::from(tcp).recv_buffer_size().ok();
        // The kernel doubles what is asked for.
        self.tcp()
            .and_then(buffer)
            .is_some_and(|bytes| bytes <= 2 * NARROW)
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Tls(stream) => Some(stream.get_ref().0),
            Stream::Unix(_) => None,
        }
    }

    /// Whether secrets may be sent as they are: encrypted, or within this machine.
    pub(super) fn is_confidential(&self) -> bool {
        !matches!(self, Stream::Tcp(_))
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// The server's certificate, DER.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Stream::Tls(stream) => {
                let (_, session) = stream.get_ref();
                session
                    .peer_certificates()?
                    .first()
                    .map(|cert| cert.as_ref())
            }
            _ => None,
        }
    }
}

/// Connects to the first of the host's addresses that answers.
async fn dial(host: &str, port: u16, room: Room) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host, port)).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if room == Room::LittleWithin && address.ip().is_loopback() {
            socket.set_recv_buffer_size(NARROW as u32)?;
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Asks for TLS (SSLRequest) and shakes hands. Exactly one byte is read in clear: more would let
/// an attacker slip in bytes before the handshake.
async fn negotiate(
    mut stream: TcpStream,
    target: &PgTarget,
) -> Result<TlsStream<TcpStream>, WireError> {
    let config = tls::client_config(&target.tls)?;
    let name = tls::server_name(target)?;
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => {}
        b'N' => {
            return Err(WireError::Config(
                "the server does not offer TLS, and plain text is not allowed by this node's \
                 configuration"
                    .into(),
                "set `ssl = on` at the server, or `tls = { mode = \"disable\" }` for this node if \
                 the network is trusted"
                    .into(),
            ));
        }
        _ => {
            return Err(WireError::Protocol(
                "unexpected answer to SSLRequest".into(),
            ));
        }
    }
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(tls::handshake_error)
}

macro_rules! on_stream {
    ($self:expr, $inner:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Tcp(inner) => {
                let $inner = Pin::new(inner);
                $body
            }
            Stream::Tls(inner) => {
                let $inner = Pin::new(inner);
                $body
            }
            Stream::Unix(inner) => {
                let $inner = Pin::new(inner);
                $body
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, inner => inner.poll_shutdown(cx))
    }
}
