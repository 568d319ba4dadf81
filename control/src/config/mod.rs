//! The configuration file (TOML).
//!
//! What it is made of, included files and environment variables, is gathered by the crate `dpvs-file`, on the daemon's side
//! or by whoever sends it over the API; here is what it means. Services have the types of the API. Unknown keys are refused everywhere, and every error names file, line, column and
//! key, and what to do. `deploy/dpvsd.toml` shows every key with its default.

mod check;
mod document;
mod export;
pub mod reload;
mod schema;
mod values;

#[cfg(test)]
mod samples;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dataplane::snapshot::{HelperPorts, MAX_HELPER_PORTS};
pub use dpvs_api::ConfigError;
use dpvs_api::{ConfigSources, MarkRule, Service, Sysctls, Timeouts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use export::export;
pub use schema::schema;
pub use values::{CertificateName, MacAddress, Prefix};

use crate::metrics::Shown;

/// All that is wrong with the configuration file; at least one error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One line: the first error, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no error"),
            [only] => only.fmt(f),
            [first, rest @ ..] => write!(f, "{first} (and {} more: `dpvsd --check` shows all)", rest.len()),
        }
    }
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The process.
    pub daemon: Daemon,
    /// The API besides the socket of `daemon`.
    pub api: Api,
    /// DPDK's environment.
    pub eal: Eal,
    /// Worker threads.
    pub workers: Workers,
    /// Sizes of tables, fixed at start-up.
    pub limits: Limits,
    /// Director-wide connection timeouts.
    pub timeouts: Timeouts,
    /// Run-time settings by the names of IPVS's sysctls.
    pub sysctl: Sysctls,
    /// Helpers for protocols that open further connections.
    pub helpers: Helpers,
    /// Metrics for Prometheus.
    pub metrics: Metrics,
    /// Log of connections.
    pub connection_log: ConnectionLog,
    /// Ports, at least one.
    pub ports: Vec<Port>,
    /// Rules that give packets firewall marks, in order.
    pub marks: Vec<MarkRule>,
    /// Virtual services to begin with.
    pub services: Vec<Service>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// Unix socket of the API; an absolute path. Default `/run/dpvs/dpvsd.sock`.
    pub socket: PathBuf,
    /// Group that may use the socket, besides root. Default: the daemon's own group.
    pub socket_group: Option<String>,
    /// On SIGTERM, seconds to wait for connections to end while new ones are refused. Default 0: stop at once.
    pub drain_timeout: u32,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`) or `target=level,...`. Default `info`.
    pub log: String,
    /// Core of the control thread. Default: any but the workers'.
    pub control_core: Option<usize>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/dpvs/dpvsd.sock"),
            socket_group: None,
            drain_timeout: 0,
            log: "info".to_owned(),
            control_core: None,
        }
    }
}

/// The API besides the socket of `daemon`: over TCP with TLS, and for those who may only look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address and TCP port of the API by TLS. Clients need certificates. Default: none.
    pub listen: Option<SocketAddr>,
    /// PEM file with the daemon's certificate, and those between it and its root if there are any.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// PEM file with the certificates of the authorities that sign clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Clients that may change something: names in their certificates. All others may only look. Default: none.
    pub writers: Vec<CertificateName>,
    /// A further Unix socket, whose users may only look; an absolute path. Default: none.
    pub read_socket: Option<PathBuf>,
    /// Group that may use it, besides root. Default: the daemon's own group.
    pub read_group: Option<String>,
}

/// DPDK's environment abstraction layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eal {
    /// Tells DPDK processes on one machine apart. Default `dpvs`.
    pub file_prefix: String,
    /// Further EAL arguments. Default none.
    pub args: Vec<String>,
    /// Use of huge pages. Default `auto`: if the system has some free.
    pub hugepages: Hugepages,
    /// Memory for packet buffers and queues in MiB. Default: what the ports need.
    pub memory_mb: Option<u32>,
    /// Packet buffers besides those that queues and workers need, for devices that keep some. Default 0.
    pub packet_buffers: u32,
}

impl Default for Eal {
    fn default() -> Self {
        Self {
            file_prefix: "dpvs".to_owned(),
            args: Vec::new(),
            hugepages: Hugepages::Auto,
            memory_mb: None,
            packet_buffers: 0,
        }
    }
}

/// Use of huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// If the system has some free.
    #[default]
    Auto,
    /// Fail without.
    Yes,
    /// Never: slower, and some NICs refuse.
    No,
}

/// Worker threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// How many, 1 to 64. Default: as many as `cores`, or 1.
    pub count: Option<usize>,
    /// Core of each worker; a core may repeat. Default: the machine's last ones, one each as far as they reach.
    pub cores: Option<Vec<usize>>,
    /// What a worker does without packets. Default `poll`.
    pub idle: Idle,
}

impl Workers {
    /// How many workers there are to be.
    pub fn number(&self) -> usize {
        self.count.or(self.cores.as_ref().map(Vec::len)).unwrap_or(1)
    }
}

/// What a worker does without packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Looks again at once: lowest latency, its core is always busy.
    #[default]
    Poll,
    /// Gives the core to others: for cores that are shared.
    Yield,
}

/// Sizes of tables, fixed at start-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of the whole director, per address family; divided among the workers. Default 1048576.
    pub connections: usize,
    /// Virtual services. Default 16384.
    pub services: usize,
    /// Real servers of all services, removed ones with connections left included. Default 131072.
    pub servers: usize,
    /// Clients, or networks of clients, of persistent services at a time. Default 262144.
    pub persistent_clients: usize,
    /// Of these, calls by persistence engine sip. Default 16384.
    pub sip_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1 << 20,
            services: 1 << 14,
            servers: 1 << 17,
            persistent_clients: 1 << 18,
            sip_calls: 1 << 14,
        }
    }
}

/// Helpers for protocols that open further connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Helpers {
    /// Virtual TCP ports of FTP services in NAT and FULLNAT modes, at most 8. Default 21; none switches the helper off.
    pub ftp_ports: Vec<u16>,
    /// Virtual UDP ports of TFTP services in NAT and FULLNAT modes, at most 8. Default 69; none switches the helper off.
    pub tftp_ports: Vec<u16>,
}

impl Default for Helpers {
    fn default() -> Self {
        Self { ftp_ports: vec![21], tftp_ports: vec![69] }
    }
}

impl Helpers {
    /// The ports as workers see them.
    pub fn compile(&self) -> HelperPorts {
        let some = |ports: &[u16]| ports.iter().copied().take(MAX_HELPER_PORTS).collect();
        HelperPorts { ftp: some(&self.ftp_ports), tftp: some(&self.tftp_ports) }
    }
}

/// Metrics for Prometheus. They are always at `/metrics` of the API's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and TCP port where they are served as well, by plain HTTP and to everybody. Default: none.
    pub listen: Option<SocketAddr>,
    /// Services that have metrics of their own: `all`, `none` or the largest number. Default 10000.
    pub services: Shown,
    /// Servers, of all services together, likewise. Default 10000.
    pub servers: Shown,
}

/// Log of connections: JSON lines. Without `file` and `socket` there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionLog {
    /// File to append to, by absolute path; opened again on SIGHUP. Default: none.
    pub file: Option<PathBuf>,
    /// Unix datagram socket to send to, by absolute path, in place of a file. Default: none.
    pub socket: Option<PathBuf>,
    /// Lines per second, all workers together; 0: no limit. Default 10000.
    pub rate: u32,
    /// Whether packets and bytes of each connection are counted, which every packet pays for. Default: no.
    pub traffic: bool,
}

impl Default for ConnectionLog {
    fn default() -> Self {
        Self { file: None, socket: None, rate: 10_000, traffic: false }
    }
}

/// A DPDK port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of your choice, unique.
    pub name: String,
    /// PCI address (`0000:3b:00.0`) or virtual device (`net_tap0`).
    pub device: String,
    /// Makes the virtual device, with these arguments, e.g. `iface=wire0`; may be empty. Without this key the device
    /// must be a PCI device or be made by `eal.args`.
    #[serde(default)]
    pub vdev: Option<String>,
    /// Mirror interface in the kernel. Default `dpvs0`, `dpvs1`, ... in the order of ports.
    #[serde(default)]
    pub interface: Option<String>,
    /// Receive and transmit queues, at most one per worker. Default one per worker.
    #[serde(default)]
    pub queues: Option<u16>,
    /// Descriptors of each receive queue, 64 to 32768. Default 1024.
    #[serde(default = "descriptors")]
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue, 64 to 32768. Default 1024.
    #[serde(default = "descriptors")]
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes, 1280 to 9216. Default 1500.
    #[serde(default = "mtu")]
    pub mtu: u16,
    /// MAC address. Default: the device's own.
    #[serde(default)]
    pub mac: Option<MacAddress>,
    /// Addresses of the mirror interface with prefix lengths. Default none.
    #[serde(default)]
    pub addresses: Vec<Prefix>,
}

fn descriptors() -> u16 {
    1024
}

fn mtu() -> u16 {
    1500
}

impl Default for Port {
    /// A port without a name and a device, which it needs.
    fn default() -> Self {
        Self {
            name: String::new(),
            device: String::new(),
            vdev: None,
            interface: None,
            queues: None,
            rx_descriptors: descriptors(),
            tx_descriptors: descriptors(),
            mtu: mtu(),
            mac: None,
            addresses: Vec::new(),
        }
    }
}

impl Port {
    /// Whether the device is no PCI device.
    pub fn is_virtual(&self) -> bool {
        !values::is_pci_address(&self.device)
    }
}

impl Config {
    /// Reads and checks a file with all that it includes. Environment variables are those of this process.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        Self::parse(&Self::sources(file)?)
    }

    /// What a file is made of.
    pub fn sources(file: &Path) -> Result<ConfigSources, ConfigErrors> {
        dpvs_file::read(file, |name| std::env::var(name).ok()).map_err(ConfigErrors)
    }

    /// Parses and checks; finds as many errors as it can.
    pub fn parse(sources: &ConfigSources) -> Result<Self, ConfigErrors> {
        let mut documents = document::Documents::new(sources);
        let (config, mut errors) = documents.read();
        if errors.is_empty() {
            let problems = check::check(&config);
            errors.extend(problems.into_iter().map(|problem| documents.error_at(&problem.key, problem.message)));
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// The error about `key` that showed only when its value was used.
    pub fn locate(sources: &ConfigSources, key: &str, message: String) -> ConfigError {
        let mut documents = document::Documents::new(sources);
        documents.read();
        documents.error_about(key, message)
    }

    /// The mirror interface of a port, by its position.
    pub fn interface(&self, port: usize) -> String {
        self.ports[port].interface.clone().unwrap_or_else(|| format!("dpvs{port}"))
    }
}
