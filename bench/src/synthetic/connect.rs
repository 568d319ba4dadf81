//! New connections: nothing but SYNs of fresh clients, while as many old connections end.

use anyhow::{Result, ensure};
use dataplane::conn::{TICKS_PER_SECOND, Tick};
use dataplane::packet::BURST;
use dataplane::snapshot::ForwardMode;
use dpdk::Mempool;
use proto::state::{State, Timeouts};
use proto::{Protocol, tcp};
use serde::{Deserialize, Serialize};

use super::director::{Director, Program, drops};
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// Bursts per tick. So many connections live at once: what comes within the timeout of a half-open connection, 60 s or
/// 480 ticks, is 480 * 16 * 64 = 491 520.
const BURSTS_PER_TICK: usize = 16;
/// Room for connections.
const CAPACITY: usize = 1 << 20;

/// What new connections take.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Connections {
    /// Address family.
    pub family: String,
    /// TSC cycles per new connection, the source's work included.
    pub total: Spread,
    /// The source alone.
    pub bare: Spread,
    /// Live connections at the end; in balance there are about as many as come within the timeout.
    pub live: u64,
    /// Live connections in balance.
    pub in_balance: u64,
    /// Connections that were dropped, and why; expected: none.
    pub losses: Option<String>,
}

/// Opens FULLNAT connections as fast as can be. Time runs faster than the clock's: by [`BURSTS_PER_TICK`].
pub fn measure<A: Family>(pool: &Mempool, rounds: usize) -> Result<Connections> {
    // Enough local endpoints that one is free again when its turn comes.
    let flows = Flows::new(ForwardMode::FullNat, Protocol::TCP, 1, 2 * CAPACITY as u32);
    let shape = Shape { flags: tcp::Flags::SYN, ..Shape::new::<A>(Protocol::TCP, 64) };
    let mut director = Director::<A>::new(pool, flows, shape, CAPACITY);
    director.source_mut().pick = Pick::Sequence { next: 0, end: u32::MAX };
    let lifetime = Timeouts::default().get(State::SynRecv) * TICKS_PER_SECOND;

    director.now = Some(Tick(1));
    let ticks = |director: &mut Director<A>, ticks: u32| {
        let start = hw::cycles();
        for _ in 0..ticks {
            for _ in 0..BURSTS_PER_TICK {
                director.turn(Program::Director);
            }
            director.now = director.now.map(|now| Tick(now.0 + 1));
        }
        (hw::cycles() - start) as f64 / f64::from(ticks) / (BURSTS_PER_TICK * BURST) as f64
    };
    // Until as many end as begin, and twice that, so that all memory has been used before.
    ticks(&mut director, 3 * lifetime);

    let (mut total, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        total.push(ticks(&mut director, lifetime / 2));
        let start = hw::cycles();
        let bursts = 2000;
        for _ in 0..bursts {
            director.turn(Program::Bare);
        }
        bare.push((hw::cycles() - start) as f64 / f64::from(bursts) / BURST as f64);
        // The bare source has consumed clients, too.
        director.capture();
        ticks(&mut director, 1);
        let checked = director.check_capture(Program::Director, Way::In);
        if director.check_no_loss().is_ok() {
            checked?;
        }
    }
    let live = director.shared.workers[0].counters.table_entries.get();
    let losses = director.check_no_loss().is_err().then(|| drops(&director.shared));
    let in_balance = u64::from(lifetime) * (BURSTS_PER_TICK * BURST) as u64;
    if losses.is_none() {
        ensure!(director.verified > 0, "no packet was checked");
    }
    let family = A::NAME.to_owned();
    Ok(Connections { family, total: Spread::of(total), bare: Spread::of(bare), live, in_balance, losses })
}
