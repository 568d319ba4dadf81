//! How connections begin, give way and end: port reuse, drained and removed servers, timeouts, defences.

use std::time::Duration;

use dpvs_e2e::wire::{Packet, tcp, udp};

use crate::case::{Case, Listing, both, case};

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    [reuse(), servers(), strays(), timeouts(), sloppy(), secure(), drops()].concat()
}

/// A service whose new connections go to the server of the highest weight, the first one, by `-m` or another method.
fn two_servers(name: impl Into<String>, method: &str) -> Case {
    case(
        name,
        &format!(
            "-A -t {{V1}}:80 -s fo\n-a -t {{V1}}:80 -r {{S1}}:80 {method} -w 2\n-a -t {{V1}}:80 -r {{S2}}:80 {method} -w 1"
        ),
    )
}

/// From now on, new connections go to the second server.
fn prefer_the_second(case: Case, method: &str) -> Case {
    case.ipvsadm(&format!("-e -t {{V1}}:80 -r {{S2}}:80 {method} -w 3"))
}

/// The client's connections without expiry: a packet that is dropped does not delay their end.
const CONNECTIONS: &str = "ipvsadm -Lnc | awk '/{C1/}]?:/ {print $1, $3, $4, $5, $6}'";

/// A segment of the client.
fn client(flags: &str) -> Packet {
    tcp("C1:4000", "V1:80", flags)
}

/// A segment of the server that the client reached.
fn server(flags: &str) -> Packet {
    tcp("@C1:4000", "C1:4000", flags)
}

fn reuse() -> Vec<Case> {
    let mut all = Vec::new();
    // Mode of forwarding, what follows on a connection's opening, and the state it leads to.
    let pasts: [(&str, &str, Vec<Packet>); 4] = [
        ("established", "-m", vec![]),
        ("reset", "-m", vec![client("RA")]),
        ("closed by both", "-m", vec![client("FA"), server("FA"), client("A")]),
        ("in FIN_WAIT", "-g", vec![client("FA")]),
    ];
    for mode in 0..=3 {
        for (past, method, segments) in &pasts {
            let name = format!("conn_reuse_mode {mode}: a port whose connection is {past}");
            let mut case = two_servers(name, method).set("conn_reuse_mode", mode).send(client("S"));
            if *method == "-m" {
                case = case.send(server("SA"));
            }
            case = case.send(client("A"));
            for segment in segments {
                case = case.send(segment.clone());
            }
            case = prefer_the_second(case.connections(), method);
            all.push(case.send(client("S").seq(9000)).seen().connections());
        }
    }
    let reset = two_servers("a SYN with RST on an ended connection", "-m");
    let reset = reset.send(client("S")).send(client("RA")).connections();
    all.push(prefer_the_second(reset, "-m").send(client("SR")).seen().connections());
    all
}

fn servers() -> Vec<Case> {
    let mut all = Vec::new();
    all.push(
        two_servers("weight 0 of all servers", "-m")
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 0")
            .ipvsadm("-e -t {V1}:80 -r {S2}:80 -m -w 0")
            .send(client("S"))
            .seen()
            .connections(),
    );
    for expire in [0, 1] {
        let setting = format!("expire_nodest_conn {expire}");
        all.push(
            two_servers(format!("{setting}: a SYN from a known port, the server at weight 0"), "-m")
                .set("expire_nodest_conn", expire)
                .open("C1:4000", "V1:80")
                .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 0")
                .send(client("S").seq(9000))
                .seen()
                .connections(),
        );
        all.extend(both(
            two_servers(format!("{setting}: a removed server"), "-m")
                .set("expire_nodest_conn", expire)
                .open("C1:4000", "V1:80")
                .seen()
                .ipvsadm("-d -t {V1}:80 -r {S1}:80")
                .wait(Duration::from_millis(500))
                .shell(CONNECTIONS)
                .send(client("PA").seq(1001).ack(5001).payload(b"x"))
                .seen()
                .shell(CONNECTIONS)
                .send(client("S").seq(9000))
                .seen()
                .shell(CONNECTIONS)
                .list(Listing::Services),
        ));
        all.push(
            two_servers(format!("{setting}: a removed server that still answers"), "-m")
                .set("expire_nodest_conn", expire)
                .open("C1:4000", "V1:80")
                .seen()
                .ipvsadm("-d -t {V1}:80 -r {S1}:80")
                .send(server("PA").seq(5001).ack(1001).payload(b"x"))
                .seen()
                .connections(),
        );
        all.push(
            two_servers(format!("{setting}: a server removed and added again"), "-m")
                .set("expire_nodest_conn", expire)
                .open("C1:4000", "V1:80")
                .seen()
                .ipvsadm("-d -t {V1}:80 -r {S1}:80")
                .wait(Duration::from_millis(500))
                .ipvsadm("-a -t {V1}:80 -r {S1}:80 -m -w 2")
                .list(Listing::Services)
                .send(client("PA").seq(1001).ack(5001).payload(b"x"))
                .seen()
                .connections(),
        );
        all.extend(both(
            case(
                format!("{setting}: a removed server, UDP"),
                "-A -u {V1}:53 -s fo\n-a -u {V1}:53 -r {S1}:53 -m -w 2\n-a -u {V1}:53 -r {S2}:53 -m -w 1",
            )
            .set("expire_nodest_conn", expire)
            .send(udp("C1:4000", "V1:53", 20))
            .seen()
            .ipvsadm("-d -u {V1}:53 -r {S1}:53")
            .send(udp("C1:4000", "V1:53", 20))
            .seen()
            .ipvsadm("-a -u {V1}:53 -r {S1}:53 -m -w 2")
            .send(udp("C1:4000", "V1:53", 20))
            .seen()
            .connections(),
        ));
    }
    all.push(
        two_servers("a service removed and added again", "-m")
            .open("C1:4000", "V1:80")
            .seen()
            .ipvsadm("-D -t {V1}:80")
            .send(client("PA").seq(1001).ack(5001).payload(b"x"))
            .seen()
            .ipvsadm("-A -t {V1}:80 -s fo")
            .ipvsadm("-a -t {V1}:80 -r {S1}:80 -m")
            .send(client("PA").seq(1001).ack(5001).payload(b"x"))
            .seen()
            .connections()
            .list(Listing::Services),
    );
    all
}

fn strays() -> Vec<Case> {
    let mut all = Vec::new();
    for send in [0, 1] {
        for (what, segment) in [("A", tcp("S1:80", "C1:4000", "A")), ("R", tcp("S1:80", "C1:4000", "R"))] {
            let name = format!("nat_icmp_send {send}: {what} of a server without a connection");
            all.push(two_servers(name, "-m").set("nat_icmp_send", send).send(segment).seen());
        }
        let service = "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:53 -m";
        all.extend(both(
            case(format!("nat_icmp_send {send}: a datagram of a server without a connection"), service)
                .set("nat_icmp_send", send)
                .send(udp("S1:53", "C1:4000", 20))
                .seen(),
        ));
    }
    all
}

fn timeouts() -> Vec<Case> {
    vec![
        two_servers("--set holds for connections that there are, from their next packet on", "-m")
            .alone()
            .open("C1:4000", "V1:80")
            .open("C1:4001", "V1:80")
            .ipvsadm("--set 300 40 20")
            .send(client("A").seq(1001).ack(5001))
            .connections()
            .close("C1:4001", "V1:80")
            .open("C1:4002", "V1:80")
            .connections()
            .ipvsadm("-L --timeout")
            .ipvsadm("--set 900 120 300"),
    ]
}

fn sloppy() -> Vec<Case> {
    let mut all = Vec::new();
    for sloppy in [0, 1] {
        for flags in ["A", "PA", "FA", "SA", "RA", "P"] {
            all.push(
                two_servers(format!("sloppy_tcp {sloppy}: {flags} without a connection"), "-m")
                    .set("sloppy_tcp", sloppy)
                    .send(client(flags).ack(1))
                    .seen()
                    .connections(),
            );
        }
    }
    all
}

fn secure() -> Vec<Case> {
    let mut all = Vec::new();
    // Segments of client (c) and server (s), one after the other, the state looked at after each.
    let ways = [
        "cS cA sSA cA sA",
        "cS sSA cS cR",
        "cS sSA cFA sFA",
        "cS sSA sSA cA sR",
        "cS sSA sA cFA cA",
        "cS cFA cS cR cS",
        "cS cR cA",
    ];
    for way in ways {
        let mut case = two_servers(format!("secure_tcp: {way}"), "-m").set("secure_tcp", 3);
        for segment in way.split(' ') {
            let (side, flags) = segment.split_at(1);
            case = case.send(if side == "c" { client(flags) } else { server(flags) }).connections();
        }
        all.push(case);
    }
    for way in ["S A", "S FA S", "S R S A FA S A"] {
        let mut case = two_servers(format!("secure_tcp, replies unseen: {way}"), "-g").set("secure_tcp", 3);
        for flags in way.split(' ') {
            case = case.send(client(flags)).connections();
        }
        all.push(case.list(Listing::Services));
    }
    all
}

fn drops() -> Vec<Case> {
    let mut all = Vec::new();
    let syns = |ports: std::ops::Range<u16>| ports.map(|port| tcp(&format!("C1:{port}"), "V1:80", "S"));
    for (rate, tolerance) in [(0, 0), (1, 0), (10, 2)] {
        // Its own marker packets would be dropped as well, so that they must have connections already: they do.
        let mut case = two_servers(format!("drop_packet: one in {rate}"), "-m").alone();
        case = case.set("am_droprate", rate).set("drop_packet", 3);
        all.push(case.send_all(syns(4000..4040)).spread(tolerance).send_all(syns(4000..4001)).spread(1));
    }
    let left = "n=$(ipvsadm -Lnc | grep -c 'SYN_RECV.*{C2/}'); echo $(($n > 230 && $n < 310))";
    let flood = (5000..5320).map(|port| tcp(&format!("C2:{port}"), "V1:80", "S"));
    all.push(
        two_servers("drop_entry: about 1/32 of the half-open connections a second, and no other", "-m")
            .alone()
            .set("drop_entry", 3)
            .open("C1:4000", "V1:80")
            .send_all(flood)
            .seen()
            .wait(Duration::from_secs(4))
            .shell(left)
            .shell("ipvsadm -Lnc | grep -c 'ESTABLISHED.*{C1/}'"),
    );
    all
}
