//! One case: what the director, the swap and the bare source take per packet, in turn.

use anyhow::{Context, Result};
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use dpdk::Mempool;
use proto::Protocol;
use serde::Serialize;

use crate::director::{Director, Program};
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::source::Pick;
use crate::stats::{Spread, median};

/// Bursts between two looks at the cycle counter.
const BURSTS_PER_CHUNK: usize = 64;
/// Chunks before a measurement, for the caches to forget the program before.
const WARM_UP_CHUNKS: usize = 8;

/// How packets spread over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All flows equally.
    Uniform,
    /// In proportion to the reciprocal of their rank.
    Zipf,
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
    /// Bytes on the wire.
    pub wire_len: usize,
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
        if self.wire_len != 64 {
            name += &format!(" {}-byte", self.wire_len);
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
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Forwarding mode.
    pub mode: &'static str,
    /// Address family.
    pub family: &'static str,
    /// Transport protocol.
    pub protocol: &'static str,
    /// "in" is client to server.
    pub way: &'static str,
    /// Flows.
    pub flows: u32,
    /// How packets spread over flows.
    pub choice: &'static str,
    /// Virtual services.
    pub services: u32,
    /// Bytes of a frame as it came, frame check sequence included.
    pub wire_len: usize,
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
    /// Packets that were checked byte by byte.
    pub verified: u64,
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
struct Lap {
    median: f64,
    mean: f64,
}

fn lap<A: Family>(director: &mut Director<A>, program: Program, chunks: usize) -> Lap {
    for _ in 0..WARM_UP_CHUNKS * BURSTS_PER_CHUNK {
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

/// Sets a director up for the case, ready to be measured.
pub fn prepare<A: Family>(pool: &Mempool, case: &Case, effort: &Effort) -> Result<(Director<A>, Shape)> {
    let flows = Flows::new(case.mode, case.protocol, case.services, case.flows);
    let shape = Shape::new::<A>(case.protocol, case.wire_len);
    let mut director = Director::new(pool, flows, shape, effort.capacity.max(case.flows as usize));
    director.open(case.flows, shape).with_context(|| format!("{}: opening the connections", case.name()))?;
    director.source.borrow_mut().pick = case.pick();
    Ok((director, shape))
}

/// Measures a case, each way.
pub fn measure<A: Family>(pool: &Mempool, case: &Case, effort: &Effort) -> Result<Vec<Measured>> {
    let (mut director, shape) = prepare::<A>(pool, case, effort)?;
    let mut all = Vec::new();
    for &way in case.ways() {
        director.source.borrow_mut().send(way, shape);
        let verified_before = director.verified;
        let programs = [Program::Bare, Program::Swap, Program::Director];
        let mut medians: [Vec<f64>; 3] = Default::default();
        let mut means: [Vec<f64>; 3] = Default::default();
        for _ in 0..effort.rounds {
            for (i, program) in programs.into_iter().enumerate() {
                let lap = lap(&mut director, program, effort.chunks);
                medians[i].push(lap.median);
                means[i].push(lap.mean);
                for _ in 0..4 {
                    let packets = director.verified_turn(program, way).with_context(|| case.name())?;
                    anyhow::ensure!(packets == BURST, "{}: a burst of {packets} packets", case.name());
                }
            }
        }
        director.check_no_loss().with_context(|| case.name())?;
        let difference =
            |of: &[Vec<f64>; 3]| of[2].iter().zip(&of[1]).map(|(director, swap)| director - swap).collect();
        let (cost, cost_of_means) = (difference(&medians), difference(&means));
        let [bare, swap, full] = medians.map(Spread::of);
        all.push(Measured {
            mode: case.mode_name(),
            family: case.family_name(),
            protocol: case.protocol_name(),
            way: if way == Way::In { "in" } else { "out" },
            flows: case.flows,
            choice: if case.choice == Choice::Uniform { "uniform" } else { "Zipf" },
            services: case.services,
            wire_len: shape.frame_len + 4,
            bare,
            swap,
            director: full,
            cost: Spread::of(cost),
            cost_of_means: Spread::of(cost_of_means),
            verified: director.verified - verified_before,
        });
    }
    Ok(all)
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
}
