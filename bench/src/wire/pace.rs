//! When to send: at a rate, or as fast as possible.

/// How many packets are due.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As many as there is room for.
    Flood,
    /// One every so many TSC cycles.
    Paced(Clockwork),
}

/// Sends at a constant rate.
#[derive(Clone, Copy, Debug)]
pub struct Clockwork {
    /// Cycles between two packets, with 16 fractional bits.
    interval: u64,
    /// When the next one is due, in cycles since `start` with 16 fractional bits.
    due: u64,
    start: u64,
    /// Packets that were given up because the sender came too late.
    pub skipped: u64,
    /// Packets that may be under way before more are sent.
    pub window: u64,
}

impl Pace {
    /// `mpps` million packets per second from `now` on, on a machine with `ghz` cycles per nanosecond.
    pub fn rate(mpps: f64, ghz: f64, now: u64) -> Self {
        let interval = (1000.0 * ghz / mpps * 65536.0).max(1.0) as u64;
        Self::Paced(Clockwork { interval, due: 0, start: now, skipped: 0, window: u64::MAX })
    }

    /// Sends nothing while more than `window` packets are under way: for a receiver that would be overrun by what a device
    /// sends at once after a pause.
    pub fn within(mut self, window: u64) -> Self {
        if let Pace::Paced(clockwork) = &mut self {
            clockwork.window = window;
        }
        self
    }

    /// Packets that may be under way.
    #[inline(always)]
    pub fn window(&self) -> u64 {
        match self {
            Pace::Flood => u64::MAX,
            Pace::Paced(clockwork) => clockwork.window,
        }
    }

    /// How many packets to send now, at most `most`, which counts them as sent. Whoever was kept from sending in time does
    /// not catch up: what does not fit in `most` is given up, so that no queue forms that the load would not.
    #[inline(always)]
    pub fn due(&mut self, now: u64, most: usize) -> usize {
        match self {
            Pace::Flood => most,
            Pace::Paced(clockwork) => clockwork.due(now, most),
        }
    }

    /// Packets that were given up.
    pub fn skipped(&self) -> u64 {
        match self {
            Pace::Flood => 0,
            Pace::Paced(clockwork) => clockwork.skipped,
        }
    }
}

impl Clockwork {
    #[inline(always)]
    fn due(&mut self, now: u64, most: usize) -> usize {
        let elapsed = now.wrapping_sub(self.start) << 16;
        if elapsed < self.due {
            return 0;
        }
        let count = (elapsed - self.due) / self.interval + 1;
        self.due += count * self.interval;
        let sent = count.min(most as u64);
        self.skipped += count - sent;
        sent as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_due_at_the_rate() {
        // 1 Mpps at 2 GHz: every 2000 cycles, the first at once.
        let mut pace = Pace::rate(1.0, 2.0, 500);
        assert_eq!(pace.due(500, 64), 1);
        assert_eq!(pace.due(501, 64), 0);
        assert_eq!(pace.due(2499, 64), 0);
        assert_eq!(pace.due(2500, 64), 1);
        assert_eq!(pace.due(8500, 64), 3);
        assert_eq!(pace.skipped(), 0);
    }

    #[test]
    fn a_rate_that_is_no_whole_number_of_cycles_is_kept() {
        let mut pace = Pace::rate(7.3, 2.6, 0);
        let sent: usize = (0..26_000_000).step_by(1000).map(|now| pace.due(now, 64)).sum();
        assert!(sent.abs_diff(73_000) <= 3, "{sent} in 10 ms");
    }

    #[test]
    fn arrears_are_given_up() {
        let mut pace = Pace::rate(1.0, 2.0, 0);
        assert_eq!(pace.due(199_999, 64), 64);
        assert_eq!(pace.skipped(), 36);
        assert_eq!(pace.due(200_000, 64), 1);
        assert_eq!(Pace::Flood.due(0, 64), 64);
    }
}
