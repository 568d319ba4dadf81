//! Configuration files while the director works: checked, compared, applied, exported, translated.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dpvs_e2e::lab::text;
use dpvs_e2e::traffic::{SlowDownload, who_answers};
use dpvs_e2e::{Config, Director, Family, Lab, Mode, Pmd, Service};
use serde_json::Value;

const SERVICES: usize = 1000;
const SERVERS: u16 = 10;

/// A service of the file with servers at `address` from port 1001 on; `variant` makes some of them differ.
fn add_service(file: &mut String, protocol: &str, address: SocketAddr, servers: &[SocketAddr], variant: bool) {
    let _ = write!(file, "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\n");
    for (index, server) in servers.iter().enumerate() {
        let weight = if variant && index == 0 { 2 } else { 1 };
        let _ = write!(file, "[[services.servers]]\naddress = \"{server}\"\nmode = \"nat\"\nweight = {weight}\n");
    }
}

/// A thousand services with ten servers each. In the variant, ten of them have another weight and another server.
fn large_file(base: &str, lab: &Lab, used: &[(&str, Service)], variant: bool) -> String {
    let mut file = base.to_owned();
    for (protocol, service) in used {
        add_service(&mut file, protocol, service.address(), &[service.server(lab, 1)], false);
    }
    let (vip, server) = (Family::V4.virtual_address(1), Family::V4.server(lab.topology(), 1));
    for index in 0..SERVICES - used.len() {
        let changed = variant && index % 100 == 0;
        let mut servers: Vec<SocketAddr> = (0..SERVERS).map(|n| SocketAddr::new(server, 1001 + n)).collect();
        if changed {
            servers[9].set_port(2000);
        }
        add_service(&mut file, "tcp", SocketAddr::new(vip, 10_000 + index as u16), &servers, changed);
    }
    file
}

/// Packets that the director dropped.
fn drops(lab: &Lab) -> u64 {
    let counts: Value = serde_json::from_str(&lab.ctl("drops --json")).expect("JSON");
    counts.as_array().into_iter().flatten().filter_map(|count| count["packets"].as_u64()).sum()
}

/// A change of one service in a hundred takes less than a second, and neither packets nor connections of any other.
#[test]
fn a_thousand_services_change_under_load() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 1);
    lab.serve(&["http", "iperf"]);
    let hash = lab.file("slow", 16 << 20);
    let used = [
        ("tcp", Service::tcp(Mode::Nat, Family::V4, 80)),
        ("tcp", Service::tcp(Mode::Nat, Family::V4, 5201)),
        ("udp", Service::udp(Mode::Nat, Family::V4, 5201)),
    ];
    let base = lab.config_text(2, Pmd::Tap);
    let (first, second) =
        (Config::new(&large_file(&base, &lab, &used, false)), Config::new(&large_file(&base, &lab, &used, true)));
    lab.start_with(&first.path());
    let web = &used[0].1;
    assert_eq!(who_answers(&lab, "c1", &web.url("")), "s1");

    let download = SlowDownload::start(&lab, "c1", &web.url("files/slow"), "3M");
    let vip = web.address().ip().to_string();
    let stream =
        lab.spawn("c1", &["iperf3", "--json", "-c", &vip, "-u", "-b", "10M", "-l", "500", "-w", "1M", "-t", "6"]);
    std::thread::sleep(Duration::from_millis(500));
    let before = drops(&lab);
    let mut longest = Duration::ZERO;
    for turn in 0..10 {
        let file = if turn % 2 == 0 { &second } else { &first };
        let start = Instant::now();
        let said = lab.ctl(&format!("apply {}", file.path().display()));
        let took = start.elapsed();
        println!("applied in {} ms: {}", took.as_millis(), said.lines().last().unwrap_or_default());
        longest = longest.max(took);
        // For each changed service a weight, a server less and a server more.
        assert!(said.ends_with("30 changes applied.\n"), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert_eq!(lab.ctl(&format!("diff {}", first.path().display())), "Nothing to apply.\n");

    let output = stream.finish(Duration::from_secs(20));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    let (lost, sent) = (&report["end"]["sum"]["lost_packets"], &report["end"]["sum"]["packets"]);
    assert!(sent.as_u64().is_some_and(|sent| sent > 10_000), "{report}");
    assert_eq!((lost.as_u64(), drops(&lab) - before), (Some(0), 0), "of {sent} packets");
    assert_eq!(download.finish().as_deref(), Ok(hash.as_str()));
    println!("longest: {} ms; UDP stream: {lost} of {sent} packets lost", longest.as_millis());
}

/// Runs a script beside the director, and returns whether it succeeded and what it said.
fn script(lab: &Lab, script: &str) -> (bool, String) {
    let output = lab.director_script(Director::dpvsd(1), script);
    (output.status.success(), text(&output))
}

/// The life of a configuration: from mistakes over changes to what is kept.
#[test]
fn a_file_is_checked_compared_applied_and_exported() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 2);
    lab.serve(&["http"]);
    let service = Service::tcp(Mode::Nat, Family::V4, 80);
    let config = Config::of(&lab, 1, |base| format!("include = [\"conf.d/*.toml\"]\n{base}"));
    let included = config.directory().join("conf.d/web.toml");
    std::fs::create_dir(config.directory().join("conf.d")).unwrap();
    let web = |server: u8| {
        let mut file = String::new();
        add_service(&mut file, "tcp", service.address(), &[service.server(&lab, server)], false);
        file.replace(&service.address().ip().to_string(), "${VIP}")
    };
    std::fs::write(&included, web(1)).unwrap();
    let path = config.path().display().to_string();

    // Without a daemon and without the variable; then with both.
    let (ok, said) = script(&lab, &format!("dpvs-ctl check {path}"));
    let place = format!("{}:4:11: services[0].address: environment variable VIP is not set", included.display());
    assert!(!ok && said.starts_with(&place), "{said}");
    let vip = service.address().ip();
    let (ok, said) = script(&lab, &format!("VIP={vip} dpvs-ctl check {path}"));
    assert!(ok && said == format!("{path}: ok\n"), "{said}");
    lab.start(Director::dpvsd(1));
    let (_, said) = script(&lab, &format!("export VIP={vip}; dpvs-ctl diff {path}; dpvs-ctl apply {path}"));
    let change = format!("+ service tcp/{} with 1 server\n", service.address());
    assert_eq!(said, format!("{change}1 change to apply.\n{change}1 change applied.\n"));
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");

    // By hand: what runs is no longer what the file says, and is kept by an export.
    lab.ipvsadm(&format!("-a {} -r {} -m -w 3", service.selector(), service.server(&lab, 2)));
    let (_, said) = script(&lab, &format!("VIP={vip} dpvs-ctl diff {path}"));
    assert!(said.contains(&format!("- server {} of service", service.server(&lab, 2))), "{said}");
    let kept = config.directory().join("kept.toml").display().to_string();
    let (ok, said) = script(&lab, &format!("dpvs-ctl export --output {kept} && dpvs-ctl apply {kept}"));
    assert!(ok && said == "Nothing changed.\n", "{said}");

    // Nothing is changed by a file that is wrong, and all that is wrong is said.
    std::fs::write(&included, web(2) + "[[marks]]\nmark = 0\n[[marks]]\nmark = 1\nx = 1\n").unwrap();
    let (ok, said) = script(&lab, &format!("VIP={vip} dpvs-ctl apply {path}"));
    assert!(!ok && said.contains("web.toml:13:1: marks[1].x: unknown field"), "{said}");
    std::fs::write(&included, web(2)).unwrap();
    let (ok, said) = script(&lab, &format!("VIP={vip} dpvs-ctl apply {path}"));
    assert!(ok && said.ends_with("2 changes applied.\n"), "{said}");
}

/// What was keepalived's is dpvsd's.
#[test]
fn a_translated_configuration_forwards() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 2);
    lab.serve(&["http"]);
    let service = Service::tcp(Mode::Nat, Family::V4, 80);
    let mut keepalived =
        format!("virtual_server {} 80 {{\n  lb_algo rr\n  lb_kind NAT\n  protocol TCP\n", service.address().ip());
    for server in 1..=2 {
        let address = service.server(&lab, server).ip();
        let _ = write!(keepalived, "  real_server {address} 80 {{\n    weight 1\n    TCP_CHECK {{\n    }}\n  }}\n");
    }
    keepalived += "}\n";
    let config = Config::of(&lab, 1, |base| base);
    let (from, to) = (config.directory().join("keepalived.conf"), config.path());
    std::fs::write(&from, keepalived).unwrap();
    let (ok, said) = script(&lab, &format!("dpvs-ctl import --strict {} >>{}", from.display(), to.display()));
    assert!(ok && said.is_empty(), "{said}");
    lab.start_with(&to);
    let mut answers: Vec<String> = (0..2).map(|_| who_answers(&lab, "c1", &service.url(""))).collect();
    answers.sort();
    assert_eq!(answers, ["s1", "s2"]);
    let rules = config.directory().join("rules");
    let (ok, said) = script(
        &lab,
        &format!(
            "ipvsadm -S -n >{rules}; (grep -v '^include' {to} | sed '/^\\[\\[services\\]\\]/,$d'; dpvs-ctl import {rules}) >{to}.2; \
             dpvs-ctl check {to}.2",
            rules = rules.display(),
            to = to.display()
        ),
    );
    assert!(ok, "{said}");
}
