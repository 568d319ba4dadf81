//! The lazy timer wheel that ends connections.
//!
//! Three rings of slots: 256 of one tick, 64 of 256 ticks (32 s), 64 of 16384 ticks (34 min), as in G. Varghese, A. Lauck,
//! "Hashed and hierarchical timing wheels" (SOSP 1987). A slot is a doubly linked list through the entries themselves.
//! When time reaches a slot of an outer ring, its entries move inwards; at the innermost they end on the tick.
//!
//! A packet does not move its connection's timer; it only stores when it was seen ([`Timer::touch`]). When the slot's time
//! comes, an entry that has been seen since is queued again. So the wheel touches a connection about once per timeout
//! instead of once per packet. Only a deadline that a shorter timeout has made *earlier* moves the entry at once.

/// Ticks in a second: the resolution of connection timeouts is 125 ms.
pub const TICKS_PER_SECOND: u32 = 8;

/// Time since the worker started, in ticks of 125 ms; enough for 17 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick `seconds` later, or the last one there is.
    #[inline(always)]
    pub fn after(self, seconds: u32) -> Self {
        Tick(self.0.saturating_add(seconds.saturating_mul(TICKS_PER_SECOND)))
    }

    /// Seconds from `earlier` to this tick, rounded up; 0 if it is not later.
    pub fn seconds_since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0).div_ceil(TICKS_PER_SECOND)
    }
}

/// No entry.
const NONE: u32 = u32::MAX;
/// In `prev`: the entry is the first of its list, and the other bits are the number of the wheel's slot.
const FIRST: u32 = 1 << 31;

/// A connection's timer, part of its entry. A new one is idle: the table arms it when the connection is inserted.
#[derive(Clone, Debug)]
pub struct Timer {
    last_seen: Tick,
    /// In seconds.
    timeout: u32,
    /// The deadline by which the entry is queued; the true one, `last_seen` + `timeout`, is never earlier.
    armed: Tick,
    /// The entry before this one, or `FIRST` and the slot, or `NONE` when the timer is not in the wheel.
    prev: u32,
    /// The entry behind this one, or `NONE`.
    next: u32,
}

impl Default for Timer {
    fn default() -> Self {
        Self { last_seen: Tick(0), timeout: 0, armed: Tick(0), prev: NONE, next: NONE }
    }
}

impl Timer {
    /// When the connection ends unless it is seen again.
    #[inline(always)]
    pub fn deadline(&self) -> Tick {
        self.last_seen.after(self.timeout)
    }

    /// Seconds until the deadline, rounded up; 0 when it has passed.
    pub fn seconds_left(&self, now: Tick) -> u32 {
        self.deadline().seconds_since(now)
    }

    /// When the connection last had a packet.
    pub fn last_seen(&self) -> Tick {
        self.last_seen
    }

    /// Seconds that the connection may be idle.
    pub fn timeout(&self) -> u32 {
        self.timeout
    }

    /// Notes that the connection is alive. Nothing else is needed until the wheel asks.
    #[inline(always)]
    pub(super) fn touch(&mut self, now: Tick) {
        self.last_seen = now;
    }

    #[inline(always)]
    pub(super) fn is_armed(&self) -> bool {
        self.prev != NONE
    }

    /// An idle timer that carries `next`, for a list of free entries.
    pub(super) fn idle(next: Option<u32>) -> Self {
        Self { next: next.unwrap_or(NONE), ..Self::default() }
    }

    /// What [`idle`](Self::idle) was given; for an armed timer, the entry behind it in the wheel.
    #[inline(always)]
    pub(super) fn next(&self) -> Option<u32> {
        Some(self.next).filter(|&next| next != NONE)
    }
}

/// An entry with a timer. Entries are known to the wheel by their index, which must be below 2^31.
pub(super) trait Timed {
    fn timer(&self) -> &Timer;
    fn timer_mut(&mut self) -> &mut Timer;
}

/// log2 of the slots of the innermost ring, one tick each.
const INNER_BITS: u32 = 8;
/// log2 of the slots of the other two rings.
const OUTER_BITS: u32 = 6;
const INNER: u32 = 1 << INNER_BITS;
const OUTER: u32 = 1 << OUTER_BITS;
/// log2 of a slot's ticks, by ring.
const SHIFT: [u32; 3] = [0, INNER_BITS, INNER_BITS + OUTER_BITS];
/// Number of the first slot, by ring.
const BASE: [u32; 3] = [0, INNER, INNER + OUTER];
const SLOTS: usize = (INNER + 2 * OUTER) as usize;

/// Ticks that one call passes at most; more than two hours, so it bounds the work after a long stall only.
const MAX_TICKS: u32 = 1 << 16;

/// The wheel. The entries belong to the caller and are handed in with each call.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The first tick that is not finished: its slots may still hold entries.
    current: Tick,
    /// The first entry of each slot's list, or `NONE`.
    first: Box<[u32; SLOTS]>,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self { current: now, first: Box::new([NONE; SLOTS]) }
    }

    /// Puts an idle entry into the wheel.
    pub(super) fn arm<T: Timed>(&mut self, entries: &mut [T], id: u32, timeout: u32, now: Tick) {
        let timer = entries[id as usize].timer_mut();
        timer.last_seen = now;
        timer.timeout = timeout;
        self.link(entries, id);
    }

    /// Touches an armed entry and gives it a new timeout in seconds.
    #[inline]
    pub(super) fn set_timeout<T: Timed>(&mut self, entries: &mut [T], id: u32, timeout: u32, now: Tick) {
        let timer = entries[id as usize].timer_mut();
        timer.last_seen = now;
        timer.timeout = timeout;
        if timer.deadline() < timer.armed {
            self.unlink(entries, id);
            self.link(entries, id);
        }
    }

    /// Takes an armed entry out of the wheel.
    pub(super) fn disarm<T: Timed>(&mut self, entries: &mut [T], id: u32) {
        self.unlink(entries, id);
    }

    /// How far one turn towards `now` may go: all the way, except after a stall of hours.
    pub(super) fn reach(&self, now: Tick) -> Tick {
        now.min(Tick(self.current.0.saturating_add(MAX_TICKS)))
    }

    /// Goes on towards `until` until an entry is due; that entry is taken out of the wheel and returned.
    ///
    /// Each entry it looks at, due or queued again, takes one off `budget`; at 0 it stops and goes on at that place with
    /// the next call. `None`: the budget is spent, or `until` is finished.
    #[inline]
    pub(super) fn next_due<T: Timed>(&mut self, entries: &mut [T], until: Tick, budget: &mut usize) -> Option<u32> {
        while self.current <= until {
            // Outer rings first: what moves inwards may be due on this very tick.
            for ring in [2, 1, 0] {
                if self.current.0 & ((1 << SHIFT[ring]) - 1) != 0 {
                    continue;
                }
                let slot = slot_of(ring, self.current);
                while let Some(id) = self.head(slot) {
                    if *budget == 0 {
                        return None;
                    }
                    *budget -= 1;
                    self.unlink(entries, id);
                    if entries[id as usize].timer().deadline() <= self.current {
                        return Some(id);
                    }
                    self.link(entries, id);
                }
            }
            self.current.0 += 1;
        }
        None
    }

    /// How many ticks the wheel is behind `now`; 0 when every entry whose time has come was dealt with.
    pub(super) fn lag(&self, now: Tick) -> u32 {
        (now.0 + 1).saturating_sub(self.current.0)
    }

    fn head(&self, slot: u32) -> Option<u32> {
        Some(self.first[slot as usize]).filter(|&id| id != NONE)
    }

    /// Queues an entry by its deadline. Where that is beyond the last ring's horizon, the last slot looks at it again.
    #[inline]
    fn link<T: Timed>(&mut self, entries: &mut [T], id: u32) {
        let deadline = entries[id as usize].timer().deadline();
        let (slot, armed) = self.place(deadline);
        let next = std::mem::replace(&mut self.first[slot as usize], id);
        if next != NONE {
            entries[next as usize].timer_mut().prev = id;
        }
        let timer = entries[id as usize].timer_mut();
        timer.armed = armed;
        timer.prev = FIRST | slot;
        timer.next = next;
    }

    #[inline]
    fn unlink<T: Timed>(&mut self, entries: &mut [T], id: u32) {
        let timer = entries[id as usize].timer_mut();
        let (prev, next) = (timer.prev, timer.next);
        timer.prev = NONE;
        timer.next = NONE;
        if next != NONE {
            entries[next as usize].timer_mut().prev = prev;
        }
        if prev & FIRST == 0 {
            entries[prev as usize].timer_mut().next = next;
        } else if prev != NONE {
            self.first[(prev & !FIRST) as usize] = next;
        }
    }

    /// The slot for a deadline, and the deadline as far as the wheel reaches.
    fn place(&self, deadline: Tick) -> (u32, Tick) {
        // A deadline in the past is due at once: the current tick's slot has not been finished yet.
        let deadline = deadline.max(self.current);
        if deadline.0 - self.current.0 < INNER {
            return (slot_of(0, deadline), deadline);
        }
        for ring in [1, 2] {
            // Not the slot of the current tick itself: that one is being emptied or was.
            if (deadline.0 >> SHIFT[ring]) - (self.current.0 >> SHIFT[ring]) < OUTER {
                return (slot_of(ring, deadline), deadline);
            }
        }
        let horizon = Tick(((self.current.0 >> SHIFT[2]) + OUTER - 1) << SHIFT[2]);
        (slot_of(2, horizon), horizon)
    }
}

/// The number of the slot of a ring that covers `tick`.
#[inline(always)]
fn slot_of(ring: usize, tick: Tick) -> u32 {
    let mask = if ring == 0 { INNER - 1 } else { OUTER - 1 };
    BASE[ring] + (tick.0 >> SHIFT[ring] & mask)
}
