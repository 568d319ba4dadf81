//! Devices under test: dpvsd, testpmd, and what is named on the command line.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::snapshot::ForwardMode;
use dpvs_client::Client;

use super::cable::Role;
use super::process::{CoresUsed, Process};
use crate::flows::{Family, Flows, LOCAL_PORTS, Net, mac_of};
use crate::frame::OWN_MAC;

/// How long a device may take to start.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a device's packets come from.
#[derive(Clone, Debug)]
pub enum Port {
    /// A memif connection, in this role.
    Memif(Role, PathBuf),
    /// A file that is repeated, with so many packets.
    File(PathBuf, u32),
}

/// What all devices are started with.
#[derive(Clone, Debug)]
pub struct Bench {
    /// For configurations, sockets and logs.
    pub directory: PathBuf,
    /// Cores.
    pub cores: CoresUsed,
    /// dpvsd's program file.
    pub dpvsd: PathBuf,
}

impl Port {
    fn device(&self) -> (&'static str, String) {
        match self {
            Port::Memif(role, path) => {
                ("net_memif0", format!("role={},socket={},socket-abstract=no", role.name(), path.display()))
            }
            Port::File(path, _) => ("net_pcap0", format!("rx_pcap={},infinite_rx=1", path.display())),
        }
    }

    /// Buffers that the device keeps for ever.
    fn kept_buffers(&self) -> u32 {
        match self {
            Port::Memif(..) => 0,
            Port::File(_, packets) => *packets,
        }
    }
}

/// A running dpvsd.
pub struct Dpvsd {
    process: Process,
    client: Client,
}

impl Dpvsd {
    /// Starts it with a service of this mode for either protocol and family.
    pub fn start(bench: &Bench, mode: ForwardMode, port: &Port, flows: u32) -> Result<Self> {
        ensure!(
            bench.dpvsd.is_file(),
            "{} is missing: build it with `cargo build --release`, or name it with --dpvsd",
            bench.dpvsd.display()
        );
        let socket = bench.directory.join("dpvsd.sock");
        let config = bench.directory.join("dpvsd.toml");
        fs::write(&config, configuration(bench, &socket, mode, port, flows))?;
        let command = format!(
            "sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; exec {} --config {}'",
            bench.dpvsd.display(),
            config.display()
        );
        let mut process = Process::start("dpvsd", &command, bench.directory.join("dpvsd.log"), bench.cores, true)?;
        process.wait_for(0, START_TIMEOUT, |text| text.contains("ready:").then_some(()))?;
        process.inside(&["ip", "-batch", "-"], &routes(matches!(port, Port::File(..))))?;
        let client = Client::new(Some(&socket))?;
        Ok(Self { process, client })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Packets sent so far, and when that was so.
    pub fn sent(&self) -> Result<(u64, Instant)> {
        let before = Instant::now();
        let ports = self.client.ports()?;
        let middle = before + before.elapsed() / 2;
        Ok((ports.first().context("no port")?.tx_packets, middle))
    }

    /// Packets dropped so far, by reason.
    pub fn drops(&self) -> Result<Vec<(String, u64)>> {
        let drops = self.client.drops()?;
        Ok(drops.into_iter().filter(|drop| drop.packets > 0).map(|drop| (drop.reason, drop.packets)).collect())
    }
}

/// The file for dpvsd.
fn configuration(bench: &Bench, socket: &Path, mode: ForwardMode, port: &Port, flows: u32) -> String {
    let (device, mut vdev) = port.device();
    if matches!(port, Port::Memif(..)) {
        vdev += &format!(",mac={}", colons(OWN_MAC));
    }
    let CoresUsed { generator, device: core } = bench.cores;
    let connections = flows.saturating_mul(2).max(1 << 20);
    let mut text = format!(
        "[daemon]\nsocket = \"{}\"\ncontrol_core = {generator}\n\n\
         [eal]\nfile_prefix = \"dpvs-bench-{}\"\npacket_buffers = {}\n\n\
         [workers]\ncores = [{core}]\n\n[limits]\nconnections = {connections}\n\n\
         [[ports]]\nname = \"bench\"\ndevice = \"{device}\"\nvdev = \"{vdev}\"\n",
        socket.display(),
        std::process::id(),
        port.kept_buffers(),
    );
    let (v4, v6) = (Flows::virt::<Ipv4Addr>(0), Flows::virt::<Ipv6Addr>(0));
    let _ = writeln!(
        text,
        "addresses = [\"{}/24\", \"{}/64\", \"{}/32\", \"{}/128\"]",
        Ipv4Addr::host(Net::Link, 1),
        Ipv6Addr::host(Net::Link, 1),
        v4.0,
        v6.0
    );
    for protocol in [proto::Protocol::UDP, proto::Protocol::TCP] {
        let flows = Flows::new(mode, protocol, 1, flows);
        service::<Ipv4Addr>(&mut text, &flows, format!("{}:{}", v4.0, v4.1), |addr| format!("{addr}"));
        service::<Ipv6Addr>(&mut text, &flows, format!("[{}]:{}", v6.0, v6.1), |addr| format!("[{addr}]"));
    }
    text
}

fn service<A: Family>(text: &mut String, flows: &Flows, address: String, bracket: impl Fn(A) -> String) {
    let protocol = if flows.protocol == proto::Protocol::TCP { "tcp" } else { "udp" };
    let _ = writeln!(text, "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\nscheduler = \"rr\"");
    if flows.mode == ForwardMode::FullNat {
        let locals: Vec<String> = (0..flows.locals).map(|n| format!("\"{}\"", A::host(Net::Local, 1 + n))).collect();
        let (first, last) = LOCAL_PORTS;
        let _ = writeln!(
            text,
            "local_addresses = [{}]\nlocal_ports = {{ first = {first}, last = {last} }}",
            locals.join(", ")
        );
    }
    let mode = mode_name(flows.mode).to_lowercase();
    for n in 0..flows.servers() {
        let server = bracket(A::host(Net::Server, 1 + n));
        let _ = writeln!(text, "\n[[services.servers]]\naddress = \"{server}:{}\"\nmode = \"{mode}\"", flows.dport());
    }
}

/// A mode's name in tables.
pub fn mode_name(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::Nat => "NAT",
        ForwardMode::FullNat => "FULLNAT",
        ForwardMode::DirectRouting => "DR",
        ForwardMode::Tunnel => "TUN",
    }
}

/// Commands for `ip -batch`: routes to clients and servers, and neighbours where nobody answers for them.
fn routes(with_neighbours: bool) -> String {
    fn of<A: Family>(text: &mut String, with_neighbours: bool) {
        let net = |net| format!("{}/{}", A::host(net, 0), A::prefix_len(net));
        let router = A::host(Net::Link, 2);
        let _ = writeln!(text, "route add {} dev dpvs0", net(Net::Server));
        let _ = writeln!(text, "route add {} via {router} dev dpvs0", net(Net::Client));
        if with_neighbours {
            let servers = (0..crate::flows::SERVERS).map(|n| A::host(Net::Server, 1 + n));
            for addr in servers.chain([router]) {
                let _ = writeln!(text, "neigh replace {addr} lladdr {} dev dpvs0", colons(mac_of(addr.into())));
            }
        }
    }
    let mut text = String::new();
    of::<Ipv4Addr>(&mut text, with_neighbours);
    of::<Ipv6Addr>(&mut text, with_neighbours);
    text
}

/// A MAC address as people write it.
pub fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A running testpmd.
pub struct Testpmd {
    process: Process,
}

/// Debian's name of it.
pub const TESTPMD: &str = "dpdk-testpmd";

impl Testpmd {
    /// Starts it; it forwards nothing yet.
    pub fn start(bench: &Bench, port: &Port) -> Result<Self> {
        let (device, vdev) = port.device();
        let CoresUsed { generator, device: core } = bench.cores;
        let command = format!(
            "stdbuf -oL {TESTPMD} --in-memory --no-pci --no-telemetry --file-prefix=dpvs-bench-peer-{} \
             '--lcores=0@{generator},1@{core}' '--vdev={device},{vdev}' -- --interactive --nb-cores=1 --rxq=1 --txq=1 \
             --rxd=1024 --txd=1024 --burst=64 --port-topology=loop --mbuf-size=2176 --total-num-mbufs={} \
             --no-flush-rx --disable-link-check",
            std::process::id(),
            16_384 + port.kept_buffers(),
        );
        let mut process = Process::start(TESTPMD, &command, bench.directory.join("testpmd.log"), bench.cores, false)?;
        process.wait_for(0, START_TIMEOUT, |text| text.contains("testpmd>").then_some(()))?;
        Ok(Self { process })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Forwards in this way from now on: "io", "macswap" or "5tswap".
    pub fn forward(&mut self, mode: &str) -> Result<()> {
        self.process.say("stop")?;
        self.process.say(&format!("set fwd {mode}"))?;
        let from = self.process.output().len();
        self.process.say("start")?;
        let said = format!("{mode} packet forwarding - ports");
        self.process.wait_for(from, START_TIMEOUT, |text| text.contains(&said).then_some(()))
    }

    /// Millions of packets that it sends per second, as it says itself.
    pub fn measure(&mut self, interval: Duration) -> Result<f64> {
        self.packets_per_second()?;
        std::thread::sleep(interval);
        Ok(self.packets_per_second()? / 1e6)
    }

    /// Since it was last asked.
    fn packets_per_second(&mut self) -> Result<f64> {
        let from = self.process.output().len();
        self.process.say("show port stats 0")?;
        self.process.wait_for(from, Duration::from_secs(5), transmitted)
    }
}

/// Reads "Tx-pps:   123   Tx-bps:  ..." once its line is whole.
fn transmitted(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("Tx-pps:")?;
    rest.contains('\n').then_some(())?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A running program of the user's.
pub struct External {
    process: Process,
}

impl External {
    /// Starts the command, which finds the socket and its role in `DPVS_BENCH_SOCKET` and `DPVS_BENCH_ROLE`, the cores of its
    /// worker and of all else in `DPVS_BENCH_CORE` and `DPVS_BENCH_CONTROL_CORE`.
    pub fn start(bench: &Bench, command: &str, role: Role, socket: &Path) -> Result<Self> {
        let command = format!(
            "env DPVS_BENCH_SOCKET={} DPVS_BENCH_ROLE={} DPVS_BENCH_CORE={} DPVS_BENCH_CONTROL_CORE={} {command}",
            socket.display(),
            role.name(),
            bench.cores.device,
            bench.cores.generator,
        );
        let log = bench.directory.join("external.log");
        Ok(Self { process: Process::start("the device under test", &command, log, bench.cores, false)? })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn testpmd_statistics_are_read_when_they_are_whole() {
        let text =
            "  Throughput (since last show)\n  Rx-pps:     37000001          Rx-bps:  1\n  Tx-pps:     36999999 ";
        assert_eq!(transmitted(text), None);
        assert_eq!(transmitted(&format!("{text}         Tx-bps:  2\n")), Some(36_999_999.0));
        assert_eq!(transmitted("Tx-packets: 5\n"), None);
    }

    #[test]
    fn dpvsd_takes_the_configuration() {
        let bench =
            Bench { directory: "/run/x".into(), cores: CoresUsed { generator: 0, device: 1 }, dpvsd: "dpvsd".into() };
        let memif = Port::Memif(Role::Client, "/run/x/memif.sock".into());
        let file = Port::File("/run/x/file.pcap".into(), 100_000);
        for mode in [ForwardMode::Nat, ForwardMode::FullNat, ForwardMode::DirectRouting, ForwardMode::Tunnel] {
            for port in [&memif, &file] {
                let text = configuration(&bench, Path::new("/run/x/dpvsd.sock"), mode, port, 1_000_000);
                let file = dpvs_api::ConfigFile { path: "bench".into(), text };
                let sources = dpvs_api::ConfigSources { files: vec![file], environment: Default::default() };
                let config = control::config::Config::parse(&sources).unwrap();
                assert_eq!(config.services.len(), 4);
                assert_eq!(config.limits.connections, 2_000_000);
                assert_eq!(config.services[0].servers.len(), 4);
            }
        }
    }

    #[test]
    fn both_families_have_routes_and_static_neighbours_only_without_a_generator() {
        assert_eq!(routes(false).lines().count(), 4);
        let text = routes(true);
        assert!(text.contains("route add 10.0.0.0/8 via 192.0.2.2 dev dpvs0\n"), "{text}");
        assert!(text.contains("neigh replace 172.16.0.1 lladdr 02:10:ac:10:00:01 dev dpvs0\n"), "{text}");
        assert_eq!(text.lines().count(), 14);
    }
}
