//! A table that is filled to the last connection, is full while strangers keep coming, and is emptied by its timers.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use dataplane::ServerId;
use dataplane::conn::{TICKS_PER_SECOND, Tick};
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use dataplane::verdict::DropReason;
use proto::state::{State, Timeouts};
use proto::{Protocol, tcp};
use serde::{Deserialize, Serialize};

use super::director::{Director, Program};
use super::measure::lap;
use super::scenario::{Bench, Turns};
use super::source::Pace;
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// Connections that are established and have traffic from beginning to end, at most: a twentieth of the table.
const ESTABLISHED: u32 = 100_000;
/// Chunks of 4096 packets for a forwarding rate.
const CHUNKS: usize = 32;

/// What filling a table and emptying it takes. FULLNAT, TCP; rates include the source's work.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fill {
    /// Address family.
    pub family: String,
    /// Connections that there is room for.
    pub capacity: u32,
    /// Connections that there were at least when the first one was refused.
    pub filled: u32,
    /// Millions of new connections by second, while the table went from empty to a tenth, from there to two tenths, ...
    pub new_by_load: Vec<Spread>,
    /// Millions of packets by second of established connections when the table is full.
    pub established: Spread,
    /// The same while every second packet is the SYN of a stranger; only those of established connections count.
    pub established_besieged: Spread,
    /// SYNs of strangers that came when the table was full.
    pub strangers: u64,
    /// Those of them that were dropped and counted as `table_full`; as many, if all is well.
    pub table_full: u64,
    /// Millions of connections that ended by second, when the time of all but the established ones came at once.
    pub ended: Spread,
    /// Millions of packets by second of established connections meanwhile.
    pub established_meanwhile: Spread,
    /// Microseconds that the longest turn took meanwhile, with its burst of 64 packets, by round.
    pub longest_turn: Spread,
    /// Microseconds that 99.9 % of the turns took at most meanwhile.
    pub p999_turn: Spread,
    /// The longest turn in as many without anything to end: what the machine does by itself.
    pub longest_turn_without: Spread,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Fill {
    /// For people.
    pub fn line(&self) -> String {
        let by_load = |load: usize| self.new_by_load.get(load).map_or(f64::NAN, |rate| rate.median);
        format!(
            "table of {} filled, {}: {:.2} M new connections/s at first, {:.2} half full, {:.2} at the end; {} fit; when \
             full {:.1} Mpps, with as many SYNs of strangers {:.1} beside {} refused of {}; all end at {:.1} M/s beside \
             {:.1} Mpps, longest turn {:.0} us (99.9 %: {:.0} us; without {:.0} us)",
            super::count(self.capacity),
            self.family,
            by_load(0),
            by_load(4),
            by_load(9),
            self.filled,
            self.established.median,
            self.established_besieged.median,
            self.table_full,
            self.strangers,
            self.ended.median,
            self.established_meanwhile.median,
            self.longest_turn.median,
            self.p999_turn.median,
            self.longest_turn_without.median,
        )
    }
}

#[derive(Default)]
struct Rounds {
    filled: Vec<u32>,
    new_by_load: [Vec<f64>; 10],
    established: Vec<f64>,
    besieged: Vec<f64>,
    strangers: u64,
    ended: Vec<f64>,
    meanwhile: Vec<f64>,
    longest: Vec<f64>,
    p999: Vec<f64>,
    longest_without: Vec<f64>,
}

/// Fills a table for `capacity` connections and empties it, `rounds` times.
pub fn measure<A: Family>(bench: &Bench, capacity: u32, rounds: usize) -> Result<Fill> {
    let flows = Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, 2 * capacity);
    let shape = Shape::new::<A>(Protocol::TCP, 64);
    let mut director = Director::<A>::new(&bench.pool, flows, shape, capacity as usize);
    director.now = Some(Tick(1));
    let mut results = Rounds::default();
    for _ in 0..rounds {
        round(bench, &mut director, capacity, shape, &mut results)?;
    }
    let spread = |values: Vec<f64>| Spread::of(values);
    Ok(Fill {
        family: A::NAME.to_owned(),
        capacity,
        filled: results.filled.into_iter().min().unwrap_or(0),
        new_by_load: results.new_by_load.into_iter().map(spread).collect(),
        established: spread(results.established),
        established_besieged: spread(results.besieged),
        strangers: results.strangers,
        table_full: director.counters().drops[DropReason::TableFull as usize].get(),
        ended: spread(results.ended),
        established_meanwhile: spread(results.meanwhile),
        longest_turn: spread(results.longest),
        p999_turn: spread(results.p999),
        longest_turn_without: spread(results.longest_without),
        verified: director.verified,
    })
}

fn round<A: Family>(
    bench: &Bench,
    director: &mut Director<A>,
    capacity: u32,
    shape: Shape,
    results: &mut Rounds,
) -> Result<()> {
    let syn = Shape { flags: tcp::Flags::SYN, ..shape };
    let established = ESTABLISHED.min(capacity / 20);
    director.open(established, shape)?;
    fill(bench, director, established..capacity, syn, results)?;

    director.source_mut().send(Way::In, shape);
    director.source_mut().pick = Pick::Uniform { flows: established };
    let packets_by_us = |cycles: f64| bench.ghz * 1000.0 / cycles;
    results.established.push(packets_by_us(lap(director, Program::Director, CHUNKS, CHUNKS).median));
    director.verified_turn(Program::Director, Way::In)?;
    let refused = director.counters().drops[DropReason::TableFull as usize].get();
    director.source_mut().bring_newcomers(capacity, Pace::Burst(BURST / 2), syn);
    results.besieged.push(packets_by_us(lap(director, Program::Director, CHUNKS, CHUNKS).median) / 2.0);
    let strangers = director.source_mut().newcomers().take().map_or(0, |newcomers| newcomers.next - capacity);
    results.strangers += u64::from(strangers);
    let refused = director.counters().drops[DropReason::TableFull as usize].get() - refused;
    ensure!(refused == u64::from(strangers), "{refused} of {strangers} strangers were refused");
    director.check_only_drops(&[DropReason::TableFull])?;
    director.verified_turn(Program::Director, Way::In)?;

    empty(bench, director, established, results)?;
    director.check_only_drops(&[DropReason::TableFull])
}

/// New connections until the table is full.
fn fill<A: Family>(
    bench: &Bench,
    director: &mut Director<A>,
    numbers: Range<u32>,
    syn: Shape,
    results: &mut Rounds,
) -> Result<()> {
    director.source_mut().send(Way::In, syn);
    let capacity = numbers.end;
    let mut first = numbers.start;
    for (tenth, rates) in results.new_by_load.iter_mut().enumerate() {
        let end = (u64::from(capacity) * (tenth as u64 + 1) / 10) as u32;
        director.source_mut().pick = Pick::Sequence { next: first, end };
        director.verified_turn(Program::Director, Way::In)?;
        let start = hw::cycles();
        let mut packets = 0;
        loop {
            match director.turn(Program::Director) {
                0 => break,
                came => packets += came,
            }
        }
        rates.push(packets as f64 * 1000.0 * bench.ghz / (hw::cycles() - start) as f64);
        first = end;
    }
    let entries = director.counters().table_entries.get() as u32;
    results.filled.push(entries);
    ensure!(entries == capacity, "{entries} connections fit, not {capacity}");
    Ok(())
}

/// Lets the half-open connections end while the established ones go on, then those.
fn empty<A: Family>(bench: &Bench, director: &mut Director<A>, kept: u32, results: &mut Rounds) -> Result<()> {
    let (full, kept) = (director.counters().table_entries.get(), u64::from(kept));
    let lifetime = Timeouts::default().get(State::SynRecv) * TICKS_PER_SECOND;
    // So many that the wheel's own work ahead of the last tick, a look at each, is done by then.
    let turns = (full / 256 / 50).max(8);
    let mut without = Turns::default();
    for _ in 0..turns * u64::from(lifetime) {
        without.time(|| director.turn(Program::Director));
    }
    let mut meanwhile = Turns::default();
    for _ in 1..lifetime {
        director.now = director.now.map(|now| Tick(now.0 + 1));
        for _ in 0..turns {
            meanwhile.time(|| director.turn(Program::Director));
        }
    }
    ensure!(director.counters().table_entries.get() == full, "connections ended before their time");
    director.now = director.now.map(|now| Tick(now.0 + 1));
    let start = hw::cycles();
    let mut packets = 0;
    while director.counters().table_entries.get() > kept {
        packets += meanwhile.time(|| director.turn(Program::Director));
        ensure!(packets < 64 * full as usize, "connections do not end");
    }
    let us = (hw::cycles() - start) as f64 / bench.ghz / 1000.0;
    results.ended.push((full - kept) as f64 / us);
    results.meanwhile.push(packets as f64 / us);
    results.longest.push(meanwhile.longest_us(bench.ghz));
    results.p999.push(meanwhile.quantile_us(0.999, bench.ghz));
    results.longest_without.push(without.longest_us(bench.ghz));
    director.verified_turn(Program::Director, Way::In)?;

    end_all(director).context("the established connections")
}

/// Lets time pass without packets until no connection is left.
pub fn end_all<A: Family>(director: &mut Director<A>) -> Result<()> {
    director.source_mut().pick = Pick::Sequence { next: 0, end: 0 };
    let entries = director.counters().table_entries.get();
    // Longer than any timeout, in steps: the wheel moves entries inwards from ring to ring.
    for _ in 0..10 {
        director.now = director.now.map(|now| Tick(now.0 + 3600 * TICKS_PER_SECOND / 10));
        for _ in 0..entries / 64 + 100 {
            director.turn(Program::Director);
        }
    }
    let entries = director.counters().table_entries.get();
    ensure!(entries == 0, "{entries} connections do not end");
    for server in 0..director.source().flows.servers() {
        let load = director.counters().load(ServerId(server));
        let (active, inactive) = (load.active.get(), load.inactive.get());
        ensure!((active, inactive) == (0, 0), "server {server} counts {active} active and {inactive} inactive ones");
    }
    Ok(())
}
