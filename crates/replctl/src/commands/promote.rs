//! `replctl promote`: make a replica the primary.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use repl_api::{Client, PromoteRequest, PromotionInfo, PromotionState, Readiness};

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::render;
use crate::waiting::Waiting;

/// How often a running promotion is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `replctl promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The replica's name, as in `replctl status`; with --force the most advanced one if none is given
    #[arg(required_unless_present_any = ["force", "best"])]
    replica: Option<String>,
    /// Without the present primary, which is dead or cannot be reached: what it has that the event log
    /// has not is given up
    #[arg(long)]
    force: bool,
    /// The most advanced replica, by priority where several are
    #[arg(long, requires = "force", conflicts_with = "replica")]
    best: bool,
    /// With --force: even if the primary answers; it is fenced first
    #[arg(long, requires = "force")]
    overrule: bool,
    /// Only tell whether it could be done, and what it would mean
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &PromoteArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let request = PromoteRequest {
        replica: args.replica.clone().unwrap_or_default(),
        force: args.force,
        overrule: args.overrule,
    };
    if args.dry_run {
        let report = client.check_promotion(&request).await?;
        context.print(&report, |view| render::readiness(&report, view))?;
        return Ok(if report.ready { Exit::Ok } else { Exit::Failed });
    }
    if !args.yes {
        let report = client.check_promotion(&request).await?;
        ask(&report, context)?;
    }
    let begun = client.promote(&request).await?;
    let ended = follow(&client, &begun.target).await?;
    context.print(&ended, |view| render::promotion(&ended, view))?;
    Ok(match ended.state {
        PromotionState::Done => Exit::Ok,
        _ => Exit::Failed,
    })
}

/// Shows what it would mean, and asks.
fn ask(report: &Readiness, context: &Context) -> Result<(), Failure> {
    if !report.ready {
        let blocks: Vec<_> = report.findings.iter().filter(|one| one.blocks).collect();
        let first = blocks.first().map_or("", |one| one.remedy.as_str());
        let what: Vec<_> = blocks.iter().map(|one| one.what.as_str()).collect();
        let message = format!(
            "{} cannot become the primary now: {}",
            report.to,
            what.join("; ")
        );
        return Err(Failure::failed(message, first));
    }
    if std::io::stderr().is_terminal() {
        eprint!("{}", render::readiness(report, &context.view()));
    }
    let (from, to) = (render::clean(&report.from), render::clean(&report.to));
    let consequence = match &report.may_lose {
        None => format!(
            "This makes {to} the primary: {from} refuses writes from now on, its clients' sessions are \
             ended, and it becomes a replica"
        ),
        Some(loss) => format!(
            "This makes {to} the primary without {from}, which is fenced when it is seen again; {}",
            render::clean(&loss.what)
        ),
    };
    confirm(false, &consequence, &report.to)
}

/// What a promotion is at, and why it has not come further.
fn held_by(promotion: &PromotionInfo) -> String {
    let step = promotion.step.as_deref().unwrap_or("its end");
    match &promotion.failure {
        Some(why) => format!("promotion {}, at {step}: {why}", promotion.id),
        None => format!("promotion {} is at {step}", promotion.id),
    }
}

/// Waits for the end, telling each step on a terminal.
async fn follow(client: &Client, replica: &str) -> Result<PromotionInfo, Failure> {
    let mut told = 0;
    let mut id = None;
    let mut waiting = Waiting::new();
    loop {
        let all = client.promotions().await?;
        let ours = all.current.iter().chain(&all.history);
        let ours = ours
            .into_iter()
            .find(|one| one.to == replica && id.is_none_or(|id| one.id == id));
        let Some(promotion) = ours else {
            let advice = "look at replctl history";
            return Err(Failure::failed(
                "the promotion is not known any more",
                advice,
            ));
        };
        id = Some(promotion.id);
        if std::io::stderr().is_terminal() {
            for step in promotion.steps.iter().skip(told) {
                eprintln!("{}", render::promotion_step(step));
            }
        }
        told = promotion.steps.len();
        if promotion.ended_ms.is_some() {
            return Ok(promotion.clone());
        }
        waiting.because(&held_by(promotion));
        tokio::time::sleep(POLL).await;
    }
}
