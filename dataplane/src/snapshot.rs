//! The configuration as workers see it: immutable, published whole, read once per burst.
//!
//! The control thread builds a [`Snapshot`] from parts that it shares with the one before, so that a change of
//! one neighbour does not copy ten thousand services. It keeps every snapshot it published until no worker
//! holds it any more; workers therefore never free one.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hashbrown::{HashMap, HashSet};
use proto::proxy_protocol::Version;
use proto::state::Timeouts;
use proto::{Address, Family, Protocol, Tuple};
use sched::{Expirations, Scheduler};

use crate::defence::Defences;
use crate::fib::Fib;
use crate::marks::MarkTable;
use crate::{PortId, ServerId, ServiceId, persistence};

/// The first port that needs no privilege to bind to (ip_unprivileged_port_start).
const UNPRIVILEGED: u16 = 1024;

/// Everything workers need to know.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every publication; the [`Publisher`](crate::shared::Publisher) sets it.
    pub generation: u64,
    /// The generation that brought `fib`; the publisher sets it, too.
    pub fib_since: u64,
    /// Virtual services and real servers.
    pub services: Arc<ServiceTable>,
    /// Routes, neighbours, ports and local addresses.
    pub fib: Arc<Fib>,
    /// Director-wide settings.
    pub settings: Settings,
}

impl Snapshot {
    /// The generation as connections remember it.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.generation as u32
    }

    /// True when ways that were found in `epoch`, this or an earlier one, are still right.
    pub fn has_fib_of(&self, epoch: u32) -> bool {
        u64::from(self.epoch().wrapping_sub(epoch)) <= self.generation - self.fib_since
    }
}

/// The most ports that a helper can have, as for Linux (ip_vs.h, IP_VS_APP_MAX_PORTS).
pub const MAX_HELPER_PORTS: usize = 8;

/// Virtual ports that helpers look after, in NAT and FULLNAT modes.
#[derive(Clone, Debug, Default)]
pub struct HelperPorts {
    /// TCP ports whose connections are control connections of FTP.
    pub ftp: ArrayVec<u16, MAX_HELPER_PORTS>,
    /// UDP ports to which clients of TFTP send their requests.
    pub tftp: ArrayVec<u16, MAX_HELPER_PORTS>,
}

/// Director-wide settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Connection timeouts by state.
    pub timeouts: Timeouts,
    /// True while the director drains before it stops: new connections are refused.
    pub draining: bool,
    /// Which connections give way to new ones from the same client port.
    pub reuse: Reuse,
    /// Connections of a removed server end and their packets are scheduled anew; otherwise their packets are dropped.
    pub expire_nodest_conn: bool,
    /// Virtual ports of protocols whose connections announce others.
    pub helper_ports: HelperPorts,
    /// Any TCP segment but a RST opens a connection, not only a SYN.
    pub sloppy_tcp: bool,
    /// Any SCTP packet but an ABORT opens a connection, not only an INIT.
    pub sloppy_sctp: bool,
    /// NAT servers are told when a packet of theirs belongs to no connection.
    pub nat_icmp_send: bool,
    /// IPv4 packets too large for a tunnel go through it in fragments, even if they must not be fragmented.
    pub fragment_tunnels: bool,
    /// ICMP errors about a service's replies to unknown clients open connections.
    pub schedule_icmp: bool,
    /// Defences against floods of new connections.
    pub defences: Defences,
    /// Templates of servers of weight 0 are not used any more.
    pub expire_quiescent_template: bool,
    /// How long lblc and lblcr remember.
    pub expirations: Expirations,
}

/// When a client's SYN from the port of a connection that is still kept is scheduled anew (`conn_reuse_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Never: the server of the old connection gets it.
    Never,
    /// When the connection is in TIME_WAIT or CLOSE.
    #[default]
    Ended,
    /// Also in FIN_WAIT if the director does not see replies: nothing more will be seen of that connection.
    Closing,
}

/// How a real server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ForwardMode {
    /// Destination rewritten inbound, source outbound; the server routes through the director.
    Nat,
    /// Source rewritten to a local address as well; the server need not know the director.
    FullNat,
    /// Direct routing: the frame goes to the server's MAC address, the packet is unchanged.
    DirectRouting,
    /// The packet is wrapped in another to the server, as the server's [`Encapsulation`] says.
    Tunnel,
}

/// What is between the outer header and the packet in a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing: IP in IP.
    #[default]
    Ipip,
    /// Generic UDP Encapsulation.
    Gue {
        /// UDP destination port.
        port: u16,
        /// UDP has a checksum. IPVS's "remote checksum" is the same for packets that come from a wire: only checksums
        /// that its own host has yet to compute are left to the other end.
        checksum: bool,
    },
    /// Generic Routing Encapsulation.
    Gre {
        /// The header has a checksum.
        checksum: bool,
    },
}

/// A tunnel that is more than IP in IP of one family.
#[derive(Clone, Copy, Debug)]
pub struct SpecialTunnel {
    /// Where it ends.
    pub server: IpAddr,
    /// What is in it.
    pub encapsulation: Encapsulation,
}

impl ForwardMode {
    /// True when replies pass through the director, so that both directions are tracked.
    pub fn sees_replies(self) -> bool {
        matches!(self, ForwardMode::Nat | ForwardMode::FullNat)
    }
}

/// What identifies a virtual service: where its packets go to, or [their mark](Self::fwmark).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The virtual address.
    pub vaddr: IpAddr,
    /// The virtual port.
    pub vport: u16,
}

impl ServiceKey {
    /// The key of the service for packets with a firewall mark. As in IPVS it has the protocol number of IP, no port, and
    /// the mark in place of the (first part of the) address.
    pub fn fwmark(mark: u32, family: Family) -> Self {
        let vaddr = match family {
            Family::V4 => IpAddr::V4(mark.into()),
            Family::V6 => IpAddr::V6((u128::from(mark) << 96).into()),
        };
        Self { protocol: Protocol(0), vaddr, vport: 0 }
    }

    /// True when the service is one for a firewall mark.
    pub fn is_fwmark(&self) -> bool {
        self.protocol == Protocol(0)
    }
}

/// A virtual service and its servers.
#[derive(Clone, Debug)]
pub struct Service {
    /// Index of its counters and of the workers' scheduler state. Stable for the service's life.
    pub id: ServiceId,
    /// Tells the service from others that had its id before; at least 1.
    pub incarnation: u64,
    /// Changes whenever anything in this struct changes, so that workers bring their scheduler state up to date.
    pub version: u64,
    /// Protocol, address and port.
    pub key: ServiceKey,
    /// The scheduler with what it precomputed from the servers.
    pub scheduler: Scheduler,
    /// Real servers in IPVS's list order.
    pub servers: Vec<Server>,
    /// Takes new connections while no server does.
    pub sorry: Option<Server>,
    /// Source addresses for FULLNAT servers.
    pub local_addresses: Vec<IpAddr>,
    /// First and last local port used on each local address, inclusive.
    pub local_ports: (u16, u16),
    /// Timeout of established connections in seconds, when the service overrides the director's.
    pub timeout: Option<u32>,
    /// Every UDP datagram is scheduled by itself and no connection stays; no server is in FULLNAT mode, then.
    pub one_packet: bool,
    /// A client's next connections go to the server of its first.
    pub persistence: Option<Persistence>,
    /// How FULLNAT servers learn their clients' addresses.
    pub client_address: Option<ClientAddress>,
}

/// How long and for whom a service is persistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Timeout of templates in seconds, at least 1.
    pub timeout: u32,
    /// The bits of a client's address that count; the lower 32 for IPv4.
    pub mask: u128,
    /// What counts besides.
    pub engine: Option<Engine>,
}

/// A persistence engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The Call-ID of SIP over UDP; packets without one are dropped.
    Sip,
}

/// A way to tell a server the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// In a TCP option; UDP has none.
    Toa,
    /// In a header of the PROXY protocol; version 1 is for TCP only.
    Proxy(Version),
}

/// A real server of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Index of its counters; stable as long as the server exists or connections to it do.
    pub id: ServerId,
    /// Address and port packets are sent to.
    pub addr: IpAddr,
    /// Port packets are sent to; equal to the service's in DR and TUN modes. 0: the port that they are for.
    pub port: u16,
    /// How it is reached.
    pub mode: ForwardMode,
    /// What is in the tunnel in mode [`Tunnel`](ForwardMode::Tunnel).
    pub encapsulation: Encapsulation,
    /// Share of new connections; 0 takes none (existing ones go on).
    pub weight: u32,
    /// New connections stop at this many connections; 0 means no limit.
    pub upper_threshold: u32,
    /// ... and resume below this many; 0 means three quarters of the upper one.
    pub lower_threshold: u32,
}

/// What connections need to know of their server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Not configured, or not any more.
    #[default]
    Gone,
    /// Of weight 0: it takes no new connections.
    Quiescent,
    /// It takes new connections.
    Serving,
}

/// All virtual services, with the indexes that the packet path needs.
#[derive(Debug, Default)]
pub struct ServiceTable {
    by_key: HashMap<ServiceKey, Arc<Service>>,
    /// By [`ServerId`].
    presence: Vec<Presence>,
    /// NAT servers' endpoints, to recognise their replies, with the services they serve or served.
    nat_servers: HashMap<(Protocol, IpAddr, u16), Vec<ServiceKey>>,
    /// Servers in tunnels whose packets take the long way.
    tunnels: HashMap<ServerId, SpecialTunnel>,
    /// Addresses and UDP ports where GUE tunnels end.
    gue_endpoints: HashSet<(IpAddr, u16)>,
    /// Virtual and local addresses: destinations of packets that belong to the director.
    destinations: HashSet<IpAddr>,
    /// Addresses of NAT servers: sources of packets that may be replies.
    nat_sources: HashSet<IpAddr>,
    /// By [`ServerId`]: the service and the server's place in it.
    servers: Vec<Option<(Arc<Service>, u32)>>,
    /// Which packets have which firewall mark.
    marks: Arc<MarkTable>,
    /// Some service takes packets for other ports than its own.
    has_wide: bool,
}

impl ServiceTable {
    /// Compiles the table. Keys and server ids must be unique.
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>) -> Self {
        Self::with_former(services, [])
    }

    /// Compiles the table. `former` are the endpoints of NAT servers that a service had and that may have connections
    /// left: what they still send is recognised as replies. Those that the service has again do no harm.
    pub fn with_former(
        services: impl IntoIterator<Item = Arc<Service>>,
        former: impl IntoIterator<Item = (ServiceKey, IpAddr, u16)>,
    ) -> Self {
        let mut table = Self::default();
        for (key, addr, port) in former {
            table.add_nat_server(key, addr, port);
        }
        for service in services {
            for (place, server) in (0..).zip(service.servers.iter().chain(&service.sorry)) {
                let index = server.id.0 as usize;
                if table.presence.len() <= index {
                    table.presence.resize(index + 1, Presence::Gone);
                    table.servers.resize(index + 1, None);
                }
                table.servers[index] = Some((Arc::clone(&service), place));
                table.presence[index] = if server.weight == 0 { Presence::Quiescent } else { Presence::Serving };
                match server.mode {
                    ForwardMode::Nat => table.add_nat_server(service.key, server.addr, server.port),
                    ForwardMode::Tunnel => table.add_tunnel(service.key, server),
                    _ => {}
                }
            }
            if !service.key.is_fwmark() {
                table.destinations.insert(service.key.vaddr);
                table.has_wide |= [0, persistence::FTP].contains(&service.key.vport);
            }
            table.destinations.extend(&service.local_addresses);
            table.by_key.insert(service.key, service);
        }
        table
    }

    /// The same table with these rules. The addresses that they name are virtual addresses, if there is a service for the
    /// mark.
    pub fn with_marks(mut self, marks: Arc<MarkTable>) -> Self {
        for rule in marks.rules() {
            let Some(host) = rule.host() else { continue };
            let family = if host.is_ipv4() { Family::V4 } else { Family::V6 };
            if self.by_key.contains_key(&ServiceKey::fwmark(rule.mark, family)) {
                self.destinations.insert(host);
            }
        }
        self.marks = marks;
        self
    }

    fn add_nat_server(&mut self, key: ServiceKey, addr: IpAddr, port: u16) {
        // A server without a port keeps the service's.
        let port = if port == 0 { key.vport } else { port };
        let keys = self.nat_servers.entry((key.protocol, addr, port)).or_default();
        if !keys.contains(&key) {
            keys.push(key);
        }
        self.nat_sources.insert(addr);
    }

    fn add_tunnel(&mut self, key: ServiceKey, server: &Server) {
        let &Server { addr, encapsulation, .. } = server;
        if encapsulation != Encapsulation::Ipip || Family::of(addr) != Family::of(key.vaddr) {
            self.tunnels.insert(server.id, SpecialTunnel { server: addr, encapsulation });
        }
        if let Encapsulation::Gue { port, .. } = encapsulation {
            self.gue_endpoints.insert((addr, port));
        }
    }

    /// The service that takes a packet of no connection (ip_vs_ctl.c, ip_vs_service_find): that of its mark, of its
    /// destination, of FTP on that address if it may be one of FTP's data connections, or of all ports.
    pub fn service_for<A: Address>(&self, tuple: &Tuple<A>, ingress: PortId) -> Option<&Arc<Service>> {
        self.service_of_mark(tuple, ingress).or_else(|| self.service_at(tuple))
    }

    /// The service for the mark of a packet.
    pub fn service_of_mark<A: Address>(&self, tuple: &Tuple<A>, ingress: PortId) -> Option<&Arc<Service>> {
        let mark = self.marks.classify(tuple, ingress)?;
        self.by_key.get(&ServiceKey::fwmark(mark, A::FAMILY))
    }

    /// [`service_for`](Self::service_for) a packet without a mark.
    pub fn service_at<A: Address>(&self, tuple: &Tuple<A>) -> Option<&Arc<Service>> {
        let Tuple { dst, dport, protocol, .. } = *tuple;
        let service = self.find(protocol, dst, dport);
        if service.is_some() || !self.has_wide {
            return service;
        }
        let may_be_data = dport == persistence::FTP_DATA || dport >= UNPRIVILEGED;
        if protocol == Protocol::TCP
            && may_be_data
            && let Some(ftp) = self.find(protocol, dst, persistence::FTP)
        {
            // Without persistence nobody knows which server's they are: they are the kernel's.
            return ftp.persistence.is_some().then_some(ftp);
        }
        self.find(protocol, dst, 0)
    }

    /// The service that a configured server belongs to.
    pub fn service_of(&self, id: ServerId) -> Option<&Arc<Service>> {
        self.servers.get(id.0 as usize)?.as_ref().map(|(service, _)| service)
    }

    /// A configured server.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        let (service, place) = self.servers.get(id.0 as usize)?.as_ref()?;
        service.servers.get(*place as usize).or(service.sorry.as_ref())
    }

    /// True for addresses of NAT servers.
    pub fn is_nat_source<A: Address>(&self, addr: A) -> bool {
        self.nat_sources.contains(&addr.into())
    }

    /// The service for a destination.
    #[inline]
    pub fn find<A: Address>(&self, protocol: Protocol, vaddr: A, vport: u16) -> Option<&Arc<Service>> {
        let vaddr = vaddr.into();
        self.by_key.get(&ServiceKey { protocol, vaddr, vport })
    }

    /// True while the server is configured.
    #[inline(always)]
    pub fn is_live(&self, id: ServerId) -> bool {
        self.presence(id) != Presence::Gone
    }

    /// What connections of the server need to know.
    #[inline(always)]
    pub fn presence(&self, id: ServerId) -> Presence {
        self.presence.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// True when there are so many servers that what workers keep for each is not in the first caches.
    #[inline(always)]
    pub(crate) fn has_many_servers(&self) -> bool {
        self.presence.len() > 256
    }

    /// The services for which this endpoint is a NAT server; empty for any other endpoint.
    pub fn nat_services<A: Address>(&self, protocol: Protocol, addr: A, port: u16) -> &[ServiceKey] {
        self.nat_servers.get(&(protocol, addr.into(), port)).map_or(&[], Vec::as_slice)
    }

    /// The server's tunnel if it is more than IP in IP of one family.
    pub fn tunnel(&self, id: ServerId) -> Option<&SpecialTunnel> {
        self.tunnels.get(&id)
    }

    /// True when GUE tunnels end there.
    pub fn is_gue_endpoint<A: Address>(&self, addr: A, port: u16) -> bool {
        self.gue_endpoints.contains(&(addr.into(), port))
    }

    /// True when a packet between these addresses may belong to a virtual service, whatever its ports.
    pub fn concerns<A: Address>(&self, src: A, dst: A) -> bool {
        self.is_destination(dst) || self.nat_sources.contains(&src.into())
    }

    /// True for virtual and local addresses.
    pub fn is_destination<A: Address>(&self, addr: A) -> bool {
        self.destinations.contains(&addr.into())
    }

    /// All services, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.values()
    }
}
