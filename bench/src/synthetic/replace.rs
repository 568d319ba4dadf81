//! Forwarding while the whole configuration is replaced over and over.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use control::core::CoreHandle;
use dataplane::snapshot::ForwardMode;
use dpvs_api::Operation;
use proto::Protocol;
use serde::{Deserialize, Serialize};

use super::control::{Control, Switch, services};
use super::director::{Director, Program};
use super::measure::count;
use super::scenario::{Bench, Turns};
use crate::flows::{Family, Flows, SERVERS_OF_EACH, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::{Spread, median};

/// What the control thread does, by [`Switch`].
const REST: u32 = 0;
const REPLACE: u32 = 1;
/// Turns of the worker after a new configuration is in force that belong to the change.
const AROUND: usize = 16;

/// What replacing the configuration costs the packets. FULLNAT, UDP, client to server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Replacement {
    /// Address family.
    pub family: String,
    /// Virtual services.
    pub services: u32,
    /// Servers of each.
    pub servers_of_each: u32,
    /// Established flows, spread over all services.
    pub flows: u32,
    /// Replacements: all services are removed and added with other weights, in one batch.
    pub replacements: u32,
    /// Milliseconds that the control thread takes from the request to its answer, when the new configuration is in force.
    pub request_ms: Spread,
    /// Millions of packets by second while nothing is replaced; the source's work included.
    pub undisturbed: Spread,
    /// By how much forwarding is slower during replacements, as a share, round by round.
    pub slowdown: Spread,
    /// Microseconds of the longest turn of the worker, a burst of 64 packets, of those in which it began to use a new
    /// configuration and the 15 after it: by round.
    pub longest_around: Spread,
    /// The median of the turns in which it began to use a new one.
    pub first_turn: f64,
    /// The longest turn of as long a time without replacements: what the machine does by itself.
    pub longest_undisturbed: Spread,
    /// The median turn without replacements.
    pub median_turn: f64,
    /// Packets that were checked byte by byte, those of the bursts around changes among them.
    pub verified: u64,
}

impl Replacement {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{} services of {} servers replaced {} times beside {} flows, FULLNAT {}: {:.0} ms each, forwarding {:.1} Mpps \
             {:.2} % slower [{:.2}-{:.2}]; first burst after {:.1} us (others {:.1} us), longest of {} around {:.0} us \
             (otherwise {:.0} us); nothing lost",
            count(self.services),
            self.servers_of_each,
            self.replacements,
            count(self.flows),
            self.family,
            self.request_ms.median,
            self.undisturbed.median,
            100.0 * self.slowdown.median,
            100.0 * self.slowdown.min,
            100.0 * self.slowdown.max,
            self.first_turn,
            self.median_turn,
            AROUND,
            self.longest_around.median,
            self.longest_undisturbed.median,
        )
    }
}

/// Replaces all services, as `ipvsadm -R` and a reload do. Returns the duration of each replacement in milliseconds.
async fn client(handle: CoreHandle, switch: Arc<Switch>, configurations: [Vec<Operation>; 2]) -> Result<Vec<f64>> {
    handle.apply(configurations[0].clone()).await?;
    let mut durations = Vec::new();
    while let Some(task) = switch.next().await {
        if task == REPLACE {
            let operations = configurations[(durations.len() + 1) % 2].clone();
            let start = Instant::now();
            handle.apply(operations).await?;
            durations.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(durations)
}

/// Measures `rounds` times `milliseconds` with and without replacements.
pub fn measure<A: Family>(
    bench: &Bench,
    services_: u32,
    flows: u32,
    rounds: usize,
    milliseconds: u32,
) -> Result<Replacement> {
    let cpu = *bench.cpus.get(1).context("there is one CPU only")?;
    let numbering = Flows::new(ForwardMode::FullNat, Protocol::UDP, services_, flows);
    let shape = Shape::new::<A>(Protocol::UDP, 64);
    let configurations =
        [1, 2].map(|weight| std::iter::once(Operation::Clear).chain(services::<A>(&numbering, weight)).collect());
    let mut director = Director::<A>::without_services(&bench.pool, vec![numbering], shape, flows as usize).remove(0);
    let mut control = Control::start(&director, cpu, move |handle, switch| client(handle, switch, configurations));
    while director.shared.snapshot.load().services.iter().next().is_none() {
        std::thread::yield_now();
    }
    director.open(flows, shape)?;
    director.source_mut().send(Way::In, shape);
    director.source_mut().pick = Pick::Uniform { flows };

    let cycles = f64::from(milliseconds) * 1e6 * bench.ghz;
    let (mut undisturbed, mut slowdown) = (Vec::new(), Vec::new());
    let (mut around, mut without, mut first, mut medians) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut mpps = [0.0; 2];
        for task in [REST, REPLACE] {
            control.switch(task, &mut director)?;
            let lap = lap(&mut director, cycles);
            mpps[task as usize] = lap.packets as f64 * bench.ghz * 1e3 / lap.cycles as f64;
            if task == REST {
                let mut turns = lap.turns;
                without.push(turns.longest_us(bench.ghz));
                medians.push(turns.quantile_us(0.5, bench.ghz));
            } else {
                ensure!(!lap.changes.is_empty(), "no configuration came into force");
                let near =
                    lap.changes.iter().flat_map(|&at| at..at + AROUND).filter_map(|at| lap.turns.get_us(at, bench.ghz));
                around.push(near.fold(0.0, f64::max));
                first.extend(lap.changes.iter().filter_map(|&at| lap.turns.get_us(at, bench.ghz)));
                until_a_change(&mut director)?;
            }
        }
        undisturbed.push(mpps[0]);
        slowdown.push(mpps[0] / mpps[1] - 1.0);
    }
    control.switch(REST, &mut director)?;
    director.check_no_loss()?;
    let durations = control.end(&mut director)?;
    Ok(Replacement {
        family: A::NAME.to_owned(),
        services: services_,
        servers_of_each: SERVERS_OF_EACH,
        flows,
        replacements: durations.len() as u32,
        request_ms: Spread::of(durations),
        undisturbed: Spread::of(undisturbed),
        slowdown: Spread::of(slowdown),
        longest_around: Spread::of(around),
        first_turn: median(&mut first),
        longest_undisturbed: Spread::of(without),
        median_turn: median(&mut medians),
        verified: director.verified,
    })
}

struct Lap {
    packets: usize,
    cycles: u64,
    turns: Turns,
    /// Numbers of the turns that found a new configuration.
    changes: Vec<usize>,
}

fn lap<A: Family>(director: &mut Director<A>, cycles: f64) -> Lap {
    let mut lap = Lap { packets: 0, cycles: 0, turns: Turns::default(), changes: Vec::new() };
    let mut generation = director.counters().snapshot_generation.get();
    let start = hw::cycles();
    while (lap.cycles as f64) < cycles {
        lap.packets += lap.turns.time(|| director.turn(Program::Director));
        let present = director.counters().snapshot_generation.get();
        if present != generation {
            generation = present;
            lap.changes.push(lap.turns.len() - 1);
        }
        lap.cycles = hw::cycles() - start;
    }
    lap
}

/// Checks every packet until a new configuration has been in force for some turns.
fn until_a_change<A: Family>(director: &mut Director<A>) -> Result<()> {
    let generation = director.counters().snapshot_generation.get();
    let start = Instant::now();
    while director.counters().snapshot_generation.get() == generation {
        director.verified_turn(Program::Director, Way::In)?;
        ensure!(start.elapsed().as_secs() < 20, "no configuration comes into force");
    }
    for _ in 0..AROUND {
        director.verified_turn(Program::Director, Way::In)?;
    }
    Ok(())
}
