//! Real sockets, and a core that records what it is asked.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Peer;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use dpvs_api::{Operation, Sysctls, Timeouts};
use tokio::sync::oneshot;

use super::*;
use crate::config::Config;
use crate::core::{Batch, Request as Question};
use crate::events::Events;

/// A server on a thread of its own.
pub(super) struct Daemon {
    socket: PathBuf,
    applied: Arc<Mutex<Vec<Batch>>>,
    events: Events,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    pub fn start(limits: Limits) -> Self {
        Self::start_as(limits, Role::Write)
    }

    /// On a socket whose peers have this role.
    pub fn start_as(limits: Limits, role: Role) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dpvsd.sock");
        let applied = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        let (path, record) = (socket.clone(), Arc::clone(&applied));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (core, questions) = CoreHandle::new();
                tokio::spawn(answer_questions(questions, record));
                let socket = Socket::bind(&path, None).unwrap();
                let socket = if role == Role::Read { socket.read_only() } else { socket };
                ready.send(core.events().clone()).unwrap();
                let config = Reconciler::new(core.clone(), Config::default(), |_| {});
                serve(limits, vec![Door::Unix(socket)], core, config, async { _ = stopped.await }).await;
            });
        });
        let events = started.recv().unwrap();
        Self { socket, applied, events, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    pub fn connect(&self) -> Peer {
        let peer = Peer::connect(&self.socket).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer
    }

    /// Sends bytes and returns everything that comes back until the server closes.
    pub fn exchange(&self, request: &[u8]) -> String {
        let mut peer = self.connect();
        peer.write_all(request).unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A request with a JSON body; returns status and body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        split(&self.exchange(request.as_bytes()))
    }

    /// As `ask`, for errors: checks that the answer is an [`ApiError`].
    pub fn refuse(&self, method: &str, path: &str, body: &str) -> (u16, ApiError) {
        let (status, body) = self.ask(method, path, body);
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    pub fn applied(&self) -> Vec<Vec<Operation>> {
        self.batches().into_iter().map(|batch| batch.operations).collect()
    }

    pub fn batches(&self) -> Vec<Batch> {
        std::mem::take(&mut self.applied.lock().unwrap())
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    pub fn stop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            stop.send(()).unwrap();
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The core: knows no service, refuses to clear, and never answers about workers.
pub(super) async fn answer_questions(
    mut questions: tokio::sync::mpsc::Receiver<Question>,
    applied: Arc<Mutex<Vec<Batch>>>,
) {
    let mut unanswered = Vec::new();
    while let Some(question) = questions.recv().await {
        match question {
            Question::Apply(batch, reply) => {
                let result = match batch.operations.last() {
                    Some(Operation::Clear) => Err(ApiError {
                        kind: ErrorKind::Full,
                        message: "enough".into(),
                        path: Some("[0].service.servers[3].weight".into()),
                    }),
                    _ => Ok("a.2".to_owned()),
                };
                applied.lock().unwrap().push(batch);
                _ = reply.send(result);
            }
            Question::ServicesAfter(_, _, reply) => _ = reply.send((Vec::new(), false)),
            Question::Version(None, reply) => _ = reply.send(Ok("a.1".to_owned())),
            Question::Version(Some(id), reply) => {
                let message = format!("there is no service {id}");
                _ = reply.send(Err(ApiError { kind: ErrorKind::NotFound, message, path: None }));
            }
            Question::Timeouts(reply) => _ = reply.send(Timeouts::default()),
            Question::Sysctls(reply) => _ = reply.send(Sysctls::default()),
            Question::Workers(reply) => unanswered.push(reply),
            _ => {}
        }
    }
}

pub(super) fn quick() -> Limits {
    Limits {
        connections: 2,
        body: 4096,
        header_time: Duration::from_millis(300),
        request_time: Duration::from_millis(300),
        lifetime: Duration::from_millis(1500),
        write_time: Duration::from_millis(600),
        streams: 1,
        keep_alive: Duration::from_millis(200),
        drain: Duration::from_millis(300),
        metrics: Extent::default(),
    }
}

pub(super) const SERVICE: &str = r#"{"protocol":"tcp","address":"192.0.2.1:80"}"#;
const SERVER: &str = r#"{"address":"[2001:db8::2]:8080","mode":"fullnat","weight":5}"#;

#[test]
fn every_change_becomes_its_operation() {
    let daemon = Daemon::start(Limits::default());
    let at = r#""service":"udp/[2001:db8::1]:53""#;
    let service = "/v1/services/udp/2001:db8::1/53";
    let cases = [
        ("POST", "/v1/services".to_owned(), SERVICE, format!(r#"{{"op":"add-service","service":{SERVICE}}}"#)),
        (
            "PUT",
            service.to_owned(),
            r#"{"scheduler":"rr"}"#,
            format!(r#"{{"op":"edit-service",{at},"settings":{{"scheduler":"rr"}}}}"#),
        ),
        ("DELETE", service.to_owned(), "", format!(r#"{{"op":"delete-service",{at}}}"#)),
        ("POST", format!("{service}/servers"), SERVER, format!(r#"{{"op":"add-server",{at},"server":{SERVER}}}"#)),
        (
            "PUT",
            format!("{service}/servers/2001:db8::2/8080"),
            SERVER,
            format!(r#"{{"op":"edit-server",{at},"server":{SERVER}}}"#),
        ),
        (
            "DELETE",
            format!("{service}/servers/2001%3Adb8%3A%3A2/8080"),
            "",
            format!(r#"{{"op":"delete-server",{at},"server":"[2001:db8::2]:8080"}}"#),
        ),
        (
            "POST",
            format!("{service}/local-addresses"),
            r#"{"address":"2001:db8::9","interface":"dpvs0"}"#,
            format!(r#"{{"op":"add-local-address",{at},"local_address":"2001:db8::9","interface":"dpvs0"}}"#),
        ),
        (
            "DELETE",
            format!("{service}/local-addresses/2001:db8::9"),
            "",
            format!(r#"{{"op":"delete-local-address",{at},"local_address":"2001:db8::9"}}"#),
        ),
        (
            "DELETE",
            "/v1/services/fwmark/7/inet6".to_owned(),
            "",
            r#"{"op":"delete-service","service":"fwmark/7/inet6"}"#.to_owned(),
        ),
        ("POST", "/v1/zero".to_owned(), "", r#"{"op":"zero"}"#.to_owned()),
        ("POST", format!("{service}/zero"), "", r#"{"op":"zero","service":"udp/[2001:db8::1]:53"}"#.to_owned()),
        (
            "PUT",
            "/v1/timeouts".to_owned(),
            r#"{"tcp":600,"tcp_fin":0,"udp":0}"#,
            r#"{"op":"set-timeouts","timeouts":{"tcp":600,"tcp_fin":0,"udp":0}}"#.to_owned(),
        ),
        (
            "PUT",
            "/v1/sysctls".to_owned(),
            r#"{"sloppy_tcp":1}"#,
            r#"{"op":"set-sysctls","values":{"sloppy_tcp":1}}"#.to_owned(),
        ),
    ];
    for (method, path, body, operation) in cases {
        assert_eq!(daemon.ask(method, &path, body), (204, String::new()), "{method} {path}");
        let expected: Operation = serde_json::from_str(&operation).unwrap();
        assert_eq!(daemon.applied(), [[expected]], "{method} {path}");
    }
}

#[test]
fn a_batch_arrives_whole() {
    let daemon = Daemon::start(Limits::default());
    let body = format!(r#"[{{"op":"zero"}},{{"op":"add-service","service":{SERVICE}}}]"#);
    assert_eq!(daemon.ask("POST", "/v1/batch", &body).0, 204);
    let expected: Vec<Operation> = serde_json::from_str(&body).unwrap();
    assert_eq!(daemon.applied(), [expected]);
    // One bad operation, and the core hears of none.
    let (status, error) = daemon.refuse("POST", "/v1/batch", &body.replace("\"tcp\"", "\"icmp\""));
    assert_eq!((status, error.kind), (400, ErrorKind::Invalid));
    assert!(error.path.as_deref().is_some_and(|path| path.starts_with("[1]")), "{error:?}");
    assert!(daemon.applied().is_empty());
}

#[test]
fn questions_and_their_errors() {
    let daemon = Daemon::start(quick());
    assert_eq!(daemon.ask("GET", "/v1/services", ""), (200, "{\"services\":[]}\n".to_owned()));
    let (status, body) = daemon.ask("GET", "/v1/timeouts", "");
    assert_eq!((status, body.as_str()), (200, "{\"tcp\":900,\"tcp_fin\":120,\"udp\":300}\n"));
    let (status, body) = daemon.ask("GET", "/v1/sysctls", "");
    assert_eq!((status, serde_json::from_str::<Sysctls>(&body).unwrap()), (200, Sysctls::default()));
    let (status, error) = daemon.refuse("GET", "/v1/services/tcp/192.0.2.1/80", "");
    assert_eq!(
        (status, error.kind, error.message.as_str()),
        (404, ErrorKind::NotFound, "there is no service tcp/192.0.2.1:80")
    );
    // The core's path, as the sender of a lone operation knows it.
    let (status, error) = daemon.refuse("DELETE", "/v1/services", "");
    assert_eq!((status, error.kind, error.path.as_deref()), (409, ErrorKind::Full, Some("servers[3].weight")));
    let (status, error) = daemon.refuse("GET", "/v1/workers", "");
    assert_eq!((status, error.kind), (503, ErrorKind::Unavailable));
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let daemon = Daemon::start(quick());
    let deep = "[".repeat(3000);
    for (method, path, body, status, message) in [
        ("GET", "/v1/nosuch", "", 404, "there is no /v1/nosuch"),
        ("GET", "/", "", 404, "there is no /"),
        ("PATCH", "/v1/services", "", 405, "PATCH does not apply to /v1/services"),
        ("POST", "/v1/services", "{\"protocol\":\"tcp\"", 400, "EOF while parsing an object at line 1 column 17"),
        ("POST", "/v1/services", "\u{1}\u{2}", 400, "expected value at line 1 column 1"),
        ("POST", "/v1/services", "[]", 400, "missing field `protocol`"),
        ("POST", "/v1/services", &deep, 400, "line 1 column"),
        ("POST", "/v1/batch", &deep, 400, "line 1 column"),
        (
            "PUT",
            "/v1/timeouts",
            "{\"tcp\":-1}",
            400,
            "tcp: invalid value: integer `-1`, expected u32 at line 1 column 9",
        ),
        (
            "POST",
            "/v1/services",
            r#"{"protocol":"tcp","fwmark":7}"#,
            400,
            "either `protocol` and `address`, or `fwmark`",
        ),
        ("POST", "/v1/services", r#"{"address":"192.0.2.1:80"}"#, 400, "missing field `protocol`"),
        ("GET", "/v1/services/fwmark/x/inet", "", 400, "'x' in the path is not a firewall mark"),
        ("GET", "/v1/services/fwmark/7/servers", "", 400, "'servers' in the path is not a family"),
        ("PUT", "/v1/timeouts", "{\"tpc\":1}", 400, "tpc: unknown field `tpc`"),
        ("GET", "/v1/services/icmp/192.0.2.1/80", "", 400, "'icmp' in the path is not a protocol"),
        ("GET", "/v1/services/tcp/[::1]/80", "", 400, "'[::1]' in the path is not an IP address"),
        ("GET", "/v1/services/tcp/192.0.2.1/65536", "", 400, "'65536' in the path is not a port"),
        ("GET", "/v1/services/tcp/%ff/80", "", 400, "UTF-8"),
        ("GET", "/v1/connections?limit=0", "", 400, "limit 0 is out of range: use 1 to 10000"),
        ("GET", "/v1/connections?limit=x", "", 400, "query: "),
        ("GET", "/v1/connections?lmit=5", "", 400, "unknown field `lmit`"),
        (
            "PUT",
            "/v1/services/tcp/192.0.2.1/80/servers/192.0.2.9/80",
            SERVER,
            400,
            "the path names server 192.0.2.9:80",
        ),
    ] {
        let (got, error) = daemon.refuse(method, path, body);
        assert_eq!(got, status, "{method} {path}: {error:?}");
        assert!(error.message.contains(message), "{method} {path}: {error:?}");
    }
    let answer = daemon.exchange(b"PATCH /v1/timeouts HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    let allow = answer.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap_or_else(|| panic!("{answer}"));
    let mut methods: Vec<&str> = allow.split(',').collect();
    methods.sort_unstable();
    assert_eq!(methods, ["GET", "HEAD", "PUT"]);
    let request = format!(
        "POST /v1/services HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{SERVICE}",
        SERVICE.len()
    );
    let (status, body) = split(&daemon.exchange(request.as_bytes()));
    assert_eq!(status, 415, "{body}");
    assert!(body.contains("Content-Type: application/json"), "{body}");
    assert!(daemon.applied().is_empty());
}

#[test]
fn bodies_are_bounded_in_size_and_time() {
    let daemon = Daemon::start(quick());
    let huge = format!("[{}]", " ".repeat(5000));
    let (status, error) = daemon.refuse("POST", "/v1/batch", &huge);
    assert_eq!(status, 413, "{error:?}");
    assert!(error.message.starts_with("the body is larger than 4096 bytes"), "{error:?}");
    // Announced but endless, in chunks: refused as soon as it is over the limit.
    let mut chunked = b"POST /v1/batch HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..5 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.extend_from_slice(&[b' '; 1024]);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(split(&daemon.exchange(&chunked)).0, 413);
    let begun = Instant::now();
    let slow = b"POST /v1/batch HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n[";
    let (status, body) = split(&daemon.exchange(slow));
    assert_eq!(status, 408, "{body}");
    assert!(body.contains("did not arrive within 0.3 s"), "{body}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(daemon.applied().is_empty());
}

#[test]
fn garbage_and_silence_end_the_connection() {
    let daemon = Daemon::start(quick());
    for garbage in [&b"\x00\xff\x13\x37\r\n\r\n"[..], b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut peer = daemon.connect();
        peer.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        let _ = peer.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
    // Half a header, then nothing.
    let begun = Instant::now();
    let mut peer = daemon.connect();
    peer.write_all(b"GET /v1/timeouts HTT").unwrap();
    let _ = peer.read_to_end(&mut Vec::new());
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
}

#[test]
fn a_slow_peer_delays_only_itself() {
    let limits =
        Limits { connections: 3, header_time: Duration::from_secs(30), lifetime: Duration::from_secs(30), ..quick() };
    let daemon = Daemon::start(limits);
    let mut slow: Vec<Peer> = (0..2).map(|_| daemon.connect()).collect();
    for peer in &mut slow {
        peer.write_all(b"GET /v1/timeouts HTTP/1.1\r\nHo").unwrap();
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // They were not harmed either.
    for peer in &mut slow {
        peer.write_all(b"st: d\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert_eq!(split(&answer).0, 200);
    }
}

#[test]
fn the_number_of_connections_is_bounded() {
    let daemon = Daemon::start(Limits { header_time: Duration::from_secs(30), ..quick() });
    // Both places taken; a third peer is answered when the lifetime of the first ends.
    let idle: Vec<Peer> = (0..2).map(|_| daemon.connect()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    assert_eq!(daemon.ask("GET", "/v1/timeouts", "").0, 200);
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    drop(idle);
}

#[test]
fn stopping_ends_idle_connections_and_removes_the_socket() {
    let mut daemon = Daemon::start(Limits { drain: Duration::from_secs(20), ..Limits::default() });
    let mut peer = daemon.connect();
    peer.write_all(b"GET /v1/timeouts HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    assert!(peer.read(&mut [0; 1024]).unwrap() > 0);
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(peer.read(&mut [0; 1024]).unwrap(), 0);
    assert!(!daemon.socket.exists());
}

#[test]
fn curl_works() {
    let daemon = Daemon::start(Limits::default());
    let run = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "-w", "%{http_code}", "--unix-socket"])
            .arg(&daemon.socket)
            .args(arguments)
            .output()
            .expect("curl is needed for this test: install it");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["http://dpvsd/v1/timeouts"]), "{\"tcp\":900,\"tcp_fin\":120,\"udp\":300}\n200");
    assert_eq!(run(&["--json", SERVICE, "http://dpvsd/v1/services"]), "204");
    assert_eq!(run(&["-g", "-X", "DELETE", "http://dpvsd/v1/services/tcp/2001:db8::1/80"]), "204");
    assert_eq!(daemon.applied().len(), 2);
}

#[test]
fn strangers_are_refused_even_where_the_file_lets_them_in() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can become somebody else.
    }
    let daemon = Daemon::start(Limits::default());
    let folder = daemon.socket.parent().unwrap();
    for (path, mode) in [(folder, 0o755), (daemon.socket.as_path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let run = |gid: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid", "4000000", "--regid", gid, "--clear-groups", "curl", "-sS", "--unix-socket"])
            .arg(&daemon.socket)
            .arg("http://dpvsd/v1/timeouts")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let error: ApiError = serde_json::from_str(&run("4000000")).unwrap();
    assert_eq!(error.kind, ErrorKind::Forbidden);
    assert!(error.message.starts_with("user id 4000000 may not control dpvsd"), "{error:?}");
    // The same user in the socket's group.
    assert_eq!(run(&nix::unistd::getegid().to_string()), "{\"tcp\":900,\"tcp_fin\":120,\"udp\":300}\n");
}
