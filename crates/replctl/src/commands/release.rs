//! `replctl release --offline`: free the primary's commits without the daemon.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `replctl release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Without the daemon, which is lost; with a running one use `replctl mode async`
    #[arg(long, required = true)]
    offline: bool,
    /// The daemon's configuration file, which says where the primary is
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(args: &ReleaseArgs, context: &Context) -> Result<Exit, Failure> {
    confirm(
        args.yes,
        "This takes the daemon out of the primary's synchronous_standby_names: commits that wait \
         return at once, and they and all later ones may be on no replica",
        "release",
    )?;
    let group = context.group()?;
    // Only the daemon's program can talk to databases; it does so without starting anything.
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("repl-daemon")))
        .filter(|program| program.exists());
    let program = beside.unwrap_or_else(|| PathBuf::from("repl-daemon"));
    let mut command = Command::new(&program);
    command.arg("--release").arg(&args.config);
    if let Some(group) = group {
        command.args(["--group", &group]);
    }
    let status = command.status().map_err(|error| {
        Failure::failed(
            format!("cannot run {}: {error}", program.display()),
            "install repl-daemon on this machine, or run on the primary: ALTER SYSTEM SET \
                 synchronous_standby_names = '';  SELECT pg_reload_conf();",
        )
    })?;
    Ok(if status.success() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
