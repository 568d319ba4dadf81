//! Traffic from the clients, and what they saw.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::{Background, Lab, eventually};

/// Size of the file in bulk transfers.
pub const BULK: u64 = 64 << 20;

/// SHA-256 of what a web client receives, in hexadecimal.
pub fn download_hash(lab: &Lab, client: &str, url: &str) -> String {
    let script = format!("curl -sSfg --max-time 50 '{url}' | sha256sum | cut -d' ' -f1");
    lab.shell(client, &script).trim().to_owned()
}

/// The name of the server that answers a single request.
pub fn who_answers(lab: &Lab, client: &str, url: &str) -> String {
    lab.run(client, &["curl", "-sSfg", "--max-time", "5", url]).trim().to_owned()
}

/// A download at a limited speed, for changes under way.
#[derive(Debug)]
pub struct SlowDownload {
    process: Background,
    headers: PathBuf,
}

impl SlowDownload {
    /// Starts it, and returns when the first bytes are there; `rate` as in `curl --limit-rate`.
    pub fn start(lab: &Lab, client: &str, url: &str, rate: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let headers = lab.directory().join(format!("headers-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let script = format!(
            "curl -sSfg --max-time 50 --limit-rate {rate} -D {} '{url}' | sha256sum | cut -d' ' -f1",
            headers.display()
        );
        let process = lab.spawn(client, &["bash", "-o", "pipefail", "-euc", &script]);
        let download = Self { process, headers };
        eventually("a download starts", Duration::from_secs(10), || download.server_if_known().is_some());
        download
    }

    /// Name of the server that it comes from.
    pub fn server(&self) -> String {
        self.server_if_known().expect("it has started")
    }

    fn server_if_known(&self) -> Option<String> {
        let headers = std::fs::read_to_string(&self.headers).ok()?;
        let (complete, _) = headers.rsplit_once('\n')?;
        complete.lines().find_map(|line| Some(line.strip_prefix("X-Server:")?.trim().to_owned()))
    }

    /// Waits for the end: the SHA-256 of what came, or what curl says.
    pub fn finish(self) -> Result<String, String> {
        let output = self.process.finish(Duration::from_secs(55));
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

/// What `ab` (Apache's HTTP benchmark) counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests answered.
    pub complete: u64,
    /// Requests that failed in any way.
    pub failed: u64,
}

/// Requests `url` on new connections, `concurrency` at a time.
pub fn load(lab: &Lab, client: &str, url: &str, requests: u64, concurrency: u64) -> Load {
    let (requests, concurrency) = (requests.to_string(), concurrency.to_string());
    // Without -r a reset ends the run: it is a failure, not a number.
    let report = lab.run(client, &["ab", "-q", "-s", "20", "-n", &requests, "-c", &concurrency, url]);
    let number = |label: &str| {
        let line = report.lines().find(|line| line.starts_with(label));
        let word = line.and_then(|line| line.split_whitespace().last());
        word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no '{label}' in ab's report:\n{report}"))
    };
    Load { complete: number("Complete requests:"), failed: number("Failed requests:") }
}

/// What the receiver of an iperf3 run got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Payload in bits per second.
    pub bits_per_second: f64,
    /// Payload bytes.
    pub bytes: f64,
    /// Share of UDP datagrams lost, in percent; 0 for TCP.
    pub lost_percent: f64,
}

/// Runs `iperf3` against `address` with further options; `seconds` of traffic.
pub fn iperf(lab: &Lab, client: &str, address: SocketAddr, seconds: u32, options: &[&str]) -> Throughput {
    let (host, port, seconds) = (address.ip().to_string(), address.port().to_string(), seconds.to_string());
    let command = ["iperf3", "--json", "--connect-timeout", "5000", "-c", &host, "-p", &port, "-t", &seconds];
    let output = lab.run(client, &[&command, options].concat());
    let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("iperf3: {error}\n{output}"));
    let end = &report["end"];
    let udp = report["start"]["test_start"]["protocol"] == "UDP";
    let received = if udp { &end["sum"] } else { &end["sum_received"] };
    let number = |key: &str| received[key].as_f64().unwrap_or_else(|| panic!("no {key} in iperf3's report:\n{output}"));
    Throughput {
        bits_per_second: number("bits_per_second"),
        bytes: number("bytes"),
        lost_percent: if udp { number("lost_percent") } else { 0.0 },
    }
}

/// Asks the name server at `address` for `name`; the answer's text records, or what dig says instead.
pub fn dig(lab: &Lab, client: &str, address: SocketAddr, name: &str, options: &[&str]) -> Result<Vec<String>, String> {
    let (server, port) = (format!("@{}", address.ip()), address.port().to_string());
    let command = ["dig", "+short", "+tries=1", "+time=2", "-p", &port, &server, name, "TXT"];
    let output = lab.try_run(client, &[&command, options].concat());
    if !output.status.success() {
        return Err(crate::lab::text(&output));
    }
    // A try that failed before another one did not is a comment.
    let answer = String::from_utf8_lossy(&output.stdout);
    let records = answer.lines().filter(|line| !line.starts_with(';'));
    Ok(records.map(|line| line.trim_matches('"').to_owned()).collect())
}
