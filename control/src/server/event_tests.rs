//! Streams of events, tags and roles, on real sockets.

use std::io::{BufRead, BufReader};

use dpvs_api::{Author, Event, EventKind};

use super::tests::{Daemon, SERVICE, quick};
use super::*;

/// Reads lines up to the next event, and returns it with the id that the stream gives it.
fn next_event(stream: &mut impl BufRead) -> Option<(String, Event)> {
    let (mut id, mut line) = (String::new(), String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some(text) = line.strip_prefix("id: ") {
            text.trim_end().clone_into(&mut id);
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return Some((id, serde_json::from_str(data).unwrap()));
        }
    }
}

/// A stream behind its head.
fn follow(daemon: &Daemon, headers: &str) -> BufReader<impl io::Read + use<>> {
    let mut peer = daemon.connect();
    io::Write::write_all(&mut peer, format!("GET /v1/events HTTP/1.1\r\nHost: d\r\n{headers}\r\n").as_bytes()).unwrap();
    let mut stream = BufReader::new(peer);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    stream
}

fn stalled(worker: usize) -> EventKind {
    EventKind::WorkerStalled { worker }
}

#[test]
fn events_are_followed_beyond_the_life_of_a_connection() {
    let daemon = Daemon::start(Limits { lifetime: Duration::from_millis(300), ..quick() });
    let mut stream = follow(&daemon, "");
    std::thread::sleep(Duration::from_millis(500));
    daemon.events().publish(stalled(1));
    let (id, event) = next_event(&mut stream).unwrap();
    assert_eq!((event.what, &event.id), (stalled(1), &id));
    drop(stream);
    // Another goes on where that one ended.
    daemon.events().publish(stalled(2));
    std::thread::sleep(Duration::from_millis(300));
    let mut stream = follow(&daemon, &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!(next_event(&mut stream).unwrap().1.what, stalled(2));
    drop(stream);
    std::thread::sleep(Duration::from_millis(300));
    let mut stream = follow(&daemon, "Last-Event-ID: another.7\r\n");
    let whats: Vec<EventKind> = (0..3).map(|_| next_event(&mut stream).unwrap().1.what).collect();
    assert_eq!(whats, [EventKind::Missed, stalled(1), stalled(2)]);
}

#[test]
fn a_quiet_stream_shows_life_and_ends_with_the_daemon() {
    let mut daemon = Daemon::start(quick());
    let mut stream = follow(&daemon, "");
    let mut text = String::new();
    while !text.contains("keep-alive") {
        assert!(stream.read_line(&mut text).unwrap() > 0);
    }
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!(next_event(&mut stream), None);
}

#[test]
fn streams_have_their_own_bound() {
    let daemon = Daemon::start(Limits { connections: 4, ..quick() });
    let first = follow(&daemon, "");
    let (status, error) = daemon.refuse("GET", "/v1/events", "");
    assert_eq!((status, error.kind), (503, ErrorKind::Unavailable));
    assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
    drop(first);
    std::thread::sleep(Duration::from_millis(300));
    drop(follow(&daemon, ""));
}

#[test]
fn who_does_not_read_is_cut_off() {
    let daemon = Daemon::start(Limits { connections: 4, ..quick() });
    let mut stream = follow(&daemon, "");
    // More than sockets hold, faster than anybody reads, and others are answered meanwhile.
    for round in 0..200 {
        for _ in 0..64 {
            daemon.events().publish(EventKind::Link { port: "x".repeat(200), up: true });
        }
        if round % 50 == 0 {
            assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
        }
    }
    std::thread::sleep(Duration::from_millis(1000));
    // Its place is free again.
    drop(follow(&daemon, ""));
    let mut count = 0;
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
        count += usize::from(line.starts_with("id: "));
        line.clear();
    }
    assert!(count < 200 * 64, "{count}");
}

#[test]
fn versions_are_entity_tags() {
    let daemon = Daemon::start(quick());
    let exchange = |request: &str| daemon.exchange(format!("{request}Connection: close\r\n\r\n").as_bytes());
    let answer = exchange("GET /v1/services HTTP/1.1\r\nHost: d\r\n");
    assert!(answer.contains("etag: \"a.1\"\r\n"), "{answer}");
    let answer = exchange("GET /v1/services HTTP/1.1\r\nHost: d\r\nIf-None-Match: \"a.1\"\r\n");
    assert!(answer.starts_with("HTTP/1.1 304 ") && answer.contains("etag: \"a.1\"\r\n"), "{answer}");
    let post = |condition: &str| {
        let length = SERVICE.len();
        let request = format!(
            "POST /v1/services HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             {condition}Connection: close\r\n\r\n{SERVICE}"
        );
        daemon.exchange(request.as_bytes())
    };
    let answer = post("");
    assert!(answer.starts_with("HTTP/1.1 204 ") && answer.contains("etag: \"a.2\"\r\n"), "{answer}");
    post("If-Match: \"a.1\", \"b\"\r\n");
    let answer = post("If-Match: a.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("with its quotes"), "{answer}");
    let conditions: Vec<_> = daemon.batches().into_iter().map(|batch| (batch.only_if, batch.by)).collect();
    let by = Author::User { uid: nix::unistd::geteuid().as_raw(), pid: i32::try_from(std::process::id()).ok() };
    assert_eq!(conditions, [(None, by.clone()), (Some(vec!["a.1".to_owned(), "b".to_owned()]), by)]);
}

#[test]
fn every_endpoint_that_changes_something_takes_the_write_role() {
    let daemon = Daemon::start_as(quick(), Role::Read);
    for endpoint in routes::endpoints() {
        let path: Vec<&str> = endpoint
            .path
            .split('/')
            .map(|segment| match segment {
                "{protocol}" => "tcp",
                "{port}" | "{server_port}" => "80",
                other if other.starts_with('{') => "192.0.2.1",
                other => other,
            })
            .collect();
        if endpoint.role == Role::Write {
            let (status, error) = daemon.refuse(endpoint.method.as_str(), &path.join("/"), "");
            assert_eq!((status, error.kind), (403, ErrorKind::Forbidden), "{} {}", endpoint.method, endpoint.path);
        }
    }
    assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
    assert!(daemon.applied().is_empty());
}
