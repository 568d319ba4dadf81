use proptest::prelude::*;

use super::*;
use crate::health::probe::{Failure, Success};
use crate::health::target::Spec;
use crate::health::watched::Board;

fn address(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8 + 1], 80).into()
}

/// A service whose servers have a check each that one run decides.
struct Bench {
    service: ServiceHealth,
    configured: Vec<Configured>,
    checks: Vec<Arc<Watched>>,
    now: Instant,
}

impl Bench {
    fn new(weights: &[u32]) -> Self {
        let now = Instant::now();
        let check: dpvs_api::Check =
            serde_json::from_value(serde_json::json!({ "probe": "tcp", "fall": 1, "rise": 1 })).unwrap();
        let board: Arc<Board> = Arc::default();
        let watched = |index: usize| {
            let spec = Spec { check: check.clone(), target: address(index), detour: None };
            Arc::new(Watched::new(index as u64, spec, Arc::clone(&board), now))
        };
        let checks: Vec<Arc<Watched>> = (0..weights.len()).map(watched).collect();
        let server =
            |(index, check): (usize, &Arc<Watched>)| (address(index), ServerHealth::new(vec![Arc::clone(check)], now));
        let configured = |(index, &weight): (usize, &u32)| Configured {
            address: address(index),
            weight,
            on_failure: OnFailure::Remove,
        };
        Self {
            service: ServiceHealth {
                servers: checks.iter().enumerate().map(server).collect(),
                interval_began: None,
                quorum: None,
            },
            configured: weights.iter().enumerate().map(configured).collect(),
            checks,
            now,
        }
    }

    fn run(&self, server: usize, up: bool) {
        let outcome = if up { Ok(Success::default()) } else { Err(Failure::unexpected("no")) };
        self.checks[server].ran(outcome, Duration::ZERO, self.now);
    }

    fn decide(&mut self, health: &Health, has_sorry: bool) -> (Vec<Effect>, Vec<News>) {
        self.service.decide(health, &self.configured, has_sorry, self.now)
    }
}

#[test]
fn servers_are_taken_for_up_or_down_at_first() {
    let mut bench = Bench::new(&[1, 1]);
    assert_eq!(bench.decide(&Health::default(), false), (vec![Effect::NONE; 2], vec![News::Quorum(true, 2)]));
    let mut bench = Bench::new(&[1, 1]);
    let pessimist = Health { initially: Initially::Down, ..Health::default() };
    assert_eq!(bench.decide(&pessimist, false), (vec![Effect::REMOVED; 2], vec![News::Quorum(false, 0)]));
    bench.run(1, true);
    let (effects, news) = bench.decide(&pessimist, false);
    assert_eq!(effects, [Effect::REMOVED, Effect::NONE]);
    assert_eq!(news, [News::Server(address(1), true), News::Quorum(true, 1)]);
}

#[test]
fn a_server_that_fails_leaves_or_gets_no_weight() {
    let mut bench = Bench::new(&[1, 2, 3]);
    bench.configured[1].on_failure = OnFailure::ZeroWeight;
    bench.decide(&Health::default(), false);
    bench.run(0, false);
    bench.run(1, false);
    let (effects, news) = bench.decide(&Health::default(), false);
    assert_eq!(effects, [Effect::REMOVED, Effect { weight: Some(0), ..Effect::NONE }, Effect::NONE]);
    assert_eq!(news, [News::Server(address(0), false), News::Server(address(1), false)]);
    assert_eq!(bench.decide(&Health::default(), false).1, [], "told once");
    assert_eq!(bench.service.quorum_status(bench.now).unwrap().weight, 3);
}

#[test]
fn programs_give_weights() {
    let mut bench = Bench::new(&[5, 5]);
    bench.checks[0].ran(Ok(Success { weight: Some(20) }), Duration::ZERO, bench.now);
    let (effects, _) = bench.decide(&Health::default(), false);
    assert_eq!(effects, [Effect { weight: Some(20), ..Effect::NONE }, Effect::NONE]);
    assert_eq!(bench.service.quorum_status(bench.now).unwrap().weight, 25);
}

#[test]
fn what_several_programs_say_is_added_up() {
    let verdict = |weight| Verdict { state: HealthState::Up, weight };
    let given =
        |own, said: &[Option<u32>]| given_weight(own, &said.iter().map(|&said| verdict(said)).collect::<Vec<_>>());
    assert_eq!(given(2, &[None, None]), None);
    assert_eq!(given(2, &[Some(3), None]), Some(3));
    assert_eq!(given(2, &[Some(3), Some(7)]), Some(8));
    assert_eq!(given(5, &[Some(0), Some(1)]), Some(0));
    assert_eq!(given(1, &[Some(65_535), Some(65_535)]), Some(65_535));
}

#[test]
fn the_sorry_server_takes_the_place_of_too_few() {
    let mut bench = Bench::new(&[1, 1, 1]);
    let health = Health { quorum: 2, ..Health::default() };
    bench.decide(&health, true);
    bench.run(0, false);
    assert_eq!(bench.decide(&health, true).0, [Effect::REMOVED, Effect::NONE, Effect::NONE]);
    bench.run(1, false);
    let (effects, news) = bench.decide(&health, true);
    assert_eq!(effects, [Effect::REMOVED; 3]);
    assert_eq!(news, [News::Server(address(1), false), News::Quorum(false, 1)]);
    // Without one, few are better than none.
    assert_eq!(bench.decide(&health, false).0, [Effect::REMOVED, Effect::REMOVED, Effect::NONE]);
    // Connections of servers that stay go on.
    bench.configured[2].on_failure = OnFailure::ZeroWeight;
    let waits = Effect { weight: Some(0), ..Effect::NONE };
    assert_eq!(bench.decide(&health, true).0, [Effect::REMOVED, Effect::REMOVED, waits]);
}

#[test]
fn a_server_that_comes_up_again_starts_slowly() {
    let mut bench = Bench::new(&[100, 100]);
    let health = Health { slow_start: Seconds::from_millis(10_000), ..Health::default() };
    bench.run(0, true);
    bench.run(1, true);
    assert_eq!(bench.decide(&health, false).0, [Effect::NONE; 2], "not when it comes up first");
    bench.run(0, false);
    bench.decide(&health, false);
    bench.run(0, true);
    let mut shares = Vec::new();
    for _ in 0..12 {
        let (effects, _) = bench.decide(&health, false);
        assert_eq!(effects[1], Effect::NONE);
        assert_eq!(bench.service.is_ramping(), effects[0].share < 100);
        shares.push(effects[0].share);
        bench.now += Duration::from_secs(1);
    }
    assert_eq!(shares, [10, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100]);
}

#[test]
fn while_a_check_is_unknown_the_server_stays_what_it_was() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, false);
    bench.decide(&Health::default(), false);
    // Its check is replaced by another.
    let fresh = Bench::new(&[1]);
    bench.service.servers.get_mut(&address(0)).unwrap().checks = fresh.checks.clone();
    assert_eq!(bench.decide(&Health::default(), false), (vec![Effect::REMOVED], vec![]));
    fresh.run(0, true);
    assert_eq!(bench.decide(&Health::default(), false).0, [Effect::NONE]);
}

proptest! {
    /// The quorum is lost below `quorum - hysteresis` or with nothing left, reached at `quorum + hysteresis`, and else stays.
    #[test]
    fn the_quorum_has_hysteresis(
        weights in proptest::collection::vec(0u32..5, 1..6),
        quorum in 1u32..8,
        slack in 0u32..8,
        runs in proptest::collection::vec((0usize..6, any::<bool>()), 0..40),
    ) {
        let hysteresis = slack % quorum;
        let health = Health { quorum, hysteresis, ..Health::default() };
        let mut bench = Bench::new(&weights);
        let mut up = vec![true; weights.len()];
        let mut reached: Option<bool> = None;
        for (server, success) in [(0, true)].into_iter().chain(runs) {
            let server = server % weights.len();
            bench.run(server, success);
            up[server] = success;
            let weight: u32 = weights.iter().zip(&up).filter(|(_, up)| **up).map(|(weight, _)| weight).sum();
            let expected = match reached {
                Some(true) => !(weight < quorum - hysteresis || weight == 0),
                _ => weight >= quorum + hysteresis,
            };
            let (effects, news) = bench.decide(&health, true);
            let told = news.iter().any(|news| matches!(news, News::Quorum(..)));
            prop_assert_eq!(told, reached != Some(expected));
            reached = Some(expected);
            for (effect, up) in effects.iter().zip(&up) {
                prop_assert_eq!(effect.removed, !expected || !up);
            }
        }
    }
}
