//! The API as its users meet it: certificates, events, large batches, and a tester that knows nothing but the OpenAPI document.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dpvs_e2e::lab::{Background, program, source_tree, text};
use dpvs_e2e::{Config, Director, Family, Lab, Topology, eventually};
use serde_json::Value;

/// Version of the tester. Others find other things.
const SCHEMATHESIS: &str = "4.32.5";
const PORT: u16 = 8443;

/// A director whose API listens with TLS, and the certificates for it.
struct Remote {
    lab: Lab,
    config: Config,
}

impl Remote {
    fn start() -> Self {
        let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
        let config = Config::of(&lab, 1, |base| base);
        let folder = config.directory().to_owned();
        let address = Family::V4.virtual_address(3);
        authority(&folder, "ca");
        sign(&folder, "ca", "server", &format!("IP:127.0.0.1,IP:{address}"));
        sign(&folder, "ca", "admin", "DNS:admin.example");
        sign(&folder, "ca", "reader", "DNS:reader.example");
        let remote = Self { lab, config };
        remote.write("ca");
        remote.lab.start_with(&remote.config.path());
        remote
    }

    /// Writes the configuration, with clients' certificates from this authority.
    fn write(&self, authority: &str) {
        let folder = self.config.directory().display();
        let base = self.lab.config_text(1, dpvs_e2e::Pmd::Tap);
        self.config.write(&format!(
            "{base}\n[api]\nlisten = '0.0.0.0:{PORT}'\ncertificate = '{folder}/server.pem'\nkey = '{folder}/server.key'\n\
             client_ca = '{folder}/{authority}.pem'\nwriters = ['CN=admin']\n"
        ));
    }

    fn file(&self, name: &str) -> String {
        self.config.directory().join(name).display().to_string()
    }

    /// What curl on the client's host gets with a certificate: the answer and the status.
    fn curl(&self, certificate: &str, arguments: &[&str], path: &str) -> String {
        let url = format!("https://{}:{PORT}{path}", Family::V4.virtual_address(3));
        let (ca, pem, key) =
            (self.file("ca.pem"), self.file(&format!("{certificate}.pem")), self.file(&format!("{certificate}.key")));
        let mut command = vec!["curl", "-sS", "--max-time", "10", "-w", "%{http_code}"];
        command.extend(["--cacert", &ca, "--cert", &pem, "--key", &key]);
        command.extend(arguments);
        command.push(&url);
        String::from_utf8_lossy(&self.lab.try_run("c1", &command).stdout).into_owned()
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {arguments}: {}", text(&output));
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch";

fn authority(folder: &Path, name: &str) {
    openssl(folder, &format!("req -x509 {NEW_KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"));
}

fn sign(folder: &Path, authority: &str, name: &str, alternative: &str) {
    openssl(folder, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    std::fs::write(folder.join("extensions"), format!("subjectAltName={alternative}\n")).expect("a temporary file");
    let ca = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial");
    openssl(folder, &format!("x509 -req -in {name}.csr {ca} -out {name}.pem -days 2 -extfile extensions"));
}

/// Over the network that the director serves, certificates decide; a reload replaces them.
#[test]
fn api_by_tls() {
    let remote = Remote::start();
    let service = r#"{"protocol":"tcp","address":"192.0.2.100:80"}"#;
    let refused = remote.curl("reader", &["--json", service], "/v1/services");
    assert!(refused.contains("CN=reader may only look") && refused.ends_with("403"), "{refused}");
    assert_eq!(remote.curl("admin", &["--json", service], "/v1/services"), "204");
    assert!(remote.curl("reader", &[], "/v1/services").contains("192.0.2.100:80"));

    authority(remote.config.directory(), "other");
    sign(remote.config.directory(), "other", "foreign", "DNS:foreign.example");
    assert_eq!(remote.curl("foreign", &[], "/v1/status"), "000");
    remote.write("other");
    remote.lab.run("lb", &["kill", "-HUP", &remote.lab.director_pid()]);
    eventually("the other authority counts", Duration::from_secs(5), || {
        remote.curl("foreign", &[], "/v1/status").ends_with("200")
    });
    assert_eq!(remote.curl("admin", &[], "/v1/status"), "000");
}

/// `dpvs-ctl events` shows who changed what.
#[test]
fn events_name_their_author() {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    lab.start(Director::dpvsd(1));
    let socket = lab.directory().join("lb/dpvsd.sock").display().to_string();
    let ctl = program("dpvs-ctl").display().to_string();
    let service = r#"{"protocol":"tcp","address":"192.0.2.100:80"}"#;
    let post = format!(
        "curl -sf --unix-socket {socket} -H 'Content-Type: application/json' -d '{service}' http://d/v1/services"
    );
    let follow = format!("timeout 2 {ctl} --socket {socket} events");
    let text = lab.shell("lb", &format!("{{ {follow} & sleep 1; {post}; wait; }} || true"));
    assert!(text.contains("add-service tcp/192.0.2.100:80, by user 0, process "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// 10,000 services with 10 servers each come in one request, and keep others waiting for less than half a second; so do their
/// metrics.
#[test]
fn ten_thousand_services_in_one_batch() {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 1);
    let config = Config::of(&lab, 1, |base| base + "\n[metrics]\nservices = 'all'\nservers = 'all'\n");
    lab.start_with(&config.path());
    let mut batch = String::from("[");
    for service in 0..10_000 {
        let comma = if service == 0 { "" } else { "," };
        let port = 1 + service;
        let servers: Vec<String> =
            (1..=10).map(|n| format!(r#"{{"address":"198.51.100.{n}:{port}","mode":"nat"}}"#)).collect();
        write!(
            batch,
            r#"{comma}{{"op":"add-service","service":{{"protocol":"tcp","address":"192.0.2.100:{port}","servers":[{}]}}}}"#,
            servers.join(",")
        )
        .expect("a string takes everything");
    }
    batch.push(']');
    let file = lab.directory().join("batch.json");
    std::fs::write(&file, batch).expect("the lab's directory can be written to");
    let socket = lab.directory().join("lb/dpvsd.sock").display().to_string();
    let ctl = program("dpvs-ctl").display().to_string();
    // Meanwhile, others ask. One curl asks again and again, so that the start of programs does not count.
    let others = |seconds: usize| {
        let urls = "http://dpvsd/v1/timeouts ".repeat(200 * seconds);
        let asks = format!(
            "timeout 20 curl -sS --unix-socket {socket} -o /dev/null -w '%{{time_total}}\\n' --rate 200/s {urls} || true"
        );
        lab.spawn("lb", &["bash", "-c", &asks])
    };
    let slowest = |asked: Background| {
        let output = text(&asked.finish(Duration::from_secs(30)));
        let times: Vec<f64> = output.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(times.len() > 50, "they have hardly asked: {output}");
        times.into_iter().fold(0.0, f64::max)
    };
    let begun = Instant::now();
    let applies = lab.spawn("lb", &[&ctl, "--socket", &socket, "apply-batch", &file.display().to_string()]);
    let asked = others(4);
    let output = applies.finish(Duration::from_secs(30));
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", text(&output));
    drop(file);
    let waited = slowest(asked);
    println!("the batch took {took:?}; others waited up to {waited} s");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(waited < 0.5, "others waited {waited} s");

    let asked = others(2);
    let begun = Instant::now();
    let scrape = format!("curl -sSf --unix-socket {socket} http://d/metrics | grep -c '^dpvs_server_weight{{'");
    assert_eq!(lab.shell("lb", &scrape).trim(), "100000");
    let took = begun.elapsed();
    let waited = slowest(asked);
    println!("the metrics of 100,000 servers took {took:?}; others waited up to {waited} s");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(waited < 0.5, "others waited {waited} s");

    let listed: Value = serde_json::from_str(&lab.ctl("--json services list")).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(10_000));
    // The same once more in pages that do not divide the whole.
    let page = lab.shell(
        "lb",
        &format!("curl -sSf --unix-socket {socket} 'http://d/v1/services?limit=3&cursor=tcp/192.0.2.100:9998'"),
    );
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!((page["services"].as_array().map(Vec::len), page.get("next")), (Some(2), None));
}

/// The tester's program, installed under target/ when it is not there yet.
fn schemathesis() -> PathBuf {
    let folder = source_tree().join("target/schemathesis");
    let program = folder.join("bin/schemathesis");
    let is_there = || {
        let output = Command::new(&program).arg("--version").output();
        output.is_ok_and(|output| text(&output).contains(SCHEMATHESIS))
    };
    if !is_there() {
        let script = format!(
            "python3 -m venv --clear '{0}' && '{0}/bin/pip' install --quiet --disable-pip-version-check schemathesis=={SCHEMATHESIS}",
            folder.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
        assert!(
            output.status.success() && is_there(),
            "schemathesis {SCHEMATHESIS} cannot be installed: this test needs python3-venv (deploy/setup.sh --tests) and PyPI, or \
             an index named by PIP_INDEX_URL: {}",
            text(&output)
        );
    }
    program
}

/// Requests made from the OpenAPI document, good ones and bad ones, get the answers that it describes.
#[test]
fn the_api_is_as_its_document_says() {
    let schemathesis = schemathesis().display().to_string();
    let remote = Remote::start();
    let url = format!("https://127.0.0.1:{PORT}");
    let (ca, pem, key) = (remote.file("ca.pem"), remote.file("admin.pem"), remote.file("admin.key"));
    let settings = source_tree().join("tests/schemathesis.toml").display().to_string();
    let document = format!("{url}/v1/openapi.json");
    let mut command = vec![schemathesis.as_str(), "--config-file", &settings, "run", &document, "--url", &url];
    command.extend(["--tls-verify", &ca, "--request-cert", &pem, "--request-cert-key", &key, "--checks", "all"]);
    // It never ends; other tests follow it.
    command.extend(["--exclude-path", "/v1/events"]);
    // Without the phase "coverage", which takes a minute. A connection that was idle may be closed when a request is sent.
    command.extend(["--phases", "fuzzing,stateful", "--max-examples", "10", "--seed", "1"]);
    command.extend(["--request-timeout", "10", "--request-retries", "3", "--max-failures", "10"]);
    let tester = remote.lab.spawn("lb", &command);
    let output = tester.finish(Duration::from_secs(100));
    assert!(output.status.success(), "{}", text(&output));
    assert!(remote.lab.ctl("status").contains("Version"));
}
