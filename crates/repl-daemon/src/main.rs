//! `repl-daemon`: keeps replicas in step with one primary.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use repl_daemon::config::{self, Config, LogFormat};
use tracing_subscriber::EnvFilter;

/// Keeps replica databases in step with one primary, through a durable log, exactly once.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file (see config.example.toml).
    config: PathBuf,
    /// Check the configuration, then look at the primary if it can be reached (its settings, its
    /// tables, whether every replica can be given them), print every problem found, and exit: 0
    /// when all is good, 1 when not. Nothing is started or changed.
    #[arg(long)]
    check: bool,
    /// Take the daemon out of the primary's synchronous_standby_names, so that no commit waits for it
    /// any more, and exit. For when the daemon is lost: what returns then may be on no replica.
    #[arg(long, conflicts_with = "check")]
    release: bool,
    /// Only if the configuration is that of this group.
    #[arg(long, requires = "release")]
    group: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        return check(&arguments.config);
    }
    // A bad configuration is refused before anything runs.
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(group) = arguments.group.filter(|group| *group != config.group.name) {
        eprintln!(
            "{} is the configuration of group {:?}, not of {group:?}: nothing was done",
            arguments.config.display(),
            config.group.name
        );
        return ExitCode::FAILURE;
    }
    if arguments.release {
        return release(&config);
    }
    start_logging(&config);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the daemon stops");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &Path) -> ExitCode {
    let (report, good) = config::check_report(path);
    print!("{report}");
    let Ok(config) = config::load(path) else {
        return ExitCode::FAILURE;
    };
    let looked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(repl_daemon::preflight::report(&config)));
    match looked {
        Ok((report, fit)) => {
            print!("{report}");
            if good && fit {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn release(config: &Config) -> ExitCode {
    let released = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(repl_daemon::mode::release_offline(config)));
    match released {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(config: &Config) {
    // Libraries speak only of what concerns the operator.
    let filter = EnvFilter::new(format!(
        "warn,repl={0},repl_daemon={0},repl_connectors={0},repl_core={0}",
        config.logging.level.as_str()
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say on stderr that stderr cannot be written to, and panic: a reader of the log that
        // has gone (a pipe, a closed terminal) must not end the daemon.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match config.logging.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(outlive_signals())?;
    let result = runtime.block_on(repl_daemon::run(config, stop_signal()));
    // Collector threads may sit in a read; they hold nothing that needs saving.
    runtime.shutdown_background();
    result
}

/// Connections are few and mostly wait; the work that is not waiting runs on threads of its own.
const WORKER_THREADS: usize = 2;

/// Has the signals that would end the process by default, and are sent for other reasons (a terminal that
/// closes, `kill -HUP` to reload), change nothing. SIGPIPE is ignored by Rust's runtime.
async fn outlive_signals() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        ("SIGHUP", SignalKind::hangup()),
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
    ];
    for (name, kind) in kinds {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            let mut told = false;
            while signals.recv().await.is_some() {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(
                        signal = name,
                        "ignored: the configuration is read at start, restart the daemon to change it"
                    );
                }
            }
        });
    }
    Ok(())
}

/// Completes on SIGTERM or SIGINT.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
