//! Token buckets over connection-table ticks.

use crate::conn::{TICKS_PER_SECOND, Tick};

/// Allows `rate` events per second on average and `burst` at once.
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_tick: u32,
    burst: u32,
    tokens: u32,
    refilled: Tick,
}

impl RateLimit {
    /// A full bucket. `rate` is rounded up to a multiple of [`TICKS_PER_SECOND`]; `burst` is at least a tick's worth.
    pub fn new(rate: u32, burst: u32) -> Self {
        let per_tick = rate.div_ceil(TICKS_PER_SECOND);
        let burst = burst.max(per_tick);
        Self { per_tick, burst, tokens: burst, refilled: Tick(0) }
    }

    /// Takes a token if there is one.
    pub fn allow(&mut self, now: Tick) -> bool {
        if now != self.refilled {
            let ticks = now.0.saturating_sub(self.refilled.0);
            self.tokens = self.tokens.saturating_add(ticks.saturating_mul(self.per_tick)).min(self.burst);
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut limit = RateLimit::new(80, 20);
        assert_eq!((0..100).filter(|_| limit.allow(Tick(1))).count(), 20);
        assert_eq!((0..100).filter(|_| limit.allow(Tick(2))).count(), 10);
        assert_eq!((0..100).filter(|_| limit.allow(Tick(1000))).count(), 20);
        let allowed: usize = (1001..1001 + 8).map(|t| (0..50).filter(|_| limit.allow(Tick(t))).count()).sum();
        assert_eq!(allowed, 80);
    }
}
