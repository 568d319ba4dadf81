//! Which server a connection goes to.

use std::fmt::Write;
use std::time::Duration;

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, Listing, both, case};

/// Clients of a service whose scheduler goes by their address.
const CLIENTS: usize = 48;

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = hashing();
    all.extend(loads());
    all.extend(turns());
    all.extend(thresholds());
    all.extend(edits());
    all.extend(memory());
    all
}

/// A service with servers `S1`, `S2`, ... of these weights; `selector` is `-t {V1}:80` or `-u {V1}:53`.
fn service(selector: &str, scheduler: &str, weights: &[u16]) -> String {
    let port = selector.rsplit(':').next().expect("a selector ends with a port");
    let mut rules = format!("-A {selector} -s {scheduler}\n");
    for (n, weight) in (1..).zip(weights) {
        let _ = writeln!(rules, "-a {selector} -r {{S{n}}}:{port} -m -w {weight}");
    }
    rules
}

/// dh, sh and mh with all flags: the very servers that Linux chooses.
fn hashing() -> Vec<Case> {
    // Addresses and ports that differ in several bits.
    let client = |n: usize| format!("C{}:{}", n * 5 + 1, 20_000 + n * 577);
    let ask = |case: Case| case.send_all((0..CLIENTS).map(|n| udp(&client(n), "V1:53", 10))).seen();
    let mut all = Vec::new();
    for weights in [&[1, 1, 1, 1], &[1, 2, 5, 0], &[5, 0, 1, 2], &[100, 1, 50, 300]] {
        for scheduler in ["sh", "mh"] {
            for flags in [vec![], vec!["port"], vec!["fallback"], vec!["port", "fallback"]] {
                let flags: Vec<_> = flags.iter().map(|flag| format!("{scheduler}-{flag}")).collect();
                let option = if flags.is_empty() { String::new() } else { format!(" -b {}", flags.join(",")) };
                let scheduler = format!("{scheduler}{option}");
                all.extend(both(ask(case(
                    format!("{scheduler}, weights {weights:?}"),
                    &service("-u {V1}:53", &scheduler, weights),
                ))));
            }
        }
        let rules: String = (1..=9).map(|n| service(&format!("-u {{V{n}}}:53"), "dh", weights)).collect();
        let packets = (1..=9).map(|n| udp(&format!("C1:{}", 4000 + n), &format!("V{n}:53"), 10));
        all.extend(both(case(format!("dh, weights {weights:?}"), &rules).send_all(packets).seen()));
    }
    // A server whose weight becomes 0 keeps its place with mh, one that comes with 0 has none; sh fills one bucket.
    for scheduler in ["mh -b mh-fallback", "mh", "sh -b sh-fallback", "sh"] {
        let rules = service("-u {V1}:53", scheduler, &[3, 2, 7, 0]);
        all.extend(both(ask(
            case(format!("{scheduler}, a weight becomes 0"), &rules).ipvsadm("-e -u {V1}:53 -r {S3}:53 -m -w 0")
        )));
    }
    all
}

/// Schedulers that compare loads, with connections that stay and some that end.
fn loads() -> Vec<Case> {
    let mut all = Vec::new();
    for scheduler in ["lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr"] {
        for weights in [&[1, 1, 1, 1], &[1, 2, 5, 3], &[2, 0, 2, 4]] {
            let mut case =
                case(format!("{scheduler}, weights {weights:?}"), &service("-t {V1}:80", scheduler, weights));
            let open = |case: Case, n: usize| case.open(&format!("C{n}:4000"), "V1:80");
            let close = |case: Case, n: usize| case.close(&format!("C{n}:4000"), "V1:80");
            for n in 1..=7 {
                case = open(case, n);
            }
            for n in [1, 4, 5] {
                case = close(case, n);
            }
            case = open(open(open(case, 8), 9), 10);
            case = close(case, 9);
            case = open(open(open(case, 11), 12), 13);
            all.push(case.seen().list(Listing::Services));
        }
    }
    all
}

/// Schedulers that take turns: `dpvsd` does so per worker, Linux as a whole.
fn turns() -> Vec<Case> {
    let mut all = Vec::new();
    for (scheduler, weights) in [
        ("rr", &[1, 1, 1]),
        ("rr", &[1, 0, 5]),
        ("wrr", &[1, 1, 1]),
        ("wrr", &[1, 2, 5]),
        ("wrr", &[6, 0, 3]),
        ("wrr", &[10, 20, 10]),
    ] {
        let rules = service("-u {V1}:53", scheduler, weights);
        let packets = (0..80).map(|n| udp(&format!("C{}:{}", n + 1, 4000 + n), "V1:53", 10));
        all.extend(both(
            case(format!("{scheduler}, weights {weights:?}, shares"), &rules).send_all(packets).spread(2).expect("S1"),
        ));
    }
    all
}

/// Thresholds of connections.
fn thresholds() -> Vec<Case> {
    let mut all = Vec::new();
    let rules = |scheduler: &str, options: &str| {
        format!(
            "-A -t {{V1}}:80 -s {scheduler}\n-a -t {{V1}}:80 -r {{S1}}:80 -m -w 5 {options}\n-a -t {{V1}}:80 -r {{S2}}:80 -m -w 1"
        )
    };
    for scheduler in ["wlc", "fo", "sed", "nq", "lc", "ovf"] {
        for options in ["-x 3", "-x 3 -y 1", "-x 4 -y 4"] {
            let mut case =
                case(format!("{scheduler}, overload beyond {options}, and its end"), &rules(scheduler, options));
            for n in 1..=6 {
                case = case.open(&format!("C{n}:4000"), "V1:80");
            }
            case = case.seen().list(Listing::Thresholds).list(Listing::Services);
            // Reset connections are gone after 10 s.
            case = case.send_all((1..=2).map(|n| tcp(&format!("C{n}:4000"), "V1:80", "R").seq(1001)));
            case = case.wait(Duration::from_millis(11_500));
            for n in 7..=10 {
                case = case.open(&format!("C{n}:4000"), "V1:80");
            }
            all.push(case.seen().list(Listing::Services));
        }
    }
    let full = "-A -t {V1}:80 -s {1}\n-a -t {V1}:80 -r {S1}:80 -m -x 1\n-a -t {V1}:80 -r {S2}:80 -m -x 1";
    for scheduler in ["rr", "wrr", "wlc", "lc", "sed", "nq", "fo", "ovf", "sh", "dh", "mh", "lblc", "lblcr"] {
        let mut case = case(format!("{scheduler}, all servers are overloaded"), &full.replace("{1}", scheduler));
        for n in 1..=4 {
            case = case.open(&format!("C{n}:4000"), "V1:80");
        }
        let case = case.list(Listing::Services);
        all.push(if ["sh", "dh", "mh", "rr", "wrr"].contains(&scheduler) { case } else { case.seen() });
    }
    all
}

/// Weights, servers and schedulers that change in the middle of a sequence.
fn edits() -> Vec<Case> {
    let open = |mut case: Case, clients: std::ops::RangeInclusive<u16>| {
        for n in clients {
            case = case.open(&format!("C{n}:4000"), "V1:80");
        }
        case
    };
    let mut all = Vec::new();
    for scheduler in ["lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr"] {
        let rules = service("-t {V1}:80", scheduler, &[1, 2, 3]);
        let edited = open(case(format!("{scheduler}, weights change"), &rules), 1..=5)
            .ipvsadm("-e -t {V1}:80 -r {S3}:80 -m -w 0")
            .ipvsadm("-e -t {V1}:80 -r {S1}:80 -m -w 9");
        all.push(open(edited, 6..=10).seen().list(Listing::Services));
        let edited = open(case(format!("{scheduler}, a server comes, another goes"), &rules), 1..=5)
            .ipvsadm("-a -t {V1}:80 -r {S4}:80 -m -w 4")
            .ipvsadm("-d -t {V1}:80 -r {S2}:80");
        all.push(open(edited, 6..=10).seen().list(Listing::Services));
    }
    for scheduler in ["wlc", "sed", "fo"] {
        let rules = service("-t {V1}:80", scheduler, &[1, 2, 3]);
        for other in ["nq", "lc", "ovf"] {
            let edited = open(case(format!("{scheduler} becomes {other}"), &rules), 1..=4)
                .ipvsadm(&format!("-E -t {{V1}}:80 -s {other}"));
            all.push(open(edited, 5..=8).seen().list(Listing::Services));
        }
    }
    all
}

/// How long lblcr keeps a destination's second server, the busiest, while nothing changes.
fn memory() -> Vec<Case> {
    let rules = service("-t {V1}:80", "lblcr", &[2, 10]);
    let open = |case: Case, n: usize| case.open(&format!("C{n}:4000"), "V1:80");
    [("a day", None), ("a second", Some(1))]
        .into_iter()
        .map(|(name, seconds)| {
            let mut case = case(format!("lblcr, sets that stay the same for {name}"), &rules);
            if let Some(seconds) = seconds {
                case = case.set("lblcr_expiration", seconds);
            }
            // The first three have more connections than their server's weight, so that the other one joins it.
            case = (1..=5).fold(case, open).wait(Duration::from_millis(2500));
            case = open(case, 6).seen();
            case = (1..=3).fold(case, |case, n| case.close(&format!("C{n}:4000"), "V1:80")).seen();
            open(case, 7).seen().list(Listing::Services)
        })
        .collect()
}
