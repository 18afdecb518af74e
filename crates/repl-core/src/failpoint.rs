//! Named places where the fault tests make the process die, fail or wait.
//!
//! Compiled in only with the `failpoints` feature; otherwise [`hit`] and [`sabotage`] are constants.
//! The environment variable `REPL_FAILPOINTS` lists them, separated by `;`:
//! `name=kill` (SIGKILL to the own process), `name=error`, `name=sleep(250)` (milliseconds), each
//! optionally followed by `@3` (only on the third hit) or `%0.01` (with that probability on each
//! hit). `REPL_SABOTAGE` lists deliberately broken behaviours, separated by `,`; the tests prove
//! with them that they would notice such a defect.

/// Passes a failpoint.
///
/// # Errors
/// When the failpoint is set to `error`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) -> std::io::Result<()> {
    Ok(())
}

/// Whether the behaviour called `name` is to be broken on purpose.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn sabotage(_name: &str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use enabled::{hit, sabotage};

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Action {
        Kill,
        Error,
        Sleep(u64),
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum When {
        Always,
        Nth(u64),
        Probability(f64),
    }

    struct Point {
        action: Action,
        when: When,
        hits: AtomicU64,
    }

    static POINTS: LazyLock<HashMap<String, Point>> =
        LazyLock::new(|| match std::env::var("REPL_FAILPOINTS") {
            Ok(text) => text.split(';').filter_map(parse).collect(),
            Err(_) => HashMap::new(),
        });

    static SABOTAGE: LazyLock<Vec<String>> = LazyLock::new(|| {
        std::env::var("REPL_SABOTAGE")
            .map(|text| text.split(',').map(|name| name.trim().to_owned()).collect())
            .unwrap_or_default()
    });

    static RANDOM: Mutex<u64> = Mutex::new(0);

    fn parse(text: &str) -> Option<(String, Point)> {
        let (name, rule) = text.trim().split_once('=')?;
        let (action, when) = if let Some((action, n)) = rule.split_once('@') {
            (action, When::Nth(n.parse().ok()?))
        } else if let Some((action, p)) = rule.split_once('%') {
            (action, When::Probability(p.parse().ok()?))
        } else {
            (rule, When::Always)
        };
        let action = match action {
            "kill" => Action::Kill,
            "error" => Action::Error,
            other => Action::Sleep(
                other
                    .strip_prefix("sleep(")?
                    .strip_suffix(')')?
                    .parse()
                    .ok()?,
            ),
        };
        Some((
            name.to_owned(),
            Point {
                action,
                when,
                hits: AtomicU64::new(0),
            },
        ))
    }

    /// Passes a failpoint.
    ///
    /// # Errors
    /// When the failpoint is set to `error`.
    pub fn hit(name: &str) -> std::io::Result<()> {
        let Some(point) = POINTS.get(name) else {
            return Ok(());
        };
        let count = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
        let now = match point.when {
            When::Always => true,
            When::Nth(n) => count == n,
            When::Probability(p) => random() < p,
        };
        if !now {
            return Ok(());
        }
        match point.action {
            Action::Kill => {
                // Not abort(): the process must vanish as on a power cut of its host, without
                // running destructors or writing a core.
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                loop {
                    std::thread::park();
                }
            }
            Action::Error => Err(std::io::Error::other(format!("failpoint {name}"))),
            Action::Sleep(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                Ok(())
            }
        }
    }

    /// Whether the behaviour called `name` is to be broken on purpose.
    pub fn sabotage(name: &str) -> bool {
        SABOTAGE.iter().any(|wanted| wanted == name)
    }

    fn random() -> f64 {
        let mut state = RANDOM
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *state == 0 {
            let nanos = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |d| d.as_nanos());
            *state = (nanos as u64) | 1;
        }
        // xorshift64: quality is irrelevant here, a new dependency is not.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as f64 / (1u64 << 53) as f64
    }
}
