//! One-packet scheduling, SCTP, ESP and AH.

use dpvs_e2e::wire::{Kind, Packet, icmp_error, raw, sctp, udp};

use crate::case::{Case, Listing, both, case};

/// Why ICMPv6 errors from servers differ.
const NO_PSEUDO_HEADER: &str =
    "Linux leaves the pseudo header out when it verifies ICMPv6 errors from servers, and so drops all of them";
/// Why AH differs over IPv6.
const BEHIND_AH: &str = "over IPv6 Linux takes the authentication header for an extension header and balances what is \
                         behind it, whose authentication the new address breaks; dpvsd treats AH as over IPv4";

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = one_packet();
    all.extend(sctp_states());
    all.extend(sctp_packets());
    all.extend(ipsec());
    all
}

const OPS_NAT: &str = "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:5353 -m";

fn one_packet() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case("ops, NAT: no connection stays, replies are not translated", OPS_NAT)
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("@C1:4000", "C1:4000", 50))
            .send(udp("C1:4000", "V1:53", 31))
            .seen()
            .connections()
            .list(Listing::Services)
            .list(Listing::Stats)
            .list(Listing::Rules),
    ));
    all.extend(both(
        case("ops, DR", "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:53 -g")
            .send(udp("C1:4000", "V1:53", 30))
            .seen()
            .connections()
            .list(Listing::Stats),
    ));
    all.extend(both(
        case("ops, tunnel", "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:53 -i")
            .send(udp("C1:4000", "V1:53", 30))
            .seen()
            .connections()
            .list(Listing::Stats),
    ));
    let three = |scheduler: &str| {
        let servers: String = (1..=3).map(|n| format!("\n-a -u {{V1}}:53 -r {{S{n}}}:53 -m -w {n}")).collect();
        format!("-A -u {{V1}}:53 -s {scheduler} -o{servers}")
    };
    for scheduler in ["rr", "wrr"] {
        all.push(
            case(format!("ops, {scheduler}: one client's datagrams go to all servers"), &three(scheduler))
                .send_all((0..24).map(|_| udp("C1:4000", "V1:53", 30)))
                .spread(1)
                .connections(),
        );
    }
    // Nothing is counted between packets, so that these schedulers see idle servers only.
    for scheduler in ["wlc", "lc", "sed", "nq", "sh", "dh"] {
        all.push(
            case(format!("ops, {scheduler}"), &three(scheduler))
                .send_all((1..=6).map(|n| udp(&format!("C{n}:4000"), "V1:53", 30)))
                .send(udp("C1:4000", "V1:53", 31))
                .seen()
                .connections()
                .list(Listing::Services),
        );
    }
    all.extend(both(
        case("ops: no server", "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:53 -m -w 0")
            .send(udp("C1:4000", "V1:53", 30))
            .connections()
            .list(Listing::Stats),
    ));
    all.push(
        case("ops: thresholds are never reached", "-A -u {V1}:53 -s rr -o\n-a -u {V1}:53 -r {S1}:53 -m -x 1")
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("C2:4000", "V1:53", 30))
            .seen()
            .list(Listing::Thresholds),
    );
    all.push(
        case("ops, switched on and off", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:5353 -m")
            .send(udp("C1:4000", "V1:53", 30))
            .ipvsadm("-E -u {V1}:53 -s rr -o")
            .send(udp("C1:4000", "V1:53", 31))
            .send(udp("C2:4000", "V1:53", 32))
            .seen()
            .connections()
            .ipvsadm("-E -u {V1}:53 -s rr")
            .send(udp("C2:4000", "V1:53", 33))
            .seen()
            .connections()
            .list(Listing::Rules),
    );
    all.push(
        case("ops: only with UDP", "").ipvsadm("-A -t {V1}:80 -s rr -o").ipvsadm("-A --sctp-service {V1}:80 -s rr -o"),
    );
    all
}

/// Kinds of chunks: INIT, INIT ACK and so on.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// One of each that has a row in the table of states.
const EVENTS: [u8; 10] = [0, INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN, SHUTDOWN_ACK, 14, 9, ABORT];

/// From the client, or from the server that got the client's first packet.
fn step(client: usize, from_client: bool, chunk: u8) -> Packet {
    let client = format!("C{client}:4000");
    match from_client {
        true => sctp(&client, "V1:9899", &[chunk, 0, 0, 4]),
        false => sctp(&format!("@{client}"), &client, &[chunk, 0, 0, 4]),
    }
}

/// Every cell of the table that can be reached: a connection is brought into each state for each event from each side.
fn sctp_states() -> Vec<Case> {
    let nat: [(&str, &[(bool, u8)]); 13] = [
        ("INIT1", &[]),
        ("INIT", &[(true, INIT)]),
        ("C-SENT", &[(false, INIT_ACK)]),
        ("C-REPLIED", &[(false, INIT_ACK), (true, COOKIE_ECHO)]),
        ("C-WAIT", &[(false, INIT)]),
        ("COOKIE", &[(false, INIT), (true, INIT_ACK)]),
        ("C-ECHOED", &[(false, COOKIE_ECHO)]),
        ("ESTABLISHED", &[(false, INIT_ACK), (true, COOKIE_ECHO), (false, COOKIE_ACK)]),
        ("S-SENT", &[(false, SHUTDOWN)]),
        ("S-RECEIVED", &[(false, COOKIE_ACK), (true, SHUTDOWN)]),
        ("S-ACK-SENT", &[(false, SHUTDOWN_ACK)]),
        ("REJECTED", &[(false, ABORT)]),
        ("CLOSED", &[(true, ABORT)]),
    ];
    let one_way: [(&str, &[(bool, u8)]); 6] = [
        ("INIT1", &[]),
        ("INIT", &[(true, INIT)]),
        ("C-ECHOED", &[(true, INIT_ACK)]),
        ("ESTABLISHED", &[(true, COOKIE_ECHO)]),
        ("S-RECEIVED", &[(true, COOKIE_ECHO), (true, SHUTDOWN)]),
        ("CLOSED", &[(true, ABORT)]),
    ];
    let mut all = Vec::new();
    for (mode, option, port, states, sides) in
        [("NAT", "-m", 9900, &nat[..], &[true, false][..]), ("DR", "-g", 9899, &one_way, &[true])]
    {
        for (state, path) in states {
            let rules =
                format!("-A --sctp-service {{V1}}:9899 -s rr\n-a --sctp-service {{V1}}:9899 -r {{S1}}:{port} {option}");
            let cells: Vec<(usize, bool, u8)> = sides
                .iter()
                .flat_map(|&side| EVENTS.map(|event| (side, event)))
                .enumerate()
                .map(|(n, (side, event))| (n + 1, side, event))
                .collect();
            let mut case = case(format!("SCTP, {mode}: what follows {state}"), &rules);
            case = case.send_all(cells.iter().map(|&(client, ..)| step(client, true, INIT)));
            for &(from_client, chunk) in *path {
                case = case.send_all(cells.iter().map(|&(client, ..)| step(client, from_client, chunk)));
            }
            case = case.send_all(cells.iter().map(|&(client, side, event)| step(client, side, event)));
            all.push(case.connections().list(Listing::Services));
        }
    }
    all
}

fn sctp_packets() -> Vec<Case> {
    let rules = |option: &str, port: u16| {
        format!("-A --sctp-service {{V1}}:9899 -s rr\n-a --sctp-service {{V1}}:9899 -r {{S1}}:{port} {option}")
    };
    let from_client = |chunks: &[u8]| sctp("C1:4000", "V1:9899", chunks);
    let from_server = |chunks: &[u8]| sctp("@C1:4000", "C1:4000", chunks);
    let data: Vec<u8> = [0, 3, 0, 250].into_iter().chain((0..248).map(|n| n as u8)).collect();
    let mut all = Vec::new();
    for (name, option, port) in [("to another port", "-m", 9900), ("to the same port", "-m", 9899)] {
        all.extend(both(
            case(format!("SCTP, NAT {name}: an association"), &rules(option, port))
                .send(from_client(&[INIT, 0, 0, 8, 1, 2, 3, 4]))
                .send(from_server(&[INIT_ACK, 0, 0, 8, 5, 6, 7, 8]))
                .seen()
                .send(from_client(&[COOKIE_ECHO, 0, 0, 7, 9, 9, 9, 0]))
                .send(from_server(&[COOKIE_ACK, 0, 0, 4]))
                .send(from_client(&data))
                .send(from_server(&[3, 0, 0, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]))
                .seen()
                .connections()
                .list(Listing::Services)
                .list(Listing::Stats)
                .list(Listing::Rules),
        ));
    }
    for (name, option) in [("DR", "-g"), ("tunnel", "-i")] {
        all.extend(both(
            case(format!("SCTP, {name}"), &rules(option, 9899))
                .send(from_client(&[INIT, 0, 0, 8, 1, 2, 3, 4]))
                .send(from_client(&[COOKIE_ECHO, 0, 0, 4]))
                .send(from_client(&data))
                .seen()
                .connections()
                .list(Listing::Stats),
        ));
    }
    all.extend(both(
        case("SCTP: only INIT opens a connection", &rules("-m", 9900))
            .send_all((1..=6).map(|n| {
                let kind = [0, INIT_ACK, ABORT, COOKIE_ECHO, SHUTDOWN_ACK, 255][n - 1];
                sctp(&format!("C{n}:4000"), "V1:9899", &[kind, 0, 0, 4])
            }))
            .connections(),
    ));
    all.extend(both(
        case("SCTP: no server", "-A --sctp-service {V1}:9899 -s rr\n-a --sctp-service {V1}:9899 -r {S1}:9899 -m -w 0")
            .send(from_client(&[INIT, 0, 0, 4]))
            .connections()
            .list(Listing::Stats),
    ));
    // The state before the first packet.
    all.push(
        case("SCTP, sloppy_sctp: any packet but an ABORT opens a connection", &rules("-m", 9900))
            .set("sloppy_sctp", 1)
            .send_all((1..=10).map(|n| step(n, true, EVENTS[n - 1])))
            .connections()
            .list(Listing::Services),
    );
    all.push(
        case("SCTP: an ABORT behind a cookie", &rules("-m", 9900))
            .send_all([step(1, true, INIT), step(2, true, INIT), step(3, true, INIT)])
            .send_all([step(1, false, COOKIE_ACK), step(2, false, COOKIE_ACK), step(3, false, COOKIE_ACK)])
            .send(sctp("C1:4000", "V1:9899", &[COOKIE_ECHO, 0, 0, 7, 1, 2, 3, 0, ABORT, 0, 0, 4]))
            .send(sctp("C2:4000", "V1:9899", &[COOKIE_ACK, 0, 0, 4, ABORT, 0, 0, 4]))
            .send(sctp("C3:4000", "V1:9899", &[SHUTDOWN_ACK, 0, 0, 4, ABORT, 0, 0, 4]))
            .connections(),
    );
    let [v4, v6] = both(
        case("SCTP: ICMP errors", &rules("-m", 9900))
            .send(from_client(&[INIT, 0, 0, 4]))
            .send(icmp_error("S1", "C1", Kind::PortUnreachable, sctp("C1:4000", "S1:9900", &[INIT, 0, 0, 4])))
            .send(from_server(&[INIT_ACK, 0, 0, 4]))
            .send(icmp_error("C1", "V1", Kind::TooBig(1400), sctp("V1:9899", "C1:4000", &[INIT_ACK, 0, 0, 4])))
            .seen(),
    );
    all.extend([v4, v6.differs(NO_PSEUDO_HEADER)]);
    all
}

fn ipsec() -> Vec<Case> {
    const ESP: u8 = 50;
    const AH: u8 = 51;
    let rules = |option: &str| format!("-A -u {{V1}}:500 -s rr\n-a -u {{V1}}:500 -r {{S1}}:500 {option}");
    let secret = b"\x00\x00\x12\x34\x00\x00\x00\x01what nobody on the way can read";
    // An authentication header in front of UDP.
    let authenticated = b"\x11\x04\x00\x00\x00\x00\x12\x34\x00\x00\x00\x01aaaaaaaaaaaa\x01\xf4\x01\xf4\x00\x08\x00\x00";
    let mut all = Vec::new();
    for (protocol, name, bytes) in [(ESP, "ESP", &secret[..]), (AH, "AH", &authenticated[..])] {
        for (mode, option) in [("NAT", "-m"), ("DR", "-g"), ("tunnel", "-i")] {
            let mut one = case(format!("{name}, {mode}: follows IKE"), &rules(option))
                .send(udp("C1:500", "V1:500", 40))
                .send(raw("C1", "V1", protocol, bytes))
                .seen();
            if mode == "NAT" {
                one = one.send(raw("S1", "C1", protocol, bytes)).seen();
            }
            let [v4, v6] = both(one.connections().list(Listing::Services).list(Listing::Stats));
            all.extend([v4, if protocol == AH && mode == "NAT" { v6.differs(BEHIND_AH) } else { v6 }]);
        }
        let [v4, v6] = both(
            case(format!("{name}: an IKE connection of another port or client is not followed"), &rules("-m"))
                .send(udp("C1:4500", "V1:500", 40))
                .send(udp("C2:500", "V1:500", 40))
                .send(raw("C1", "V1", protocol, bytes))
                .connections()
                .list(Listing::Stats),
        );
        all.extend([v4, if protocol == AH { v6.differs(BEHIND_AH) } else { v6 }]);
    }
    let [v4, v6] = both(
        case("ESP: ICMP errors", &rules("-m"))
            .send(udp("C1:500", "V1:500", 40))
            .send(icmp_error("S1", "C1", Kind::TooBig(1400), raw("C1", "S1", ESP, secret)))
            .send(icmp_error("C1", "V1", Kind::TooBig(1400), raw("V1", "C1", ESP, secret)))
            .seen(),
    );
    all.extend([v4, v6.differs(NO_PSEUDO_HEADER)]);
    all.push(
        case("ESP in fragments", &rules("-m"))
            .send(udp("C1:500", "V1:500", 40))
            // An identification that is not shown: the director puts fragments together and makes its own.
            .send(raw("C1", "V1", ESP, &[secret.as_slice(); 20].concat()).fragmented(400).id(7))
            .seen(),
    );
    all
}
