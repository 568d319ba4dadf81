//! ICMP errors about connections, in both directions and all modes.

mod opening;

use dpvs_e2e::wire::{Kind, Packet, icmp, icmp_error, ipip, raw, tcp, udp};

use crate::case::{Case, both, case, ipv6_differs};

const UDP: &str = "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:5353 -";
const TCP: &str = "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:8080 -";

const ERRORS: [(&str, Kind); 5] = [
    ("port unreachable", Kind::PortUnreachable),
    ("host unreachable", Kind::HostUnreachable),
    ("too big", Kind::TooBig(1300)),
    ("time exceeded", Kind::TimeExceeded),
    ("parameter problem", Kind::ParameterProblem),
];

const NO_PSEUDO_HEADER: &str = "Linux 6.1 leaves the pseudo header out when it checks ICMPv6 errors from a server, and \
    drops them, unless a network card has checked them before";
const PARAMETER: &str =
    "Linux translates parameter problems over IPv6 only; over IPv4 it passes them on untranslated, or not";
const NO_CHECKSUM: &str = "Linux computes a checksum for a datagram without one; dpvsd leaves it as it came";

/// A UDP connection by NAT, both ways.
fn udp_by_nat(name: impl Into<String>) -> Case {
    case(name, &format!("{UDP}m")).send(udp("C1:4000", "V1:53", 30)).send(udp("S1:5353", "C1:4000", 50)).seen()
}

/// What the server got of it, and what the client got.
fn request() -> Packet {
    udp("C1:4000", "S1:5353", 30).ttl(63)
}
fn reply() -> Packet {
    udp("V1:53", "C1:4000", 50).ttl(63)
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = opening::cases();
    for (name, kind) in ERRORS {
        let known = |case: Case| match kind {
            Kind::ParameterProblem => case.differs(PARAMETER),
            _ => case,
        };
        for (from, host) in [("the server", "S1"), ("a router of the server", "S9")] {
            let [v4, v6] = both(
                udp_by_nat(format!("NAT, UDP, {name} from {from}"))
                    .send(icmp_error(host, "C1", kind, request()))
                    .seen(),
            );
            all.extend([known(v4), v6.differs(NO_PSEUDO_HEADER)]);
        }
        let [v4, v6] = both(
            udp_by_nat(format!("NAT, UDP, {name} from a router of the client"))
                .send(icmp_error("G", "V1", kind, reply()))
                .seen(),
        );
        all.extend([known(v4), v6]);
        for (mode, option) in [("DR", 'g'), ("TUN", 'i')] {
            let [v4, v6] = both(
                case(format!("{mode}, UDP, {name} from a router of the client"), &format!("{UDP}{option}"))
                    .send(udp("C1:4000", "V1:53", 30))
                    .seen()
                    .send(icmp_error("G", "V1", kind, reply()))
                    .seen(),
            );
            all.extend([known(v4), v6]);
        }
    }
    for (name, kind) in [("too big", Kind::TooBig(1300)), ("host unreachable", Kind::HostUnreachable)] {
        let open = |name: String| case(name, &format!("{TCP}m")).open("C1:4000", "V1:80").seen();
        let about = tcp("C1:4000", "S1:8080", "PA").seq(1001).ack(5001).length(1000);
        let from_server = open(format!("NAT, TCP, {name} from the server's side"))
            .send(icmp_error("S9", "C1", kind, about))
            .seen()
            .connections();
        all.extend(ipv6_differs(both(from_server), NO_PSEUDO_HEADER));
        all.extend(both(
            open(format!("NAT, TCP, {name} from the client's side"))
                .send(icmp_error("G", "V1", kind, tcp("V1:80", "C1:4000", "PA").seq(5001).ack(1001).length(1000)))
                .seen()
                .connections(),
        ));
    }
    for length in [28, 36, 48] {
        all.push(
            udp_by_nat(format!("NAT, an error that quotes {length} bytes"))
                .send(icmp_error("S1", "C1", Kind::PortUnreachable, request()).quote(length))
                .send(icmp_error("G", "V1", Kind::PortUnreachable, reply()).quote(length))
                .seen(),
        );
    }
    for length in [0, 8, 20, 24] {
        let [v4, v6] = both(
            udp_by_nat(format!("NAT, an error that quotes {length} bytes only"))
                .send(icmp_error("S1", "C1", Kind::PortUnreachable, request()).quote(length))
                .send(icmp_error("G", "V1", Kind::PortUnreachable, reply()).quote(length))
                .seen(),
        );
        let short = "Linux is content with the ports behind the quoted header; dpvsd wants the eight bytes of RFC 792";
        all.extend([if length == 24 { v4.differs(short) } else { v4 }, v6]);
    }
    all.extend(both(
        udp_by_nat("NAT, an error about an unknown connection")
            .send(icmp_error("S1", "C1", Kind::PortUnreachable, udp("C1:4001", "S1:5353", 30)))
            .send(icmp_error("G", "V1", Kind::PortUnreachable, udp("V1:53", "C1:4001", 30)))
            .seen(),
    ));
    let damaged = udp_by_nat("NAT, an error with a wrong checksum")
        .send(icmp_error("S1", "C1", Kind::PortUnreachable, request()).damaged())
        .send(icmp_error("G", "V1", Kind::PortUnreachable, reply()).damaged())
        .seen();
    let unchecked = "Linux 6.1 does not check the ICMPv6 errors from clients that it translates";
    all.extend(ipv6_differs(both(damaged), unchecked));
    all.push(
        udp_by_nat("NAT, source quench and redirect")
            .send(icmp_error("S1", "C1", Kind::Other { kind: 4, code: 0, rest: 0 }, request()))
            .send(icmp_error("G", "V1", Kind::Other { kind: 4, code: 0, rest: 0 }, reply()))
            .seen(),
    );
    all.extend(both(
        udp_by_nat("NAT, an error with the last hop used up")
            .send(icmp_error("S1", "C1", Kind::PortUnreachable, request()).ttl(1))
            .send(icmp_error("G", "V1", Kind::PortUnreachable, reply()).ttl(1))
            .seen(),
    ));
    all.push(
        udp_by_nat("NAT, an error about a packet without checksum")
            .send(udp("C1:4000", "V1:53", 30).no_checksum())
            .send(icmp_error("S1", "C1", Kind::PortUnreachable, request().no_checksum()))
            .seen()
            .differs(NO_CHECKSUM),
    );
    all.extend(both(
        case("echo to the virtual address", &format!("{UDP}m"))
            .send(icmp("C1", "V1", Kind::Echo { id: 7, sequence: 1 }, 56))
            .seen()
            .connections(),
    ));
    all.extend(both(
        case("an echo reply to the virtual address, and other messages", &format!("{UDP}m"))
            .send(icmp("C1", "V1", Kind::EchoReply { id: 7, sequence: 1 }, 56))
            .send(icmp("C1", "V1", Kind::Other { kind: 99, code: 0, rest: 0 }, 8))
            .seen(),
    ));
    // What routers on the way to the server of a tunnel say is about the outer packet.
    for (name, kind) in [
        ("too big", Kind::TooBig(1400)),
        ("host unreachable", Kind::HostUnreachable),
        ("time exceeded", Kind::TimeExceeded),
    ] {
        let inner = udp("C1:4000", "V1:53", 1000).ttl(63).df();
        let [v4, v6] = both(
            case(format!("TUN, {name} about the tunnel"), &format!("{UDP}i"))
                .send(udp("C1:4000", "V1:53", 1000).df())
                .seen()
                .send(icmp_error("S9", "E", kind, ipip("E", "S1", inner).df()).quote(576))
                .seen(),
        );
        let stale = "Linux tells the client the packet size that it knew before the error; dpvsd that of the error";
        let v4 = if name == "too big" { v4.differs(stale) } else { v4 };
        all.extend([v4, v6.differs("Linux 6.1 does not look into ICMPv6 errors about tunnels")]);
    }
    all.push(case("a protocol without service", &format!("{UDP}m")).send(raw("C1", "V1", 89, &[1; 20])).seen());
    all
}
