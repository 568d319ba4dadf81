//! Neighbour resolution: the kernel sends ARP requests and neighbour solicitations when told that an entry is used.
//!
//! `NTF_USE` on `RTM_NEWNEIGH` does what sending a packet does, without a packet (`neigh_add` in net/core/neighbour.c):
//! an entry that is new, failed or stale is probed, any other is left alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::PortId;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::mpsc;

use super::counters::Counters;
use super::netlink::{Requests, errno};

/// Workers ask once per packet; the kernel is told this often at most. It repeats its own probes every second.
const KICK_INTERVAL: Duration = Duration::from_millis(200);

/// Neighbours resolved per interval; beyond that, requests are dropped, and workers ask again.
const REMEMBERED: usize = 8192;

/// Kicks that may wait for the kernel; room for a round of verification besides the requests of workers.
pub(super) const KICK_QUEUE: usize = 4096;

/// An entry to be used: interface index and address.
pub(super) type Kick = (u32, IpAddr);

/// Limits how often the same neighbour is resolved: once in one to two [`KICK_INTERVAL`]s. Two sets that take turns
/// make it constant in time and bounded in memory, however many addresses a scan asks for.
#[derive(Debug)]
pub(super) struct RateLimit {
    turned: Instant,
    current: HashSet<(PortId, IpAddr)>,
    previous: HashSet<(PortId, IpAddr)>,
}

impl RateLimit {
    /// A limit that remembers nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { turned: now, current: HashSet::new(), previous: HashSet::new() }
    }

    /// True when this neighbour may be kicked at `now`; it is then remembered.
    pub fn allows(&mut self, port: PortId, address: IpAddr, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.turned);
        if since >= KICK_INTERVAL {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.clear();
            if since >= 2 * KICK_INTERVAL {
                self.previous.clear();
            }
            self.turned = now;
        }
        let key = (port, address);
        self.current.len() < REMEMBERED && !self.previous.contains(&key) && self.current.insert(key)
    }
}

/// Carries kicks out until the queue is closed.
pub(super) async fn kick_all(mut kicks: mpsc::Receiver<Kick>, mut requests: Requests, counters: Arc<Counters>) {
    let mut warned: Option<Instant> = None;
    while let Some((index, address)) = kicks.recv().await {
        let Err(error) = kick(&mut requests, index, address).await else {
            counters.neighbour_kicks.add(1);
            continue;
        };
        counters.neighbour_kicks_failed.add(1);
        if warned.is_none_or(|at| at.elapsed() >= Duration::from_secs(60)) {
            warned = Some(Instant::now());
            let remedy = match error.raw_os_error() {
                Some(errno::ENOBUFS) => "; raise net.ipv4.neigh.default.gc_thresh3 or its IPv6 counterpart",
                _ => "",
            };
            tracing::warn!("the kernel cannot resolve {address}: {error}{remedy}");
        }
    }
}

async fn kick(requests: &mut Requests, index: u32, address: IpAddr) -> std::io::Result<()> {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    requests.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PORT: PortId = PortId(0);

    fn ip(n: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + n as u32).into()
    }

    #[test]
    fn the_same_neighbour_is_kicked_once_per_interval() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let mut limit = RateLimit::new(start);
        assert!(limit.allows(PORT, ip(1), ms(150)));
        assert!(!limit.allows(PORT, ip(1), ms(150)));
        assert!(limit.allows(PORT, ip(2), ms(150)), "others are not affected");
        assert!(limit.allows(PortId(1), ip(1), ms(150)), "nor is the same address on another port");
        assert!(!limit.allows(PORT, ip(1), ms(349)), "not before the interval has passed, the sets having turned");
        assert!(!limit.allows(PORT, ip(1), ms(548)));
        assert!(limit.allows(PORT, ip(1), ms(549)), "after two intervals at the latest");
        assert!(limit.allows(PORT, ip(1), ms(5000)), "long after");
    }

    #[test]
    fn memory_is_bounded_and_freed() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        assert!((0..REMEMBERED).all(|n| limit.allows(PORT, ip(n), start)));
        assert!(!limit.allows(PORT, ip(REMEMBERED), start), "dropped while full");
        let later = start + KICK_INTERVAL;
        assert!(limit.allows(PORT, ip(REMEMBERED), later));
        assert_eq!((limit.current.len(), limit.previous.len()), (1, REMEMBERED));
    }
}
