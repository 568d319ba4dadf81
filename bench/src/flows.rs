//! Flows by number: which addresses and ports flow `n` has, on either side of the director.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::fib::Mac;
use dataplane::ip::Ip;
use dataplane::snapshot::ForwardMode;
use proto::{Protocol, Tuple};

/// Port of the virtual services.
pub const VPORT: u16 = 80;
/// Port of NAT and FULLNAT servers.
pub const DPORT: u16 = 8080;
/// First and last local port; a power of two of them, so that a flow's is found without a division.
pub const LOCAL_PORTS: (u16, u16) = (1 << 14, (1 << 14) + (1 << LOCAL_PORT_BITS) - 1);
/// log2 of the number of local ports on an address.
pub const LOCAL_PORT_BITS: u32 = 15;

/// The networks around the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// The director's own link: host 1 is the director, host 2 the router to the clients.
    Link,
    /// Clients, behind the router; 2^24 addresses.
    Client,
    /// Virtual addresses.
    Virtual,
    /// Servers, on the link.
    Server,
    /// Local addresses of FULLNAT.
    Local,
}

/// An address family in which the harness can number hosts.
pub trait Family: Ip {
    /// Name in tables.
    const NAME: &'static str;
    /// Length of every network's prefix.
    fn prefix_len(net: Net) -> u8;
    /// Host `n` of a network.
    fn host(net: Net, n: u32) -> Self;
}

impl Family for Ipv4Addr {
    const NAME: &'static str = "IPv4";

    fn prefix_len(net: Net) -> u8 {
        match net {
            Net::Link | Net::Virtual => 24,
            Net::Client => 8,
            Net::Server => 12,
            Net::Local => 15,
        }
    }

    #[inline(always)]
    fn host(net: Net, n: u32) -> Self {
        // RFC 1918, 2544 and 5737: addresses for private use, benchmarks and documentation.
        let base = match net {
            Net::Link => 0xc000_0200,
            Net::Client => 0x0a00_0000,
            Net::Virtual => 0xcb00_7100,
            Net::Server => 0xac10_0000,
            Net::Local => 0xc612_0000,
        };
        (base | n).into()
    }
}

impl Family for Ipv6Addr {
    const NAME: &'static str = "IPv6";

    fn prefix_len(_net: Net) -> u8 {
        64
    }

    #[inline(always)]
    fn host(net: Net, n: u32) -> Self {
        (0x2001_0db8 << 96 | (net as u128 + 1) << 64 | u128::from(n)).into()
    }
}

/// MAC address of a host on the director's link.
pub fn mac_of(addr: IpAddr) -> Mac {
    let (kind, low) = match addr {
        IpAddr::V4(a) => (0, u32::from(a)),
        IpAddr::V6(a) => (a.octets()[7], u128::from(a) as u32),
    };
    let [a, b, c, d] = low.to_be_bytes();
    [2, 0x10 | kind, a, b, c, d]
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Client to server.
    In,
    /// Server to client.
    Out,
}

/// Where the director's own choices began: it takes servers in turn, and towards each server, local addresses and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Server of flow 0.
    pub server: u32,
    /// First local endpoint towards every server, counted over all addresses and ports.
    pub local: u32,
    /// Whether that was seen.
    pub is_known: bool,
}

/// The numbering of one measurement.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Forwarding mode of all servers.
    pub mode: ForwardMode,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Virtual services; flow `n` goes to service `n` modulo this.
    pub services: u32,
    /// Local addresses, a power of two.
    pub locals: u32,
    /// What the director chose for flow 0, once known.
    pub start: Start,
    /// By flow: the number by which its client is found, where that is not the flow's own.
    pub clients: Option<Arc<[u32]>>,
}

/// Servers of the one service, when there is one.
pub const SERVERS: u32 = 4;
/// Servers of each service, when there are several.
pub const SERVERS_OF_EACH: u32 = 10;

impl Flows {
    /// A numbering with local endpoints for `flows` flows.
    pub fn new(mode: ForwardMode, protocol: Protocol, services: u32, flows: u32) -> Self {
        let locals = (flows >> LOCAL_PORT_BITS).saturating_add(1).next_power_of_two();
        Self { mode, protocol, services, locals, start: Start::default(), clients: None }
    }

    /// Number of servers of each service.
    pub fn servers_of_each(&self) -> u32 {
        if self.services == 1 { SERVERS } else { SERVERS_OF_EACH }
    }

    /// Number of servers of all services.
    pub fn servers(&self) -> u32 {
        self.services * self.servers_of_each()
    }

    /// Port of the servers.
    pub fn dport(&self) -> u16 {
        if self.mode.sees_replies() { DPORT } else { VPORT }
    }

    /// Virtual endpoint of a service: a hundred services per address.
    pub fn virt<A: Family>(service: u32) -> (A, u16) {
        (A::host(Net::Virtual, 1 + service / 100), VPORT + (service % 100) as u16)
    }

    /// Client endpoint of a flow.
    #[inline(always)]
    pub fn client<A: Family>(&self, n: u32) -> (A, u16) {
        let n = self.clients.as_ref().map_or(n, |clients| clients[n as usize]);
        // Neighbouring numbers are far apart; an odd factor makes it a permutation of 24 bits.
        let host = n.wrapping_mul(0x9e_3779b1) & 0xff_ffff;
        (A::host(Net::Client, host), 1024 + (n >> 24) as u16)
    }

    /// Server of a flow.
    #[inline(always)]
    pub fn server<A: Family>(&self, n: u32) -> A {
        let server = match self.services {
            1 => (self.start.server + n) % SERVERS,
            services => n % services * SERVERS_OF_EACH + (self.start.server + n / services) % SERVERS_OF_EACH,
        };
        A::host(Net::Server, 1 + server)
    }

    /// What the server sees as its client.
    #[inline(always)]
    pub fn local<A: Family>(&self, n: u32) -> (A, u16) {
        if self.mode != ForwardMode::FullNat {
            return self.client(n);
        }
        // Each server has its own turn.
        let turn = self.start.local.wrapping_add(n / SERVERS);
        let address = (turn >> LOCAL_PORT_BITS) & (self.locals - 1);
        (A::host(Net::Local, 1 + address), LOCAL_PORTS.0 + (turn & ((1 << LOCAL_PORT_BITS) - 1)) as u16)
    }

    /// The flow's packets as they come to the director.
    #[inline(always)]
    pub fn arriving<A: Family>(&self, n: u32, way: Way) -> Tuple<A> {
        match way {
            Way::In => self.client_side(n),
            Way::Out => self.server_side::<A>(n).reversed(),
        }
    }

    /// The flow's packets as they leave it; in DR and TUN modes, the packet itself or the one inside the tunnel.
    pub fn leaving<A: Family>(&self, n: u32, way: Way) -> Tuple<A> {
        match way {
            Way::In if self.mode.sees_replies() => self.server_side(n),
            Way::In => self.client_side(n),
            Way::Out => self.client_side::<A>(n).reversed(),
        }
    }

    /// Client to virtual service.
    #[inline(always)]
    fn client_side<A: Family>(&self, n: u32) -> Tuple<A> {
        let (src, sport) = self.client(n);
        let (dst, dport) = Self::virt(if self.services == 1 { 0 } else { n % self.services });
        Tuple { src, dst, sport, dport, protocol: self.protocol }
    }

    /// Director to server.
    #[inline(always)]
    fn server_side<A: Family>(&self, n: u32) -> Tuple<A> {
        let (src, sport) = self.local(n);
        Tuple { src, dst: self.server(n), sport, dport: self.dport(), protocol: self.protocol }
    }

    /// Learns from the first packet of flow 0 what the director chose for it.
    pub fn learn<A: Family>(&mut self, source: (A, u16), server: A) {
        let low_bits = |addr: A| match addr.into() {
            IpAddr::V4(addr) => u32::from(addr),
            IpAddr::V6(addr) => u128::from(addr) as u32,
        };
        let number = |addr: A, net| low_bits(addr).wrapping_sub(low_bits(A::host(net, 1)));
        self.start.server = number(server, Net::Server) % self.servers_of_each();
        if self.mode == ForwardMode::FullNat {
            let port = u32::from(source.1.wrapping_sub(LOCAL_PORTS.0));
            self.start.local = number(source.0, Net::Local) << LOCAL_PORT_BITS | port;
            self.start.is_known = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn distinct<A: Family>(mode: ForwardMode, services: u32) {
        let flows = Flows {
            start: Start { server: 3, local: 32_000, is_known: true },
            ..Flows::new(mode, Protocol::UDP, services, 100_000)
        };
        let ways = if mode.sees_replies() { &[Way::In, Way::Out][..] } else { &[Way::In] };
        let mut seen = HashSet::new();
        for &way in ways {
            for n in 0..100_000 {
                assert!(seen.insert(flows.arriving::<A>(n, way)), "{mode:?}, flow {n}, {way:?}");
            }
        }
    }

    #[test]
    fn no_two_flows_share_a_tuple() {
        for mode in [ForwardMode::Nat, ForwardMode::FullNat, ForwardMode::DirectRouting] {
            distinct::<Ipv4Addr>(mode, 1);
            distinct::<Ipv6Addr>(mode, 1);
        }
        distinct::<Ipv4Addr>(ForwardMode::FullNat, 10_000);
    }

    #[test]
    fn clients_are_distinct_beyond_their_addresses() {
        let flows = Flows::new(ForwardMode::FullNat, Protocol::UDP, 1, 1);
        assert_ne!(flows.client::<Ipv4Addr>(5), flows.client::<Ipv4Addr>(5 + (1 << 24)));
    }

    #[test]
    fn what_is_learnt_is_what_flow_0_has() {
        let chosen = Flows {
            start: Start { server: 2, local: 40_000, is_known: true },
            ..Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, 1 << 20)
        };
        let mut flows = Flows { start: Start::default(), ..chosen.clone() };
        flows.learn::<Ipv4Addr>(chosen.local(0), chosen.server(0));
        assert_eq!(flows.start, chosen.start);
        flows.start = Start::default();
        flows.learn::<Ipv6Addr>(chosen.local(0), chosen.server(0));
        assert_eq!(flows.start, chosen.start);
    }
}
