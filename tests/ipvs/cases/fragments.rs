//! Packets that come in fragments, and ICMP about them.

use dpvs_e2e::wire::{Kind, Packet, icmp, icmp_error, tcp, udp};

use crate::case::{Case, both, case};

const NAT: &str = "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:5353 -m";
const TCP: &str = "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:8080 -m";

/// An identification that is compared.
const SHOWN: u16 = 0x4321;

/// Its identification is not shown: translated packets leave with one that the director makes.
fn large() -> Packet {
    udp("C1:4000", "V1:53", 4000).fragmented(1400).id(7)
}

fn large_reply() -> Packet {
    udp("S1:5353", "C1:4000", 4000).fragmented(1400).id(7)
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case("a datagram of 4000 bytes there and back", NAT)
            .send(large())
            .seen()
            .send(large_reply())
            .seen()
            .send(udp("C1:4000", "V1:53", 10))
            .seen()
            .connections(),
    ));
    for order in [[2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let mut reordered = case(format!("fragments in the order {order:?}"), NAT);
        for n in order {
            reordered = reordered.send(large().only(&[n]));
        }
        for n in order {
            reordered = reordered.send(large_reply().only(&[n]));
        }
        all.extend(both(reordered.seen().connections()));
    }
    all.extend(both(
        case("fragments that come twice", NAT)
            .send(large().only(&[0, 0]))
            .send(large().only(&[1]))
            .send(large().only(&[0]))
            .send(large().only(&[2]))
            .seen()
            .connections(),
    ));
    all.extend(both(
        case("a fragment that covers another", NAT)
            .send(large().fragmented(800).only(&[1]))
            .send(large().only(&[0]))
            .send(large().only(&[1, 2]))
            .seen()
            .connections(),
    ));
    all.extend(both(
        case("a fragment that overlaps another", NAT)
            .send(large().only(&[0]))
            .send(large().fragmented(1000).only(&[1]))
            .send(large().only(&[2]))
            .seen()
            .connections(),
    ));
    for (what, there) in [("first", [1, 2]), ("middle", [0, 2]), ("last", [0, 1])] {
        all.extend(both(
            case(format!("the {what} fragment is missing"), NAT).send(large().only(&there)).seen().connections(),
        ));
    }
    all.extend(both(
        case("fragments to a server by direct routing", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -g")
            .send(large().id(SHOWN))
            .seen()
            .connections(),
    ));
    all.extend(both(
        case("fragments through a tunnel", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -i")
            .send(large())
            .seen()
            .connections(),
    ));
    all.push(
        case("fragments that become too large for the tunnel", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -i")
            .send(large().fragmented(1480))
            .seen()
            .connections(),
    );
    all.push(
        case(
            "fragments that become too large for the tunnel, IPv6",
            "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -i",
        )
        .ipv6()
        .send(large().fragmented(1448))
        .seen()
        .connections(),
    );
    all.extend(both(
        case("one-packet scheduling of fragments", "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:53 -g")
            .send(large().id(SHOWN))
            .seen()
            .connections(),
    ));
    all.push(case("tiny fragments", NAT).send(udp("C1:4000", "V1:53", 100).fragmented(8).id(7)).seen().connections());
    all.push(
        case("no checksum", NAT)
            .send(large().no_checksum())
            .seen()
            .connections()
            .differs("Linux computes a checksum for a datagram without one; dpvsd leaves it as it came"),
    );
    all.push(
        case("a datagram of the usual size in fragments", NAT)
            .send(udp("C1:4000", "V1:53", 1000).fragmented(600).id(7))
            .seen(),
    );
    all.push(
        case("an atomic fragment", NAT)
            .ipv6()
            .send(udp("C1:4000", "V1:53", 100).fragmented(4000))
            .seen()
            .connections()
            .differs("the fragment header stays; Linux takes it away"),
    );
    all.extend(both(
        case("segments in fragments", TCP)
            .send(tcp("C1:4000", "V1:80", "S").length(40).fragmented(32).id(7))
            .send(tcp("S1:8080", "C1:4000", "SA").seq(5000).ack(1041))
            .send(tcp("C1:4000", "V1:80", "A").seq(1041).ack(5001))
            .seen()
            .send(tcp("C1:4000", "V1:80", "PA").seq(1041).ack(5001).length(2800).fragmented(1400).id(7))
            .send(tcp("S1:8080", "C1:4000", "PA").seq(5001).ack(3841).length(2800).fragmented(1400).id(7))
            .seen()
            .connections(),
    ));
    all.push(
        case("a segment whose header is in two fragments", TCP)
            .send(tcp("C1:4000", "V1:80", "S").length(40).fragmented(16).id(7))
            .seen()
            .connections(),
    );
    all.push(
        case("a segment whose header is in two fragments, IPv6", TCP)
            .ipv6()
            .send(tcp("C1:4000", "V1:80", "S").length(40).fragmented(16).id(7))
            .seen()
            .connections(),
    );
    all.push(
        case("fragments that must not be fragmented", NAT)
            .send(large().df())
            .seen()
            .connections()
            .differs("they are forwarded as they came; IPVS says that the whole is too large"),
    );
    all.extend(both(
        case("a large echo to the virtual address", NAT)
            .send(icmp("C1", "V1", Kind::Echo { id: 7, sequence: 1 }, 3000).fragmented(1400).id(7))
            .seen(),
    ));
    all.extend(both(
        case("a large datagram that no service takes", NAT)
            .send(udp("C1:4000", "V1:54", 4000).fragmented(1400))
            .seen()
            .connections(),
    ));
    all.push(
        case("an error that came in fragments", NAT)
            .send(udp("C1:4000", "V1:53", 1200))
            .seen()
            .send(icmp_error("S9", "C1", Kind::TooBig(1000), udp("C1:4000", "S1:5353", 1200)).fragmented(600))
            .seen()
            .differs("neither address concerns a service, so dpvsd passes the fragments on; Linux gathers them all"),
    );
    all.push(
        case("an error about a first fragment", NAT)
            .send(large())
            .seen()
            .send(
                icmp_error("S9", "C1", Kind::TooBig(1300), udp("C1:4000", "S1:5353", 4000).fragmented(1400).only(&[0]))
                    .quote(28),
            )
            .seen(),
    );
    all.push(
        case("an error about a later fragment", NAT)
            .send(large())
            .seen()
            .send(
                icmp_error("C9", "V1", Kind::TooBig(1300), udp("V1:53", "C1:4000", 4000).fragmented(1400).only(&[1]))
                    .quote(28),
            )
            .seen(),
    );
    all
}
