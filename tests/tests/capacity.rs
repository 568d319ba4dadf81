//! Full tables: new connections are refused and counted, existing ones go on.

use std::time::Duration;

use dpvs_e2e::traffic::{SlowDownload, who_answers};
use dpvs_e2e::{Config, Director, Family, Lab, Mode, Pmd, Service, eventually};
use serde_json::Value;

/// Packets dropped for a reason, as `dpvs-ctl drops` counts them.
fn drops(lab: &Lab, reason: &str) -> u64 {
    let text = lab.ctl("drops --all --json");
    let counts: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("dpvs-ctl drops: {error}\n{text}"));
    let count = counts.as_array().and_then(|counts| counts.iter().find(|count| count["reason"] == reason));
    count.and_then(|count| count["packets"].as_u64()).unwrap_or_else(|| panic!("no drop reason '{reason}' in {text}"))
}

/// Eight local ports serve eight connections; the ninth is refused, and other services do not notice.
#[test]
fn local_ports_run_out() {
    let lab = Lab::with_hosts(Mode::Fullnat.topology(), 1, 1);
    lab.serve(&["http"]);
    let hash = lab.file("slow", 16 << 20);
    let (vip, local) = (Family::V4.virtual_address(0), Family::V4.local_address(lab.topology(), 0));
    let server = Family::V4.server(lab.topology(), 1);
    let config = Config::of(&lab, 1, |base| {
        base + &format!(
            r#"
[[services]]
protocol = "tcp"
address = "{vip}:80"
local_addresses = ["{local}"]
local_ports = {{ first = 5000, last = 5007 }}
[[services.servers]]
address = "{server}:80"
mode = "fullnat"
"#
        )
    });
    lab.start_with(&config.path());
    let small = Service::tcp(Mode::Fullnat, Family::V4, 80);
    let other = Service::tcp(Mode::Fullnat, Family::V4, 80).on(1);
    lab.add(std::slice::from_ref(&other));

    let downloads: Vec<_> = (0..8).map(|_| SlowDownload::start(&lab, "c1", &small.url("files/slow"), "4M")).collect();
    // A SYN may be lost on its way, among so much else.
    eventually("one more finds no local port", Duration::from_secs(4), || {
        let ninth = lab.try_run("c1", &["curl", "-sg", "--max-time", "1", &small.url("")]);
        assert!(!ninth.status.success(), "there are eight local ports only");
        drops(&lab, "local_port_exhausted") > 0
    });
    assert_eq!(who_answers(&lab, "c1", &other.url("")), "s1");
    for download in downloads {
        assert_eq!(download.finish().as_deref(), Ok(hash.as_str()));
    }
}

/// A table full of finished connections refuses new ones and keeps the old.
#[test]
fn connection_table_is_full() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 1);
    lab.serve(&["http"]);
    let hash = lab.file("slow", 16 << 20);
    let config = Config::of(&lab, 1, |base| base.replace("connections = 65536", "connections = 1024"));
    lab.start_with(&config.path());
    let service = Service::tcp(Mode::Nat, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    let download = SlowDownload::start(&lab, "c1", &service.url("files/slow"), "2M");
    // A finished connection keeps its entry for two minutes. What does not fit fails: ab gives up then.
    let url = service.url("");
    let flood = lab.try_run("c1", &["timeout", "4", "ab", "-q", "-s", "1", "-r", "-n", "1500", "-c", "20", &url]);
    eventually("the table is full", Duration::from_secs(2), || drops(&lab, "table_full") > 0);
    drop(flood);
    assert_eq!(download.finish().as_deref(), Ok(hash.as_str()));
    let report = lab.run("c1", &["ping", "-c", "2", "-i", "0.2", "-W", "2", &Family::V4.director().to_string()]);
    assert!(report.contains("2 received"), "{report}");
}

/// A flood of SYNs does not keep the daemon from being asked and stopped.
#[test]
fn a_full_director_still_answers_its_administrator() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 1);
    lab.start(Director::Dpvsd { workers: 2, pmd: Pmd::Tap });
    // The server has no listener, so that each SYN is answered with a reset.
    let service = Service::tcp(Mode::Nat, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    let url = service.url("");
    let _flood = lab.spawn("c1", &["timeout", "3", "ab", "-q", "-r", "-n", "1000000", "-c", "50", &url]);
    for _ in 0..5 {
        let list = lab.ipvsadm("-L -n");
        assert!(list.contains(&service.server(&lab, 1).to_string()), "{list}");
    }
    lab.stop_director("TERM");
}
