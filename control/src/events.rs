//! What happened lately, for those who follow it (`GET /v1/events`).
//!
//! A ring holds the last events. Whoever follows has a place in it, and reads on from there when something is added: nothing
//! is queued for anybody, so a reader that stops costs nothing, and one that the ring has overtaken is told so.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dpvs_api::{Event, EventKind};
use tokio::sync::watch;

/// Events that are kept.
const CAPACITY: usize = 1024;

/// Where events are published and followed; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: String,
    ring: Mutex<Ring>,
    /// Number of the newest event.
    newest: watch::Sender<u64>,
}

/// The last events; the first of all has number 1.
#[derive(Debug, Default)]
struct Ring {
    held: VecDeque<Arc<Event>>,
    newest: u64,
}

impl Ring {
    /// Number of the oldest event that is held, or of the next one if none is.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.held.len() as u64
    }
}

impl Default for Events {
    fn default() -> Self {
        // Random, and different in every process: std seeds the hasher so.
        let run = format!("{:08x}", RandomState::new().build_hasher().finish() as u32);
        Self(Arc::new(Inner { run, ring: Mutex::default(), newest: watch::Sender::new(0) }))
    }
}

impl Events {
    /// Tells the daemon's run from those before, which counted from 1 as well.
    pub fn run(&self) -> &str {
        &self.0.run
    }

    /// Tells everybody who follows; never waits.
    pub fn publish(&self, what: EventKind) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut ring = self.ring();
        ring.newest += 1;
        let id = self.id(ring.newest);
        let time_ms = since.as_millis().try_into().unwrap_or(u64::MAX);
        if ring.held.len() == CAPACITY {
            ring.held.pop_front();
        }
        ring.held.push_back(Arc::new(Event { id, time_ms, what }));
        self.0.newest.send_replace(ring.newest);
    }

    /// Follows from now on; or from the event after `last` on, which begins with [`EventKind::Missed`] if it is not known
    /// what came after that.
    pub fn follow(&self, last: Option<&str>) -> Follower {
        let ring = self.ring();
        let (next, missed) = match last {
            None => (ring.newest + 1, None),
            Some(last) => match self.number(last) {
                Some(last) if (ring.oldest()..=ring.newest + 1).contains(&(last + 1)) => (last + 1, None),
                _ => (ring.oldest(), Some(self.missed(&ring))),
            },
        };
        Follower { events: self.clone(), newest: self.0.newest.subscribe(), next, missed }
    }

    /// Stands for what is older than all that is held.
    fn missed(&self, ring: &Ring) -> Arc<Event> {
        let time_ms = ring.held.front().map_or(0, |event| event.time_ms);
        Arc::new(Event { id: self.id(ring.oldest() - 1), time_ms, what: EventKind::Missed })
    }

    fn id(&self, number: u64) -> String {
        format!("{}.{number}", self.0.run)
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (run, number) = id.split_once('.')?;
        number.parse().ok().filter(|number| run == self.0.run && *number < u64::MAX)
    }

    /// A ring is whole between any two statements, so a panic elsewhere does not spoil it.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the ring.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    newest: watch::Receiver<u64>,
    next: u64,
    missed: Option<Arc<Event>>,
}

impl Follower {
    /// The next event, when there is one; `None` if it is gone already because the last call is too long ago.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            match self.poll() {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(Overtaken) => return None,
            }
            // It cannot close: the follower itself holds the sender.
            self.newest.changed().await.ok()?;
        }
    }

    /// The next event if it has happened already.
    pub fn poll(&mut self) -> Result<Option<Arc<Event>>, Overtaken> {
        if let Some(missed) = self.missed.take() {
            return Ok(Some(missed));
        }
        let ring = self.events.ring();
        let index = self.next.checked_sub(ring.oldest()).ok_or(Overtaken)?;
        let event = ring.held.get(index as usize).map(Arc::clone);
        self.next += u64::from(event.is_some());
        Ok(event)
    }
}

/// Events that a follower has not read are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtaken;

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled(worker: usize) -> EventKind {
        EventKind::WorkerStalled { worker }
    }

    /// What a follower gets now.
    fn ready(follower: &mut Follower) -> Vec<EventKind> {
        std::iter::from_fn(|| follower.poll().unwrap()).map(|event| event.what.clone()).collect()
    }

    #[tokio::test]
    async fn followers_get_what_happens_from_then_on() {
        let events = Events::default();
        events.publish(stalled(0));
        let mut follower = events.follow(None);
        assert_eq!(follower.poll(), Ok(None));
        let waits = tokio::spawn(async move { follower.next().await.map(|event| event.id.clone()) });
        tokio::task::yield_now().await;
        events.publish(stalled(1));
        assert_eq!(waits.await.unwrap(), Some(format!("{}.2", events.run())));
    }

    #[test]
    fn reading_goes_on_after_an_event() {
        let events = Events::default();
        (0..3).for_each(|worker| events.publish(stalled(worker)));
        let id = |number: u64| format!("{}.{number}", events.run());
        assert_eq!(ready(&mut events.follow(Some(&id(1)))), [stalled(1), stalled(2)]);
        assert_eq!(ready(&mut events.follow(Some(&id(3)))), []);
        assert_eq!(ready(&mut events.follow(Some(&id(0)))), [stalled(0), stalled(1), stalled(2)]);
    }

    #[test]
    fn what_cannot_be_known_is_said_to_be_missed() {
        let events = Events::default();
        events.publish(stalled(0));
        for last in ["", "x", "00000000x.1", &format!("{}.2", events.run()), &format!("{}.{}", events.run(), u64::MAX)]
        {
            assert_eq!(ready(&mut events.follow(Some(last))), [EventKind::Missed, stalled(0)], "{last}");
        }
        (0..CAPACITY).for_each(|worker| events.publish(stalled(worker)));
        let mut follower = events.follow(Some(&format!("{}.0", events.run())));
        let missed = follower.poll().unwrap().unwrap();
        assert_eq!((missed.what.clone(), missed.id.clone()), (EventKind::Missed, format!("{}.1", events.run())));
        assert_eq!(ready(&mut follower).len(), CAPACITY);
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told() {
        let events = Events::default();
        let mut follower = events.follow(None);
        (0..CAPACITY).for_each(|worker| events.publish(stalled(worker)));
        assert_eq!(follower.next().await.unwrap().what, stalled(0));
        (0..2).for_each(|worker| events.publish(stalled(worker)));
        assert_eq!(follower.next().await, None);
        assert_eq!(follower.poll(), Err(Overtaken));
    }
}
