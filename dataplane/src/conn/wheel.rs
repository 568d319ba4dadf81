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

    /// Puts an idle entry into the wheel. A timeout of 0 ends it within a tick.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Timed for Timer {
        fn timer(&self) -> &Timer {
            self
        }

        fn timer_mut(&mut self) -> &mut Timer {
            self
        }
    }

    const HOUR: u32 = 3600;

    struct Lab {
        wheel: Wheel,
        timers: Vec<Timer>,
        now: Tick,
    }

    impl Lab {
        fn new(timers: usize, now: Tick) -> Self {
            Self { wheel: Wheel::new(now), timers: vec![Timer::default(); timers], now }
        }

        fn arm(&mut self, id: u32, timeout: u32) {
            self.wheel.arm(&mut self.timers, id, timeout, self.now);
        }

        fn set_timeout(&mut self, id: u32, timeout: u32) {
            self.wheel.set_timeout(&mut self.timers, id, timeout, self.now);
        }

        /// One call as the table makes it: what ended, and how many entries were looked at.
        fn turn(&mut self, budget: usize) -> (Vec<u32>, usize) {
            let until = self.wheel.reach(self.now);
            let mut left = budget;
            let ended =
                std::iter::from_fn(|| self.wheel.next_due(&mut self.timers, until, &mut left)).collect::<Vec<_>>();
            for &id in &ended {
                assert!(self.timers[id as usize].deadline() <= self.now, "{id} ended early");
                assert!(!self.timers[id as usize].is_armed());
            }
            (ended, budget - left)
        }

        /// The tick at which the only armed timer ends, when time advances by `step` ticks a call, until `last`.
        fn ends_at(&mut self, step: u32, last: Tick) -> Option<Tick> {
            while self.now <= last {
                let (ended, _) = self.turn(usize::MAX);
                if !ended.is_empty() {
                    assert_eq!(ended, [0]);
                    return Some(self.now);
                }
                self.now.0 += step;
            }
            None
        }
    }

    #[test]
    fn timers_end_on_the_tick() {
        for start in [0, 1, 255, 256, 257, 16_383, 16_384, 1 << 20, (1 << 20) - 1] {
            for timeout in [0, 1, 2, 31, 32, 33, 60, 300, 900, 2015, 2047, 2048, 2049, 4096, 10 * HOUR] {
                let mut lab = Lab::new(1, Tick(start));
                lab.arm(0, timeout);
                let deadline = Tick(start + timeout * TICKS_PER_SECOND);
                assert_eq!(lab.timers[0].seconds_left(lab.now), timeout);
                assert_eq!(lab.ends_at(1, Tick(u32::MAX - 1)), Some(deadline), "start {start}, timeout {timeout} s");
                assert_eq!(lab.timers[0].seconds_left(lab.now), 0);
                // This tick is finished: what is due at once is due with the next one.
                lab.arm(0, 0);
                assert_eq!(lab.ends_at(1, Tick(u32::MAX - 1)), Some(Tick(deadline.0 + 1)));
            }
        }
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_kept() {
        for start in [0, 12_345] {
            for timeout in [35 * HOUR, 36 * HOUR, 37 * HOUR, 100 * HOUR] {
                let mut lab = Lab::new(1, Tick(start));
                lab.arm(0, timeout);
                let ends = lab.ends_at(1, Tick(u32::MAX - 1));
                assert_eq!(ends, Some(Tick(start + timeout * TICKS_PER_SECOND)), "timeout {timeout} s");
            }
        }
        let mut lab = Lab::new(1, Tick(7));
        lab.arm(0, u32::MAX);
        assert_eq!(lab.ends_at(64, Tick(300 * HOUR * TICKS_PER_SECOND)), None, "the longest timeout is forever");
        assert!(lab.timers[0].is_armed());
    }

    #[test]
    fn seconds_left_are_rounded_up() {
        let mut lab = Lab::new(1, Tick(100));
        lab.arm(0, 10);
        for (now, left) in [(100, 10), (101, 10), (107, 10), (108, 9), (179, 1), (180, 0), (500, 0)] {
            assert_eq!(lab.timers[0].seconds_left(Tick(now)), left, "at tick {now}");
        }
    }

    #[test]
    fn traffic_costs_no_work_in_the_wheel() {
        let mut lab = Lab::new(1, Tick(0));
        lab.arm(0, 300);
        let mut visits = 0;
        while lab.now < Tick(HOUR * TICKS_PER_SECOND) {
            let before = lab.timers[0].armed;
            lab.timers[0].touch(lab.now);
            assert_eq!(lab.timers[0].armed, before);
            let (ended, visited) = lab.turn(usize::MAX);
            assert!(ended.is_empty(), "{ended:?}");
            visits += visited;
            lab.now.0 += 1;
        }
        // 28800 packets in twelve timeouts: about one visit on an outer ring and one on the inner ring each.
        assert!((12..=30).contains(&visits), "{visits} visits");
        lab.timers[0].touch(lab.now);
        let last_seen = lab.now;
        assert_eq!(lab.ends_at(1, Tick(u32::MAX - 1)), Some(last_seen.after(300)));
    }

    #[test]
    fn a_shorter_timeout_takes_effect_at_once_and_a_longer_one_when_asked() {
        let mut lab = Lab::new(1, Tick(1000));
        lab.arm(0, 900);
        lab.now = Tick(2000);
        lab.set_timeout(0, 10);
        assert_eq!(lab.timers[0].armed, Tick(2080));
        lab.set_timeout(0, 120);
        assert_eq!(lab.timers[0].armed, Tick(2080), "a later deadline does not move the entry");
        assert_eq!(lab.ends_at(1, Tick(9000)), Some(Tick(2960)));
    }

    #[test]
    fn a_slot_being_emptied_takes_no_entry_back() {
        // In the very call that empties a slot, the entry's deadline has become one turn of the ring later.
        for (first, turn) in [(64, 2048), (4096, 131_072)] {
            let mut lab = Lab::new(1, Tick(0));
            lab.arm(0, first);
            lab.now = Tick(first * TICKS_PER_SECOND);
            lab.set_timeout(0, turn);
            while lab.wheel.lag(lab.now) > 0 {
                assert_eq!(lab.turn(10), (vec![], 1), "looked at once");
            }
            assert_eq!(lab.ends_at(1, Tick(u32::MAX - 1)), Some(Tick((first + turn) * TICKS_PER_SECOND)));
        }
    }

    #[test]
    fn a_budget_bounds_a_call_and_the_next_one_goes_on() {
        let mut lab = Lab::new(1000, Tick(0));
        for id in 0..1000 {
            lab.arm(id, if id < 700 { 60 } else { 30 });
        }
        // The first 700 wait on an outer ring; half of them are seen at 50 s.
        lab.now = Tick(50 * TICKS_PER_SECOND);
        for id in 0..350 {
            lab.timers[id].touch(lab.now);
        }
        lab.now = Tick(61 * TICKS_PER_SECOND);
        let (mut ended, mut calls) = (0, 0);
        while lab.wheel.lag(lab.now) > 0 {
            let (now_ended, visited) = lab.turn(10);
            assert!(visited <= 10 && now_ended.len() <= visited);
            ended += now_ended.len();
            calls += 1;
        }
        assert_eq!(ended, 650);
        // 300 of the inner ring and 700 moving inwards, of which 350 end on the way or later.
        assert!((100..=136).contains(&calls), "{calls} calls");
        assert_eq!(lab.turn(10), (vec![], 0), "nothing is left to do");
    }

    #[test]
    fn a_stall_of_hours_is_caught_up_in_bounded_calls() {
        let mut lab = Lab::new(3, Tick(0));
        lab.arm(0, 1);
        lab.arm(1, 5 * HOUR);
        lab.arm(2, 50 * HOUR);
        lab.now = Tick(20 * HOUR * TICKS_PER_SECOND);
        let mut ended = Vec::new();
        let mut calls = 0;
        while lab.wheel.lag(lab.now) > 0 {
            let before = lab.wheel.current;
            ended.extend(lab.turn(usize::MAX).0);
            assert!(lab.wheel.current.0 - before.0 <= MAX_TICKS + 1);
            calls += 1;
        }
        assert_eq!(ended, [0, 1]);
        assert_eq!(calls, 9);
        lab.arm(0, 2);
        assert_eq!(lab.ends_at(1, Tick(u32::MAX - 1)), Some(Tick((20 * HOUR + 2) * TICKS_PER_SECOND)));
    }

    #[test]
    fn entries_leave_from_anywhere_in_a_list() {
        for gone in 0..5 {
            let mut lab = Lab::new(5, Tick(0));
            (0..5).for_each(|id| lab.arm(id, 10));
            lab.wheel.disarm(&mut lab.timers, gone);
            assert!(!lab.timers[gone as usize].is_armed());
            lab.now = Tick(80);
            let (mut ended, _) = lab.turn(usize::MAX);
            ended.sort_unstable();
            assert_eq!(ended, (0..5).filter(|&id| id != gone).collect::<Vec<_>>());
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Arm { id: u32, timeout: u32 },
        Touch { id: u32 },
        SetTimeout { id: u32, timeout: u32 },
        Disarm { id: u32 },
        Advance { ticks: u32, budget: usize },
    }

    fn ops() -> impl Strategy<Value = Op> {
        let id = 0..12u32;
        let timeout = prop_oneof![1..40u32, 25..2100u32, 2000..200_000u32];
        let ticks = prop_oneof![4 => 0..4u32, 2 => 0..600u32, 1 => 0..70_000u32];
        let budget = prop_oneof![Just(usize::MAX), 0..4usize];
        prop_oneof![
            3 => (id.clone(), timeout.clone()).prop_map(|(id, timeout)| Op::Arm { id, timeout }),
            2 => id.clone().prop_map(|id| Op::Touch { id }),
            3 => (id.clone(), timeout).prop_map(|(id, timeout)| Op::SetTimeout { id, timeout }),
            1 => id.prop_map(|id| Op::Disarm { id }),
            4 => (ticks, budget).prop_map(|(ticks, budget)| Op::Advance { ticks, budget }),
        ]
    }

    proptest! {
        /// Never early; and whenever the wheel says that it is not behind, nothing is late.
        #[test]
        fn agrees_with_a_list_of_deadlines(
            start in prop_oneof![0..600u32, 16_000..17_000u32, 1_040_000..1_060_000u32],
            ops in prop::collection::vec(ops(), 1..200),
        ) {
            let mut lab = Lab::new(12, Tick(start));
            let mut deadlines = BTreeMap::<u32, Tick>::new();
            for op in ops {
                match op {
                    Op::Arm { id, timeout } if !deadlines.contains_key(&id) => {
                        lab.arm(id, timeout);
                        deadlines.insert(id, lab.now.after(timeout));
                    }
                    Op::Touch { id } if deadlines.contains_key(&id) => {
                        lab.timers[id as usize].touch(lab.now);
                        let timeout = lab.timers[id as usize].timeout();
                        deadlines.insert(id, lab.now.after(timeout));
                    }
                    Op::SetTimeout { id, timeout } if deadlines.contains_key(&id) => {
                        lab.set_timeout(id, timeout);
                        deadlines.insert(id, lab.now.after(timeout));
                    }
                    Op::Disarm { id } if deadlines.contains_key(&id) => {
                        lab.wheel.disarm(&mut lab.timers, id);
                        deadlines.remove(&id);
                    }
                    Op::Advance { ticks, budget } => {
                        lab.now.0 += ticks;
                        for id in lab.turn(budget).0 {
                            let deadline = deadlines.remove(&id);
                            prop_assert!(deadline.is_some_and(|d| d <= lab.now), "{id} of {deadline:?}, now {:?}", lab.now);
                        }
                        if lab.wheel.lag(lab.now) == 0 {
                            let late = deadlines.iter().find(|&(_, &d)| d <= lab.now);
                            prop_assert_eq!(late, None, "late at {:?}", lab.now);
                        }
                    }
                    _ => {}
                }
            }
            let armed: Vec<u32> = (0..12).filter(|&id| lab.timers[id as usize].is_armed()).collect();
            prop_assert_eq!(armed, deadlines.into_keys().collect::<Vec<_>>());
        }
    }
}
