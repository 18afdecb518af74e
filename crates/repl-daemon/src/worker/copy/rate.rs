//! How many rows a second are being copied.

use std::time::Duration;

use tokio::time::Instant;

/// A look sooner than this after the last one changes nothing.
const SOONEST: Duration = Duration::from_millis(50);
/// Seconds in which an old observation loses most of its weight.
const MEMORY: f64 = 5.0;

/// Rows and seconds observed, both losing weight with age; the rate is their quotient, so that a
/// short first observation weighs no more than it lasted.
pub(super) struct Rate {
    /// The last look and the rows there were; none before the first row of the round. What comes
    /// before it (the tables' creation, the reader's first answer) is no pace.
    last: Option<(Instant, u64)>,
    /// Rows that were there before the round.
    before: u64,
    rows: f64,
    seconds: f64,
}

impl Rate {
    /// Nothing observed, with `before` rows loaded already.
    pub(super) fn new(before: u64) -> Rate {
        Rate {
            last: None,
            before,
            rows: 0.0,
            seconds: 0.0,
        }
    }

    /// Rows a second, with `rows` loaded by `now`; none before two looks.
    pub(super) fn look(&mut self, now: Instant, rows: u64) -> Option<f64> {
        match self.last {
            None if rows > self.before => self.last = Some((now, rows)),
            None => {}
            Some((at, known)) => {
                let passed = now.duration_since(at);
                if passed >= SOONEST {
                    let seconds = passed.as_secs_f64();
                    let kept = (-seconds / MEMORY).exp();
                    self.rows = self.rows * kept + rows.saturating_sub(known) as f64;
                    self.seconds = self.seconds * kept + seconds;
                    self.last = Some((now, rows));
                }
            }
        }
        (self.seconds > 0.0).then(|| self.rows / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets() {
        let start = Instant::now();
        let mut rate = Rate::new(0);
        let at = |s: u64| start + Duration::from_secs(s);
        rate.look(at(0), 1);
        assert_eq!(rate.look(at(1), 1001), Some(1000.0));
        let mut rows = 1001;
        let mut now = 0.0;
        for second in 2..40 {
            rows += 100;
            now = rate.look(at(second), rows).unwrap();
        }
        assert!((100.0..110.0).contains(&now), "{now}");
    }

    #[test]
    fn neither_the_start_nor_a_stutter_counts_for_more_than_it_lasts() {
        let start = Instant::now();
        let mut rate = Rate::new(500);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(rate.look(at(0), 500), None);
        // Three seconds until the first row.
        assert_eq!(rate.look(at(3000), 510), None);
        assert_eq!(rate.look(at(3010), 510), None);
        assert_eq!(rate.look(at(3100), 510), Some(0.0));
        let mut rows = 510;
        let mut now = 0.0;
        for tenth in 1..=10 {
            rows += 100;
            now = rate.look(at(3100 + 100 * tenth), rows).unwrap();
        }
        assert!((900.0..1000.0).contains(&now), "{now}");
    }
}
