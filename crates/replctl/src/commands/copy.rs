//! `replctl copy`: the copies under way, once or until they end.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use repl_api::{CopyProgress, Status};
use serde::Serialize;

use crate::cli::interval;
use crate::context::{Context, unprintable, write_out};
use crate::exit::{Exit, Failure};
use crate::progress::CopyBars;
use crate::render;

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
        let message = format!("there is no replica {}", render::clean(name));
        return Err(Failure::failed(message, "look at replctl status"));
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
    loop {
        keep(&mut status, args);
        if status.replicas.is_empty() {
            bars.update(&status);
            return Ok(Exit::Ok);
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

/// Leaves the replicas asked for that are being copied.
fn keep(status: &mut Status, args: &CopyArgs) {
    status.replicas.retain(|replica| {
        let asked = args
            .replica
            .as_ref()
            .is_none_or(|name| replica.name == *name);
        asked && replica.copy.is_some()
    });
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
    let line = |replica: &repl_api::ReplicaStatus| {
        let copy = replica.copy.as_ref()?;
        let name = render::clean(&replica.name);
        Some(format!("{name}: {}\n", render::copy_summary(copy)))
    };
    status.replicas.iter().filter_map(line).collect()
}
