//! The workers' threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use dataplane::io::dpdk::DpdkIo;
use dataplane::shared::Shared;
use dataplane::worker::Worker;
use tokio::sync::mpsc;

/// How long workers may take to end. They look at the stop flag many times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Running workers.
pub(super) struct Threads {
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
    /// Starts a pinned thread for each worker.
    pub fn start(shared: &Arc<Shared>, workers: Vec<Worker<DpdkIo>>, cores: &[usize]) -> std::io::Result<Self> {
        let (sender, exits) = mpsc::unbounded_channel();
        let mut threads = Self { shared: Arc::clone(shared), handles: Vec::new(), exits };
        for (index, (worker, &core)) in workers.into_iter().zip(cores).enumerate() {
            let exit = Exit { worker: index, exits: sender.clone() };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            // On failure, dropping `threads` ends those that run.
            threads.handles.push(thread.spawn(move || work(worker, core, &exit))?);
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

fn work(worker: Worker<DpdkIo>, core: usize, exit: &Exit) {
    if !core_affinity::set_for_current(CoreId { id: core }) {
        tracing::warn!("worker {} cannot be pinned to core {core} and runs where the system puts it", exit.worker);
    }
    // Held until the worker has given its packets back.
    let _registration = match worker.io().register_thread() {
        Ok(registration) => Some(registration),
        Err(error) => {
            tracing::warn!("worker {} is slower than it could be: {error}", exit.worker);
            None
        }
    };
    worker.run();
}
