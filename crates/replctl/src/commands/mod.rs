//! One file per subcommand.

pub mod copy;
pub mod help;
pub mod history;
pub mod ledger;
pub mod log;
pub mod mode;
mod pause;
pub mod promote;
pub mod rejoin;
pub mod release;
mod resume;
pub mod resync;
mod retry;
pub mod skip;
pub mod slot;
pub mod status;
pub mod tables;
pub mod topology;
pub mod validate;
pub mod wait;

use repl_api::ActionDone;

use crate::cli::Command;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Runs one subcommand.
pub(crate) async fn dispatch(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Status(args) => status::run(&args, context).await,
        Command::Tables(args) => tables::run(&args, context).await,
        Command::Log(args) => log::run(args, context).await,
        Command::Pause(args) => pause::run(&args, context).await,
        Command::Resume(args) => resume::run(&args, context).await,
        Command::Retry(args) => retry::run(&args, context).await,
        Command::Skip(args) => skip::run(args, context).await,
        Command::Resync(args) => resync::run(&args, context).await,
        Command::Copy(args) => copy::run(&args, context).await,
        Command::Promote(args) => promote::run(&args, context).await,
        Command::Rejoin(args) => rejoin::run(&args, context).await,
        Command::Ledger(args) => ledger::run(&args, context).await,
        Command::Topology(args) => topology::run(&args, context).await,
        Command::History(args) => history::run(&args, context).await,
        Command::Validate(args) => validate::run(args, context).await,
        Command::Mode(args) => mode::run(args, context).await,
        Command::Wait(args) => wait::run(args, context).await,
        Command::Release(args) => release::run(&args, context),
        Command::Slot(args) => slot::run(&args, context).await,
        Command::Help(args) => help::run(&args),
    }
}

/// Prints the answer to a mutating request.
fn print_done(context: &Context, done: &ActionDone) -> Result<Exit, Failure> {
    context.print(done, |_| format!("{}\n", render::clean(&done.message)))?;
    Ok(Exit::Ok)
}
