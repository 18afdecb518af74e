//! `replctl mode`: what a COMMIT on the primary waits for.

use std::time::Duration;

use clap::{Args, ValueEnum};
use repl_api::{MinReplicas, Mode, ModeRequest};

use crate::cli::interval;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl mode`.
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// The mode to ask for; without it the present one is shown
    #[arg(value_enum)]
    mode: Option<Wanted>,
    /// For semi-sync: how many replicas, or `majority`
    #[arg(long, value_name = "N", requires = "mode", value_parser = replicas)]
    min_replicas: Option<MinReplicas>,
    /// For semi-sync: any of the replicas, or the first by priority
    #[arg(long, requires = "mode", value_parser = ["any", "first"])]
    quorum: Option<String>,
    /// How far a commit must have come: applied by replicas, or durable in the event log
    #[arg(long, requires = "mode", value_parser = ["applied", "logged"])]
    level: Option<String>,
    /// What happens when commits have waited for too long
    #[arg(long, requires = "mode", value_parser = ["block", "degrade"])]
    on_timeout: Option<String>,
    /// How long is too long
    #[arg(long, value_name = "TIME", requires = "mode", value_parser = interval)]
    timeout: Option<Duration>,
    /// Most transactions the replicas may be behind when the mode comes into force
    #[arg(long, value_name = "N", requires = "mode")]
    max_queue: Option<u64>,
}

/// The modes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// A commit waits for nothing
    Async,
    /// A commit waits for a number of replicas
    SemiSync,
    /// A commit waits for all replicas that count
    Sync,
}

fn replicas(text: &str) -> Result<MinReplicas, String> {
    if text == "majority" {
        return Ok(MinReplicas::Word(text.to_owned()));
    }
    let number = text.parse().ok().filter(|&number| number > 0);
    let number = number.ok_or("write a number from 1 on, or majority")?;
    Ok(MinReplicas::Number(number))
}

pub(super) async fn run(args: ModeArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let Some(mode) = args.mode else {
        let Some(commits) = client.status().await?.commits else {
            return Err(Failure::failed(
                "the daemon does not tell its mode",
                "upgrade it",
            ));
        };
        context.print(&commits, |view| render::commits(&commits, view))?;
        return Ok(Exit::Ok);
    };
    let request = ModeRequest {
        mode: match mode {
            Wanted::Async => Mode::Async,
            Wanted::SemiSync => Mode::SemiSync,
            Wanted::Sync => Mode::Sync,
        },
        min_replicas: args.min_replicas,
        quorum: args.quorum,
        level: args.level,
        on_timeout: args.on_timeout,
        timeout_ms: args.timeout.map(|timeout| timeout.as_millis() as u64),
        max_queue: args.max_queue,
    };
    let done = client.mode(&request).await?;
    super::print_done(context, &done)
}
