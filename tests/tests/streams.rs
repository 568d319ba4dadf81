//! TCP and UDP streams in both directions, and short UDP exchanges.

use dpvs_e2e::traffic::{dig, iperf};
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

/// A rate that any director here carries, so that lost datagrams are the director's doing.
const UDP_RATE: &str = "20M";

/// Of each stream.
const SECONDS: u32 = 1;

fn streams(director: Director, mode: Mode, family: Family) {
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.serve(&["iperf"]);
    lab.start(director);
    // iperf3 has a TCP control connection beside the UDP stream.
    let services = [Service::tcp(mode, family, 5201), Service::udp(mode, family, 5201)];
    lab.add(&services);
    let address = services[0].address();
    for direction in [&[][..], &["-R"]] {
        let tcp = iperf(&lab, "c1", address, SECONDS, direction);
        assert!(tcp.bits_per_second > 20e6, "TCP {direction:?}: {tcp:?}");
        let udp = iperf(&lab, "c1", address, SECONDS, &[&["-u", "-b", UDP_RATE, "-l", "1200"], direction].concat());
        assert!(udp.lost_percent < 2.0 && udp.bits_per_second > 15e6, "UDP {direction:?}: {udp:?}");
    }
}

#[rstest]
fn dpvsd(
    #[values(Mode::Nat, Mode::Fullnat)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2)] workers: u8,
) {
    streams(Director::dpvsd(workers), mode, family);
}

#[rstest]
fn linux(#[values(Family::V4, Family::V6)] family: Family) {
    streams(Director::Ipvs, Mode::Nat, family);
}

/// Each query comes from a port of its own, so round-robin asks each server in turn; the answer tells its name.
fn queries(director: Director, mode: Mode, family: Family) {
    let lab = Lab::new(mode.topology());
    lab.serve(if mode == Mode::Tun { &["dns", "tunnel"] } else { &["dns"] });
    lab.start(director);
    let service = Service::udp(mode, family, 53);
    lab.add(std::slice::from_ref(&service));
    let mut answers = Vec::new();
    for port in 40_001..=40_012 {
        let source = format!("{}#{port}", family.client(1));
        // A kernel in a process may lose a datagram on a busy machine; the query comes again from the same port.
        let tries = if director == Director::Ipvs { "+tries=3" } else { "+tries=1" };
        let answer = dig(&lab, "c1", service.address(), "whoami", &["-b", &source, tries]);
        answers.extend(answer.unwrap_or_else(|error| panic!("{error}")));
    }
    answers.sort();
    assert_eq!(answers.len(), 12, "{answers:?}");
    let slack = usize::try_from(director.independent_schedulers() - 1).expect("a few workers");
    for server in ["s1", "s2", "s3"] {
        let count = answers.iter().filter(|answer| *answer == server).count();
        assert!(count.abs_diff(4) <= slack, "{server}: {answers:?}");
    }
}

#[rstest]
fn dpvsd_queries(
    #[values(Mode::Nat, Mode::Fullnat, Mode::Dr, Mode::Tun)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2)] workers: u8,
) {
    queries(Director::dpvsd(workers), mode, family);
}

#[rstest]
fn linux_queries(
    #[values(Mode::Nat, Mode::Dr, Mode::Tun)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    queries(Director::Ipvs, mode, family);
}
