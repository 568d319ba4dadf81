//! Events as workers make them, and the lines that come of them.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::ServerId;
use dataplane::conn::ConnRecord;
use dataplane::conn_log;
use proto::state::State;
use serde_json::{Value, json};

use super::*;

fn record(client_port: u16, mode: dataplane::snapshot::ForwardMode) -> ConnRecord {
    let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    ConnRecord {
        protocol: proto::Protocol::TCP,
        state: State::Established,
        mode,
        client: (address(1), client_port),
        virt: (address(100), 80),
        local: (address(201), 1025),
        server: (address(21), 8080),
        server_id: ServerId(0),
        expires: 900,
    }
}

fn created(client_port: u16) -> ConnEvent {
    ConnEvent { record: record(client_port, dataplane::snapshot::ForwardMode::FullNat), news: ConnNews::Created }
}

fn ended(traffic: Option<conn_log::Traffic>) -> ConnEvent {
    let news = ConnNews::Ended { reason: EndReason::Timeout, lasted_ms: 12_375, traffic };
    ConnEvent { record: record(7, dataplane::snapshot::ForwardMode::Nat), news }
}

struct Bench {
    rings: Vec<Arc<ArrayQueue<ConnEvent>>>,
    metrics: Arc<ControlMetrics>,
}

impl Bench {
    fn new() -> Self {
        let ring = || Arc::new(ArrayQueue::new(16));
        Self { rings: vec![ring(), ring()], metrics: Arc::new(ControlMetrics::new(SystemTime::UNIX_EPOCH)) }
    }

    fn start(&self, target: Target) -> io::Result<ConnectionLog> {
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        ConnectionLog::start(target, self.rings.clone(), snapshot, Arc::clone(&self.metrics))
    }
}

fn lines(text: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        assert!(line.as_object_mut().unwrap().remove("time_ms").unwrap().as_u64().unwrap() > 1_700_000_000_000);
    }
    lines
}

#[test]
fn what_happened_is_written_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, "").unwrap();
    let bench = Bench::new();
    let log = bench.start(Target::File(path.clone())).unwrap();
    let traffic = conn_log::Traffic { in_packets: 1, in_bytes: 2, out_packets: 3, out_bytes: 4 };
    bench.rings[1].push(created(5)).unwrap();
    bench.rings[1].push(ended(Some(traffic))).unwrap();
    bench.rings[1].push(ended(None)).unwrap();
    drop(log);
    let mut without = json!({
        "event": "ended", "worker": 1, "protocol": "tcp", "client": "192.0.2.1:7", "virtual_service": "192.0.2.100:80",
        "server": "192.0.2.21:8080", "mode": "nat", "state": "ESTABLISHED", "reason": "timeout", "duration": 12.375,
    });
    let mut with = without.clone();
    for (key, value) in [("in_packets", 1), ("in_bytes", 2), ("out_packets", 3), ("out_bytes", 4)] {
        with[key] = value.into();
    }
    let began = json!({
        "event": "created", "worker": 1, "protocol": "tcp", "client": "192.0.2.1:5", "virtual_service": "192.0.2.100:80",
        "local": "192.0.2.201:1025", "server": "192.0.2.21:8080", "mode": "fullnat", "state": "ESTABLISHED",
    });
    assert_eq!(lines(&std::fs::read_to_string(&path).unwrap()), [began, with, without.take()]);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let bench = Bench::new();
    let log = bench.start(Target::File(path.clone())).unwrap();
    // The thread may be in the middle of something: events are repeated until one is where it belongs.
    let wait_for = |path: &Path, port: u16| {
        let start = Instant::now();
        while !std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("192.0.2.1:{port}"))) {
            assert!(start.elapsed() < Duration::from_secs(10), "no port {port} in {}", path.display());
            bench.rings[0].force_push(created(port));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(&path, 1);
    std::fs::rename(&path, &old).unwrap();
    wait_for(&old, 2);
    log.reopen();
    wait_for(&path, 3);
    drop(log);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("192.0.2.1:2"));
}

#[test]
fn a_socket_gets_a_datagram_for_each_line_and_what_is_lost_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let bench = Bench::new();
    // Nobody listens.
    drop({
        let log = bench.start(Target::Socket(path.clone())).unwrap();
        bench.rings[0].push(created(1)).unwrap();
        log
    });
    assert_eq!(bench.metrics.log_lines(), (0, 1));
    let peer = UnixDatagram::bind(&path).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let log = bench.start(Target::Socket(path)).unwrap();
    bench.rings[0].push(created(1)).unwrap();
    bench.rings[0].push(created(2)).unwrap();
    for port in 1..=2 {
        let mut buffer = [0; 1024];
        let length = peer.recv(&mut buffer).unwrap();
        let line = &lines(std::str::from_utf8(&buffer[..length]).unwrap())[0];
        assert_eq!(line["client"], format!("192.0.2.1:{port}"));
    }
    drop(log);
    assert_eq!(bench.metrics.log_lines(), (2, 1));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_once() {
    let bench = Bench::new();
    assert!(bench.start(Target::File("/nonexistent/log".into())).is_err());
}
