//! The operator's verbs.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use repl_api::{
    ActionDone, ErrorCode, LedgerPage, Ledgers, LogInfo, LogQuery, ModeRequest, PromoteRequest,
    Promotions, Readiness, ResyncRequest, SkipRequest, Status, Validation, ValidationRequest,
    WaitDone, WaitRequest,
};
use repl_connectors::seam::ConnectorError;
use repl_core::Seq;
use repl_core::membership::Membership;
use repl_core::promotion::Cause;
use repl_core::schema::TableName;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use crate::admin::{Actor, Control, ControlError};
use crate::capture_task::Uninstall;
use crate::clock::now_ms;
use crate::ledger;
use crate::logview;
use crate::mode::{Refusal, Waiting};
use crate::promotion::{self, Begun, Order, Parties, readiness};
use crate::replica::Replica;
use crate::state::Pause;
use crate::status::Group;
use crate::validate::Validator;

/// What verbs are carried out on, as long as the roles stay.
pub struct Running {
    /// The group.
    pub group: Arc<Group>,
    /// Reaches its capture.
    pub uninstall: mpsc::Sender<Uninstall>,
    /// Interrupts it.
    pub interrupt: watch::Sender<bool>,
    /// Compares replicas with the primary.
    pub validator: Validator,
    /// What clients that wait are answered from.
    pub waiting: Waiting,
}

/// Carries out the verbs on the group.
pub struct GroupControl {
    running: RwLock<Arc<Running>>,
    promotions: mpsc::Sender<Order>,
    /// Verbs change durable state one after the other.
    serial: tokio::sync::Mutex<()>,
}

impl GroupControl {
    /// Control of what runs; `promotions` reaches the host.
    pub fn new(running: Arc<Running>, promotions: mpsc::Sender<Order>) -> Self {
        GroupControl {
            running: RwLock::new(running),
            promotions,
            serial: tokio::sync::Mutex::new(()),
        }
    }

    /// Control of something else from now on: roles have changed.
    pub fn switch(&self, running: &Arc<Running>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(running);
    }

    /// What runs now.
    pub fn now(&self) -> Arc<Running> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&running)
    }

    /// What runs now, for a verb that must not come between the steps of a promotion.
    fn settled(&self) -> Result<Arc<Running>, ControlError> {
        let now = self.now();
        if now.group.state.promotion().is_some() {
            let advice = "wait until it has ended (replctl history), then try again";
            return Err(conflict("a promotion is under way", advice));
        }
        Ok(now)
    }

    /// What runs now, for a promotion. A forced one may take the place of one that waits for a dead
    /// node: the host decides.
    fn present_for(&self, cause: Cause) -> Result<Arc<Running>, ControlError> {
        match cause.is_forced() {
            true => Ok(self.now()),
            false => self.settled(),
        }
    }
}

impl Running {
    fn replica(&self, name: &str) -> Result<&Arc<Replica>, ControlError> {
        self.group
            .replicas
            .iter()
            .find(|replica| replica.node.name == name)
            .ok_or_else(|| crate::admin::unknown_replica(name, &self.group.status()))
    }

    /// The tables asked for; none for the whole replica.
    fn tables_to_resync(
        &self,
        replica: &Replica,
        request: &ResyncRequest,
    ) -> Result<Vec<TableName>, ControlError> {
        if request.tables.is_empty() {
            return Ok(Vec::new());
        }
        let name = &replica.node.name;
        let standing = replica.record().map(|record| record.standing);
        if standing == Some(Membership::NeedsResync) {
            return Err(conflict(
                format!(
                    "replica {name} needs a resync of all its tables: its history and the log's \
                     do not join"
                ),
                format!("replctl resync {name}"),
            ));
        }
        let routing = crate::wiring::routing(&self.group.config, &replica.node)
            .map_err(|error| ControlError::new(ErrorCode::Internal, format!("{error:#}"), ""))?;
        let (found, refused) = self.validator.tables(&request.tables)?;
        let tables: Vec<TableName> = found
            .into_iter()
            .map(|table| table.name)
            .filter(|table| routing.target(table).is_some())
            .collect();
        if tables.is_empty() {
            let why: Vec<String> = refused
                .iter()
                .map(|(table, reason)| format!("{table}: {reason}"))
                .collect();
            return Err(conflict(
                format!(
                    "replica {name} receives none of these tables; {}",
                    why.join("; ")
                ),
                "see what is replicated with: replctl tables",
            ));
        }
        Ok(tables)
    }

    fn change(
        &self,
        replica: &Replica,
        change: impl FnOnce(&mut crate::state::ReplicaRecord),
    ) -> Result<(), ControlError> {
        replica.change(change).map(drop).map_err(|error| {
            ControlError::new(
                ErrorCode::Unavailable,
                format!("the replica's state cannot be written: {error:#}"),
                "free space or mend the permissions of the log directory, then try again",
            )
        })
    }
}

/// What is now done, for people.
fn resync_message(name: &str, tables: &[TableName], request: &ResyncRequest) -> String {
    let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
    let what = match names.as_slice() {
        [] => format!("replica {name}"),
        names => format!("{} on replica {name}", names.join(", ")),
    };
    let are = if tables.len() > 1 { "are" } else { "is" };
    if request.full {
        format!("{what} {are} emptied and copied again")
    } else {
        format!("{what} {are} compared with the primary and brought to what it holds")
    }
}

fn done(verb: &str, target: &str, message: impl Into<String>) -> ActionDone {
    let message = message.into();
    info!(verb, target, message, "ordered by the operator");
    ActionDone {
        verb: verb.to_owned(),
        target: target.to_owned(),
        message,
    }
}

fn conflict(message: impl Into<String>, advice: impl Into<String>) -> ControlError {
    ControlError::new(ErrorCode::Conflict, message, advice)
}

fn needs_resync(name: &str) -> ControlError {
    conflict(
        format!("replica {name} needs a new copy: its history and the log's do not join"),
        format!("copy it anew with: replctl resync {name}"),
    )
}

#[async_trait]
impl Control for GroupControl {
    fn group(&self) -> String {
        self.now().group.config.group.name.clone()
    }

    async fn status(&self) -> Result<Status, ControlError> {
        Ok(self.now().group.status())
    }

    async fn log_info(&self, query: &LogQuery) -> Result<LogInfo, ControlError> {
        let group = Arc::clone(&self.now().group);
        let (log, query) = (Arc::clone(&group.log), query.clone());
        let table = query.table.as_deref().map(logview::Wanted::parse);
        let failed =
            |text: String| ControlError::new(ErrorCode::Internal, text, "see the daemon's own log");
        let info = tokio::task::spawn_blocking(move || logview::read(log.as_ref(), &query))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        if let Some(table) = table.filter(|_| info.transactions.is_empty()) {
            let seen = group.primary_seen();
            let mut known: Vec<_> = seen.tables.into_iter().map(|one| one.table).collect();
            known.extend(seen.others);
            if let Some(unknown) = table.unknown(&known) {
                return Err(unknown);
            }
        }
        Ok(info)
    }

    async fn pause(&self, name: &str, _actor: &Actor) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        if replica
            .record()
            .is_some_and(|record| record.standing == Membership::NeedsResync)
        {
            return Err(needs_resync(name));
        }
        let held = replica.record().and_then(|record| record.pause);
        // One held by an error goes on counting until the operator says otherwise, as here.
        if held.is_some_and(|pause| pause.error.is_none() || !replica.counted()) {
            return Ok(done(
                "pause",
                name,
                format!("replica {name} is already paused"),
            ));
        }
        now.change(replica, |record| {
            record.pause = Some(Pause {
                since_ms: now_ms(),
                error: None,
            });
        })?;
        replica.order(|_| {});
        Ok(done(
            "pause",
            name,
            format!("replica {name} is paused; its backlog waits in the log"),
        ))
    }

    async fn resume(&self, name: &str, _actor: &Actor) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        let record = replica.record();
        if record
            .as_ref()
            .is_some_and(|record| record.standing == Membership::NeedsResync)
        {
            return Err(needs_resync(name));
        }
        if record.is_none_or(|record| record.pause.is_none()) {
            return Err(conflict(
                format!("replica {name} is not paused"),
                "see its state with: replctl status",
            ));
        }
        now.change(replica, |record| record.pause = None)?;
        replica.order(|_| {});
        Ok(done("resume", name, format!("replica {name} goes on")))
    }

    async fn retry(&self, name: &str, _actor: &Actor) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        let record = replica.record();
        if record
            .as_ref()
            .is_some_and(|record| record.standing == Membership::NeedsResync)
        {
            return Err(needs_resync(name));
        }
        let held =
            record.is_some_and(|record| record.pause.is_some_and(|pause| pause.error.is_some()));
        let retrying = replica.view().activity == Some(repl_api::Activity::Retrying);
        if !held && !retrying {
            return Err(conflict(
                format!("nothing has failed on replica {name}"),
                "see its state with: replctl status",
            ));
        }
        now.change(replica, |record| record.pause = None)?;
        replica.order(|_| {});
        Ok(done(
            "retry",
            name,
            format!("replica {name} tries again now"),
        ))
    }

    async fn skip(
        &self,
        name: &str,
        skip: &SkipRequest,
        _actor: &Actor,
    ) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        let failed = replica
            .record()
            .and_then(|record| record.pause?.error?.transaction)
            .map(|transaction| transaction.seq);
        if failed != Some(skip.seq) {
            let held = match failed {
                Some(seq) => format!("it is held by transaction {seq}"),
                None => "it is not held by a failed transaction".to_owned(),
            };
            return Err(conflict(
                format!(
                    "transaction {} cannot be skipped on replica {name}: {held}",
                    skip.seq
                ),
                "see the failed transaction with: replctl status",
            ));
        }
        now.change(replica, |record| {
            record.pause = None;
            record.standing = Membership::Diverged;
            record.skipped += 1;
            record.reason = format!(
                "transaction {} was skipped: {}",
                skip.seq,
                skip.reason.trim()
            );
        })?;
        replica.order(|orders| orders.skip = Some(Seq(skip.seq)));
        Ok(done(
            "skip",
            name,
            format!(
                "transaction {} is left out; replica {name} is diverged until it is copied anew",
                skip.seq
            ),
        ))
    }

    async fn resync(
        &self,
        name: &str,
        request: &ResyncRequest,
        _actor: &Actor,
    ) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        if !replica.node.enabled {
            return Err(conflict(
                format!("replica {name} is disabled in the configuration"),
                "set enabled = true for it and restart the daemon",
            ));
        }
        if replica.record().is_some_and(|record| record.is_deposed()) {
            return Err(conflict(
                format!("{name} was the primary, and has not joined again"),
                format!("have it join, whatever it holds, with: replctl rejoin {name}"),
            ));
        }
        if let Some(why) = now.group.seen.closed_alert() {
            let advice = "a resync would bring the replica to what that node holds: decide first which one is the primary";
            return Err(conflict(why, advice));
        }
        if !request.tables.is_empty() {
            now.validator.wait_for_tables().await;
        }
        let tables = now.tables_to_resync(replica, request)?;
        now.change(replica, |record| {
            record.pause = None;
            record.replace = true;
            record.full = request.full;
            if tables.is_empty() {
                record.standing = Membership::Resyncing;
                record.restart = true;
                record.skipped = 0;
                record.reason.clear();
            } else {
                // It counts until the worker begins: what it has applied may be withheld.
                let fresh = |table: &TableName| !record.resync.contains(table);
                let more: Vec<_> = tables
                    .iter()
                    .filter(|table| fresh(table))
                    .cloned()
                    .collect();
                record.resync.extend(more);
            }
        })?;
        replica.order(|orders| {
            if tables.is_empty() {
                orders.skip = None;
            }
        });
        Ok(done("resync", name, resync_message(name, &tables, request)))
    }

    async fn rejoin(&self, name: &str, _actor: &Actor) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let replica = now.replica(name)?;
        if !replica.record().is_some_and(|record| record.is_deposed()) {
            return Err(conflict(
                format!("{name} is a replica like any other: it has nothing to join again"),
                "see its state with: replctl status",
            ));
        }
        now.change(replica, |record| {
            record.pause = None;
            if let Some(deposed) = &mut record.deposed {
                deposed.ordered = true;
            }
            if record.standing == Membership::NeedsResync {
                // The log has let go of what it would follow from.
                record.standing = Membership::Diverged;
                (record.replace, record.restart) = (true, true);
            }
        })?;
        replica.order(|_| {});
        let message = format!("{name} joins as soon as it answers and refuses writes");
        Ok(done("rejoin", name, message))
    }

    async fn drop_slot(&self, _actor: &Actor) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let (answer, answered) = oneshot::channel();
        let stopped = || {
            ControlError::new(
                ErrorCode::Unavailable,
                "capture has stopped",
                "restart the daemon and try again",
            )
        };
        now.uninstall.send(answer).await.map_err(|_| stopped())?;
        // Ends the running stream, so that the capture takes the order.
        now.interrupt.send_replace(true);
        let removed = answered.await.map_err(|_| stopped())?.map_err(refused)?;
        let message = if removed.is_empty() {
            "nothing of ours was left on the primary".to_owned()
        } else {
            removed.join("; ")
        };
        Ok(done("slot.drop", &now.group.config.primary.name, message))
    }

    async fn mode(
        &self,
        request: &ModeRequest,
        _actor: &Actor,
    ) -> Result<ActionDone, ControlError> {
        let _serial = self.serial.lock().await;
        let now = self.settled()?;
        let message = now
            .waiting
            .modes
            .order(request)
            .map_err(|refusal| conflict(refusal.what, refusal.advice))?;
        Ok(done("mode", &now.group.config.group.name, message))
    }

    async fn wait(&self, request: &WaitRequest) -> Result<WaitDone, ControlError> {
        let refused = |refusal: Refusal| {
            ControlError::new(ErrorCode::BadRequest, refusal.what, refusal.advice)
        };
        self.now().waiting.wait(request).await.map_err(refused)
    }

    async fn check_promotion(&self, request: &PromoteRequest) -> Result<Readiness, ControlError> {
        let cause = promotion::cause(request)?;
        let now = self.present_for(cause)?;
        let named = (!request.replica.is_empty()).then_some(request.replica.as_str());
        let first = promotion::in_question(&now.group, named).into_iter().next();
        let name = first.ok_or_else(promotion::no_candidate)?;
        let parties = Parties::of(&now.group, &name)?;
        readiness::report(&now.group, &parties, cause).await
    }

    async fn promote(
        &self,
        request: &PromoteRequest,
        _actor: &Actor,
    ) -> Result<ActionDone, ControlError> {
        let cause = promotion::cause(request)?;
        let named = (!request.replica.is_empty()).then(|| request.replica.clone());
        let answered = {
            let _serial = self.serial.lock().await;
            let now = self.present_for(cause)?;
            if let Some(name) = &named {
                now.replica(name)?;
            }
            let (reply, answered) = oneshot::channel();
            let order = Order {
                replica: named,
                cause,
                reason: String::new(),
                reply,
            };
            let busy = "see how it goes on with: replctl history";
            let sent = self.promotions.try_send(order);
            sent.map_err(|_| conflict("a promotion is under way", busy))?;
            // Held until it has begun: no verb comes between.
            answered.await
        };
        let stopped = |_| {
            let what = "the daemon is stopping";
            ControlError::new(
                ErrorCode::Unavailable,
                what,
                "try again once it has started",
            )
        };
        let Begun { id, to } = answered.map_err(stopped)??;
        let message = format!("promotion {id} of {to} has begun");
        Ok(done("promote", &to, message))
    }

    async fn promotions(&self) -> Result<Promotions, ControlError> {
        Ok(self.now().group.promotions())
    }

    async fn ledgers(&self) -> Result<Ledgers, ControlError> {
        ledger::all(self.now().group.config.log.dir.clone()).await
    }

    async fn ledger(&self, id: &str, from: u64) -> Result<LedgerPage, ControlError> {
        ledger::one(self.now().group.config.log.dir.clone(), id, from).await
    }

    async fn validate(&self, request: &ValidationRequest) -> Result<Validation, ControlError> {
        let now = self.settled()?;
        now.validator.wait_for_tables().await;
        now.validator.start(request)
    }

    async fn validation(&self, id: &str) -> Result<Validation, ControlError> {
        self.now().validator.get(id)
    }

    async fn cancel_validation(
        &self,
        id: &str,
        _actor: &Actor,
    ) -> Result<ActionDone, ControlError> {
        self.now().validator.cancel(id)
    }

    async fn repair(&self, id: &str, _actor: &Actor) -> Result<ActionDone, ControlError> {
        self.settled()?.validator.repair(id).await
    }
}

fn refused(error: ConnectorError) -> ControlError {
    let code = match error.kind {
        repl_core::ErrorKind::Connection | repl_core::ErrorKind::Transient => {
            ErrorCode::Unavailable
        }
        _ => ErrorCode::Conflict,
    };
    ControlError::new(code, error.message, error.advice)
}
