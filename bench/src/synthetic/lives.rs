//! Whole TCP connections, from SYN to TIME_WAIT.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use dataplane::ServerId;
use dataplane::conn::{TICKS_PER_SECOND, Tick};
use dataplane::snapshot::ForwardMode;
use proto::state::{State, Timeouts};
use proto::{Protocol, tcp};
use serde::{Deserialize, Serialize};

use super::director::{Director, Program, SYN_ACK};
use super::fill::end_all;
use super::scenario::{Bench, list};
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// Connections that take each of their steps one after the other: each is out of the first caches when its next packet
/// comes.
const AT_ONCE: u32 = 1 << 14;
/// Connections in TIME_WAIT, in balance.
const WAITING: u32 = 1 << 19;
/// Numbers for flows, so that no local endpoint comes twice in a measurement.
const NUMBERS: u32 = 1 << 27;

const DATA: tcp::Flags = tcp::Flags(tcp::Flags::ACK.0 | tcp::Flags::PSH.0);
const FIN: tcp::Flags = tcp::Flags(tcp::Flags::ACK.0 | tcp::Flags::FIN.0);
/// The packets of a connection.
const LIFE: [(Way, tcp::Flags); 8] = [
    (Way::In, tcp::Flags::SYN),
    (Way::Out, SYN_ACK),
    (Way::In, tcp::Flags::ACK),
    (Way::In, DATA),
    (Way::Out, DATA),
    (Way::In, FIN),
    (Way::Out, FIN),
    (Way::In, tcp::Flags::ACK),
];

/// What whole connections take: handshake, data both ways, both FINs; through FULLNAT.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Lives {
    /// Address family.
    pub family: String,
    /// Packets of each connection, both ways together.
    pub packets: u32,
    /// Millions of connections by second that begin, go through all of it and end; the source's work included.
    pub million_per_s: Spread,
    /// Nanoseconds of each.
    pub total: Spread,
    /// What the source alone takes for its packets.
    pub bare: Spread,
    /// Connections that were in TIME_WAIT at the end, and none in another state.
    pub in_time_wait: u64,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Lives {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "whole TCP connections of {} packets, FULLNAT {}: {:.0} ns each [{:.0}-{:.0}], {:.2} M/s (source alone {:.0} ns); \
             {} in TIME_WAIT at the end, none in another state",
            self.packets,
            self.family,
            self.total.median,
            self.total.min,
            self.total.max,
            self.million_per_s.median,
            self.bare.median,
            self.in_time_wait,
        )
    }
}

/// Measures `rounds` rounds of `lots` times [`AT_ONCE`] connections.
pub fn measure<A: Family>(bench: &Bench, rounds: usize, lots: u32) -> Result<Lives> {
    let flows = Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, NUMBERS);
    let shape = Shape::new::<A>(Protocol::TCP, 64);
    let mut director = Director::<A>::new(&bench.pool, flows, shape, 2 * WAITING as usize);
    director.now = Some(Tick(1));
    // The first lot tells where the director's local endpoints begin.
    let mut next = 0;
    verified_lot(&mut director, &mut next, shape)?;
    while next < 2 * WAITING {
        lot(&mut director, &mut next, shape, Program::Director);
    }
    let (mut total, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let ns_each = |cycles: u64| cycles as f64 / f64::from(lots * AT_ONCE) / bench.ghz;
        let start = hw::cycles();
        (0..lots).for_each(|_| lot(&mut director, &mut next, shape, Program::Director));
        total.push(ns_each(hw::cycles() - start));
        let start = hw::cycles();
        let mut unused = next;
        (0..lots).for_each(|_| lot(&mut director, &mut unused, shape, Program::Bare));
        bare.push(ns_each(hw::cycles() - start));
        verified_lot(&mut director, &mut next, shape)?;
    }
    director.check_no_loss()?;
    let in_time_wait = check_states(&mut director)?;
    end_all(&mut director)?;
    Ok(Lives {
        family: A::NAME.to_owned(),
        packets: LIFE.len() as u32,
        million_per_s: Spread::of(total.iter().map(|ns| 1000.0 / ns).collect()),
        total: Spread::of(total),
        bare: Spread::of(bare),
        in_time_wait,
        verified: director.verified,
    })
}

/// A lot of connections goes through all of its life.
fn lot<A: Family>(director: &mut Director<A>, next: &mut u32, shape: Shape, program: Program) {
    for (way, flags) in LIFE {
        director.source_mut().send(way, Shape { flags, ..shape });
        director.source_mut().pick = Pick::Sequence { next: *next, end: *next + AT_ONCE };
        while director.turn(program) > 0 {}
    }
    *next += AT_ONCE;
    if program == Program::Director {
        pass(director);
    }
}

/// The same, and every packet is checked.
fn verified_lot<A: Family>(director: &mut Director<A>, next: &mut u32, shape: Shape) -> Result<()> {
    for (way, flags) in LIFE {
        let flows = *next..*next + AT_ONCE;
        director.one_each(flows, way, Shape { flags, ..shape }).with_context(|| format!("flags {flags:?}"))?;
    }
    *next += AT_ONCE;
    pass(director);
    Ok(())
}

/// Time passes, so that there are [`WAITING`] connections whose life has been as long ago as TIME_WAIT lasts.
fn pass<A: Family>(director: &mut Director<A>) {
    let lifetime = Timeouts::default().get(State::TimeWait) * TICKS_PER_SECOND;
    director.now = director.now.map(|now| Tick(now.0 + lifetime * AT_ONCE / WAITING));
}

/// Fails unless all connections are in TIME_WAIT and counted as inactive; returns how many there are.
fn check_states<A: Family>(director: &mut Director<A>) -> Result<u64> {
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for record in list(director)? {
        *states.entry(record.state.name()).or_default() += 1;
    }
    let live = director.counters().table_entries.get();
    let expected = BTreeMap::from([(State::TimeWait.name(), live)]);
    ensure!(states == expected, "{live} connections are in the states {states:?}");
    let of_servers = |active: bool| -> u64 {
        let servers = (0..director.source().flows.servers()).map(|server| director.counters().load(ServerId(server)));
        servers.map(|load| if active { load.active.get() } else { load.inactive.get() }).sum()
    };
    let (active, inactive) = (of_servers(true), of_servers(false));
    ensure!(
        (active, inactive) == (0, live),
        "{active} active and {inactive} inactive connections of {live} are counted"
    );
    Ok(live)
}
