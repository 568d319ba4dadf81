//! Start, end and restart of the daemon.

use std::time::Duration;

use dpvs_e2e::lab::{program, text};
use dpvs_e2e::traffic::who_answers;
use dpvs_e2e::{Config, Director, Family, Lab, Mode, Pmd, Service, Topology, eventually};
use rstest::rstest;

#[rstest]
fn sigterm_and_sigint_end_it_well(#[values("TERM", "INT")] signal: &str, #[values(1, 2)] workers: u8) {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    let config = Config::of(&lab, workers, |base| base);
    let program = program("dpvsd");
    let daemon = lab.spawn("lb", &[&program.to_string_lossy(), "--config", &config.path().to_string_lossy()]);
    let socket = lab.directory().join("lb/dpvsd.sock");
    eventually("dpvsd listens", Duration::from_secs(15), || {
        lab.try_run("lb", &["test", "-S", &socket.to_string_lossy()]).status.success()
            && lab.ctl("status").contains("Version")
    });
    daemon.signal(signal);
    let output = daemon.finish(Duration::from_secs(5));
    assert!(output.status.success(), "{}: {}", output.status, text(&output));
    assert!(!socket.exists(), "the socket is removed");
    let left = lab.run("lb", &["ip", "-o", "link"]);
    assert!(!left.contains("dpvs0") && !left.contains("wire0"), "interfaces are left: {left}");
}

/// What a crash leaves behind does not stop the next start.
#[rstest]
fn restart_after_kill(#[values(Pmd::Tap, Pmd::AfPacket, Pmd::Memif)] pmd: Pmd) {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    lab.serve(&["http"]);
    let service = Service::tcp(Mode::Fullnat, Family::V4, 80);
    for _ in 0..2 {
        lab.start(Director::Dpvsd { workers: 1, pmd });
        lab.add(std::slice::from_ref(&service));
        assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");
        lab.stop_director("KILL");
    }
}

/// The second daemon refuses with one line; the first one does not notice.
#[rstest]
#[case::socket(|text: &str, other: &str| text.replace("file_prefix = \"", &format!("file_prefix = \"{other}")), "dpvsd.sock")]
#[case::file_prefix(|text: &str, other: &str| text.replace("dpvsd.sock", &format!("{other}.sock")), "file_prefix")]
fn two_daemons_refuse(#[case] edit: fn(&str, &str) -> String, #[case] named: &str) {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(1));
    let service = Service::tcp(Mode::Fullnat, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    let second = Config::of(&lab, 1, |base| {
        let ports = base.replace("wire0", "wire9").replace("dpvs0", "dpvs9").replace("net_tap0", "net_tap9");
        edit(&ports, "other")
    });
    let program = program("dpvsd");
    let output =
        lab.try_run("lb", &["timeout", "10", &program.to_string_lossy(), "--config", &second.path().to_string_lossy()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    assert!(said.contains(named), "{said}");
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");
}
