//! `replctl validate`: whether the replicas hold what the primary holds, and repairing them.

use std::time::Duration;

use clap::Args;
use repl_api::{
    Client, ClientError, ErrorCode, Validation, ValidationRequest, ValidationState, Verdict,
};

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress::ValidationBar;
use crate::render;

/// How often a validation is looked at: soon at first, since counting may take no time.
const POLLS: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `replctl validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 equal, 1 different, 2 could not tell (also: wrong usage), 3 the \
                        daemon cannot be reached"
)]
pub struct ValidateArgs {
    /// Only these tables, by their names at the primary (schema.table; * and ? allowed)
    #[arg(long, value_name = "TABLES", value_delimiter = ',')]
    tables: Vec<String>,
    /// Only this replica; may be given several times
    #[arg(long, value_name = "REPLICA")]
    replica: Vec<String>,
    /// Compare every value, and find the rows that differ; without it rows are counted
    #[arg(long)]
    deep: bool,
    /// Show the values of rows that differ, not only their keys
    #[arg(long, requires = "deep")]
    show_values: bool,
    /// Bring the rows that differ into line with the primary, after asking
    #[arg(long, requires = "deep")]
    repair: bool,
    /// Do not ask before the repair
    #[arg(long, requires = "repair")]
    yes: bool,
    /// End the comparison that is under way, whoever began it
    #[arg(long, conflicts_with_all = ["tables", "replica", "deep", "repair"])]
    cancel: bool,
}

pub(super) async fn run(args: ValidateArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    if args.cancel {
        let done = client.cancel_validation("latest").await?;
        return super::print_done(context, &done);
    }
    let request = ValidationRequest {
        tables: args.tables,
        replicas: args.replica,
        deep: args.deep,
        show_values: args.show_values,
    };
    let started = client.validate(&request).await;
    let started = started.map_err(could_not_tell)?;
    let mut found = follow(&client, &started.id).await?;
    let rows = render::rows_to_repair(&found);
    if args.repair && found.state == ValidationState::Done && rows.is_some() {
        if !context.json() {
            context.print(&found, |view| render::validation(&found, view))?;
        }
        let consequence = format!(
            "This repairs {} at the replicas",
            rows.unwrap_or_else(|| "the rows that differ".to_owned())
        );
        confirm(args.yes, &consequence, "repair")?;
        order_repair(&client, &found.id).await?;
        found = follow(&client, &found.id).await?;
    }
    context.print(&found, |view| render::validation(&found, view))?;
    outcome(&found)
}

/// A refusal or failure of the daemon: exit code 1 would mean that something differs.
fn could_not_tell(error: ClientError) -> Failure {
    match error {
        ClientError::Refused(error) => Failure::undetermined(error.message, error.advice),
        other => Failure::from(other),
    }
}

/// Orders the repair. One that takes longer than a request may goes on, and is followed.
async fn order_repair(client: &Client, id: &str) -> Result<(), Failure> {
    match client.repair(id).await {
        Err(ClientError::Refused(error)) if error.code == ErrorCode::Timeout => Ok(()),
        other => other.map(drop).map_err(could_not_tell),
    }
}

/// Waits until the validation has ended. Interrupting replctl ends it too.
async fn follow(client: &Client, id: &str) -> Result<Validation, Failure> {
    let mut bar = ValidationBar::new();
    let mut polls = POLLS.into_iter();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let now = client.validation(id).await.map_err(could_not_tell)?;
        bar.update(&now);
        if now.is_over() {
            return Ok(now);
        }
        tokio::select! {
            () = tokio::time::sleep(polls.next().unwrap_or(POLL)) => {}
            _ = &mut interrupted => {
                client.cancel_validation(id).await.map_err(could_not_tell)?;
                let message = "interrupted; the validation is ended";
                return Err(Failure::undetermined(message, ""));
            }
        }
    }
}

fn outcome(found: &Validation) -> Result<Exit, Failure> {
    if let Some(error) = &found.error {
        return Err(Failure::undetermined(&error.message, &error.advice));
    }
    Ok(match found.verdict {
        Some(Verdict::Equal) => Exit::Ok,
        Some(Verdict::Different) => Exit::Failed,
        _ => Exit::Usage,
    })
}
