//! Debian's keepalived and dpvsd with the same configuration, beside the same servers: what each says of every server.
//!
//! keepalived runs on Linux IPVS (`deploy/ipvs-oracle`), and what it decides stands in the kernel's table; then dpvsd takes its
//! place with what `dpvs-ctl import` makes of the file. See `keepalived/checkers.conf`.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use dpvs_e2e::lab::{Background, program, source_tree, text};
use dpvs_e2e::{Config, Director, Lab, Topology};

const CONFIG: &str = include_str!("keepalived/checkers.conf");
const NGINX: &str = include_str!("keepalived/nginx.conf");
const UNBOUND: &str = include_str!("keepalived/unbound.conf");

/// Answers "ab", whatever it is asked.
const ANSWERS: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('0.0.0.0', 9002))
while True:
    server.sendto(b'ab', server.recvfrom(99)[1])
";

/// Lines of [`CONFIG`] that `dpvs-ctl import` warns about.
const WARNINGS: [&str; 11] = [
    "router_id lab",
    "script_user root",
    "track_file level",
    "bfd_instance peer",
    "fast_recovery",
    "fast_recovery",
    "quorum 100: all servers have 2 together, which is taken",
    "no protocol is written: UDP is taken, as keepalived does",
    "services without a port must be persistent: as in keepalived, they are for 360 seconds",
    "FILE_CHECK",
    "BFD_CHECK",
];

/// Time in which all verdicts are there, retries and all; Linux is slow in `deploy/ipvs-oracle`.
const LIMIT: Duration = Duration::from_secs(20);
/// Time for which they stay, in which most checks run once more.
const STAY: Duration = Duration::from_millis(1000);

/// Services, and servers with their weights, as ipvsadm lists them.
fn listed(lab: &Lab) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut service = String::new();
    for line in lab.ipvsadm("-Ln").lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["->", server, method, weight, ..] => lines.insert(format!("{service} -> {server} {method} {weight}")),
            _ => {
                service = words.join(" ");
                lines.insert(service.clone())
            }
        };
    }
    lines
}

/// What [`CONFIG`] says behind its servers, in this column.
fn expected(column: usize) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let (mut service, mut method) = ("", "");
    for line in CONFIG.lines() {
        let (line, comment) = line.split_once(" # ").unwrap_or((line, ""));
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["lvs_method", "DR"] => method = "Route",
            ["lvs_method", "TUN"] => method = "Tunnel",
            ["virtual_server", ..] => {
                (service, method) = (comment, "Masq");
                lines.insert(service.to_owned());
            }
            ["real_server" | "sorry_server", address, port, ..] => {
                let (address, port) = (address.parse().expect("an address"), port.parse().expect("a port"));
                let weights: Vec<&str> = comment.split_whitespace().collect();
                let weight = weights.get(column).unwrap_or(&weights[column % 2]);
                if *weight != "-" {
                    lines.insert(format!("{service} -> {} {method} {weight}", SocketAddr::new(address, port)));
                }
            }
            _ => assert!(comment.is_empty() || words.is_empty(), "what is {line}?"),
        }
    }
    lines
}

/// Waits until the director's table is that of the column, and stays so.
fn expect(lab: &Lab, who: &str, column: usize, log: &dyn Fn() -> String) {
    let began = Instant::now();
    let expected = expected(column);
    let differences = || {
        let found = listed(lab);
        let lacks = expected.difference(&found).map(|line| format!("lacks {line}\n"));
        lacks.chain(found.difference(&expected).map(|line| format!("has {line}\n"))).collect::<String>()
    };
    loop {
        let found = differences();
        if found.is_empty() {
            break;
        }
        assert!(began.elapsed() < LIMIT, "{who}, column {column}:\n{found}{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{who}, column {column}: {} lines after {:?}", expected.len(), began.elapsed());
    std::thread::sleep(STAY);
    let found = differences();
    assert!(found.is_empty(), "{who}, column {column}, later:\n{found}{}", log());
}

/// The servers' daemons, by host; they end when they are dropped.
struct Servers<'a> {
    lab: &'a Lab,
    directory: &'a Path,
}

impl Servers<'_> {
    fn write(&self, name: &str, content: &str) -> String {
        let path = self.directory.join(name);
        fs::write(&path, content).expect("a temporary file");
        path.to_string_lossy().into_owned()
    }

    /// Prepares what the daemons share.
    fn prepare(&self) {
        let directory = self.directory.display();
        self.write("large", &"large\n".repeat(1 << 19));
        self.write("level", "0\n");
        let check = self.write("check", &format!("#!/bin/sh\n[ -e {directory}/flipped ] && exit $2\nexit $1\n"));
        self.lab.run("lb", &["chmod", "755", &check, &directory.to_string()]);
        self.lab.shell(
            "lb",
            &format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=www.example \
                 -keyout {directory}/key.pem -out {directory}/cert.pem 2>/dev/null"
            ),
        );
    }

    /// Web and name server of a host.
    fn start(&self, host: &str) -> Vec<Background> {
        let ports: String = (8001..=8026).map(|port| format!("listen {port}; ")).collect();
        let nginx = NGINX.replace("DIRECTORY", &self.directory.to_string_lossy()).replace("HOST", host);
        let nginx = self.write(&format!("{host}.nginx.conf"), &nginx.replace("PORTS", &ports));
        let unbound = self.write("unbound.conf", UNBOUND);
        vec![
            self.lab.spawn(host, &["nginx", "-e", &format!("{nginx}.log"), "-c", &nginx, "-g", "daemon off;"]),
            self.lab.spawn(host, &["unbound", "-d", "-c", &unbound]),
        ]
    }
}

/// Ends daemons.
fn end(daemons: Vec<Background>) {
    for daemon in &daemons {
        daemon.signal("TERM");
    }
    for daemon in daemons {
        daemon.finish(Duration::from_secs(5));
    }
}

/// From the servers as they are at first to those that come later.
fn flip<'a>(servers: &Servers<'a>, first: Vec<Background>) -> Vec<Background> {
    end(first);
    servers.lab.kill("s1", "smtp");
    servers.write("flipped", "");
    servers.start("s3")
}

#[test]
fn verdicts_are_those_of_keepalived() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    // What of it Linux can see.
    let directory = lab.directory().join("lb/ipvs/test");
    fs::create_dir_all(&directory).expect("the lab's directory is ours");
    let servers = Servers { lab: &lab, directory: &directory };
    servers.prepare();
    let digest = lab.shell("lb", &format!("md5sum <{}/large | cut -d' ' -f1", directory.display()));
    let config = CONFIG.replace("DIRECTORY", &directory.to_string_lossy()).replace("DIGEST", digest.trim());
    let file = servers.write("keepalived.conf", &config);

    lab.serve(&["smtp"]);
    // Every datagram to a closed port is to have its answer, for all checks there are.
    lab.run("s2", &["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    let first = servers.start("s1");
    let _second = servers.start("s2");
    let _others = [
        lab.spawn("s2", &["socat", "-u", "TCP-LISTEN:9001,fork,reuseaddr", "OPEN:/dev/null,append"]),
        lab.spawn("s2", &["python3", "-c", ANSWERS]),
        lab.spawn("s2", &["socat", "-u", "UDP-RECV:9003", "OPEN:/dev/null,append"]),
    ];

    lab.start(Director::Ipvs);
    let options = format!("-f {file} -p {0}/pid -c {0}/checkers.pid -b {0}/bfd.pid", directory.display());
    let log = directory.join("keepalived.log");
    let start = format!("keepalived --check --dont-fork --no-syslog --log-console {options} >{} 2>&1 &", log.display());
    let output = lab.director_script(Director::Ipvs, &start);
    assert!(output.status.success(), "{}", text(&output));
    let log = || fs::read_to_string(&log).unwrap_or_default();
    expect(&lab, "keepalived", 0, &log);
    let third = flip(&servers, first);
    expect(&lab, "keepalived", 1, &log);
    lab.stop_director("TERM");

    // The next director has another MAC address.
    for host in ["c1", "s1", "s2", "s3"] {
        lab.run(host, &["ip", "neigh", "flush", "all"]);
    }
    end(third);
    let _mail = lab.revive("s1", "smtp");
    fs::remove_file(directory.join("flipped")).expect("it was written");
    let first = servers.start("s1");
    let output = Command::new(program("dpvs-ctl")).args(["import", &file]).output().expect("dpvs-ctl runs");
    assert!(output.status.success(), "{}", text(&output));
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert_eq!(untranslated(&warnings), WARNINGS, "{warnings}");
    let imported = String::from_utf8_lossy(&output.stdout);
    let config = Config::of(&lab, 1, |text| text + "\n" + &imported);
    lab.start_with(&config.path());
    let log = || imported.to_string();
    expect(&lab, "dpvsd", 2, &log);
    let _third = flip(&servers, first);
    expect(&lab, "dpvsd", 3, &log);
    lab.stop_director("TERM");
}

/// The lines that have no translation, by what `dpvs-ctl import` says, and what else it says.
fn untranslated(warnings: &str) -> Vec<&str> {
    let message = |line| str::split_once(line, ": warning: ").map_or(line, |(_, message)| message);
    warnings.lines().map(message).map(|message| message.split(": not translated").next().unwrap_or(message)).collect()
}

#[test]
fn keepalived_takes_the_files_that_are_imported() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 1);
    let check = |file: &Path| text(&lab.try_run("c1", &["keepalived", "-t", "-f", &file.to_string_lossy()]));
    let sample = source_tree().join("control/import/tests/samples/everything.conf");
    let output = lab.try_run("c1", &["keepalived", "-t", "-f", &sample.to_string_lossy()]);
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
    // What it says of this one is what the file is to show.
    let file = lab.directory().join("keepalived.conf");
    fs::write(&file, CONFIG.replace("DIRECTORY/check", "/bin/true").replace("DIGEST", &"0".repeat(32)))
        .expect("the lab's directory is ours");
    let said = check(&file);
    let defaults =
        ["defaulting to UDP", "setting default", "only valid for persistent", "reducing quorum", "SECURITY VIOLATION"];
    let others: Vec<&str> = said.lines().filter(|line| !defaults.iter().any(|known| line.contains(known))).collect();
    assert!(others.is_empty(), "{others:?}");
}
