//! Counts the successes and failures of a check's runs until they decide something.

use dpvs_api::HealthState;

/// State of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    state: HealthState,
    /// Consecutive runs that contradict the state.
    contrary: u32,
    /// Failures that make it down.
    fall: u32,
    /// Successes that make it up.
    rise: u32,
}

impl Counter {
    /// A check that has not run.
    pub fn new(fall: u32, rise: u32) -> Self {
        Self { state: HealthState::Unknown, contrary: 0, fall, rise }
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    /// Whether the last run failed and the next may decide that the check is down.
    pub fn is_doubtful(&self) -> bool {
        self.state != HealthState::Down && self.contrary > 0
    }

    /// Takes a run into account; returns whether the state is another now. The first success of a new check counts at once,
    /// so that servers need not wait long for it; failures must always be as many as they must be.
    pub fn run(&mut self, success: bool) -> bool {
        let (contradicts, needed, next) = match self.state {
            HealthState::Unknown if success => (true, 1, HealthState::Up),
            HealthState::Unknown | HealthState::Up => (!success, self.fall, HealthState::Down),
            HealthState::Down => (success, self.rise, HealthState::Up),
        };
        if !contradicts {
            self.contrary = 0;
            return false;
        }
        self.contrary += 1;
        let decided = self.contrary >= needed;
        if decided {
            self.state = next;
            self.contrary = 0;
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The state is what the last runs say: down after `fall` failures in a row, up after `rise` successes in a row, and
        /// else what it was.
        #[test]
        fn the_state_follows_from_the_last_runs(
            fall in 1u32..5,
            rise in 1u32..5,
            runs in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut counter = Counter::new(fall, rise);
            let mut expected = HealthState::Unknown;
            for (index, &success) in runs.iter().enumerate() {
                let in_a_row = runs[..=index].iter().rev().take_while(|run| **run == success).count() as u32;
                let before = expected;
                expected = match (expected, success) {
                    (HealthState::Unknown, true) => HealthState::Up,
                    (HealthState::Unknown | HealthState::Up, false) if in_a_row >= fall => HealthState::Down,
                    (HealthState::Down, true) if in_a_row >= rise => HealthState::Up,
                    (other, _) => other,
                };
                prop_assert_eq!(counter.run(success), before != expected);
                prop_assert_eq!(counter.state(), expected);
                prop_assert_eq!(counter.is_doubtful(), !success && expected != HealthState::Down);
            }
        }
    }
}
