//! The connection table of one worker and address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use proto::{Address, Protocol, Tuple};

use super::extra::{Announced, Extra, Extras};
use super::far::{FarEnd, FarIndex};
use super::hash::TupleHasher;
use super::index::{Index, Slot};
use super::wheel::{Tick, Timer, Wheel};
use super::{Conn, ConnFlags, ConnId, ConnRecord, Side};
use crate::templates::TemplateId;

/// Why a connection could not be inserted. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The table has as many connections as it can hold.
    #[error("the connection table is full")]
    Full,
    /// One of the connection's tuples belongs to a connection already, or its two tuples are the same.
    #[error("the connection's inbound or outbound tuple is taken")]
    Exists,
}

/// The entry that a hash most likely leads to.
#[derive(Clone, Copy, Debug)]
pub struct Candidate(Slot);

impl Candidate {
    /// No entry.
    pub const NONE: Self = Self(Slot::NONE);
}

/// What a free entry has in place of TCP or UDP.
const FREE: Protocol = Protocol(0);

/// Packets of a client that are counted.
const COUNTED: u8 = 9;
/// Seconds after which a connection that controls others is looked at again (ip_vs_conn.c, ip_vs_conn_expire).
const HELD_S: u32 = 60;

/// Connections whose removal is overlapped in memory while they expire.
const EXPIRE_BATCH: usize = 16;

/// Connections of one worker, found by either direction's tuple.
///
/// All memory is allocated by [`new`](Self::new), in huge pages where the kernel has them: for IPv4 about 85 bytes per
/// connection, for IPv6 150. Make the table on the worker's own thread, so that it lies in the memory next to its core.
/// No operation allocates, and each takes bounded time. Connections that the director sees replies of are indexed by
/// both tuples, the others by the inbound one.
///
/// To look up a burst, go over all its packets in each of three steps, so that their cache misses overlap:
/// [`hash`](Self::hash) and [`prefetch_bucket`](Self::prefetch_bucket); [`prefetch_entry`](Self::prefetch_entry);
/// [`get_by`](Self::get_by), and [`find`](Self::find) if that fails. An id is good until its connection is removed or
/// ends, and is then used again at once: do the third step right before the packet is processed, not for the whole burst
/// ahead.
#[derive(Debug)]
pub struct ConnTable<A> {
    hasher: TupleHasher,
    index: Index,
    wheel: Wheel,
    /// Grows to `capacity`, for which it has room from the start. An entry is live while its timer is armed.
    entries: Vec<Conn<A>>,
    extras: Extras,
    far: FarIndex,
    /// By entry: packets that were counted, up to [`COUNTED`]. Untouched until something is counted.
    packets: Vec<u8>,
    /// By [`ConnId`]: the template that is held for a connection with the flag for it. Untouched until it is needed.
    templates: Vec<u32>,
    capacity: usize,
    live: usize,
    /// The first free entry below `entries.len()`; the others follow in its timer.
    free: Option<u32>,
}

impl<A: Address> ConnTable<A> {
    /// A table for `capacity` connections, below 2^31. `seed` keys the hash: draw it from the system's random source.
    /// `now` is the time that the first connections will be inserted at.
    ///
    /// # Panics
    /// If `capacity` is too large, or the memory cannot be had.
    pub fn new(capacity: usize, seed: [u64; 2], now: Tick) -> Self {
        assert!(capacity < 1 << 31, "connection table: a capacity of {capacity} is beyond the maximum of 2^31 - 1");
        let mut entries = Vec::with_capacity(capacity);
        hw::populate(entries.spare_capacity_mut());
        Self {
            hasher: TupleHasher::new(seed),
            index: Index::new(2 * capacity),
            wheel: Wheel::new(now),
            entries,
            extras: Extras::new(capacity),
            far: FarIndex::new(capacity),
            packets: vec![0; capacity],
            templates: vec![0; capacity],
            capacity,
            live: 0,
            free: None,
        }
    }

    /// The hash by which a tuple is looked up.
    #[inline(always)]
    pub fn hash(&self, tuple: &Tuple<A>) -> u64 {
        self.hasher.hash(tuple)
    }

    /// First step of a lookup: loads the index's cache line for this hash.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second step: loads the entry that this hash most likely leads to, and says which.
    #[inline(always)]
    pub fn prefetch_entry(&self, hash: u64) -> Candidate {
        let candidate = Candidate(self.index.candidate(hash));
        if let Some((conn, _)) = self.candidate(candidate) {
            hw::prefetch(conn);
            if size_of::<Conn<A>>() > 64 {
                hw::prefetch(&conn.timer);
            }
        }
        candidate
    }

    /// The entry that [`prefetch_entry`](Self::prefetch_entry) loads, and the side that the packet then comes from.
    #[inline(always)]
    pub fn candidate(&self, Candidate(slot): Candidate) -> Option<(&Conn<A>, Side)> {
        self.entries.get(slot.id().0 as usize).map(|conn| (conn, slot.side()))
    }

    /// Third step: the connection that packets with this tuple belong to, nearly always the candidate, and the side they
    /// come from. `hash` must be the tuple's. Does not see connections that are newer than the candidate.
    #[inline(always)]
    pub fn get_by(&mut self, candidate: Candidate, hash: u64, tuple: &Tuple<A>) -> Option<(&mut Conn<A>, Side)> {
        let Candidate(slot) = candidate;
        let slot = match self.is_at(slot, tuple) {
            true => slot,
            false if slot == Slot::NONE => return None,
            false => self.find_beyond(hash, tuple)?,
        };
        Some((self.entries.get_mut(slot.id().0 as usize)?, slot.side()))
    }

    /// One key in 80 is not in its home bucket, and two may share a tag there.
    #[cold]
    #[inline(never)]
    fn find_beyond(&self, hash: u64, tuple: &Tuple<A>) -> Option<Slot> {
        self.index.find(hash, |slot| self.is_at(slot, tuple))
    }

    #[inline(always)]
    fn is_at(&self, slot: Slot, tuple: &Tuple<A>) -> bool {
        self.entries.get(slot.id().0 as usize).is_some_and(|conn| conn.has_tuple(slot.side(), tuple))
    }

    /// The connection that packets with this tuple belong to, and the side they come from. `hash` must be the tuple's.
    #[inline(always)]
    pub fn find(&self, hash: u64, tuple: &Tuple<A>) -> Option<(ConnId, Side)> {
        self.index.find(hash, |slot| self.is_at(slot, tuple)).map(|slot| (slot.id(), slot.side()))
    }

    /// The connection that replies with this tuple belong to, whose server is of the other IP version than the table.
    #[inline(always)]
    pub fn find_far<B: Address>(&self, tuple: &Tuple<B>) -> Option<ConnId> {
        if self.far.is_empty() { None } else { self.find_in_far(tuple) }
    }

    #[cold]
    #[inline(never)]
    fn find_in_far<B: Address>(&self, tuple: &Tuple<B>) -> Option<ConnId> {
        let is_it = |id| self.far(id).and_then(|far| far.outbound(self.get(id))).is_some_and(|own| own == *tuple);
        self.far.find(self.hasher.hash(tuple), is_it)
    }

    /// The server's side of a connection whose server is of the other IP version.
    pub fn far(&self, id: ConnId) -> Option<FarEnd> {
        self.extra(id).and_then(|extra| extra.far)
    }

    /// How many connections have an extra.
    #[cfg(test)]
    pub(super) fn extras_len(&self) -> usize {
        self.extras.len()
    }

    /// True when a connection has this tuple.
    #[cfg(test)]
    pub(super) fn contains(&self, tuple: &Tuple<A>) -> bool {
        self.find(self.hash(tuple), tuple).is_some()
    }

    /// A connection. `id` must come from this table.
    #[inline(always)]
    pub fn get(&self, id: ConnId) -> &Conn<A> {
        &self.entries[id.0 as usize]
    }

    /// A connection, to be changed. Its addresses, ports, protocol and mode must stay as they are.
    #[inline(always)]
    pub fn get_mut(&mut self, id: ConnId) -> &mut Conn<A> {
        &mut self.entries[id.0 as usize]
    }

    /// The template that is held for a connection.
    pub fn template(&self, id: ConnId) -> Option<TemplateId> {
        let is_controlled = self.get(id).flags.contains(ConnFlags::CONTROLLED);
        is_controlled.then(|| TemplateId(self.templates[id.0 as usize]))
    }

    /// Notes that a template is held for a connection.
    pub fn set_template(&mut self, id: ConnId, template: TemplateId) {
        self.get_mut(id).flags.insert(ConnFlags::CONTROLLED);
        self.templates[id.0 as usize] = template.0;
    }

    /// The connection's extra, if it has one.
    pub fn extra(&self, id: ConnId) -> Option<&Extra> {
        let has_extra = self.get(id).flags.contains(ConnFlags::EXTRA);
        if has_extra { self.extras.get(id) } else { None }
    }

    /// The connection's extra, to be changed, if it has one.
    pub fn extra_mut(&mut self, id: ConnId) -> Option<&mut Extra> {
        let has_extra = self.get(id).flags.contains(ConnFlags::EXTRA);
        if has_extra { self.extras.get_mut(id) } else { None }
    }

    /// The connection's extra; it gets a new one if it has none. `id` must be one of a connection that is in the table:
    /// the extra ends with it.
    pub fn add_extra(&mut self, id: ConnId) -> &mut Extra {
        self.get_mut(id).flags.insert(ConnFlags::EXTRA);
        self.extras.get_or_add(id)
    }

    /// From now on, packets of the connection's client are counted. `id` must be one of a connection that is in the table.
    pub fn begin_counting(&mut self, id: ConnId) {
        self.get_mut(id).flags.insert(ConnFlags::COUNTING);
        self.packets[id.0 as usize] = 0;
    }

    /// Counts a packet if packets are counted, and stops after the ninth: more is of no interest.
    #[inline(always)]
    pub fn count_packet(&mut self, id: ConnId) {
        let conn = &mut self.entries[id.0 as usize];
        if conn.flags.contains(ConnFlags::COUNTING) {
            let packets = &mut self.packets[id.0 as usize];
            *packets += 1;
            if *packets == COUNTED {
                conn.flags.remove(ConnFlags::COUNTING);
            }
        }
    }

    /// How many packets were counted; `None` if it is more than eight or was not counted.
    pub fn packets(&self, id: ConnId) -> Option<u8> {
        self.get(id).flags.contains(ConnFlags::COUNTING).then_some(self.packets[id.0 as usize])
    }

    /// How many entries there are, free ones included; an id below this may be that of a connection.
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// The connection in an entry, if there is one.
    pub fn live(&self, id: ConnId) -> Option<&Conn<A>> {
        self.entries.get(id.0 as usize).filter(|conn| conn.timer.is_armed())
    }

    /// Loads an entry.
    pub fn prefetch_slot(&self, id: ConnId) {
        if let Some(conn) = self.entries.get(id.0 as usize) {
            hw::prefetch(conn);
        }
    }

    /// True when the connection controls others.
    pub fn is_controller(&self, id: ConnId) -> bool {
        self.extra(id).is_some_and(|extra| extra.controls > 0)
    }

    /// What an announced connection that ended since has left behind; to be asked for until there is no more.
    pub fn pop_ended(&mut self) -> Option<Announced> {
        self.extras.pop_ended()
    }

    /// Adds a connection that ends once it was idle for `timeout_s` seconds. On an error nothing has changed.
    pub fn insert(&mut self, mut conn: Conn<A>, timeout_s: u32, now: Tick) -> Result<ConnId, InsertError> {
        conn.flags.remove(ConnFlags::EXTRA | ConnFlags::COUNTING | ConnFlags::FAR);
        self.insert_entry(conn, timeout_s, now)
    }

    /// [Adds](Self::insert) a connection whose server is of the other IP version. It is found by its inbound tuple and by
    /// [`find_far`](Self::find_far), and ends as one.
    pub fn insert_far(
        &mut self,
        mut conn: Conn<A>,
        far: FarEnd,
        timeout_s: u32,
        now: Tick,
    ) -> Result<ConnId, InsertError> {
        let is_taken = match far.server {
            IpAddr::V4(_) => far.outbound::<Ipv4Addr, A>(&conn).is_none_or(|tuple| self.find_far(&tuple).is_some()),
            IpAddr::V6(_) => far.outbound::<Ipv6Addr, A>(&conn).is_none_or(|tuple| self.find_far(&tuple).is_some()),
        };
        if is_taken {
            return Err(InsertError::Exists);
        }
        conn.flags.remove(ConnFlags::EXTRA | ConnFlags::COUNTING);
        conn.flags.insert(ConnFlags::FAR);
        let id = self.insert_entry(conn, timeout_s, now)?;
        self.add_extra(id).far = Some(far);
        self.far.insert(&self.hasher, id, &self.entries[id.0 as usize], &far);
        Ok(id)
    }

    #[inline(never)]
    fn insert_entry(&mut self, conn: Conn<A>, timeout_s: u32, now: Tick) -> Result<ConnId, InsertError> {
        // All the cache lines that are needed, at once.
        let (inbound_hash, outbound_hash) = self.prefetched_hashes(&conn);
        let id = self.free.unwrap_or(self.entries.len() as u32);
        if let Some(entry) = self.entries.get(id as usize) {
            hw::prefetch(&entry.timer);
        }

        let inbound = conn.inbound();
        if self.find(inbound_hash, &inbound).is_some() {
            return Err(InsertError::Exists);
        }
        if let Some(hash) = outbound_hash {
            let outbound = conn.outbound();
            // With equal tuples nobody could tell the client's packets from the server's.
            if outbound == inbound || self.find(hash, &outbound).is_some() {
                return Err(InsertError::Exists);
            }
        }
        if id as usize >= self.capacity {
            return Err(InsertError::Full);
        }
        if !self.index.insert(inbound_hash, Slot::new(ConnId(id), Side::Inbound)) {
            return Err(InsertError::Full);
        }
        if let Some(hash) = outbound_hash
            && !self.index.insert(hash, Slot::new(ConnId(id), Side::Outbound))
        {
            self.index.remove(inbound_hash, Slot::new(ConnId(id), Side::Inbound));
            return Err(InsertError::Full);
        }

        match self.entries.get_mut(id as usize) {
            Some(entry) => {
                self.free = entry.timer.next();
                *entry = conn;
            }
            None => self.entries.push(conn),
        }
        self.entries[id as usize].timer = Timer::default();
        self.wheel.arm(&mut self.entries, id, timeout_s, now);
        self.live += 1;
        Ok(ConnId(id))
    }

    /// [Touches](Conn::touch) a connection; from now on its timeout is `timeout_s` seconds.
    #[inline]
    pub fn set_timeout(&mut self, id: ConnId, timeout_s: u32, now: Tick) {
        self.wheel.set_timeout(&mut self.entries, id.0, timeout_s, now);
    }

    /// Takes a connection out. `id` must be one of a connection that is in the table.
    pub fn remove(&mut self, id: ConnId) -> Conn<A> {
        let mut conn = self.get(id).clone();
        debug_assert!(conn.timer.is_armed(), "removal of a connection that is not in the table");
        if conn.timer.is_armed() {
            let (inbound, outbound) = self.prefetched_hashes(&conn);
            self.wheel.disarm(&mut self.entries, id.0);
            self.release(id, inbound, outbound);
        }
        conn.timer = Timer::default();
        conn
    }

    /// Ends connections whose time has come and that control no others, after handing each to `on_end` with its id and the template
    /// that is held for it, and returns how many.
    ///
    /// At most `budget` entries are visited, those included that live on because they were seen since; the next call
    /// goes on where this one stopped. To be called between bursts: most calls find nothing to do.
    pub fn expire(
        &mut self,
        now: Tick,
        budget: usize,
        mut on_end: impl FnMut(ConnId, &Conn<A>, Option<TemplateId>),
    ) -> usize {
        let until = self.wheel.reach(now);
        let mut budget = budget;
        let mut ended = 0;
        loop {
            let mut due = ArrayVec::<_, EXPIRE_BATCH>::new();
            while !due.is_full()
                && let Some(id) = self.wheel.next_due(&mut self.entries, until, &mut budget)
            {
                if self.is_controller(ConnId(id)) {
                    self.wheel.arm(&mut self.entries, id, HELD_S, now);
                    continue;
                }
                let (inbound, outbound) = self.prefetched_hashes(&self.entries[id as usize]);
                due.push((ConnId(id), inbound, outbound));
            }
            if due.is_empty() {
                return ended;
            }
            ended += due.len();
            for (id, inbound, outbound) in due {
                on_end(id, self.get(id), self.template(id));
                self.release(id, inbound, outbound);
            }
        }
    }

    /// Ticks by which [`expire`](Self::expire) is behind `now`; 0 when every connection whose time has come has ended.
    pub fn expiry_lag(&self, now: Tick) -> u32 {
        self.wheel.lag(now)
    }

    /// Number of connections.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    /// True when there is no connection.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Number of connections that fit.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Memory of the table in bytes, without that of extras and of connections across IP versions, which is used as needed.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Conn<A>>() + self.index.memory_bytes() + size_of::<Self>()
    }

    /// Appends connections to `out`, from `cursor` on, until its capacity is reached or `slots` entries, free ones
    /// included, have been visited. As many that come next are on their way into the cache when it returns.
    ///
    /// Begin with cursor 0 and go on with the value returned until that is `None`. Connections may come and go
    /// meanwhile: one that is there from the first call to the last appears once.
    pub fn dump(&self, cursor: u64, out: &mut Vec<ConnRecord>, slots: usize, now: Tick) -> Option<u64> {
        let from = usize::try_from(cursor).map_or(self.entries.len(), |cursor| cursor.min(self.entries.len()));
        let (slice, rest) = self.entries[from..].split_at(slots.min(self.entries.len() - from));
        for (i, conn) in slice.iter().enumerate().filter(|(_, conn)| conn.timer.is_armed()) {
            if out.len() == out.capacity() {
                return Some((from + i) as u64);
            }
            let mut record = conn.record(now);
            if let Some(far) = self.far(ConnId((from + i) as u32)) {
                (record.server.0, record.local.0) = (far.server, far.local);
            }
            out.push(record);
        }
        rest.iter().take(slots).for_each(hw::prefetch);
        (!rest.is_empty()).then_some((from + slice.len()) as u64)
    }

    /// The hashes of the tuples that a connection is indexed by; their buckets are on the way into the cache.
    #[inline(always)]
    fn prefetched_hashes(&self, conn: &Conn<A>) -> (u64, Option<u64>) {
        let inbound = self.hash(&conn.inbound());
        self.index.prefetch(inbound);
        let is_near = conn.mode.sees_replies() && !conn.flags.contains(ConnFlags::FAR);
        let outbound = is_near.then(|| self.hash(&conn.outbound()));
        if let Some(outbound) = outbound {
            self.index.prefetch(outbound);
        }
        (inbound, outbound)
    }

    /// Takes an entry that has left the wheel out of the index and puts it on the free list.
    #[inline(always)]
    fn release(&mut self, id: ConnId, inbound: u64, outbound: Option<u64>) {
        let mut removed = self.index.remove(inbound, Slot::new(id, Side::Inbound));
        if let Some(outbound) = outbound {
            removed &= self.index.remove(outbound, Slot::new(id, Side::Outbound));
        }
        debug_assert!(removed, "the connection's tuples were changed while it was in the table");
        if self.get(id).flags.contains(ConnFlags::EXTRA) {
            self.release_extra(id);
        }
        let entry = &mut self.entries[id.0 as usize];
        entry.timer = Timer::idle(self.free);
        // No packet has this protocol: whoever still holds the entry as a candidate finds that it is not the one.
        entry.protocol = FREE;
        self.free = Some(id.0);
        self.live -= 1;
    }

    #[cold]
    #[inline(never)]
    fn release_extra(&mut self, id: ConnId) {
        if let Some(far) = self.far(id) {
            self.far.remove(&self.hasher, id, &self.entries[id.0 as usize], &far);
        }
        self.extras.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::tests::nth;

    #[test]
    fn a_connection_whose_second_key_finds_no_room_leaves_no_first_one() {
        let mut undone = 0;
        for n in 0..20 {
            let mut table = ConnTable::<Ipv4Addr>::new(300, [1, 2], Tick(0));
            let conn = nth(n);
            let (inbound, outbound) = (table.hash(&conn.inbound()), table.hash(&conn.outbound()));
            // Entries that do not exist crowd the outbound tuple's part of the index.
            let strangers = (1000..).take_while(|&i| table.index.insert(outbound, Slot::new(ConnId(i), Side::Inbound)));
            assert!(strangers.count() > 0);
            let slot = Slot::new(ConnId(0), Side::Inbound);
            if table.index.insert(inbound, slot) {
                table.index.remove(inbound, slot);
                undone += 1;
            }
            assert_eq!(table.insert(conn.clone(), 60, Tick(0)), Err(InsertError::Full));
            assert!(table.is_empty() && !table.index.remove(inbound, slot), "connection {n}");
        }
        assert!(undone > 0, "the first key had room at least once");
    }
}
