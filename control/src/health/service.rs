//! What the verdicts of checks mean for a service: which of its servers are up, whether they are enough, and how much each
//! gets. Time is passed in.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpvs_api::{Health, HealthState, Initially, OnFailure, QuorumStatus, Seconds, ServerState};

use super::outlier::Record;
use super::watched::{Verdict, Watched};
use crate::registry::{Effect, MAX_WEIGHT};

/// Share of a server that starts slowly, at first, in percent.
const FIRST_SHARE: u32 = 10;

/// By how much the share grows at a time. `wrr` gives a server its turns one after the other, in a cycle as long as the sum of all
/// weights by their greatest common divisor: with finer steps, one with a small share would wait for its turns for hundreds of
/// connections, and the next step could begin before.
const SHARE_STEP: u32 = 10;

/// A service whose servers are checked.
#[derive(Debug, Default)]
pub(super) struct ServiceHealth {
    /// Servers that have checks, or all, if it is looked at what becomes of their connections.
    pub servers: HashMap<SocketAddr, ServerHealth>,
    /// When the counts of connections began anew.
    pub interval_began: Option<Instant>,
    quorum: Option<Quorum>,
}

/// A server that is looked at.
#[derive(Debug)]
pub(super) struct ServerHealth {
    pub checks: Vec<Arc<Watched>>,
    /// By its checks alone.
    pub state: HealthState,
    /// Begin of the state, or of the time since its ejection.
    pub since: Instant,
    /// What is known of it by its connections.
    pub passive: Option<Box<Record>>,
    /// Whether it was ejected when that was decided last.
    pub was_ejected: bool,
    /// When it came up again, while it gets less than its full share.
    pub ramp: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quorum {
    reached: bool,
    since: Instant,
    weight: u64,
}

/// A server as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Configured {
    pub address: SocketAddr,
    pub weight: u32,
    pub on_failure: OnFailure,
}

/// Something that others want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A server takes connections again, or no longer.
    Server(SocketAddr, bool),
    /// The quorum is reached, or lost, with servers of this weight.
    Quorum(bool, u64),
}

impl ServerHealth {
    pub fn new(checks: Vec<Arc<Watched>>, now: Instant) -> Self {
        // Nobody will ever say how one without checks does.
        let state = if checks.is_empty() { HealthState::Up } else { HealthState::Unknown };
        Self { checks, state, since: now, passive: None, was_ejected: false, ramp: None }
    }

    /// Begin of its ejection, while that lasts.
    fn ejected_since(&self) -> Option<Instant> {
        self.passive.as_ref().and_then(|record| record.ejected_since())
    }

    /// How it does, and since when.
    pub fn shown(&self) -> (ServerState, Instant) {
        match (self.state, self.ejected_since()) {
            (HealthState::Down, _) => (ServerState::Down, self.since),
            (_, Some(since)) => (ServerState::Ejected, since),
            (HealthState::Up, None) => (ServerState::Up, self.since),
            (HealthState::Unknown, None) => (ServerState::Unknown, self.since),
        }
    }

    /// Whether it takes connections.
    pub fn is_usable(&self, initially: Initially) -> bool {
        is_usable(self.state, self.ejected_since().is_some(), initially)
    }

    /// Whether it did when that was decided last.
    fn was_usable(&self, initially: Initially) -> bool {
        is_usable(self.state, self.was_ejected, initially)
    }

    /// Whether a check or an ejection had put it out when that was decided last.
    pub fn was_out(&self) -> bool {
        self.state == HealthState::Down || self.was_ejected
    }

    /// Takes the verdicts of its checks into account. While one of them is unknown, the state stays what it was.
    fn update(&mut self, verdicts: &[Verdict], slow_start: Seconds, now: Instant) {
        let has = |state| verdicts.iter().any(|verdict| verdict.state == state);
        let state = match (has(HealthState::Down), has(HealthState::Unknown)) {
            (true, _) => HealthState::Down,
            (false, true) => self.state,
            (false, false) => HealthState::Up,
        };
        let (was_ejected, is_ejected) = (self.was_ejected, self.ejected_since().is_some());
        if state != self.state || is_ejected != was_ejected {
            let recovers = self.was_out() && state == HealthState::Up && !is_ejected;
            self.ramp = (recovers && slow_start != Seconds::ZERO).then_some(now);
            // For one that is down, the end of its ejection is no begin of anything.
            if state != self.state || state != HealthState::Down {
                self.since = now;
            }
            (self.state, self.was_ejected) = (state, is_ejected);
        }
        self.ramp.take_if(|since| share(now.saturating_duration_since(*since), slow_start) == 100);
    }
}

/// The weight that programs give a server in place of its own. As in keepalived's `misc_dynamic`, each changes the weight by
/// what it says more or less.
fn given_weight(own: u32, verdicts: &[Verdict]) -> Option<u32> {
    let mut given = verdicts.iter().filter_map(|verdict| verdict.weight).peekable();
    given.peek()?;
    let sum = given.fold(i64::from(own), |sum, weight| sum + i64::from(weight) - i64::from(own));
    Some(sum.clamp(0, i64::from(MAX_WEIGHT)) as u32)
}

fn is_usable(state: HealthState, is_ejected: bool, initially: Initially) -> bool {
    !is_ejected
        && match state {
            HealthState::Up => true,
            HealthState::Down => false,
            HealthState::Unknown => initially == Initially::Up,
        }
}

/// What part of its weight a server has so long after it came up, in percent.
fn share(elapsed: Duration, slow_start: Seconds) -> u32 {
    let whole = slow_start.duration();
    if elapsed >= whole {
        return 100;
    }
    let steps = f64::from((100 - FIRST_SHARE) / SHARE_STEP);
    FIRST_SHARE + (steps * elapsed.as_secs_f64() / whole.as_secs_f64()) as u32 * SHARE_STEP
}

impl ServiceHealth {
    /// Whether a server's share will change with time alone.
    pub fn is_ramping(&self) -> bool {
        self.servers.values().any(|server| server.ramp.is_some())
    }

    /// Whether there are enough servers.
    pub fn has_quorum(&self) -> Option<bool> {
        self.quorum.map(|quorum| quorum.reached)
    }

    pub fn quorum_status(&self, now: Instant) -> Option<QuorumStatus> {
        let Quorum { reached, since, weight } = self.quorum?;
        Some(QuorumStatus { reached, seconds: now.saturating_duration_since(since).as_secs(), weight })
    }

    /// Works out what follows from the verdicts. The effects are in the order of `configured`.
    pub fn decide(
        &mut self,
        health: &Health,
        configured: &[Configured],
        has_sorry: bool,
        now: Instant,
    ) -> (Vec<Effect>, Vec<News>) {
        let mut news = Vec::new();
        let mut weight_up = 0;
        let mut effects = Vec::with_capacity(configured.len());
        for server in configured {
            let Some(state) = self.servers.get_mut(&server.address) else {
                // Nobody looks at it, so it counts as one that works.
                weight_up += u64::from(server.weight);
                effects.push(Effect::NONE);
                continue;
            };
            let verdicts: Vec<Verdict> = state.checks.iter().map(|check| check.verdict()).collect();
            let was_usable = state.was_usable(health.initially);
            state.update(&verdicts, health.slow_start, now);
            let is_usable = state.is_usable(health.initially);
            if is_usable != was_usable {
                news.push(News::Server(server.address, is_usable));
            }
            let given = given_weight(server.weight, &verdicts);
            if is_usable {
                weight_up += u64::from(given.unwrap_or(server.weight));
            }
            effects.push(match (is_usable, server.on_failure) {
                (true, _) => {
                    let elapsed = state.ramp.map(|since| now.saturating_duration_since(since));
                    let share = elapsed.map_or(100, |elapsed| share(elapsed, health.slow_start));
                    Effect { removed: false, weight: given, share }
                }
                (false, on_failure) => Effect::of(on_failure),
            });
        }
        let reached = self.update_quorum(health, weight_up, now, &mut news);
        // Without anybody in their place, few servers are better than none.
        if !reached && has_sorry {
            effects = configured.iter().map(|server| Effect::of(server.on_failure)).collect();
        }
        (effects, news)
    }

    /// As keepalived has it: lost below `quorum - hysteresis` or without any weight, reached at `quorum + hysteresis`.
    fn update_quorum(&mut self, health: &Health, weight: u64, now: Instant, news: &mut Vec<News>) -> bool {
        let (quorum, hysteresis) = (u64::from(health.quorum), u64::from(health.hysteresis));
        let was_reached = self.quorum.map(|before| before.reached);
        let reached = match was_reached {
            Some(true) => weight > 0 && weight >= quorum.saturating_sub(hysteresis),
            _ => weight >= quorum + hysteresis,
        };
        let since = self.quorum.filter(|before| before.reached == reached).map_or(now, |before| before.since);
        self.quorum = Some(Quorum { reached, since, weight });
        if was_reached != Some(reached) {
            news.push(News::Quorum(reached, weight));
        }
        reached
    }
}

#[cfg(test)]
mod tests;
