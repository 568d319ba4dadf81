//! Mistakes at start-up: one line that names the thing and what to do, and exit status 1.

use dpvs_e2e::lab::{program, text};
use dpvs_e2e::{Config, Lab, Topology};
use rstest::rstest;

/// Replaces `from`, which must be there, in the configuration that works.
struct Edit {
    from: &'static str,
    to: &'static str,
}

#[rstest]
#[case::unknown_key("[workers]", "[workers]\ncolour = 1", &["dpvsd.toml", "workers.colour", "unknown"])]
#[case::unknown_section("[workers]", "[wokers]", &["dpvsd.toml", "wokers", "unknown section"])]
#[case::not_toml("[workers]", "[workers", &["dpvsd.toml"])]
#[case::wrong_type("count = 1", "count = \"one\"", &["workers.count"])]
#[case::no_workers("count = 1", "count = 0", &["workers.count", "1 to"])]
#[case::core_that_does_not_exist("cores = [0]", "cores = [777]", &["workers.cores", "777", "not available"])]
#[case::cores_and_count("cores = [0]", "cores = [0, 0]", &["workers.cores", "2 cores for 1 worker"])]
#[case::relative_socket("socket = \"", "socket = \"./", &["daemon.socket", "absolute"])]
#[case::unknown_driver("net_tap0", "net_tpa0", &["net_tpa0"])]
#[case::missing_device("net_tap0\"\nvdev = \"iface=wire0,mac=02:00:00:00:01:00\"", "0000:ff:1f.7\"", &["0000:ff:1f.7"])]
#[case::bad_device_argument("net_tap0\"\nvdev = \"iface=wire0,mac=02:00:00:00:01:00\"", "net_af_packet0\"\nvdev = \"iface=nowhere0\"", &["lan0", "nowhere0"])]
#[case::too_few_connections("connections = 65536", "connections = 1", &["limits.connections"])]
#[case::bad_address("192.0.2.1/24", "192.0.2.1/33", &["ports[0].addresses"])]
#[case::bad_mtu("interface = \"dpvs0\"", "interface = \"dpvs0\"\nmtu = 1", &["ports[0].mtu", "1280"])]
#[case::no_port("[[ports]]", "[[services]]", &["services[0]"])]
#[case::long_interface("interface = \"dpvs0\"", "interface = \"a-name-beyond-15-bytes\"", &["ports[0].interface"])]
fn mistake(#[case] from: &'static str, #[case] to: &'static str, #[case] named: &[&str]) {
    let said = refusal(1, Edit { from, to });
    for name in named {
        assert!(said.contains(name), "no '{name}' in: {said}");
    }
}

/// af_packet has as many queues as its arguments say.
#[test]
fn more_workers_than_queues() {
    let edit = Edit {
        from: "net_tap0\"\nvdev = \"iface=wire0,mac=02:00:00:00:01:00\"",
        to: "net_af_packet0\"\nvdev = \"iface=lo,qpairs=1\"",
    };
    let said = refusal(2, edit);
    assert!(said.contains("lan0") && said.contains("queues"), "{said}");
}

#[test]
fn no_file() {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    let output = lab.try_run("lb", &[&program("dpvsd").to_string_lossy(), "--config", "/nowhere/dpvsd.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("/nowhere/dpvsd.toml") && said.lines().count() == 1, "{said}");
}

/// Starts with a changed configuration; returns the line that it says.
fn refusal(workers: u8, edit: Edit) -> String {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    let config = Config::of(&lab, workers, |base| {
        assert!(base.contains(edit.from), "no '{}' in:\n{base}", edit.from);
        base.replacen(edit.from, edit.to, 1)
    });
    let (program, file) = (program("dpvsd"), config.path());
    let command = ["timeout", "10", &program.to_string_lossy(), "--config", &file.to_string_lossy()];
    let output = lab.try_run("lb", &command);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    said
}
