//! Messages over a stream: buffers, framing, and writing without deadlock.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::message::backend::{self, COPY_DATA_TAG, Message};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::look::PgLook;
use super::stream::{NARROW, Stream};
use crate::answer::{Patience, SILENCE};
use crate::postgres::error::WireError;

/// Room made for each read, bytes. Many messages arrive in one read, and their contents are
/// slices of this buffer.
const READ_ROOM: usize = 256 * 1024;
/// Largest message accepted unless another limit is set: PostgreSQL's own limit of a field plus
/// the rest of its row.
const DEFAULT_LIMIT: usize = 1 << 30;
/// Bytes of a frame's header: tag and length.
pub(super) const HEADER: usize = 5;
/// Received bytes that may wait while a plain flush is still writing. A server that sends more
/// than this without reading is waited for.
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Capacity kept of an empty buffer, bytes: a huge row must not stay paid for.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// How long a broken connection is listened to for the server's reason.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What one step of [`Conn::pump`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Everything queued was written.
    Written,
    /// Something was received first; look at it, then pump on.
    Received,
}

/// A connection with its buffers.
pub(super) struct Conn {
    stream: Stream,
    inbound: BytesMut,
    outbound: BytesMut,
    limit: usize,
    /// The mark last set by [`Stream::wake_at`].
    watermark: usize,
    narrow: bool,
    /// Looks at the session when its server is silent; none where silence is no news.
    look: Option<Arc<PgLook>>,
    patience: Patience,
}

impl Conn {
    pub(super) fn new(stream: Stream) -> Self {
        Conn {
            narrow: stream.is_narrow(),
            stream,
            watermark: 1,
            inbound: BytesMut::with_capacity(READ_ROOM),
            outbound: BytesMut::new(),
            limit: DEFAULT_LIMIT,
            look: None,
            patience: Patience::default(),
        }
    }

    /// Has the session be looked at when its server is silent.
    pub(super) fn set_look(&mut self, look: Option<Arc<PgLook>>) {
        self.look = look;
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// See [`Stream::wake_at`].
    pub(super) fn wake_at(&mut self, bytes: usize) -> Result<(), WireError> {
        if self.watermark != bytes {
            self.stream.wake_at(bytes)?;
            self.watermark = bytes;
        }
        Ok(())
    }

    /// See [`Stream::is_narrow`].
    pub(super) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// Messages above this size are refused before they are read.
    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Where messages to be sent are appended.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// Tag and content of the next message if it was received completely; the frame's five bytes
    /// are still in front of the content.
    pub(super) fn buffered_frame(&mut self) -> Result<Option<(u8, BytesMut)>, WireError> {
        Ok(self
            .complete()?
            .map(|(tag, total)| (tag, self.inbound.split_to(total))))
    }

    /// Tag and total size of the next message if it was received completely.
    fn complete(&self) -> Result<Option<(u8, usize)>, WireError> {
        complete(&self.inbound, self.limit)
    }

    /// Moves the contents of the CopyData messages that were received completely to `out`, until that
    /// holds `bytes`; how many messages they were.
    pub(super) fn take_copy_data(
        &mut self,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<u64, WireError> {
        let (mut at, mut messages) = (0, 0);
        while out.len() < bytes {
            let Some((COPY_DATA_TAG, total)) = complete(&self.inbound[at..], self.limit)? else {
                break;
            };
            out.extend_from_slice(&self.inbound[at + HEADER..at + total]);
            at += total;
            messages += 1;
        }
        self.inbound.advance(at);
        Ok(messages)
    }

    /// The next message if it was received completely.
    pub(super) fn buffered_message(&mut self) -> Result<Option<Message>, WireError> {
        if self.complete()?.is_none() {
            return Ok(None);
        }
        Ok(Message::parse(&mut self.inbound)?)
    }

    /// Whether a complete message waits.
    pub(super) fn has_buffered(&mut self) -> bool {
        // An oversized message counts: fetching it reports it.
        !matches!(self.complete(), Ok(None))
    }

    /// Reads once, for as long as the server is there. Safe to cancel: nothing received is lost.
    pub(super) async fn receive(&mut self) -> Result<(), WireError> {
        let Some(look) = self.look.clone() else {
            return self.read_once().await;
        };
        loop {
            if let Ok(outcome) = tokio::time::timeout(SILENCE, self.read_once()).await {
                self.patience.renew();
                return outcome;
            }
            self.look_at(&look).await?;
        }
    }

    async fn look_at(&mut self, look: &PgLook) -> Result<(), WireError> {
        let looked = self.patience.look(look).await;
        looked.map_err(|error| WireError::Silent(Box::new(error)))
    }

    async fn read_once(&mut self) -> Result<(), WireError> {
        self.make_room();
        let at_once = self.at_once();
        let mut room = (&mut self.inbound).limit(at_once);
        if self.stream.read_buf(&mut room).await? == 0 {
            return Err(WireError::Lost("the server closed the connection".into()));
        }
        Ok(())
    }

    /// Reads what has arrived already, without waiting; false when that is nothing.
    pub(super) async fn receive_arrived(&mut self) -> Result<bool, WireError> {
        self.make_room();
        let at_once = self.at_once();
        let Conn {
            stream, inbound, ..
        } = self;
        let mut room = inbound.limit(at_once);
        let read = poll_fn(|cx| {
            let read = std::pin::pin!(stream.read_buf(&mut room));
            Poll::Ready(read.poll(cx))
        });
        match read.await {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(WireError::Lost("the server closed the connection".into())),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(error.into()),
        }
    }

    /// Most bytes of one read. A peer with little room goes on sending as soon as half of it is free,
    /// which a read that was filled does not miss: only one that was not is taken for the last.
    fn at_once(&self) -> usize {
        match self.narrow {
            true => NARROW / 2,
            false => usize::MAX,
        }
    }

    /// Room for a read. The rest of a large message is not reserved at once, so that a length
    /// alone makes nobody allocate; doubling keeps the copying linear.
    fn make_room(&mut self) {
        if self.inbound.is_empty() && self.inbound.capacity() > KEPT_BYTES {
            self.inbound = BytesMut::new();
        }
        if self.inbound.capacity() - self.inbound.len() < READ_ROOM / 4 {
            self.inbound.reserve(READ_ROOM.max(self.inbound.len()));
        }
    }

    /// The next message. Safe to cancel.
    pub(super) async fn next_message(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(message) = self.buffered_message()? {
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    /// Writes what is queued, but stops to hand over whatever the server sends meanwhile: a server
    /// that cannot send its replies stops reading, and both would wait for ever. Safe to cancel.
    pub(super) async fn pump(&mut self) -> Result<Pumped, WireError> {
        self.write_or_read(usize::MAX).await
    }

    /// Writes all that is queued; what the server sends meanwhile waits in the buffer. Safe to
    /// cancel.
    pub(super) async fn flush(&mut self) -> Result<(), WireError> {
        while self.write_or_read(WAITING_BYTES).await? != Pumped::Written {}
        Ok(())
    }

    async fn write_or_read(&mut self, waiting_limit: usize) -> Result<Pumped, WireError> {
        let Some(look) = self.look.clone() else {
            return self.write_or_read_once(waiting_limit).await;
        };
        loop {
            let once = self.write_or_read_once(waiting_limit);
            if let Ok(outcome) = tokio::time::timeout(SILENCE, once).await {
                self.patience.renew();
                return outcome;
            }
            self.look_at(&look).await?;
        }
    }

    async fn write_or_read_once(&mut self, waiting_limit: usize) -> Result<Pumped, WireError> {
        self.make_room();
        let Conn {
            stream,
            inbound,
            outbound,
            ..
        } = self;
        let pumped = poll_fn(|cx| {
            while outbound.has_remaining() {
                match Pin::new(&mut *stream).poll_write(cx, outbound) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    Poll::Ready(Ok(written)) => outbound.advance(written),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return poll_read(stream, inbound, waiting_limit, cx),
                }
            }
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(Pumped::Written)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => poll_read(stream, inbound, waiting_limit, cx),
            }
        })
        .await;
        match pumped {
            Ok(pumped) => {
                if self.outbound.is_empty() && self.outbound.capacity() > KEPT_BYTES {
                    self.outbound = BytesMut::new();
                }
                Ok(pumped)
            }
            Err(error) => Err(self.why_broken(error).await),
        }
    }

    /// A server that ends a session says why before it closes; that is worth more than "broken
    /// pipe".
    async fn why_broken(&mut self, error: io::Error) -> WireError {
        let last_words =
            async { while self.inbound.len() < WAITING_BYTES && self.receive().await.is_ok() {} };
        // Whether they come or not: after a second nobody waits for them any more.
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        while let Ok(Some(message)) = self.buffered_message() {
            if let Message::ErrorResponse(body) = message {
                let server = super::ServerError::from_fields(body.fields());
                return WireError::Server(Box::new(server));
            }
        }
        error.into()
    }
}

/// Tag and total size of the message at the start of `bytes`, if it is there completely.
fn complete(bytes: &[u8], limit: usize) -> Result<Option<(u8, usize)>, WireError> {
    let Some(header) = backend::Header::parse(bytes)? else {
        return Ok(None);
    };
    // Header::parse guarantees a length of at least 4.
    let total = header.len() as usize + 1;
    if total > limit {
        return Err(WireError::TooLarge {
            bytes: total as u64,
            limit: limit as u64,
        });
    }
    Ok((bytes.len() >= total).then_some((header.tag(), total)))
}

fn poll_read(
    stream: &mut Stream,
    inbound: &mut BytesMut,
    waiting_limit: usize,
    cx: &mut std::task::Context<'_>,
) -> Poll<io::Result<Pumped>> {
    if inbound.len() >= waiting_limit {
        return Poll::Pending;
    }
    let read = std::pin::pin!(stream.read_buf(inbound));
    match read.poll(cx) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(Pumped::Received)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
