//! `replctl status`: the group at a glance, once or continuously.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use console::Term;
use repl_api::{Client, Status};

use crate::cli::interval;
use crate::context::{Context, unprintable, write_out};
use crate::exit::{Exit, Failure};
use crate::progress::CopyBars;
use crate::render;

/// Arguments of `replctl status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show it again and again: redrawn on a terminal, one JSON document per line with --json
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval, requires = "watch")]
    interval: Duration,
    /// Exit with 4 when something needs attention
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

pub(super) async fn run(args: &StatusArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    if args.watch {
        return watch(&client, args.interval, context).await;
    }
    let status = client.status().await?;
    context.print(&status, |view| render::status(&status, view))?;
    let attention = args.check && !status.attention().is_empty();
    Ok(if attention { Exit::Attention } else { Exit::Ok })
}

/// Shows the status until the operator interrupts. On a terminal a daemon that is restarting is waited
/// for; a script is told at once.
async fn watch(client: &Client, every: Duration, context: &Context) -> Result<Exit, Failure> {
    let redraw = io::stdout().is_terminal() && !context.json();
    // On a redrawn screen the copy is part of the picture; bars would be drawn over it.
    let mut bars = (!redraw).then(CopyBars::new);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let status = match client.status().await {
            Ok(status) => status,
            Err(error) if redraw && error.is_unreachable() => {
                draw(&format!(
                    "{}\nwaiting for the daemon …\n",
                    render::clean(&error.to_string())
                ))?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if redraw {
            draw(&render::status(&status, &context.view()))?;
        } else {
            append(&status, context)?;
        }
        if let Some(bars) = &mut bars {
            bars.update(&status);
        }
    }
}

/// Prints one more state below the ones before.
fn append(status: &Status, context: &Context) -> Result<(), Failure> {
    if context.json() {
        let line = serde_json::to_string(status).map_err(unprintable)?;
        return write_out(&format!("{line}\n"));
    }
    let view = context.view();
    let time = repl_api::format_utc(view.now_ms);
    write_out(&format!("{time}\n{}\n", render::status(status, &view)))
}

/// Replaces the screen's content. Each line is overwritten in place and the rest cleared after it, which
/// does not flicker; what does not fit on the screen is cut, or the terminal would scroll.
fn draw(frame: &str) -> Result<(), Failure> {
    let (rows, columns) = Term::stdout().size();
    let mut room = usize::from(rows).saturating_sub(1);
    let mut screen = String::from("\x1b[H");
    for line in frame.lines() {
        // Commands are not wrapped by us, so one line may take several rows.
        let height = console::measure_text_width(line)
            .div_ceil(usize::from(columns).max(1))
            .max(1);
        let Some(left) = room.checked_sub(height) else {
            break;
        };
        room = left;
        screen.push_str(line);
        screen.push_str("\x1b[0m\x1b[K\n");
    }
    screen.push_str("\x1b[J");
    write_out(&screen)
}
