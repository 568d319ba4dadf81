//! Runs the programs that want to know what happened.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::program::Program;

/// Programs that run at a time.
const MAX_RUNNING: usize = 16;
/// Programs that wait; more stay in the queue.
const MAX_WAITING: usize = 1024;
/// A program that takes longer is killed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// What it is about. Programs about the same run one after the other, in order.
    pub subject: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What happened.
    pub environment: Vec<(&'static str, String)>,
}

/// Runs programs until their queue is closed.
pub(super) async fn serve(mut queue: mpsc::Receiver<Job>) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut busy: HashSet<String> = HashSet::new();
    let mut running: JoinSet<String> = JoinSet::new();
    loop {
        tokio::select! {
            job = queue.recv(), if waiting.len() < MAX_WAITING => match job {
                Some(job) => waiting.push_back(job),
                None => return,
            },
            Some(ended) = running.join_next() => drop(ended.map(|subject| busy.remove(&subject))),
        }
        while running.len() < MAX_RUNNING
            && let Some(position) = next(&waiting, &busy)
            && let Some(job) = waiting.remove(position)
        {
            busy.insert(job.subject.clone());
            running.spawn(run(job));
        }
    }
}

/// The first job whose subject has none running. What waits longer for the same subject comes first anyway.
fn next(waiting: &VecDeque<Job>, busy: &HashSet<String>) -> Option<usize> {
    waiting.iter().position(|job| !busy.contains(&job.subject))
}

async fn run(job: Job) -> String {
    let program = Program { command: &job.command, user: None, environment: &job.environment };
    let name = || format!("{}: program {}", job.subject, job.command.join(" "));
    match tokio::time::timeout(TIMEOUT, program.run()).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::warn!("{} ended with {status}", name()),
        Ok(Err(error)) => tracing::warn!("{} cannot be run: {error}", name()),
        Err(_) => tracing::warn!("{} was killed after {} s", name(), TIMEOUT.as_secs()),
    }
    job.subject
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_about_one_thing_run_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let (jobs, queue) = mpsc::channel(8);
        let served = tokio::spawn(serve(queue));
        for (subject, event, delay) in [("a", "down", "0.3"), ("a", "up", "0"), ("b", "down", "0")] {
            let script = format!("sleep {delay}; echo {subject} $EVENT >> {}", file.display());
            jobs.send(Job {
                subject: subject.to_owned(),
                command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
                environment: vec![("EVENT", event.to_owned())],
            })
            .await
            .unwrap();
        }
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        for _ in 0..100 {
            if read().lines().count() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(read(), "b down\na down\na up\n");
        drop(jobs);
        served.await.unwrap();
    }
}
