//! `replctl log`: what is in the event log.

use clap::Args;
use repl_api::{LogQuery, MAX_LOG_LIMIT};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// How many transactions to list
    #[arg(long, value_name = "N", default_value_t = repl_api::DEFAULT_LOG_LIMIT,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LOG_LIMIT)))]
    limit: u32,
    /// Only transactions that changed this table (schema.table)
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// List from this sequence upwards, instead of the newest
    #[arg(long, value_name = "SEQ")]
    from_seq: Option<u64>,
    /// List every segment file, not only the newest
    #[arg(long)]
    segments: bool,
}

pub(super) async fn run(args: LogArgs, context: &Context) -> Result<Exit, Failure> {
    let LogArgs {
        limit,
        table,
        from_seq,
        segments,
    } = args;
    let query = LogQuery {
        limit: Some(limit),
        table,
        from_seq,
    };
    let info = context.client()?.log(&query).await?;
    context.print(&info, |view| render::log(&info, segments, view))?;
    Ok(Exit::Ok)
}
