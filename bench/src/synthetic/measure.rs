//! One case: what the director, the swap and the bare source take per packet, in turn.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use dpdk::Mempool;
use proto::Protocol;
use serde::{Deserialize, Serialize};

use super::director::{Director, Program};
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::{Spread, median};

/// Bursts between two looks at the cycle counter.
const BURSTS_PER_CHUNK: usize = 64;
/// Chunks before a measurement.
const MIN_WARM_UP_CHUNKS: usize = 8;
const MAX_WARM_UP_CHUNKS: usize = 100;

/// How packets spread over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All flows equally.
    Uniform,
    /// In proportion to the reciprocal of their rank.
    Zipf,
}

/// Lengths of frames on the wire, frame check sequence included; longer where the headers need more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// All have so many bytes.
    Bytes(usize),
    /// Of twelve, seven have 64 bytes, four 594, and one 1518: the simple IMIX.
    Imix,
}

/// The order in which IMIX frames come.
const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];

impl Length {
    /// The frames, in the order in which they come.
    pub fn shapes<A: Family>(self, protocol: Protocol) -> Vec<Shape> {
        match self {
            Length::Bytes(bytes) => vec![Shape::new::<A>(protocol, bytes)],
            Length::Imix => IMIX.map(|bytes| Shape::new::<A>(protocol, bytes)).to_vec(),
        }
    }

    /// The name in tables: bytes, or "IMIX".
    pub fn name(self) -> String {
        match self {
            Length::Bytes(bytes) => bytes.to_string(),
            Length::Imix => "IMIX".to_owned(),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// True for IPv6.
    pub is_v6: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Length of frames.
    pub length: Length,
    /// Flows the director knows.
    pub flows: u32,
    /// How packets spread over them.
    pub choice: Choice,
    /// Virtual services they belong to.
    pub services: u32,
}

impl Case {
    /// The mode's name.
    pub fn mode_name(&self) -> &'static str {
        match self.mode {
            ForwardMode::Nat => "NAT",
            ForwardMode::FullNat => "FULLNAT",
            ForwardMode::DirectRouting => "DR",
            ForwardMode::Tunnel => "TUN",
        }
    }

    /// The family's name.
    pub fn family_name(&self) -> &'static str {
        if self.is_v6 { "IPv6" } else { "IPv4" }
    }

    /// The protocol's name.
    pub fn protocol_name(&self) -> &'static str {
        if self.protocol == Protocol::TCP { "TCP" } else { "UDP" }
    }

    /// All that distinguishes the case, in one line.
    pub fn name(&self) -> String {
        let mut name =
            format!("{} {} {} {}", self.mode_name(), self.family_name(), self.protocol_name(), count(self.flows));
        match self.length {
            Length::Bytes(64) => {}
            Length::Bytes(bytes) => name += &format!(" {bytes}-byte"),
            Length::Imix => name += " IMIX",
        }
        if self.choice == Choice::Zipf {
            name += " Zipf";
        }
        if self.services != 1 {
            name += &format!(" {}-services", count(self.services));
        }
        name
    }

    /// The ways that packets take through the director.
    pub fn ways(&self) -> &'static [Way] {
        // Of several services the harness does not know the local ports.
        if self.mode.sees_replies() && self.services == 1 { &[Way::In, Way::Out] } else { &[Way::In] }
    }

    fn pick(&self) -> Pick {
        match self.choice {
            Choice::Uniform => Pick::Uniform { flows: self.flows },
            Choice::Zipf => Pick::Zipf { flows: self.flows },
        }
    }
}

/// A number with its unit: 1000 is "1k".
pub fn count(n: u32) -> String {
    match n {
        n if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{}M", n / 1_000_000),
        n if n >= 1_000 && n.is_multiple_of(1_000) => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

/// What one way of a case takes, in TSC cycles per packet.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Measured {
    /// Forwarding mode.
    pub mode: String,
    /// Address family.
    pub family: String,
    /// Transport protocol.
    pub protocol: String,
    /// "in" is client to server.
    pub way: String,
    /// Flows.
    pub flows: u32,
    /// How packets spread over flows.
    pub choice: String,
    /// Virtual services.
    pub services: u32,
    /// Bytes of a frame as it came, frame check sequence included; of IMIX the mean.
    pub wire_len: usize,
    /// The length it stands for: headers may need more. Of IMIX the mean.
    pub nominal_len: usize,
    /// The same by name: bytes, or "IMIX".
    pub length: String,
    /// Making and freeing packets.
    pub bare: Spread,
    /// That, and the swap.
    pub swap: Spread,
    /// That, and the director instead of the swap.
    pub director: Spread,
    /// Director less swap, round by round.
    pub cost: Spread,
    /// The same from means instead of medians of chunks: rare work and interruptions by others count.
    pub cost_of_means: Spread,
    /// `director` by round.
    pub director_rounds: Vec<f64>,
    /// `cost` by round.
    pub cost_rounds: Vec<f64>,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Measured {
    /// True for shortest packets of equally frequent flows to one service.
    pub fn is_plain(&self) -> bool {
        self.choice == "uniform" && self.services == 1 && self.length == "64"
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Repetitions of all programs in turn.
    pub rounds: usize,
    /// Chunks of 4096 packets in a round.
    pub chunks: usize,
    /// Connections there is room for, at least.
    pub capacity: usize,
}

/// Median and mean of the chunks of one program in one round, in cycles per packet.
pub struct Lap {
    /// Median.
    pub median: f64,
    /// Mean.
    pub mean: f64,
}

/// Runs a program until the caches have forgotten the one before, then measures it.
pub fn lap<A: Family>(director: &mut Director<A>, program: Program, warm_up_chunks: usize, chunks: usize) -> Lap {
    for _ in 0..warm_up_chunks * BURSTS_PER_CHUNK {
        director.turn(program);
    }
    let mut costs = Vec::with_capacity(chunks);
    for _ in 0..chunks {
        let start = hw::cycles();
        let mut packets = 0;
        for _ in 0..BURSTS_PER_CHUNK {
            packets += director.turn(program);
        }
        costs.push((hw::cycles() - start) as f64 / packets as f64);
    }
    Lap { mean: costs.iter().sum::<f64>() / costs.len() as f64, median: median(&mut costs) }
}

/// Sets a director up for the case, ready to be measured. It serves all cases that differ in length and choice only.
pub fn prepare<A: Family>(pool: &Mempool, case: &Case, effort: &Effort) -> Result<Director<A>> {
    let flows = Flows::new(case.mode, case.protocol, case.services, case.flows);
    let shape = Shape::new::<A>(case.protocol, 64);
    let mut director = Director::new(pool, flows, shape, effort.capacity.max(case.flows as usize));
    director.open(case.flows, shape).with_context(|| format!("{}: opening the connections", case.name()))?;
    director.source_mut().pick = case.pick();
    Ok(director)
}

/// Measures cases of one group, round by round: what is compared with each other is measured at the same time, because
/// the machine's speed drifts.
pub fn measure(pool: &Mempool, cases: &[Case], effort: &Effort) -> Result<Vec<Measured>> {
    let mut trials: Vec<(Case, Box<dyn Trial>)> = Vec::new();
    for case in cases {
        // What one director can serve.
        let key = Case { length: Length::Bytes(64), choice: Choice::Uniform, ..*case };
        if let Some((_, trial)) = trials.iter_mut().find(|(of, _)| *of == key) {
            trial.add(case);
            continue;
        }
        let mut trial: Box<dyn Trial> = match case.is_v6 {
            false => Box::new(FamilyTrial::<Ipv4Addr>::new(pool, case, effort)?),
            true => Box::new(FamilyTrial::<Ipv6Addr>::new(pool, case, effort)?),
        };
        trial.add(case);
        trials.push((key, trial));
    }
    for _ in 0..effort.rounds {
        trials.iter_mut().try_for_each(|(_, trial)| trial.round(effort))?;
    }
    Ok(trials.iter().flat_map(|(_, trial)| trial.measured()).collect())
}

/// Cases of either family that share a director.
trait Trial {
    /// One more case.
    fn add(&mut self, case: &Case);
    /// One more measurement of every case, program and way.
    fn round(&mut self, effort: &Effort) -> Result<()>;
    /// The results, for each case and way.
    fn measured(&self) -> Vec<Measured>;
}

struct FamilyTrial<A: Family> {
    director: Director<A>,
    /// With as many laps as there are ways.
    cases: Vec<(Case, Vec<Laps>)>,
}

/// Measurements of one way by program and round.
#[derive(Default)]
struct Laps {
    medians: [Vec<f64>; 3],
    means: [Vec<f64>; 3],
    verified: u64,
}

const PROGRAMS: [Program; 3] = [Program::Bare, Program::Swap, Program::Director];

impl<A: Family> FamilyTrial<A> {
    fn new(pool: &Mempool, case: &Case, effort: &Effort) -> Result<Self> {
        Ok(Self { director: prepare(pool, case, effort)?, cases: Vec::new() })
    }
}

impl<A: Family> Trial for FamilyTrial<A> {
    fn add(&mut self, case: &Case) {
        self.cases.push((*case, case.ways().iter().map(|_| Laps::default()).collect()));
    }

    fn round(&mut self, effort: &Effort) -> Result<()> {
        for (case, laps) in &mut self.cases {
            self.director.source_mut().pick = case.pick();
            for (&way, laps) in case.ways().iter().zip(laps) {
                let shapes = case.length.shapes::<A>(case.protocol);
                self.director.source_mut().send_in_turn(way, &shapes);
                laps.round(&mut self.director, case, way, effort).with_context(|| case.name())?;
            }
        }
        self.director.check_no_loss()
    }

    fn measured(&self) -> Vec<Measured> {
        let of_case = |(case, laps): &(Case, Vec<Laps>)| {
            let ways = case.ways().iter().zip(laps);
            ways.map(|(&way, laps)| laps.measured::<A>(case, way)).collect::<Vec<_>>()
        };
        self.cases.iter().flat_map(of_case).collect()
    }
}

impl Laps {
    fn round<A: Family>(&mut self, director: &mut Director<A>, case: &Case, way: Way, effort: &Effort) -> Result<()> {
        let verified = director.verified;
        for (i, program) in PROGRAMS.into_iter().enumerate() {
            // Three packets of each flow, unless the table is so large that most packets miss all caches anyway.
            let to_be_seen = if program == Program::Director { 3 * case.flows as usize } else { 0 };
            let warm_up = (to_be_seen / BURST / BURSTS_PER_CHUNK).clamp(MIN_WARM_UP_CHUNKS, MAX_WARM_UP_CHUNKS);
            let lap = lap(director, program, warm_up, effort.chunks);
            self.medians[i].push(lap.median);
            self.means[i].push(lap.mean);
            for _ in 0..4 {
                let packets = director.verified_turn(program, way)?;
                ensure!(packets == BURST, "a burst of {packets} packets");
            }
        }
        self.verified += director.verified - verified;
        Ok(())
    }

    fn measured<A: Family>(&self, case: &Case, way: Way) -> Measured {
        let difference = |of: &[Vec<f64>; 3]| of[2].iter().zip(&of[1]).map(|(all, swap)| all - swap).collect();
        let [bare, swap, director] = self.medians.clone();
        let cost_rounds: Vec<f64> = difference(&self.medians);
        let mean = |lengths: Vec<usize>| lengths.iter().sum::<usize>() / lengths.len();
        let frames = case.length.shapes::<A>(case.protocol).iter().map(|shape| shape.frame_len + 4).collect();
        Measured {
            mode: case.mode_name().to_owned(),
            family: case.family_name().to_owned(),
            protocol: case.protocol_name().to_owned(),
            way: if way == Way::In { "in" } else { "out" }.to_owned(),
            flows: case.flows,
            choice: if case.choice == Choice::Uniform { "uniform" } else { "Zipf" }.to_owned(),
            services: case.services,
            wire_len: mean(frames),
            nominal_len: if let Length::Bytes(bytes) = case.length { bytes } else { mean(IMIX.to_vec()) },
            length: case.length.name(),
            bare: Spread::of(bare),
            swap: Spread::of(swap),
            director: Spread::of(director.clone()),
            cost: Spread::of(cost_rounds.clone()),
            cost_of_means: Spread::of(difference(&self.means)),
            director_rounds: director,
            cost_rounds,
            verified: self.verified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        for (n, text) in [(64, "64"), (1_000, "1k"), (1_500, "1500"), (100_000, "100k"), (10_000_000, "10M")] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let of = |bytes| IMIX.iter().filter(|&&length| length == bytes).count();
        assert_eq!([of(64), of(594), of(1518)], [7, 4, 1]);
        assert_eq!(Length::Imix.shapes::<Ipv4Addr>(Protocol::UDP).len(), 12);
    }
}
