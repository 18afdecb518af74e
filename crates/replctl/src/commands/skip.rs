//! `replctl skip`: leave the failed transaction of a replica out.

use clap::Args;
use repl_api::SkipRequest;

use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `replctl skip`.
#[derive(Debug, Args)]
pub struct SkipArgs {
    /// The replica's name, as in `replctl status`
    replica: String,
    /// Sequence of the failed transaction, as in `replctl status`; no other is ever skipped
    #[arg(long, value_name = "N")]
    seq: u64,
    /// Why it may be left out; kept in the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why the transaction may be left out".to_owned()),
        reason => Ok(reason.to_owned()),
    }
}

pub(super) async fn run(args: SkipArgs, context: &Context) -> Result<Exit, Failure> {
    let skip = SkipRequest {
        seq: args.seq,
        reason: args.reason,
    };
    let done = context.client()?.skip(&args.replica, &skip).await?;
    super::print_done(context, &done)
}
