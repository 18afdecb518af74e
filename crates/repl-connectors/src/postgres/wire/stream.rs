//! The byte stream to a server: TCP or a Unix socket, with TLS on top of TCP.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
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

/// A connected stream.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Connects, and negotiates TLS where the target requires it.
    pub(super) async fn connect(target: &PgTarget) -> Result<Self, WireError> {
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
        let stream = TcpStream::connect((host.as_str(), target.port))
            .await
            .map_err(|e| WireError::Lost(format!("cannot connect: {e}")))?;
        prepare(&stream)?;
        if target.tls.mode == TlsMode::Disable {
            return Ok(Stream::Tcp(stream));
        }
        let stream = negotiate(stream, target).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Has the current runtime watch the socket from now on, instead of the one that did.
    pub(super) fn rehome(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => *stream = rehomed(stream)?,
            Stream::Tls(stream) => {
                let (stream, _) = stream.get_mut();
                *stream = rehomed(stream)?;
            }
            Stream::Unix(stream) => {
                *stream = UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
            }
        }
        Ok(())
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

/// The same connection under another descriptor: it closes when both are closed.
fn rehomed(stream: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())
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
