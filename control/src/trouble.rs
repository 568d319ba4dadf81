//! Notices workers that stall and packets that begin to be dropped, by comparing the workers' counters with those of the look
//! before.

use std::time::Instant;

use dataplane::shared::Shared;
use dataplane::verdict::DropReason;
use dpvs_api::EventKind;

/// Drops per second, for one reason, from which on they are many. Stray packets and scans stay below.
const MANY: u64 = 100;
/// Drops per second below which they are few again.
const FEW: u64 = 10;
/// Looks in a row without a turn of a worker that make it stalled. One may come just after it was started.
const STALLED: u32 = 2;

/// What was seen at the last look.
#[derive(Debug)]
pub struct Watch {
    at: Instant,
    workers: Vec<Turns>,
    drops: Vec<Drops>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    polls: u64,
    /// Looks in a row that found no further turn.
    still: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Drops {
    packets: u64,
    /// The count when they began to be many, while they are.
    began: Option<u64>,
}

impl Watch {
    /// Starts from the counters as they are.
    pub fn new(shared: &Shared, now: Instant) -> Self {
        let workers = turns(shared).map(|polls| Turns { polls, still: 0 }).collect();
        let drops = dropped(shared).map(|(_, packets)| Drops { packets, began: None }).collect();
        Self { at: now, workers, drops }
    }

    /// What changed since the last look. Looks must be so far apart that a healthy worker takes turns in between.
    pub fn look(&mut self, shared: &Shared, now: Instant) -> Vec<EventKind> {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64().max(f64::EPSILON);
        self.at = now;
        let mut news = Vec::new();
        for (worker, (before, polls)) in self.workers.iter_mut().zip(turns(shared)).enumerate() {
            let still = if before.polls == polls { before.still.saturating_add(1) } else { 0 };
            if still == STALLED {
                news.push(EventKind::WorkerStalled { worker });
            } else if still == 0 && before.still >= STALLED {
                news.push(EventKind::WorkerResumed { worker });
            }
            *before = Turns { polls, still };
        }
        for (before, (reason, packets)) in self.drops.iter_mut().zip(dropped(shared)) {
            let per_second = (packets.wrapping_sub(before.packets) as f64 / seconds) as u64;
            match before.began {
                None if per_second >= MANY => {
                    news.push(EventKind::DropsBegan { reason: reason.name().to_owned(), per_second });
                    before.began = Some(before.packets);
                }
                Some(began) if per_second < FEW => {
                    let packets = packets.wrapping_sub(began);
                    news.push(EventKind::DropsEnded { reason: reason.name().to_owned(), packets });
                    before.began = None;
                }
                _ => {}
            }
            before.packets = packets;
        }
        news
    }
}

fn turns(shared: &Shared) -> impl Iterator<Item = u64> {
    shared.workers.iter().map(|worker| worker.counters.polls.get())
}

fn dropped(shared: &Shared) -> impl Iterator<Item = (DropReason, u64)> {
    let count = |reason: DropReason| -> u64 {
        shared.workers.iter().map(|worker| worker.counters.drops[reason as usize].get()).sum()
    };
    DropReason::ALL.iter().map(move |&reason| (reason, count(reason)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dataplane::shared::Limits;

    use super::*;

    #[test]
    fn workers_stall_and_drops_begin_and_end() {
        let shared = Shared::new(Limits {
            workers: 2,
            ports: 1,
            max_services: 1,
            max_servers: 1,
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 1,
            max_frame: 64,
        });
        let mut now = Instant::now();
        let mut watch = Watch::new(&shared, now);
        let reason = DropReason::ALL[3];
        let name = || reason.name().to_owned();
        let mut look = |turns: [u64; 2], drops: u64| {
            for (worker, turns) in shared.workers.iter().zip(turns) {
                worker.counters.polls.add(turns);
            }
            shared.workers[1].counters.drops[reason as usize].add(drops);
            now += Duration::from_secs(2);
            watch.look(&shared, now)
        };
        assert_eq!(look([0, 0], 199), []);
        assert_eq!(look([1, 9], 400), [EventKind::DropsBegan { reason: name(), per_second: 200 }]);
        assert_eq!(look([0, 9], 20), []);
        assert_eq!(look([0, 9], 20), [EventKind::WorkerStalled { worker: 0 }]);
        // Each is said once.
        assert_eq!(look([0, 9], 460), []);
        assert_eq!(look([5, 9], 20), [EventKind::WorkerResumed { worker: 0 }]);
        assert_eq!(look([5, 9], 19), [EventKind::DropsEnded { reason: name(), packets: 939 }]);
        assert_eq!(look([5, 9], 0), []);
    }
}
