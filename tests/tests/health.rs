//! Health checks of dpvsd itself, against real servers that die and come back, and passive ones; `revival.rs` has them under load.

use std::path::Path;
use std::time::{Duration, Instant};

use dpvs_e2e::traffic::{dig, who_answers};
use dpvs_e2e::{Config, Lab, Topology, eventually};

const VIP: &str = "http://192.0.2.100/";

/// Times of the checks: a server that dies is out after `INTERVAL` x `FALL`, and the time of the runs.
const INTERVAL: Duration = Duration::from_millis(300);
const FALL: u32 = 2;
const SLACK: Duration = Duration::from_millis(1500);

/// Weights by server of a service, as ipvsadm lists them, such as `21=1 22=0`.
fn listed(lab: &Lab, service: &str) -> String {
    let table = lab.ipvsadm(&format!("-Ln {service}"));
    let servers = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["->", server, _, weight, ..] = words.as_slice() else { return None };
        let host = server.rsplit_once(':')?.0.rsplit('.').next()?;
        host.parse::<u8>().is_ok().then(|| format!("{host}={weight}"))
    });
    servers.collect::<Vec<_>>().join(" ")
}

fn expect(lab: &Lab, service: &str, expected: &str, limit: Duration) -> Duration {
    let began = Instant::now();
    loop {
        let found = listed(lab, service);
        if found == expected {
            return began.elapsed();
        }
        let status = || lab.ctl(&format!("services show {}", service.replace("-t ", "tcp/").replace("-u ", "udp/")));
        assert!(began.elapsed() < limit, "{service}: '{found}', not '{expected}' within {limit:?}\n{}", status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service with NAT servers 198.51.100.21 to .23.
fn service(protocol: &str, address: &str, settings: &str, health: &str, checks: &[&str]) -> String {
    let port = address.rsplit(':').next().unwrap_or_default();
    let mut text = format!(
        "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\nscheduler = \"wrr\"\n{settings}\n\
         [services.health]\n{health}\n"
    );
    for check in checks {
        text += &format!(
            "[[services.health.checks]]\nprobe = {check}\ninterval = {0}\ntimeout = 1\nfall = {FALL}\nrise = 2\nwarmup = 0.3\n",
            INTERVAL.as_secs_f64()
        );
    }
    for server in 21..=23 {
        text += &format!("[[services.servers]]\naddress = \"198.51.100.{server}:{port}\"\nmode = \"nat\"\n");
    }
    text
}

/// How many of these requests the first server answers.
fn share_of_first(lab: &Lab, requests: usize) -> usize {
    let script = format!("for i in $(seq {requests}); do curl -sf --max-time 2 {VIP} || echo failed; done");
    let answers = lab.shell("c1", &script);
    assert!(!answers.contains("failed"), "{answers}");
    answers.lines().filter(|answer| *answer == "s1").count()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn servers_that_die_leave_and_come_back() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    lab.serve(&["http"]);
    let sorry = "sorry_server = { address = \"198.51.100.23:81\", mode = \"nat\" }";
    let http = service("tcp", "192.0.2.100:80", sorry, "", &["{ http = { path = \"/\", body = \"^s[123]\" } }"]);
    let config = Config::of(&lab, 1, |text| text + &http);
    lab.start_with(&config.path());
    expect(&lab, "-t 192.0.2.100:80", "21=1 22=1 23=1", Duration::from_secs(5));
    assert_eq!(share_of_first(&lab, 30), 10);

    lab.kill("s1", "http");
    expect(&lab, "-t 192.0.2.100:80", "22=1 23=1", INTERVAL * FALL + SLACK);
    assert_eq!(share_of_first(&lab, 20), 0);

    let shown = lab.ctl("services show tcp/192.0.2.100:80");
    assert!(shown.contains("1 (out)") && shown.contains("connect: Connection refused"), "{shown}");

    let _revived = lab.revive("s1", "http");
    expect(&lab, "-t 192.0.2.100:80", "21=1 22=1 23=1", INTERVAL * 2 + SLACK);
    assert_eq!(share_of_first(&lab, 30), 10);

    for host in ["s1", "s2"] {
        lab.kill(host, "http");
    }
    expect(&lab, "-t 192.0.2.100:80", "23=1", INTERVAL * FALL + SLACK);
    assert_eq!(who_answers(&lab, "c1", VIP), "s3");
    lab.stop_director("TERM");
}

#[test]
fn every_kind_of_check_finds_what_is_there() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    lab.serve(&["http", "dns"]);
    let config = Config::of(&lab, 1, |text| text);
    let directory = config.directory();
    let (script, log) = (directory.join("check"), directory.join("log"));
    // The last server is to have a weight of 5, and the first is not to be used.
    std::fs::write(&script, "#!/bin/sh\ncase $DPVS_ADDRESS in *.21) exit 1 ;; *.23) exit 7 ;; esac\n").unwrap();
    let notify = directory.join("notify");
    let line = format!("#!/bin/sh\necho $DPVS_EVENT $DPVS_SERVICE $DPVS_SERVER >>{}\n", log.display());
    std::fs::write(&notify, line).unwrap();
    for file in [&script, &notify] {
        lab.run("lb", &["chmod", "755", &file.to_string_lossy()]);
    }
    let external = format!("{{ external = {{ command = [\"{}\"], dynamic = true }} }}", script.display());
    let programs = format!(
        "quorum_up = [\"{0}\"]\nquorum_down = [\"{0}\"]\nnotify_up = [\"{0}\"]\nnotify_down = [\"{0}\"]\nquorum = 2",
        notify.display()
    );
    let dns = "{ dns = { name = \"whoami.\", type = \"TXT\" } }";
    let services = [
        service("udp", "192.0.2.100:53", "", &programs, &[dns, "{ udp = { send = \"x\" } }"]),
        service("tcp", "192.0.2.101:80", "", "on_failure = \"zero-weight\"", &["\"icmp\"", "\"tcp\"", &external]),
        service("tcp", "192.0.2.102:80", "", "initially = \"down\"", &["{ smtp = {} }"]),
    ];
    let text = read(&config.path()) + &services.concat();
    config.write(&text);
    lab.start_with(&config.path());
    let limit = Duration::from_secs(6);
    expect(&lab, "-t 192.0.2.101:80", "21=0 22=1 23=5", limit);
    expect(&lab, "-u 192.0.2.100:53", "21=1 22=1 23=1", limit);
    assert_eq!(listed(&lab, "-t 192.0.2.102:80"), "", "nginx is no mail server");
    let up = "quorum-up udp/192.0.2.100:53\n";
    eventually("the quorum's program", limit, || read(&log) == up);

    lab.kill("s2", "dns");
    expect(&lab, "-u 192.0.2.100:53", "21=1 23=1", limit);
    lab.run("lb", &["kill", "-HUP", &lab.director_pid()]);
    lab.kill("s3", "dns");
    expect(&lab, "-u 192.0.2.100:53", "21=1", limit);
    let rest = "server-down udp/192.0.2.100:53 198.51.100.22:53\nserver-down udp/192.0.2.100:53 198.51.100.23:53\n\
                quorum-down udp/192.0.2.100:53\n";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    eventually("programs", limit, || sorted(&read(&log)) == sorted(&format!("{up}{rest}")));

    // A server that the network has lost.
    lab.run("s2", &["ip", "link", "set", "eth0", "down"]);
    expect(&lab, "-t 192.0.2.101:80", "21=0 22=0 23=5", Duration::from_secs(8));
    let shown = lab.ctl("services show tcp/192.0.2.101:80");
    assert!(shown.contains("icmp 198.51.100.22") && shown.contains("not done within 1 s"), "{shown}");
    lab.stop_director("TERM");
}

/// A FULLNAT service whose servers, 198.51.100.21 and .22, are judged by what becomes of clients' connections alone.
fn watched(protocol: &str, address: &str) -> String {
    let port = address.rsplit(':').next().unwrap_or_default();
    let server = |n: u8| format!("[[services.servers]]\naddress = \"198.51.100.{n}:{port}\"\nmode = \"fullnat\"\n");
    format!(
        "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\nscheduler = \"wrr\"\n\
         local_addresses = [\"198.51.100.201\"]\n[services.health]\nslow_start = 3\n\
         [services.health.passive]\ninterval = 10\nerror_limit = 4\nbase_ejection_time = 3\n{}{}",
        server(21),
        server(22)
    )
}

/// Time from an ejection that the counts call for until it is in force: two looks a second, and some more.
const LOOK: Duration = Duration::from_millis(1500);
/// The same from the first failure on, on a busy machine.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn servers_that_fail_clients_are_ejected_for_a_time() {
    let (web, names) = ("-t 192.0.2.100:80", "-u 192.0.2.100:53");
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 2);
    lab.serve(&["http", "dns"]);
    let services = watched("tcp", "192.0.2.100:80") + &watched("udp", "192.0.2.100:53");
    let config = Config::of(&lab, 2, |text| text + &services);
    lab.start_with(&config.path());
    for service in [web, names] {
        expect(&lab, service, "21=1 22=1", Duration::from_secs(5));
    }
    // Each worker has a turn of its own.
    let share = share_of_first(&lab, 20);
    assert!((9..=11).contains(&share), "{share} of 20");

    // Nobody listens any longer: resets in answer to SYNs.
    let requests = format!("for i in $(seq 60); do curl -s --max-time 1 {VIP} || echo failed; sleep 0.02; done");
    let load = lab.spawn("c1", &["bash", "-c", &requests]);
    std::thread::sleep(Duration::from_millis(300));
    lab.kill("s1", "http");
    println!("refused: out after {:?}", expect(&lab, web, "22=1", LIMIT));
    let out = Instant::now();
    drop(load);
    let shown = lab.ctl("services show tcp/192.0.2.100:80");
    assert!(shown.contains("ejected") && shown.contains("refused); ejected for 3 s (returns in"), "{shown}");
    assert_eq!(share_of_first(&lab, 20), 0);
    let _revived = lab.revive("s1", "http");

    // Nobody reads the datagrams: port unreachable.
    let address = "192.0.2.100:53".parse().expect("an address");
    let ask = || dig(&lab, "c1", address, "whoami.", &[]);
    lab.kill("s1", "dns");
    for _ in 0..10 {
        let _ = ask();
    }
    println!("unreachable: out after {:?}", expect(&lab, names, "22=1", LIMIT));
    for _ in 0..4 {
        assert_eq!(ask(), Ok(vec!["s2".to_owned()]));
    }

    expect(&lab, web, "21=1 22=1", Duration::from_secs(5));
    let (away, back) = (out.elapsed(), Instant::now());
    println!("back after {away:?}");
    assert!(away > Duration::from_secs(2), "back after {away:?}, not 3 s");
    let early = share_of_first(&lab, 40);
    println!("of 40 requests at first, {early} went to the server that returned");
    assert!((1..=16).contains(&early), "a slow start: {early} of 40");

    // It is silent, as it knows no way back: only the third SYN of a client tells. Before the slow start is over, few clients come.
    std::thread::sleep(Duration::from_millis(3600).saturating_sub(back.elapsed()));
    lab.run("s1", &["ip", "route", "add", "blackhole", "198.51.100.201/32"]);
    let began = Instant::now();
    let requests = format!("for i in $(seq 80); do curl -s --max-time 4 {VIP} & done; wait");
    let load = lab.spawn("c1", &["bash", "-c", &requests]);
    expect(&lab, web, "22=1", Duration::from_secs(8));
    drop(load);
    println!("silent: out after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_millis(1800), "the client has asked three times");
    let shown = lab.ctl("services show tcp/192.0.2.100:80");
    assert!(shown.contains("timeout); ejected for 6 s"), "{shown}");

    // The last one stays, however bad it is.
    lab.kill("s2", "http");
    lab.shell("c1", &format!("for i in $(seq 20); do curl -s --max-time 1 {VIP} || true; done"));
    std::thread::sleep(LOOK);
    assert_eq!(listed(&lab, web), "22=1");
    let socket = lab.directory().join("lb/dpvsd.sock");
    let metrics = lab.run("lb", &["curl", "-sSf", "--unix-socket", &socket.to_string_lossy(), "http://d/metrics"]);
    let [first, second] = [21, 22].map(|n| format!("service=\"tcp/192.0.2.100:80\",server=\"198.51.100.{n}:80\""));
    for line in [
        format!("dpvs_server_ejections_total{{{first}}} 2\n"),
        format!("dpvs_server_ejected{{{first}}} 1\n"),
        format!("dpvs_server_failed_connections_total{{{second},reason=\"refused\"}} 20\n"),
    ] {
        assert!(metrics.contains(&line), "no line {line}in\n{metrics}");
    }
    lab.stop_director("TERM");
}
