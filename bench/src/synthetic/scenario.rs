//! What scenarios have in common.

use anyhow::{Context, Result, bail};
use dataplane::conn::ConnRecord;
use dataplane::shared::{Command, Reply};
use dpdk::{Eal, Mempool};

use super::director::{Director, Program};
use crate::flows::Family;
use crate::pick::Pick;

/// Where scenarios run.
pub struct Bench {
    /// DPDK, for threads that use packets.
    pub eal: Eal,
    /// The packets.
    pub pool: Mempool,
    /// CPUs that may be used; the first worker is on the first.
    pub cpus: Vec<usize>,
    /// TSC cycles per nanosecond.
    pub ghz: f64,
}

/// Durations of turns, in TSC cycles.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    cycles: Vec<u32>,
}

impl Turns {
    /// Does something and notes how long it took.
    #[inline(always)]
    pub fn time<T>(&mut self, turn: impl FnOnce() -> T) -> T {
        let start = hw::cycles();
        let outcome = turn();
        self.cycles.push((hw::cycles() - start).min(u64::from(u32::MAX)) as u32);
        outcome
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cycles.len()
    }

    /// Microseconds of one; `None` beyond the last.
    pub fn get_us(&self, at: usize, ghz: f64) -> Option<f64> {
        self.cycles.get(at).map(|&cycles| f64::from(cycles) / ghz / 1000.0)
    }

    /// Microseconds of the longest.
    pub fn longest_us(&self, ghz: f64) -> f64 {
        f64::from(self.cycles.iter().copied().max().unwrap_or(0)) / ghz / 1000.0
    }

    /// Microseconds that a share of them took at most.
    pub fn quantile_us(&mut self, share: f64, ghz: f64) -> f64 {
        if self.cycles.is_empty() {
            return f64::NAN;
        }
        let at = ((self.cycles.len() - 1) as f64 * share) as usize;
        f64::from(*self.cycles.select_nth_unstable(at).1) / ghz / 1000.0
    }
}

/// All connections, as the control thread lists them.
pub fn list<A: Family>(director: &mut Director<A>) -> Result<Vec<ConnRecord>> {
    director.source_mut().pick = Pick::Sequence { next: 0, end: 0 };
    let shared = std::sync::Arc::clone(&director.shared);
    let me = shared.worker(director.id());
    let mut all = Vec::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let command = Command::Dump { cursor: from, records: Vec::with_capacity(1000) };
        if me.commands.push(command).is_err() {
            bail!("the worker takes no commands");
        }
        let reply = (0..100_000).find_map(|_| {
            director.turn(Program::Director);
            me.replies.pop()
        });
        let Reply::Dump { next, records } = reply.context("the worker does not answer")?;
        all.extend(records);
        cursor = next;
    }
    Ok(all)
}
