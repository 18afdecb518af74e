//! `replctl resync`: empty a replica's tables and copy them again.

use std::time::Duration;

use clap::Args;
use repl_api::{ActionDone, Client, Membership, ReplicaStatus};

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress::CopyBars;
use crate::render;

/// How often a running copy is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Arguments of `replctl resync`.
#[derive(Debug, Args)]
pub struct ResyncArgs {
    /// The replica's name, as in `replctl status`
    replica: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Wait until the replica streams again, with a progress bar on a terminal
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(args: &ResyncArgs, context: &Context) -> Result<Exit, Failure> {
    let consequence = format!(
        "This empties the replicated tables of {} and copies them again from the primary",
        render::clean(&args.replica)
    );
    confirm(args.yes, &consequence, &args.replica)?;
    let client = context.client()?;
    let done = client.resync(&args.replica).await?;
    if !args.wait {
        return super::print_done(context, &done);
    }
    wait(&client, &args.replica).await?;
    let message = format!("{} has been copied again and follows the log", args.replica);
    super::print_done(context, &ActionDone { message, ..done })
}

/// Waits until the replica streams. The daemon answers the request only after the state `resyncing` is
/// durable, so streaming afterwards means the copy is complete.
async fn wait(client: &Client, name: &str) -> Result<(), Failure> {
    let mut bars = CopyBars::new();
    loop {
        let status = client.status().await?;
        bars.update(&status);
        let Some(replica) = status.replica(name) else {
            let message = format!("{name} has disappeared from the status");
            return Err(Failure::failed(message, "look at replctl status"));
        };
        match replica.membership {
            Membership::Streaming | Membership::Filtered => return Ok(()),
            Membership::Copying | Membership::Resyncing => tokio::time::sleep(POLL).await,
            _ => return Err(interrupted(replica)),
        }
    }
}

fn interrupted(replica: &ReplicaStatus) -> Failure {
    let why = replica.last_error.as_ref();
    let reason = why.map_or(String::new(), |error| format!(": {}", error.message));
    let advice = why.map_or("look at replctl status", |error| &error.advice);
    Failure::failed(
        format!(
            "the resync of {} did not complete, it is {}{reason}",
            replica.name, replica.membership
        ),
        advice,
    )
}
