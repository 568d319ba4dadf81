//! Forwarding while connections are listed, or counted, over and over.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use control::connections::MAX_PAGE;
use control::core::CoreHandle;
use dataplane::snapshot::ForwardMode;
use proto::Protocol;
use serde::{Deserialize, Serialize};

use super::control::{Control, Switch, services};
use super::director::{Director, Program};
use super::measure::{Lap, count, lap};
use super::scenario::Bench;
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// What the control thread does, by [`Switch`].
const REST: u32 = 0;
const LIST: u32 = 1;
const COUNT: u32 = 2;
/// Chunks of 4096 packets of a lap, and before it.
const CHUNKS: usize = 96;
const WARM_UP_CHUNKS: usize = 24;

/// What listing costs the packets. FULLNAT, UDP, client to server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listing {
    /// Address family.
    pub family: String,
    /// Connections, all of them with traffic, chosen uniformly.
    pub flows: u32,
    /// CPU of the control thread, on another than the worker's.
    pub control_cpu: usize,
    /// Millions of packets by second when nobody asks; the source's work included.
    pub undisturbed: Spread,
    /// By how much forwarding is slower while all connections are listed over and over, as a share, round by round.
    pub list_slowdown: Spread,
    /// The same from means instead of medians of 4096 packets: rare interruptions are in there.
    pub list_slowdown_of_means: Spread,
    /// By how much it is slower while the daemon's state, with the number of connections, is asked for over and over.
    pub count_slowdown: Spread,
    /// The same from means.
    pub count_slowdown_of_means: Spread,
    /// Millions of connections listed by second beside the traffic.
    pub listed_per_s: f64,
    /// Lists of the whole table that were finished; each had every connection once.
    pub lists: u32,
    /// Thousands of counts by second.
    pub counted_per_ms: f64,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Listing {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{} connections listed beside their traffic of {:.1} Mpps, FULLNAT {}: {:.2} % slower [{:.2}-{:.2}] at {:.2} M \
             connections/s, {} whole lists; counted: {:.2} % slower at {:.0}k/s",
            count(self.flows),
            self.undisturbed.median,
            self.family,
            100.0 * self.list_slowdown.median,
            100.0 * self.list_slowdown.min,
            100.0 * self.list_slowdown.max,
            self.listed_per_s,
            self.lists,
            100.0 * self.count_slowdown.median,
            self.counted_per_ms,
        )
    }
}

/// What the client saw.
#[derive(Default)]
struct Seen {
    listed: u64,
    listing_s: f64,
    lists: u32,
    counts: u64,
    counting_s: f64,
}

/// Lists as `dpvs-ctl connections` and `ipvsadm -Lnc` do, and counts as `dpvs-ctl status` does.
async fn client(handle: CoreHandle, switch: Arc<Switch>, add: Vec<dpvs_api::Operation>, flows: u32) -> Result<Seen> {
    handle.apply(add).await?;
    let mut seen = Seen::default();
    let (mut cursor, mut in_list) = (None, 0);
    while let Some(task) = switch.next().await {
        let start = Instant::now();
        match task {
            LIST => {
                let page = handle.connections(cursor, MAX_PAGE).await?;
                std::hint::black_box(serde_json::to_vec(&page)?);
                in_list += page.connections.len() as u64;
                seen.listed += page.connections.len() as u64;
                cursor = page.next;
                if cursor.is_none() {
                    ensure!(in_list == u64::from(flows), "{in_list} connections are listed, not {flows}");
                    (seen.lists, in_list) = (seen.lists + 1, 0);
                    switch.finish_one();
                }
                seen.listing_s += start.elapsed().as_secs_f64();
            }
            COUNT => {
                let counted = handle.status().await?.connections;
                ensure!(counted == u64::from(flows), "{counted} connections are counted, not {flows}");
                seen.counts += 1;
                seen.counting_s += start.elapsed().as_secs_f64();
            }
            _ => {}
        }
    }
    Ok(seen)
}

/// Measures with `flows` connections.
pub fn measure<A: Family>(bench: &Bench, flows: u32, rounds: usize) -> Result<Listing> {
    let cpu = *bench.cpus.get(1).context("there is one CPU only")?;
    let numbering = Flows::new(ForwardMode::FullNat, Protocol::UDP, 1, flows);
    let shape = Shape::new::<A>(Protocol::UDP, 64);
    let add = services::<A>(&numbering, 1).collect();
    let mut director = Director::<A>::without_services(&bench.pool, vec![numbering], shape, flows as usize).remove(0);
    let mut control = Control::start(&director, cpu, move |handle, switch| client(handle, switch, add, flows));
    while director.shared.snapshot.load().services.iter().next().is_none() {
        std::thread::yield_now();
    }
    director.open(flows, shape)?;
    director.source_mut().send(Way::In, shape);
    director.source_mut().pick = Pick::Uniform { flows };

    let mut laps: [Vec<Lap>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..3 {
            // Each comes first, second and third equally often.
            let task = (round + turn) % 3;
            control.switch(task as u32, &mut director)?;
            laps[task].push(lap(&mut director, Program::Director, WARM_UP_CHUNKS, CHUNKS));
            for _ in 0..4 {
                director.verified_turn(Program::Director, Way::In)?;
            }
        }
    }
    // One list to its end.
    control.switch(LIST, &mut director)?;
    control.until_finished(&mut director)?;
    control.switch(REST, &mut director)?;
    director.check_no_loss()?;
    let seen = control.end(&mut director)?;
    ensure!(seen.lists > 0 && seen.counts > 0, "{} lists and {} counts were finished", seen.lists, seen.counts);

    let slowdown = |task: u32, of: fn(&Lap) -> f64| {
        let pairs = laps[task as usize].iter().zip(&laps[REST as usize]);
        Spread::of(pairs.map(|(with, without)| of(with) / of(without) - 1.0).collect())
    };
    let mpps = laps[REST as usize].iter().map(|lap| bench.ghz * 1000.0 / lap.median).collect();
    Ok(Listing {
        family: A::NAME.to_owned(),
        flows,
        control_cpu: cpu,
        undisturbed: Spread::of(mpps),
        list_slowdown: slowdown(LIST, |lap| lap.median),
        list_slowdown_of_means: slowdown(LIST, |lap| lap.mean),
        count_slowdown: slowdown(COUNT, |lap| lap.median),
        count_slowdown_of_means: slowdown(COUNT, |lap| lap.mean),
        listed_per_s: seen.listed as f64 / seen.listing_s / 1e6,
        lists: seen.lists,
        counted_per_ms: seen.counts as f64 / seen.counting_s / 1e3,
        verified: director.verified,
    })
}
