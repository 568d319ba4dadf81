//! Debian's ldirectord, unchanged, and its companions drive dpvsd: they find our ipvsadm in the place of the real one.

use std::time::{Duration, Instant};

use dpvs_e2e::lab::program;
use dpvs_e2e::{Director, Lab, Topology};

/// `negotiate` over IPv6 needs the Perl module Net::INET6Glue, which Debian's ldirectord does not depend on: without it,
/// every check fails.
const CONFIG: &str = r#"
checktimeout = 2
negotiatetimeout = 2
checkinterval = 1
autoreload = no
quiescent = no
supervised = yes
cleanstop = no
logfile = "LOG"

virtual = 192.0.2.100:80
        real = 198.51.100.21:80 masq 3
        real = 198.51.100.22:80 masq
        fallback = 198.51.100.23:80 masq
        service = http
        checktype = negotiate
        request = "/"
        receive = "s[12]"
        scheduler = wrr
        protocol = tcp

virtual = 192.0.2.101:80
        real = 198.51.100.21:80 masq
        real = 198.51.100.22:80 masq
        quiescent = yes
        checktype = connect
        scheduler = rr
        protocol = tcp

virtual6 = [2001:db8:1::100]:80
        real6 = [2001:db8:2::21]:80 masq
        real6 = [2001:db8:2::22]:80 masq
        service = http
        checktype = negotiate
        request = "/"
        receive = "s[12]"
        scheduler = wlc
        protocol = tcp
"#;

/// A shell line for the director's host, to which `/usr/sbin/ipvsadm` is ours.
fn with_our_ipvsadm(lab: &Lab, line: &str) -> Vec<String> {
    let ours = program("ipvsadm").to_string_lossy().into_owned();
    let socket = lab.directory().join("lb/dpvsd.sock").to_string_lossy().into_owned();
    let script = format!("mount --bind '{ours}' /usr/sbin/ipvsadm; export DPVS_SOCKET='{socket}'; {line}");
    ["unshare", "--mount", "bash", "-o", "pipefail", "-euc", &script].map(str::to_owned).to_vec()
}

fn run(lab: &Lab, line: &str) -> String {
    let command = with_our_ipvsadm(lab, line);
    lab.run("lb", &command.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Weights of servers by service, such as `100 21=3 22=1`, from the last parts of the addresses.
fn table(lab: &Lab) -> Vec<String> {
    let mut services: Vec<String> = Vec::new();
    let last = |endpoint: &str| {
        let address = endpoint.rsplit_once(':').map_or(endpoint, |(address, _)| address);
        address.trim_end_matches(']').rsplit(['.', ':']).next().unwrap_or_default().to_owned()
    };
    for line in lab.ipvsadm("-Ln").lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["->", server, _, weight, ..] => {
                let service = services.last_mut().expect("a server has a service");
                *service += &format!(" {}={weight}", last(server));
            }
            [_, service, scheduler, ..] => services.push(format!("{} {scheduler}", last(service))),
            _ => panic!("{line}"),
        }
    }
    services
}

fn expect(lab: &Lab, what: &str, expected: [&str; 3]) {
    let start = Instant::now();
    loop {
        let found = table(lab);
        if found == expected {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn answers(lab: &Lab, url: &str) -> String {
    lab.run("c1", &["curl", "-sfg", "--max-time", "5", url]).trim().to_owned()
}

#[test]
fn a_killed_server_leaves_and_a_revived_one_returns() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(2));
    let config = lab.directory().join(format!("test-{}.cf", std::process::id()));
    let log = lab.directory().join("ldirectord.log");
    std::fs::write(&config, CONFIG.replace("LOG", &log.to_string_lossy())).expect("the lab's directory is ours");
    let line = format!("exec ldirectord {} start", config.display());
    let command = with_our_ipvsadm(&lab, &line);
    let daemon = lab.spawn("lb", &command.iter().map(String::as_str).collect::<Vec<_>>());

    expect(&lab, "all serve", ["100 wrr 21=3 22=1", "101 rr 21=1 22=1", "100 wlc 21=1 22=1"]);
    let first = answers(&lab, "http://192.0.2.100/");
    assert!(["s1", "s2"].contains(&first.as_str()), "{first}");

    lab.kill("s1", "http");
    expect(&lab, "s1 is gone", ["100 wrr 22=1", "101 rr 21=0 22=1", "100 wlc 22=1"]);
    for url in ["http://192.0.2.100/", "http://192.0.2.101/", "http://[2001:db8:1::100]/"] {
        assert_eq!(answers(&lab, url), "s2");
    }

    lab.kill("s2", "http");
    expect(&lab, "the fallback server stands in", ["100 wrr 23=1", "101 rr 21=0 22=0", "100 wlc"]);
    assert_eq!(answers(&lab, "http://192.0.2.100/"), "s3");

    let _revived = lab.revive("s1", "http");
    expect(&lab, "s1 is back", ["100 wrr 21=3", "101 rr 21=1 22=0", "100 wlc 21=1"]);
    assert_eq!(answers(&lab, "http://192.0.2.100/"), "s1");
    assert_eq!(answers(&lab, "http://[2001:db8:1::100]/"), "s1");

    // What it has set is saved and restored by Debian's scripts.
    daemon.signal("TERM");
    daemon.finish(Duration::from_secs(10));
    let saved = run(&lab, "ipvsadm-save -n");
    assert!(saved.lines().count() >= 7 && saved.contains("-A -t 192.0.2.100:80 -s wrr"), "{saved}");
    let restored = run(
        &lab,
        "rules=$(ipvsadm-save -n); ipvsadm -C; test -z \"$(ipvsadm -Sn)\"; ipvsadm-restore <<<\"$rules\"; ipvsadm -Sn",
    );
    assert_eq!(restored, saved);
}
