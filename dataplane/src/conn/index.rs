//! The index of a connection table: from a hash to a [`Slot`].
//!
//! An array of buckets, each one cache line with up to ten keys: a 16-bit tag of the hash and the slot. A key that finds
//! its home bucket full goes to one of the next buckets, and every bucket that it passes counts it in `overflow`; a
//! search ends at the first bucket that nobody overflowed, in nearly all cases the home. The count makes deletion exact:
//! nothing is left behind, and nothing ever has to be rehashed. (The scheme is that of F14; N. Bronson, X. Shi, "Open-
//! sourcing F14 for faster, more memory-efficient hash tables", 2019.)
//!
//! The home is `hash * buckets / 2^64`, which is made by a multiplication and allows any number of buckets. It uses
//! the hash's high bits, the tag uses the low ones.

use super::{ConnId, Side};

/// Keys per bucket.
const WAYS: usize = 10;
/// A key is at most this many buckets behind its home, less one.
const MAX_PROBE: usize = 16;
/// Keys per bucket when the index holds as many as it was made for. Beyond six, keys that miss their home get frequent:
/// at six it is 1 in 80, at eight 1 in 15.
const LOAD: usize = 6;

/// What a key leads to: a connection, and which of its two tuples the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    const OUTBOUND: u32 = 1 << 31;

    /// Leads to no connection.
    pub(super) const NONE: Self = Self(u32::MAX);

    /// `id` must be below 2^31 - 1.
    #[inline(always)]
    pub(super) fn new(id: ConnId, side: Side) -> Self {
        match side {
            Side::Inbound => Self(id.0),
            Side::Outbound => Self(id.0 | Self::OUTBOUND),
        }
    }

    #[inline(always)]
    pub(super) fn id(self) -> ConnId {
        ConnId(self.0 & !Self::OUTBOUND)
    }

    #[inline(always)]
    pub(super) fn side(self) -> Side {
        if self.0 & Self::OUTBOUND == 0 { Side::Inbound } else { Side::Outbound }
    }
}

/// One cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// 0: empty.
    tags: [u16; WAYS],
    /// Keys that passed this bucket because it was full; at most `WAYS * (MAX_PROBE - 1)`.
    overflow: u32,
    slots: [Slot; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self { tags: [0; WAYS], overflow: 0, slots: [Slot(0); WAYS] };

    /// Bit `i` is set if way `i` has this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        hw::equal_lanes(&self.tags, tag)
    }
}

/// A multimap from hashes to slots; the caller compares the tuples.
#[derive(Debug)]
pub(super) struct Index {
    /// `homes` buckets that a hash can lead to, and behind them room for the probes of the last ones.
    buckets: Box<[Bucket]>,
    homes: u64,
}

impl Index {
    /// An index for `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        let homes = keys.div_ceil(LOAD).max(1);
        let mut buckets = Vec::with_capacity(homes + MAX_PROBE - 1);
        hw::populate(buckets.spare_capacity_mut());
        buckets.resize(homes + MAX_PROBE - 1, Bucket::EMPTY);
        Self { buckets: buckets.into_boxed_slice(), homes: homes as u64 }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            hw::prefetch(bucket);
        }
    }

    /// The first slot in the home bucket that may be the hash's; any slot when it may be in another bucket only;
    /// [`Slot::NONE`] when it is in none.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Slot {
        let Some(bucket) = self.buckets.get(self.home(hash)) else { return Slot::NONE };
        let way = bucket.matches(tag(hash)).trailing_zeros() as usize;
        match bucket.slots.get(way) {
            Some(&slot) => slot,
            None if bucket.overflow == 0 => Slot::NONE,
            None => bucket.slots[0],
        }
    }

    /// The first slot with this hash that `is_match` accepts.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, mut is_match: impl FnMut(Slot) -> bool) -> Option<Slot> {
        let tag = tag(hash);
        for bucket in self.probes(hash) {
            let mut candidates = bucket.matches(tag);
            while let Some(&slot) = bucket.slots.get(candidates.trailing_zeros() as usize) {
                if is_match(slot) {
                    return Some(slot);
                }
                candidates &= candidates - 1;
            }
            if bucket.overflow == 0 {
                return None;
            }
        }
        None
    }

    /// Adds a key and returns whether there was room within reach of its home.
    pub(super) fn insert(&mut self, hash: u64, slot: Slot) -> bool {
        let home = self.home(hash);
        let probes = &mut self.buckets[home..home + MAX_PROBE];
        let free = |b: &Bucket| Some(b.matches(0).trailing_zeros() as usize).filter(|&way| way < WAYS);
        let Some((passed, way)) = probes.iter().enumerate().find_map(|(i, b)| Some((i, free(b)?))) else {
            return false;
        };
        for bucket in &mut probes[..passed] {
            bucket.overflow += 1;
        }
        probes[passed].tags[way] = tag(hash);
        probes[passed].slots[way] = slot;
        true
    }

    /// Removes the key that was added with this hash and slot, and returns whether it was there.
    pub(super) fn remove(&mut self, hash: u64, slot: Slot) -> bool {
        let home = self.home(hash);
        let tag = tag(hash);
        let probes = &mut self.buckets[home..home + MAX_PROBE];
        let way_of = |b: &Bucket| {
            let mut candidates = b.matches(tag);
            loop {
                let way = candidates.trailing_zeros() as usize;
                if *b.slots.get(way)? == slot {
                    return Some(way);
                }
                candidates &= candidates - 1;
            }
        };
        let Some((passed, way)) = probes.iter().enumerate().find_map(|(i, b)| Some((i, way_of(b)?))) else {
            return false;
        };
        for bucket in &mut probes[..passed] {
            bucket.overflow -= 1;
        }
        probes[passed].tags[way] = 0;
        true
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * u128::from(self.homes)) >> 64) as usize
    }

    #[inline(always)]
    fn probes(&self, hash: u64) -> &[Bucket] {
        let home = self.home(hash);
        self.buckets.get(home..home + MAX_PROBE).unwrap_or_default()
    }
}

/// The tag of a hash: never 0, which marks an empty way.
#[inline(always)]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn slot(n: u32) -> Slot {
        Slot::new(ConnId(n >> 1), if n & 1 == 0 { Side::Inbound } else { Side::Outbound })
    }

    /// A hash that leads to bucket `home` of `homes`, with `tag` in its low bits.
    fn hash(home: u64, homes: u64, tag: u16) -> u64 {
        let first = ((u128::from(home) << 64) / u128::from(homes)) as u64;
        (first + (1 << 16)) & !0xffff | u64::from(tag)
    }

    fn assert_empty(index: &Index) {
        assert!(index.buckets.iter().all(|b| b.overflow == 0 && b.tags == [0; WAYS]));
    }

    #[test]
    fn slots_carry_id_and_side() {
        for id in [0, 1, (1 << 31) - 2] {
            for side in [Side::Inbound, Side::Outbound] {
                let slot = Slot::new(ConnId(id), side);
                assert_eq!((slot.id(), slot.side()), (ConnId(id), side));
            }
        }
    }

    #[test]
    fn keys_of_one_home_fill_all_buckets_in_reach() {
        let mut index = Index::new(600);
        for home in [0, 40, 99] {
            let h = hash(home, 100, 7);
            let n = (WAYS * MAX_PROBE) as u32;
            assert!((0..n).all(|i| index.insert(h, slot(i))));
            assert!(!index.insert(h, slot(n)), "there is no room within reach");
            for i in 0..n {
                assert_eq!(index.find(h, |s| s == slot(i)), Some(slot(i)));
            }
            assert_eq!(index.find(h, |s| s == slot(n)), None);
            // From the front, so that keys further on stay reachable over gaps.
            for i in 0..n {
                assert!(index.remove(h, slot(i)));
                assert!(!index.remove(h, slot(i)), "it is gone");
                assert_eq!(index.find(h, |s| s == slot(n - 1)).is_some(), i < n - 1);
            }
            assert_empty(&index);
        }
    }

    #[test]
    fn a_hash_of_tag_zero_is_not_mistaken_for_an_empty_way() {
        let mut index = Index::new(6);
        assert_eq!(index.candidate(0), Slot::NONE);
        assert_eq!(index.find(0, |_| true), None);
        assert!(index.insert(0, slot(5)));
        assert_eq!(index.candidate(0), slot(5));
        assert_eq!(index.find(0, |_| true), Some(slot(5)));
        assert!(index.remove(0, slot(5)));
        assert_empty(&index);
    }

    #[test]
    fn every_hash_has_a_home() {
        for keys in [0, 1, 6, 7, 1000] {
            let index = Index::new(keys);
            for hash in [0, 1, 1 << 63, u64::MAX] {
                assert_eq!(index.probes(hash).len(), MAX_PROBE, "{keys} keys, hash {hash:#x}");
                index.prefetch(hash);
            }
        }
    }

    proptest! {
        /// Few homes and tags, so that keys overflow over each other's homes, share tags, and run out of room.
        #[test]
        fn behaves_like_a_multimap(ops in prop::collection::vec((0..3u64, 0..3u16, 0..600u32, 0..3u8), 1..1500)) {
            const HOMES: u64 = 3;
            let mut index = Index::new(HOMES as usize * LOAD);
            let mut model = HashMap::<u32, u64>::new();
            for (home, tag, key, op) in ops {
                let h = hash(home, HOMES, tag);
                match (op, model.get(&key).copied()) {
                    (0, Some(h)) => {
                        prop_assert!(index.remove(h, slot(key)));
                        model.remove(&key);
                    }
                    (0, None) => prop_assert!(!index.remove(h, slot(key))),
                    (_, None) => {
                        if index.insert(h, slot(key)) {
                            model.insert(key, h);
                        } else {
                            prop_assert!(model.len() >= WAYS * MAX_PROBE, "full with {} keys", model.len());
                        }
                    }
                    (_, Some(_)) => {}
                }
                let expected = model.get(&key).map(|_| slot(key));
                prop_assert_eq!(index.find(model.get(&key).copied().unwrap_or(h), |s| s == slot(key)), expected);
            }
            for (&key, &h) in &model {
                prop_assert_eq!(index.find(h, |s| s == slot(key)), Some(slot(key)));
            }
            for (key, h) in model {
                prop_assert!(index.remove(h, slot(key)));
            }
            assert_empty(&index);
        }
    }
}
