//! `replctl resync`: bring a replica, or single tables of it, to what the primary holds.

use std::time::Duration;

use clap::Args;
use repl_api::{ActionDone, Client, Membership, ReplicaStatus, ResyncRequest};

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress::CopyBars;
use crate::render;
use crate::waiting::{Waiting, copy_waits_for};

/// How often a running copy is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Arguments of `replctl resync`.
#[derive(Debug, Args)]
pub struct ResyncArgs {
    /// The replica's name, as in `replctl status`
    replica: String,
    /// Only these tables, by their names at the primary (schema.table; * and ? allowed)
    #[arg(long, value_name = "TABLES", value_delimiter = ',')]
    tables: Vec<String>,
    /// Replace all rows, each table in one transaction, rather than write what differs
    #[arg(long)]
    full: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Wait until the replica streams again, with a progress bar on a terminal
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(args: &ResyncArgs, context: &Context) -> Result<Exit, Failure> {
    confirm(args.yes, &consequence(args), &args.replica)?;
    let client = context.client()?;
    let request = ResyncRequest {
        tables: args.tables.clone(),
        full: args.full,
    };
    let done = client.resync(&args.replica, &request).await?;
    if !args.wait {
        return super::print_done(context, &done);
    }
    wait(&client, &args.replica).await?;
    let how = if args.full {
        "copied again"
    } else {
        "resynced"
    };
    let message = format!("{} has been {how} and follows the log", args.replica);
    super::print_done(context, &ActionDone { message, ..done })
}

/// What will be done, before it is.
fn consequence(args: &ResyncArgs) -> String {
    let replica = render::clean(&args.replica);
    let tables = match args.tables.as_slice() {
        [] => format!("the replicated tables of {replica}"),
        tables => format!("{} on {replica}", render::clean(&tables.join(", "))),
    };
    if args.full {
        format!(
            "This replaces all rows of {tables} by the primary's, each table in one transaction"
        )
    } else {
        format!(
            "This compares {tables} with the primary and replaces there whatever differs, rows that \
             only the replica has included"
        )
    }
}

/// Waits until the replica streams. The daemon answers the request only after the state `resyncing` is
/// durable, so streaming afterwards means the copy is complete.
async fn wait(client: &Client, name: &str) -> Result<(), Failure> {
    let mut bars = CopyBars::new();
    let mut waiting = Waiting::new();
    loop {
        let status = client.status().await?;
        bars.update(&status);
        waiting.because(&copy_waits_for(&status, name));
        let Some(replica) = status.replica(name) else {
            let message = format!("{name} has disappeared from the status");
            return Err(Failure::failed(message, "look at replctl status"));
        };
        match replica.membership {
            Membership::Streaming | Membership::Filtered => return Ok(()),
            // Single tables of it: the others still differ.
            Membership::Diverged if replica.copy.is_none() => return Ok(()),
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
