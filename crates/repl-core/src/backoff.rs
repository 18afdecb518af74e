//! Exponential backoff with jitter; randomness is an argument.

use std::time::Duration;

/// Bounds of the waiting time between attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// First wait.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Share of the wait, 0 to 1, by which it is randomly shortened so that many clients of a
    /// returning server do not all come at once.
    pub jitter: f64,
}

/// Counts failed attempts and tells how long to wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempts: u32,
}

impl Backoff {
    /// Starts with no failed attempt.
    pub fn new(policy: BackoffPolicy) -> Self {
        Backoff {
            policy,
            attempts: 0,
        }
    }

    /// Failed attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        self.attempts = 0;
    }

    /// Counts a failure and returns the time to wait; `random` is uniform in 0..1.
    pub fn failed(&mut self, random: f64) -> Duration {
        let doubled = self
            .policy
            .initial
            .saturating_mul(1u32 << self.attempts.min(20));
        self.attempts = self.attempts.saturating_add(1);
        let wait = doubled.min(self.policy.max);
        wait.mul_f64(1.0 - self.policy.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_over_after_success() {
        let policy = BackoffPolicy {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
            jitter: 0.5,
        };
        let mut backoff = Backoff::new(policy);
        let waits: Vec<u128> = (0..5).map(|_| backoff.failed(0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000]);
        assert_eq!(backoff.failed(1.0), Duration::from_millis(500));
        backoff.succeeded();
        assert_eq!(backoff.failed(0.0), Duration::from_millis(100));
    }
}
