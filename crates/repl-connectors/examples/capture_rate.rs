//! Measures the capture alone: from a PostgreSQL server's WAL into a durable event log, with no
//! replica attached.
//!
//! `capture_rate <socket directory or host> <port> <user> [rounds] [rows]`, best in release mode. The server
//! must have `wal_level = logical` and accept the user, a superuser, without a password. In its
//! database `postgres` a table and slots named `capture_rate…` are made and removed. Each workload
//! is written once; every round reads it from the same WAL through a slot of its own into a new
//! log under the temporary directory, which should be on the disk meant for the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repl_connectors::postgres::capture::{PgCapture, PgCaptureOptions};
use repl_connectors::postgres::target::{PgHost, PgTarget, PgTls, TlsMode};
use repl_connectors::postgres::wire::PgClient;
use repl_connectors::seam::{Capture, CaptureBoard, CaptureLimits, CapturePort, Released};
use repl_core::Epoch;
use repl_core::log::disk::HostDisk;
use repl_core::log::file::{FileLog, FileLogOptions};
use repl_core::log::{EventLog, TxWriter};
use repl_core::position::Seq;
use repl_core::select::{Selection, TablePattern};
use tokio::sync::{mpsc, watch};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

const TABLE: &str = "capture_rate";

/// Transactions of one shape.
struct Workload {
    name: &'static str,
    transactions: u64,
    rows_each: u64,
}

/// What one round took.
struct Round {
    elapsed: Duration,
    capture_cpu: Duration,
    walsender_cpu: Duration,
}

fn main() -> AnyResult<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, user, rest @ ..] = arguments.as_slice() else {
        return Err(
            "usage: capture_rate <socket directory or host> <port> <user> [rounds] [rows]".into(),
        );
    };
    let rounds: u32 = rest.first().map_or(Ok(3), |text| text.parse())?;
    let rows: u64 = rest.get(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let target = target(host, port.parse()?, user);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for (name, transactions, rows_each) in [
        ("transactions of 100 rows", rows / 100, 100),
        ("transactions of 1 row", rows / 5, 1),
        ("one transaction", 1, rows / 2),
    ] {
        let workload = Workload {
            name,
            transactions,
            rows_each,
        };
        runtime.block_on(measure(&target, &workload, rounds))?;
    }
    Ok(())
}

fn target(host: &str, port: u16, user: &str) -> PgTarget {
    PgTarget {
        host: match host.starts_with('/') {
            true => PgHost::Unix(PathBuf::from(host)),
            false => PgHost::Tcp(host.to_owned()),
        },
        port,
        user: user.to_owned(),
        password: None,
        database: "postgres".to_owned(),
        tls: PgTls {
            mode: TlsMode::Disable,
            ..PgTls::default()
        },
        connect_timeout: Duration::from_secs(10),
        application_name: TABLE.to_owned(),
    }
}

async fn measure(target: &PgTarget, workload: &Workload, rounds: u32) -> AnyResult<()> {
    let mut sql = PgClient::connect(target, &[]).await?;
    clean(&mut sql).await?;
    for statement in [
        format!("CREATE TABLE {TABLE} (id bigint PRIMARY KEY, amount int, note text)"),
        format!("CREATE PUBLICATION {TABLE} FOR TABLE {TABLE}"),
        format!("SELECT pg_create_logical_replication_slot('{TABLE}', 'pgoutput')"),
        "SET synchronous_commit = off".to_owned(),
        load(workload),
        "CHECKPOINT".to_owned(),
    ] {
        sql.simple(&statement).await?;
    }
    for round in 1..=rounds {
        let slot = format!("{TABLE}_{round}");
        let copy = format!("SELECT pg_copy_logical_replication_slot('{TABLE}', '{slot}')");
        sql.simple(&copy).await?;
        let took = capture(target, &slot, workload.transactions, &mut sql).await?;
        let rows = (workload.transactions * workload.rows_each) as f64;
        println!(
            "{}: {:.0} rows/s; per row {:.2} µs of which capture's CPU {:.2} µs, walsender's CPU \
             {:.2} µs",
            workload.name,
            rows / took.elapsed.as_secs_f64(),
            took.elapsed.as_secs_f64() * 1e6 / rows,
            took.capture_cpu.as_secs_f64() * 1e6 / rows,
            took.walsender_cpu.as_secs_f64() * 1e6 / rows,
        );
    }
    clean(&mut sql).await
}

fn load(workload: &Workload) -> String {
    let (transactions, rows) = (workload.transactions, workload.rows_each);
    format!(
        "DO $$ BEGIN FOR n IN 0..{transactions} - 1 LOOP \
         INSERT INTO {TABLE} SELECT n * {rows}::bigint + i, i % 1000, md5(i::text) \
         FROM generate_series(1, {rows}) i; COMMIT; END LOOP; END $$"
    )
}

async fn clean(sql: &mut PgClient) -> AnyResult<()> {
    // The walsender of a closed stream takes a moment to leave its slot.
    let drop_slots = format!(
        "DO $$ DECLARE s name; BEGIN \
         WHILE EXISTS (SELECT FROM pg_replication_slots WHERE slot_name LIKE '{TABLE}%' AND active) \
         LOOP PERFORM pg_sleep(0.01); END LOOP; \
         FOR s IN SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '{TABLE}%' \
         LOOP PERFORM pg_drop_replication_slot(s); END LOOP; END $$"
    );
    sql.simple(&drop_slots).await?;
    sql.simple(&format!("DROP PUBLICATION IF EXISTS {TABLE}"))
        .await?;
    sql.simple(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    Ok(())
}

/// Captures until `transactions` are durable in a new log.
async fn capture(
    target: &PgTarget,
    slot: &str,
    transactions: u64,
    sql: &mut PgClient,
) -> AnyResult<Round> {
    let dir = std::env::temp_dir().join(format!("{slot}-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let log: Arc<dyn EventLog> =
        FileLog::open(&dir, FileLogOptions::default(), Arc::new(HostDisk))?.log;
    let flusher = Flusher::start(Arc::clone(&log));
    let (mut port, stop, _releasing) = port(log)?;
    let mut durable = port.durable.clone();
    let mut capture = PgCapture::new(
        target.clone(),
        PgCaptureOptions {
            node: "primary".to_owned(),
            slot: slot.to_owned(),
            publication: TABLE.to_owned(),
            standby: "repl_rate".into(),
            manage_publication: false,
        },
    );
    capture.rebase(&mut port, Epoch(1), "measured").await?;
    let ends = durable.wait_for(|durable| durable.epoch == Epoch(1));
    tokio::time::timeout(Duration::from_secs(10), ends).await??;

    let cpu = cpu_time(Path::new("/proc/self/stat"))?;
    let started = Instant::now();
    let watched = async {
        durable
            .wait_for(|durable| durable.seq == Seq(transactions))
            .await?;
        let took = (started.elapsed(), cpu_time(Path::new("/proc/self/stat")));
        let walsender = walsender_cpu(sql, slot).await;
        stop.send_replace(true);
        AnyResult::Ok((took, walsender))
    };
    // It only ends by itself when it fails.
    let running = async { capture.run(&mut port).await.map_err(Into::into) };
    let ((), ((elapsed, cpu_after), walsender_cpu)) = tokio::try_join!(running, watched)?;
    flusher.stop();
    std::fs::remove_dir_all(&dir)?;
    Ok(Round {
        elapsed,
        capture_cpu: cpu_after?.saturating_sub(cpu),
        walsender_cpu: walsender_cpu?,
    })
}

/// The port, what stops the capture, and what would release commits that wait: nobody's here, but a
/// capture whose other end is gone stops.
fn port(
    log: Arc<dyn EventLog>,
) -> AnyResult<(CapturePort, watch::Sender<bool>, watch::Sender<Released>)> {
    let (durable_sender, durable) = watch::channel(log.bounds().durable);
    log.on_durable(Box::new(move |end| {
        durable_sender.send_replace(end.clone());
    }));
    let stop = watch::Sender::new(false);
    let releasing = watch::Sender::new(Released::default());
    let port = CapturePort {
        writer: TxWriter::new(log)?,
        durable,
        released: releasing.subscribe(),
        selection: Selection {
            include: vec![TablePattern::parse(TABLE, "public")?],
            ..Selection::default()
        },
        limits: CaptureLimits {
            pending_bytes: 64 << 20,
            max_row_bytes: 64 << 20,
            heartbeat_interval: Duration::from_secs(10),
            table_refresh_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            poll_interval_max: Duration::from_millis(100),
        },
        board: Arc::new(CaptureBoard::default()),
        demand: Arc::default(),
        shutdown: stop.subscribe(),
        ingest_allowed: watch::channel(true).1,
        snapshots: mpsc::channel(1).1,
    };
    Ok((port, stop, releasing))
}

/// Group commit, as the daemon does it.
struct Flusher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flusher {
    fn start(log: Arc<dyn EventLog>) -> Flusher {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                log.wait_for_work(Duration::from_millis(100));
                if let Err(error) = log.flush() {
                    eprintln!("flushing the log: {error}");
                    return;
                }
            }
        });
        Flusher { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            eprintln!("the flushing thread panicked");
        }
    }
}

/// CPU time of the walsender that serves the slot; zero when the server is on another machine.
async fn walsender_cpu(sql: &mut PgClient, slot: &str) -> AnyResult<Duration> {
    let ask = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let rows = sql.simple(&ask).await?;
    let pid = rows.into_iter().flatten().flatten().next();
    let pid = pid.ok_or("the slot's walsender is gone")?;
    Ok(cpu_time(&Path::new("/proc").join(pid).join("stat")).unwrap_or_default())
}

/// User and system time of a process, from its `stat` file in `/proc`.
fn cpu_time(stat: &Path) -> AnyResult<Duration> {
    /// Linux tells times in ticks of this length, whatever the kernel's own are.
    const TICK: Duration = Duration::from_millis(10);
    let text = std::fs::read_to_string(stat)?;
    // The command's name, in parentheses, may hold blanks.
    let fields = text.rsplit_once(')').ok_or("no process status")?.1;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).unwrap_or(&"0").parse::<u32>();
    Ok(TICK * (ticks(11)? + ticks(12)?))
}
