//! Watches the primary, and orders another one in its place when it is dead.
//!
//! When and whom is decided by [`repl_core::failover`]; this asks the primary, over a connection of its
//! own, and passes the order on to the host, which does what it does for an operator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repl_api::FailoverStatus;
use repl_connectors::seam::RoleSwitch;
use repl_core::failover::{Candidate, Decision, Health, Situation, Watch, decide};
use repl_core::promotion::Cause;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::clock::now_ms;
use crate::config::FailoverConfig;
use crate::promotion::{Order, candidates, promised};
use crate::status::Group;

/// How soon it is looked again whether a dead primary can be replaced.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the primary, for status and role checks.
#[derive(Default)]
pub struct FailoverBoard {
    shown: Mutex<FailoverStatus>,
}

impl FailoverBoard {
    /// A copy.
    pub fn status(&self) -> FailoverStatus {
        self.shown().clone()
    }

    fn shown(&self) -> MutexGuard<'_, FailoverStatus> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's parts.
pub struct Failover {
    /// The group, with the roles of now.
    pub group: Arc<Group>,
    /// The primary.
    pub role: Arc<dyn RoleSwitch>,
    /// To the host.
    pub orders: mpsc::Sender<Order>,
    /// The daemon stops, or roles change.
    pub shutdown: watch::Receiver<bool>,
}

impl Failover {
    /// Watches until shutdown.
    pub async fn run(self) {
        let mut stop = self.shutdown.clone();
        tokio::select! {
            () = self.watch() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    fn config(&self) -> &FailoverConfig {
        &self.group.config.failover
    }

    async fn watch(&self) {
        let start = Instant::now();
        let mut watch = Watch::new(self.config().settings);
        loop {
            let begun = Instant::now();
            let asked = timeout(self.config().timeout, self.role.answer()).await;
            let how = match &asked {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => error.message.clone(),
                Err(_) => format!("no answer within {} ms", self.config().timeout.as_millis()),
            };
            let health = watch.probed(begun - start, how.is_empty());
            self.show(&watch, start.elapsed(), &how);
            let pause = match health {
                Health::Dead { since } if !self.replace(start.elapsed() - since, &how).await => {
                    RETRY
                }
                _ => self.config().interval,
            };
            tokio::time::sleep_until(begun + pause).await;
        }
    }

    fn show(&self, watch: &Watch, now: Duration, how: &str) {
        let mut shown = self.group.failover.shown();
        let before = shown.state.clone();
        let (state, since) = match watch.health() {
            Health::Alive => ("watching", None),
            Health::Suspect { since, .. } => ("suspect", Some(since)),
            Health::Dead { since } => ("dead", Some(since)),
        };
        shown.automatic = true;
        shown.doubted = watch.is_doubted(now);
        shown.since_ms =
            since.map(|since| now_ms().saturating_sub((now - since).as_millis() as u64));
        if since.is_none() {
            shown.held = None;
        }
        if before != state {
            shown.state = state.to_owned();
            match since {
                None if !before.is_empty() => info!("the primary answers"),
                None => {}
                Some(_) => warn!(state, how, "the primary does not answer"),
            }
        }
    }

    /// Has the dead primary replaced, if that can be; true when it was ordered.
    async fn replace(&self, silent: Duration, how: &str) -> bool {
        let primary = &self.group.config.primary.name;
        let named = &self.config().candidates;
        let mut candidates = candidates(&self.group);
        for candidate in candidates.iter_mut().filter(|one| !self.is_candidate(one)) {
            candidate.hindrance = Some(format!("failover.candidates names {}", named.join(", ")));
        }
        let nodes = &self.group.config.replicas;
        let follows = |one: &Candidate| {
            let node = nodes.iter().find(|node| node.name == one.name);
            node.is_some_and(|node| node.endpoint.follows_failover())
        };
        for candidate in candidates.iter_mut().filter(|one| !follows(one)) {
            let why = "the primary's applications cannot go on with it by themselves";
            candidate.hindrance = Some(why.to_owned());
        }
        let situation = Situation {
            health: Health::Dead {
                since: Duration::ZERO,
            },
            since_last: self.since_last(),
            promised: promised(&self.group, self.role.as_ref()),
            candidates: &candidates,
        };
        let names = match decide(&self.config().settings, &situation) {
            Decision::Promote(names) => names,
            Decision::Hold(why) => return self.hold(why),
            Decision::Wait => return false,
        };
        let reason = format!(
            "{primary} did not answer for {} ms: {how}",
            silent.as_millis()
        );
        let mut refusals = Vec::new();
        for name in names {
            let (reply, answer) = oneshot::channel();
            let order = Order {
                replica: Some(name),
                cause: Cause::Automatic,
                reason: reason.clone(),
                reply,
            };
            if self.orders.send(order).await.is_err() {
                return false;
            }
            match answer.await {
                Ok(Ok(_)) => return true,
                Ok(Err(refusal)) => refusals.push(refusal.message),
                Err(_) => return false,
            }
        }
        self.hold(refusals.join("; "))
    }

    fn is_candidate(&self, candidate: &Candidate) -> bool {
        let named = &self.config().candidates;
        named.is_empty() || named.contains(&candidate.name)
    }

    /// How long ago the last one ended.
    fn since_last(&self) -> Option<Duration> {
        let all = self.group.promotions.all();
        let automatic = |one: &&repl_api::PromotionInfo| one.cause == Cause::Automatic.name();
        let ended = all
            .iter()
            .filter(automatic)
            .filter_map(|one| one.ended_ms)
            .max();
        ended.map(|ended| Duration::from_millis(now_ms().saturating_sub(ended)))
    }

    /// Says once why nothing is done.
    fn hold(&self, why: String) -> bool {
        let mut shown = self.group.failover.shown();
        if shown.held.as_ref() != Some(&why) {
            warn!(why, "the primary is dead and is not replaced");
            shown.held = Some(why);
        }
        false
    }
}
