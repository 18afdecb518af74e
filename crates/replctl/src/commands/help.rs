//! `replctl help`: help on a subcommand or a topic.

use clap::{Args, CommandFactory};

use crate::cli::Cli;
use crate::context::write_out;
use crate::exit::{EXIT_CODES, Exit, Failure};

/// Arguments of `replctl help`.
#[derive(Debug, Args)]
pub struct HelpArgs {
    /// A subcommand (`slot drop`), or `exit-codes`
    topic: Vec<String>,
}

pub(super) fn run(args: &HelpArgs) -> Result<Exit, Failure> {
    if args.topic == ["exit-codes"] {
        write_out(&format!("{EXIT_CODES}\n"))?;
        return Ok(Exit::Ok);
    }
    // Building fills in the full names and the global options of the subcommands.
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for word in &args.topic {
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            let message = format!("there is no help on {:?}", args.topic.join(" "));
            Failure::usage(message, "replctl --help lists the subcommands")
        })?;
    }
    write_out(&found.render_long_help().to_string())?;
    Ok(Exit::Ok)
}
