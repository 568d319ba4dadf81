//! Latency from the stamps in packets.

use dpdk::Mbuf;
use hdrhistogram::Histogram;

use super::cable::{Fate, Sink};
use super::maker::Tag;

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Microseconds {
    /// Half of the packets took at most so long.
    pub p50: f64,
    /// 99 % did.
    pub p99: f64,
    /// 99.9 % did.
    pub p999: f64,
    /// All did.
    pub max: f64,
}

/// Notes how long packets took.
pub struct Clock {
    /// In TSC cycles, within 0.1 %.
    histogram: Histogram<u64>,
    payload: usize,
    ghz: f64,
}

impl Clock {
    /// Of packets whose tag is at `payload`.
    pub fn new(payload: usize, ghz: f64) -> Self {
        // Ten seconds at most. Bounds that are valid cannot be refused.
        let highest = (ghz * 1e10) as u64;
        let histogram = Histogram::new_with_max(highest.max(2), 3).unwrap_or_else(|_| unreachable!("valid bounds"));
        Self { histogram, payload, ghz }
    }

    /// The percentiles so far.
    pub fn microseconds(&self) -> Microseconds {
        let us = |cycles: u64| cycles as f64 / self.ghz / 1000.0;
        let quantile = |q| us(self.histogram.value_at_quantile(q));
        Microseconds { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999), max: us(self.histogram.max()) }
    }

    fn note(&mut self, stamp: u64, now: u64) {
        self.histogram.saturating_record(now.saturating_sub(stamp));
    }
}

impl Sink for Clock {
    #[inline(always)]
    fn take(&mut self, packet: &mut Mbuf, now: u64) -> Fate {
        if let Some(tag) = Tag::read(packet.data(), self.payload) {
            self.note(tag.stamp, now);
        }
        Fate::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut clock = Clock::new(42, 2.0);
        // 1 to 1000 microseconds at 2 GHz.
        for us in 1..=1000 {
            clock.note(5_000_000, 5_000_000 + us * 2000);
        }
        let found = clock.microseconds();
        for (found, expected) in [(found.p50, 500.0), (found.p99, 990.0), (found.p999, 999.0), (found.max, 1000.0)] {
            assert!((found - expected).abs() / expected < 0.002, "{found} is not {expected}");
        }
    }

    #[test]
    fn what_seems_to_come_before_it_was_sent_took_no_time() {
        let mut clock = Clock::new(42, 2.0);
        clock.note(10, 9);
        assert_eq!(clock.microseconds().max, 0.0);
    }
}
