//! Short holds on the log: what a comparison still has to read is not trimmed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use repl_core::Seq;

/// All holds.
#[derive(Debug, Default)]
pub struct Pins {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    pins: BTreeMap<u64, Seq>,
}

/// One hold; dropping it lets go.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    number: u64,
}

impl Pins {
    /// Keeps every transaction after `after` that is still in the log.
    pub fn hold(self: &Arc<Self>, after: Seq) -> Pin {
        let mut held = self.lock();
        held.last += 1;
        let number = held.last;
        held.pins.insert(number, after);
        Pin {
            pins: Arc::clone(self),
            number,
        }
    }

    /// Runs `trim` with `through`, or with less where something is held. Nothing is newly held
    /// before it returns, so that a hold never meets a trim half way.
    pub fn trimming<T>(&self, through: Seq, trim: impl FnOnce(Seq) -> T) -> T {
        let held = self.lock();
        let lowest = held.pins.values().min();
        trim(lowest.map_or(through, |after| through.min(*after)))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pin {
    /// Keeps only what comes after `after` from now on.
    pub fn advance(&self, after: Seq) {
        self.pins.lock().pins.insert(self.number, after);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock().pins.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_hold_bounds_the_trim() {
        let pins = Arc::new(Pins::default());
        let through = |seq| pins.trimming(Seq(seq), |through| through.0);
        assert_eq!(through(9), 9);
        let (low, high) = (pins.hold(Seq(3)), pins.hold(Seq(5)));
        assert_eq!((through(9), through(2)), (3, 2));
        low.advance(Seq(6));
        assert_eq!(through(9), 5);
        drop(high);
        assert_eq!(through(9), 6);
        drop(low);
        assert_eq!(through(9), 9);
    }
}
