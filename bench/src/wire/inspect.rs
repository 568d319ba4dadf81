//! What came back: checked to the last byte, whatever device it came from.

use anyhow::{Context, Result, ensure};
use dataplane::fib::Mac;
use dataplane::snapshot::ForwardMode;
use dpdk::Mbuf;
use proto::{Protocol, Tuple, ethernet};

use super::cable::{Fate, Sink, router_mac};
use super::maker::Tag;
use super::neighbours::is_in;
use super::result::Verification;
use super::sequence::Arrivals;
use crate::flows::{Family, Flows, LOCAL_PORTS, Net, SERVERS, Way, mac_of};
use crate::frame::{Expected, TTL, check, header_len};

/// What the device does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It balances load.
    Director {
        /// By how much it lowers the time to live; `None` when that is its own business.
        ttl_falls: Option<u8>,
    },
    /// Nothing.
    Io,
    /// It exchanges MAC addresses.
    MacSwap,
    /// It exchanges MAC addresses, addresses and ports.
    FiveTupleSwap,
}

/// Knows what packets must look like.
#[derive(Clone, Debug)]
pub struct Inspector<A> {
    treatment: Treatment,
    flows: Flows,
    device: Mac,
    has_tag: bool,
    /// What the device chose for each flow, as far as that is remembered.
    choices: Vec<Option<(Tuple<A>, Mac)>>,
}

/// What a packet said about itself, and where it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its tag, if packets have one.
    pub tag: Option<Tag>,
    /// [`Way::In`] at a server, [`Way::Out`] at a client.
    pub way: Way,
}

impl<A: Family> Inspector<A> {
    /// Of packets that were sent to `device`. With `remembered` flows it watches that the device keeps to its choices.
    pub fn new(treatment: Treatment, flows: Flows, device: Mac, has_tag: bool, remembered: u32) -> Self {
        Self { treatment, flows, device, has_tag, choices: vec![None; remembered as usize] }
    }

    /// Checks a frame.
    pub fn inspect(&mut self, frame: &[u8]) -> Result<Finding> {
        let dst: Mac = *frame.first_chunk().context("no Ethernet header")?;
        let has_tunnel = self.flows.mode == ForwardMode::Tunnel && self.is_director();
        let outer_len = if has_tunnel { A::HEADER_LEN } else { 0 };
        let inner = ethernet::HEADER_LEN + outer_len;
        let tag = match self.has_tag {
            true => {
                let payload = header_len::<A>(self.flows.protocol) + outer_len;
                Some(Tag::read(frame, payload).context("the packet is too short for its tag")?)
            }
            false => None,
        };
        let seen = tuple_at::<A>(frame, inner, self.flows.protocol).context("the packet is too short")?;
        let way = if self.is_director() && dst == router_mac::<A>() { Way::Out } else { Way::In };
        let mut expected = Expected {
            ttl: Some(TTL),
            own_mac: self.device,
            unpainted: if self.has_tag { Tag::LEN } else { 0 },
            ..Expected::of(self.tuple(tag, &seen, way)?, frame.len() - outer_len, dst)
        };
        match self.treatment {
            Treatment::Director { ttl_falls } => {
                let times = if way == Way::In { 1 } else { 2 };
                expected.ttl = ttl_falls.map(|falls| TTL - times * falls);
                if way == Way::In {
                    self.check_choice(frame, inner, tag, &seen, dst)?;
                    expected.tunnel = has_tunnel.then(|| tunnel_ends::<A>(frame)).flatten();
                    ensure!(!has_tunnel || expected.tunnel.is_some(), "no tunnel header");
                }
            }
            Treatment::Io => {
                ensure!(dst == self.device, "the destination MAC address has changed");
                expected.own_mac = router_mac::<A>();
            }
            Treatment::MacSwap | Treatment::FiveTupleSwap => {
                ensure!(dst == router_mac::<A>(), "the destination is {dst:x?}, not who sent it");
            }
        }
        check(frame, &expected)?;
        Ok(Finding { tag, way })
    }

    fn is_director(&self) -> bool {
        matches!(self.treatment, Treatment::Director { .. })
    }

    /// The tuple that the frame must have. What depends on the flow is taken from the frame itself if the flow is not known.
    fn tuple(&self, tag: Option<Tag>, seen: &Tuple<A>, way: Way) -> Result<Tuple<A>> {
        let client = match tag {
            Some(tag) => self.flows.arriving::<A>(tag.flow, Way::In),
            None => {
                let (dst, dport) = Flows::virt(0);
                let (client, cport) =
                    if self.is_client_destination(way) { (seen.dst, seen.dport) } else { (seen.src, seen.sport) };
                Tuple { src: client, dst, sport: cport, dport, protocol: self.flows.protocol }
            }
        };
        let is_translated = self.is_director() && self.flows.mode.sees_replies() && way == Way::In;
        if !is_translated {
            return Ok(if self.is_client_destination(way) { client.reversed() } else { client });
        }
        let server = (1..=SERVERS).map(|n| A::host(Net::Server, n)).find(|&server| server == seen.dst);
        let server = server.with_context(|| format!("{} is no server", seen.dst))?;
        let (src, sport) = match self.flows.mode {
            ForwardMode::FullNat => {
                ensure!(is_in(seen.src, Net::Local), "{} is no local address", seen.src);
                ensure!((LOCAL_PORTS.0..=LOCAL_PORTS.1).contains(&seen.sport), "{} is no local port", seen.sport);
                (seen.src, seen.sport)
            }
            _ => (client.src, client.sport),
        };
        Ok(Tuple { src, dst: server, sport, dport: self.flows.dport(), protocol: self.flows.protocol })
    }

    /// True when the client is the destination.
    fn is_client_destination(&self, way: Way) -> bool {
        way == Way::Out || self.treatment == Treatment::FiveTupleSwap
    }

    /// The server is one of ours and is always the same for a flow, and so are local address and port.
    fn check_choice(&mut self, frame: &[u8], inner: usize, tag: Option<Tag>, seen: &Tuple<A>, dst: Mac) -> Result<()> {
        let mut servers = (1..=SERVERS).map(|n| A::host(Net::Server, n));
        let server = servers.find(|&server| mac_of(server.into()) == dst);
        let server = server.with_context(|| format!("{dst:x?} is no server's MAC address"))?;
        if self.flows.mode.sees_replies() {
            ensure!(server == seen.dst, "the packet for {} goes to the MAC address of {server}", seen.dst);
        } else if inner > ethernet::HEADER_LEN {
            ensure!(
                tunnel_ends::<A>(frame).is_some_and(|(_, end)| end == server),
                "the tunnel does not end at {server}"
            );
        }
        if let Some(choice) = tag.and_then(|tag| self.choices.get_mut(tag.flow as usize)) {
            let (before, mac) = choice.get_or_insert((*seen, dst));
            ensure!(
                *before == *seen && *mac == dst,
                "the flow was {before:?} to {mac:x?}, and is {seen:?} to {dst:x?}"
            );
        }
        Ok(())
    }

    /// How many flows share what the server sees with another flow: none may.
    pub fn clashes(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        self.choices.iter().flatten().filter(|(tuple, _)| !seen.insert(*tuple)).count() as u64
    }
}

/// Addresses and ports of the packet at `at`.
fn tuple_at<A: Family>(frame: &[u8], at: usize, protocol: Protocol) -> Option<Tuple<A>> {
    let packet = frame.get(at..)?;
    let l4 = packet.get(A::HEADER_LEN..A::HEADER_LEN + 4)?;
    Some(Tuple {
        src: A::read(&packet[A::SRC..]),
        dst: A::read(&packet[A::DST..]),
        sport: u16::from_be_bytes([l4[0], l4[1]]),
        dport: u16::from_be_bytes([l4[2], l4[3]]),
        protocol,
    })
}

/// Source and destination of the outer header.
fn tunnel_ends<A: Family>(frame: &[u8]) -> Option<(A, A)> {
    let outer = frame.get(ethernet::HEADER_LEN..)?.get(..A::HEADER_LEN)?;
    Some((A::read(&outer[A::SRC..]), A::read(&outer[A::DST..])))
}

/// Turns a packet that a server received into its answer, which needs no new checksums.
#[inline(always)]
pub fn turn_around<A: Family>(frame: &mut [u8]) {
    let Some((ethernet, packet)) = frame.split_at_mut_checked(ethernet::HEADER_LEN) else { return };
    exchange(&mut ethernet[..12]);
    let Some((ip, l4)) = packet.split_at_mut_checked(A::HEADER_LEN) else { return };
    exchange(&mut ip[A::SRC..A::SRC + 2 * A::LEN]);
    if let Some(ports) = l4.get_mut(..4) {
        exchange(ports);
    }
}

#[inline(always)]
fn exchange(pair: &mut [u8]) {
    let (first, second) = pair.split_at_mut(pair.len() / 2);
    first.swap_with_slice(second);
}

/// Checks packets that came back: all of them, or one of every so many.
pub struct Checker<A> {
    inspector: Inspector<A>,
    /// Whether servers answer.
    answers: bool,
    every: u32,
    until_next: u32,
    arrivals: Option<[Arrivals; 2]>,
    verification: Verification,
    /// Packets that came to servers.
    pub at_servers: u64,
    /// Packets that came to clients.
    pub at_clients: u64,
}

impl<A: Family> Checker<A> {
    /// Checks every packet, and the order of each of `flows` flows.
    pub fn of_all(inspector: Inspector<A>, answers: bool, flows: u32) -> Self {
        let arrivals = Some([Arrivals::new(flows), Arrivals::new(flows)]);
        Self { arrivals, ..Self::of_some(inspector, answers, 1) }
    }

    /// Checks one packet of `every`, and counts the others.
    pub fn of_some(inspector: Inspector<A>, answers: bool, every: u32) -> Self {
        let verification = Verification::default();
        Self { inspector, answers, every, until_next: 1, arrivals: None, verification, at_servers: 0, at_clients: 0 }
    }

    /// The outcome so far.
    pub fn verification(&self) -> Verification {
        let mut verification = self.verification.clone();
        for arrivals in self.arrivals.iter().flatten() {
            verification.duplicated += arrivals.duplicated;
            verification.reordered += arrivals.reordered;
        }
        let clashes = self.inspector.clashes();
        if clashes > 0 {
            verification.wrong += clashes;
            verification.example.get_or_insert(format!("{clashes} flows look to their server like another flow"));
        }
        verification
    }

    /// Packets that came, each counted once; only if all were checked.
    pub fn distinct(&self) -> u64 {
        self.arrivals.iter().flatten().map(|arrivals| arrivals.distinct).sum()
    }

    /// Checks a frame.
    #[inline(never)]
    fn inspect(&mut self, frame: &[u8]) {
        let found = self.inspector.inspect(frame).and_then(|finding| {
            if let (Some(arrivals), Some(tag)) = (&mut self.arrivals, finding.tag) {
                let arrivals = &mut arrivals[usize::from(finding.way == Way::Out)];
                ensure!(arrivals.note(tag.flow, tag.sequence), "there is no flow {}", tag.flow);
            }
            Ok(())
        });
        self.verification.checked += 1;
        if let Err(error) = found {
            self.verification.wrong += 1;
            self.verification.example.get_or_insert_with(|| format!("{error:#}"));
        }
    }
}

impl<A: Family> Sink for Checker<A> {
    #[inline(always)]
    fn take(&mut self, packet: &mut Mbuf, _now: u64) -> Fate {
        self.until_next -= 1;
        if self.until_next == 0 {
            self.until_next = self.every;
            self.inspect(packet.data());
        }
        let is_client = packet.data()[..6] == router_mac::<A>();
        if is_client || !self.answers {
            self.at_clients += u64::from(is_client);
            self.at_servers += u64::from(!is_client);
            return Fate::Done;
        }
        self.at_servers += 1;
        turn_around::<A>(packet.data_mut());
        Fate::Answer
    }
}

#[cfg(test)]
mod tests;
