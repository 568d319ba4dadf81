//! Established flows while other connections begin and end beside them.

use anyhow::{Result, ensure};
use dataplane::conn::{TICKS_PER_SECOND, Tick};
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use proto::state::{State, Timeouts};
use proto::{Protocol, tcp};
use serde::{Deserialize, Serialize};

use super::director::{Director, Program};
use super::scenario::Bench;
use super::source::Pace;
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// Half-open connections that are alive beside the established flows, in balance.
const ALIVE: u32 = 1 << 18;
/// Rates of new connections, per second.
const RATES: [u32; 4] = [0, 100_000, 500_000, 1_000_000];
/// Numbers for flows, so that no local endpoint comes twice in a measurement.
const NUMBERS: u32 = 1 << 27;

/// Forwarding beside a constant turnover. FULLNAT, TCP; rates include the source's work.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Churn {
    /// Address family.
    pub family: String,
    /// Established flows, chosen uniformly.
    pub flows: u32,
    /// New connections by second that were asked for; half open, they end 60 seconds of simulated time later.
    pub asked: u32,
    /// Millions of new connections by second that there were.
    pub begun: Spread,
    /// Millions of connections that ended by second.
    pub ended: Spread,
    /// Millions of packets by second of the established flows.
    pub established: Spread,
    /// The same as a share of the rate without turnover, round by round.
    pub share: Spread,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Churn {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{} established flows, FULLNAT {} TCP, {:.2} M connections/s begin and {:.2} M/s end beside them: {:.1} Mpps \
             [{:.1}-{:.1}], {:.0} % of the rate without",
            super::count(self.flows),
            self.family,
            self.begun.median,
            self.ended.median,
            self.established.median,
            self.established.min,
            self.established.max,
            100.0 * self.share.median,
        )
    }
}

/// What one rate came to, by round.
#[derive(Default)]
struct Lane {
    begun: Vec<f64>,
    ended: Vec<f64>,
    established: Vec<f64>,
}

/// `flows` established flows; each of `rounds` rounds gives every rate `milliseconds`.
pub fn measure<A: Family>(bench: &Bench, flows: u32, rounds: usize, milliseconds: u32) -> Result<Vec<Churn>> {
    let numbering = Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, NUMBERS);
    let shape = Shape::new::<A>(Protocol::TCP, 64);
    let syn = Shape { flags: tcp::Flags::SYN, ..shape };
    let mut director = Director::<A>::new(&bench.pool, numbering, shape, (flows + 2 * ALIVE) as usize);
    director.now = Some(Tick(1));
    director.open(flows, shape)?;
    director.source_mut().send(Way::In, shape);
    director.source_mut().pick = Pick::Uniform { flows };

    let mut population = Population { first: flows, next: flows, began: 1 };
    // Twice until as many end as begin, so that all memory has been used before.
    while population.next - population.first < 3 * ALIVE {
        population.turns(&mut director, Pace::Burst(BURST), syn, 1000);
    }
    let mut lanes: [Lane; RATES.len()] = Default::default();
    for _ in 0..rounds {
        for (rate, lane) in RATES.into_iter().zip(&mut lanes) {
            let per_cycle = f64::from(rate) / bench.ghz / 1e9;
            population.turns(&mut director, Pace::rate(per_cycle), syn, 2000);
            let before = (population.next, director.counters().table_entries.get());
            let (start, mut packets) = (hw::cycles(), 0);
            let cycles = f64::from(milliseconds) * 1e6 * bench.ghz;
            while ((hw::cycles() - start) as f64) < cycles {
                packets += population.turns(&mut director, Pace::rate(per_cycle), syn, 200);
            }
            let us = (hw::cycles() - start) as f64 / bench.ghz / 1000.0;
            let begun = population.next - before.0;
            let ended = u64::from(begun) + before.1 - director.counters().table_entries.get();
            lane.begun.push(f64::from(begun) / us);
            lane.ended.push(ended as f64 / us);
            lane.established.push((packets - begun as usize) as f64 / us);
            // The rarest newcomers are one in several bursts.
            director.capture();
            population.turns(&mut director, Pace::rate(per_cycle), syn, 20);
            director.check_capture(Program::Director, Way::In)?;
        }
    }
    director.check_no_loss()?;
    let live = director.counters().table_entries.get();
    let expected = u64::from(flows) + u64::from(ALIVE);
    ensure!(live.abs_diff(expected) < expected / 50, "{live} connections are alive, not about {expected}");

    let base = lanes[0].established.clone();
    let churn = |(asked, lane): (u32, Lane)| Churn {
        family: A::NAME.to_owned(),
        flows,
        asked,
        begun: Spread::of(lane.begun),
        ended: Spread::of(lane.ended),
        share: Spread::of(lane.established.iter().zip(&base).map(|(with, without)| with / without).collect()),
        established: Spread::of(lane.established),
        verified: director.verified,
    };
    Ok(RATES.into_iter().zip(lanes).map(churn).collect())
}

/// The connections that come and go. Time runs with their number, so that [`ALIVE`] of them live for 60 seconds each.
struct Population {
    first: u32,
    next: u32,
    began: u32,
}

impl Population {
    /// Turns with newcomers; returns how many packets there were.
    fn turns<A: Family>(&mut self, director: &mut Director<A>, pace: Pace, syn: Shape, turns: usize) -> usize {
        let lifetime = Timeouts::default().get(State::SynRecv) * TICKS_PER_SECOND;
        director.source_mut().bring_newcomers(self.next, pace, syn);
        let mut packets = 0;
        for _ in 0..turns {
            packets += director.turn(Program::Director);
            if let Some(newcomers) = director.source_mut().newcomers() {
                self.next = newcomers.next;
            }
            director.now = Some(Tick(self.began + (self.next - self.first) / (ALIVE / lifetime)));
        }
        director.source_mut().newcomers().take();
        packets
    }
}
