//! The thread of the kernel's side.
//!
//! Frames for and from the kernel must not wait: ping, ARP, BGP and VRRP live on them. The control thread, though, is busy
//! for some 100 ms when it works through ten thousand services.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with an event loop. Dropping it ends the tasks that run there, drops them, and waits for that.
pub(super) struct KernelThread {
    tasks: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KernelThread {
    /// Starts a thread in the caller's network namespace and on the cores that the caller may use.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().thread_name("kernel").build()?;
        let tasks = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let serve = move || drop(runtime.block_on(ended));
        let thread = std::thread::Builder::new().name("kernel".to_owned()).spawn(serve)?;
        Ok(Self { tasks, end: Some(end), thread: Some(thread) })
    }

    /// Runs `work` there to its end; what it spawns goes on.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.tasks.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Tasks are cancelled only by dropping this value, which is borrowed.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for KernelThread {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn tasks_go_on_while_the_caller_is_busy_and_end_with_the_thread() {
        let turns = Arc::new(AtomicU32::new(0));
        let thread = KernelThread::start().unwrap();
        let counted = Arc::clone(&turns);
        let answer = thread.run(async move {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
            7
        });
        assert_eq!(answer.await, 7);
        let before = turns.load(Ordering::Relaxed);
        // Blocks the runtime of this test, as a long computation would.
        std::thread::sleep(Duration::from_millis(500));
        let after = turns.load(Ordering::Relaxed);
        assert!(after >= before + 20, "{before} {after}");
        drop(thread);
        assert_eq!(Arc::strong_count(&turns), 1, "the task was dropped");
    }
}
