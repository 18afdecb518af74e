//! `replctl slot drop`: drop the slot and publication on the primary.

use clap::{Args, Subcommand};
use repl_api::SlotDropRequest;

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl slot`.
#[derive(Debug, Args)]
pub struct SlotArgs {
    #[command(subcommand)]
    command: SlotCommand,
}

/// What to do with the slot.
#[derive(Debug, Subcommand)]
enum SlotCommand {
    /// Drop the slot and publication; afterwards every replica needs a resync
    Drop {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(args: &SlotArgs, context: &Context) -> Result<Exit, Failure> {
    let SlotCommand::Drop { yes } = args.command;
    let client = context.client()?;
    let status = client.status().await?;
    let (group, primary) = (status.group, render::clean(&status.primary.name));
    let consequence = format!(
        "This drops the slot and publication of group {} on {primary}; every replica needs a resync \
         afterwards",
        render::clean(&group)
    );
    confirm(yes, &consequence, &group)?;
    let done = client
        .drop_slot(&SlotDropRequest { confirm: group })
        .await?;
    super::print_done(context, &done)
}
