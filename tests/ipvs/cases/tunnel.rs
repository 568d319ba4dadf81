//! Tunnels: every encapsulation, within a family and across.

use dpvs_e2e::wire::{GUE_PORT, Kind, icmp_error, tcp, tunnelled, udp};

use crate::case::{Case, Listing, both, case};

/// A name, and options of the server.
const KINDS: [(&str, &str); 6] = [
    ("ipip", ""),
    ("gue", " --tun-type gue --tun-port 6080"),
    ("gue with checksum", " --tun-type gue --tun-port 6080 --tun-csum"),
    ("gue with remote checksum", " --tun-type gue --tun-port 6080 --tun-remcsum"),
    ("gre", " --tun-type gre --tun-nocsum"),
    ("gre with checksum", " --tun-type gre --tun-csum"),
];

const SMALL_MTU: &str = "Linux tells the client the packet size that it knew before the error; dpvsd that of the error";
const OUTER_V6: &str = "Linux 6.1 does not look into ICMPv6 errors about tunnels";

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    assert_eq!(GUE_PORT, 6080);
    let mut all = Vec::new();
    for (name, options) in KINDS {
        for (server, across) in [("S1", ""), ("X1", ", across families")] {
            all.extend(packets(name, options, server, across));
            all.extend(sizes(name, options, server, across));
            all.extend(without_discovery(name, options, server, across));
        }
    }
    all.extend(listings());
    all.extend(errors());
    all
}

fn rules(protocol: &str, port: u16, server: &str, options: &str) -> String {
    let server = format!("{{{server}}}:{port}");
    format!("-A {protocol} {{V1}}:{port} -s rr\n-a {protocol} {{V1}}:{port} -r {server} -i{options}")
}

/// A TCP connection and datagrams: header fields that the tunnel takes over, lengths even and odd.
fn packets(name: &str, options: &str, server: &str, across: &str) -> [Case; 2] {
    both(
        case(format!("{name}{across}"), &rules("-t", 80, server, options))
            .send(tcp("C1:4000", "V1:80", "S").df())
            .send(tcp("C1:4000", "V1:80", "A").seq(1001).ack(1).ttl(3))
            .send(tcp("C1:4000", "V1:80", "PA").seq(1001).ack(1).length(11).tos(0xb9))
            .send(tcp("C1:4000", "V1:80", "PA").seq(1012).ack(1).length(1000).tos(0x03).df())
            .seen()
            .connections()
            .send(tcp("C1:4000", "V1:80", "FA").seq(2012).ack(1))
            .seen()
            .connections()
            .list(Listing::Services)
            .list(Listing::Stats)
            .send(tcp("C1:4000", "V1:80", "A").seq(2013).ack(1).ttl(1))
            .seen(),
    )
}

/// Packets around the largest that fits: with "don't fragment" and without.
fn sizes(name: &str, options: &str, server: &str, across: &str) -> [Case; 2] {
    let added = match name {
        "ipip" => 0,
        "gre" => 4,
        "gre with checksum" => 8,
        _ => 12,
    };
    // Outer and inner header, by the family inside, and UDP.
    let outer = |v6: bool| if v6 == across.is_empty() { 40 } else { 20 };
    let largest = |v6: bool| 1500 - added - outer(v6) - 8 - if v6 { 40 } else { 20 };
    [false, true].map(|v6| {
        let largest = largest(v6);
        let mut sizes = case(format!("sizes in {name}{across}"), &rules("-u", 53, server, options))
            .send(udp("C1:4000", "V1:53", largest).df())
            .seen()
            .send(udp("C1:4000", "V1:53", largest + 1).df())
            .seen();
        if v6 {
            sizes.name += ", IPv6";
            return sizes.ipv6();
        }
        sizes.send(udp("C2:4000", "V1:53", largest + 1)).send(udp("C2:4000", "V1:53", 1472)).seen()
    })
}

/// Packets that must not be fragmented, while `pmtu_disc` is off: small ones, and those that do not fit.
fn without_discovery(name: &str, options: &str, server: &str, across: &str) -> [Case; 2] {
    both(
        case(format!("pmtu_disc 0, {name}{across}"), &rules("-u", 53, server, options))
            .set("pmtu_disc", 0)
            .send(udp("C1:4000", "V1:53", 30).df())
            .send(udp("C1:4000", "V1:53", 31).df())
            .send(udp("C1:4000", "V1:53", 32))
            .send(udp("C1:4000", "V1:53", 1440).df())
            .send(udp("C1:4000", "V1:53", 1440))
            .seen()
            .connections(),
    )
}

fn listings() -> Vec<Case> {
    let server = |n: usize, options: &str| format!("-a -t {{V1}}:80 -r {{S{n}}}:80 -i{options}\n");
    let servers: String = KINDS.iter().enumerate().map(|(n, (_, options))| server(n + 1, options)).collect();
    let mut all = Vec::new();
    all.extend(both(
        case("servers of all kinds are listed and saved", &format!("-A -t {{V1}}:80 -s rr\n{servers}"))
            .list(Listing::Services)
            .list(Listing::Rules)
            .shell("ipvsadm -Ln --tun-info -t {V1}:80")
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -i --tun-type gue --tun-port 6081 --tun-csum")
            .ipvsadm("-e -t {V1}:80 -r {S2}:80 -i")
            .ipvsadm("-e -t {V1}:80 -r {S3}:80 -g")
            .ipvsadm("-a -t {V1}:80 -r {X7}:80 -g")
            .ipvsadm("-a -t {V1}:80 -r {X7}:80 -m")
            .ipvsadm("-a -t {V1}:80 -r {X7}:80 -i --tun-type gre")
            .ipvsadm("-a -t {V1}:80 -r {X7}:80 -i --tun-type gue")
            .ipvsadm("-a -t {V1}:80 -r {S8}:80 -i --tun-type gre --tun-remcsum")
            .ipvsadm("-a -t {V1}:80 -r {S8}:80 -i --tun-type gre --tun-port 5")
            .shell("ipvsadm -Ln --tun-info -t {V1}:80")
            .list(Listing::Rules),
    ));
    all.extend(both(
        case("a connection follows an edit of its server's tunnel", &rules("-u", 53, "S1", ""))
            .send(udp("C1:4000", "V1:53", 30))
            .ipvsadm("-e -u {V1}:53 -r {S1}:53 -i --tun-type gue --tun-port 6080 --tun-csum")
            .send(udp("C1:4000", "V1:53", 30))
            .ipvsadm("-e -u {V1}:53 -r {S1}:53 -i --tun-type gre")
            .send(udp("C1:4000", "V1:53", 30))
            .ipvsadm("-e -u {V1}:53 -r {S1}:53 -i")
            .send(udp("C1:4000", "V1:53", 30))
            .seen()
            .connections(),
    ));
    all
}

/// What a router on the way to the server says about a tunnel packet.
fn errors() -> Vec<Case> {
    const GUE: [u8; 12] = [0x9c, 0x40, 0x17, 0xc0, 0, 0x40, 0, 0, 0, 4, 0, 0];
    const GUE6: [u8; 12] = [0x9c, 0x40, 0x17, 0xc0, 0, 0x40, 0, 0, 0, 41, 0, 0];
    let kinds = [
        ("ipip", "", 4, 41, &[][..], &[][..]),
        ("gue", " --tun-type gue --tun-port 6080", 17, 17, &GUE, &GUE6),
        ("gre", " --tun-type gre", 47, 47, &[0, 0, 8, 0], &[0, 0, 0x86, 0xdd]),
        (
            "gre with checksum",
            " --tun-type gre --tun-csum",
            47,
            47,
            &[0x80, 0, 8, 0, 0x12, 0x34, 0, 0],
            &[0x80, 0, 0x86, 0xdd, 0x12, 0x34, 0, 0],
        ),
    ];
    let mut all = Vec::new();
    for (index, (name, options, protocol, protocol6, header, header6)) in kinds.into_iter().enumerate() {
        for v6 in [false, true] {
            let (protocol, header) = if v6 { (protocol6, header6) } else { (protocol, header) };
            // Linux remembers the size for the server: each case has one of its own.
            let server = format!("S{}", 10 + 2 * index + usize::from(v6));
            let error = |kind, inner| icmp_error("S9", "E", kind, tunnelled("E", &server, protocol, header, inner));
            let packet = || tcp("C1:4000", "V1:80", "A").seq(1001).ack(1).length(1300).df();
            let suffix = if v6 { ", IPv6" } else { "" };
            let case = |title: &str| {
                let case = case(format!("{title} {name}{suffix}"), &rules("-t", 80, &server, options))
                    .send(tcp("C1:4000", "V1:80", "S"))
                    .send(packet())
                    .seen();
                if v6 { case.ipv6().differs(OUTER_V6) } else { case }
            };
            all.push(
                case("an unreachable server behind").send(error(Kind::HostUnreachable, packet()).quote(100)).seen(),
            );
            all.push(case("time exceeded in").send(error(Kind::TimeExceeded, packet()).quote(100)).seen());
            let narrow = case("a narrow way for").send(error(Kind::TooBig(1290), packet()).quote(100)).seen();
            all.push(if v6 { narrow } else { narrow.differs(SMALL_MTU) });
        }
    }
    all
}
