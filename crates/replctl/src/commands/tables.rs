//! `replctl tables`: the source tables and whether each is replicated.

use clap::Args;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl tables`.
#[derive(Debug, Args)]
pub struct TablesArgs {
    /// Only those that are not replicated
    #[arg(long)]
    not_replicated: bool,
}

pub(super) async fn run(args: &TablesArgs, context: &Context) -> Result<Exit, Failure> {
    let mut tables = context.client()?.status().await?.tables;
    if args.not_replicated {
        tables.retain(|table| table.state != repl_api::TableState::Replicated);
    }
    context.print(&tables, |view| render::tables(&tables, view))?;
    Ok(Exit::Ok)
}
