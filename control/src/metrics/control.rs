//! What the control thread observes of itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::unix_time;

/// Observations since the daemon started.
#[derive(Debug)]
pub struct ControlMetrics {
    pub(super) tick_delay: Histogram,
    pub(super) request_duration: Histogram,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
    /// The last reload failed.
    last_failed: AtomicU64,
    /// Milliseconds since 1970 at which the configuration in force was read.
    loaded: AtomicU64,
    started: SystemTime,
    log_lines: AtomicU64,
    lost_log_lines: AtomicU64,
}

/// How the configuration was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reloads {
    pub succeeded: u64,
    pub failed: u64,
    pub has_last_succeeded: bool,
    /// Seconds since 1970.
    pub last_success: f64,
}

impl ControlMetrics {
    /// Nothing observed yet. The configuration has just been read.
    pub fn new(now: SystemTime) -> Self {
        Self {
            // 100 us to 1.6 s.
            tick_delay: Histogram::new(exponential_buckets(1e-4, 4.0, 8)),
            // 10 us to 10.5 s.
            request_duration: Histogram::new(exponential_buckets(1e-5, 4.0, 11)),
            reloads: AtomicU64::new(0),
            failed_reloads: AtomicU64::new(0),
            last_failed: AtomicU64::new(0),
            loaded: AtomicU64::new(milliseconds(now)),
            started: now,
            log_lines: AtomicU64::new(0),
            lost_log_lines: AtomicU64::new(0),
        }
    }

    /// The core's tick came so late.
    pub fn ticked(&self, delay: Duration) {
        self.tick_delay.observe(delay.as_secs_f64());
    }

    /// A request to the core was answered after so long.
    pub fn answered(&self, duration: Duration) {
        self.request_duration.observe(duration.as_secs_f64());
    }

    /// The configuration file was read again.
    pub fn reloaded(&self, is_ok: bool, now: SystemTime) {
        if is_ok {
            self.reloads.fetch_add(1, Relaxed);
            self.loaded.store(milliseconds(now), Relaxed);
        } else {
            self.failed_reloads.fetch_add(1, Relaxed);
        }
        self.last_failed.store((!is_ok).into(), Relaxed);
    }

    /// Lines of the connection log were written.
    pub fn logged(&self, lines: u64) {
        self.log_lines.fetch_add(lines, Relaxed);
    }

    /// Lines of the connection log could not be written.
    pub fn log_lost(&self, lines: u64) {
        self.lost_log_lines.fetch_add(lines, Relaxed);
    }

    /// Lines of the connection log: written, and lost for want of somebody to take them.
    pub(crate) fn log_lines(&self) -> (u64, u64) {
        (self.log_lines.load(Relaxed), self.lost_log_lines.load(Relaxed))
    }

    pub(super) fn reloads(&self) -> Reloads {
        Reloads {
            succeeded: self.reloads.load(Relaxed),
            failed: self.failed_reloads.load(Relaxed),
            has_last_succeeded: self.last_failed.load(Relaxed) == 0,
            last_success: self.loaded.load(Relaxed) as f64 / 1000.0,
        }
    }

    /// Seconds since 1970 at which the daemon started.
    pub(super) fn started(&self) -> f64 {
        unix_time(self.started)
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
