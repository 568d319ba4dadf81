//! A lab, up from creation to drop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{Family, Service, Topology};

/// What stands between clients and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Director {
    /// The program under test.
    Dpvsd {
        /// Number of worker threads.
        workers: u8,
        /// Driver of its ports.
        pmd: Pmd,
    },
    /// The Linux kernel, as the reference.
    Ipvs,
}

impl Director {
    /// `dpvsd` on net_tap ports.
    pub fn dpvsd(workers: u8) -> Self {
        Director::Dpvsd { workers, pmd: Pmd::Tap }
    }

    /// Schedulers keep their place per worker, so that shares are exact to this many connections.
    pub fn independent_schedulers(self) -> u64 {
        match self {
            Director::Dpvsd { workers, .. } => u64::from(workers),
            Director::Ipvs => 1,
        }
    }
}

/// DPDK driver of the lab's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmd {
    /// net_tap.
    Tap,
    /// net_af_packet.
    AfPacket,
    /// net_memif.
    Memif,
}

impl Pmd {
    /// As `deploy/lab` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Pmd::Tap => "tap",
            Pmd::AfPacket => "af_packet",
            Pmd::Memif => "memif",
        }
    }
}

/// Root of the source tree.
pub fn source_tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace").to_owned()
}

/// Where the programs under test are: `DPVS_BIN_DIR`, or the release build.
pub fn program(name: &str) -> PathBuf {
    std::env::var_os("DPVS_BIN_DIR").map_or_else(|| source_tree().join("target/release"), PathBuf::from).join(name)
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Background {
    child: Option<Child>,
    what: String,
}

impl Background {
    /// Waits for its end and returns what it printed.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub fn finish(mut self, limit: Duration) -> Output {
        let mut child = self.child.take().expect("taken here or on drop only");
        // The pipes are read while waiting: a process that fills one would never end.
        let pid = child.id().to_string();
        let stdin = child.stdin.take();
        drop(stdin);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(limit) {
            Ok(output) => output.expect("a child can be waited for"),
            Err(_) => {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
                panic!("{}: still running after {limit:?}", self.what)
            }
        }
    }

    /// Sends SIGTERM or another signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("not finished").id().to_string();
        let _ = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `command` with `input`, for at most a minute.
fn output_of(mut command: Command, input: &str) -> Output {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may have closed it.
        let _ = stdin.write_all(input.as_bytes());
    }
    Background { child: Some(child), what }.finish(Duration::from_secs(60))
}

/// Both streams of a finished command.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The program that serves this.
fn daemon(what: &str) -> &'static str {
    match what {
        "http" => "nginx",
        "dns" => "unbound",
        "smtp" => "smtpd",
        _ => panic!("{what} is not killed and revived"),
    }
}

/// A topology with its hosts; dropping it removes everything, whatever became of the test.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    servers: u8,
}

impl Lab {
    /// One client and three servers.
    pub fn new(topology: Topology) -> Self {
        Self::with_hosts(topology, 1, 3)
    }

    /// With 1 to 9 clients and servers.
    pub fn with_hosts(topology: Topology, clients: u8, servers: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name, topology, servers };
        lab.script(&[
            "up",
            &lab.name,
            topology.name(),
            "--clients",
            &clients.to_string(),
            "--servers",
            &servers.to_string(),
        ]);
        lab
    }

    /// How it is connected.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// Number of real servers.
    pub fn servers(&self) -> u8 {
        self.servers
    }

    /// Its directory, with the logs of everything that runs in it.
    pub fn directory(&self) -> PathBuf {
        Path::new("/run/dpvs-lab").join(&self.name)
    }

    /// Standard output and error of `dpvsd`.
    pub fn director_log(&self) -> String {
        std::fs::read_to_string(self.directory().join("lb/dpvsd.log")).unwrap_or_default()
    }

    fn script_output(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(source_tree().join("deploy/lab"));
        command.args(arguments);
        output_of(command, input)
    }

    fn script(&self, arguments: &[&str]) -> String {
        let output = self.script_output(arguments, "");
        assert!(output.status.success(), "lab {}: {}", arguments.join(" "), text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `http`, `dns`, `smtp`, `iperf`, `ftp`, `tftp` or `tunnel` on every server.
    pub fn serve(&self, what: &[&str]) {
        self.script(&[&["serve", &self.name], what].concat());
    }

    /// Makes a random file, `/files/NAME` on every server's web; returns its SHA-256 in hexadecimal.
    pub fn file(&self, name: &str, bytes: u64) -> String {
        self.script(&["file", &self.name, name, &bytes.to_string()]).trim().to_owned()
    }

    /// Starts the kernel that is real server `u1`.
    pub fn oracle_server(&self) {
        self.script(&["oracle-server", &self.name]);
    }

    /// Adds the TAP devices that [`Wire`](crate::wire::Wire) uses to the switches.
    pub(crate) fn probe(&self) {
        self.script(&["probe", &self.name]);
    }

    /// Name of a host's network namespace.
    pub fn namespace(&self, host: &str) -> String {
        format!("dpvslab-{}-{host}", self.name)
    }

    /// Runs a shell script on the director, where `ipvsadm` is that of the director.
    pub fn director_script(&self, director: Director, script: &str) -> Output {
        let shell = match director {
            Director::Ipvs => "sh -s".to_owned(),
            Director::Dpvsd { .. } => {
                let bin = program("ipvsadm");
                let bin = bin.parent().expect("a program is in a directory").display().to_string();
                let socket = self.directory().join("lb/dpvsd.sock").display().to_string();
                format!("env PATH={bin}:/usr/sbin:/usr/bin:/sbin:/bin DPVS_SOCKET={socket} sh -s")
            }
        };
        let command: Vec<&str> = ["exec", &self.name, "director"].into_iter().chain(shell.split(' ')).collect();
        self.script_output(&command, script)
    }

    /// Starts the director.
    pub fn start(&self, director: Director) {
        match director {
            Director::Ipvs => self.script(&["director", &self.name, "ipvs"]),
            Director::Dpvsd { workers, pmd } => {
                let workers = workers.to_string();
                self.script(&["director", &self.name, "dpvsd", "--workers", &workers, "--pmd", pmd.name()])
            }
        };
    }

    /// Starts `dpvsd` with a configuration file of the test's own.
    pub fn start_with(&self, config: &Path) {
        self.script(&["director", &self.name, "dpvsd", "--config", &config.to_string_lossy()]);
    }

    /// The configuration file that [`start`](Self::start) would use.
    pub fn config_text(&self, workers: u8, pmd: Pmd) -> String {
        self.script(&["config", &self.name, "--workers", &workers.to_string(), "--pmd", pmd.name()])
    }

    /// Ends the director with a signal and waits for that.
    pub fn stop_director(&self, signal: &str) {
        self.script(&["stop-director", &self.name, signal]);
    }

    /// Process id of `dpvsd`.
    pub fn director_pid(&self) -> String {
        let path = self.directory().join("lb/pid");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")).trim().to_owned()
    }

    /// Runs `ipvsadm` with arguments separated by blanks.
    pub fn ipvsadm(&self, arguments: &str) -> String {
        self.script(&[&["ipvsadm", &self.name], arguments.split_whitespace().collect::<Vec<_>>().as_slice()].concat())
    }

    /// Runs `dpvs-ctl`.
    pub fn ctl(&self, arguments: &str) -> String {
        self.script(&[&["ctl", &self.name], arguments.split_whitespace().collect::<Vec<_>>().as_slice()].concat())
    }

    /// Adds services with their servers, by `ipvsadm --restore`.
    pub fn add(&self, services: &[Service]) {
        self.restore(&services.iter().map(|service| service.rules(self)).collect::<String>());
    }

    /// Runs `ipvsadm --restore` with these lines.
    pub fn restore(&self, rules: &str) {
        let output = self.script_output(&["ipvsadm", &self.name, "-R"], rules);
        assert!(output.status.success(), "ipvsadm -R: {}\n{rules}", text(&output));
    }

    /// Runs a command on a host; returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, host: &str, command: &[&str]) -> String {
        let output = self.try_run(host, command);
        assert!(output.status.success(), "{host}: {}: {}\n{}", command.join(" "), output.status, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command on a host, which may fail.
    pub fn try_run(&self, host: &str, command: &[&str]) -> Output {
        self.script_output(&[&["exec", &self.name, host], command].concat(), "")
    }

    /// Runs a shell script on a host.
    pub fn shell(&self, host: &str, script: &str) -> String {
        self.run(host, &["bash", "-o", "pipefail", "-euc", script])
    }

    /// Starts a command on a host.
    pub fn spawn(&self, host: &str, command: &[&str]) -> Background {
        let mut process = Command::new("ip");
        process.args(["netns", "exec", &self.namespace(host)]).args(command);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{host}: {}", command.join(" "));
        let child = process.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Background { child: Some(child), what }
    }

    /// Kills `http`, `dns` or `smtp` on a server, as a crash would.
    pub fn kill(&self, host: &str, what: &str) {
        let pid = self.directory().join(host).join(format!("{}.pid", daemon(what)));
        self.shell(host, &format!("pid=$(cat {}); kill -9 $pid $(pgrep -P $pid)", pid.display()));
    }

    /// Starts it again.
    pub fn revive(&self, host: &str, what: &str) -> Background {
        let directory = self.directory().join(host);
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let background = match daemon(what) {
            "nginx" => {
                let (log, config) = (path("error.log"), path("nginx.conf"));
                self.spawn(host, &["nginx", "-e", &log, "-c", &config, "-g", "daemon off;"])
            }
            "unbound" => self.spawn(host, &["unbound", "-d", "-c", &path("unbound.conf")]),
            _ => self.spawn(host, &["sh", "-eu", &path("smtpd/start")]),
        };
        if what == "smtp" {
            let pid = background.child.as_ref().map_or(0, Child::id);
            std::fs::write(directory.join("smtpd.pid"), pid.to_string()).expect("the lab's directory is ours");
        }
        background
    }

    /// Requests that the web server of `host` has logged: the lines of its access log.
    pub fn requests(&self, host: &str) -> Vec<String> {
        let path = self.directory().join(host).join("access.log");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Number of requests that each server has logged, once there are `total`. A server logs a request after its last
    /// byte has left: the client may be done before.
    pub fn request_counts(&self, total: u64) -> Vec<u64> {
        let start = Instant::now();
        loop {
            let counts: Vec<u64> = (1..=self.servers).map(|n| self.requests(&format!("s{n}")).len() as u64).collect();
            if counts.iter().sum::<u64>() >= total || start.elapsed() > Duration::from_secs(3) {
                return counts;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Time until a single request to `url` succeeds; for changes that take effect at once, but elsewhere.
    pub fn wait_for_http(&self, url: &str, limit: Duration) -> Duration {
        let start = Instant::now();
        while !self.try_run("c1", &["curl", "-sfg", "--max-time", "1", "-o", "/dev/null", url]).status.success() {
            assert!(start.elapsed() < limit, "{url}: no answer within {limit:?}\n{}", self.director_log());
        }
        start.elapsed()
    }

    /// The hosts' names of a family's servers, in order.
    pub fn server_addresses(&self, family: Family) -> Vec<std::net::IpAddr> {
        (1..=self.servers).map(|n| family.server(self.topology, n)).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("director's log:\n{}", self.director_log());
        }
        let output = self.script_output(&["down", &self.name], "");
        if !output.status.success() {
            eprintln!("lab down {}: {}", self.name, text(&output));
        }
    }
}
