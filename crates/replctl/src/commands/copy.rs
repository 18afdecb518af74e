//! `replctl copy`: the copies under way, once or until they end.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use repl_api::{CopyProgress, Membership, ReplicaStatus, Status};
use serde::Serialize;

use crate::cli::interval;
use crate::context::{Context, unprintable, write_out};
use crate::exit::{Exit, Failure};
use crate::progress::CopyBars;
use crate::render;
use crate::waiting::{Waiting, copy_waits_for};

/// Arguments of `replctl copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Only this replica
    replica: Option<String>,
    /// Show it until nothing is copied any more: bars on a terminal, else lines; one JSON document
    /// per line with --json
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval, requires = "watch")]
    interval: Duration,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Copies<'a> {
    copies: Vec<Copy<'a>>,
}

/// One replica's copy.
#[derive(Serialize)]
struct Copy<'a> {
    replica: &'a str,
    #[serde(flatten)]
    progress: &'a CopyProgress,
}

pub(super) async fn run(args: &CopyArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let mut status = client.status().await?;
    if let Some(name) = &args.replica
        && status.replica(name).is_none()
    {
        let known: Vec<&str> = status
            .replicas
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        let message = format!(
            "there is no replica called {name:?} in group {:?}",
            status.group
        );
        return Err(Failure::failed(
            message,
            format!("use one of: {}", known.join(", ")),
        ));
    }
    if !args.watch {
        keep(&mut status, args);
        let copies = copies(&status);
        context.print(&copies, |view| {
            match render::copies(&status.replicas, view) {
                text if text.is_empty() => "nothing is being copied\n".to_owned(),
                text => text,
            }
        })?;
        return Ok(Exit::Ok);
    }
    let bars_shown = io::stderr().is_terminal() && !context.json();
    let mut bars = CopyBars::new();
    let mut waiting = Waiting::new();
    let mut watched = BTreeSet::new();
    loop {
        let reasons: Vec<String> = awaited(&status, args)
            .map(|name| copy_waits_for(&status, name))
            .filter(|reason| !reason.is_empty())
            .collect();
        waiting.because(&reasons.join("; "));
        watched.extend(awaited(&status, args).map(str::to_owned));
        let over = awaited(&status, args).next().is_none();
        let outcome = over.then(|| outcome(&status, args, &watched));
        keep(&mut status, args);
        if let Some(outcome) = outcome {
            bars.update(&status);
            return Ok(outcome);
        }
        if context.json() {
            let line = serde_json::to_string(&copies(&status)).map_err(unprintable)?;
            write_out(&format!("{line}\n"))?;
        } else if bars_shown {
            bars.update(&status);
        } else {
            write_out(&lines(&status))?;
        }
        tokio::time::sleep(args.interval).await;
        status = client.status().await?;
    }
}

/// Nothing is copied any more: whether that is so because it is done. Says what keeps it from being done.
fn outcome(status: &Status, args: &CopyArgs, watched: &BTreeSet<String>) -> Exit {
    let mut outcome = Exit::Ok;
    for replica in status.replicas.iter().filter(|one| is_asked(one, args)) {
        let Some(problem) = replica.attention() else {
            continue;
        };
        eprintln!("replctl: {}", render::clean(&problem));
        let follows = matches!(
            replica.membership,
            Membership::Streaming | Membership::Filtered | Membership::Diverged
        );
        if watched.contains(&replica.name) && !follows {
            outcome = Exit::Failed;
        }
    }
    outcome
}

fn is_asked(replica: &ReplicaStatus, args: &CopyArgs) -> bool {
    let asked = args.replica.as_ref();
    asked.is_none_or(|name| replica.name == *name)
}

/// The replicas asked for that are being copied, or are to be as soon as that can begin.
fn awaited<'a>(status: &'a Status, args: &'a CopyArgs) -> impl Iterator<Item = &'a str> {
    let due = |replica: &&ReplicaStatus| {
        let asked = is_asked(replica, args);
        let copied = matches!(
            replica.membership,
            Membership::Copying | Membership::Resyncing
        );
        asked && replica.enabled && (copied || replica.copy.is_some())
    };
    let replicas = status.replicas.iter().filter(due);
    replicas.map(|replica| replica.name.as_str())
}

/// Leaves the replicas asked for that are being copied.
fn keep(status: &mut Status, args: &CopyArgs) {
    status
        .replicas
        .retain(|replica| is_asked(replica, args) && replica.copy.is_some());
}

fn copies(status: &Status) -> Copies<'_> {
    let copy = status.replicas.iter().filter_map(|replica| {
        Some(Copy {
            replica: &replica.name,
            progress: replica.copy.as_ref()?,
        })
    });
    Copies {
        copies: copy.collect(),
    }
}

/// A line per replica, for logs.
fn lines(status: &Status) -> String {
    let line = |replica: &ReplicaStatus| {
        let copy = replica.copy.as_ref()?;
        let name = render::clean(&replica.name);
        Some(format!("{name}: {}\n", render::copy_summary(copy)))
    };
    status.replicas.iter().filter_map(line).collect()
}
