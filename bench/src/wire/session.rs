//! Measurements on a cable with a device at its other end.

use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::fib::Mac;
use dataplane::snapshot::ForwardMode;
use proto::{Protocol, tcp};

use super::cable::{Cable, Stream, Traffic, Until, router_mac};
use super::dut::mode_name;
use super::inspect::{Checker, Inspector, Treatment};
use super::interrupt;
use super::latency::{Clock, Microseconds};
use super::lives::{Lives, Newcomers};
use super::maker::{Macs, Maker, Tag};
use super::pace::Pace;
use super::result::{Verification, Workload};
use crate::flows::{Family, Flows};
use crate::frame::{MAX_FRAME, Shape, header_len};
use crate::pick::Pick;

/// Seed of the choice of flows.
const RANDOM: u64 = 0x1234_5678_9abc_def1;
/// Of the packets at full rate, one in so many is checked. A prime, so that it is not always the same place of a batch.
const SAMPLE: u32 = 1009;

/// Packets under way when every packet is checked, which takes long: fewer than a ring has places.
const CHECKED_WINDOW: u64 = 256;

/// Lengths of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// All the same, frame check sequence included.
    Fixed(usize),
    /// Seven of 64 bytes, four of 594 and one of 1518 in turn ("simple IMIX").
    Imix,
}

impl Length {
    fn wire_lens(self) -> Vec<usize> {
        match self {
            Length::Fixed(len) => vec![len],
            Length::Imix => vec![64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594],
        }
    }

    /// Name in tables.
    pub fn name(self) -> String {
        match self {
            Length::Fixed(len) => len.to_string(),
            Length::Imix => "IMIX".to_owned(),
        }
    }
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Forwarding mode of the servers.
    pub mode: ForwardMode,
    /// Whether servers answer, so that both ways are measured.
    pub both_ways: bool,
    /// Address family.
    pub is_v6: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Lengths of frames.
    pub length: Length,
    /// Number of flows.
    pub flows: u32,
    /// Whether flows are chosen by Zipf's law instead of all alike.
    pub is_zipf: bool,
}

impl Case {
    /// FULLNAT, IPv4, UDP, 64 bytes, one way.
    pub fn basic(mode: ForwardMode, flows: u32) -> Self {
        let (both_ways, is_v6, protocol, length) = (false, false, Protocol::UDP, Length::Fixed(64));
        Self { mode, both_ways, is_v6, protocol, length, flows, is_zipf: false }
    }

    /// The numbering of flows.
    pub fn numbering(&self) -> Flows {
        Flows::new(self.mode, self.protocol, 1, self.flows)
    }

    fn pick(&self) -> Pick {
        let flows = self.flows;
        if self.is_zipf { Pick::Zipf { flows } } else { Pick::Uniform { flows } }
    }

    /// Shapes of the frames, with room for a tag if one is needed.
    fn shapes<A: Family>(&self, needs_tag: bool) -> Vec<Shape> {
        let least = if needs_tag { header_len::<A>(self.protocol) + Tag::LEN + 4 } else { 0 };
        // Ports have an MTU of 1500, tunnel header included.
        let most = if self.mode == ForwardMode::Tunnel { MAX_FRAME + 4 - A::HEADER_LEN } else { MAX_FRAME + 4 };
        let shape = |len: usize| Shape::new::<A>(self.protocol, len.clamp(least, most));
        self.length.wire_lens().into_iter().map(shape).collect()
    }

    /// Whether there is room for a tag without longer frames.
    fn has_room<A: Family>(&self) -> bool {
        self.length
            .wire_lens()
            .into_iter()
            .min()
            .is_some_and(|len| len >= header_len::<A>(self.protocol) + Tag::LEN + 4)
    }

    /// For the results. `program_mode` is what the program is asked to do.
    pub fn workload(&self, program_mode: &str, wire_len: f64) -> Workload {
        Workload {
            mode: program_mode.to_owned(),
            way: if self.both_ways { "in+out" } else { "in" }.to_owned(),
            family: if self.is_v6 { Ipv6Addr::NAME } else { Ipv4Addr::NAME }.to_owned(),
            protocol: if self.protocol == Protocol::TCP { "TCP" } else { "UDP" }.to_owned(),
            length: self.length.name(),
            wire_len,
            flows: self.flows,
            choice: if self.is_zipf { "Zipf" } else { "uniform" }.to_owned(),
            workers: 1,
        }
    }

    /// One line for people.
    pub fn name(&self) -> String {
        let w = self.workload(mode_name(self.mode), 0.0);
        format!("{} {} {} {} {} bytes, {} flows {}", w.mode, w.way, w.family, w.protocol, w.length, w.flows, w.choice)
    }
}

/// Outcome of a run at full rate.
#[derive(Clone, Debug)]
pub struct RateRun {
    /// What was sent and came back while it was measured, and what came afterwards.
    pub traffic: Traffic,
    /// Packets lost.
    pub lost: u64,
    /// Packets sent, answers included.
    pub sent: u64,
    /// Mean length on the wire of what was sent.
    pub wire_len: f64,
    /// The sample.
    pub verification: Verification,
}

/// Outcome of a pass in which every packet is checked.
#[derive(Clone, Debug)]
pub struct VerifiedRun {
    /// Offered rate.
    pub offered_mpps: f64,
    /// Packets sent, answers included.
    pub sent: u64,
    /// Packets that did not come.
    pub lost: u64,
    /// Mean length on the wire of what was sent.
    pub wire_len: f64,
    /// The checks.
    pub verification: Verification,
}

/// Outcome of a run at a constant rate.
#[derive(Clone, Debug)]
pub struct LatencyRun {
    /// Offered rate.
    pub offered_mpps: f64,
    /// Rate that was reached.
    pub achieved_mpps: f64,
    /// Latencies.
    pub microseconds: Microseconds,
    /// Packets sent.
    pub sent: u64,
    /// Packets that did not come back.
    pub lost: u64,
    /// Mean length on the wire of what was sent.
    pub wire_len: f64,
}

/// Outcome of a run of new connections.
#[derive(Clone, Debug)]
pub struct ConnectionsRun {
    /// Millions per second.
    pub million_per_s: f64,
    /// Share that did not come to its end.
    pub loss: f64,
    /// Mean length on the wire of what was sent.
    pub wire_len: f64,
}

/// A cable with a device at its other end that forwards.
pub struct Session<'a> {
    cable: &'a mut Cable,
    device: Mac,
    treatment: Treatment,
    ghz: f64,
}

/// Calls a method that is generic in the address family.
macro_rules! by_family {
    ($case:expr, $session:ident.$method:ident($($argument:expr),*)) => {
        match $case.is_v6 {
            false => $session.$method::<Ipv4Addr>($($argument),*),
            true => $session.$method::<Ipv6Addr>($($argument),*),
        }
    };
}

impl<'a> Session<'a> {
    /// Of packets to the device's MAC address.
    pub fn new(cable: &'a mut Cable, device: Mac, treatment: Treatment, ghz: f64) -> Self {
        Self { cable, device, treatment, ghz }
    }

    /// Sends a few packets again and again until all come back: then neighbours are resolved.
    pub fn probe(&mut self, case: &Case, timeout: Duration) -> Result<()> {
        by_family!(case, self.probe_as(case, timeout))
    }

    /// Makes the device know all flows.
    pub fn open(&mut self, case: &Case) -> Result<()> {
        by_family!(case, self.open_as(case))
    }

    /// Full rate for a while, after a warm-up.
    pub fn rate(&mut self, case: &Case, time: Duration) -> Result<RateRun> {
        by_family!(case, self.rate_as(case, time))
    }

    /// Every packet checked.
    pub fn verify(&mut self, case: &Case, mpps: f64, time: Duration) -> Result<VerifiedRun> {
        by_family!(case, self.verify_as(case, mpps, time))
    }

    /// Latency at a rate.
    pub fn latency(&mut self, case: &Case, mpps: f64, time: Duration) -> Result<LatencyRun> {
        by_family!(case, self.latency_as(case, mpps, time))
    }

    /// New connections, none of which the device knows; each ends after `steps` packets.
    pub fn connect(&mut self, case: &Case, first: u32, steps: u32) -> Result<ConnectionsRun> {
        by_family!(case, self.connect_as(case, first, steps))
    }

    fn is_director(&self) -> bool {
        matches!(self.treatment, Treatment::Director { .. })
    }

    fn cycles(&self, time: Duration) -> u64 {
        (time.as_nanos() as f64 * self.ghz) as u64
    }

    fn macs<A: Family>(&self) -> Macs {
        Macs { device: self.device, sender: router_mac::<A>() }
    }

    fn sampler<A: Family>(&self, case: &Case, answers: bool, has_tag: bool) -> Checker<A> {
        let inspector = Inspector::new(self.treatment, case.numbering(), self.device, has_tag, 0);
        Checker::of_some(inspector, answers, SAMPLE)
    }

    fn probe_as<A: Family>(&mut self, case: &Case, timeout: Duration) -> Result<()> {
        const PACKETS: u32 = 16;
        let deadline = Instant::now() + timeout;
        let mut shapes = case.shapes::<A>(true);
        shapes.iter_mut().for_each(|shape| shape.flags = tcp::Flags::SYN);
        let mut maker = Maker::new::<A>(case.numbering(), self.macs::<A>(), &shapes, true);
        loop {
            let mut checker = self.sampler::<A>(case, false, true);
            let mut stream = stream::<A>(&mut maker, Pick::Sequence { next: 0, end: PACKETS });
            let silence = Until::Silence(self.cycles(Duration::from_millis(10)));
            let traffic = self.cable.run::<A>(&mut stream, &mut checker, &mut Pace::Flood, silence)?;
            if traffic.received >= u64::from(PACKETS) {
                return Ok(());
            }
            interrupt::check()?;
            let received = traffic.received;
            ensure!(Instant::now() < deadline, "of {PACKETS} packets {received} came back: what does the device do?");
            // The device may need this core to get ready.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn open_as<A: Family>(&mut self, case: &Case) -> Result<()> {
        if !self.is_director() {
            return Ok(());
        }
        let answered = case.mode.sees_replies() && (case.both_ways || case.protocol == Protocol::TCP);
        let ack = tcp::Flags::ACK;
        match (case.protocol == Protocol::TCP, answered) {
            (true, true) => self.each::<A>(case, tcp::Flags::SYN, 2).context("handshakes")?,
            (true, false) => {
                self.each::<A>(case, tcp::Flags::SYN, 0).context("SYNs")?;
                self.each::<A>(case, ack, 0).context("ACKs")?;
            }
            (false, true) => self.each::<A>(case, ack, 1).context("first packets and replies")?,
            (false, false) => self.each::<A>(case, ack, 0).context("first packets")?,
        }
        Ok(())
    }

    /// One packet of every flow, and answers to it up to step `last`.
    fn each<A: Family>(&mut self, case: &Case, flags: tcp::Flags, last: u32) -> Result<()> {
        let mut completed = 0;
        for _ in 0..3 {
            let run = self.lives::<A>(case, 0, flags, last)?;
            completed = run.0;
            if completed >= u64::from(case.flows) {
                return Ok(());
            }
        }
        // Of a flood a device may drop something; what it knows then is enough if nearly all have passed.
        let missing = u64::from(case.flows) - completed;
        ensure!(missing * 1000 <= u64::from(case.flows), "of {} flows {missing} do not come through", case.flows);
        Ok(())
    }

    /// Begins a connection for every flow from `first` on; returns how many came to step `last`, the time in cycles, and the
    /// mean length on the wire.
    fn lives<A: Family>(&mut self, case: &Case, first: u32, flags: tcp::Flags, last: u32) -> Result<(u64, u64, f64)> {
        let mut shapes = case.shapes::<A>(true);
        shapes.iter_mut().for_each(|shape| shape.flags = flags);
        let mut maker = Maker::new::<A>(case.numbering(), self.macs::<A>(), &shapes, true);
        let wire_len = maker.wire_len();
        let pick = Pick::Sequence { next: first, end: first + case.flows };
        let completed = std::cell::Cell::new(0);
        let mut lives = Lives::<A>::new(case.protocol, last, &completed);
        let mut newcomers = Newcomers::new(stream::<A>(&mut maker, pick), &completed);
        let silence = self.cycles(Duration::from_millis(50));
        let traffic = self.cable.run::<A>(&mut newcomers, &mut lives, &mut Pace::Flood, Until::Silence(silence))?;
        Ok((completed.get(), traffic.cycles.saturating_sub(silence), wire_len))
    }

    fn rate_as<A: Family>(&mut self, case: &Case, time: Duration) -> Result<RateRun> {
        let has_tag = case.has_room::<A>();
        let mut maker = Maker::new::<A>(case.numbering(), self.macs::<A>(), &case.shapes::<A>(false), has_tag);
        let wire_len = maker.wire_len();
        let answers = case.both_ways && self.is_director();
        let mut stream = stream::<A>(&mut maker, case.pick());
        let mut checker = self.sampler::<A>(case, answers, has_tag);
        let warm_up = Until::Cycles(self.cycles(time / 4));
        self.cable.run::<A>(&mut stream, &mut checker, &mut Pace::Flood, warm_up)?;
        self.cable.drain::<A>(&mut checker, self.ghz)?;
        let until = Until::Cycles(self.cycles(time));
        let traffic = self.cable.run::<A>(&mut stream, &mut checker, &mut Pace::Flood, until)?;
        let rest = self.cable.drain::<A>(&mut checker, self.ghz)?;
        let sent = traffic.sent + traffic.answered + rest.answered;
        let lost = sent.saturating_sub(traffic.received + rest.received);
        Ok(RateRun { traffic, lost, sent, wire_len, verification: checker.verification() })
    }

    fn verify_as<A: Family>(&mut self, case: &Case, mpps: f64, time: Duration) -> Result<VerifiedRun> {
        let mut maker = Maker::new::<A>(case.numbering(), self.macs::<A>(), &case.shapes::<A>(true), true);
        let wire_len = maker.wire_len();
        let answers = case.both_ways && self.is_director();
        let inspector = Inspector::new(self.treatment, case.numbering(), self.device, true, case.flows);
        let mut checker = Checker::<A>::of_all(inspector, answers, case.flows);
        let mut sequence = vec![0; case.flows as usize];
        let mut stream = Stream { sequence: Some(&mut sequence), ..stream::<A>(&mut maker, case.pick()) };
        let mut pace = Pace::rate(mpps, self.ghz, hw::cycles()).within(CHECKED_WINDOW);
        let until = Until::Cycles(self.cycles(time));
        let traffic = self.cable.run::<A>(&mut stream, &mut checker, &mut pace, until)?;
        let rest = self.cable.drain::<A>(&mut checker, self.ghz)?;
        let sent = traffic.sent + traffic.answered + rest.answered;
        let lost = sent.saturating_sub(checker.distinct());
        Ok(VerifiedRun { offered_mpps: mpps, sent, lost, wire_len, verification: checker.verification() })
    }

    fn latency_as<A: Family>(&mut self, case: &Case, mpps: f64, time: Duration) -> Result<LatencyRun> {
        let mut maker = Maker::new::<A>(case.numbering(), self.macs::<A>(), &case.shapes::<A>(true), true);
        let wire_len = maker.wire_len();
        let mut payload = maker.tag_offset().context("no tag")?;
        if case.mode == ForwardMode::Tunnel && self.is_director() {
            payload += A::HEADER_LEN;
        }
        let mut stream = Stream { stamped: true, ..stream::<A>(&mut maker, case.pick()) };
        // What is in the caches afterwards is what the measurement finds.
        let mut clock = Clock::new(payload, self.ghz);
        let mut pace = Pace::rate(mpps, self.ghz, hw::cycles());
        let warm_up = Until::Cycles(self.cycles(time / 4));
        self.cable.run::<A>(&mut stream, &mut clock, &mut pace, warm_up)?;
        self.cable.drain::<A>(&mut clock, self.ghz)?;
        let mut clock = Clock::new(payload, self.ghz);
        let mut pace = Pace::rate(mpps, self.ghz, hw::cycles());
        let traffic = self.cable.run::<A>(&mut stream, &mut clock, &mut pace, Until::Cycles(self.cycles(time)))?;
        let rest = self.cable.drain::<A>(&mut clock, self.ghz)?;
        Ok(LatencyRun {
            offered_mpps: mpps,
            achieved_mpps: 1000.0 * self.ghz * traffic.sent as f64 / traffic.cycles as f64,
            microseconds: clock.microseconds(),
            sent: traffic.sent,
            lost: traffic.sent.saturating_sub(traffic.received + rest.received),
            wire_len,
        })
    }

    fn connect_as<A: Family>(&mut self, case: &Case, first: u32, steps: u32) -> Result<ConnectionsRun> {
        let (completed, cycles, wire_len) = self.lives::<A>(case, first, tcp::Flags::SYN, steps - 1)?;
        Ok(ConnectionsRun {
            million_per_s: 1000.0 * self.ghz * completed as f64 / cycles as f64,
            loss: 1.0 - completed as f64 / f64::from(case.flows),
            wire_len,
        })
    }
}

fn stream<A: Family>(maker: &mut Maker, pick: Pick) -> Stream<'_, A> {
    Stream { maker, pick, random: RANDOM, stamped: false, sequence: None, family: PhantomData }
}

/// Frames of all flows, one each in the order of their numbers, as a port that repeats a file gets them.
pub fn frames(case: &Case, device: Mac) -> Vec<Vec<u8>> {
    fn of<A: Family>(case: &Case, device: Mac) -> Vec<Vec<u8>> {
        let macs = Macs { device, sender: router_mac::<A>() };
        let mut maker = Maker::new::<A>(case.numbering(), macs, &case.shapes::<A>(false), false);
        let frame = |flow| {
            let mut frame = vec![0; maker.next_len()];
            maker.fill::<A>(&mut frame, Tag { flow, ..Tag::default() });
            frame
        };
        (0..case.flows).map(frame).collect()
    }
    if case.is_v6 { of::<Ipv6Addr>(case, device) } else { of::<Ipv4Addr>(case, device) }
}
