//! The initial copy of a table, from nothing to a replica that follows: the daemon, native logical
//! replication's own copy, and `COPY TO | COPY FROM` through a pipe as the bare cost of moving rows.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use repl_tests::pg::binaries::Installation;
use repl_tests::pg::{DATABASE, PgServer, Role};

use crate::cluster::Cluster;
use crate::load::{self, ITEMS};
use crate::native::{Commit, Native};
use crate::options::Options;
use crate::ours::Service;
use crate::report::{Kind, Report};
use crate::run::Memory;

const SCENARIO: &str = "copy";
/// Rows per transaction of the load.
const SIZE: u64 = 1000;

/// Runs the scenario.
///
/// # Errors
/// When a server or a side fails, or a replica does not hold the primary's rows afterwards.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    let rows = options.volume(2_000_000);
    load::create_items(&cluster)?;
    load::insert_items(&cluster.primary, 0, rows / SIZE, SIZE)?;
    cluster.primary.execute("VACUUM ANALYZE")?;
    if !options.ours_only {
        Native::publish(&cluster, &[ITEMS])?;
    }
    let (mut ours, mut native, mut pipe) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let measure =
            |name: &str, rates: &mut Vec<f64>, side: &mut dyn FnMut() -> Result<Duration>| {
                cluster.settle()?;
                let took = side().with_context(|| format!("round {}, {name}", round + 1))?;
                eprintln!("  round {} {name}: {:.2} s", round + 1, took.as_secs_f64());
                rates.push(rows as f64 / took.as_secs_f64());
                Ok::<(), anyhow::Error>(())
            };
        measure("ours", &mut ours, &mut || by_us(&cluster, round, memory))?;
        if !options.ours_only {
            measure("native", &mut native, &mut || natively(&cluster))?;
        }
        measure("pipe", &mut pipe, &mut || by_pipe(&cluster))?;
    }
    report.absolute(SCENARIO, "ours", "rows/s", &ours);
    report.absolute(SCENARIO, "native", "rows/s", &native);
    report.absolute(SCENARIO, "pipe with primary key", "rows/s", &pipe);
    let better = Kind::RatioHigherBetter;
    report.ratio(SCENARIO, "ours / native", better, &ours, &native);
    report.ratio(SCENARIO, "ours / pipe", better, &ours, &pipe);
    Ok(())
}

/// From the start of a daemon that knows nothing to its replica following.
fn by_us(cluster: &Cluster, round: u32, memory: &mut Memory) -> Result<Duration> {
    let remove = format!("DROP SCHEMA IF EXISTS repl CASCADE; DROP TABLE {ITEMS}");
    cluster.ours.execute(&remove)?;
    let group = format!("copy{round}");
    let started = Instant::now();
    let mut service = Service::launch(&group, |config| {
        config
            .primary("main", &cluster.url(&cluster.primary, DATABASE))
            .replica("replica-1", &cluster.url(&cluster.ours, DATABASE))
            .with(
                "tables.include",
                repl_tests::daemon::Toml::raw("[\"public.items\"]"),
            )
    })?;
    let took = started.elapsed();
    cluster.verify(&cluster.ours, DATABASE, &[ITEMS])?;
    memory.note(SCENARIO, &service);
    service
        .daemon()
        .call(|client| async move {
            let confirm = client.status().await?.group;
            client
                .drop_slot(&repl_api::SlotDropRequest { confirm })
                .await
        })
        .context("dropping the slot")?;
    service.stop()?;
    Ok(took)
}

/// From the subscription to the end of its copy. The table is there with its key, as native
/// replication asks for.
fn natively(cluster: &Cluster) -> Result<Duration> {
    cluster.native.execute(&format!("TRUNCATE {ITEMS}"))?;
    let started = Instant::now();
    let native = Native::attach(cluster, Commit::Off)?;
    let took = started.elapsed();
    cluster.verify(&cluster.native, DATABASE, &[ITEMS])?;
    native.detach()?;
    Ok(took)
}

/// `COPY TO | COPY FROM` into a table without its key, and the key afterwards.
fn by_pipe(cluster: &Cluster) -> Result<Duration> {
    const COPY: &str = "bench_pipe";
    cluster.native.execute(&format!(
        "DROP TABLE IF EXISTS {COPY}; CREATE TABLE {COPY} (LIKE {ITEMS})"
    ))?;
    let started = Instant::now();
    let mut reader = psql(&cluster.primary, &format!("COPY {ITEMS} TO STDOUT"))?
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start psql")?;
    let rows = reader.stdout.take().context("psql has no output")?;
    let written = psql(&cluster.native, &format!("COPY {COPY} FROM STDIN"))?
        .stdin(rows)
        .status()?;
    ensure!(written.success() && reader.wait()?.success(), "psql failed");
    cluster
        .native
        .execute(&format!("ALTER TABLE {COPY} ADD PRIMARY KEY (id)"))?;
    Ok(started.elapsed())
}

fn psql(server: &PgServer, sql: &str) -> Result<Command> {
    let mut command = Command::new(Installation::get()?.program("psql"));
    command.arg(server.url(DATABASE, Role::Superuser)).args([
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        sql,
    ]);
    Ok(command)
}
