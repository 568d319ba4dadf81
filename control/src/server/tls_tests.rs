//! TLS with certificates that are made here, and curl as the peer.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::oneshot;

use super::tests::{SERVICE, answer_questions, quick};
use super::*;
use crate::config::Config;

/// An authority with its files `NAME.pem`.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder: folder.to_owned() }
    }

    /// Makes `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, unit: &str, alternative: &str) {
        let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A server on a thread of its own.
struct Remote {
    folder: tempfile::TempDir,
    tls: watch::Sender<Arc<Tls>>,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Remote {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
        ours.sign("server", "", "127.0.0.1");
        ours.sign("reader", "watchers", "reader.example");
        ours.sign("writer", "watchers", "writer.example");
        ours.sign("anna", "operators", "anna.example");
        ours.sign("robot", "machines", "robot.example");
        theirs.sign("stranger", "operators", "stranger.example");
        let tls = watch::Sender::new(Arc::new(load(folder.path(), "server", "ours").unwrap()));
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let settings = tls.subscribe();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (core, questions) = CoreHandle::new();
                tokio::spawn(answer_questions(questions, Arc::default()));
                let listener = TlsListener::bind(([127, 0, 0, 1], 0).into(), settings).await.unwrap();
                ready.send(listener.address().unwrap()).unwrap();
                let limits = Limits {
                    connections: 4,
                    header_time: Duration::from_secs(5),
                    request_time: Duration::from_secs(5),
                    lifetime: Duration::from_secs(20),
                    ..quick()
                };
                let config = Reconciler::new(core.clone(), Config::default(), |_| {});
                serve(limits, vec![Door::Tls(listener)], core, config, async { _ = stopped.await }).await;
            });
        });
        let address = started.recv().unwrap();
        Self { folder, tls, address, stop: Some(stop), thread: Some(thread) }
    }

    fn curl(&self, certificate: Option<&str>, arguments: &[&str]) -> Command {
        let file = |name: &str| self.folder.path().join(name);
        let mut curl = Command::new("curl");
        curl.args(["-sSN", "--max-time", "15", "-w", "%{http_code}", "--cacert"]).arg(file("ours.pem"));
        if let Some(name) = certificate {
            curl.arg("--cert").arg(file(&format!("{name}.pem"))).arg("--key").arg(file(&format!("{name}.key")));
        }
        let (path, options) = arguments.split_last().unwrap();
        curl.args(options).arg(format!("https://{}{path}", self.address));
        curl
    }

    fn ask(&self, certificate: Option<&str>, arguments: &[&str]) -> String {
        let output = self.curl(certificate, arguments).output().expect("curl is needed for this test: install it");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn load(folder: &Path, server: &str, authority: &str) -> Result<Tls, TlsError> {
    let file = |name: String| folder.join(name);
    let writers = ["CN=writer", "OU=operators", "DNS=robot.example"].map(|name| name.parse().unwrap()).to_vec();
    let (certificate, key) = (file(format!("{server}.pem")), file(format!("{server}.key")));
    Tls::load(&certificate, &key, &file(format!("{authority}.pem")), writers)
}

const TIMEOUTS: &str = "{\"tcp\":900,\"tcp_fin\":120,\"udp\":300}\n200";

#[test]
fn certificates_decide_who_may_do_what() {
    let remote = Remote::start();
    for nobody in [None, Some("stranger")] {
        assert_eq!(remote.ask(nobody, &["/v1/timeouts"]), "000", "{nobody:?}: no handshake, no answer");
    }
    for known in ["reader", "writer", "anna", "robot"] {
        assert_eq!(remote.ask(Some(known), &["/v1/timeouts"]), TIMEOUTS, "{known}");
    }
    let refused = remote.ask(Some("reader"), &["--json", SERVICE, "/v1/services"]);
    assert!(refused.contains("certificate CN=reader may only look") && refused.ends_with("403"), "{refused}");
    for writer in ["writer", "anna", "robot"] {
        assert_eq!(remote.ask(Some(writer), &["--json", SERVICE, "/v1/services"]), "204", "{writer}");
    }
    // Nothing but TLS.
    let output =
        Command::new("curl").args(["-sS", &format!("http://{}/v1/timeouts", remote.address)]).output().unwrap();
    assert!(output.stdout.is_empty() && !output.status.success());
}

#[test]
fn certificates_are_replaced_while_connections_are_open() {
    let remote = Remote::start();
    let mut stream = remote.curl(Some("reader"), &["/v1/events"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(stream.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("keep-alive") {
        assert!(events.read_line(&mut line).unwrap() > 0);
    }
    // From now on, others are trusted.
    remote.tls.send_replace(Arc::new(load(remote.folder.path(), "server", "theirs").unwrap()));
    events.read_to_string(&mut line).unwrap();
    assert!(stream.wait().unwrap().success(), "the stream ends as it should: {line}");
    assert_eq!(remote.ask(Some("reader"), &["/v1/timeouts"]), "000");
    assert_eq!(remote.ask(Some("stranger"), &["/v1/timeouts"]), TIMEOUTS);
}

#[test]
fn who_says_nothing_is_cut_off() {
    let remote = Remote::start();
    let mut silent = std::net::TcpStream::connect(remote.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ours");
    authority.sign("server", "", "127.0.0.1");
    authority.sign("other", "", "127.0.0.1");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    let key = |server: &str, authority: &str| load(folder.path(), server, authority).unwrap_err();
    let error = key("none", "ours");
    assert!(error.key() == "api.certificate" && error.to_string().contains("No such file"), "{error}");
    let error = key("server", "empty");
    assert!(error.key() == "api.client_ca" && error.to_string().contains("does not hold certificates"), "{error}");
    std::fs::copy(folder.path().join("other.key"), folder.path().join("server.key")).unwrap();
    let error = key("server", "ours");
    assert!(error.key() == "api.certificate" && error.to_string().contains("belongs to it"), "{error}");
    std::fs::write(folder.path().join("server.key"), "no key").unwrap();
    let error = key("server", "ours");
    assert!(error.key() == "api.key" && error.to_string().contains("does not hold a private key"), "{error}");
}
