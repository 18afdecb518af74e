//! `replctl retry`: try the failed transaction of a replica again.

use crate::cli::ReplicaArgs;
use crate::context::Context;
use crate::exit::{Exit, Failure};

pub(super) async fn run(args: &ReplicaArgs, context: &Context) -> Result<Exit, Failure> {
    let done = context.client()?.retry(&args.replica).await?;
    super::print_done(context, &done)
}
