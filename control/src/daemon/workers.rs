//! The workers' threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use dataplane::shared::Shared;
use tokio::sync::mpsc;

/// How long workers may take to end. They look at the stop flag many times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Running workers.
pub struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    exits: mpsc::UnboundedReceiver<usize>,
}

/// Says that a worker's thread ends, however it ends.
struct Exit {
    worker: usize,
    exits: mpsc::UnboundedSender<usize>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        let _ = self.exits.send(self.worker);
    }
}

impl Threads {
    /// Starts a thread for each worker, pinned to its core. `work` returns when `shared` says stop.
    pub fn start<W>(shared: &Arc<Shared>, work: impl IntoIterator<Item = W>, cores: &[usize]) -> std::io::Result<Self>
    where
        W: FnOnce() + Send + 'static,
    {
        let (sender, exits) = mpsc::unbounded_channel();
        let mut threads = Self { shared: Arc::clone(shared), handles: Vec::new(), exits };
        for (worker, (work, &core)) in work.into_iter().zip(cores).enumerate() {
            let exit = Exit { worker, exits: sender.clone() };
            let thread = std::thread::Builder::new().name(format!("worker-{worker}"));
            // On failure, dropping `threads` ends those that run.
            threads.handles.push(thread.spawn(move || {
                let _exit = exit;
                if !core_affinity::set_for_current(CoreId { id: core }) {
                    tracing::warn!("worker {worker} cannot be pinned to core {core}: it runs where the system puts it");
                }
                work();
            })?);
        }
        Ok(threads)
    }

    /// Waits until some worker ends, which none does by itself, and returns which.
    pub async fn ended(&mut self) -> usize {
        match self.exits.recv().await {
            Some(worker) => worker,
            None => std::future::pending().await,
        }
    }

    /// Ends all workers; names those that do not end in time or panicked.
    pub async fn stop(mut self) -> Vec<usize> {
        self.shared.stop();
        let asked = Instant::now();
        while self.handles.iter().any(|handle| !handle.is_finished()) && asked.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut failed = Vec::new();
        for (worker, handle) in self.handles.drain(..).enumerate() {
            if !handle.is_finished() || handle.join().is_err() {
                failed.push(worker);
            }
        }
        failed
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dataplane::shared::Limits;

    use super::*;

    type Work = Box<dyn FnOnce() + Send>;

    fn shared() -> Arc<Shared> {
        Shared::new(Limits {
            workers: 2,
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

    fn until_stopped(shared: &Arc<Shared>) -> Work {
        let shared = Arc::clone(shared);
        Box::new(move || {
            while !shared.is_stopping() {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    }

    #[tokio::test]
    async fn workers_run_until_they_are_stopped() {
        let shared = shared();
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let work = [until_stopped(&shared), until_stopped(&shared)];
        let mut threads = Threads::start(&shared, work, &[core, core]).unwrap();
        let ended = tokio::time::timeout(Duration::from_millis(20), threads.ended()).await;
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(threads.stop().await, [0; 0]);
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_named_and_the_others_are_stopped() {
        let shared = shared();
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let panic: Work = Box::new(|| assert!(Path::new("/nonexistent").exists(), "on purpose"));
        let work = [until_stopped(&shared), panic];
        let mut threads = Threads::start(&shared, work, &[core, core]).unwrap();
        assert_eq!(threads.ended().await, 1);
        assert!(!shared.is_stopping());
        assert_eq!(threads.stop().await, [1]);
        assert!(shared.is_stopping());
    }
}
