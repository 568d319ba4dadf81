//! Thousands of short connections: none fails, and the schedulers' shares are kept.

use std::time::Duration;

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

    let turn: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let check = |counts: &[u64], slack: u64| {
        let sum: u64 = counts.iter().sum();
        for (count, &weight) in counts.iter().zip(weights) {
            let share = sum * u64::from(weight) / turn;
            let tolerance = director.independent_schedulers() * u64::from(weight) + slack;
            assert!(count.abs_diff(share) <= tolerance, "{counts:?} is not {weights:?} by {scheduler}");
        }
    };
    let requests = lab.request_counts(REQUESTS);
    assert_eq!(requests.iter().sum::<u64>(), REQUESTS);
    match mode {
        Mode::Nat | Mode::Fullnat => check(&requests, SPARE),
        // The director does not see the servers' side: a client that uses a port again soon meets the connection
        // that it had, and its server. Connections are shared out exactly, requests only nearly so.
        Mode::Dr | Mode::Tun => {
            check(&requests, REQUESTS / 20);
            if director == Director::Ipvs {
                // The kernel adds up what `ipvsadm` shows every two seconds.
                std::thread::sleep(Duration::from_secs(3));
            }
            check(&connections(&lab, &service), 0);
        }
    }
}

/// Connections that the director has given to each server.
fn connections(lab: &Lab, service: &Service) -> Vec<u64> {
    let table = lab.ipvsadm(&format!("-L -n --stats --exact {}", service.selector()));
    let servers = table.lines().filter(|line| line.trim_start().starts_with("->")).skip(1);
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|word| word.parse().ok());
    servers.map(|line| count(line).unwrap_or_else(|| panic!("no number of connections in:\n{table}"))).collect()
}

/// Connections that ab opens at the end of a run without having a request for them: they take a turn of the
/// scheduler and leave no line in a server's log.
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
fn linux_rr(#[values(Mode::Nat, Mode::Dr, Mode::Tun)] mode: Mode) {
    short_connections(Director::Ipvs, mode, Family::V4, "rr", &[1, 1, 1]);
}

#[test]
fn linux_wrr() {
    short_connections(Director::Ipvs, Mode::Nat, Family::V4, "wrr", &[5, 3, 2]);
}
