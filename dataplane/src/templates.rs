//! Persistence templates: which server a client's next connections go to.
//!
//! All workers share one table, because a client's next connection comes from another port and so to another worker. Its
//! size is fixed at start. There is no lock: a template is found and held without one, and two workers that open a
//! client's first two connections at the same moment agree on one server.
//!
//! How that works: a key belongs to one bucket of [`WAYS`] entries, and a bucket has one word that says which of its
//! entries are in use, with a number that changes whenever that does. Who adds a template looks for its key in the
//! bucket, fills in an entry that nobody uses, and then changes the word, which fails if the bucket has changed since; so
//! no key is there twice. A connection holds its template by a count in the entry's state. A template ends by one
//! exchange of its state, which fails if somebody holds it; the state's generation tells an entry's users apart.
//!
//! Timeouts are those of IPVS (ip_vs_conn.c): each new connection starts the timeout anew; when it is over while there
//! are connections, the template gets another minute, and from then on minutes are what new connections give it.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

use crossbeam::queue::ArrayQueue;
use proto::{Protocol, sip};

use crate::ServerId;
use crate::conn::{TICKS_PER_SECOND, Tick};
use crate::snapshot::ForwardMode;

/// Entries in a bucket; on average half of them are used when the table is full.
const WAYS: usize = 32;
/// What a template with connections gets when its time is over, in seconds (ip_vs_conn_expire).
const EXTENSION: u32 = 60;
/// An insertion is tried again when another one or an expiry changed the bucket meanwhile; so often that it cannot fail.
const ATTEMPTS: usize = 1000;

// The state of an entry: below these bits the count of those who hold it, above them its generation.
const CONTROLS: u64 = (1 << 24) - 1;
const ASSURED: u64 = 1 << 24;
const INVALID: u64 = 1 << 25;
const CLOSED: u64 = 1 << 26;
const IN_USE: u64 = 1 << 27;
const GENERATION: u64 = 1 << 32;

/// What a template is found by.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Protocol of its connections; 0 for a firewall mark's.
    pub protocol: Protocol,
    /// The client's address or network.
    pub client: IpAddr,
    /// The virtual address, or the mark in its place.
    pub vaddr: IpAddr,
    /// The virtual port; 0 for all.
    pub vport: u16,
    /// Call-ID, at most [`sip::MAX_CALL_ID`] bytes.
    pub call_id: Option<&'a [u8]>,
}

/// Place of a template that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateId(pub u32);

/// Where a template's connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub server: ServerId,
    /// Its address.
    pub daddr: IpAddr,
    /// Its port; 0: that of the packet.
    pub dport: u16,
    /// How it is reached; for listings.
    pub mode: ForwardMode,
}

/// What became of an insertion. Either way the template is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New(TemplateId),
    /// There was one, whose server counts.
    Found(TemplateId, ServerId),
}

/// A template in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRecord {
    /// Protocol of its connections; 0 for a firewall mark's.
    pub protocol: Protocol,
    /// The client's address or network.
    pub client: IpAddr,
    /// The virtual address and port.
    pub virt: (IpAddr, u16),
    /// The server's address and port.
    pub server: (IpAddr, u16),
    /// How it is reached.
    pub mode: ForwardMode,
    /// True when a connection of its was established.
    pub assured: bool,
    /// Seconds until it ends.
    pub expires: u32,
    /// Call-ID.
    pub call_id: Option<Vec<u8>>,
}

/// The table.
#[derive(Debug)]
pub struct Templates {
    buckets: Box<[Bucket]>,
    entries: Box<[Entry]>,
    call_ids: Box<[CallId]>,
    free_call_ids: ArrayQueue<u32>,
    seed: [u64; 2],
    capacity: u32,
    len: AtomicU32,
    /// The time as the first worker knows it, for listings.
    now: AtomicU32,
}

#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    /// A bit for each entry in use; above them the number of changes.
    word: AtomicU64,
    /// Part of the hash of each entry's key.
    tags: [AtomicU8; WAYS],
}

#[derive(Debug, Default)]
struct Entry {
    state: AtomicU64,
    client: [AtomicU64; 2],
    vaddr: [AtomicU64; 2],
    daddr: [AtomicU64; 2],
    /// Virtual port, protocol, and whether there is a Call-ID.
    rest: AtomicU64,
    server: AtomicU32,
    /// Tick at which the time is over.
    expires: AtomicU32,
    /// Seconds.
    timeout: AtomicU32,
    /// Place of the Call-ID.
    call_id: AtomicU32,
    dport: AtomicU16,
    mode: AtomicU8,
}

/// Length and bytes of a Call-ID.
type CallId = [AtomicU64; 1 + sip::MAX_CALL_ID.div_ceil(8)];

/// One worker's part in ending templates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    next: usize,
    began: Tick,
}

impl Templates {
    /// A table for `capacity` templates, of which `call_ids` can be by Call-ID. `seed` keys the hash: draw it from the
    /// system's random source.
    pub fn new(capacity: usize, call_ids: usize, seed: [u64; 2]) -> Self {
        fn filled<T>(n: usize, new: impl Fn() -> T) -> Box<[T]> {
            let mut items = Vec::with_capacity(n);
            hw::populate(items.spare_capacity_mut());
            items.resize_with(n, new);
            items.into_boxed_slice()
        }
        let buckets = (2 * capacity).div_ceil(WAYS).next_power_of_two();
        let free_call_ids = ArrayQueue::new(call_ids.max(1));
        for place in 0..call_ids as u32 {
            // The queue has room for exactly this many.
            let _ = free_call_ids.push(place);
        }
        Self {
            buckets: filled(buckets, || Bucket { word: AtomicU64::new(0), tags: Default::default() }),
            entries: filled(buckets * WAYS, Entry::default),
            call_ids: (0..call_ids).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect(),
            free_call_ids,
            seed,
            capacity: capacity as u32,
            len: AtomicU32::new(0),
            now: AtomicU32::new(0),
        }
    }

    /// How many templates there are.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there can be.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Finds a template that is in force, and holds it.
    pub fn find(&self, key: &Key<'_>, now: Tick) -> Option<(TemplateId, ServerId)> {
        if self.is_empty() {
            return None;
        }
        let (bucket, tag) = self.place(key);
        self.find_in(bucket, self.buckets[bucket].word.load(Acquire), tag, key, now)
    }

    /// Adds a template that ends after `timeout` seconds, unless there is one with this key; `None` if there is no room.
    pub fn insert(&self, key: &Key<'_>, target: Target, timeout: u32, now: Tick) -> Option<Inserted> {
        let (bucket, tag) = self.place(key);
        for _ in 0..ATTEMPTS {
            let word = self.buckets[bucket].word.load(Acquire);
            if let Some((id, server)) = self.find_in(bucket, word, tag, key, now) {
                return Some(Inserted::Found(id, server));
            }
            if self.len.load(Relaxed) >= self.capacity {
                return None;
            }
            let (way, state) = self.claim(bucket, word)?;
            let entry = self.entry(bucket, way);
            if !self.fill(entry, key, target, timeout, now) {
                entry.state.store(state & !(GENERATION - 1), Release);
                return None;
            }
            self.buckets[bucket].tags[way].store(tag, Relaxed);
            entry.state.store((state & !(GENERATION - 1)) | IN_USE | 1, Release);
            let with_it = (word | 1 << way).wrapping_add(1 << WAYS);
            if self.buckets[bucket].word.compare_exchange(word, with_it, AcqRel, Relaxed).is_ok() {
                self.len.fetch_add(1, Relaxed);
                return Some(Inserted::New(TemplateId((bucket * WAYS + way) as u32)));
            }
            self.free_call_id(entry);
            entry.state.store(state & !(GENERATION - 1), Release);
        }
        None
    }

    /// Starts the time of a template that is held anew.
    pub fn restart(&self, TemplateId(id): TemplateId, now: Tick) {
        let entry = &self.entries[id as usize];
        let timeout = entry.timeout.load(Relaxed);
        entry.expires.store(now.0.saturating_add(timeout.saturating_mul(TICKS_PER_SECOND)), Relaxed);
    }

    /// Notes that a connection of the template was established.
    pub fn assure(&self, TemplateId(id): TemplateId) {
        let state = &self.entries[id as usize].state;
        // Workers share the entry: write only what is new.
        if state.load(Relaxed) & ASSURED == 0 {
            state.fetch_or(ASSURED, Relaxed);
        }
    }

    /// Takes a template out of force whose server is gone; it is still listed until its time is over.
    pub fn invalidate(&self, TemplateId(id): TemplateId) {
        self.entries[id as usize].state.fetch_or(INVALID, Relaxed);
    }

    /// Ends the hold of a connection.
    pub fn release(&self, TemplateId(id): TemplateId) {
        self.entries[id as usize].state.fetch_sub(1, Release);
    }

    /// Ends templates whose time is over, a bounded number for each call; worker number `worker` of `workers` looks after
    /// its part of the table only. To be called in every turn. `on_end` gets the server of each.
    pub fn sweep(
        &self,
        sweep: &mut Sweep,
        (worker, workers): (usize, usize),
        now: Tick,
        mut on_end: impl FnMut(ServerId),
    ) {
        const BUCKETS: usize = 4;
        const PERIOD: u32 = TICKS_PER_SECOND / 2;
        if worker == 0 && self.now.load(Relaxed) != now.0 {
            self.now.store(now.0, Relaxed);
        }
        let part = worker * self.buckets.len() / workers..(worker + 1) * self.buckets.len() / workers;
        if !part.contains(&sweep.next) {
            if self.is_empty() || now.0.wrapping_sub(sweep.began.0) < PERIOD {
                return;
            }
            *sweep = Sweep { next: part.start, began: now };
        }
        let end = (sweep.next + BUCKETS).min(part.end);
        for bucket in sweep.next..end {
            let word = self.buckets[bucket].word.load(Acquire);
            for way in ways(word) {
                let state = self.entry(bucket, way).state.load(Acquire);
                if let Some(server) = self.end_if_due(bucket, way, state, now) {
                    on_end(server);
                }
            }
        }
        sweep.next = if end == part.end { usize::MAX } else { end };
    }

    /// Appends templates to `out`, from entry `cursor` on, until it has `limit` elements. Returns where to go on; `None`
    /// at the end.
    pub fn dump(&self, cursor: u64, out: &mut Vec<TemplateRecord>, limit: usize) -> Option<u64> {
        let now = self.now.load(Relaxed);
        let mut place = usize::try_from(cursor).unwrap_or(usize::MAX);
        while place < self.entries.len() {
            if out.len() >= limit {
                return Some(place as u64);
            }
            let (bucket, way) = (place / WAYS, place % WAYS);
            let live = self.buckets[bucket].word.load(Acquire) & ((1 << WAYS) - 1);
            match live >> way {
                0 => place = (bucket + 1) * WAYS,
                rest if rest & 1 == 0 => place += rest.trailing_zeros() as usize,
                _ => {
                    out.extend(self.record(self.entry(bucket, way), now));
                    place += 1;
                }
            }
        }
        None
    }

    fn record(&self, entry: &Entry, now: u32) -> Option<TemplateRecord> {
        let state = entry.state.load(Acquire);
        let rest = entry.rest.load(Relaxed);
        let is_valid = state & INVALID == 0;
        let expires = entry.expires.load(Relaxed);
        let left = match expires.checked_sub(now) {
            Some(left) => left,
            None if state & CONTROLS == 0 => return None,
            None => EXTENSION * TICKS_PER_SECOND,
        };
        let record = TemplateRecord {
            protocol: Protocol((rest >> 16) as u8),
            client: address(&entry.client),
            virt: (address(&entry.vaddr), if is_valid { rest as u16 } else { u16::MAX }),
            server: (address(&entry.daddr), if is_valid { entry.dport.load(Relaxed) } else { u16::MAX }),
            mode: mode(entry.mode.load(Relaxed)),
            assured: state & ASSURED != 0,
            expires: left / TICKS_PER_SECOND,
            call_id: (rest & HAS_CALL_ID != 0).then(|| self.call_id(entry)),
        };
        fence(Acquire);
        let after = entry.state.load(Relaxed);
        let is_same = after / GENERATION == state / GENERATION && after & (IN_USE | CLOSED) == IN_USE;
        is_same.then_some(record)
    }

    fn entry(&self, bucket: usize, way: usize) -> &Entry {
        &self.entries[bucket * WAYS + way]
    }

    fn place(&self, key: &Key<'_>) -> (usize, u8) {
        let [client_high, client_low] = words(key.client);
        let [virt_high, virt_low] = words(key.vaddr);
        let mut hash = self.seed[1];
        let call_id = key.call_id.unwrap_or_default();
        let text = call_id.chunks(8).map(word);
        for word in [client_high, client_low, virt_high, virt_low, key.rest()].into_iter().chain(text) {
            hash = fold(hash ^ word, self.seed[0] | 1) ^ hash.rotate_left(23);
        }
        let hash = fold(hash, 0x9e37_79b9_7f4a_7c15);
        (hash as usize & (self.buckets.len() - 1), (hash >> 56) as u8)
    }

    /// Finds a key among the entries that `word` names, and holds it. One whose time is over ends now.
    fn find_in(&self, bucket: usize, word: u64, tag: u8, key: &Key<'_>, now: Tick) -> Option<(TemplateId, ServerId)> {
        for way in ways(word) {
            if self.buckets[bucket].tags[way].load(Relaxed) != tag {
                continue;
            }
            let entry = self.entry(bucket, way);
            let mut state = entry.state.load(Acquire);
            if state & INVALID != 0 || !self.has_key(entry, key) {
                continue;
            }
            let server = ServerId(entry.server.load(Relaxed));
            let generation = state / GENERATION;
            loop {
                let is_same = state / GENERATION == generation && state & (IN_USE | CLOSED | INVALID) == IN_USE;
                if !is_same {
                    break;
                }
                if now.0 >= entry.expires.load(Relaxed) {
                    if state & CONTROLS == 0 {
                        break;
                    }
                    entry.timeout.store(EXTENSION, Relaxed);
                }
                // What was read of the entry belongs to this generation if that is still the same.
                fence(Acquire);
                match entry.state.compare_exchange_weak(state, state + 1, AcqRel, Acquire) {
                    Ok(_) => return Some((TemplateId((bucket * WAYS + way) as u32), server)),
                    Err(changed) => state = changed,
                }
            }
        }
        None
    }

    fn has_key(&self, entry: &Entry, key: &Key<'_>) -> bool {
        let is = |place: &[AtomicU64; 2], address| {
            let [high, low] = words(address);
            place[0].load(Relaxed) == high && place[1].load(Relaxed) == low
        };
        entry.rest.load(Relaxed) == key.rest()
            && is(&entry.client, key.client)
            && is(&entry.vaddr, key.vaddr)
            && key.call_id.is_none_or(|call_id| {
                let Some(place) = self.call_ids.get(entry.call_id.load(Relaxed) as usize) else { return false };
                place[0].load(Relaxed) == call_id.len() as u64
                    && call_id.chunks(8).zip(&place[1..]).all(|(bytes, place)| place.load(Relaxed) == word(bytes))
            })
    }

    /// Takes an entry that nobody uses for a new template; returns its state.
    fn claim(&self, bucket: usize, word: u64) -> Option<(usize, u64)> {
        let is_free = |way: &usize| word & (1 << way) == 0;
        (0..WAYS).filter(is_free).find_map(|way| {
            let state = &self.entry(bucket, way).state;
            let before = state.load(Relaxed);
            if !before.is_multiple_of(GENERATION) {
                return None;
            }
            let claimed = before.wrapping_add(GENERATION) | IN_USE | CLOSED;
            state.compare_exchange(before, claimed, AcqRel, Relaxed).ok()?;
            // Whoever reads what is written from now on sees the new generation.
            fence(Release);
            Some((way, claimed))
        })
    }

    /// Writes a claimed entry; false if there is no place for the Call-ID.
    fn fill(&self, entry: &Entry, key: &Key<'_>, target: Target, timeout: u32, now: Tick) -> bool {
        if let Some(call_id) = key.call_id {
            let Some(place) = self.free_call_ids.pop() else { return false };
            entry.call_id.store(place, Relaxed);
            let place = &self.call_ids[place as usize];
            place[0].store(call_id.len() as u64, Relaxed);
            for (place, bytes) in place[1..].iter().zip(call_id.chunks(8)) {
                place.store(word(bytes), Relaxed);
            }
        }
        for (place, address) in [(&entry.client, key.client), (&entry.vaddr, key.vaddr), (&entry.daddr, target.daddr)] {
            for (place, word) in place.iter().zip(words(address)) {
                place.store(word, Relaxed);
            }
        }
        entry.rest.store(key.rest(), Relaxed);
        entry.server.store(target.server.0, Relaxed);
        entry.dport.store(target.dport, Relaxed);
        entry.mode.store(target.mode as u8, Relaxed);
        entry.timeout.store(timeout, Relaxed);
        entry.expires.store(now.0.saturating_add(timeout.saturating_mul(TICKS_PER_SECOND)), Relaxed);
        true
    }

    /// Ends a template in `state` if its time is over and nobody holds it; returns its server.
    fn end_if_due(&self, bucket: usize, way: usize, state: u64, now: Tick) -> Option<ServerId> {
        let entry = self.entry(bucket, way);
        let expires = entry.expires.load(Relaxed);
        if now.0 < expires || state & (IN_USE | CLOSED) != IN_USE {
            return None;
        }
        if state & CONTROLS > 0 {
            entry.timeout.store(EXTENSION, Relaxed);
            // Unless somebody starts it anew at this moment.
            let later = expires.saturating_add(EXTENSION * TICKS_PER_SECOND);
            let _ = entry.expires.compare_exchange(expires, later, Relaxed, Relaxed);
            return None;
        }
        entry.state.compare_exchange(state, state | CLOSED, AcqRel, Relaxed).ok()?;
        let server = ServerId(entry.server.load(Relaxed));
        let bits = &self.buckets[bucket].word;
        let without = |word: u64| Some((word & !(1 << way)).wrapping_add(1 << WAYS));
        let _ = bits.fetch_update(AcqRel, Relaxed, without);
        self.free_call_id(entry);
        entry.state.store(state & !(GENERATION - 1), Release);
        self.len.fetch_sub(1, Relaxed);
        Some(server)
    }

    fn free_call_id(&self, entry: &Entry) {
        if entry.rest.load(Relaxed) & HAS_CALL_ID != 0 {
            // There is room: it came from there.
            let _ = self.free_call_ids.push(entry.call_id.load(Relaxed));
        }
    }

    fn call_id(&self, entry: &Entry) -> Vec<u8> {
        let Some(place) = self.call_ids.get(entry.call_id.load(Relaxed) as usize) else { return Vec::new() };
        let mut bytes: Vec<u8> = place[1..].iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(place[0].load(Relaxed) as usize);
        bytes
    }
}

const HAS_CALL_ID: u64 = 1 << 24;

impl Key<'_> {
    fn rest(&self) -> u64 {
        let has_call_id = if self.call_id.is_some() { HAS_CALL_ID } else { 0 };
        u64::from(self.vport) | u64::from(self.protocol.0) << 16 | has_call_id
    }
}

fn mode(number: u8) -> ForwardMode {
    use ForwardMode::{DirectRouting, FullNat, Nat, Tunnel};
    [Nat, FullNat, DirectRouting].into_iter().find(|mode| *mode as u8 == number).unwrap_or(Tunnel)
}

/// The entries that a bucket's word names.
fn ways(word: u64) -> impl Iterator<Item = usize> {
    let mut left = word & ((1 << WAYS) - 1);
    std::iter::from_fn(move || {
        let way = left.trailing_zeros() as usize;
        left &= left.checked_sub(1)?;
        Some(way)
    })
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Up to eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// An address in two words; IPv4 addresses are mapped into IPv6.
fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn address(words: &[AtomicU64; 2]) -> IpAddr {
    let [high, low] = words.each_ref().map(|word| u128::from(word.load(Relaxed)));
    IpAddr::V6((high << 64 | low).into()).to_canonical()
}

#[cfg(test)]
mod tests;
