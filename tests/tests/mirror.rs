//! The director's host stays an ordinary Linux host: what is not for a virtual service reaches the kernel.

use dpvs_e2e::traffic::who_answers;
use dpvs_e2e::{Director, Family, Lab, Mode, Service, Topology};
use rstest::rstest;

/// A login to the director itself, beside a service on the same address family.
#[rstest]
fn connections_to_the_director_reach_its_kernel(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2)] workers: u8,
) {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 1);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(workers));
    let service = Service::tcp(Mode::Nat, family, 80);
    lab.add(std::slice::from_ref(&service));
    let _listener = lab.spawn("lb", &["socat", "TCP6-LISTEN:2222,ipv6-v6only=0,reuseaddr,fork", "EXEC:cat"]);
    dpvs_e2e::eventually("the listener starts", std::time::Duration::from_secs(3), || {
        lab.run("lb", &["ss", "-Hltn", "sport = :2222"]).contains("2222")
    });
    let target = format!("TCP:{}", std::net::SocketAddr::new(family.director(), 2222));
    let script = format!(
        "head -c 100000 /dev/urandom >/tmp/sent.$$; trap 'rm -f /tmp/sent.$$' EXIT; socat -t 5 - '{target}' </tmp/sent.$$ | cmp - /tmp/sent.$$"
    );
    lab.shell("c1", &script);
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");
    // A port of the virtual address without a service is closed, not silent.
    let closed = lab.try_run("c1", &["curl", "-sg", "--max-time", "3", &Service::tcp(Mode::Nat, family, 81).url("")]);
    assert_eq!(closed.status.code(), Some(7), "connection refused: {closed:?}");
}

/// The director's host routes between the networks as any Linux router does.
#[rstest]
fn other_traffic_is_routed(#[values(Family::V4, Family::V6)] family: Family) {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 1);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(1));
    let server = std::net::SocketAddr::new(family.server(lab.topology(), 1), 80);
    assert_eq!(who_answers(&lab, "c1", &dpvs_e2e::address::url(server, "")), "s1");
}
