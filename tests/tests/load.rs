//! Thousands of short connections: none fails, and the schedulers' shares are kept.

use dpvs_e2e::traffic::{Load, load};
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

const REQUESTS: u64 = 10_000;
const CONCURRENCY: u64 = 100;

/// Runs the load and checks that server `n` got `weights[n]` parts of it.
fn short_connections(director: Director, mode: Mode, family: Family, scheduler: &'static str, weights: &[u16]) {
    let lab = Lab::new(mode.topology());
    lab.serve(if mode == Mode::Tun { &["http", "tunnel"] } else { &["http"] });
    lab.start(director);
    let service = Service::tcp(mode, family, 80).scheduler(scheduler).weights(weights);
    lab.add(std::slice::from_ref(&service));
    let result = load(&lab, "c1", &service.url(""), REQUESTS, CONCURRENCY);
    assert_eq!(result, Load { complete: REQUESTS, failed: 0 });

    let counts = lab.request_counts();
    // ab may open connections that it has no request for: they take a turn of the scheduler and leave no log line.
    assert_eq!(counts.iter().sum::<u64>(), REQUESTS);
    let turn: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    for (count, &weight) in counts.iter().zip(weights) {
        let share = REQUESTS * u64::from(weight) / turn;
        let tolerance = director.independent_schedulers() * u64::from(weight) + SPARE;
        assert!(count.abs_diff(share) <= tolerance, "{counts:?} is not {weights:?} by {scheduler}");
    }
}

/// Connections that ab opens and closes unused at the end of a run.
const SPARE: u64 = 2;

#[rstest]
fn dpvsd_rr(
    #[values(Mode::Nat, Mode::Fullnat, Mode::Dr, Mode::Tun)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2)] workers: u8,
) {
    short_connections(Director::dpvsd(workers), mode, family, "rr", &[1, 1, 1]);
}

#[rstest]
fn dpvsd_wrr(#[values(Mode::Nat, Mode::Fullnat)] mode: Mode, #[values(1, 4)] workers: u8) {
    short_connections(Director::dpvsd(workers), mode, Family::V4, "wrr", &[5, 3, 2]);
}

#[rstest]
fn linux_rr(#[values(Mode::Nat, Mode::Dr, Mode::Tun)] mode: Mode, #[values(Family::V4, Family::V6)] family: Family) {
    short_connections(Director::Ipvs, mode, family, "rr", &[1, 1, 1]);
}

#[test]
fn linux_wrr() {
    short_connections(Director::Ipvs, Mode::Nat, Family::V4, "wrr", &[5, 3, 2]);
}
