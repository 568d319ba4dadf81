//! Translation of addresses and ports.

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, Listing, both, case};

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case("a TCP connection, to another port of the server", "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:8080 -m")
            .send(tcp("C1:4000", "V1:80", "S"))
            .seen()
            .send(tcp("@C1:4000", "C1:4000", "SA").seq(5000).ack(1001))
            .seen()
            .connections()
            .send(tcp("C1:4000", "V1:80", "A").seq(1001).ack(5001))
            .send(tcp("C1:4000", "V1:80", "PA").seq(1001).ack(5001).payload(b"GET / HTTP/1.0\r\n\r\n").tos(0x10).df())
            .seen()
            .connections()
            .close("C1:4000", "V1:80")
            .seen()
            .connections()
            .list(Listing::Services)
            .list(Listing::Rules),
    ));
    all.extend(both(
        case("UDP, to another port of the server", "-A -u {V1}:53 -s rr\n-a -u {V1}:53 -r {S1}:5353 -m")
            .send(udp("C1:4000", "V1:53", 30))
            .send(udp("@C1:4000", "C1:4000", 100))
            .seen()
            .connections(),
    ));
    // Real clients and servers.
    all.extend(both(
        case(
            "curl and nginx",
            "-A -t {V1}:8000 -s lc\n-a -t {V1}:8000 -r {R1}:80 -m\n-a -t {V1}:8000 -r {R2}:80 -m -w 0",
        )
        .on("c1", "for n in 1 2 3; do curl -sSg --max-time 5 http://{V1}:8000/; done")
        .expect("s1")
        .list(Listing::Services),
    ));
    all.extend(both(
        case("dig and unbound", "-A -u {V1}:53 -s lc\n-a -u {V1}:53 -r {R3}:53 -m")
            .on("c1", "dig {-4|-6} +short +tries=2 +time=3 @{V1/} whoami TXT; dig {-4|-6} +short +time=3 @{V1/} large TXT | wc -c")
            .expect("s3"),
    ));
    all.push(
        case("nobody listens", "-A -t {V1}:8000 -s lc\n-a -t {V1}:8000 -r {R1}:8001 -m")
            // 7: could not connect.
            .on("c1", "curl -sg --max-time 5 http://{V1}:8000/")
            .expect("exit status 7"),
    );
    all
}
