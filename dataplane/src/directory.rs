//! Where the packets go that no hash leads to their worker: those of connections that another connection announced.
//!
//! A worker that expects a connection enters the tuples here that its packets will have; a worker that gets such a packet
//! passes it on. One of a tuple's ports may be unknown: it is 0 then. Only packets of no known connection are looked up,
//! and only while there is anything to find.
//!
//! The table is shared without a lock. A record is claimed, written and published by its meta word (a sequence lock whose
//! readers do not wait): a reader that finds the same word before and after has read what belongs to it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use proto::{Address, Tuple};

use crate::WorkerId;
use crate::conn::TupleHasher;

/// Records of a bucket.
const WAYS: usize = 8;
/// A meta word of a record that nobody has.
const FREE: u64 = 0;
/// ... and of one that is being written.
const CLAIMED: u64 = 1;

/// Tuples of expected connections and the workers that own them.
#[derive(Debug)]
pub struct Directory {
    hasher: TupleHasher,
    /// Of a power of two of buckets.
    records: Box<[Record]>,
    used: AtomicUsize,
}

/// A tuple's place in the directory. It belongs to who entered it and is given back with [`Directory::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    record: u32,
    meta: u64,
}

/// Why a tuple could not be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    /// It is there already.
    #[error("the tuple is expected already")]
    Taken,
    /// There is no room.
    #[error("too many connections are expected")]
    Full,
}

#[derive(Debug, Default)]
struct Record {
    /// [`FREE`], [`CLAIMED`], or a number that is not used again above the worker's.
    meta: AtomicU64,
    words: [AtomicU64; 5],
}

impl Directory {
    /// Room for about `tuples`, which is rounded up to a power of two; for none if it is 0.
    pub fn new(tuples: usize, seed: [u64; 2]) -> Self {
        let records = if tuples == 0 { 0 } else { tuples.next_power_of_two().max(WAYS) };
        Self {
            hasher: TupleHasher::new(seed),
            records: std::iter::repeat_with(Record::default).take(records).collect(),
            used: AtomicUsize::new(0),
        }
    }

    /// As [`enter`](Self::enter), but if another worker has the tuple, it loses it.
    pub fn take<A: Address>(&self, tuple: &Tuple<A>, worker: WorkerId, number: u32) -> Result<Ticket, EnterError> {
        let words = words(tuple);
        let start = self.bucket(tuple).ok_or(EnterError::Full)?;
        for at in start..start + WAYS {
            let meta = &self.records[at].meta;
            let before = meta.load(Ordering::Acquire);
            let ticket = Ticket::new(at, worker, number);
            let is_it = self.records[at].owner(&words).is_some();
            if is_it && meta.compare_exchange(before, ticket.meta, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(ticket);
            }
        }
        self.enter(tuple, worker, number)
    }

    /// Makes `worker` the owner of packets with this tuple. `number` is one that the worker has not used before.
    pub fn enter<A: Address>(&self, tuple: &Tuple<A>, worker: WorkerId, number: u32) -> Result<Ticket, EnterError> {
        let words = words(tuple);
        let start = self.bucket(tuple).ok_or(EnterError::Full)?;
        let bucket = &self.records[start..start + WAYS];
        if bucket.iter().any(|record| record.owner(&words).is_some()) {
            return Err(EnterError::Taken);
        }
        let claim = |record: &&Record| {
            record.meta.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let Some(at) = bucket.iter().position(|record| claim(&record)) else { return Err(EnterError::Full) };
        let record = &bucket[at];
        fence(Ordering::Release);
        for (place, word) in record.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        let ticket = Ticket::new(start + at, worker, number);
        record.meta.store(ticket.meta, Ordering::Release);
        self.used.fetch_add(1, Ordering::Relaxed);
        Ok(ticket)
    }

    /// Forgets a tuple.
    pub fn remove(&self, ticket: Ticket) {
        let meta = &self.records[ticket.record as usize].meta;
        if meta.compare_exchange(ticket.meta, FREE, Ordering::Release, Ordering::Relaxed).is_ok() {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The worker that expects packets with this tuple, whatever one of its ports is.
    #[inline]
    pub fn find<A: Address>(&self, tuple: &Tuple<A>) -> Option<WorkerId> {
        if self.used.load(Ordering::Relaxed) == 0 {
            return None;
        }
        [*tuple, Tuple { sport: 0, ..*tuple }, Tuple { dport: 0, ..*tuple }].iter().find_map(|tuple| {
            let words = words(tuple);
            let start = self.bucket(tuple)?;
            self.records[start..start + WAYS].iter().find_map(|record| record.owner(&words))
        })
    }

    /// How many tuples there are.
    pub fn len(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the tuple's bucket begins.
    fn bucket<A: Address>(&self, tuple: &Tuple<A>) -> Option<usize> {
        let buckets = self.records.len() / WAYS;
        (buckets > 0).then(|| self.hasher.hash(tuple) as usize & (buckets - 1)).map(|bucket| bucket * WAYS)
    }
}

impl Ticket {
    fn new(record: usize, worker: WorkerId, number: u32) -> Self {
        Self { record: record as u32, meta: u64::from(number) << 32 | u64::from(worker.0) << 8 | 2 }
    }
}

impl Record {
    /// The owner, if the record has this tuple.
    fn owner(&self, words: &[u64; 5]) -> Option<WorkerId> {
        let meta = self.meta.load(Ordering::Acquire);
        if meta == FREE || meta == CLAIMED {
            return None;
        }
        let is_it = self.words.iter().zip(words).all(|(own, word)| own.load(Ordering::Relaxed) == *word);
        fence(Ordering::Acquire);
        (is_it && self.meta.load(Ordering::Relaxed) == meta).then_some(WorkerId((meta >> 8) as u16))
    }
}

fn words<A: Address>(tuple: &Tuple<A>) -> [u64; 5] {
    let (src_high, src_low) = tuple.src.words();
    let (dst_high, dst_low) = tuple.dst.words();
    let rest = u64::from(tuple.sport) | u64::from(tuple.dport) << 16;
    let kind = u64::from(tuple.protocol.0) << 32 | (A::LEN as u64) << 40;
    [src_high, src_low, dst_high, dst_low, rest | kind]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proto::Protocol;

    use super::*;

    fn tuple(n: u32, sport: u16, dport: u16) -> Tuple<Ipv4Addr> {
        Tuple { src: Ipv4Addr::from(n), dst: Ipv4Addr::from(9), sport, dport, protocol: Protocol::TCP }
    }

    #[test]
    fn one_port_may_be_unknown() {
        let directory = Directory::new(64, [1, 2]);
        assert_eq!(directory.find(&tuple(1, 5, 6)), None);
        let exact = directory.enter(&tuple(1, 5, 6), WorkerId(3), 1).unwrap();
        let no_source = directory.enter(&tuple(2, 0, 6), WorkerId(4), 2).unwrap();
        let no_destination = directory.enter(&tuple(3, 5, 0), WorkerId(5), 3).unwrap();
        assert_eq!(directory.enter(&tuple(2, 0, 6), WorkerId(9), 4), Err(EnterError::Taken));
        for (asked, owner) in [
            (tuple(1, 5, 6), Some(3)),
            (tuple(1, 7, 6), None),
            (tuple(1, 5, 7), None),
            (tuple(2, 7, 6), Some(4)),
            (tuple(2, 7, 7), None),
            (tuple(3, 5, 8), Some(5)),
            (tuple(3, 6, 8), None),
            (Tuple { protocol: Protocol::UDP, ..tuple(1, 5, 6) }, None),
        ] {
            assert_eq!(directory.find(&asked), owner.map(WorkerId), "{asked:?}");
        }
        let v6 = |addr: Ipv4Addr| Ipv6Addr::from(u128::from(addr.to_bits()));
        let Tuple { src, dst, sport, dport, protocol } = tuple(1, 5, 6);
        assert_eq!(directory.find(&Tuple { src: v6(src), dst: v6(dst), sport, dport, protocol }), None);
        assert_eq!(directory.len(), 3);
        directory.remove(exact);
        directory.remove(exact);
        directory.remove(no_source);
        assert_eq!((directory.find(&tuple(1, 5, 6)), directory.find(&tuple(2, 7, 6))), (None, None));
        // Who has the record now keeps it.
        let again = directory.enter(&tuple(1, 5, 6), WorkerId(6), 5).unwrap();
        directory.remove(exact);
        assert_eq!(directory.find(&tuple(1, 5, 6)), Some(WorkerId(6)));
        let taken = directory.take(&tuple(1, 5, 6), WorkerId(7), 6).unwrap();
        directory.remove(again);
        assert_eq!(directory.find(&tuple(1, 5, 6)), Some(WorkerId(7)));
        directory.remove(taken);
        directory.remove(no_destination);
        assert!(directory.is_empty());
    }

    #[test]
    fn it_is_full_at_some_time_and_never_wrong() {
        let directory = Directory::new(64, [1, 2]);
        let tickets: Vec<_> = (1..1000).map(|n| directory.enter(&tuple(n, 1, 2), WorkerId(n as u16), n)).collect();
        let full = tickets.iter().filter(|ticket| **ticket == Err(EnterError::Full)).count();
        assert_eq!(full, 999 - directory.len());
        assert_eq!(directory.len(), 64);
        for (n, ticket) in (1..1000).zip(&tickets) {
            assert_eq!(directory.find(&tuple(n, 1, 2)), ticket.ok().map(|_| WorkerId(n as u16)));
        }
        tickets.into_iter().flatten().for_each(|ticket| directory.remove(ticket));
        assert!(directory.is_empty());
        assert_eq!(Directory::new(0, [1, 2]).enter(&tuple(1, 1, 2), WorkerId(0), 1), Err(EnterError::Full));
    }

    #[test]
    fn workers_enter_and_leave_at_the_same_time() {
        let directory = Directory::new(32, [1, 2]);
        std::thread::scope(|scope| {
            for worker in 0..4u16 {
                let directory = &directory;
                scope.spawn(move || {
                    for number in 0..20_000u32 {
                        let own = tuple((u32::from(worker) << 16) + number % 7, 1, 0);
                        if let Ok(ticket) = directory.enter(&own, WorkerId(worker), number) {
                            assert_eq!(directory.find(&own), Some(WorkerId(worker)));
                            let other = u32::from(worker + 1) % 4;
                            let found = directory.find(&tuple((other << 16) + number % 7, 1, 3));
                            assert!(found.is_none_or(|found| u32::from(found.0) == other));
                            directory.remove(ticket);
                        }
                    }
                });
            }
        });
        assert!(directory.is_empty());
    }
}
