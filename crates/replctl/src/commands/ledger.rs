//! `replctl ledger`: what former primaries had committed that the event log never saw.

use clap::{Args, Subcommand};

use crate::context::{Context, unprintable, write_out};
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl ledger`.
#[derive(Debug, Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print one: JSON lines, the changes between a head and a count
    Show {
        /// Its name, as `replctl ledger` lists it
        id: String,
    },
}

pub(super) async fn run(args: &LedgerArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let Some(What::Show { id }) = &args.what else {
        let ledgers = client.ledgers().await?;
        context.print(&ledgers, |view| render::ledgers(&ledgers, view))?;
        return Ok(Exit::Ok);
    };
    let mut from = 0;
    loop {
        let page = client.ledger(id, from).await?;
        for line in &page.lines {
            let text = serde_json::to_string(line).map_err(unprintable)?;
            write_out(&format!("{text}\n"))?;
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(Exit::Ok),
        }
    }
}
