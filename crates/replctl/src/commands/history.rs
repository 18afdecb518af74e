//! `replctl history`: the changes of primary.

use clap::Args;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Most promotions to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
}

pub(super) async fn run(args: &HistoryArgs, context: &Context) -> Result<Exit, Failure> {
    let mut promotions = context.client()?.promotions().await?;
    promotions.history.truncate(args.limit);
    context.print(&promotions, |view| render::history(&promotions, view))?;
    Ok(Exit::Ok)
}
