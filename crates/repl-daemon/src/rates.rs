//! Recent rates from counters sampled once a second.

use std::collections::VecDeque;

/// Seconds a rate is averaged over.
const WINDOW: usize = 5;

/// Keeps the last samples of a pair of counters.
#[derive(Debug, Default)]
pub struct Meter {
    samples: VecDeque<(u64, u64, u64)>,
}

impl Meter {
    /// Takes a sample: milliseconds, transactions, rows.
    pub fn sample(&mut self, now_ms: u64, transactions: u64, rows: u64) {
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((now_ms, transactions, rows));
    }

    /// Transactions and rows per second over the window.
    pub fn rates(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return (0.0, 0.0);
        };
        let seconds = last.0.saturating_sub(first.0) as f64 / 1000.0;
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (per_second(first.1, last.1), per_second(first.2, last.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_window() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), (0.0, 0.0));
        for second in 0..20 {
            meter.sample(second * 1000, second * 10, second * 100);
        }
        assert_eq!(meter.rates(), (10.0, 100.0));
    }
}
