//! Time as the packet path needs it: ticks, without asking the operating system for every burst.

use std::time::Instant;

use crate::conn::{TICKS_PER_SECOND, Tick};

/// Counts ticks since start; the first is 1.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    checked_at: u64,
    /// The cycle counter as [`now`](Self::now) read it last.
    cycles: u64,
    now: Tick,
}

impl Clock {
    /// Processor cycles between two looks at the system's clock: about 0.1 ms, far below a tick.
    const RECHECK_CYCLES: u64 = 1 << 18;

    /// A clock for which `start` is tick 1.
    pub fn since(start: Instant) -> Self {
        let cycles = hw::cycles();
        Self { start, checked_at: cycles, cycles, now: Tick(1) }
    }

    /// The processor's cycle counter when [`now`](Self::now) was called last; 0 where there is none.
    #[inline]
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// The current tick.
    #[inline]
    pub fn now(&mut self) -> Tick {
        let cycles = hw::cycles();
        self.cycles = cycles;
        // Where there is no cycle counter it reads 0, and the system's clock is asked every time.
        if cycles == 0 || cycles.wrapping_sub(self.checked_at) > Self::RECHECK_CYCLES {
            self.checked_at = cycles;
            let eighths = self.start.elapsed().as_millis() * u128::from(TICKS_PER_SECOND) / 1000;
            self.now = Tick(eighths as u32 + 1);
        }
        self.now
    }
}
