//! Virtual services and real servers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Family, Health, Persistence, ServerHealth, ServiceId};

/// Transport protocol of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The name that the API uses.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The protocol of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A real server is identified by its address and port within its service.
pub type ServerId = SocketAddr;

/// Scheduling methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connection.
    Lc,
    /// Weighted least connection; the default, as in IPVS.
    #[default]
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Weighted failover.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Locality-based least connection.
    Lblc,
    /// Locality-based least connection with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Maglev hashing of the source.
    Mh,
    /// The less loaded of two drawn at random.
    Twos,
    /// Consistent hashing of the source address or the QUIC connection id, as in DPVS.
    Conhash,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sed,
        Scheduler::Nq,
        Scheduler::Fo,
        Scheduler::Ovf,
        Scheduler::Lblc,
        Scheduler::Lblcr,
        Scheduler::Dh,
        Scheduler::Sh,
        Scheduler::Mh,
        Scheduler::Twos,
        Scheduler::Conhash,
    ];

    /// The name that `ipvsadm -s` takes.
    pub fn name(self) -> &'static str {
        match self {
            Scheduler::Rr => "rr",
            Scheduler::Wrr => "wrr",
            Scheduler::Lc => "lc",
            Scheduler::Wlc => "wlc",
            Scheduler::Sed => "sed",
            Scheduler::Nq => "nq",
            Scheduler::Fo => "fo",
            Scheduler::Ovf => "ovf",
            Scheduler::Lblc => "lblc",
            Scheduler::Lblcr => "lblcr",
            Scheduler::Dh => "dh",
            Scheduler::Sh => "sh",
            Scheduler::Mh => "mh",
            Scheduler::Twos => "twos",
            Scheduler::Conhash => "conhash",
        }
    }
}

/// Options of scheduling methods, as `ipvsadm -b` names them, and one of DPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SchedulerFlag {
    /// sh: when the server is unavailable, another takes its clients.
    ShFallback,
    /// sh: the client's port counts as well as its address.
    ShPort,
    /// mh: as `sh-fallback`.
    MhFallback,
    /// mh: as `sh-port`.
    MhPort,
    /// conhash, of a UDP service: QUIC's connection id counts instead of the client's address, where there is one.
    ConhashQid,
    /// Of no effect; not with sh and mh, which have other names for it.
    #[serde(rename = "flag-1")]
    Flag1,
    /// As `flag-1`.
    #[serde(rename = "flag-2")]
    Flag2,
    /// As `flag-1`.
    #[serde(rename = "flag-3")]
    Flag3,
}

impl SchedulerFlag {
    /// All of them, in the order in which ipvsadm lists them.
    pub const ALL: [Self; 8] = [
        SchedulerFlag::ShFallback,
        SchedulerFlag::ShPort,
        SchedulerFlag::MhFallback,
        SchedulerFlag::MhPort,
        SchedulerFlag::ConhashQid,
        SchedulerFlag::Flag1,
        SchedulerFlag::Flag2,
        SchedulerFlag::Flag3,
    ];

    /// The name that `ipvsadm -b` takes.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerFlag::ShFallback => "sh-fallback",
            SchedulerFlag::ShPort => "sh-port",
            SchedulerFlag::MhFallback => "mh-fallback",
            SchedulerFlag::MhPort => "mh-port",
            SchedulerFlag::ConhashQid => "conhash-qid",
            SchedulerFlag::Flag1 => "flag-1",
            SchedulerFlag::Flag2 => "flag-2",
            SchedulerFlag::Flag3 => "flag-3",
        }
    }

    /// True when services with this scheduler can have the flag.
    pub fn goes_with(self, scheduler: Scheduler) -> bool {
        match self {
            SchedulerFlag::ShFallback | SchedulerFlag::ShPort => scheduler == Scheduler::Sh,
            SchedulerFlag::MhFallback | SchedulerFlag::MhPort => scheduler == Scheduler::Mh,
            SchedulerFlag::ConhashQid => scheduler == Scheduler::Conhash,
            SchedulerFlag::Flag1 | SchedulerFlag::Flag2 | SchedulerFlag::Flag3 => {
                !matches!(scheduler, Scheduler::Sh | Scheduler::Mh)
            }
        }
    }

    /// The names of `flags`, in ipvsadm's order and with commas between them; empty if there are none.
    pub fn list(flags: &[Self]) -> String {
        let names: Vec<&str> = Self::ALL.into_iter().filter(|f| flags.contains(f)).map(Self::name).collect();
        names.join(",")
    }
}

/// How a real server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMode {
    /// Network address translation of the destination (`ipvsadm -m`).
    Nat,
    /// Translation of source and destination (`ipvsadm -b`, DPVS).
    Fullnat,
    /// Direct routing (`ipvsadm -g`).
    Dr,
    /// Tunnel (`ipvsadm -i`), as the server's [`Tunnel`] says.
    Tun,
}

/// What is between the outer header and the packet in a tunnel (`ipvsadm --tun-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// Nothing: IP in IP.
    #[default]
    Ipip,
    /// Generic UDP Encapsulation.
    Gue,
    /// Generic Routing Encapsulation.
    Gre,
}

impl TunnelType {
    /// All of them.
    pub const ALL: [Self; 3] = [TunnelType::Ipip, TunnelType::Gue, TunnelType::Gre];

    /// The name that `ipvsadm --tun-type` takes.
    pub fn name(self) -> &'static str {
        match self {
            TunnelType::Ipip => "ipip",
            TunnelType::Gue => "gue",
            TunnelType::Gre => "gre",
        }
    }
}

/// The checksum of a tunnel's own header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// None (`ipvsadm --tun-nocsum`).
    #[default]
    None,
    /// Over the whole packet (`--tun-csum`); gue and gre.
    Csum,
    /// Remote checksum offload (`--tun-remcsum`); gue only. The same as `csum` for packets that come from a wire.
    Remcsum,
}

impl TunnelChecksum {
    /// All of them.
    pub const ALL: [Self; 3] = [TunnelChecksum::None, TunnelChecksum::Csum, TunnelChecksum::Remcsum];

    /// As configuration files spell it.
    pub fn name(self) -> &'static str {
        match self {
            TunnelChecksum::None => "none",
            TunnelChecksum::Csum => "csum",
            TunnelChecksum::Remcsum => "remcsum",
        }
    }
}

/// How packets to a server in mode `tun` are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The encapsulation.
    #[serde(default, rename = "type")]
    pub kind: TunnelType,
    /// UDP port at the server; gue needs one, the others have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Checksum; ipip has none.
    #[serde(default)]
    pub checksum: TunnelChecksum,
}

impl Tunnel {
    /// True for plain IP in IP.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Tunnel {
    /// `ipip`, `gue:6080`, `gre (csum)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.checksum {
            TunnelChecksum::None => Ok(()),
            checksum => write!(f, " ({})", checksum.name()),
        }
    }
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port; the port must be the service's in DR and TUN modes.
    pub address: SocketAddr,
    /// How it is reached.
    pub mode: ForwardMode,
    /// How packets are wrapped in mode `tun`.
    #[serde(default, skip_serializing_if = "Tunnel::is_plain")]
    pub tunnel: Tunnel,
    /// Share of new connections, 0 to 65535; 0 takes none (existing ones go on).
    #[serde(default = "one")]
    pub weight: u32,
    /// New connections stop at this many connections; 0: no limit.
    #[serde(default)]
    pub upper_threshold: u32,
    /// ... and resume below this many; 0: three quarters of the upper threshold.
    #[serde(default)]
    pub lower_threshold: u32,
    /// What it has of its own in place of the service's health checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<ServerHealth>>,
}

impl Server {
    /// A server with the defaults for everything else.
    pub fn new(address: SocketAddr, mode: ForwardMode) -> Self {
        Self {
            address,
            mode,
            tunnel: Tunnel::default(),
            weight: one(),
            upper_threshold: 0,
            lower_threshold: 0,
            health: None,
        }
    }
}

fn one() -> u32 {
    1
}

/// How servers in mode fullnat learn the addresses of their clients, which the packets no longer carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// In a TCP option of kind 254, which a kernel module on the server understands.
    Toa,
    /// In a header of the PROXY protocol, version 1: a line of text before the data of TCP.
    ProxyV1,
    /// In one of version 2, which is binary: before the data of TCP, and in every datagram of UDP.
    ProxyV2,
}

impl ClientAddress {
    /// All of them.
    pub const ALL: [Self; 3] = [ClientAddress::Toa, ClientAddress::ProxyV1, ClientAddress::ProxyV2];

    /// Its name in configuration and API.
    pub fn name(self) -> &'static str {
        match self {
            ClientAddress::Toa => "toa",
            ClientAddress::ProxyV1 => "proxy-v1",
            ClientAddress::ProxyV2 => "proxy-v2",
        }
    }
}

/// First and last local port that FULLNAT uses on each local address, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalPorts {
    /// First port, at least 1.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl Default for LocalPorts {
    /// 1025 to 65535, as in DPVS.
    fn default() -> Self {
        Self { first: 1025, last: 65535 }
    }
}

/// Defines [`ServiceSettings`], and the flat form in which a service with such settings is written.
macro_rules! service_settings {
    ($($(#[$attribute:meta])* $field:ident: $type:ty,)*) => {
        /// What of a service can be edited.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct ServiceSettings {
            $($(#[$attribute])* pub $field: $type,)*
        }

        /// A service as configuration file and API have it: with `protocol` and `address`, or with `fwmark` and, for
        /// IPv6, `family`.
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = "Service")]
        struct WrittenService {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            protocol: Option<Protocol>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            address: Option<SocketAddr>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            fwmark: Option<u32>,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            family: Option<Family>,
            $($(#[$attribute])* $field: $type,)*
            #[serde(default)]
            local_addresses: Vec<IpAddr>,
            #[serde(default)]
            servers: Vec<Server>,
        }

        impl TryFrom<WrittenService> for Service {
            type Error = &'static str;

            fn try_from(written: WrittenService) -> Result<Self, Self::Error> {
                let id = written.id()?;
                let WrittenService { $($field,)* local_addresses, servers, .. } = written;
                Ok(Self { id, settings: ServiceSettings { $($field,)* }, local_addresses, servers })
            }
        }

        impl From<Service> for WrittenService {
            fn from(service: Service) -> Self {
                let Service { id, settings: ServiceSettings { $($field,)* }, local_addresses, servers } = service;
                let (fwmark, family) = match id {
                    ServiceId::Address { .. } => (None, None),
                    ServiceId::Fwmark { mark, family } => (Some(mark), Some(family)),
                };
                let (protocol, address) = (id.protocol(), id.address());
                Self { protocol, address, fwmark, family, $($field,)* local_addresses, servers }
            }
        }
    };
}

service_settings! {
    /// Scheduling method.
    #[serde(default)]
    scheduler: Scheduler,
    /// Options of the scheduling method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scheduler_flags: Vec<SchedulerFlag>,
    /// Timeout of established connections (UDP: of idle ones) in seconds, 1 to 31 days; absent: the director's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<u32>,
    /// A client's next connections go to the server of its first; absent: each is scheduled by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled by itself, and no connection stays (`ipvsadm -o`). Not with FULLNAT servers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    one_packet: bool,
    /// Ports used on each local address.
    #[serde(default)]
    local_ports: LocalPorts,
    /// How servers learn the clients' addresses, if all are in mode fullnat; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_address: Option<ClientAddress>,
    /// Takes new connections while no server does; absent: they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sorry_server: Option<SorryServer>,
    /// How servers are checked; absent: only those that have checks of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<Box<Health>>,
}

/// A server that takes new connections while no real server of the service is available, e.g. to say sorry. It is no
/// real server of the service, and has no weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SorryServer {
    /// Address and port; the port must be the service's in DR and TUN modes.
    pub address: SocketAddr,
    /// How it is reached.
    pub mode: ForwardMode,
}

impl SorryServer {
    /// The same as a server like others.
    pub fn server(self) -> Server {
        Server::new(self.address, self.mode)
    }
}

/// A virtual service with its servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenService", into = "WrittenService")]
pub struct Service {
    /// What identifies it.
    pub id: ServiceId,
    /// What of it can be edited.
    pub settings: ServiceSettings,
    /// Source addresses for FULLNAT servers.
    pub local_addresses: Vec<IpAddr>,
    /// Real servers, in the order they were added.
    pub servers: Vec<Server>,
}

impl Service {
    /// A service with default settings and without servers.
    pub fn new(id: ServiceId) -> Self {
        Self { id, settings: ServiceSettings::default(), local_addresses: Vec::new(), servers: Vec::new() }
    }
}

impl WrittenService {
    fn id(&self) -> Result<ServiceId, &'static str> {
        match *self {
            Self { protocol: Some(protocol), address: Some(address), fwmark: None, family: None, .. } => {
                Ok(ServiceId::Address { protocol, address })
            }
            Self { protocol: None, address: None, fwmark: Some(mark), family, .. } => {
                Ok(ServiceId::Fwmark { mark, family: family.unwrap_or_default() })
            }
            Self { protocol: None, fwmark: None, .. } => Err("missing field `protocol`"),
            Self { address: None, fwmark: None, .. } => Err("missing field `address`"),
            Self { fwmark: None, .. } => Err("`family` goes with `fwmark` only; an address has its own"),
            _ => Err("a service has either `protocol` and `address`, or `fwmark`"),
        }
    }
}

/// Connection timeouts in seconds, as `ipvsadm --set`; 0 in a request leaves a value as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

impl Default for Timeouts {
    /// 900, 120 and 300, as in IPVS.
    fn default() -> Self {
        Self { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}
