//! `replctl topology`: who is primary, and who follows how closely.

use clap::Args;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl topology`.
#[derive(Debug, Args)]
pub struct TopologyArgs {}

pub(super) async fn run(_args: &TopologyArgs, context: &Context) -> Result<Exit, Failure> {
    let status = context.client()?.status().await?;
    context.print(&status, |view| render::topology(&status, view))?;
    Ok(Exit::Ok)
}
