//! A TCP proxy with faults: delay, silence in one or both directions, resets, one-byte writes.
//!
//! It stands for the network between the daemon and a server. Faults are switched while
//! connections are open and act on them at once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ports::Port;

/// Chunks of up to 16 KiB in flight per direction: the proxy's "window".
const WINDOW: usize = 64;

/// A direction of traffic, named from the client's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client (the daemon) to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

#[derive(Debug, Clone, Default)]
struct Faults {
    /// One-way delay.
    latency: Duration,
    hold_to_server: bool,
    hold_to_client: bool,
    one_byte: bool,
    refuse: bool,
    closed: bool,
    /// Connections with a lower number have been cut.
    cut_below: u64,
    /// Connections with a lower number pass nothing, newer ones do.
    frozen_below: u64,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        // A panicking pump leaves plain switches behind, which stay valid.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults());
        self.changed.notify_all();
    }

    /// Waits while `direction` is held; false when the connection is to end.
    fn pass(&self, connection: u64, direction: Direction) -> bool {
        let mut faults = self.faults();
        loop {
            if faults.closed || connection < faults.cut_below {
                return false;
            }
            let held = match direction {
                Direction::ToServer => faults.hold_to_server,
                Direction::ToClient => faults.hold_to_client,
            };
            if !held && connection >= faults.frozen_below {
                return true;
            }
            faults = self
                .changed
                .wait(faults)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A proxy on a loopback port in front of one server. Closed on drop.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    count: u64,
    open: Vec<(u64, TcpStream, TcpStream)>,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to `127.0.0.1:server_port`.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(server_port: u16) -> Result<Self> {
        Self::with_window(server_port, WINDOW)
    }

    /// [`Proxy::start`] with room for `window` chunks of up to 16 KiB under way per direction, where
    /// latency must not limit the throughput.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub fn with_window(server_port: u16, window: usize) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind(("127.0.0.1", port.number()))
            .context("the proxy cannot listen on its port")?;
        let proxy = Self {
            port,
            shared: Arc::default(),
            connections: Arc::default(),
        };
        let (shared, connections) = (proxy.shared.clone(), proxy.connections.clone());
        thread::spawn(move || accept(&listener, (server_port, window), &shared, &connections));
        Ok(proxy)
    }

    /// The port clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Delays every byte by `one_way` in each direction; throughput is kept.
    pub fn set_latency(&self, one_way: Duration) {
        self.shared.change(|faults| faults.latency = one_way);
    }

    /// Writes one byte at a time (each its own segment).
    pub fn set_one_byte(&self, on: bool) {
        self.shared.change(|faults| faults.one_byte = on);
    }

    /// Passes nothing in `direction`; connections stay open. What was sent meanwhile is delivered
    /// when the hold ends, as TCP would by retransmission.
    pub fn hold(&self, direction: Direction, on: bool) {
        self.shared.change(|faults| match direction {
            Direction::ToServer => faults.hold_to_server = on,
            Direction::ToClient => faults.hold_to_client = on,
        });
    }

    /// Passes nothing in either direction, for open and new connections.
    pub fn blackhole(&self, on: bool) {
        self.hold(Direction::ToServer, on);
        self.hold(Direction::ToClient, on);
    }

    /// Passes nothing on the connections that are open now, in either direction, while new ones
    /// work: what these clients have sent, even of clients that are dead by then, arrives when
    /// [`Proxy::thaw`] is called.
    pub fn freeze_open(&self) {
        let next = lock(&self.connections).count;
        self.shared.change(|faults| faults.frozen_below = next);
    }

    /// Ends [`Proxy::freeze_open`].
    pub fn thaw(&self) {
        self.shared.change(|faults| faults.frozen_below = 0);
    }

    /// Resets new connections at once (open ones stay).
    pub fn refuse(&self, on: bool) {
        self.shared.change(|faults| faults.refuse = on);
    }

    /// Resets (RST) all open connections, on both sides, possibly in the middle of a message.
    pub fn cut(&self) {
        let mut connections = lock(&self.connections);
        let next = connections.count;
        for (_, client, server) in connections.open.drain(..) {
            reset(&client);
            reset(&server);
        }
        drop(connections);
        self.shared.change(|faults| faults.cut_below = next);
    }

    /// How many connections have been accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        lock(&self.connections).count
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|faults| faults.closed = true);
        self.cut();
        // Wakes the accepting thread, which then sees that it is closed.
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port.number())));
    }
}

fn lock(connections: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Aborts a connection: dissolving a TCP association sends RST at once, whatever other handles of
/// the socket exist and whichever thread is blocked on them.
fn reset(stream: &TcpStream) {
    // Closed by its peer already: nothing left to abort.
    let _ = rustix::net::connect_unspec(stream);
}

fn accept(
    listener: &TcpListener,
    (server_port, window): (u16, usize),
    shared: &Arc<Shared>,
    connections: &Arc<Mutex<Connections>>,
) {
    for client in listener.incoming().flatten() {
        let (closed, refuse) = {
            let faults = shared.faults();
            (faults.closed, faults.refuse)
        };
        if closed {
            return;
        }
        if refuse {
            reset(&client);
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else {
            // Nobody listens there: the client sees its connection reset.
            reset(&client);
            continue;
        };
        // Failing to set up a connection's threads is a lost connection like any other.
        let _ = forward((client, server), window, shared, connections);
    }
}

fn forward(
    (client, server): (TcpStream, TcpStream),
    window: usize,
    shared: &Arc<Shared>,
    connections: &Arc<Mutex<Connections>>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let number = {
        let mut all = lock(connections);
        let number = all.count;
        all.count += 1;
        all.open
            .push((number, client.try_clone()?, server.try_clone()?));
        number
    };
    let pairs = [
        (
            client.try_clone()?,
            server.try_clone()?,
            Direction::ToServer,
        ),
        (server, client, Direction::ToClient),
    ];
    for (from, to, direction) in pairs {
        let (sender, receiver) = sync_channel(window);
        let delay = shared.clone();
        thread::spawn(move || read_side(from, &sender, &delay));
        let (shared, connections) = (shared.clone(), connections.clone());
        thread::spawn(move || {
            write_side(&to, &receiver, &shared, number, direction);
            lock(&connections)
                .open
                .retain(|(open, _, _)| *open != number);
        });
    }
    Ok(())
}

type Chunk = (Instant, Vec<u8>);

fn read_side(mut from: TcpStream, sender: &SyncSender<Chunk>, shared: &Shared) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let due = Instant::now() + shared.faults().latency;
        if sender.send((due, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn write_side(
    mut to: &TcpStream,
    receiver: &Receiver<Chunk>,
    shared: &Shared,
    connection: u64,
    direction: Direction,
) {
    for (due, bytes) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let step = if shared.faults().one_byte {
            1
        } else {
            bytes.len()
        };
        for piece in bytes.chunks(step) {
            if !shared.pass(connection, direction) || to.write_all(piece).is_err() {
                // Both ends learn of it: the reader of this direction too.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
