//! Fragments of packets that are not complete yet: which there are, how long they wait, and who has to go when there is no
//! room.

use proto::Address;
use proto::fragment::Piece;

use crate::PortId;
use crate::conn::{TICKS_PER_SECOND, Tick};
use crate::verdict::DropReason;

/// Sets of places for packets. All packets of one source go to one set, so that who floods is in nobody's way but that of
/// the few who share it.
const SETS: usize = 64;
/// Packets of a set that can be incomplete at once.
const WAYS: usize = 16;
/// Fragments that can wait, all together. Packet buffers must be enough for as many.
pub const MAX_HELD: usize = 1024;
/// Fragments of a set that can wait.
const MAX_HELD_OF_SET: u16 = 256;
/// Fragments of one packet.
const MAX_PIECES: u16 = 128;
/// How long a packet may take to become complete (Linux: ipfrag_time).
const TIMEOUT_TICKS: u32 = 30 * TICKS_PER_SECOND;
/// Longest packet, so that offsets in its frame fit 16 bits.
pub const MAX_LEN: u32 = u16::MAX as u32 - proto::ethernet::HEADER_LEN as u32;

const NONE: u16 = u16::MAX;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    src: (u64, u64),
    dst: (u64, u64),
    id: u32,
    protocol: u8,
    is_v6: bool,
}

impl Key {
    /// The key of a fragment between these addresses.
    pub fn new<A: Address>(src: A, dst: A, piece: &Piece) -> Self {
        let protocol = piece.protocol.0;
        Self { src: src.words(), dst: dst.words(), id: piece.id, protocol, is_v6: A::LEN == 16 }
    }
}

/// A packet that is becoming complete.
#[derive(Clone, Debug)]
struct Gathering {
    key: Key,
    state: State,
    deadline: Tick,
    /// The fragments by their offsets.
    first: u16,
    last: u16,
    pieces: u16,
    /// Bytes of data that are there, and that there are in all, or `u32::MAX`.
    received: u32,
    total: u32,
    facts: Facts,
    /// By age.
    older: u16,
    newer: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Waiting,
    /// It is not to be put together; what still comes of it is dropped.
    Refused(DropReason),
}

/// What is known of a packet from all its fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Length in bytes of the largest fragment, an IP packet.
    pub largest: u16,
    /// The largest one that must not be fragmented.
    pub largest_unfragmentable: u16,
    /// Which of the four values the ECN field had, a bit each.
    pub ecn: u8,
    /// Bytes of data.
    pub data_len: u32,
}

/// A fragment that waits for the others.
#[derive(Debug)]
struct Held<P> {
    packet: Option<P>,
    ingress: PortId,
    offset: u32,
    end: u32,
    /// Where its data begins in the frame.
    data: u16,
    next: u16,
}

/// A fragment of a complete packet.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a, P> {
    /// The fragment.
    pub packet: &'a P,
    /// The port that it came in by.
    pub ingress: PortId,
    /// Where its data begins in the frame.
    pub data: usize,
    /// How many bytes of data there are.
    pub len: usize,
}

/// Where a fragment's data is in relation to what is there.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// It is new and comes behind this fragment.
    Behind(u16),
    /// All of it is there already.
    Known,
    /// Some of it is there already.
    Overlapping,
}

/// A complete packet in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete(u16);

/// All incomplete packets of one worker. Allocates when it is made, and then never again.
#[derive(Debug)]
pub struct Fragments<P> {
    gatherings: Box<[Gathering]>,
    held: Box<[Held<P>]>,
    held_of_set: [u16; SETS],
    free: u16,
    oldest: u16,
    newest: u16,
    waiting: usize,
}

impl<P> Fragments<P> {
    /// An empty table.
    pub fn new() -> Self {
        const { assert!(SETS * WAYS < NONE as usize) };
        const { assert!(MAX_HELD < NONE as usize) };
        let gathering = Gathering {
            key: Key::default(),
            state: State::Free,
            deadline: Tick(0),
            first: NONE,
            last: NONE,
            pieces: 0,
            received: 0,
            total: 0,
            facts: Facts::default(),
            older: NONE,
            newer: NONE,
        };
        let held = (1..=MAX_HELD as u16).map(|next| Held {
            packet: None,
            ingress: PortId(0),
            offset: 0,
            end: 0,
            data: 0,
            next: if usize::from(next) < MAX_HELD { next } else { NONE },
        });
        Self {
            gatherings: vec![gathering; SETS * WAYS].into_boxed_slice(),
            held: held.collect(),
            held_of_set: [0; SETS],
            free: 0,
            oldest: NONE,
            newest: NONE,
            waiting: 0,
        }
    }

    /// How many fragments wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Adds a fragment of `len` bytes, an IP packet that came in by `ingress`. `source` is a secret hash of where it comes
    /// from. Says which packet is complete by it, if one is: take its [`parts`](Self::parts), then
    /// [`release`](Self::release) it. Fragments that are not kept are counted by `drop`.
    #[allow(clippy::too_many_arguments)]
    pub fn add(
        &mut self,
        key: Key,
        source: u64,
        piece: &Piece,
        (packet, len, ingress): (P, u16, PortId),
        now: Tick,
        drop: &mut impl FnMut(DropReason, u64),
    ) -> Option<Complete> {
        let end = piece.offset + piece.len;
        // All but the last carry a multiple of 8 bytes, and no packet is longer than its length can say.
        if piece.len == 0 || (piece.more && !piece.len.is_multiple_of(8)) || end + u32::from(len) - piece.len > MAX_LEN
        {
            drop(DropReason::FragmentInvalid, 1);
            return None;
        }
        let set = (source >> 32) as usize % SETS;
        let at = self.find(set, &key).unwrap_or_else(|| self.open(set, key, now, drop));
        if let State::Refused(reason) = self.gatherings[usize::from(at)].state {
            drop(reason, 1);
            return None;
        }
        let place = match self.place(at, piece.offset, end) {
            Place::Known => {
                drop(DropReason::FragmentDuplicate, 1);
                return None;
            }
            // RFC 5722 and RFC 8200 section 4.5; Linux treats IPv4 alike since 2018.
            Place::Overlapping => {
                self.refuse(at, DropReason::FragmentOverlap, drop);
                return None;
            }
            Place::Behind(before) => before,
        };
        let gathering = &self.gatherings[usize::from(at)];
        let furthest = self.held.get(usize::from(gathering.last)).map_or(0, |last| last.end);
        let contradicts = match piece.more {
            true => end > gathering.total,
            false => furthest > end || (gathering.total != u32::MAX && gathering.total != end),
        };
        if contradicts {
            self.refuse(at, DropReason::FragmentOverlap, drop);
            return None;
        }
        if gathering.pieces == MAX_PIECES || !self.make_room(set, at, drop) {
            self.refuse(at, DropReason::FragmentLimit, drop);
            return None;
        }
        let held = Held { packet: Some(packet), ingress, offset: piece.offset, end, data: piece.data, next: NONE };
        self.insert(at, place, held);
        let gathering = &mut self.gatherings[usize::from(at)];
        gathering.received += piece.len;
        if !piece.more {
            gathering.total = end;
        }
        let facts = &mut gathering.facts;
        facts.largest = facts.largest.max(len);
        if piece.dont_fragment {
            facts.largest_unfragmentable = facts.largest_unfragmentable.max(len);
        }
        facts.ecn |= 1 << (piece.ecn & 3);
        (gathering.received == gathering.total).then_some(Complete(at))
    }

    /// What is known of a complete packet.
    pub fn facts(&self, Complete(at): Complete) -> Facts {
        let gathering = &self.gatherings[usize::from(at)];
        Facts { data_len: gathering.total, ..gathering.facts }
    }

    /// The fragments of a complete packet in their order.
    pub fn parts(&self, Complete(at): Complete) -> impl Iterator<Item = Part<'_, P>> {
        self.chain(at).filter_map(|held| {
            let packet = held.packet.as_ref()?;
            let (data, len) = (held.data.into(), (held.end - held.offset) as usize);
            Some(Part { packet, ingress: held.ingress, data, len })
        })
    }

    /// Forgets a complete packet and returns how many fragments it had.
    pub fn release(&mut self, Complete(at): Complete) -> u64 {
        self.remove(at)
    }

    /// Gives up the oldest packet if its time is over: hands its first fragment, if it came, to `on_timeout`. Returns false
    /// if there was none. Most calls find nothing to do.
    pub fn expire(
        &mut self,
        now: Tick,
        drop: &mut impl FnMut(DropReason, u64),
        on_timeout: impl FnOnce(P, PortId),
    ) -> bool {
        let at = self.oldest;
        let Some(gathering) = self.gatherings.get(usize::from(at)) else { return false };
        if gathering.deadline > now {
            return false;
        }
        if let Some(first) = self.held.get_mut(usize::from(gathering.first))
            && first.offset == 0
            && let Some(packet) = first.packet.take()
        {
            on_timeout(packet, first.ingress);
        }
        match self.remove(at) {
            0 => {}
            pieces => drop(DropReason::FragmentTimeout, pieces),
        }
        true
    }

    fn find(&self, set: usize, key: &Key) -> Option<u16> {
        let ways = &self.gatherings[set * WAYS..][..WAYS];
        let way = ways.iter().position(|way| way.state != State::Free && way.key == *key)?;
        Some((set * WAYS + way) as u16)
    }

    /// Begins a packet; the oldest of its set makes room for it.
    fn open(&mut self, set: usize, key: Key, now: Tick, drop: &mut impl FnMut(DropReason, u64)) -> u16 {
        let ways = &self.gatherings[set * WAYS..][..WAYS];
        let at = match ways.iter().position(|way| way.state == State::Free) {
            Some(way) => (set * WAYS + way) as u16,
            None => {
                let oldest = self.oldest_of(set, NONE).unwrap_or((set * WAYS) as u16);
                self.evict(oldest, drop);
                oldest
            }
        };
        let deadline = Tick(now.0.saturating_add(TIMEOUT_TICKS));
        let older = std::mem::replace(&mut self.newest, at);
        match self.gatherings.get_mut(usize::from(older)) {
            Some(older) => older.newer = at,
            None => self.oldest = at,
        }
        self.gatherings[usize::from(at)] = Gathering {
            key,
            state: State::Waiting,
            deadline,
            first: NONE,
            last: NONE,
            pieces: 0,
            received: 0,
            total: u32::MAX,
            facts: Facts::default(),
            older,
            newer: NONE,
        };
        at
    }

    /// The oldest packet of a set with fragments to give, apart from one.
    fn oldest_of(&self, set: usize, except: u16) -> Option<u16> {
        let ways = (set * WAYS) as u16..((set + 1) * WAYS) as u16;
        let candidates =
            ways.filter(|&at| at != except && (except == NONE || self.gatherings[usize::from(at)].pieces > 0));
        // Their deadlines are in the order of their ages.
        candidates.min_by_key(|&at| self.gatherings[usize::from(at)].deadline)
    }

    fn place(&self, at: u16, offset: u32, end: u32) -> Place {
        let gathering = &self.gatherings[usize::from(at)];
        // Fragments mostly come in order.
        match self.held.get(usize::from(gathering.last)) {
            Some(last) if last.end > offset => {}
            _ => return Place::Behind(gathering.last),
        }
        let (mut before, mut next) = (NONE, gathering.first);
        // How far the data is known, from its beginning on.
        let mut known = offset;
        let mut meets = false;
        while let Some(held) = self.held.get(usize::from(next))
            && held.offset < end
        {
            if held.end <= offset {
                before = next;
            } else {
                meets = true;
                if held.offset <= known {
                    known = held.end;
                }
            }
            next = held.next;
        }
        match meets {
            false => Place::Behind(before),
            true if known >= end => Place::Known,
            true => Place::Overlapping,
        }
    }

    /// Sees to it that another fragment of the packet `at` finds room; others of its set, or the oldest of all, have to go.
    fn make_room(&mut self, set: usize, at: u16, drop: &mut impl FnMut(DropReason, u64)) -> bool {
        while self.held_of_set[set] >= MAX_HELD_OF_SET {
            let Some(oldest) = self.oldest_of(set, at) else { return false };
            self.evict(oldest, drop);
        }
        while self.free == NONE {
            let oldest = if self.oldest == at { self.gatherings[usize::from(at)].newer } else { self.oldest };
            if oldest == NONE {
                return false;
            }
            self.evict(oldest, drop);
        }
        true
    }

    fn insert(&mut self, at: u16, before: u16, held: Held<P>) {
        let slot = self.free;
        let gathering = &mut self.gatherings[usize::from(at)];
        self.free = std::mem::replace(&mut self.held[usize::from(slot)], held).next;
        let next = match self.held.get_mut(usize::from(before)) {
            Some(before) => std::mem::replace(&mut before.next, slot),
            None => std::mem::replace(&mut gathering.first, slot),
        };
        self.held[usize::from(slot)].next = next;
        if next == NONE {
            gathering.last = slot;
        }
        gathering.pieces += 1;
        self.held_of_set[usize::from(at) / WAYS] += 1;
        self.waiting += 1;
    }

    /// Drops a packet's fragments and the one in hand, and goes on to drop what comes of it until its time is over.
    fn refuse(&mut self, at: u16, reason: DropReason, drop: &mut impl FnMut(DropReason, u64)) {
        drop(reason, 1 + self.drain(at));
        self.gatherings[usize::from(at)].state = State::Refused(reason);
    }

    fn evict(&mut self, at: u16, drop: &mut impl FnMut(DropReason, u64)) {
        match self.remove(at) {
            0 => {}
            pieces => drop(DropReason::FragmentLimit, pieces),
        }
    }

    /// Frees a packet's fragments and returns how many there were.
    fn drain(&mut self, at: u16) -> u64 {
        let gathering = &mut self.gatherings[usize::from(at)];
        let pieces = std::mem::take(&mut gathering.pieces);
        let mut next = std::mem::replace(&mut gathering.first, NONE);
        gathering.last = NONE;
        while let Some(held) = self.held.get_mut(usize::from(next)) {
            held.packet = None;
            let slot = next;
            next = std::mem::replace(&mut held.next, self.free);
            self.free = slot;
        }
        self.held_of_set[usize::from(at) / WAYS] -= pieces;
        self.waiting -= usize::from(pieces);
        pieces.into()
    }

    /// Frees a packet with its fragments and returns how many there were.
    fn remove(&mut self, at: u16) -> u64 {
        let pieces = self.drain(at);
        let gathering = &mut self.gatherings[usize::from(at)];
        gathering.state = State::Free;
        let (older, newer) = (gathering.older, gathering.newer);
        match self.gatherings.get_mut(usize::from(older)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.gatherings.get_mut(usize::from(newer)) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        pieces
    }

    fn chain(&self, at: u16) -> impl Iterator<Item = &Held<P>> {
        let first = self.held.get(usize::from(self.gatherings[usize::from(at)].first));
        std::iter::successors(first, |held| self.held.get(usize::from(held.next)))
    }
}
