//! Keep-alives for the service manager's watchdog (sd_watchdog_enabled(3)).
//!
//! They come from the control thread, and only while the core answers and every worker goes round its loop: a worker
//! that hangs forwards nothing, and a restart is the remedy.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dataplane::WorkerId;
use dataplane::shared::Shared;
use tokio::time::{Instant, MissedTickBehavior};

use super::notify::ServiceManager;
use crate::core::CoreHandle;

/// Sends keep-alives as long as everything moves.
#[derive(Debug)]
pub struct Watchdog {
    manager: ServiceManager,
    /// The manager's patience.
    limit: Duration,
    workers: Workers,
}

/// The workers' turns when they were last looked at.
#[derive(Debug)]
struct Workers {
    shared: Arc<Shared>,
    turns: Vec<u64>,
}

/// Looks between two deadlines: a single late one does no harm.
const LOOKS: u32 = 4;

impl Watchdog {
    /// A watchdog if the manager wants one, by `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment(manager: &ServiceManager, shared: &Arc<Shared>) -> Option<Self> {
        let variable = |name| std::env::var(name).ok();
        let limit = limit(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())?;
        Some(Self::new(manager.clone(), limit, shared))
    }

    fn new(manager: ServiceManager, limit: Duration, shared: &Arc<Shared>) -> Self {
        let turns = vec![0; shared.workers.len()];
        Self { manager, limit, workers: Workers { shared: Arc::clone(shared), turns } }
    }

    /// Never ends.
    pub async fn run(mut self, core: CoreHandle) -> Infallible {
        let period = self.limit / LOOKS;
        // Not at once: the workers begin just now.
        let mut looks = tokio::time::interval_at(Instant::now() + period, period);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = Instant::now();
        loop {
            looks.tick().await;
            // Waits for the core, which may be busy. Once it is gone, the daemon is ending.
            if core.timeouts().await.is_err() {
                std::future::pending::<()>().await;
            }
            let stuck = self.workers.stuck();
            if stuck.is_empty() {
                self.manager.alive();
                alive = Instant::now();
            } else if alive.elapsed() > self.limit / 2 {
                let names: Vec<String> = stuck.iter().map(|worker| worker.0.to_string()).collect();
                tracing::error!(
                    "worker {} does not go on: after {} s more of this, the service manager restarts dpvsd",
                    names.join(", "),
                    self.limit.saturating_sub(alive.elapsed()).as_secs()
                );
            }
        }
    }
}

impl Workers {
    /// Those that have made no turn since the last look.
    fn stuck(&mut self) -> Vec<WorkerId> {
        let mut stuck = Vec::new();
        for (index, seen) in self.turns.iter_mut().enumerate() {
            let worker = WorkerId(index as u16);
            let turns = self.shared.worker(worker).counters.polls.get();
            if turns == *seen {
                stuck.push(worker);
            }
            *seen = turns;
        }
        stuck
    }
}

/// The manager's patience, if it watches the process `me`.
fn limit(microseconds: Option<String>, pid: Option<String>, me: u32) -> Option<Duration> {
    let microseconds: u64 = microseconds?.parse().ok()?;
    let is_me = pid.is_none_or(|pid| pid.parse() == Ok(me));
    // Shorter times cannot be kept by a thread among others.
    (is_me && microseconds > 0).then(|| Duration::from_micros(microseconds).max(Duration::from_millis(40)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use dataplane::shared::Limits;
    use dpvs_api::Timeouts;

    use super::*;
    use crate::core::Request;

    fn shared(workers: usize) -> Arc<Shared> {
        Shared::new(Limits {
            workers,
            ports: 1,
            max_services: 1,
            max_servers: 1,
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 1,
            max_frame: 64,
        })
    }

    fn turn(shared: &Shared, worker: u16) {
        shared.worker(WorkerId(worker)).counters.polls.add(1);
    }

    #[test]
    fn the_environment_says_whether_and_how_often() {
        let limit = |time: Option<&str>, pid: Option<&str>| limit(time.map(str::to_owned), pid.map(str::to_owned), 7);
        assert_eq!(limit(None, None), None);
        assert_eq!(limit(Some("20000000"), None), Some(Duration::from_secs(20)));
        assert_eq!(limit(Some("20000000"), Some("7")), Some(Duration::from_secs(20)));
        assert_eq!(limit(Some("20000000"), Some("8")), None, "meant for another process");
        assert_eq!(limit(Some("1"), None), Some(Duration::from_millis(40)));
        for nonsense in ["0", "", "-1", "soon"] {
            assert_eq!(limit(Some(nonsense), None), None, "{nonsense}");
        }
    }

    #[test]
    fn a_worker_that_makes_no_turn_is_stuck() {
        let shared = shared(2);
        let mut workers = Workers { shared: Arc::clone(&shared), turns: vec![0; 2] };
        turn(&shared, 0);
        assert_eq!(workers.stuck(), [WorkerId(1)], "has not begun");
        turn(&shared, 0);
        turn(&shared, 1);
        assert_eq!(workers.stuck(), []);
        assert_eq!(workers.stuck(), [WorkerId(0), WorkerId(1)]);
    }

    /// Messages that wait in the socket.
    fn received(socket: &UnixDatagram) -> usize {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| assert_eq!(&buffer[..length], b"WATCHDOG=1")))
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn keep_alives_end_with_the_progress_of_a_worker_or_of_the_core() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let shared = shared(2);
        let watchdog = Watchdog::new(ServiceManager::at(path), Duration::from_secs(4), &shared);
        let (handle, mut requests) = CoreHandle::new();
        let core = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let Request::Timeouts(reply) = request else { panic!("{request:?}") };
                reply.send(Timeouts::default()).unwrap();
            }
        });
        let running = tokio::spawn(watchdog.run(handle));
        let a_while = || tokio::time::sleep(Duration::from_millis(1000));

        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(received(&socket), 0, "the workers have not begun");
        for _ in 0..8 {
            turn(&shared, 0);
            turn(&shared, 1);
            a_while().await;
        }
        assert_eq!(received(&socket), 8);
        for _ in 0..8 {
            turn(&shared, 0);
            a_while().await;
        }
        assert_eq!(received(&socket), 0, "worker 1 hangs");
        turn(&shared, 0);
        turn(&shared, 1);
        a_while().await;
        assert_eq!(received(&socket), 1, "it goes on");

        core.abort();
        for _ in 0..4 {
            turn(&shared, 0);
            turn(&shared, 1);
            a_while().await;
        }
        assert_eq!(received(&socket), 0, "the core is gone");
        running.abort();
    }
}
