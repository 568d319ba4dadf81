//! dpvsd as a service manager runs it, and the configurations that are handed out.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use dpvs_e2e::lab::{Pmd, program, source_tree};
use dpvs_e2e::{Config, Lab, Topology};
use rstest::rstest;

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// The next message, without keep-alives.
    fn next(&self) -> String {
        loop {
            let message = self.receive(Duration::from_secs(20)).expect("a message");
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    fn receive(&self, patience: Duration) -> Option<String> {
        let mut buffer = [0; 512];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// Keep-alives within a time.
    fn keep_alives(&self, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut number = 0;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            number += usize::from(self.receive(left).is_some_and(|message| message == "WATCHDOG=1"));
        }
        number
    }
}

#[test]
fn a_service_manager_is_told_what_happens() {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    let config = Config::of(&lab, 2, |base| base.replace("[daemon]\n", "[daemon]\ndrain_timeout = 1\n"));
    let path = config.directory().join("notify");
    let manager = Manager { socket: UnixDatagram::bind(&path).unwrap() };
    let (program, file) = (program("dpvsd"), config.path());
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let command =
        ["env", &notify, "WATCHDOG_USEC=800000", &program.to_string_lossy(), "--config", &file.to_string_lossy()];
    let dpvsd = lab.spawn("lb", &command);

    assert_eq!(manager.next(), "READY=1\nSTATUS=2 workers on lan0");
    // Every 0.2 s, if the machine has the time.
    let alive = manager.keep_alives(Duration::from_secs(2));
    assert!((4..=11).contains(&alive), "{alive} keep-alives in 2 s");

    dpvsd.signal("STOP");
    manager.keep_alives(Duration::from_millis(100));
    assert_eq!(manager.keep_alives(Duration::from_millis(500)), 0, "a process that stands still sends nothing");
    dpvsd.signal("CONT");
    assert!(manager.keep_alives(Duration::from_secs(1)) > 0);

    dpvsd.signal("HUP");
    let said = manager.next();
    assert!(said.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{said}");
    assert_eq!(manager.next(), "READY=1\nSTATUS=2 workers on lan0");

    dpvsd.signal("TERM");
    let said = manager.next();
    assert!(said.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=16000000\nSTATUS=Draining"), "{said}");
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=Stopping");
    let output = dpvsd.finish(Duration::from_secs(10));
    assert!(output.status.success(), "{}", dpvs_e2e::lab::text(&output));
}

/// A sample's ports on virtual devices, in the lab whose addresses it has.
fn in_lab(lab: &Lab, name: &str) -> String {
    let path = source_tree().join("deploy/samples").join(name);
    let sample = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let base = lab.config_text(1, Pmd::Tap);
    let (process, _) = base.split_once("[[ports]]").expect("ports");
    let start = sample.find("[[ports]]").expect("ports");
    let mut text = process.to_owned();
    for line in sample[start..].lines() {
        match line.split_once("device = \"0000:3b:00.").and_then(|(_, rest)| rest.chars().next()) {
            Some(n) => {
                text += &format!("device = \"net_tap{n}\"\nvdev = \"iface=wire{n},mac=02:00:00:00:01:0{n}\"\n");
            }
            None => text += &format!("{line}\n"),
        }
    }
    // The lab waits for an answer over IPv6 as well.
    match text.contains("2001:db8:1::1/64") {
        true => text,
        false => text.replace("\"192.0.2.1/24\"", "\"192.0.2.1/24\", \"2001:db8:1::1/64\""),
    }
}

#[rstest]
#[case::dr("dr-one-arm.toml", Topology::OneArm, &["http://192.0.2.102/"])]
#[case::fullnat("fullnat-one-arm.toml", Topology::OneArm, &["http://192.0.2.101/", "http://192.0.2.101:81/"])]
#[case::fullnat_with_two_ports("fullnat-two-arm.toml", Topology::TwoArm, &["http://192.0.2.101/"])]
#[case::nat("nat-two-arm.toml", Topology::TwoArm, &["http://192.0.2.100/", "http://192.0.2.100:8080/"])]
#[case::tun("tun.toml", Topology::OneArm, &["http://192.0.2.103/"])]
#[case::ipv6("ipv6.toml", Topology::OneArm, &["http://192.0.2.102/", "http://[2001:db8:1::102]/"])]
fn a_sample_serves(#[case] name: &str, #[case] topology: Topology, #[case] urls: &[&str]) {
    let lab = Lab::with_hosts(topology, 1, 2);
    let servers: &[&str] = if name == "tun.toml" { &["http", "tunnel"] } else { &["http"] };
    lab.serve(servers);
    let config = Config::new(&in_lab(&lab, name));
    lab.start_with(&config.path());
    for url in urls {
        lab.wait_for_http(url, Duration::from_secs(5));
    }
}
