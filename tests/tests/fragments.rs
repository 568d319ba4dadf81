//! Datagrams that do not fit into one packet.

use std::time::Duration;

use dpvs_e2e::traffic::{dig, iperf};
use dpvs_e2e::{Director, Family, Lab, Mode, Service, Topology, eventually};
use rstest::rstest;

/// Datagrams of 4,000 bytes in three fragments, and answers of a name server that are as large. The receiver's kernel puts
/// them together and checks the sum over all of it. Each mode has a virtual address of its own.
#[rstest]
#[case(Topology::TwoArm, &[Mode::Nat])]
#[case(Topology::OneArm, &[Mode::Fullnat, Mode::Dr, Mode::Tun])]
fn large_datagrams_pass(#[case] topology: Topology, #[case] modes: &[Mode]) {
    let lab = Lab::with_hosts(topology, 1, 1);
    lab.serve(if modes.contains(&Mode::Tun) { &["dns", "tunnel"] } else { &["dns"] });
    lab.start(Director::dpvsd(2));
    for (n, &mode) in (0..).zip(modes) {
        for family in [Family::V4, Family::V6] {
            // iperf3 has a TCP control connection beside the UDP stream.
            let (tcp, udp) = (Service::tcp(mode, family, 5201).on(n), Service::udp(mode, family, 5201).on(n));
            let names = Service::udp(mode, family, 53).on(n);
            lab.add(&[tcp, udp.clone(), names.clone()]);

            // More than 3,000 bytes. dig asks again if the machine lost a fragment; without +ignore it would turn to TCP.
            let answer = dig(&lab, "c1", names.address(), "huge", &["+ignore", "+bufsize=4096", "+tries=3"]);
            assert_eq!(answer.map(|records| records.len()), Ok(15), "{mode:?} {family:?}");

            // iperf3 answers from the address that it is bound to. Where the director sees no replies, it has no part in those.
            let translated = matches!(mode, Mode::Nat | Mode::Fullnat);
            let address = if translated { udp.server(&lab, 1) } else { udp.address() };
            let _server = lab.spawn("s1", &["iperf3", "--server", "-B", &address.ip().to_string()]);
            eventually("iperf3 listens", Duration::from_secs(5), || {
                !lab.run("s1", &["ss", "-Hlnt", "sport = :5201"]).is_empty()
            });
            if mode == Mode::Tun && family == Family::V6 {
                // The sender learns from TCP segments how long a packet may be; iperf3 gives up when a datagram is the first.
                iperf(&lab, "c1", udp.address(), 1, &[]);
            }
            let directions: &[&[&str]] = if translated { &[&[], &["-R"]] } else { &[&[]] };
            for direction in directions {
                let options = [&["-u", "-l", "4000", "-b", "8M"][..], *direction].concat();
                let passed = iperf(&lab, "c1", udp.address(), 1, &options);
                assert!(
                    passed.bytes > 500e3 && passed.lost_percent < 5.0,
                    "{mode:?} {family:?} {direction:?}: {passed:?}"
                );
            }
        }
    }
}
