//! Comparing contents: validation of every value against data-diff, counts against the bare counts.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use repl_api::{Validation, ValidationRequest, Verdict};
use repl_tests::mariadb::{self, MariaDb};
use repl_tests::pg::DATABASE;

use crate::cluster::Cluster;
use crate::load::{self, ITEMS};
use crate::options::Options;
use crate::ours::Service;
use crate::report::{Kind, Report};
use crate::run::Memory;

const SCENARIO: &str = "validate";
/// Rows per transaction of the load.
const SIZE: u64 = 1000;
/// How often a validation under way is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// data-diff takes the password in a URL of MySQL as it is written there, special characters included.
const DATA_DIFF_USER: &str = "CREATE USER data_diff@'%' IDENTIFIED BY 'data_diff'; \
    GRANT ALL ON *.* TO data_diff@'%'";

/// A replica to compare with the primary.
struct Target<'a> {
    name: &'static str,
    url: String,
    /// Where data-diff finds it.
    data_diff_url: String,
    count: Box<dyn Fn() -> Result<i64> + Send + Sync + 'a>,
}

/// Times of one target, seconds.
#[derive(Default)]
struct Series {
    deep: Vec<f64>,
    data_diff: Vec<f64>,
    counts: Vec<f64>,
    bare: Vec<f64>,
}

/// Runs the scenario for PostgreSQL, and for MariaDB where it is installed.
///
/// # Errors
/// When a server, the daemon or data-diff fails, or finds a difference.
pub fn run(options: &Options, report: &mut Report, memory: &mut Memory) -> Result<()> {
    let cluster = Cluster::start(options, report)?;
    let rows = options.volume(2_000_000);
    load::create_items(&cluster)?;
    load::insert_items(&cluster.primary, 0, rows / SIZE, SIZE)?;
    let maria = match mariadb::version() {
        Ok(_) => Some(MariaDb::start_with(
            "replica",
            &[],
            &["--innodb-buffer-pool-size=512M"],
        )?),
        Err(error) => {
            report.note(&format!("MariaDB was not measured: {error:#}"));
            None
        }
    };
    let mut targets = vec![Target {
        name: "postgres",
        url: cluster.url(&cluster.ours, DATABASE),
        data_diff_url: cluster.url(&cluster.ours, DATABASE),
        count: Box::new(|| {
            cluster
                .ours
                .query_i64(&format!("SELECT count(*) FROM {ITEMS}"))
        }),
    }];
    if let Some(maria) = &maria {
        maria.execute(DATA_DIFF_USER)?;
        let url = maria.url(DATABASE);
        let host = url.rsplit_once('@').context("the URL names no user")?.1;
        targets.push(Target {
            name: "mariadb",
            data_diff_url: format!("mysql://data_diff:data_diff@{host}"),
            url,
            count: Box::new(|| maria.query_i64(&format!("SELECT count(*) FROM {ITEMS}"))),
        });
    }
    cluster.ours.execute(&format!("DROP TABLE {ITEMS}"))?;
    let service = Service::launch("validate", |config| {
        let config = config.primary("main", &cluster.url(&cluster.primary, DATABASE));
        targets.iter().fold(config, |config, target| {
            config.replica(target.name, &target.url)
        })
    })?;
    for server in [&cluster.primary, &cluster.ours] {
        server.execute("VACUUM ANALYZE")?;
    }
    let program = data_diff(report);
    for target in &targets {
        let mut series = Series::default();
        for round in 0..options.rounds {
            one_round(
                &cluster,
                &service,
                target,
                program.as_deref(),
                rows,
                &mut series,
            )
            .with_context(|| format!("round {}, {}", round + 1, target.name))?;
        }
        publish(target.name, &series, report);
    }
    memory.note(SCENARIO, &service);
    Ok(())
}

fn one_round(
    cluster: &Cluster,
    service: &Service,
    target: &Target<'_>,
    program: Option<&std::path::Path>,
    rows: u64,
    series: &mut Series,
) -> Result<()> {
    cluster.settle()?;
    let deep = validate(service, target.name, true, rows)?;
    series.deep.push(deep);
    let counts = validate(service, target.name, false, rows)?;
    series.counts.push(counts);
    let bare = bare_counts(cluster, target, rows)?;
    series.bare.push(bare);
    eprintln!(
        "  {}: deep {deep:.2} s, counts {counts:.3} s, bare {bare:.3} s",
        target.name
    );
    if let Some(program) = program {
        let took = run_data_diff(program, cluster, target)?;
        eprintln!("  {}: data-diff {took:.2} s", target.name);
        series.data_diff.push(took);
    }
    Ok(())
}

/// Seconds of one validation, from the order to its outcome.
fn validate(service: &Service, replica: &str, deep: bool, rows: u64) -> Result<f64> {
    let request = ValidationRequest {
        tables: vec![format!("public.{ITEMS}")],
        replicas: vec![replica.to_owned()],
        deep,
        ..ValidationRequest::default()
    };
    let started = Instant::now();
    let found = service.daemon().call(|client| async move {
        let mut now: Validation = client.validate(&request).await?;
        while !now.is_over() {
            tokio::time::sleep(LOOK).await;
            now = client.validation(&now.id).await?;
        }
        Ok(now)
    })?;
    let took = started.elapsed().as_secs_f64();
    let table = found
        .replicas
        .iter()
        .flat_map(|replica| &replica.tables)
        .next();
    ensure!(
        found.verdict == Some(Verdict::Equal)
            && table.is_some_and(|table| table.primary_rows == Some(rows)),
        "{found:#?}"
    );
    Ok(took)
}

/// Seconds of `SELECT count(*)` on both sides at the same time.
fn bare_counts(cluster: &Cluster, target: &Target<'_>, rows: u64) -> Result<f64> {
    let started = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let there = scope.spawn(|| (target.count)());
        let sql = format!("SELECT count(*) FROM {ITEMS}");
        let here = cluster.primary.query_i64(&sql)?;
        let Ok(there) = there.join() else {
            bail!("a count's thread panicked");
        };
        ensure!(here == there? && here == rows as i64, "the counts differ");
        Ok(())
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// data-diff, which scripts/bench installs where the package index can be reached.
fn data_diff(report: &mut Report) -> Option<PathBuf> {
    let program = env::var_os("REPL_BENCH_DATA_DIFF").map(PathBuf::from);
    let program = program.filter(|path| path.exists());
    if program.is_none() {
        report.note("data-diff was not measured: it is not installed");
    }
    program
}

/// Seconds of one comparison by data-diff.
fn run_data_diff(program: &std::path::Path, cluster: &Cluster, target: &Target<'_>) -> Result<f64> {
    let primary = cluster.url(&cluster.primary, DATABASE);
    let started = Instant::now();
    let output = Command::new(program)
        .args([&primary, ITEMS, &target.data_diff_url, ITEMS])
        .args(["-k", "id", "-c", "k", "-c", "v"])
        .output()
        .context("cannot start data-diff")?;
    let took = started.elapsed().as_secs_f64();
    // Its warnings are there too, also of types it compares as they are.
    let told = String::from_utf8_lossy(&output.stdout);
    let differs = told.lines().any(|line| line.starts_with(['+', '-']));
    ensure!(
        output.status.success() && !differs,
        "data-diff: {told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

fn publish(name: &str, series: &Series, report: &mut Report) {
    let mut seconds = |what: &str, values: &[f64]| {
        report.absolute(SCENARIO, &format!("{name} {what}"), "s", values);
    };
    seconds("every value", &series.deep);
    seconds("data-diff", &series.data_diff);
    seconds("counts", &series.counts);
    seconds("bare counts", &series.bare);
    report.ratio(
        SCENARIO,
        &format!("{name} data-diff / ours"),
        Kind::RatioHigherBetter,
        &series.data_diff,
        &series.deep,
    );
    report.ratio(
        SCENARIO,
        &format!("{name} counts / bare"),
        Kind::RatioLowerBetter,
        &series.counts,
        &series.bare,
    );
}
