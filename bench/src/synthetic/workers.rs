//! Several workers, each on a CPU of its own with a source of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use dataplane::conn::ConnRecord;
use dataplane::snapshot::ForwardMode;
use dataplane::steer::{Ownership, Rss};
use dataplane::verdict::DropReason;
use dpdk::Eal;
use proto::{Protocol, Tuple};
use serde::{Deserialize, Serialize};

use super::director::{Director, Program, drops};
use super::measure::count;
use super::scenario::{Bench, list};
use crate::flows::{Flows, SERVERS, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::{Spread, median};

type A = Ipv4Addr;

/// Turns between two looks at the cycle counter.
const CHUNK: usize = 64;

/// How the rate grows with workers. FULLNAT, UDP over IPv4, client to server; rates include the sources' work.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Scaling {
    /// Workers.
    pub workers: u32,
    /// By worker: the CPU it ran on.
    pub cpus: Vec<usize>,
    /// Flows of each worker, chosen uniformly.
    pub flows_of_each: u32,
    /// Millions of packets by second of one worker while the others rest; the mean over the workers.
    pub one: Spread,
    /// All workers together, when each gets the packets that it owns, as from a NIC with RSS.
    pub all: Spread,
    /// `all` by `one`, round by round.
    pub scaling: Spread,
    /// The same of the sources alone: what the machine grants to a program whose threads share nothing.
    pub source_scaling: Spread,
    /// The same of the program that swaps addresses.
    pub swap_scaling: Spread,
    /// All workers together, when every worker gets everybody's packets and passes on those that it does not own.
    pub sprayed: Spread,
    /// Share of the sprayed packets that was passed on.
    pub passed_on: f64,
    /// Share of the sprayed packets that was dropped because the owner's ring was full: sources do not wait.
    pub steer_full: f64,
    /// Connections whose replies were found to belong to the worker that has them: all.
    pub replies_owned: u64,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Scaling {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{} workers, {} flows each, FULLNAT IPv4 UDP: {:.1} Mpps together, {:.1} one alone: {:.2} times [{:.2}-{:.2}] \
             (swap {:.2}, source {:.2}); packets at random workers: {:.1} Mpps, {:.0} % passed on, {:.2} % dropped",
            self.workers,
            count(self.flows_of_each),
            self.all.median,
            self.one.median,
            self.scaling.median,
            self.scaling.min,
            self.scaling.max,
            self.swap_scaling.median,
            self.source_scaling.median,
            self.sprayed.median,
            100.0 * self.passed_on,
            100.0 * self.steer_full,
        )
    }
}

/// Measures `workers` workers with `flows` flows each, a multiple of [`SERVERS`]; there must be as many CPUs.
pub fn measure(bench: &Bench, workers: usize, flows: u32, rounds: usize) -> Result<Scaling> {
    ensure!(
        workers <= bench.cpus.len() && flows.is_multiple_of(SERVERS),
        "too few CPUs, or flows that are no multiple"
    );
    let ownership = Ownership::new(&Rss::software(workers));
    let numbering = Flows::new(ForwardMode::FullNat, Protocol::UDP, 1, 2 * workers as u32 * flows);
    let owned = owned_clients(&ownership, &numbering, workers, flows);
    let everybody: Arc<[u32]> = owned.concat().into();
    let of_each = owned.iter().map(|clients| Flows { clients: Some(clients.clone().into()), ..numbering.clone() });
    let shape = Shape::new::<A>(Protocol::UDP, 64);
    let directors = Director::<A>::without_services(&bench.pool, of_each.collect(), shape, 2 * flows as usize);
    directors[0].publish_services();
    let threads: Vec<_> =
        directors.into_iter().zip(&bench.cpus).map(|(d, &cpu)| Thread::start(d, &bench.eal, cpu)).collect();

    let opened = together(&threads, |_| {
        move |director: &mut Director<A>| {
            director.open(flows, shape)?;
            list(director)
        }
    })?;
    let replies_owned = check_replies(&ownership, &opened)?;
    drop(opened);

    let milliseconds = if flows > 200_000 { 80.0 } else { 50.0 };
    let cycles = milliseconds * 1e6 * bench.ghz;
    let run = |threads: &[Thread], program| -> Result<f64> {
        let gate = Arc::new(Gate { missing: AtomicUsize::new(threads.len()) });
        let rates = together(threads, |_| {
            let gate = Arc::clone(&gate);
            move |director: &mut Director<A>| {
                director.source_mut().send(Way::In, shape);
                director.source_mut().pick = Pick::Uniform { flows };
                gate.pass();
                let packets_by_cycle = rate(director, program, cycles);
                director.verified_turn(program, Way::In)?;
                Ok(packets_by_cycle)
            }
        })?;
        Ok(rates.iter().sum::<f64>() * bench.ghz * 1000.0)
    };
    let (mut one, mut all, mut scaling) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..rounds {
        for (program, scaling) in [Program::Director, Program::Swap, Program::Bare].into_iter().zip(&mut scaling) {
            let mut alone = 0.0;
            for thread in 0..workers {
                alone += run(&threads[thread..=thread], program)? / workers as f64;
            }
            let together = run(&threads, program)?;
            scaling.push(together / alone);
            if program == Program::Director {
                one.push(alone);
                all.push(together);
            }
        }
    }
    let [scaling, swap_scaling, source_scaling] = scaling.map(Spread::of);
    // Each has dropped nothing by now.
    let verified = together(&threads, |_| {
        |director: &mut Director<A>| {
            director.check_no_loss()?;
            Ok(director.verified)
        }
    })?;
    let spray = spray(&threads, &everybody, shape, rounds, cycles)?;
    Ok(Scaling {
        workers: workers as u32,
        cpus: bench.cpus[..workers].to_vec(),
        flows_of_each: flows,
        one: Spread::of(one),
        all: Spread::of(all),
        scaling,
        source_scaling,
        swap_scaling,
        sprayed: Spread::of(spray.rates).scaled(bench.ghz * 1000.0),
        passed_on: spray.passed_on,
        steer_full: spray.steer_full,
        replies_owned,
        verified: verified.iter().sum(),
    })
}

/// For each worker the numbers of as many clients whose packets RSS brings to it.
fn owned_clients(ownership: &Ownership, numbering: &Flows, workers: usize, flows: u32) -> Vec<Vec<u32>> {
    let mut owned = vec![Vec::with_capacity(flows as usize); workers];
    for n in 0.. {
        let mine = &mut owned[usize::from(ownership.owner(&numbering.arriving::<A>(n, Way::In)).0)];
        if mine.len() < flows as usize {
            mine.push(n);
        }
        if owned.iter().all(|clients| clients.len() == flows as usize) {
            break;
        }
    }
    owned
}

/// Fails when a reply would be brought to another worker than the one that has the connection; returns how many there
/// are.
fn check_replies(ownership: &Ownership, by_worker: &[Vec<ConnRecord>]) -> Result<u64> {
    for (worker, records) in by_worker.iter().enumerate() {
        for record in records {
            let ((std::net::IpAddr::V4(src), sport), (std::net::IpAddr::V4(dst), dport)) =
                (record.server, record.local)
            else {
                anyhow::bail!("{record:?} is not of IPv4");
            };
            let owner = ownership.owner(&Tuple { src, dst, sport, dport, protocol: record.protocol });
            ensure!(usize::from(owner.0) == worker, "worker {worker} has {record:?}, whose replies go to {owner:?}");
        }
    }
    Ok(by_worker.iter().map(|records| records.len() as u64).sum())
}

/// The median of chunks, in packets per cycle, after a third of the time.
fn rate(director: &mut Director<A>, program: Program, cycles: f64) -> f64 {
    let start = hw::cycles();
    let mut chunks = Vec::with_capacity(1 << 12);
    loop {
        let chunk = hw::cycles();
        let mut packets = 0;
        for _ in 0..CHUNK {
            packets += director.turn(program);
        }
        let now = hw::cycles();
        let passed = (now - start) as f64;
        if passed > cycles / 3.0 {
            chunks.push(packets as f64 / (now - chunk) as f64);
        }
        if passed > cycles {
            return median(&mut chunks);
        }
    }
}

/// What came of packets that arrive anywhere.
struct Sprayed {
    /// By round: packets per cycle that left.
    rates: Vec<f64>,
    passed_on: f64,
    steer_full: f64,
}

/// Every worker gets packets of all flows.
fn spray(threads: &[Thread], everybody: &Arc<[u32]>, shape: Shape, rounds: usize, cycles: f64) -> Result<Sprayed> {
    let mut rates = Vec::new();
    let (mut came, mut steered, mut dropped) = (0, 0, 0);
    for _ in 0..rounds {
        let gate = Arc::new(Gate { missing: AtomicUsize::new(threads.len()) });
        let counts = |director: &Director<A>| {
            let counters = director.counters();
            let port = &counters.ports[0];
            let dropped = counters.drops[DropReason::SteerFull as usize].get();
            [port.rx_packets.get(), port.tx_packets.get(), counters.steered.get(), dropped]
        };
        let before: Vec<[u64; 4]> = together(threads, |_| move |director: &mut Director<A>| Ok(counts(director)))?;
        let by_worker = together(threads, |_| {
            let (gate, everybody) = (Arc::clone(&gate), Arc::clone(everybody));
            move |director: &mut Director<A>| {
                let flows = everybody.len() as u32;
                let mine = director.source_mut().flows.clients.replace(everybody);
                director.source_mut().send(Way::In, shape);
                director.source_mut().pick = Pick::Uniform { flows };
                gate.pass();
                let warm = hw::cycles();
                while ((hw::cycles() - warm) as f64) < cycles / 3.0 {
                    director.turn(Program::Director);
                }
                let (start, sent) = (hw::cycles(), director.source().sent);
                while ((hw::cycles() - start) as f64) < cycles {
                    director.turn(Program::Director);
                }
                let left = (director.source().sent - sent) as f64 / (hw::cycles() - start) as f64;
                director.source_mut().flows.clients = mine;
                director.source_mut().pick = Pick::Sequence { next: 0, end: 0 };
                Ok(left)
            }
        })?;
        rates.push(by_worker.iter().sum());
        // What is between them still; after the second time nothing is.
        for _ in 0..2 {
            together(threads, |_| {
                |director: &mut Director<A>| {
                    while director.turn(Program::Director) > 0 {}
                    Ok(())
                }
            })?;
        }
        let after: Vec<[u64; 4]> = together(threads, |_| move |director: &mut Director<A>| Ok(counts(director)))?;
        let grown = |i: usize| -> u64 { after.iter().zip(&before).map(|(after, before)| after[i] - before[i]).sum() };
        came += grown(0);
        steered += grown(2);
        dropped += grown(3);
        if grown(0) != grown(1) + grown(3) {
            let drops = together(&threads[..1], |_| |director: &mut Director<A>| Ok(drops(&director.shared)))?;
            anyhow::bail!("of {} sprayed packets {} left; {}", grown(0), grown(1), drops.concat());
        }
    }
    let share = |part: u64| part as f64 / came as f64;
    Ok(Sprayed { rates, passed_on: share(steered), steer_full: share(dropped) })
}

/// Lets threads begin at the same time.
struct Gate {
    missing: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        self.missing.fetch_sub(1, Ordering::AcqRel);
        while self.missing.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
    }
}

type Job = Box<dyn FnOnce(&mut Director<A>) + Send>;

/// A worker on a thread of its own that does what it is told; between two jobs it sleeps.
struct Thread {
    jobs: Option<mpsc::Sender<Job>>,
    handle: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    fn start(mut director: Director<A>, eal: &Eal, cpu: usize) -> Self {
        let (sender, jobs) = mpsc::channel::<Job>();
        let eal = eal.clone();
        let handle = std::thread::spawn(move || {
            core_affinity::set_for_current(CoreId { id: cpu });
            // Held until the worker has given its packets back. Without it the thread is only slower.
            let _registration = dpdk::thread::register_thread(&eal);
            jobs.into_iter().for_each(|job| job(&mut director));
            drop(director);
        });
        Self { jobs: Some(sender), handle: Some(handle) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.handle.take().map(std::thread::JoinHandle::join);
    }
}

/// Has all threads do something at once and waits for what they return, in their order.
fn together<T: Send + 'static, F>(threads: &[Thread], job: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    F: FnOnce(&mut Director<A>) -> Result<T> + Send + 'static,
{
    let answers = threads.iter().enumerate().map(|(number, thread)| {
        let (sender, answer) = mpsc::channel();
        let job = job(number);
        let job: Job = Box::new(move |director| drop(sender.send(job(director))));
        thread.jobs.as_ref().map(|jobs| jobs.send(job));
        answer
    });
    let answers: Vec<_> = answers.collect();
    answers.into_iter().map(|answer| answer.recv().context("a worker's thread has ended")?).collect()
}
