use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use repl_tests::pg::{PgServer, Role, Session};
use repl_tests::proxy::{Direction, Proxy};

/// A server that sends back what it gets.
fn echo_server() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut writer = stream.try_clone()?;
                std::io::copy(&mut &stream, &mut writer)
            });
        }
    });
    Ok(port)
}

fn connect(proxy: &Proxy) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Duration> {
    let started = Instant::now();
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, bytes);
    Ok(started.elapsed())
}

#[test]
fn latency_delays_and_keeps_throughput() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    let mut stream = connect(&proxy)?;
    assert!(round_trip(&mut stream, b"hello")? < Duration::from_millis(50));
    proxy.set_latency(Duration::from_millis(60));
    let delayed = round_trip(&mut stream, b"hello")?;
    assert!(delayed >= Duration::from_millis(120), "{delayed:?}");
    // 256 KiB in one go need one round trip, not one per chunk.
    let large = round_trip(&mut stream, &vec![7; 256 * 1024])?;
    assert!(large < Duration::from_millis(600), "{large:?}");
    Ok(())
}

#[test]
fn a_cut_resets_open_connections_and_new_ones_work() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    let mut stream = connect(&proxy)?;
    round_trip(&mut stream, b"before")?;
    proxy.cut();
    let error = stream
        .read(&mut [0; 1])
        .expect_err("a reset, not an end of stream");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    round_trip(&mut connect(&proxy)?, b"after")?;
    proxy.refuse(true);
    let mut refused = connect(&proxy)?;
    assert!(round_trip(&mut refused, b"x").is_err());
    proxy.refuse(false);
    round_trip(&mut connect(&proxy)?, b"again")?;
    assert_eq!(proxy.accepted(), 3);
    Ok(())
}

#[test]
fn a_hold_is_silence_in_one_direction_until_it_ends() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    let mut stream = connect(&proxy)?;
    round_trip(&mut stream, b"before")?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    for direction in [Direction::ToServer, Direction::ToClient] {
        proxy.hold(direction, true);
        stream.write_all(b"held")?;
        let error = stream.read(&mut [0; 4]).expect_err("silence");
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        proxy.hold(direction, false);
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"held");
    }
    Ok(())
}

#[test]
fn postgresql_speaks_through_single_bytes_and_ends_with_the_cut() -> Result<()> {
    let server = PgServer::builder("proxied").start()?;
    let proxy = Proxy::start(server.port())?;
    proxy.set_one_byte(true);
    let mut session = Session::open(&server.url_via(proxy.port(), "app", Role::Superuser))?;
    let text = session.scalar("SELECT repeat('x', 1000)")?;
    assert_eq!(text.map(|text| text.len()), Some(1000));
    proxy.cut();
    assert!(session.execute("SELECT 1").is_err());
    Ok(())
}
