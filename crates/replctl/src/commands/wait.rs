//! `replctl wait`: wait until a commit is on replicas.

use std::time::{Duration, Instant};

use clap::Args;
use repl_api::WaitRequest;

use crate::cli::interval;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;

/// Arguments of `replctl wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Position taken after the COMMIT: PostgreSQL's pg_current_wal_insert_lsn(), SQLite's largest id in
    /// _repl_changes; without it everything committed until now is waited for
    #[arg(long, value_name = "POSITION")]
    token: Option<String>,
    /// On how many replicas; without it as many as the mode waits for, at least one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = interval)]
    timeout: Duration,
}

pub(super) async fn run(args: WaitArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let until = Instant::now() + args.timeout;
    let mut token = args.token;
    // One request waits for less than a minute.
    let answer = loop {
        let left = until.saturating_duration_since(Instant::now());
        let request = WaitRequest {
            token: token.clone(),
            replicas: args.replicas,
            timeout_ms: left.as_millis() as u64,
        };
        let answer = client.wait(&request).await?;
        if answer.done || Instant::now() >= until {
            break answer;
        }
        // What was committed by the first request, not by the later ones.
        token = Some(answer.position).filter(|position| !position.is_empty());
    };
    if !answer.done {
        // Why, as far as that can be told; the answer counts, whether or not it can.
        for problem in client
            .status()
            .await
            .iter()
            .flat_map(|status| status.attention())
        {
            eprintln!("replctl: {}", render::clean(&problem));
        }
    }
    context.print(&answer, |_| {
        let on = match answer.applied_on.as_slice() {
            [] => "no replica".to_owned(),
            names => render::clean(&names.join(", ")),
        };
        match answer.done {
            true => format!("applied on {on}\n"),
            false => {
                let logged = match answer.logged_seq {
                    Some(_) => "",
                    None => "not in the event log yet, ",
                };
                format!(
                    "not in time: {} replicas wanted, {logged}applied on {on}\n",
                    answer.wanted
                )
            }
        }
    })?;
    Ok(if answer.done { Exit::Ok } else { Exit::Failed })
}
