//! What is counted: scenarios of one kind of packet each.

use anyhow::{Result, ensure};
use dataplane::conn::{TICKS_PER_SECOND, Tick};
use dataplane::packet::BURST;
use dataplane::snapshot::{ClientAddress, ForwardMode};
use dataplane::steer::{Ownership, Rss};
use dataplane::verdict::DropReason;
use proto::proxy_protocol::Version;
use proto::{Protocol, Tuple, tcp};

use crate::bed::{self, Bed, Config};
use crate::frame;

/// Connections that are established.
const FLOWS: u32 = 1024;
/// Bursts that are counted. A tick passes in each [`BURSTS_PER_TICK`].
const BURSTS: u32 = 320;
const BURSTS_PER_TICK: u32 = 8;
const ACK: tcp::Flags = tcp::Flags(tcp::Flags::ACK.0 | tcp::Flags::PSH.0);
const SYN_ACK: tcp::Flags = tcp::Flags(tcp::Flags::SYN.0 | tcp::Flags::ACK.0);

/// One kind of packets on one kind of service.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    config: Config,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Packets of clients, on connections that have had packets both ways.
    In,
    /// Replies.
    Out,
    /// First packets, each of a new client.
    New,
    /// Packets of established connections that another worker owns.
    Steered,
    /// Connections that end.
    Expiry,
    /// ARP requests, for the kernel.
    Arp,
    /// Packets of no service, when the kernel gets no more of them.
    Unknown,
}

/// All scenarios, in the order of the record.
pub fn all() -> Vec<Scenario> {
    use ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
    let mut all = Vec::new();
    let mut add = |kind, mode, is_v6, protocol| {
        let workers = if kind == Kind::Steered { 2 } else { 1 };
        all.push(Scenario { config: Config { mode, is_v6, protocol, workers, client_address: None, log: None }, kind });
    };
    for is_v6 in [false, true] {
        for protocol in [Protocol::UDP, Protocol::TCP] {
            for mode in [FullNat, Nat, DirectRouting, Tunnel] {
                add(Kind::In, mode, is_v6, protocol);
                if mode.sees_replies() {
                    add(Kind::Out, mode, is_v6, protocol);
                }
            }
        }
        for mode in [FullNat, Nat, DirectRouting] {
            add(Kind::New, mode, is_v6, Protocol::TCP);
        }
        add(Kind::Steered, FullNat, is_v6, Protocol::UDP);
        add(Kind::Expiry, FullNat, is_v6, Protocol::UDP);
    }
    add(Kind::Arp, FullNat, false, Protocol::UDP);
    add(Kind::Unknown, FullNat, false, Protocol::UDP);
    for is_v6 in [false, true] {
        for (kind, protocol) in [(Kind::In, Protocol::TCP), (Kind::Out, Protocol::TCP), (Kind::In, Protocol::UDP)] {
            let client_address = Some(ClientAddress::Proxy(Version::V2));
            let config = Config { mode: FullNat, is_v6, protocol, workers: 1, client_address, log: None };
            all.push(Scenario { config, kind });
        }
    }
    for (kind, traffic) in [(Kind::New, false), (Kind::New, true), (Kind::In, true), (Kind::Out, true)] {
        let (protocol, log) = (Protocol::TCP, Some(traffic));
        let config = Config { mode: FullNat, is_v6: false, protocol, workers: 1, client_address: None, log };
        all.push(Scenario { config, kind });
    }
    all
}

impl Scenario {
    /// Its name in tables and in the record.
    pub fn name(&self) -> String {
        let Config { mode, is_v6, protocol, .. } = self.config;
        let kind = match self.kind {
            Kind::In => "in",
            Kind::Out => "out",
            Kind::New => "new",
            Kind::Steered => "steered",
            Kind::Expiry => "expiry",
            Kind::Arp => return "ARP".to_owned(),
            Kind::Unknown => return "unknown".to_owned(),
        };
        let mode = match mode {
            ForwardMode::Nat => "NAT",
            ForwardMode::FullNat => "FULLNAT",
            ForwardMode::DirectRouting => "DR",
            ForwardMode::Tunnel => "TUN",
        };
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let protocol = if protocol == Protocol::TCP { "TCP" } else { "UDP" };
        let proxy = if self.config.client_address.is_some() { " PROXY" } else { "" };
        let log = match self.config.log {
            None => "",
            Some(false) => " logged",
            Some(true) => " logged with traffic",
        };
        format!("{mode} {family} {protocol}{proxy}{log} {kind}")
    }

    /// Runs it and returns how many packets, or connections that ended, were counted.
    ///
    /// # Errors
    /// When packets did not go the way that the scenario is about.
    pub fn run(&self) -> Result<u64> {
        let mut bed = Bed::new(self.config);
        let work = match self.kind {
            Kind::In | Kind::Out | Kind::Steered => self.established(&mut bed)?,
            Kind::New => {
                let packets = u64::from(BURSTS) * BURST as u64;
                repeat(&mut bed, |bed, n| bed.request(n, tcp::Flags::SYN));
                let connections = bed.total(|c| c.table_entries.get());
                ensure!(connections == packets, "{connections} connections of {packets}");
                ensure!(bed.sent() == packets, "{} packets of {packets} left", bed.sent());
                packets
            }
            Kind::Expiry => expiry(&mut bed)?,
            Kind::Arp => {
                let request = frame::arp_request([192, 0, 2, 1].into());
                let packets = repeat(&mut bed, |_, _| request.clone());
                ensure!(bed.total(|c| c.punted.get()) == packets, "not all of {packets} packets went to the kernel");
                packets
            }
            Kind::Unknown => unknown(&mut bed)?,
        };
        Ok(bed::scenario_ends(work))
    }

    fn established(&self, bed: &mut Bed) -> Result<u64> {
        let clients = self.clients(bed);
        let requests = |flags| clients.iter().map(|&n| bed.request(n, flags)).collect::<Vec<_>>();
        let (syn, ack) = (requests(tcp::Flags::SYN), requests(ACK));
        let left = bed.exchange(&syn)?;
        let replies = |flags| left.iter().map(|frame| frame::reply(frame, flags)).collect::<Vec<_>>();
        let mut frames = ack;
        if self.config.mode.sees_replies() {
            bed.exchange(&replies(SYN_ACK))?;
            bed.exchange(&frames)?;
            if self.kind == Kind::Out {
                frames = replies(ACK);
            }
        } else {
            bed.exchange(&frames)?;
        }
        let (sent, steered) = (bed.sent(), bed.total(|c| c.steered.get()));
        let mut random = 0x1234_5678_9abc_def1;
        let packets = repeat(bed, |_, _| frames[(xorshift(&mut random) >> 32) as usize % frames.len()].clone());
        ensure!(bed.sent() - sent == packets, "{} packets of {packets} left", bed.sent() - sent);
        let expected = if self.kind == Kind::Steered { packets } else { 0 };
        let steered = bed.total(|c| c.steered.get()) - steered;
        ensure!(steered == expected, "{steered} packets were steered, not {expected}");
        Ok(packets)
    }

    /// Clients of established connections; of the second worker's if packets are to be steered.
    fn clients(&self, bed: &Bed) -> Vec<u32> {
        let ownership = Ownership::new(&Rss::software(self.config.workers));
        let is_suitable = |n: &u32| {
            let (src, dst, protocol) = (bed.client(*n), bed.virt(), self.config.protocol);
            let (sport, dport) = (src.port(), dst.port());
            let owner = match (src.ip(), dst.ip()) {
                (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
                    ownership.owner(&Tuple { src, dst, sport, dport, protocol })
                }
                (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
                    ownership.owner(&Tuple { src, dst, sport, dport, protocol })
                }
                _ => return false,
            };
            usize::from(owner.0) == self.config.workers - 1
        };
        (0..).filter(is_suitable).take(FLOWS as usize).collect()
    }
}

/// Counts bursts of the packets that `frame` makes from their numbers, and returns how many packets they were.
fn repeat(bed: &mut Bed, mut frame: impl FnMut(&Bed, u32) -> Vec<u8>) -> u64 {
    let mut packets = 0;
    for burst in 0..BURSTS {
        let frames: Vec<_> = (0..BURST as u32).map(|i| frame(bed, burst * BURST as u32 + i)).collect();
        bed.now = Tick(bed.now.0 + u32::from(burst % BURSTS_PER_TICK == 0));
        bed.arrive(&frames);
        bed.turn();
        bed.take_punted();
        packets += frames.len() as u64;
    }
    packets
}

/// Connections that had a packet while they lived, so that their timers are looked at twice.
fn expiry(bed: &mut Bed) -> Result<u64> {
    let requests: Vec<_> = (0..BURSTS * BURST as u32 / 2).map(|n| bed.request(n, ACK)).collect();
    for _ in 0..2 {
        bed.exchange(&requests)?;
        bed.now = Tick(bed.now.0 + TICKS_PER_SECOND);
    }
    let connections = bed.total(|c| c.table_entries.get());
    ensure!(connections == requests.len() as u64, "{connections} connections of {}", requests.len());
    // Longer than any timeout.
    let end = bed.now.0 + 86_400 * TICKS_PER_SECOND;
    while bed.total(|c| c.table_entries.get()) > 0 {
        ensure!(bed.now.0 < end, "connections do not end");
        // In steps so large that turns without work do not matter.
        bed.now = Tick(bed.now.0 + TICKS_PER_SECOND);
        bed.turn();
    }
    Ok(connections)
}

fn unknown(bed: &mut Bed) -> Result<u64> {
    let src = bed.client(0);
    let unknown = frame::packet(Protocol::UDP, ACK, src, std::net::SocketAddr::new(bed.virt().ip(), 81));
    let limited = |bed: &Bed| bed.total(|c| c.drops[DropReason::PuntLimit as usize].get());
    // Packets enough to use up what the limit allows at once.
    while limited(bed) == 0 {
        bed.arrive([&unknown; BURST]);
        bed.free_turn();
        bed.take_punted();
    }
    let before = limited(bed);
    let mut packets = 0;
    for _ in 0..BURSTS {
        bed.arrive([&unknown; BURST]);
        bed.turn();
        packets += BURST as u64;
    }
    ensure!(limited(bed) - before == packets, "not all of {packets} packets were dropped");
    Ok(packets)
}

/// xorshift64 (G. Marsaglia, "Xorshift RNGs", 2003).
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
