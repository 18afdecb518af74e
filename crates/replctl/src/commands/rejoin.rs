//! `replctl rejoin`: have a former primary join as a replica.

use clap::Args;

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl rejoin`.
#[derive(Debug, Args)]
pub struct RejoinArgs {
    /// The node's name, as in `replctl status`
    node: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &RejoinArgs, context: &Context) -> Result<Exit, Failure> {
    let node = render::clean(&args.node);
    let consequence = format!(
        "This has {node} join as a replica: what it committed that the event log never saw is taken back there"
    );
    confirm(args.yes, &consequence, &args.node)?;
    let done = context.client()?.rejoin(&args.node).await?;
    super::print_done(context, &done)
}
