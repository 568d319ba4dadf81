//! Rules that change while there are connections.

use dpvs_e2e::wire::{Packet, tcp, udp};

use crate::case::{Case, Listing, both, case};

const TWO: &str = "-A -t {V1}:80 -s lc\n-a -t {V1}:80 -r {S1}:80 -";

/// A TCP service with one server, in all modes.
fn in_all_modes(name: &str, rest: impl Fn(Case) -> Case) -> Vec<Case> {
    let make = |(mode, option): (&str, char)| {
        let opened = case(format!("{mode}, {name}"), &format!("{TWO}{option}"));
        let opened = match option {
            'm' => opened.open("C1:4000", "V1:80"),
            _ => opened.send(tcp("C1:4000", "V1:80", "S")).send(data()),
        };
        both(rest(opened.seen()))
    };
    [("NAT", 'm'), ("DR", 'g'), ("TUN", 'i')].into_iter().flat_map(make).collect()
}

/// A segment of the client's in the connection.
fn data() -> Packet {
    tcp("C1:4000", "V1:80", "PA").seq(1001).ack(5001).payload(b"data")
}
/// One of the server's, by NAT.
fn answer() -> Packet {
    tcp("@C1:4000", "C1:4000", "PA").seq(5001).ack(1001).payload(b"answer")
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(in_all_modes("weight 0 drains", |case| {
        case.ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 0")
            .send(data())
            .send(tcp("C2:4000", "V1:80", "S"))
            .seen()
            .connections()
            .list(Listing::Services)
    }));
    all.extend(in_all_modes("the server is removed", |case| {
        case.ipvsadm("-d -t {V1}:80 -r {S1}:80").send(data()).seen().connections().list(Listing::Services)
    }));
    all.extend(in_all_modes("the server is removed and comes back", |case| {
        case.ipvsadm("-d -t {V1}:80 -r {S1}:80")
            .send(data())
            .ipvsadm("-a -t {V1}:80 -r {S1}:80 -m")
            .send(data())
            .seen()
            .connections()
            .list(Listing::Services)
    }));
    all.extend(in_all_modes("another server takes over", |case| {
        case.ipvsadm("-a -t {V1}:80 -r {S2}:80 -m")
            .ipvsadm("-d -t {V1}:80 -r {S1}:80")
            .send(data())
            .send(tcp("C2:4000", "V1:80", "S"))
            .send(tcp("C1:4000", "V1:80", "S").seq(9000))
            .seen()
            .connections()
            .list(Listing::Services)
    }));
    all.extend(in_all_modes("the service is removed", |case| {
        case.ipvsadm("-D -t {V1}:80").send(data()).send(tcp("C2:4000", "V1:80", "S")).seen().connections()
    }));
    all.extend(in_all_modes("the service is removed and comes back", |case| {
        case.ipvsadm("-D -t {V1}:80")
            .ipvsadm("-A -t {V1}:80 -s lc")
            .ipvsadm("-a -t {V1}:80 -r {S1}:80 -m")
            .send(data())
            .seen()
            .connections()
            .list(Listing::Services)
    }));
    let mode_changes = both(
        case("NAT, the mode of a server changes", "-A -t {V1}:80 -s lc\n-a -t {V1}:80 -r {S1}:80 -m")
            .open("C1:4000", "V1:80")
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -g")
            .send(data())
            .send(tcp("C2:4000", "V1:80", "S"))
            .seen()
            .connections()
            .list(Listing::Services),
    );
    all.extend(mode_changes.map(|case| {
        case.differs("Linux goes on with the next hop cached for NAT, where nobody answers for the virtual address")
    }));
    all.extend(both(
        case("NAT, replies after the server was removed", "-A -t {V1}:80 -s lc\n-a -t {V1}:80 -r {S1}:8080 -m")
            .open("C1:4000", "V1:80")
            .seen()
            .ipvsadm("-d -t {V1}:80 -r {S1}:8080")
            .send(answer())
            .seen()
            .connections(),
    ));
    all.extend(both(
        case(
            "UDP, the server is removed",
            "-A -u {V1}:53 -s lc\n-a -u {V1}:53 -r {S1}:53 -m\n-a -u {V1}:53 -r {S2}:53 -m",
        )
        .send(udp("C1:4000", "V1:53", 10))
        .ipvsadm("-d -u {V1}:53 -r {S1}:53")
        .send(udp("C1:4000", "V1:53", 11))
        .send(udp("C2:4000", "V1:53", 12))
        .seen()
        .connections()
        .list(Listing::Services),
    ));
    for (name, is_closed) in [("TIME_WAIT", false), ("CLOSE", true)] {
        let opened = case(
            format!("a port is used again in {name}"),
            "-A -t {V1}:80 -s wlc\n-a -t {V1}:80 -r {S1}:80 -m -w 1\n-a -t {V1}:80 -r {S2}:80 -m -w 5",
        )
        .open("C1:4000", "V1:80");
        let end = |case: Case| match is_closed {
            true => case.send(tcp("C1:4000", "V1:80", "R").seq(1001)),
            false => case
                .send(tcp("@C1:4000", "C1:4000", "FA").seq(5001).ack(1001))
                .send(tcp("C1:4000", "V1:80", "FA").seq(1001).ack(5002)),
        };
        let again = |case: Case| {
            case.send(tcp("C1:4000", "V1:80", "S").seq(70_000)).seen().connections().list(Listing::Services)
        };
        let counted =
            "Linux still counts the connection that ends when it chooses a server for the new one; dpvsd does not";
        all.extend(both(again(end(opened.clone())).differs(counted)));
        // The rules change first: a connection in CLOSE lives for ten seconds only.
        for (server, what) in [("S1", "the other server's"), ("S2", "its server's")] {
            let edited = opened.clone().ipvsadm(&format!("-e -t {{V1}}:80 -r {{{server}}}:80 -m -w 0"));
            let mut again = again(end(edited));
            again.name += &format!(", {what} weight is 0");
            all.extend(both(again));
        }
        if !is_closed {
            let mut removed = again(end(opened).ipvsadm("-d -t {V1}:80 -r {S2}:80"));
            removed.name += ", its server was removed";
            all.extend(both(removed));
        }
    }
    all.extend(both(
        case("a server is edited in every way", "-A -t {V1}:80 -s wlc\n-a -t {V1}:80 -r {S1}:80 -m")
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 7 -x 100 -y 50")
            .list(Listing::Thresholds)
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -g -w 3")
            .list(Listing::Thresholds)
            .list(Listing::Services)
            .list(Listing::Rules)
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -i -w 65535")
            .list(Listing::Services)
            .list(Listing::Rules),
    ));
    all
}
