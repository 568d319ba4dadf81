//! Against a scripted peer on a real socket. The daemon's own side is tested with the server.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use dpvs_api::ErrorKind;

use super::*;

/// Answers one connection per given answer and returns what was asked.
fn peer(answers: &[&str]) -> (tempfile::TempDir, Client, JoinHandle<Vec<String>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    let served = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 65536];
            let n = stream.read(&mut request).unwrap();
            asked.push(String::from_utf8_lossy(&request[..n]).into_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    let client = Client::new(Some(&path)).unwrap();
    (folder, client, served)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn connection(cport: u16) -> String {
    format!(
        r#"{{"protocol":"tcp","state":"ESTABLISHED","mode":"nat","client":"192.0.2.1:{cport}",
        "virtual_service":"192.0.2.2:80","local":"192.0.2.1:{cport}","server":"10.0.0.1:80","expires":9,"worker":0}}"#
    )
}

#[test]
fn answers_and_errors() {
    let (_folder, client, served) = peer(&[
        &http("200 OK", r#"{"tcp":900,"tcp_fin":120,"udp":300}"#),
        &http("204 No Content", ""),
        &http("404 Not Found", r#"{"kind":"not_found","message":"there is no service tcp/192.0.2.1:80"}"#),
        &http("200 OK", r#"{"tcp":"x"}"#),
        &http("502 Bad Gateway", "<html>"),
        "",
    ]);
    assert_eq!(client.timeouts().unwrap(), Timeouts::default());
    client.apply(&[Operation::Clear]).unwrap();
    let error = client.service("tcp/192.0.2.1:80".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, ClientError::Api(error) if error.kind == ErrorKind::NotFound));
    assert_eq!(error.to_string(), "there is no service tcp/192.0.2.1:80");
    let error = client.timeouts().unwrap_err().to_string();
    assert!(error.contains("/v1/timeouts: invalid type") && error.ends_with("of this version?"), "{error}");
    let error = client.timeouts().unwrap_err().to_string();
    assert!(error.contains("HTTP status 502 Bad Gateway"), "{error}");
    assert!(matches!(client.timeouts(), Err(ClientError::Protocol { .. })));
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("GET /v1/timeouts HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[1].starts_with("POST /v1/batch HTTP/1.1\r\n") && asked[1].ends_with(r#"[{"op":"clear"}]"#));
    assert!(asked[2].starts_with("GET /v1/services/tcp/192.0.2.1/80 "));
}

#[test]
fn services_come_page_by_page() {
    let service = |address: &str| {
        format!(
            r#"{{"protocol":"tcp","address":"{address}","server_status":[],"stats":{{}},"no_server":0,"local_port_exhausted":0}}"#
        )
    };
    let first = format!(r#"{{"services":[{}],"next":"tcp/192.0.2.1:80"}}"#, service("192.0.2.1:80"));
    let second = format!(r#"{{"services":[{}]}}"#, service("192.0.2.2:80"));
    let (_folder, client, served) = peer(&[&http("200 OK", &first), &http("200 OK", &second)]);
    let ids: Vec<String> = client.services().unwrap().iter().map(|status| status.service.id.to_string()).collect();
    assert_eq!(ids, ["tcp/192.0.2.1:80", "tcp/192.0.2.2:80"]);
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("GET /v1/services?limit=1000 "), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /v1/services?limit=1000&cursor=tcp%2F192.0.2.1%3A80 "), "{}", asked[1]);
}

#[test]
fn events_come_as_they_happen() {
    let event = r#"{"id":"a.1","time_ms":5,"event":"draining"}"#;
    let stream = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: keep-alive\n\nid: a.1\ndata: {event}\n\n"
    );
    let busy = http("503 Service Unavailable", r#"{"kind":"unavailable","message":"too many"}"#);
    let (_folder, client, served) = peer(&[&stream, &busy]);
    let mut events = client.events(Some("a.0")).unwrap();
    assert_eq!(events.next().unwrap().unwrap().id, "a.1");
    assert!(matches!(events.next(), Some(Err(ClientError::EventsEnded))));
    assert!(events.next().is_none());
    assert_eq!(client.events(None).unwrap_err().to_string(), "too many");
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("GET /v1/events ") && asked[0].contains("a.0"), "{}", asked[0]);
}

#[test]
fn connections_come_page_by_page() {
    let first = format!(r#"{{"connections":[{},{}],"next":"w0/2"}}"#, connection(1), connection(2));
    let second = r#"{"connections":[],"next":"w1/0"}"#;
    let third = format!(r#"{{"connections":[{}]}}"#, connection(3));
    let (_folder, client, served) = peer(&[&http("200 OK", &first), &http("200 OK", second), &http("200 OK", &third)]);
    let ports: Vec<u16> = client.connections().map(|connection| connection.unwrap().client.port()).collect();
    assert_eq!(ports, [1, 2, 3]);
    let asked = served.join().unwrap();
    assert!(asked[0].starts_with("GET /v1/connections?limit=5000 "), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /v1/connections?limit=5000&cursor=w0%2F2 "), "{}", asked[1]);
}

#[test]
fn an_error_ends_the_connections() {
    let (_folder, client, served) =
        peer(&[&http("503 Service Unavailable", r#"{"kind":"unavailable","message":"no"}"#)]);
    let mut connections = client.connections();
    assert!(connections.next().unwrap().is_err());
    assert!(connections.next().is_none());
    drop(connections);
    served.join().unwrap();
}

#[test]
fn a_missing_daemon_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    let client = Client::new(Some(&path)).unwrap();
    assert_eq!(
        client.status().unwrap_err().to_string(),
        format!(
            "cannot connect to {}: no such file: is dpvsd running? Start it with 'dpvsd --config FILE', or name its \
             socket with DPVS_SOCKET (dpvs-ctl: or --socket)",
            path.display()
        )
    );
    drop(UnixListener::bind(&path).unwrap());
    assert!(client.status().unwrap_err().to_string().contains("connection refused: is dpvsd running?"));
}
