//! How far apart two cores are, which on a shared machine may change from one minute to the next.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use core_affinity::{CoreId, set_for_current};

use super::process::CoresUsed;

/// How long it is measured.
const TIME: Duration = Duration::from_millis(10);
/// Round trips between two looks at the clock.
const TRIPS: u32 = 100;

/// Nanoseconds that a cache line takes from one core to the other and back; the best of many short measurements.
pub fn round_trip_ns(cores: CoresUsed) -> Result<f64> {
    // Odd: the line is at the far core.
    let line = AtomicU32::new(0);
    const END: u32 = u32::MAX;
    let wait = |value: u32| {
        loop {
            let found = line.load(Ordering::Acquire);
            if found == value || found == END {
                return found;
            }
            std::hint::spin_loop();
        }
    };
    let far = || {
        let is_pinned = set_for_current(CoreId { id: cores.device });
        let mut odd = 1;
        while wait(odd) != END {
            line.store(odd.wrapping_add(1) % (END - 1), Ordering::Release);
            odd = odd.wrapping_add(2) % (END - 1);
        }
        is_pinned
    };
    let near = || {
        let is_pinned = set_for_current(CoreId { id: cores.generator });
        let (begin, mut even, mut best) = (Instant::now(), 0, f64::INFINITY);
        while begin.elapsed() < TIME {
            let trips = Instant::now();
            for _ in 0..TRIPS {
                wait(even);
                line.store(even + 1, Ordering::Release);
                even = (even + 2) % (END - 1);
            }
            best = best.min(trips.elapsed().as_nanos() as f64 / f64::from(TRIPS));
        }
        wait(even);
        line.store(END, Ordering::Release);
        (is_pinned, best)
    };
    let (far_is_pinned, (near_is_pinned, best)) = std::thread::scope(|scope| {
        let (far, near) = (scope.spawn(far), scope.spawn(near));
        (far.join().unwrap_or(false), near.join().unwrap_or((false, f64::NAN)))
    });
    ensure!(far_is_pinned && near_is_pinned, "this process may not use cores {} and {}", cores.generator, cores.device);
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_some_time_and_not_for_ever() {
        let ids = core_affinity::get_core_ids().unwrap();
        if ids.len() > 1 {
            let ns = round_trip_ns(CoresUsed { generator: ids[0].id, device: ids[1].id }).unwrap();
            assert!(ns > 1.0 && ns < 1e7, "{ns} ns");
        }
    }
}
