//! `replctl resume`: continue a paused replica.

use crate::cli::ReplicaArgs;
use crate::context::Context;
use crate::exit::{Exit, Failure};

pub(super) async fn run(args: &ReplicaArgs, context: &Context) -> Result<Exit, Failure> {
    let done = context.client()?.resume(&args.replica).await?;
    super::print_done(context, &done)
}
