//! Weighted round robin (ip_vs_wrr.c): passes over the list with a falling weight; in each pass those servers
//! are chosen whose own weight reaches it.

use crate::{Pool, State, round};

/// The steps of the current weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turns {
    /// Where the current weight starts: the largest weight less `step - 1`; 0 when there is no weight at all.
    start: u32,
    /// By how much it falls from pass to pass: the greatest common divisor of the weights.
    step: u32,
}

impl Turns {
    pub(crate) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let step = weights.clone().fold(0, gcd).max(1);
        let largest = weights.max().unwrap_or(0);
        Self { start: (largest + 1).saturating_sub(step), step }
    }

    /// The current weight after a change of the configuration: it goes on where it was if the new weights allow.
    pub(crate) fn resume(&self, state: &mut State) {
        state.last = None;
        if state.current_weight > self.start || state.current_weight == 0 {
            state.current_weight = self.start;
        } else if self.step > 1 {
            state.current_weight = (state.current_weight / self.step) * self.step + 1;
        }
    }

    /// The weight of the pass after this one.
    fn next_pass(&self, current: u32) -> u32 {
        if current > self.step { current - self.step } else { self.start }
    }
}

pub(crate) fn gcd(a: u32, b: u32) -> u32 {
    if a == 0 { b } else { gcd(b % a, a) }
}

pub(crate) fn pick(turns: &Turns, state: &mut State, pool: &impl Pool) -> Option<usize> {
    if state.current_weight == 0 {
        state.current_weight = turns.start;
    }
    let reaches = |weight: u32| move |&server: &usize| pool.is_available(server) && pool.weight(server) >= weight;
    // The rest of the pass under way.
    let rest = state.last.map_or(0, |last| last + 1)..pool.len();
    if let Some(server) = rest.into_iter().find(reaches(state.current_weight)) {
        return Some(server);
    }
    // Every later pass begins at the head and finds someone as soon as the weight is low enough for the heaviest
    // available server: go there directly instead of pass by pass.
    let heaviest = round(None, pool.len()).filter(|&s| pool.is_available(s)).map(|s| pool.weight(s)).max()?;
    let mut weight = turns.next_pass(state.current_weight);
    if weight > heaviest {
        let passes = (weight - heaviest).div_ceil(turns.step);
        weight = weight.saturating_sub(passes * turns.step).max(1);
    }
    state.current_weight = weight;
    round(None, pool.len()).find(reaches(weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Kind, Scheduler};

    #[test]
    fn order_of_the_textbook_example() {
        // Weights 4, 3, 2: AABABCABC, as in the description of the method on linuxvirtualserver.org.
        let chosen = picks(Kind::Wrr, &pool(&[4, 3, 2]), 9);
        assert_eq!(chosen, [0, 0, 1, 0, 1, 2, 0, 1, 2].map(Some));
    }

    #[test]
    fn shares_equal_weights() {
        for weights in [&[1, 2, 3][..], &[10, 20], &[5, 5, 5], &[65535, 1], &[6, 4, 2, 0], &[100, 75, 1]] {
            let total: u32 = weights.iter().sum();
            let turns = Turns::new(weights.iter().copied());
            let period = (total / turns.step) as usize;
            let chosen = picks(Kind::Wrr, &pool(weights), 2 * period);
            for (server, &weight) in weights.iter().enumerate() {
                let count = chosen.iter().filter(|&&c| c == Some(server)).count();
                assert_eq!(count, 2 * (weight / turns.step) as usize, "server {server} of {weights:?}");
            }
        }
    }

    #[test]
    fn goes_on_when_the_heaviest_is_overloaded() {
        let mut servers = pool(&[60000, 2, 1]);
        servers[0].overloaded = true;
        let chosen = picks(Kind::Wrr, &servers, 6);
        assert_eq!(chosen.iter().filter(|c| **c == Some(1)).count(), 4, "{chosen:?}");
        assert_eq!(chosen.iter().filter(|c| **c == Some(2)).count(), 2, "{chosen:?}");
    }

    #[test]
    fn resume_keeps_the_current_weight_when_it_can() {
        let before = Scheduler::new(Kind::Wrr, &servers(&[4, 4]));
        let mut state = State::default();
        before.pick(&mut state, &from([192, 0, 2, 1], 1), &pool(&[4, 4]));
        assert_eq!(state.current_weight, 1);
        let after = Scheduler::new(Kind::Wrr, &servers(&[6, 4]));
        after.resume(&mut state, Some(0));
        assert_eq!((state.last, state.current_weight), (None, 1));
        let smaller = Scheduler::new(Kind::Wrr, &servers(&[1, 1]));
        state.current_weight = 5;
        smaller.resume(&mut state, Some(0));
        assert_eq!(state.current_weight, 1);
    }
}
