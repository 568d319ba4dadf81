//! The generator's end of a memif connection, and the loop that sends and receives.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use dataplane::fib::Mac;
use dpdk::mempool::HEADROOM;
use dpdk::{Eal, Mbuf, Mempool, PoolConfig, Port, PortConfig, RxQueue, TxQueue};
use proto::{Protocol, ethernet, ipv6};

use super::interrupt;
use super::maker::{Maker, Tag};
use super::neighbours::{self, Outcome};
use super::pace::Pace;
use crate::facts;
use crate::flows::{Family, Net, mac_of};

/// Packets handled at a time.
pub const BURST: usize = 64;
/// A batch of packets.
pub type Batch = ArrayVec<Mbuf, BURST>;

/// Descriptors of each ring, memif's default.
const RING: u16 = 1024;
/// Packet buffers: both rings, and all that can be under way in between.
const BUFFERS: u32 = 8191;
/// TSC cycles without a packet, after which those under way are taken for lost; some milliseconds on every processor.
const LONG_SILENCE: u64 = 20_000_000;
/// TSC cycles that no turn takes, some tenths of a millisecond: this thread did not run, and packets may have come.
const PAUSE: u64 = 1_000_000;
/// The same size of buffer as in the connection's shared memory; with any other, memif copies by a slower way.
const DATA_ROOM: u16 = 2048 + HEADROOM;

/// DPDK, started once for all measurements.
pub struct Generator {
    eal: Eal,
    pool: Mempool,
    /// Devices made so far.
    devices: usize,
}

/// Which end of a memif connection one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Listens at the socket.
    Server,
    /// Connects to the socket, and provides the memory.
    Client,
}

impl Role {
    /// As in the arguments of the device.
    pub fn name(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Client => "client",
        }
    }
}

impl Generator {
    /// Starts DPDK and pins the calling thread to `core`.
    pub fn start(core: usize) -> Result<Self> {
        let mut arguments = vec![
            "dpvs-bench".to_owned(),
            format!("--file-prefix=dpvs-bench-{}", std::process::id()),
            "--no-pci".to_owned(),
            "--no-telemetry".to_owned(),
            format!("--lcores=0@{core}"),
        ];
        match facts::free_hugepage_mib() >= 64 {
            true => arguments.push("--in-memory".to_owned()),
            false => arguments.extend(["--no-huge", "--no-shconf", "-m", "128"].map(str::to_owned)),
        }
        let eal = Eal::init(arguments).context("DPDK does not start")?;
        let config = PoolConfig { buffers: BUFFERS, cache: 512, data_room: DATA_ROOM, socket: None };
        let pool = Mempool::new(&eal, &config).context("no memory for packets")?;
        Ok(Self { eal, pool, devices: 0 })
    }

    /// A cable whose other end is not there yet.
    pub fn cable(&mut self, socket: &Path, role: Role) -> Result<Cable> {
        let name = format!("net_memif{}", self.devices);
        self.devices += 1;
        let arguments = format!("id=0,role={},socket={},socket-abstract=no", role.name(), socket.display());
        self.eal.add_virtual_device(&name, &arguments)?;
        let config = PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: RING,
            tx_descriptors: RING,
            mtu: 1500,
            mac: None,
            promiscuous: false,
            rss_key: [0; _],
        };
        let (port, rx, tx) = self.eal.device(&name)?.start(&config, &self.pool)?;
        let (rx, tx) = rx.into_iter().next().zip(tx.into_iter().next()).context("no queues")?;
        Ok(Cable { rx, tx, port, pool: self.pool.clone(), unanswered: 0 })
    }
}

/// The generator's end of a connection.
pub struct Cable {
    rx: RxQueue,
    tx: TxQueue,
    port: Port,
    pool: Mempool,
    /// Frames of address resolution that could not be answered for lack of room; whoever asked asks again.
    pub unanswered: u64,
}

/// What becomes of a packet that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has done its duty.
    Done,
    /// It was turned into an answer and goes out again.
    Answer,
}

/// Looks at the packets that come back.
pub trait Sink {
    /// A packet came; it is no frame of address resolution. `now` is when its batch came.
    fn take(&mut self, packet: &mut Mbuf, now: u64) -> Fate;
}

/// Makes the packets that are sent.
pub trait Source {
    /// How many of `n` packets there are to send now.
    fn available(&mut self, n: usize) -> usize;
    /// Makes an empty buffer the next packet.
    fn make(&mut self, packet: &mut Mbuf, now: u64);
}

/// A source of packets of random flows.
pub struct Stream<'a, A> {
    /// Makes them.
    pub maker: &'a mut Maker,
    /// Which flows.
    pub pick: crate::pick::Pick,
    /// State of the random numbers; not 0.
    pub random: u64,
    /// Whether packets say when they were sent.
    pub stamped: bool,
    /// Sequence numbers by flow, if packets are to have them.
    pub sequence: Option<&'a mut [u32]>,
    /// The address family.
    pub family: std::marker::PhantomData<A>,
}

impl<A: Family> Source for Stream<'_, A> {
    #[inline(always)]
    fn available(&mut self, n: usize) -> usize {
        self.pick.available(n)
    }

    #[inline(always)]
    fn make(&mut self, packet: &mut Mbuf, now: u64) {
        let flow = self.pick.next(&mut self.random);
        let mut tag = Tag { flow, sequence: 0, stamp: if self.stamped { now } else { 0 } };
        if let Some(next) = self.sequence.as_mut().and_then(|sequence| sequence.get_mut(flow as usize)) {
            tag.sequence = *next;
            *next += 1;
        }
        self.maker.make::<A>(packet, tag);
    }
}

/// What was sent and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Packets the source made that were sent.
    pub sent: u64,
    /// Answers that were sent.
    pub answered: u64,
    /// Packets that came.
    pub received: u64,
    /// Bytes that came, frame check sequence included.
    pub received_bytes: u64,
    /// How long it took, in TSC cycles.
    pub cycles: u64,
    /// Packets given up because the sender came too late.
    pub skipped: u64,
    /// Of that time, TSC cycles in which nothing came and nothing could be sent: the generator waited for the device.
    pub idle_cycles: u64,
}

impl Traffic {
    /// Millions of packets that came per second.
    pub fn mpps(&self, ghz: f64) -> f64 {
        1000.0 * ghz * self.received as f64 / self.cycles as f64
    }
}

/// When to end.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many TSC cycles.
    Cycles(u64),
    /// When the source has no more and nothing came for so many TSC cycles.
    Silence(u64),
}

impl Cable {
    /// Waits until the other end is connected.
    pub fn wait(&self, timeout: Duration, mut is_alive: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.port.link()?.is_none() {
            is_alive()?;
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "nobody connected to the memif socket within {timeout:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Asks for the device's MAC address until it answers.
    pub fn resolve<A: Family>(&mut self, timeout: Duration) -> Result<Mac> {
        let device: IpAddr = A::host(Net::Link, 1).into();
        let deadline = Instant::now() + timeout;
        let mut asked = None::<Instant>;
        while Instant::now() < deadline {
            interrupt::check()?;
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_millis(100)) {
                asked = Some(Instant::now());
                self.send_frame(&neighbours::question::<A>());
            }
            let mut batch = Batch::new();
            self.rx.receive(&mut batch);
            for packet in &batch {
                match neighbours::handle(packet.data()) {
                    Outcome::Answer(answer) => self.send_frame(&answer),
                    Outcome::Learned(addr, mac) if addr == device => return Ok(mac),
                    _ => {}
                }
            }
            // The device may need this core for its answer.
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("nobody answers for {device} within {timeout:?}: is it an address of the device under test?")
    }

    fn send_frame(&mut self, frame: &[u8]) {
        let mut batch = Batch::new();
        if let Some(mut packet) = self.pool.allocate()
            && packet.append(frame.len())
        {
            packet.data_mut().copy_from_slice(frame);
            batch.push(packet);
        }
        self.unanswered += u64::from(self.tx.transmit(&mut batch) == 0);
    }

    /// Sends and receives. Answers go before new packets, so that an overload meets new packets only.
    #[inline(never)]
    pub fn run<A: Family>(
        &mut self,
        source: &mut impl Source,
        sink: &mut impl Sink,
        pace: &mut Pace,
        until: Until,
    ) -> Result<Traffic> {
        let mut traffic = Traffic::default();
        let [mut came, mut done, mut answers, mut offered] = [const { Batch::new_const() }; 4];
        let start = hw::cycles();
        let mut last_sign = start;
        let mut turns = 0u32;
        let (mut turn_began, mut was_idle) = (start, false);
        // What was under way when nothing had come for long: it is lost.
        let (mut written_off, mut last_arrival) = (0, start);
        loop {
            let now = hw::cycles();
            let turn = now - turn_began;
            traffic.idle_cycles += if was_idle { turn } else { 0 };
            last_sign += if turn > PAUSE { turn } else { 0 };
            (turn_began, was_idle) = (now, true);
            match until {
                Until::Cycles(cycles) if now - start >= cycles => break,
                Until::Silence(cycles) if now.saturating_sub(last_sign) >= cycles => break,
                _ => {}
            }
            turns = turns.wrapping_add(1);
            if turns & 0xfff == 0 {
                interrupt::check()?;
            }

            // As many as there is room for answers to.
            if answers.is_empty() && self.rx.receive(&mut came) > 0 {
                (last_sign, was_idle) = (now, false);
                // Later than `now` by the time it took to receive.
                let arrival = hw::cycles();
                last_arrival = arrival;
                for mut packet in came.drain(..) {
                    if !is_measured::<A>(packet.data()) {
                        self.resolve_for_others(&packet);
                        done.push(packet);
                        continue;
                    }
                    traffic.received += 1;
                    traffic.received_bytes += u64::from(packet.packet_len()) + 4;
                    match sink.take(&mut packet, arrival) {
                        Fate::Done => done.push(packet),
                        Fate::Answer => answers.push(packet),
                    }
                }
                dpdk::mbuf::free_burst(&mut done);
            }
            if !answers.is_empty() {
                let answered = self.tx.transmit(&mut answers);
                traffic.answered += answered as u64;
                was_idle &= answered == 0;
                if !answers.is_empty() {
                    continue;
                }
            }
            if offered.is_empty() {
                let count = source.available(BURST);
                let mut count = if count > 0 { pace.due(now, count) } else { 0 };
                let under_way = (traffic.sent + traffic.answered).saturating_sub(traffic.received + written_off);
                if under_way > pace.window() {
                    count = 0;
                    if now.saturating_sub(last_arrival) > LONG_SILENCE {
                        written_off += under_way;
                    }
                }
                if count == BURST {
                    self.pool.fill(&mut offered);
                } else {
                    offered.extend((0..count).map_while(|_| self.pool.allocate()));
                }
                for packet in &mut offered {
                    source.make(packet, now);
                }
            }
            if !offered.is_empty() {
                let sent = self.tx.transmit(&mut offered);
                traffic.sent += sent as u64;
                if sent > 0 {
                    (last_sign, was_idle) = (now, false);
                }
            }
        }
        traffic.cycles = hw::cycles() - start;
        traffic.skipped = pace.skipped();
        Ok(traffic)
    }

    #[cold]
    fn resolve_for_others(&mut self, packet: &Mbuf) {
        if let Outcome::Answer(answer) = neighbours::handle(packet.data()) {
            self.send_frame(&answer);
        }
    }

    /// Receives what is still under way, and answers address resolution, for a while.
    pub fn drain<A: Family>(&mut self, sink: &mut impl Sink, ghz: f64) -> Result<Traffic> {
        let silence = Until::Silence((20e6 * ghz) as u64);
        self.run::<A>(&mut Nothing, sink, &mut Pace::Flood, silence)
    }
}

/// Sends nothing.
struct Nothing;

impl Source for Nothing {
    fn available(&mut self, _n: usize) -> usize {
        0
    }

    fn make(&mut self, _packet: &mut Mbuf, _now: u64) {}
}

/// True for what may be a packet of ours that comes back; false for address resolution and whatever else a host says.
#[inline(always)]
fn is_measured<A: Family>(frame: &[u8]) -> bool {
    let Some(start) = frame.first_chunk::<34>() else { return false };
    let is_unicast = start[0] & 1 == 0;
    let is_ip = u16::from_be_bytes([start[ethernet::ETHERTYPE], start[ethernet::ETHERTYPE + 1]]) == A::ETHER_TYPE;
    let is_icmp = A::LEN == 16 && start[ethernet::HEADER_LEN + ipv6::NEXT_HEADER] == Protocol::ICMPV6.0;
    is_unicast && is_ip && !is_icmp
}

/// MAC address of the generator's router.
pub fn router_mac<A: Family>() -> Mac {
    mac_of(A::host(Net::Link, 2).into())
}
