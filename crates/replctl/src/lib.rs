//! The command line of the replication daemon.
//!
//! Data goes to stdout, everything else to stderr. [`cli`] declares the grammar, `commands` holds one
//! file per subcommand, [`render`] turns the daemon's answers into text (pure functions), and [`exit`]
//! fixes the exit codes. The daemon is only spoken to through `repl-api`.

pub mod cli;
mod commands;
mod confirm;
mod context;
pub mod exit;
mod progress;
pub mod render;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Failure;

/// Runs the command line of this process and returns its exit code. Wrong usage ends the process here,
/// with clap's message and code 2.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let context = Context::new(cli.global);
            runtime.block_on(commands::dispatch(cli.command, &context))
        }
        Err(error) => Err(Failure::failed(format!("cannot start: {error}"), "")),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => failure.report(json),
    }
}
