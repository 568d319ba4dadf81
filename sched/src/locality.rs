//! What lblc and lblcr remember: for each destination address the servers that its connections go to.
//!
//! One table serves all workers, as it does in the kernel, so that a destination has the same servers everywhere. It is
//! made with the service and never grows. Its fields are read and written one by one, without a lock: when two workers
//! change the same entry at once, one of the changes may be lost, or an entry may name servers of another destination of
//! the service. Connections then go to a server that is as good, and the next change sets it right.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::Pool;
use crate::hash::{fold, golden};

/// Seconds between the passes in which the kernel removes what has expired: COUNT_FOR_FULL_EXPIRATION times CHECK_EXPIRE_INTERVAL.
const PASS: u32 = 30 * 60;

/// Logarithm of the number of buckets. The kernel's tables grow to 16384 entries before they are cleaned; a service by
/// address has one destination.
const BUCKET_BITS: u32 = 5;
/// Entries in a bucket.
const WAYS: usize = 8;

/// For up to 256 destinations, the ids of up to `N` servers each. Further destinations replace those that were used least
/// recently.
#[derive(Debug)]
pub(crate) struct Table<const N: usize>(Arc<[Entry<N>]>);

/// The servers of one destination.
#[derive(Debug)]
pub(crate) struct Entry<const N: usize> {
    /// The address; IPv4 addresses are mapped into IPv6.
    address: [AtomicU64; 2],
    /// When it was looked up last, in seconds.
    used: AtomicU32,
    /// When its servers changed last, in seconds.
    changed: AtomicU32,
    /// One more than the ids of the servers, the newest first; 0 ends them.
    servers: [AtomicU32; N],
}

impl<const N: usize> Table<N> {
    pub(crate) fn new() -> Self {
        let entry = || Entry {
            address: Default::default(),
            used: AtomicU32::new(0),
            changed: AtomicU32::new(0),
            servers: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        Self((0..WAYS << BUCKET_BITS).map(|_| entry()).collect())
    }

    fn bucket(&self, address: IpAddr) -> &[Entry<N>] {
        let start = golden(fold(address), BUCKET_BITS) as usize * WAYS;
        &self.0[start..start + WAYS]
    }

    /// The entry of a destination, if there is one that has not expired; it counts as used. As in the kernel, those that have
    /// not been used for `expiration` seconds go in passes, half an hour apart.
    pub(crate) fn find(&self, address: IpAddr, now: u32, expiration: u32) -> Option<&Entry<N>> {
        let words = words(address);
        let entry = self.bucket(address).iter().find(|entry| entry.is_for(words))?;
        let used = entry.used.load(Relaxed);
        let expires = used.saturating_add(expiration);
        if now / PASS > expires.saturating_sub(1) / PASS {
            return None;
        }
        // Workers share the entry: write only what is new.
        if used != now {
            entry.used.store(now, Relaxed);
        }
        Some(entry)
    }

    /// Remembers a server as the only one of a destination.
    pub(crate) fn set(&self, address: IpAddr, server: u32, now: u32) {
        let words = words(address);
        let bucket = self.bucket(address);
        let own = bucket.iter().find(|entry| entry.is_for(words));
        // An empty one was never used.
        let oldest = || bucket.iter().min_by_key(|entry| (!entry.is_empty(), entry.used.load(Relaxed)));
        let Some(entry) = own.or_else(oldest) else { return };
        for (place, word) in entry.address.iter().zip(words) {
            place.store(word, Relaxed);
        }
        entry.used.store(now, Relaxed);
        entry.write(std::iter::once(server), now);
    }
}

impl<const N: usize> Entry<N> {
    fn is_empty(&self) -> bool {
        self.servers[0].load(Relaxed) == 0
    }

    fn is_for(&self, words: [u64; 2]) -> bool {
        !self.is_empty() && self.address[0].load(Relaxed) == words[0] && self.address[1].load(Relaxed) == words[1]
    }

    /// The servers' ids, the newest first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().map_while(|place| place.load(Relaxed).checked_sub(1))
    }

    /// Where those servers stand that the service still has.
    pub(crate) fn servers(&self, pool: &impl Pool) -> impl Iterator<Item = usize> {
        self.ids().filter_map(|id| (0..pool.len()).find(|&server| pool.id(server) == id))
    }

    /// When its servers changed last, in seconds.
    pub(crate) fn changed(&self) -> u32 {
        self.changed.load(Relaxed)
    }

    /// Adds a server unless it is there. When there is no room for one more, the oldest leaves.
    pub(crate) fn insert(&self, id: u32, now: u32) {
        let mut ids = [0; N];
        let count = self.copy(&mut ids);
        if !ids[..count].contains(&id) {
            self.write(std::iter::once(id).chain(ids[..count].iter().copied()), now);
        }
    }

    /// Takes a server out if it is there.
    pub(crate) fn remove(&self, id: u32, now: u32) {
        let mut ids = [0; N];
        let count = self.copy(&mut ids);
        self.write(ids[..count].iter().copied().filter(|&other| other != id), now);
    }

    fn copy(&self, ids: &mut [u32; N]) -> usize {
        ids.iter_mut().zip(self.ids()).map(|(place, id)| *place = id).count()
    }

    fn write(&self, ids: impl Iterator<Item = u32>, now: u32) {
        let ids = ids.map(|id| id + 1).chain(std::iter::repeat(0));
        for (place, id) in self.servers.iter().zip(ids) {
            place.store(id, Relaxed);
        }
        self.changed.store(now, Relaxed);
    }
}

impl<const N: usize> Clone for Table<N> {
    /// The same table.
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// True when a server has more active connections than its weight while another has less than half of its own
/// (is_overloaded in ip_vs_lblc.c).
pub(crate) fn is_overloaded(server: usize, pool: &impl Pool) -> bool {
    pool.active(server) > u64::from(pool.weight(server))
        && (0..pool.len()).any(|other| 2 * pool.active(other) < u64::from(pool.weight(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRATION: u32 = 10 * PASS;

    fn destination(n: u32) -> IpAddr {
        (0x0a00_0000 + n).to_be_bytes().into()
    }

    fn ids<const N: usize>(table: &Table<N>, n: u32, now: u32) -> Option<Vec<u32>> {
        table.find(destination(n), now, EXPIRATION).map(|entry| entry.ids().collect())
    }

    #[test]
    fn entries_expire_when_unused() {
        let table = Table::<1>::new();
        assert_eq!(ids(&table, 1, 10), None);
        table.set(destination(1), 7, 10);
        assert_eq!(ids(&table, 1, 10 + EXPIRATION - 1), Some(vec![7]));
        assert_eq!(ids(&table, 1, 9 + 2 * EXPIRATION - 1), Some(vec![7]), "a look counts as use");
        assert_eq!(ids(&table, 1, 9 + 4 * EXPIRATION), None);
        table.set(destination(1), 0, 5 * EXPIRATION);
        assert_eq!(ids(&table, 1, 5 * EXPIRATION), Some(vec![0]));
        let mapped: IpAddr = "::ffff:10.0.0.2".parse().unwrap();
        assert!(table.find(mapped, 5 * EXPIRATION, EXPIRATION).is_none());
    }

    #[test]
    fn the_least_recently_used_make_room() {
        let table = Table::<1>::new();
        let bucket = |n: u32| golden(fold(destination(n)), BUCKET_BITS);
        let together: Vec<u32> = (1..).filter(|&n| bucket(n) == bucket(0)).take(WAYS + 1).collect();
        for (now, &n) in (1..).zip(&together[..WAYS]) {
            table.set(destination(n), n, now);
        }
        assert!(ids(&table, together[0], 100).is_some());
        table.set(destination(together[WAYS]), 99, 101);
        let left: Vec<bool> = together.iter().map(|&n| ids(&table, n, 102).is_some()).collect();
        let expected: Vec<bool> = (0..=WAYS).map(|n| n != 1).collect();
        assert_eq!(left, expected, "all but the second, as the first was looked up");
    }

    #[test]
    fn sets_grow_from_the_front() {
        let table = Table::<3>::new();
        table.set(destination(1), 5, 1);
        let entry = table.find(destination(1), 1, EXPIRATION).unwrap();
        for id in [6, 5, 7] {
            entry.insert(id, 2);
        }
        assert_eq!(ids(&table, 1, 2), Some(vec![7, 6, 5]));
        entry.insert(8, 3);
        assert_eq!((ids(&table, 1, 3), entry.changed()), (Some(vec![8, 7, 6]), 3));
        entry.remove(7, 4);
        entry.insert(8, 9);
        assert_eq!((ids(&table, 1, 4), entry.changed()), (Some(vec![8, 6]), 4), "no change, no time of change");
    }
}
