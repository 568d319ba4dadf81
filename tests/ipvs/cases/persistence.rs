//! Persistence, firewall marks and services for all ports.

use std::time::Duration;

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, Listing, both, case};

/// Two servers, so that a client that comes back shows whether it was remembered.
fn two(service: &str, options: &str, port: &str) -> String {
    format!(
        "-A {service} -s rr {options}\n-a {service} -r {{S1}}{port} -m\n-a {service} -r {{S2}}{port} -m\n-a {service} -r \
         {{S3}}{port} -m\n"
    )
}

/// One server, whose connections and templates are the same in any order.
fn one(service: &str, options: &str, port: &str) -> String {
    format!("-A {service} -s rr {options}\n-a {service} -r {{S1}}{port} -m\n")
}

/// A client comes back from other ports; how many servers it meets is compared, not which.
fn returns(case: Case, service: &str) -> Case {
    (4000..4006).fold(case, |case, port| case.send(tcp(&format!("C1:{port}"), service, "S")))
}

/// The rules for firewall marks: on Linux of iptables, on `dpvsd` its own.
fn mark(case: Case, protocol: &str, destination: &str, ports: &str) -> Case {
    let linux = format!(
        "{{iptables-legacy|ip6tables-legacy}} -t mangle -A PREROUTING -p {protocol} -d {{{destination}/}} --dport {} -j MARK --set-mark {{M1}}",
        ports.replace('-', ":")
    );
    let dpvsd = format!(
        "dpvs-ctl marks add {{M1}} --protocol {protocol} --destination {{{destination}/}} --destination-ports {ports}"
    );
    case.linux(&linux).dpvsd(&dpvsd)
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case("a template is listed", &one("-t {V1}:80", "-p 300", ":8080"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .connections()
            .list(Listing::Services)
            .list(Listing::Rules),
    ));
    all.extend(both(
        case("an established connection assures its template", &one("-t {V1}:80", "-p 300", ":8080"))
            .open("C1:4000", "V1:80")
            .connections(),
    ));
    all.extend(both(
        case("a reply of UDP assures its template", &one("-u {V1}:53", "-p 300", ":53"))
            .send(udp("C1:4000", "V1:53", 30))
            .connections()
            .send(udp("@C1:4000", "C1:4000", 100))
            .connections(),
    ));
    all.extend(both(
        returns(case("a client returns to its server", &two("-t {V1}:80", "-p 300", ":80")), "V1:80").connections(),
    ));
    all.extend(both(
        case(
            "an own port for the template of each service",
            &(one("-t {V1}:80", "-p 300", ":80") + &one("-t {V1}:443", "-p 300", ":443")),
        )
        .send(tcp("C1:4000", "V1:80", "S"))
        .send(tcp("C1:4001", "V1:443", "S"))
        .connections(),
    ));
    all.extend(both(
        case("clients of a network have one template", &one("-t {V1}:80", "-p 300 -M {255.255.255.0|64}", ":80"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C2:4000", "V1:80", "S"))
            .connections()
            .list(Listing::Rules),
    ));
    all.push(
        case("a mask may have holes", &one("-t {V1}:80", "-p 300 -M 255.0.0.254", ":80"))
            .send(tcp("C2:4000", "V1:80", "S"))
            .send(tcp("C3:4000", "V1:80", "S"))
            .send(tcp("C4:4000", "V1:80", "S"))
            .connections(),
    );
    all.extend(both(
        case("all ports of an address", &one("-t {V1}:0", "-p 300", ":0"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C1:4001", "V1:8080", "S"))
            .send(tcp("@C1:4001", "C1:4001", "SA").seq(5000).ack(1001))
            .seen()
            .connections()
            .list(Listing::Services),
    ));
    all.push(
        case(
            "a service of its own comes before that of all ports",
            &(one("-t {V1}:0", "-p 300", ":0") + "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S2}:80 -m\n"),
        )
        .send(tcp("C1:4000", "V1:80", "S"))
        .send(tcp("C1:4001", "V1:81", "S"))
        .seen()
        .connections(),
    );
    all.push(
        case("all ports, to servers with a port", &one("-t {V1}:0", "-p 300", ":8080"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.extend(both(
        case("FTP's connections have one template", &one("-t {V1}:21", "-p 300", ":21"))
            .send(tcp("C1:4000", "V1:21", "S"))
            .send(tcp("C1:4001", "V1:30000", "S"))
            .send(tcp("C1:4002", "V1:900", "S"))
            .seen()
            .connections(),
    ));
    all.push(
        case("without persistence, FTP's other ports are the host's", &one("-t {V1}:21", "", ":21"))
            .send(tcp("C1:4001", "V1:30000", "S"))
            .connections(),
    );
    all.push(
        case("from the port of FTP data nothing is scheduled", &one("-t {V1}:80", "", ":80"))
            .send(tcp("C1:20", "V1:80", "S"))
            .connections(),
    );
    all.push(
        case("a server of weight 0 keeps its clients", &one("-t {V1}:80", "-p 300", ":80"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 0")
            .send(tcp("C1:4001", "V1:80", "S"))
            .send(tcp("C2:4001", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.push(
        case(
            "a server of weight 0 loses its clients with expire_quiescent_template",
            &one("-t {V1}:80", "-p 300", ":80"),
        )
        .set("expire_quiescent_template", 1)
        .send(tcp("C1:4000", "V1:80", "S"))
        .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 0")
        .ipvsadm("-a -t {V1}:80 -r {S2}:80 -m")
        .send(tcp("C1:4001", "V1:80", "S"))
        .seen()
        .connections(),
    );
    all.push(
        case("the template of a removed server is void", &one("-t {V1}:80", "-p 300", ":80"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .ipvsadm("-d -t {V1}:80 -r {S1}:80")
            .ipvsadm("-a -t {V1}:80 -r {S2}:80 -m")
            .send(tcp("C1:4001", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.push(
        case("a server that comes back has its clients", &one("-t {V1}:80", "-p 300", ":80"))
            .send(tcp("C1:4000", "V1:80", "S"))
            .ipvsadm("-a -t {V1}:80 -r {S2}:80 -m")
            .ipvsadm("-d -t {V1}:80 -r {S1}:80")
            .ipvsadm("-a -t {V1}:80 -r {S1}:80 -m")
            .send(tcp("C1:4001", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.push(
        case("a template does not count for thresholds", &one("-t {V1}:80", "-p 300", ":80"))
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -x 2")
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C2:4000", "V1:80", "S"))
            .send(tcp("C3:4000", "V1:80", "S"))
            .seen()
            .connections()
            .list(Listing::Services),
    );
    all.push(
        case("a client that is known passes the threshold", &one("-t {V1}:80", "-p 300", ":80"))
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -x 1")
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C1:4001", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.push(
        case("a template ends after its time, its connections go on", &one("-u {V1}:53", "-p 2", ":53"))
            .send(udp("C1:4000", "V1:53", 30))
            .wait(Duration::from_secs(4))
            .connections(),
    );
    all.push(
        case("without a server there is no template", "-A -t {V1}:80 -s rr -p 300\n")
            .send(tcp("C1:4000", "V1:80", "S"))
            .seen()
            .connections(),
    );
    all.push(
        case("direct routing", "-A -t {V1}:80 -s rr -p 300\n-a -t {V1}:80 -r {S1} -g\n")
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("C1:4000", "V1:80", "A").seq(1001).ack(5001))
            .seen()
            .connections(),
    );
    let sip = |name: &str, id: &str| {
        udp(name, "V1:5060", 0).payload(format!("INVITE sip:x SIP/2.0\r\nVia: x\r\nCall-ID: {id}\r\n\r\n").as_bytes())
    };
    all.push(
        case("SIP calls have a template each", &one("-u {V1}:5060", "-p 300 --pe sip", ":5060"))
            .send(sip("C1:5060", "first@host"))
            .send(sip("C1:5061", "first@host"))
            .send(sip("C1:5062", "second@host"))
            .send(sip("C2:5060", "first@host"))
            .send(udp("C3:5060", "V1:5060", 30))
            .seen()
            .connections()
            .list(Listing::Persistent)
            .list(Listing::Rules),
    );
    all.extend(both(
        mark(
            mark(case("a mark joins addresses and ports", &one("-f {M1} {-6}", "", ":0")), "tcp", "V1", "80"),
            "tcp",
            "V2",
            "8000-8001",
        )
        .send(tcp("C1:4000", "V1:80", "S"))
        .send(tcp("C1:4001", "V2:8001", "S"))
        .send(tcp("@C1:4001", "C1:4001", "SA").seq(5000).ack(1001))
        .seen()
        .connections()
        .list(Listing::Services)
        .list(Listing::Rules),
    ));
    all.extend(both(
        mark(
            mark(case("a mark's clients have one template", &one("-f {M1} {-6}", "-p 300", ":0")), "tcp", "V1", "80"),
            "udp",
            "V2",
            "53",
        )
        .send(tcp("C1:4000", "V1:80", "S"))
        .send(udp("C1:4001", "V2:53", 30))
        .connections()
        .list(Listing::Services),
    ));
    all.push(
        mark(
            case(
                "a mark comes before the address",
                &(one("-f {M1}", "", ":0") + "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S2}:80 -m\n"),
            ),
            "tcp",
            "V1",
            "80",
        )
        .send(tcp("C1:4000", "V1:80", "S"))
        .seen()
        .connections(),
    );
    all.push(
        mark(case("a mark's servers may have a port", &one("-f {M1}", "", ":8080")), "tcp", "V1", "80")
            .send(tcp("C1:4000", "V1:80", "S"))
            .send(tcp("@C1:4000", "C1:4000", "SA").seq(5000).ack(1001))
            .seen()
            .connections(),
    );
    all
}
