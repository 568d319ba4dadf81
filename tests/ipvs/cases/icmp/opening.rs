//! ICMP errors that open connections (`schedule_icmp`). Such a connection lives for three seconds only: whether there was one
//! is seen from the counters.

use dpvs_e2e::wire::{Kind, Packet, icmp_error, sctp, tcp, udp};

use super::{ERRORS, PARAMETER, TCP, UDP};
use crate::case::{Case, Listing, both, case};

const SCTP: &str = "-A --sctp-service {V1}:9899 -s rr\n-a --sctp-service {V1}:9899 -r {S1}:9899 -";

fn opening(name: impl Into<String>, rules: &str) -> Case {
    case(name, rules).set("schedule_icmp", 1)
}

/// What a service's server, or another director, sent to the client.
fn reply() -> Packet {
    udp("V1:53", "C1:4000", 50).ttl(63)
}

fn error(about: Packet) -> Packet {
    icmp_error("G", "V1", Kind::PortUnreachable, about)
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut all = modes();
    all.extend(kinds());
    all.extend(refused());
    all.extend(choices());
    all
}

/// All modes and protocols, and the client's own packet afterwards.
fn modes() -> Vec<Case> {
    let mut all = Vec::new();
    let syn = || tcp("C1:4000", "V1:80", "S").seq(1000);
    let protocols = [
        ("UDP", UDP, reply(), udp("C1:4000", "V1:53", 30)),
        ("TCP", TCP, tcp("V1:80", "C1:4000", "SA").seq(5000).ack(1001), syn()),
        ("SCTP", SCTP, sctp("V1:9899", "C1:4000", &[2, 0, 0, 4]), sctp("C1:4000", "V1:9899", &[1, 0, 0, 4])),
    ];
    for (mode, option) in [("NAT", 'm'), ("DR", 'g'), ("TUN", 'i')] {
        for (protocol, rules, about, packet) in &protocols {
            let opened =
                opening(format!("{mode}, {protocol}, an error opens a connection"), &format!("{rules}{option}"))
                    .send(error(about.clone()))
                    .send(packet.clone())
                    .seen()
                    .list(Listing::Stats);
            all.extend(both(match *protocol {
                // Gone by then.
                "SCTP" => opened,
                _ => opened.connections().list(Listing::Services),
            }));
        }
    }
    for (protocol, rules, about, _) in &protocols {
        all.push(
            opening(format!("{protocol}, the connection that an error has opened"), &format!("{rules}m"))
                .send(error(about.clone()))
                .connections()
                .list(Listing::Services)
                .alone(),
        );
    }
    all.extend(both(
        opening("NAT, TCP, a segment without SYN follows the error", &format!("{TCP}m"))
            .send(error(tcp("V1:80", "C1:4000", "PA").seq(5000).ack(1001).length(100)))
            .send(tcp("C1:4000", "V1:80", "PA").seq(1001).ack(5001).payload(b"data"))
            .seen()
            .connections(),
    ));
    all.extend(both(
        opening("NAT, UDP, the server answers to an error", &format!("{UDP}m"))
            .send(error(reply()))
            .send(udp("S1:5353", "C1:4000", 40))
            .seen()
            .connections(),
    ));
    all.extend(both(
        opening(
            "one-packet scheduling keeps nothing of an error",
            "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:5353 -m",
        )
        .send(error(reply()))
        .seen()
        .connections()
        .list(Listing::Stats),
    ));
    all
}

/// The errors that do it.
fn kinds() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, kind) in ERRORS {
        let [v4, v6] = both(
            opening(format!("{name} about a reply opens a connection"), &format!("{UDP}m"))
                .send(icmp_error("G", "V1", kind, reply()))
                .seen()
                .list(Listing::Stats),
        );
        all.extend([if matches!(kind, Kind::ParameterProblem) { v4.differs(PARAMETER) } else { v4 }, v6]);
    }
    all.extend(
        both(
            opening("from the network of the servers, to another address", &format!("{UDP}m"))
                .send(icmp_error("S9", "C9", Kind::HostUnreachable, reply()))
                .seen()
                .list(Listing::Stats),
        )
        .map(|case| case.differs("Linux takes off two hops: one to route it, one to send it to the server")),
    );
    let damaged = opening("an error with a wrong checksum opens nothing", &format!("{UDP}m"))
        .send(error(reply()).damaged())
        .seen()
        .list(Listing::Stats);
    all.extend(both(damaged).map(|case| {
        case.differs("Linux opens a connection before it looks at the checksum, which it does not do over IPv6 at all")
    }));
    all.extend(both(
        opening("an error with the last hop used up", &format!("{UDP}m")).send(error(reply()).ttl(1)).seen(),
    ));
    all
}

/// Errors that open nothing.
fn refused() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case("an error opens nothing by default", &format!("{UDP}m")).send(error(reply())).seen().connections(),
    ));
    all.extend(both(
        opening("about a packet to the service", &format!("{UDP}m"))
            .send(error(udp("C1:4000", "V1:53", 50)))
            .send(icmp_error("S1", "C1", Kind::PortUnreachable, udp("C1:4000", "S1:5353", 50)))
            .seen()
            .connections(),
    ));
    all.extend(both(
        opening("about another port", &format!("{UDP}m")).send(error(udp("V1:54", "C1:4000", 50))).seen().connections(),
    ));
    all.extend(both(
        opening("no server takes it", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -m -w 0")
            .send(error(reply()))
            .seen()
            .connections(),
    ));
    all.extend(both(
        opening("to an FTP client's data port", "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:80 -m")
            .send(error(tcp("V1:80", "C1:20", "A")))
            .seen()
            .connections(),
    ));
    all.extend(both(
        opening("another port of an FTP service", "-A -t {V1}:21 -s rr\n-a -t {V1}:21 -r {S1}:21 -m")
            .send(error(tcp("V1:4001", "C1:4000", "A")))
            .seen()
            .connections(),
    ));
    all
}

/// Which server it is.
fn choices() -> Vec<Case> {
    let mut all = Vec::new();
    let servers = |service: &str, port: u16| -> String {
        (1..=3).map(|n| format!("\n-a {service} -r {{S{n}}}:{port} -m")).collect()
    };
    for (name, scheduler) in [("sh", "sh"), ("sh with ports", "sh -b sh-port"), ("mh", "mh"), ("dh", "dh")] {
        let rules = format!("-A -u {{V1}}:53 -s {scheduler}{}", servers("-u {V1}:53", 53));
        let mut chosen = opening(format!("{name}: the server of the client's own packets"), &rules);
        for n in 1..=12 {
            chosen = chosen.send(error(udp("V1:53", &format!("C{n}:400{}", n % 4), 50)));
        }
        let by_destination = "Linux takes the client for the destination";
        all.extend(both(chosen.seen()).map(|case| if name == "dh" { case.differs(by_destination) } else { case }));
    }
    let persistent = format!("-A -t {{V1}}:80 -s lc -p 300{}", servers("-t {V1}:80", 8080));
    all.extend(both(
        opening("persistence: the server of the client's template", &persistent)
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(error(tcp("V1:80", "C1:4001", "A")))
            .send(error(tcp("V1:80", "C2:4001", "A")))
            .seen()
            .list(Listing::Stats),
    ));
    all.extend(both(
        opening(
            "persistence: all ports of an address",
            &format!("-A -t {{V1}}:0 -s lc -p 300{}", servers("-t {V1}:0", 0)),
        )
        .send(error(tcp("V1:4711", "C1:4001", "A")))
        .seen()
        .list(Listing::Stats),
    ));
    all.extend(both(
        opening(
            "the engine sip finds no Call-ID",
            "-A -u {V1}:5060 -s rr -p 300 --pe sip\n-a -u {V1}:5060 -r {S1}:5060 -m",
        )
        .send(error(udp("V1:5060", "C1:5060", 50)))
        .seen()
        .list(Listing::Stats),
    ));
    all.extend(marks());
    all
}

/// It is the mark of the error that counts.
fn marks() -> Vec<Case> {
    let rules = "-A -f {M1} {-6} -s rr\n-a -f {M1} {-6} -r {S1}:0 -m";
    let mark = "{iptables-legacy|ip6tables-legacy} -t mangle -A PREROUTING -d {V1/} -j MARK --set-mark {M1}";
    let marked =
        opening("a mark by address alone", rules).linux(mark).dpvsd("dpvs-ctl marks add {M1} --destination {V1/}");
    let mark =
        "{iptables-legacy|ip6tables-legacy} -t mangle -A PREROUTING -p tcp -d {V1/} --dport 80 -j MARK --set-mark {M1}";
    let unmarked = opening("a mark of the quoted packet's port", rules)
        .linux(mark)
        .dpvsd("dpvs-ctl marks add {M1} --protocol tcp --destination {V1/} --destination-ports 80");
    let rest = |case: Case| both(case.send(error(tcp("V1:80", "C1:4000", "SA"))).seen().list(Listing::Stats));
    rest(marked).into_iter().chain(rest(unmarked)).collect()
}
