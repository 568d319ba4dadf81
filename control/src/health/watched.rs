//! A check that runs: what the thread of checks writes, and the core reads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dpvs_api::{CheckStatus, HealthState};
use tokio::sync::Notify;

use super::counter::Counter;
use super::probe::{Failure, Success};
use super::target::Spec;

/// Identifies a check that runs.
pub(super) type CheckId = u64;

/// A check that runs.
#[derive(Debug)]
pub(super) struct Watched {
    pub id: CheckId,
    pub spec: Spec,
    board: Arc<Board>,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    counter: Counter,
    /// Begin of the state.
    since: Instant,
    runs: u64,
    failures: u64,
    last: Duration,
    error: Option<(String, Instant)>,
    weight: Option<u32>,
    /// Whether the board has the check already.
    is_noted: bool,
}

/// What the core decides from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub state: HealthState,
    /// Weight that a program gave.
    pub weight: Option<u32>,
}

/// Where checks whose verdict changed are noted for the core, each at most once.
#[derive(Debug, Default)]
pub(crate) struct Board {
    changed: Mutex<Vec<Arc<Watched>>>,
    /// When the core is to look, if there is something.
    due: Mutex<Option<Instant>>,
    news: Notify,
}

/// How long news may wait for more: each look of the core's may make workers' tables anew.
const PATIENCE: Duration = Duration::from_millis(30);

impl Board {
    /// Returns when there is something to take. It can be dropped and called again at any time.
    pub async fn news(&self) {
        loop {
            let due = *self.due.lock().unwrap_or_else(PoisonError::into_inner);
            match due {
                Some(due) => return tokio::time::sleep_until(due.into()).await,
                None => self.news.notified().await,
            }
        }
    }

    /// The checks whose verdict changed since the last time.
    pub(super) fn take(&self) -> Vec<Arc<Watched>> {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        changed.iter().for_each(|check| check.record().is_noted = false);
        changed
    }

    fn note(&self, check: Arc<Watched>) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(check);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.get_or_insert_with(|| Instant::now() + PATIENCE);
        self.news.notify_one();
    }
}

impl Watched {
    /// A check that has not run.
    pub fn new(id: CheckId, spec: Spec, board: Arc<Board>, now: Instant) -> Self {
        let record = Record {
            counter: Counter::new(spec.check.fall, spec.check.rise),
            since: now,
            runs: 0,
            failures: 0,
            last: Duration::ZERO,
            error: None,
            weight: None,
            is_noted: false,
        };
        Self { id, spec, board, record: Mutex::new(record) }
    }

    /// Takes note of a run that ended `now` and took `duration`; tells the core if that changes something.
    pub fn ran(self: &Arc<Self>, outcome: Result<Success, Failure>, duration: Duration, now: Instant) {
        let mut record = self.record();
        let before = record.counter.state();
        record.runs += 1;
        record.last = duration;
        let mut changed = record.counter.run(outcome.is_ok());
        if changed {
            record.since = now;
        }
        match outcome {
            Ok(Success { weight }) => {
                changed |= weight != record.weight;
                record.weight = weight;
            }
            Err(failure) => {
                record.failures += 1;
                record.error = Some((failure.line(), now));
                if !changed && before == HealthState::Up {
                    tracing::debug!("check {}: {failure}", self.spec);
                }
            }
        }
        let note = changed && !record.is_noted;
        record.is_noted |= changed;
        drop(record);
        if note {
            self.board.note(Arc::clone(self));
        }
    }

    /// How long to wait for the next run.
    pub fn pause(&self) -> Duration {
        let check = &self.spec.check;
        let retry = check.retry_interval.filter(|_| self.record().counter.is_doubtful());
        retry.unwrap_or(check.interval).duration()
    }

    pub fn verdict(&self) -> Verdict {
        let record = self.record();
        Verdict { state: record.counter.state(), weight: record.weight }
    }

    /// How often it ran, and how often it failed.
    pub fn runs(&self) -> (u64, u64) {
        let record = self.record();
        (record.runs, record.failures)
    }

    /// Why a run failed last.
    pub fn error(&self) -> Option<String> {
        self.record().error.as_ref().map(|(error, _)| error.clone())
    }

    pub fn status(&self, now: Instant) -> CheckStatus {
        let record = self.record();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        CheckStatus {
            check: self.spec.to_string(),
            state: record.counter.state(),
            seconds: seconds(record.since),
            runs: record.runs,
            failures: record.failures,
            duration_us: record.last.as_micros().try_into().unwrap_or(u64::MAX),
            error: record.error.as_ref().map(|(error, _)| error.clone()),
            error_seconds: record.error.as_ref().map(|(_, when)| seconds(*when)),
            weight: record.weight,
        }
    }

    /// A record is whole between any two statements.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
