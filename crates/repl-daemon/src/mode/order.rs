//! The operator orders another mode at run time.

use std::time::Duration;

use repl_api::{MinReplicas, ModeRequest};
use repl_core::mode::{Level, Mode, Need, OnTimeout, Quorum, Settings};

use super::Modes;
use crate::config::{default_on_timeout, impossible};

/// Why an order is refused, and what to do.
pub struct Refusal {
    /// What and why.
    pub what: String,
    /// What to do.
    pub advice: String,
}

fn refuse(what: impl Into<String>, advice: impl Into<String>) -> Refusal {
    Refusal {
        what: what.into(),
        advice: advice.into(),
    }
}

impl Modes {
    /// Follows an order, once it is remembered durably; what it leaves open stays as it is.
    ///
    /// # Errors
    /// When the guarantee cannot be given, or the order cannot be remembered.
    pub fn order(&self, request: &ModeRequest) -> Result<String, Refusal> {
        let settings = settings(request, self.settings())?;
        let engine = self.config.engine();
        let found = impossible(
            &self.config.replication,
            &settings,
            self.roster.len(),
            engine,
        );
        if let Some(found) = found {
            return Err(refuse(format!("{}: {}", found.what, found.why), found.fix));
        }
        self.remember(settings).map_err(|error| {
            refuse(
                format!("the order cannot be remembered: {error:#}"),
                "free space or mend the permissions of the log directory, then try again",
            )
        })?;
        Ok(match settings.mode {
            Mode::Async => "commits of the primary wait for nothing any more".to_owned(),
            _ => format!("{settings} is being enabled; replctl status shows when it is in force"),
        })
    }
}

fn settings(request: &ModeRequest, now: Settings) -> Result<Settings, Refusal> {
    let mode = match request.mode {
        repl_api::Mode::Async => Mode::Async,
        repl_api::Mode::SemiSync => Mode::SemiSync,
        repl_api::Mode::Sync => Mode::Sync,
        repl_api::Mode::Unknown => {
            return Err(refuse(
                "the mode is not known",
                "use async, semi-sync or sync",
            ));
        }
    };
    let need = match &request.min_replicas {
        Some(MinReplicas::Number(0)) => {
            return Err(refuse("min_replicas is 0", "use async, or 1 or more"));
        }
        Some(MinReplicas::Number(count)) => Need::Count(*count),
        Some(MinReplicas::Word(word)) if word == "majority" => Need::Majority,
        Some(MinReplicas::Word(word)) => {
            let what = format!("min_replicas = {word:?} is not understood");
            return Err(refuse(what, "use a number or \"majority\""));
        }
        None => now.need,
    };
    let quorum = word(
        request.quorum.as_deref(),
        &[("any", Quorum::Any), ("first", Quorum::First)],
    )?;
    let levels = [("applied", Level::Applied), ("logged", Level::Logged)];
    let level = word(request.level.as_deref(), &levels)?;
    let timeouts = [("block", OnTimeout::Block), ("degrade", OnTimeout::Degrade)];
    let on_timeout = word(request.on_timeout.as_deref(), &timeouts)?;
    // What happens on timeout belongs to the mode, unless the mode stays.
    let kept = if mode == now.mode {
        now.on_timeout
    } else {
        default_on_timeout(mode)
    };
    Ok(Settings {
        mode,
        need,
        quorum: quorum.unwrap_or(now.quorum),
        level: level.unwrap_or(now.level),
        on_timeout: on_timeout.unwrap_or(kept),
        timeout: request
            .timeout_ms
            .map_or(now.timeout, |ms| Duration::from_millis(ms.max(100))),
        max_queue: request.max_queue.unwrap_or(now.max_queue),
    })
}

fn word<T: Copy>(given: Option<&str>, known: &[(&str, T)]) -> Result<Option<T>, Refusal> {
    let Some(given) = given else { return Ok(None) };
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let found = known.iter().find(|(name, _)| *name == given);
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        refuse(
            format!("`{given}` is not understood"),
            format!("use {}", names.join(" or ")),
        )
    })
}
