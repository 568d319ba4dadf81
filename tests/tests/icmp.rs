//! ICMP: errors that the director sends, errors that it passes on, and echo.

use dpvs_e2e::capture::Capture;
use dpvs_e2e::traffic::{dig, iperf, who_answers};
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

#[rstest]
fn ping_of_a_virtual_address(
    #[values(Director::Ipvs, Director::dpvsd(1), Director::dpvsd(2))] director: Director,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 1);
    lab.start(director);
    lab.add(&[Service::tcp(Mode::Nat, family, 80)]);
    for address in [family.virtual_address(0), family.director()] {
        let address = address.to_string();
        let report = lab.run("c1", &["ping", "-c", "5", "-i", "0.2", "-W", "2", &address]);
        assert!(report.contains("5 received"), "{report}");
    }
}

/// A probe whose hop limit ends at the director is answered from the director, as traceroute expects.
#[rstest]
fn hop_limit_ends_at_the_director(
    #[values(Director::Ipvs, Director::dpvsd(1))] director: Director,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Mode::Nat, Mode::Tun)] mode: Mode,
) {
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.start(director);
    let service = Service::udp(mode, family, 53);
    lab.add(std::slice::from_ref(&service));
    let capture = Capture::start(&lab, "c1", "eth0", "icmp or icmp6");
    let (target, filter, source) = match family {
        Family::V4 => (format!("UDP4:{},ttl=1", service.address()), "icmp.type == 11 && icmp.code == 0", "ip.src"),
        Family::V6 => (
            format!("UDP6:{},ipv6-unicast-hops=1", service.address()),
            "icmpv6.type == 3 && icmpv6.code == 0",
            "ipv6.src",
        ),
    };
    lab.shell("c1", &format!("echo probe | socat -u - '{target}'"));
    let errors = capture.stop().fields(filter, &[source]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    // The error's source, then the source of the packet that it quotes. Linux takes the address that was asked if it
    // is its own; a router's address serves as well.
    let (source, quoted) = errors[0].split_once(',').expect("two headers");
    assert!([family.director(), family.virtual_address(0)].iter().any(|own| own.to_string() == source), "{errors:?}");
    assert_eq!(quoted, family.client(1).to_string());
}

/// A full-size packet that may not be fragmented does not fit into a tunnel: the client learns the size that does.
#[rstest]
fn tunnel_reports_its_packet_size(
    #[values(Director::Ipvs, Director::dpvsd(1))] director: Director,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let lab = Lab::with_hosts(Mode::Tun.topology(), 1, 1);
    lab.serve(&["iperf", "tunnel"]);
    lab.start(director);
    let service = Service::tcp(Mode::Tun, family, 5201);
    lab.add(std::slice::from_ref(&service));
    let capture = Capture::start(&lab, "c1", "eth0", "icmp or icmp6");
    let upload = iperf(&lab, "c1", service.address(), 2, &[]);
    assert!(upload.bytes > 1e6, "{upload:?}");
    let (filter, field, expected) = match family {
        Family::V4 => ("icmp.type == 3 && icmp.code == 4", "icmp.mtu", "1480"),
        Family::V6 => ("icmpv6.type == 2", "icmpv6.mtu", "1460"),
    };
    let sizes = capture.stop().fields(filter, &[field]);
    assert!(!sizes.is_empty() && sizes.iter().all(|size| size == expected), "{sizes:?}");
}

/// The error of a server that does not listen reaches the program that asked, through both translations.
#[rstest]
fn closed_port_is_reported_to_the_client(
    #[values(Mode::Nat, Mode::Fullnat)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2)] workers: u8,
) {
    closed_port(Director::dpvsd(workers), mode, family);
}

/// IPv4 only: without a network card that checks them, Linux 6.1 takes the checksum of every ICMPv6 error for wrong.
#[test]
fn linux_closed_port_is_reported_to_the_client() {
    closed_port(Director::Ipvs, Mode::Nat, Family::V4);
}

fn closed_port(director: Director, mode: Mode, family: Family) {
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.start(director);
    let service = Service::udp(mode, family, 5353);
    lab.add(std::slice::from_ref(&service));
    let error = dig(&lab, "c1", service.address(), "whoami", &[]).expect_err("nobody listens");
    assert!(error.contains("connection refused"), "{error}");
}

/// A router on the client's side reports a smaller packet size to the virtual address; the server must hear of it.
#[rstest]
fn smaller_path_of_the_client_is_reported_to_the_server(
    #[values(Director::Ipvs, Director::dpvsd(1), Director::dpvsd(2))] director: Director,
) {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 1);
    lab.serve(&["http"]);
    lab.file("slow", 8 << 20);
    lab.start(director);
    let service = Service::tcp(Mode::Nat, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");
    let script = format!(
        r#"
import socket, time
from scapy.all import IP, ICMP, TCP, send, conf
conf.verb = 0
connection = socket.create_connection(("{vip}", 80))
connection.sendall(b"GET /files/slow HTTP/1.0\r\n\r\n")
connection.recv(1000)
port = connection.getsockname()[1]
quoted = IP(src="{vip}", dst="{client}", flags="DF", len=1500) / TCP(sport=80, dport=port, seq=1)
error = IP(src="192.0.2.99", dst="{vip}") / ICMP(type=3, code=4, nexthopmtu=1300) / quoted
send(error)
time.sleep(0.5)
"#,
        vip = Family::V4.virtual_address(0),
        client = Family::V4.client(1),
    );
    let capture = Capture::start(&lab, "s1", "eth0", "icmp");
    lab.run("c1", &["/usr/bin/python3", "-c", &script]);
    let client = Family::V4.client(1);
    let server = service.server(&lab, 1).ip();
    let translated = capture.stop().fields("icmp.type == 3 && icmp.code == 4", &["ip.src", "ip.dst", "icmp.mtu"]);
    // Outer and quoted header: from the reporting router to the server, about a packet from the server to the client.
    assert_eq!(translated, [format!("192.0.2.99,{server}\t{server},{client}\t1300")]);
}
