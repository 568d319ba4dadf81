//! Servers that are ejected because too many of clients' connections to them fail. Time is passed in.
//!
//! Workers count what becomes of connections ([`dataplane::counters::ServerOutcomes`]); here the counts of an interval are
//! compared with what the service tolerates. Rules and names are those of Envoy's outlier detection, where it has them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dataplane::ServerId as ServerSlot;
use dpvs_api::{FailureKind, HealthState, Initially, Passive, PassiveStatus};

use super::service::{ServerHealth, ServiceHealth};
use super::watched::CheckId;
use crate::stats::Outcomes;

/// Connections whose clients gave up early are counted when their time is over: those that began before an ejection may be
/// counted so long after it. The timeout of SYN_RECV is 60 s, and may have begun anew with a repeated SYN.
const LATE: Duration = Duration::from_secs(75);

/// A server as the configuration has it, and what workers have counted of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub address: SocketAddr,
    pub slot: ServerSlot,
    pub weight: u32,
    pub counts: Outcomes,
}

/// How often a server was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejections {
    /// Since it has been judged.
    pub count: u64,
    pub is_ejected: bool,
}

/// What is known of a server by its connections.
#[derive(Debug)]
pub(super) struct Record {
    slot: ServerSlot,
    /// Counts at the begin of the interval.
    baseline: Outcomes,
    /// Those of the interval, as of the last look.
    grown: Outcomes,
    /// Counts at the last look that found new answers, or at the begin of the interval.
    silent_from: Outcomes,
    /// What has failed since.
    in_a_row: Outcomes,
    ejection: Option<Ejection>,
    /// How many times the base time the last ejection took; less by one with each interval since.
    backoff: u32,
    ejections: u64,
    /// Why it was ejected last, and when.
    reason: Option<(String, Instant)>,
    /// End of the last ejection.
    returned: Option<Instant>,
}

#[derive(Debug)]
struct Ejection {
    since: Instant,
    until: Instant,
    /// Of each check: runs and failures, from where on successes are counted.
    checks: HashMap<CheckId, (u64, u64)>,
}

impl Record {
    fn new(candidate: &Candidate) -> Self {
        Self {
            slot: candidate.slot,
            baseline: candidate.counts,
            grown: Outcomes::default(),
            silent_from: candidate.counts,
            in_a_row: Outcomes::default(),
            ejection: None,
            backoff: 0,
            ejections: 0,
            reason: None,
            returned: None,
        }
    }

    /// Begin of the ejection, while it lasts.
    pub fn ejected_since(&self) -> Option<Instant> {
        self.ejection.as_ref().map(|ejection| ejection.since)
    }

    /// Why it is ejected, while it is.
    pub fn reason(&self) -> Option<&str> {
        self.ejection.as_ref()?;
        self.reason.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> Ejections {
        Ejections { count: self.ejections, is_ejected: self.ejection.is_some() }
    }

    pub fn status(&self, now: Instant) -> PassiveStatus {
        let Outcomes { answered, refused, unanswered, expired, unreachable } = self.grown;
        PassiveStatus {
            answered,
            refused,
            timed_out: unanswered + expired,
            unreachable,
            ejections: self.ejections,
            reason: self.reason.as_ref().map(|(reason, _)| reason.clone()),
            reason_seconds: self.reason.as_ref().map(|(_, when)| now.saturating_duration_since(*when).as_secs()),
            returns_in: self.ejection.as_ref().map(|ejection| {
                // Rounded up: 0 would be a time that is over.
                ejection.until.saturating_duration_since(now).as_millis().div_ceil(1000) as u64
            }),
        }
    }

    fn begin_anew(&mut self, counts: Outcomes) {
        (self.baseline, self.silent_from) = (counts, counts);
        (self.grown, self.in_a_row) = (Outcomes::default(), Outcomes::default());
    }

    /// Takes what workers have counted by now.
    fn follow(&mut self, candidate: &Candidate, now: Instant) {
        if self.slot != candidate.slot {
            self.slot = candidate.slot;
            self.begin_anew(candidate.counts);
        }
        if self.ejection.is_some() {
            return self.begin_anew(candidate.counts);
        }
        if self.has_returned_within(LATE, now) {
            self.baseline.expired = candidate.counts.expired;
            self.silent_from.expired = candidate.counts.expired;
        }
        if self.silent_from.answered != candidate.counts.answered {
            self.silent_from = candidate.counts;
        }
        self.grown = candidate.counts - self.baseline;
        self.in_a_row = candidate.counts - self.silent_from;
    }

    /// Whether there is too much of what failed in the interval, or of what failed in a row: a server that worked until
    /// a moment ago has answered most of the interval's connections.
    fn suspicion(&self, passive: &Passive, candidate: usize) -> Option<Suspicion> {
        [self.grown, self.in_a_row].iter().find_map(|counts| Suspicion::of(passive, candidate, counts))
    }

    fn eject(&mut self, passive: &Passive, suspicion: &Suspicion, checks: HashMap<CheckId, (u64, u64)>, now: Instant) {
        self.backoff = self.backoff.saturating_add(1);
        self.ejections += 1;
        let time = passive.base_ejection_time.duration().saturating_mul(self.backoff);
        let time = time.min(passive.max_ejection_time.duration());
        self.reason = Some((format!("{}; ejected for {} s", suspicion.describe(), time.as_secs_f64()), now));
        self.ejection = Some(Ejection { since: now, until: now + time, checks });
    }

    fn end_ejection(&mut self, now: Instant) {
        self.ejection = None;
        self.returned = Some(now);
    }

    fn has_returned_within(&self, time: Duration, now: Instant) -> bool {
        self.returned.is_some_and(|returned| now.saturating_duration_since(returned) < time)
    }
}

/// A server whose counts are what the service does not tolerate.
struct Suspicion {
    candidate: usize,
    failures: Vec<(FailureKind, u64)>,
    failed: u64,
    /// Answered or failed.
    all: u64,
}

impl Suspicion {
    fn of(passive: &Passive, candidate: usize, counts: &Outcomes) -> Option<Self> {
        let count = |&kind: &FailureKind| match kind {
            FailureKind::Refused => (kind, counts.refused),
            FailureKind::Timeout => (kind, counts.unanswered + counts.expired),
            FailureKind::Unreachable => (kind, counts.unreachable),
        };
        let failures: Vec<(FailureKind, u64)> = passive.kinds.iter().map(count).collect();
        let failed = failures.iter().map(|(_, count)| count).sum();
        let all = counts.answered + failed;
        let is_suspect =
            failed >= u64::from(passive.error_limit) && failed * 100 >= all * u64::from(passive.failure_percent);
        is_suspect.then_some(Self { candidate, failures, failed, all })
    }

    /// `5 of 6 connections failed (4 refused, 1 timeout)`.
    fn describe(&self) -> String {
        let kinds = self.failures.iter().filter(|(_, count)| *count > 0);
        let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        format!("{} of {} connections failed ({})", self.failed, self.all, kinds.join(", "))
    }
}

impl ServerHealth {
    fn is_ejected(&self) -> bool {
        self.passive.as_ref().is_some_and(|record| record.ejection.is_some())
    }

    /// Whether the time of its ejection is over, or each of its checks has been passed anew: as often in a row as it takes one
    /// that is down to come up.
    fn may_return(&mut self, now: Instant) -> bool {
        let Some(ejection) = self.passive.as_mut().and_then(|record| record.ejection.as_mut()) else { return false };
        if now >= ejection.until {
            return true;
        }
        let mut passed = !self.checks.is_empty();
        for check in &self.checks {
            let (runs, failures) = check.runs();
            // One that has come since counts from now on, however long another service has had it.
            let seen = ejection.checks.entry(check.id).or_insert((runs, failures));
            if failures != seen.1 {
                *seen = (runs, failures);
            }
            passed &= check.verdict().state == HealthState::Up && runs - seen.0 >= u64::from(check.spec.check.rise);
        }
        passed
    }
}

impl ServiceHealth {
    /// Looks at what became of connections since the last time: ejects servers, and has ejected ones return. Returns whether
    /// there is something to [`decide`](Self::decide).
    pub fn look(&mut self, passive: &Passive, initially: Initially, candidates: &[Candidate], now: Instant) -> bool {
        let mut has_changed = false;
        for candidate in candidates {
            let Some(server) = self.servers.get_mut(&candidate.address) else { continue };
            server.passive.get_or_insert_with(|| Box::new(Record::new(candidate))).follow(candidate, now);
            if server.may_return(now) {
                server.passive.iter_mut().for_each(|record| record.end_ejection(now));
                has_changed = true;
            }
        }
        // Servers that do not count get no new connections that could fail.
        let counting: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.weight > 0).collect();
        has_changed |= self.eject(passive, initially, &counting, now);
        has_changed |= self.recall(passive, initially, &counting, now);
        self.end_interval(passive, candidates, now);
        has_changed
    }

    /// Ejects servers, those first that fail most, as many as may be.
    fn eject(&mut self, passive: &Passive, initially: Initially, counting: &[&Candidate], now: Instant) -> bool {
        let mut suspects: Vec<Suspicion> = Vec::new();
        let (mut ejected, mut usable) = (0, 0);
        for (index, candidate) in counting.iter().enumerate() {
            let Some(server) = self.servers.get(&candidate.address) else { continue };
            ejected += u32::from(server.is_ejected());
            if server.is_usable(initially) {
                usable += 1;
                suspects.extend(server.passive.as_ref().and_then(|record| record.suspicion(passive, index)));
            }
        }
        // By their shares of failures, compared without a division.
        suspects.sort_by(|a, b| (b.failed * a.all).cmp(&(a.failed * b.all)).then(b.failed.cmp(&a.failed)));
        let (before, share) = (ejected, u64::from(passive.max_ejection_percent));
        for suspect in suspects {
            let is_within = ejected == 0 || u64::from(ejected + 1) * 100 <= share * counting.len() as u64;
            let leaves_one = usable > 1 || share == 100;
            if !is_within || !leaves_one {
                break;
            }
            let Some(server) = self.servers.get_mut(&counting[suspect.candidate].address) else { continue };
            let checks = server.checks.iter().map(|check| (check.id, check.runs())).collect();
            let Some(record) = &mut server.passive else { continue };
            record.eject(passive, &suspect, checks, now);
            ejected += 1;
            usable -= 1;
        }
        ejected > before
    }

    /// When no other server is left, one whose connections fail is better than none.
    fn recall(&mut self, passive: &Passive, initially: Initially, counting: &[&Candidate], now: Instant) -> bool {
        let has_usable = |candidate: &&Candidate| {
            self.servers.get(&candidate.address).is_some_and(|server| server.is_usable(initially))
        };
        if passive.max_ejection_percent == 100 || counting.iter().any(has_usable) {
            return false;
        }
        let mut has_changed = false;
        for candidate in counting {
            let Some(server) = self.servers.get_mut(&candidate.address) else { continue };
            if server.is_ejected() && server.state != HealthState::Down {
                server.passive.iter_mut().for_each(|record| record.end_ejection(now));
                has_changed = true;
            }
        }
        has_changed
    }

    fn end_interval(&mut self, passive: &Passive, candidates: &[Candidate], now: Instant) {
        let began = *self.interval_began.get_or_insert(now);
        if now.saturating_duration_since(began) < passive.interval.duration() {
            return;
        }
        self.interval_began = Some(now);
        for candidate in candidates {
            let record = self.servers.get_mut(&candidate.address).and_then(|server| server.passive.as_mut());
            let Some(record) = record.filter(|record| record.ejection.is_none()) else { continue };
            record.begin_anew(candidate.counts);
            if !record.has_returned_within(passive.interval.duration(), now) {
                record.backoff = record.backoff.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
