use std::sync::Arc;

use dpvs_api::{Health, OnFailure, Seconds, ServerState};

use super::*;
use crate::health::probe::{Failure, Success};
use crate::health::service::{Configured, News};
use crate::health::target::Spec;
use crate::health::watched::{Board, Watched};
use crate::registry::Effect;

const NOBODY: [usize; 0] = [];

fn address(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8 + 1], 80).into()
}

/// A service with servers of weight 1, whose connections are counted by hand.
struct Bench {
    service: ServiceHealth,
    health: Health,
    candidates: Vec<Candidate>,
    now: Instant,
}

impl Bench {
    fn new(servers: usize) -> Self {
        let now = Instant::now();
        let candidate = |index| Candidate {
            address: address(index),
            slot: ServerSlot(index as u32),
            weight: 1,
            // What the slot counted before is not the server's.
            counts: Outcomes { refused: 1000, expired: 1000, ..Outcomes::default() },
        };
        let health =
            Health { passive: Some(Passive::default()), slow_start: Seconds::from_millis(10_000), ..Health::default() };
        let mut service = ServiceHealth::default();
        for index in 0..servers {
            service.servers.insert(address(index), ServerHealth::new(Vec::new(), now));
        }
        let mut bench = Self { service, health, candidates: (0..servers).map(candidate).collect(), now };
        assert_eq!(bench.look(), vec![Effect::NONE; servers], "nothing has been counted yet");
        bench
    }

    fn passive(&mut self) -> &mut Passive {
        self.health.passive.as_mut().unwrap()
    }

    fn count(&mut self, server: usize, counts: Outcomes) {
        let c = &mut self.candidates[server].counts;
        c.answered += counts.answered;
        c.refused += counts.refused;
        c.unanswered += counts.unanswered;
        c.expired += counts.expired;
        c.unreachable += counts.unreachable;
    }

    fn refuse(&mut self, server: usize, refused: u64) {
        self.count(server, Outcomes { refused, ..Outcomes::default() });
    }

    fn answer(&mut self, server: usize, answered: u64) {
        self.count(server, Outcomes { answered, ..Outcomes::default() });
    }

    /// Looks at the counts, and returns what follows for the servers.
    fn look(&mut self) -> Vec<Effect> {
        let passive = self.health.passive.clone().unwrap();
        let has_changed = self.service.look(&passive, self.health.initially, &self.candidates, self.now);
        let configured = |candidate: &Candidate| Configured {
            address: candidate.address,
            weight: candidate.weight,
            on_failure: OnFailure::Remove,
        };
        let configured: Vec<Configured> = self.candidates.iter().map(configured).collect();
        let (effects, news) = self.service.decide(&self.health, &configured, false, self.now);
        let told = news.iter().any(|news| matches!(news, News::Server(..)));
        let is_down = self.service.servers.values().any(|server| server.state == HealthState::Down);
        assert!(told || is_down || !has_changed, "what changes is decided");
        effects
    }

    /// Servers that are out.
    fn out(&mut self) -> Vec<usize> {
        let effects = self.look();
        (0..effects.len()).filter(|&index| effects[index].removed).collect()
    }

    /// Lets time pass as the core does, looking twice a second; returns when the server is back.
    fn wait_for(&mut self, server: usize) -> Duration {
        let began = self.now;
        while self.out().contains(&server) {
            self.now += Duration::from_millis(500);
        }
        self.now - began
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..2 * seconds {
            self.now += Duration::from_millis(500);
            self.look();
        }
    }

    fn record(&self, server: usize) -> &Record {
        self.service.servers[&address(server)].passive.as_ref().unwrap()
    }

    /// Gives a server a check, which is up.
    fn add_check(&mut self, server: usize, rise: u32) -> Arc<Watched> {
        let check = serde_json::json!({ "probe": "tcp", "fall": 1, "rise": rise });
        let spec = Spec { check: serde_json::from_value(check).unwrap(), target: address(server), detour: None };
        let checks = &mut self.service.servers.get_mut(&address(server)).unwrap().checks;
        let check = Arc::new(Watched::new(checks.len() as u64, spec, Arc::<Board>::default(), self.now));
        checks.push(Arc::clone(&check));
        self.run(&check, true);
        check
    }

    fn run(&self, check: &Arc<Watched>, up: bool) {
        let outcome = if up { Ok(Success::default()) } else { Err(Failure::unexpected("no")) };
        check.ran(outcome, Duration::ZERO, self.now);
    }
}

#[test]
fn a_server_is_ejected_by_number_and_share_of_failures() {
    let mut bench = Bench::new(2);
    bench.refuse(0, 4);
    assert_eq!(bench.out(), NOBODY, "less than error_limit");
    bench.answer(0, 1);
    bench.refuse(0, 1);
    assert_eq!(bench.out(), NOBODY, "5 of 6 are 83 %");
    bench.refuse(0, 1);
    assert_eq!(bench.out(), [0], "6 of 7 are 86 %");
    let status = bench.record(0).status(bench.now);
    let reason = "6 of 7 connections failed (6 refused); ejected for 30 s";
    assert_eq!((status.reason.as_deref(), status.returns_in, status.ejections), (Some(reason), Some(30), 1));
    assert_eq!(bench.service.servers[&address(0)].shown().0, ServerState::Ejected);
}

#[test]
fn a_server_that_dies_is_ejected_however_good_it_was() {
    let mut bench = Bench::new(2);
    bench.answer(0, 1000);
    bench.refuse(0, 9);
    assert_eq!(bench.out(), NOBODY);
    bench.refuse(0, 4);
    assert_eq!(bench.out(), NOBODY);
    // One that is answered among those that fail.
    bench.answer(0, 1);
    bench.refuse(0, 4);
    assert_eq!(bench.out(), NOBODY);
    bench.refuse(0, 4);
    assert_eq!(bench.out(), NOBODY);
    bench.refuse(0, 1);
    assert_eq!(bench.out(), [0]);
    let reason = bench.record(0).status(bench.now).reason.unwrap();
    assert!(reason.starts_with("5 of 5 connections failed"), "{reason}");
}

#[test]
fn counts_begin_anew_with_each_interval() {
    let mut bench = Bench::new(2);
    for _ in 0..5 {
        bench.refuse(0, 4);
        assert_eq!(bench.out(), NOBODY);
        bench.pass(10);
    }
    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0]);
}

#[test]
fn only_the_kinds_that_were_asked_for_count() {
    let each = [
        (FailureKind::Refused, Outcomes { refused: 5, ..Outcomes::default() }),
        (FailureKind::Timeout, Outcomes { unanswered: 3, expired: 2, ..Outcomes::default() }),
        (FailureKind::Unreachable, Outcomes { unreachable: 5, ..Outcomes::default() }),
    ];
    for (kind, _) in each {
        for (happened, counts) in each {
            let mut bench = Bench::new(2);
            bench.passive().kinds = vec![kind];
            bench.count(1, counts);
            let expected = if kind == happened { vec![1] } else { vec![] };
            assert_eq!(bench.out(), expected, "{happened:?} where {kind:?} counts");
        }
    }
}

#[test]
fn ejections_last_longer_each_time_and_shorter_after_good_times() {
    let mut bench = Bench::new(2);
    bench.passive().max_ejection_time = Seconds::from_millis(100_000);
    let mut times = Vec::new();
    for _ in 0..5 {
        bench.refuse(0, 5);
        times.push(bench.wait_for(0).as_secs());
        assert_eq!(bench.record(0).grown, Outcomes::default(), "what failed before is forgotten");
    }
    assert_eq!(times, [30, 60, 90, 100, 100]);
    // The sixth time would be five times three intervals ago.
    bench.pass(30);
    bench.refuse(0, 5);
    assert_eq!(bench.wait_for(0).as_secs(), 90);
    bench.pass(100);
    bench.refuse(0, 5);
    assert_eq!(bench.wait_for(0).as_secs(), 30);
}

#[test]
fn a_server_that_returns_starts_slowly() {
    let mut bench = Bench::new(2);
    bench.refuse(0, 5);
    assert_eq!(bench.look(), [Effect::REMOVED, Effect::NONE]);
    bench.wait_for(0);
    let shares: Vec<u32> = (0..4)
        .map(|_| {
            let share = bench.look()[0].share;
            bench.now += Duration::from_secs(5);
            share
        })
        .collect();
    assert_eq!(shares, [10, 50, 100, 100]);
}

#[test]
fn so_many_servers_are_ejected_the_worst_first() {
    for (servers, percent, expected) in
        [(4, 50, vec![1, 2]), (4, 74, vec![1, 2]), (4, 75, vec![1, 2, 3]), (4, 10, vec![2]), (2, 99, vec![1])]
    {
        let mut bench = Bench::new(servers);
        bench.passive().max_ejection_percent = percent;
        for server in 0..servers {
            bench.refuse(server, 20);
            // The third is the worst, then the second, then the last.
            bench.answer(server, [3, 1, 0, 2][server]);
        }
        assert_eq!(bench.out(), expected, "{percent} % of {servers}");
        assert_eq!(bench.out(), expected, "nor one more with the next look");
    }
}

#[test]
fn the_last_server_stays_unless_all_may_go() {
    for servers in [1, 3] {
        for percent in [1, 99, 100] {
            let mut bench = Bench::new(servers);
            bench.passive().max_ejection_percent = percent;
            (0..servers).for_each(|server| bench.refuse(server, 10));
            let expected = match percent {
                100 => servers,
                99 => servers - 1,
                _ => servers.min(2) - 1,
            };
            assert_eq!(bench.out().len(), expected, "{percent} % of {servers}");
        }
    }
}

#[test]
fn when_others_go_down_the_ejected_return() {
    let mut bench = Bench::new(2);
    let check = bench.add_check(1, 1);
    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0]);
    bench.run(&check, false);
    assert_eq!(bench.out(), [0, 1], "the check's verdict is taken note of");
    assert_eq!(bench.out(), [1]);
    bench.refuse(0, 50);
    assert_eq!(bench.out(), [1], "it is the last one");
}

#[test]
fn a_server_without_weight_is_left_alone() {
    let mut bench = Bench::new(3);
    bench.candidates[2].weight = 0;
    for server in 0..3 {
        bench.refuse(server, 9);
    }
    // Of two, one may go; the third would be nobody's refuge.
    assert_eq!(bench.out().len(), 1);
    assert!(!bench.out().contains(&2));
}

#[test]
fn checks_that_are_passed_anew_end_an_ejection() {
    let mut bench = Bench::new(2);
    let check = bench.add_check(0, 2);
    bench.run(&check, true);
    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0], "that it has been passed before means nothing");
    bench.run(&check, true);
    assert_eq!(bench.out(), [0], "once is not twice");
    bench.now += Duration::from_secs(1);
    bench.run(&check, true);
    assert_eq!(bench.out(), NOBODY, "after 1 s");

    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0]);
    bench.run(&check, true);
    assert_eq!(bench.out(), [0]);
    bench.run(&check, false);
    assert_eq!(bench.out(), [0]);
    assert_eq!(bench.service.servers[&address(0)].shown().0, ServerState::Down);
    bench.run(&check, true);
    assert_eq!(bench.out(), [0]);
    bench.run(&check, true);
    assert_eq!(bench.out(), NOBODY, "up by its check, and so no longer ejected");
}

#[test]
fn checks_that_come_during_an_ejection_are_passed_anew_as_well() {
    let mut bench = Bench::new(2);
    let check = bench.add_check(0, 1);
    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0]);
    // Another service has had it for long.
    let other = bench.add_check(0, 1);
    (0..9).for_each(|_| bench.run(&other, true));
    bench.run(&check, true);
    assert_eq!(bench.out(), [0], "what it found before means nothing");
    bench.run(&other, true);
    assert_eq!(bench.out(), NOBODY);
}

#[test]
fn a_server_that_is_down_is_so_since_its_check_failed() {
    let mut bench = Bench::new(2);
    let check = bench.add_check(0, 1);
    bench.look();
    bench.refuse(0, 5);
    bench.look();
    bench.pass(5);
    bench.run(&check, false);
    bench.look();
    let down = (ServerState::Down, bench.now);
    assert_eq!(bench.service.servers[&address(0)].shown(), down);
    bench.pass(60);
    assert!(bench.record(0).reason().is_none(), "it is no longer ejected");
    assert_eq!(bench.service.servers[&address(0)].shown(), down);
}

#[test]
fn what_expires_after_a_return_began_before() {
    let mut bench = Bench::new(2);
    bench.refuse(0, 5);
    bench.wait_for(0);
    let expired = |expired| Outcomes { expired, ..Outcomes::default() };
    for _ in 0..74 {
        bench.count(0, expired(9));
        bench.pass(1);
    }
    assert_eq!(bench.out(), NOBODY);
    bench.pass(10);
    bench.count(0, expired(5));
    assert_eq!(bench.out(), [0]);
}

#[test]
fn another_slot_is_another_count() {
    let mut bench = Bench::new(2);
    bench.candidates[0].slot = ServerSlot(9);
    bench.refuse(0, 50);
    assert_eq!(bench.out(), NOBODY);
    bench.refuse(0, 5);
    assert_eq!(bench.out(), [0]);
}
