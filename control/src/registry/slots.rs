//! Indices of services and servers in the workers' counter arrays.

use std::collections::VecDeque;

/// Hands out indices below a limit. Those never used come first, then the one freed longest ago, so that an index
/// rests as long as possible before it means something else.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    next: u32,
    limit: u32,
    free: VecDeque<u32>,
}

impl Slots {
    pub fn new(limit: usize) -> Self {
        Self { next: 0, limit: u32::try_from(limit).unwrap_or(u32::MAX), free: VecDeque::new() }
    }

    /// How many can be taken.
    pub fn available(&self) -> usize {
        (self.limit - self.next) as usize + self.free.len()
    }

    pub fn take(&mut self) -> Option<u32> {
        if self.next < self.limit {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.free.pop_front()
    }

    /// Gives back an index that was taken.
    pub fn give(&mut self, slot: u32) {
        debug_assert!(slot < self.next && !self.free.contains(&slot), "slot {slot} was not taken");
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_slots_come_first_then_the_longest_free() {
        let mut slots = Slots::new(3);
        assert_eq!((slots.take(), slots.take()), (Some(0), Some(1)));
        slots.give(1);
        slots.give(0);
        assert_eq!(slots.available(), 3);
        let rest: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(rest, [2, 1, 0]);
        assert_eq!((slots.take(), slots.available()), (None, 0));
    }
}
