//! Why the daemon does not start, with the key of the configuration that is to blame.

use std::net::SocketAddr;

use dataplane::io::dpdk::StartError;
use dpvs_api::ApiError;

use super::cores::CoreError;
use crate::config::{Config, ConfigErrors};
use crate::kernel::KernelError;
use crate::server::{BindError, TlsError};

/// Why the daemon does not start, or ended by itself. Each is one line with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A core cannot be had.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The API's socket cannot be made.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The API's socket for those who may only look cannot be made.
    #[error(transparent)]
    ReadSocket(BindError),
    /// The API's certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API's address cannot be had.
    #[error("cannot listen at {listen}: {source}: give an address of this host and a port that is free")]
    Listen {
        /// What the configuration says.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// DPDK or a port does not start.
    #[error(transparent)]
    Dpdk(#[from] StartError),
    /// The kernel's side does not start.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The metrics' address cannot be had.
    #[error("cannot listen at {listen}: {source}: give an address of this host and a port that is free, or remove it")]
    Metrics {
        /// What the configuration says.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection log cannot be written.
    #[error("cannot open {file}: {source}: make it a file that dpvsd may write, or remove it")]
    ConnectionLog {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A service of the file cannot be applied.
    #[error("{0}")]
    Services(ApiError),
    /// The system refuses something basic.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Workers panicked or hang.
    #[error("worker {0} failed: the lines above say where; please report them")]
    Worker(String),
}

impl DaemonError {
    /// The key of the configuration that this is about, if it is about one.
    pub(super) fn key(&self, config: &Config) -> Option<String> {
        match self {
            Self::Core(CoreError::Unavailable { key, .. }) => Some((*key).to_owned()),
            Self::Socket(BindError::NoSuchGroup(_)) => Some("daemon.socket_group".to_owned()),
            Self::Socket(_) => Some("daemon.socket".to_owned()),
            Self::ReadSocket(BindError::NoSuchGroup(_)) => Some("api.read_group".to_owned()),
            Self::ReadSocket(_) => Some("api.read_socket".to_owned()),
            Self::Tls(error) => Some(error.key().to_owned()),
            Self::Listen { .. } => Some("api.listen".to_owned()),
            Self::Dpdk(error) => key_of_start(error, config),
            Self::Kernel(error) => key_of_kernel(error, config),
            Self::Metrics { .. } => Some("metrics.listen".to_owned()),
            Self::ConnectionLog { .. } => Some("connection_log.file".to_owned()),
            Self::Services(error) => Some(error.path.as_deref().and_then(within_file).unwrap_or("services".to_owned())),
            Self::Config(_) | Self::Core(CoreError::Unknown) | Self::System { .. } | Self::Worker(_) => None,
        }
    }
}

fn key_of_start(error: &StartError, config: &Config) -> Option<String> {
    let of_port = |name: &str, field: &str| {
        let index = config.ports.iter().position(|port| port.name == name)?;
        Some(format!("ports[{index}]{field}"))
    };
    match error {
        StartError::FilePrefix(_) | StartError::AlreadyRunning { .. } => Some("eal.file_prefix".to_owned()),
        StartError::Argument { .. } => Some("eal.args".to_owned()),
        StartError::Core { .. } => Some("daemon.control_core".to_owned()),
        StartError::Hugepages { .. } => Some("eal.hugepages".to_owned()),
        StartError::Pool { .. } => Some("eal.memory_mb".to_owned()),
        StartError::Clash { second: port, .. }
        | StartError::UnknownPci { port, .. }
        | StartError::UndrivenPci { port, .. }
        | StartError::UnknownDevice { port, .. }
        | StartError::NoDriver { port, .. }
        | StartError::NoTun { port, .. } => of_port(port, ".device"),
        StartError::VirtualDevice { port, .. }
        | StartError::Interface { port, .. }
        | StartError::MemifSocket { port, .. } => of_port(port, ".vdev"),
        StartError::Queues { port, .. } => of_port(port, ".queues"),
        StartError::TooFewQueues { port, .. } => of_port(port, ".device"),
        StartError::Port { port, .. } => of_port(port, ""),
        StartError::Eal(_) | StartError::LockFile { .. } => None,
    }
}

fn key_of_kernel(error: &KernelError, config: &Config) -> Option<String> {
    let of_interface = |name: &str, field: &str| {
        let index = (0..config.ports.len()).find(|&index| config.interface(index) == name)?;
        Some(format!("ports[{index}].{field}"))
    };
    match error {
        KernelError::NoTapDriver { interface }
        | KernelError::NotPermitted { interface }
        | KernelError::NameTaken { interface }
        | KernelError::BadName { interface }
        | KernelError::Mirror { interface, .. } => of_interface(interface, "interface"),
        KernelError::Address { interface, .. } | KernelError::NoInterface { interface, .. } => {
            of_interface(interface, "addresses")
        }
        KernelError::Netlink(_) => None,
    }
}

/// `[3].service.servers[0].weight` of the batch that adds the file's services, as a key of the file.
fn within_file(path: &str) -> Option<String> {
    let (index, rest) = path.split_once(".service")?;
    Some(format!("services{index}{rest}"))
}

#[cfg(test)]
mod tests {
    use dpvs_api::{ConfigFile, ConfigSources, ErrorKind};

    use super::*;

    const FILE: &str = "[daemon]\nsocket = '/s'\n[[ports]]\nname = 'a'\ndevice = 'net_tap0'\n[[ports]]\nname = 'b'\n\
                        device = 'net_tap1'\ninterface = 'x1'\naddresses = ['192.0.2.1/24']\n";

    #[test]
    fn errors_of_the_start_stand_where_their_key_does() {
        let files = vec![ConfigFile { path: "t.toml".into(), text: FILE.to_owned() }];
        let sources = ConfigSources { files, environment: Default::default() };
        let config = Config::parse(&sources).unwrap();
        let port = || "b".to_owned();
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let interface = || "x1".to_owned();
        for (error, expected) in [
            (
                DaemonError::Socket(BindError::NotASocket("/s".into())),
                "t.toml:2:10: daemon.socket: /s exists and is not a socket",
            ),
            (
                DaemonError::Socket(BindError::NoSuchGroup("g".into())),
                "t.toml:1:1: daemon.socket_group: there is no group 'g'",
            ),
            (
                StartError::UnknownDevice { port: port(), device: "net_tap1".into() }.into(),
                "t.toml:8:10: ports[1].device: port 'b': there is no device",
            ),
            (
                StartError::NoTun { port: "a".into(), reason: denied() }.into(),
                "t.toml:5:10: ports[0].device: port 'a': /dev/net/tun",
            ),
            (
                KernelError::NameTaken { interface: interface() }.into(),
                "t.toml:9:13: ports[1].interface: mirror interface x1: the name is taken",
            ),
            (
                KernelError::NameTaken { interface: "dpvs0".into() }.into(),
                "t.toml:3:1: ports[0].interface: mirror interface dpvs0",
            ),
            (
                KernelError::Address { address: [10, 0, 0, 1].into(), interface: interface(), source: denied() }.into(),
                "t.toml:10:13: ports[1].addresses: address 10.0.0.1 on interface x1",
            ),
            (
                CoreError::Unavailable { key: "workers.cores", core: 9, available: "0, 1".into() }.into(),
                "t.toml: workers.cores: core 9 is not available",
            ),
        ] {
            let key = error.key(&config).unwrap();
            let located = Config::locate(&sources, &key, error.to_string()).to_string();
            assert!(located.starts_with(expected), "{located}");
        }
        assert_eq!(DaemonError::Worker("1".into()).key(&config), None);
    }

    #[test]
    fn errors_of_services_are_keys_of_the_file() {
        let error = |path: Option<&str>| {
            let path = path.map(str::to_owned);
            DaemonError::Services(ApiError { kind: ErrorKind::Full, message: "no room".into(), path })
                .key(&Config::default())
        };
        assert_eq!(error(Some("[3].service.local_addresses[0]")).as_deref(), Some("services[3].local_addresses[0]"));
        assert_eq!(error(Some("[3].service")).as_deref(), Some("services[3]"));
        assert_eq!(error(None).as_deref(), Some("services"));
    }
}
