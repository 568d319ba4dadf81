//! The same connections go to the same servers as with Linux IPVS, scheduler by scheduler.

use std::fmt::Write;

use dpvs_e2e::{Director, Family, Lab, Topology, lab::program};

/// Clients of each service with a hashing scheduler.
const CLIENTS: u16 = 48;

/// What is run on a director.
struct Case {
    name: String,
    /// For `ipvsadm -R`.
    rules: String,
    /// For `lab-ask`.
    question: Question,
}

enum Question {
    Dns(Family, String),
    Http(String, &'static str),
}

/// A service on the virtual address number `virtual_address`, and its NAT servers with these weights.
fn service(option: &str, family: Family, virtual_address: u8, port: u16, scheduler: &str, weights: &[u16]) -> Case {
    let target = std::net::SocketAddr::new(family.virtual_address(virtual_address), port);
    let server_port = if option == "-u" { 53 } else { 80 };
    let mut rules = format!("-A {option} {target} -s {scheduler}\n");
    for (n, weight) in (1..).zip(weights) {
        let server = std::net::SocketAddr::new(family.server(Topology::TwoArm, n), server_port);
        let _ = writeln!(rules, "-a {option} {target} -r {server} -m -w {weight}");
    }
    let name = format!("{scheduler} {weights:?} {family:?} on {target}");
    Case { name, rules, question: Question::Dns(family, target.to_string()) }
}

/// dh, sh and mh with all flags.
fn hashing() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut port = 7000;
    for family in [Family::V4, Family::V6] {
        for weights in [&[1, 1, 1, 1], &[1, 2, 5, 0], &[5, 0, 1, 2], &[100, 1, 50, 300]] {
            for scheduler in ["sh", "mh"] {
                for flags in ["", "port", "fallback", "port,fallback"] {
                    let flags: Vec<_> = flags.split(',').filter(|f| !f.is_empty()).collect();
                    let flags: Vec<_> = flags.iter().map(|flag| format!("{scheduler}-{flag}")).collect();
                    let option = if flags.is_empty() { String::new() } else { format!(" -b {}", flags.join(",")) };
                    cases.push(service("-u", family, 0, port, &format!("{scheduler}{option}"), weights));
                    port += 1;
                }
            }
            for virtual_address in 0..4 {
                cases.push(service("-u", family, virtual_address, port, "dh", weights));
            }
            port += 1;
        }
        // A server whose weight becomes 0 keeps its place with mh, one that comes with 0 has none; sh fills one bucket.
        for scheduler in ["mh -b mh-fallback", "mh", "sh -b sh-fallback"] {
            let mut case = service("-u", family, 0, port, scheduler, &[3, 2, 7, 0]);
            let edit = case.rules.lines().nth(3).expect("a line for each server").replacen("-a", "-e", 1);
            case.rules += &format!("{}\n", edit.replace("-w 7", "-w 0"));
            case.name += ", then 0 for the third";
            cases.push(case);
            port += 1;
        }
    }
    cases
}

/// Schedulers that compare loads, with connections that stay and some that end.
fn loads() -> Vec<Case> {
    const STEPS: &str =
        "open open open open open open open close:0 close:3 close:4 open open open close:8 open open open";
    let mut cases = Vec::new();
    let mut port = 8000;
    for scheduler in ["lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr"] {
        for weights in [&[1, 1, 1, 1], &[1, 2, 5, 3], &[2, 0, 2, 4]] {
            let mut case = service("-t", Family::V4, 1, port, scheduler, weights);
            let Question::Dns(_, target) = case.question else { unreachable!("made so") };
            case.question = Question::Http(target, STEPS);
            cases.push(case);
            port += 1;
        }
    }
    cases
}

/// Which servers answered, case by case.
fn answers(director: Director, cases: &[Case]) -> Vec<String> {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 4);
    lab.serve(&["http", "dns"]);
    lab.start(director);
    // Clients are on c1, with addresses of networks behind it.
    lab.run("c1", &["sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"]);
    for (family, network) in [(Family::V4, "10.0.0.0/8"), (Family::V6, "fd00::/16")] {
        let via = family.client(1).to_string();
        lab.run("c1", &["ip", family.flag(), "route", "add", "local", network, "dev", "lo"]);
        lab.run("director", &["ip", family.flag(), "route", "add", network, "via", &via]);
    }
    lab.restore(&cases.iter().map(|case| case.rules.as_str()).collect::<String>());
    let ask = program("lab-ask").to_string_lossy().into_owned();
    let mut answers = vec![String::new(); cases.len()];
    for (family, source) in [(Family::V4, "10.0.0.0"), (Family::V6, "fd00::")] {
        let target_of = |(n, case): (usize, &Case)| match &case.question {
            Question::Dns(of, target) if *of == family => Some((n, target.clone())),
            _ => None,
        };
        let targets: Vec<_> = cases.iter().enumerate().filter_map(target_of).collect();
        let count = CLIENTS.to_string();
        let mut command = vec![ask.as_str(), "dns", source, "20000", &count];
        command.extend(targets.iter().map(|(_, target)| target.as_str()));
        let output = lab.run("c1", &command);
        assert_eq!(output.lines().count(), targets.len(), "{output}");
        for ((n, _), line) in targets.iter().zip(output.lines()) {
            answers[*n] = line.to_owned();
        }
    }
    // Every connection has a port of its own: two of the same client and port to one NAT server cannot be told apart.
    for (answer, (port, case)) in answers.iter_mut().zip((20_000..).step_by(50).zip(cases)) {
        if let Question::Http(target, steps) = &case.question {
            let port = port.to_string();
            let command: Vec<&str> =
                [ask.as_str(), "http", &port, target].into_iter().chain(steps.split(' ')).collect();
            *answer = lab.run("c1", &command).trim().to_owned();
        }
    }
    answers
}

fn compare(cases: Vec<Case>) {
    let linux = answers(Director::Ipvs, &cases);
    let dpvsd = answers(Director::dpvsd(2), &cases);
    let mut differences = String::new();
    for ((case, linux), dpvsd) in cases.iter().zip(&linux).zip(&dpvsd) {
        if linux != dpvsd {
            let _ = writeln!(differences, "{}\n  Linux {linux}\n  dpvsd {dpvsd}", case.name);
        }
    }
    assert!(differences.is_empty(), "servers differ:\n{differences}");
    let several = linux.iter().filter(|answer| ["s1", "s2", "s3"].iter().all(|name| answer.contains(name))).count();
    assert!(several >= cases.len() / 4, "in {several} cases only, several servers answer: {linux:?}");
}

#[test]
fn linux_and_dpvsd_hash_alike() {
    compare(hashing());
}

#[test]
fn linux_and_dpvsd_compare_loads_alike() {
    compare(loads());
}
