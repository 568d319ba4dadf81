//! The thread that runs checks and programs.
//!
//! It is a thread of its own, so that thousands of checks delay neither the API nor workers: it has the control thread's core.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::notify::{self, Job};
use super::probe::{self, Failure, Success, Tools};
use super::watched::Watched;
use crate::detour::Detours;

/// Most checks under way at a time, if there are file descriptors enough.
const MAX_CONCURRENT: usize = 4096;
/// File descriptors that others may need.
const RESERVED: u64 = 512;
/// Notifications that may wait to be looked at.
const JOBS: usize = 1024;

/// Runs checks and programs, until it is dropped.
pub struct Engine {
    runtime: Handle,
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What all checks share.
struct Shared {
    tools: Tools,
    /// A permit for each check that may be under way.
    room: Semaphore,
}

impl Engine {
    /// Starts the thread. `detours` are those of the thread of the kernel's frames.
    pub fn start(detours: Arc<Detours>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (jobs, waiting) = mpsc::channel(JOBS);
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async {
                tokio::spawn(notify::serve(waiting));
                let _ = ended.await;
            });
            // What still runs is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("dpvs-health".to_owned()).spawn(run)?;
        let shared = Arc::new(Shared { tools: Tools::new(detours), room: Semaphore::new(concurrency()) });
        Ok(Self { runtime: handle, shared, jobs, end: Some(end), thread: Some(thread) })
    }

    /// Runs a check again and again until the handle is used.
    pub(super) fn watch(&self, check: Arc<Watched>) -> AbortHandle {
        self.runtime.spawn(watch(check, Arc::clone(&self.shared))).abort_handle()
    }

    /// Has a program run some time; never waits.
    pub(super) fn notify(&self, job: Job) {
        if let Err(error) = self.jobs.try_send(job) {
            let (mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) = error;
            tracing::warn!("{}: too many programs wait, so {} is not run", job.subject, job.command.join(" "));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of health checks panicked");
        }
    }
}

/// How many checks can be under way at a time. Raises the limit of file descriptors as far as it goes.
fn concurrency() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        }
    });
    MAX_CONCURRENT.min(usize::try_from(descriptors.saturating_sub(RESERVED)).unwrap_or(usize::MAX)).max(64)
}

async fn watch(check: Arc<Watched>, shared: Arc<Shared>) {
    let warmup = check.spec.check.warmup.unwrap_or(check.spec.check.interval).duration();
    tokio::time::sleep(warmup.mul_f64(random())).await;
    loop {
        // The semaphore is never closed.
        let Ok(permit) = shared.room.acquire().await else { return };
        let began = Instant::now();
        let outcome = survive(probe::run(&check.spec, &shared.tools)).await;
        drop(permit);
        if let Err(failure @ Failure::Panic(_)) = &outcome {
            tracing::error!("check {}: {failure}", check.spec);
        }
        let now = Instant::now();
        check.ran(outcome, now.saturating_duration_since(began), now);
        tokio::time::sleep(check.pause().max(Duration::from_millis(1))).await;
    }
}

/// A panic is a failure of the check: it neither ends unnoticed nor hides what the server is like.
async fn survive(run: impl Future<Output = Result<Success, Failure>>) -> Result<Success, Failure> {
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Failure::Panic(text.unwrap_or_else(|| "no reason was given".to_owned())))
    })
}

/// A number from 0 to 1.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let outcome = survive(async { panic!("index {} is out of bounds", 7) }).await;
        assert_eq!(outcome.unwrap_err().line(), "the check panicked: index 7 is out of bounds");
        let outcome = survive(async { panic!("unreachable") }).await;
        assert_eq!(outcome.unwrap_err().line(), "the check panicked: unreachable");
        assert_eq!(survive(async { Ok(Success { weight: Some(1) }) }).await.unwrap().weight, Some(1));
    }
}
