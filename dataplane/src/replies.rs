//! Which worker has the connection that a NAT server's reply belongs to, where the reply does not tell.
//!
//! The owner of a connection follows from the client's packets ([`steer`](crate::steer)). For a service at one address and
//! port those can be told from a reply. A service for a firewall mark or for all ports has many; its connections are noted
//! here, in a table of fixed size that all workers read and write without a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use proto::{Address, Tuple};

use crate::WorkerId;
use crate::conn::TupleHasher;

/// Places for hashes that begin in the same bucket.
const WAYS: usize = 8;
/// The lower bits of a place: the worker, and that there is one.
const WORKER: u64 = 0x3f;
const IN_USE: u64 = 0x40;

/// The table.
#[derive(Debug)]
pub struct Replies {
    buckets: Box<[Bucket]>,
    hasher: TupleHasher,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

impl Replies {
    /// A table with room for `connections`. `seed` keys the hash: draw it from the system's random source.
    pub fn new(connections: usize, seed: [u64; 2]) -> Self {
        let count = (2 * connections).div_ceil(WAYS).next_power_of_two();
        Self { buckets: (0..count).map(|_| Bucket::default()).collect(), hasher: TupleHasher::new(seed) }
    }

    /// Notes the connection of a worker whose replies have this tuple. False if there is no room.
    pub fn insert<A: Address>(&self, reply: &Tuple<A>, worker: WorkerId) -> bool {
        let hash = self.hasher.hash(reply);
        let is_put = |place: &AtomicU64| {
            place.load(Relaxed) == 0 && place.compare_exchange(0, noted(hash, worker), Relaxed, Relaxed).is_ok()
        };
        self.places(hash).any(is_put)
    }

    /// Forgets a connection that was noted.
    pub fn remove<A: Address>(&self, reply: &Tuple<A>, worker: WorkerId) {
        let hash = self.hasher.hash(reply);
        let noted = noted(hash, worker);
        let is_gone = |place: &AtomicU64| {
            place.load(Relaxed) == noted && place.compare_exchange(noted, 0, Relaxed, Relaxed).is_ok()
        };
        self.places(hash).any(is_gone);
    }

    /// A worker that has the connection of this reply and is not in `tried`, a bit per worker.
    pub fn find<A: Address>(&self, reply: &Tuple<A>, tried: u64) -> Option<WorkerId> {
        let hash = self.hasher.hash(reply);
        self.places(hash).find_map(|place| {
            let noted = place.load(Relaxed);
            let is_it = noted & IN_USE != 0 && (noted ^ hash) & !(IN_USE | WORKER) == 0;
            let worker = noted & WORKER;
            (is_it && tried & 1 << worker == 0).then_some(WorkerId(worker as u16))
        })
    }

    fn places(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let mask = self.buckets.len() - 1;
        // The upper bits stay in the place, the middle ones choose the bucket.
        let first = (hash >> 7) as usize & mask;
        [first, (first + 1) & mask].into_iter().flat_map(|bucket| &self.buckets[bucket].0)
    }
}

fn noted(hash: u64, worker: WorkerId) -> u64 {
    hash & !(IN_USE | WORKER) | IN_USE | u64::from(worker.0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proto::Protocol;

    use super::*;

    fn reply(cport: u16) -> Tuple<Ipv4Addr> {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(198, 51, 100, 7));
        Tuple { src, dst, sport: 80, dport: cport, protocol: Protocol::TCP }
    }

    #[test]
    fn each_connection_is_found_until_it_is_forgotten() {
        let table = Replies::new(1000, [1, 2]);
        for cport in 0..1000 {
            assert!(table.insert(&reply(cport), WorkerId(cport % 64)), "{cport}");
        }
        for cport in 0..1000 {
            let worker = WorkerId(cport % 64);
            assert_eq!(table.find(&reply(cport), 0), Some(worker));
            assert_eq!(table.find(&reply(cport), 1 << worker.0), None, "it was tried");
            table.remove(&reply(cport), worker);
            assert_eq!(table.find(&reply(cport), 0), None);
        }
        assert_eq!(table.find(&reply(5000), 0), None);
    }

    #[test]
    fn two_workers_may_have_the_same() {
        let table = Replies::new(4, [1, 2]);
        assert!(table.insert(&reply(1), WorkerId(0)) && table.insert(&reply(1), WorkerId(3)));
        assert_eq!((table.find(&reply(1), 0b1), table.find(&reply(1), 0b1001)), (Some(WorkerId(3)), None));
        assert!((2..100).any(|cport| !table.insert(&reply(cport), WorkerId(0))), "it is bounded");
    }
}
