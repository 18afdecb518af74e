//! Round trips and memory.

use std::time::{Duration, Instant};

use repl_connectors::postgres::apply::{PgApplier, PgApplierConfig};
use repl_connectors::postgres::target::PgHost;
use repl_connectors::seam::{Applier, Style};
use repl_core::batch::Step;
use repl_core::change::Before;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::*;
use crate::server::shared;

/// One way's delay of the proxy.
const DELAY: Duration = Duration::from_millis(40);

/// Forwards to the server, each piece later by `DELAY`; returns its port.
async fn slow_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", shared().port))
                .await
                .unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(forward(from_client, to_server));
            tokio::spawn(forward(from_server, to_client));
        }
    });
    port
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, piece)) = receiver.recv().await {
            tokio::time::sleep_until((at + DELAY).into()).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ = sender.send((Instant::now(), buffer[..n].to_vec()));
    }
}

#[tokio::test]
async fn a_small_batch_costs_one_round_trip() {
    let mut replica = Replica::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE DEFERRABLE); CREATE TABLE u (a int)",
    )
    .await;
    let mut target = shared().target(&replica.database);
    target.host = PgHost::Tcp("127.0.0.1".into());
    target.port = slow_proxy().await;
    replica.applier = PgApplier::new(PgApplierConfig {
        target,
        group: "g".into(),
        replica: "r".into(),
        origin: "primary".into(),
    });
    replica.reopen().await;
    let t = route("t", &["*id integer", "a text"]);
    let u = route("u", &["a integer"]);
    let mut fastest = Duration::MAX;
    for n in 0..6 {
        let (old, new) = (n.to_string(), (n + 1).to_string());
        let mut steps = vec![
            Step::Net(vec![
                net(&t, &[], &[], &[&[&new, &new], &[&format!("{n}00"), "y"]]),
                copies(&u, &[(&[&new], 9)]),
            ]),
            Step::Ordered(vec![(
                t.clone(),
                delete(&t, Before::Key(row(&[&format!("{n}00"), "~"]))),
            )]),
        ];
        if n > 0 {
            steps.push(Step::Net(vec![
                net(&t, &[&[&old, "~"]], &[&[&new, "z"]], &[]),
                copies(&u, &[(&[&old], -9)]),
            ]));
        }
        let start = Instant::now();
        replica.apply(&steps, Style::SetWise).await.unwrap();
        // The first two also read the catalog; one of the others may have waited for a processor.
        if n > 1 {
            fastest = fastest.min(start.elapsed());
        }
    }
    assert!(
        fastest < 3 * DELAY,
        "one round trip is {:?}, it took {fastest:?}",
        2 * DELAY
    );
    assert_eq!(replica.rows("SELECT * FROM t").await, ["6|z"]);
    assert_eq!(replica.rows("SELECT DISTINCT a FROM u").await, ["6"]);
}

#[tokio::test]
async fn giving_up_in_the_middle_leaves_nothing_behind() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = route("t", &["*id integer"]);
    let mut other = shared().client(&replica.database).await;
    other.simple("BEGIN; LOCK TABLE t").await.unwrap();
    let change = net(&t, &[], &[], &[&["1"]]);
    let wait = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(wait, replica.net(change.clone()))
            .await
            .is_err()
    );
    other.simple("ROLLBACK").await.unwrap();
    let state = replica.applier.open().await.unwrap();
    replica.seq = state.checkpoint.unwrap().seq.0;
    assert!(replica.seq <= 1);
    if replica.seq == 0 {
        replica.net(change).await.unwrap();
    }
    assert_eq!(replica.rows("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn large_values_pass_and_are_not_kept() {
    let mut replica = Replica::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = route("t", &["*id integer", "a text"]);
    let large = "\\\"é\n".repeat(4_000_000);
    let rows: Vec<[&str; 2]> = ["1", "2", "3", "4", "5"]
        .iter()
        .map(|id| [*id, large.as_str()])
        .collect();
    let rows: Vec<&[&str]> = rows.iter().map(|r| r.as_slice()).collect();
    replica.net(net(&t, &[], &[], &rows)).await.unwrap();
    replica.net(net(&t, &[], &rows, &[])).await.unwrap();
    replica.net(net(&t, &[], &rows[..1], &[])).await.unwrap();
    let sql = "SELECT DISTINCT md5(a) = md5(repeat(E'\\\\\"é\\n', 4000000)) FROM t";
    assert_eq!(replica.rows(sql).await, ["t"]);
}
