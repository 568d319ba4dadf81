//! Packets that no server gets: unknown ports, no server, segments in the middle of nothing.

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, Listing, both, case};

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let both_protocols =
        |case: Case| case.send(tcp("C1:4000", "V1:80", "S")).send(udp("C1:4000", "V1:80", 30)).seen().connections();
    all.extend(both(both_protocols(case("no service", ""))));
    all.extend(both(both_protocols(case(
        "a service on another port",
        "-A -t {V1}:81 -s rr\n-A -u {V1}:81 -s rr\n-a -t {V1}:81 -r {S1}:81 -m\n-a -u {V1}:81 -r {S1}:81 -m",
    ))));
    for scheduler in ["rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh", "lblc", "lblcr"] {
        let service = format!("-A -t {{V1}}:80 -s {scheduler}\n-A -u {{V1}}:80 -s {scheduler}\n");
        all.extend(both(both_protocols(case(format!("{scheduler}, no server"), &service)).list(Listing::Services)));
        let server = "-a -t {V1}:80 -r {S1}:80 -m -w 0\n-a -u {V1}:80 -r {S1}:80 -m -w 0\n";
        all.extend(both(both_protocols(case(format!("{scheduler}, weight 0 only"), &format!("{service}{server}")))));
    }
    for (mode, option) in [("NAT", 'm'), ("DR", 'g'), ("TUN", 'i')] {
        let rules = format!("-A -t {{V1}}:80 -s rr\n-a -t {{V1}}:80 -r {{S1}}:80 -{option}");
        let mut segments = case(format!("{mode}, segments without a connection"), &rules);
        for (n, flags) in (4000..).zip(["A", "F", "FA", "R", "RA", "P", "SF", "SR", "SA", "FPU"]) {
            segments = segments.send(tcp(&format!("C1:{n}"), "V1:80", flags));
        }
        all.extend(both(segments.seen().connections().list(Listing::Services)));
        all.extend(both(
            case(format!("{mode}, SYN with data and with a wrong checksum"), &rules)
                .send(tcp("C1:4000", "V1:80", "S").payload(b"early data"))
                .send(tcp("C1:4001", "V1:80", "S").damaged())
                .seen()
                .connections(),
        ));
        all.extend(both(
            case(format!("{mode}, SYN again"), &rules)
                .send(tcp("C1:4000", "V1:80", "S"))
                .send(tcp("C1:4000", "V1:80", "S"))
                .send(tcp("C1:4000", "V1:80", "S").seq(7777))
                .seen()
                .connections()
                .list(Listing::Services),
        ));
    }
    // Of three connections, one worker has at least two.
    let service = |n: u8| format!("-A -t {{V{n}}}:80 -s rr\n-a -t {{V{n}}}:80 -r {{S1}}:80 -m\n");
    all.push(
        case("one client to three services with one server, from one port", &(1..=3).map(service).collect::<String>())
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C1:4000", "V2:80", "S"))
            .send(tcp("C1:4000", "V3:80", "S"))
            .seen()
            .connections()
            .differs(
                "the server cannot tell the connections apart: a worker refuses a second one, Linux mixes them up",
            ),
    );
    all
}
