//! The connection log as whoever reads the file sees it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dpvs_e2e::traffic::dig;
use dpvs_e2e::{Config, Family, Lab, Mode, Service, eventually};
use serde_json::Value;

/// The lines of an event, once there are `count`.
fn wait_for(path: &Path, event: &str, count: usize) -> Vec<Value> {
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        lines.filter(|line: &Value| line["event"] == event).collect()
    };
    eventually(&format!("{count} lines '{event}'"), Duration::from_secs(10), || lines().len() >= count);
    lines()
}

#[test]
fn connections_are_logged_and_the_file_rotates() {
    let mode = Mode::Fullnat;
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.serve(&["dns"]);
    let path = lab.directory().join("lb/connections.log");
    let log = format!("[timeouts]\nudp = 1\n[connection_log]\nfile = \"{}\"\ntraffic = true\n", path.display());
    let config = Config::of(&lab, 2, |text| format!("{text}\n{log}"));
    lab.start_with(&config.path());
    let service = Service::udp(mode, Family::V4, 53);
    lab.add(std::slice::from_ref(&service));
    let ask = |port: u16| {
        let source = format!("{}#{port}", Family::V4.client(1));
        dig(&lab, "c1", service.address(), "whoami", &["-b", &source, "+tries=1"]).unwrap_or_else(|e| panic!("{e}"));
    };

    ask(40_001);
    let created = &wait_for(&path, "created", 1)[0];
    let ended = &wait_for(&path, "ended", 1)[0];
    for line in [created, ended] {
        assert_eq!(line["client"], format!("{}:40001", Family::V4.client(1)), "{line}");
        assert_eq!(line["virtual_service"], service.address().to_string(), "{line}");
        assert_eq!(line["service"], format!("udp/{}", service.address()), "{line}");
        assert_eq!(line["server"], service.server(&lab, 1).to_string(), "{line}");
        assert_eq!((&line["protocol"], &line["mode"]), (&"udp".into(), &"fullnat".into()), "{line}");
        let local = line["local"].as_str().expect("a local endpoint");
        let is_local = |n| local.starts_with(&format!("{}:", Family::V4.local_address(lab.topology(), n)));
        assert!(is_local(0) || is_local(1), "{line}");
    }
    assert_eq!(
        (&ended["reason"], &ended["in_packets"], &ended["out_packets"]),
        (&"timeout".into(), &1.into(), &1.into())
    );
    let duration = ended["duration"].as_f64().expect("a duration");
    assert!((1.0..3.0).contains(&duration), "{ended}");
    // 20 bytes of IP, 8 of UDP, and what dig asks: more than the name.
    assert!((40..200).contains(&ended["in_bytes"].as_u64().expect("bytes")), "{ended}");

    let old = path.with_extension("log.1");
    fs::rename(&path, &old).expect("moved away");
    lab.run("lb", &["kill", "-HUP", &lab.director_pid()]);
    eventually("the reload is over", Duration::from_secs(5), || lab.director_log().contains("reloaded"));
    ask(40_002);
    let created = &wait_for(&path, "created", 1)[0];
    assert_eq!(created["client"], format!("{}:40002", Family::V4.client(1)));
    let socket = lab.directory().join("lb/dpvsd.sock");
    let metrics = ["curl", "-sSf", "--unix-socket", &socket.to_string_lossy(), "http://d/metrics"];
    let text = lab.run("lb", &metrics);
    for line in ["dpvs_connection_log_lost_lines_total{reason=\"rate\"} 0", "dpvs_connection_log_lines_total 3"] {
        assert!(text.lines().any(|candidate| candidate == line), "no {line} in:\n{text}");
    }
}
