//! Loss, duplication and reordering, by sequence numbers within each flow.

/// How far back a packet may come and still be told from a duplicate.
const WINDOW: u32 = 64;

/// What is known of one flow.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The sequence number after the largest that came.
    next: u32,
    /// Bit `i`: number `next - 1 - i` came.
    window: u64,
}

/// Watches the packets of many flows arrive. Sequence numbers of a flow begin at 0 and grow by one.
#[derive(Debug)]
pub struct Arrivals {
    flows: Vec<Seen>,
    /// Packets that came for the first time.
    pub distinct: u64,
    /// Packets that came again. One that comes so late that it cannot be told counts as reordered.
    pub duplicated: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
}

impl Arrivals {
    /// For flows `0..flows`.
    pub fn new(flows: u32) -> Self {
        let flows = vec![Seen::default(); flows as usize];
        Self { flows, distinct: 0, duplicated: 0, reordered: 0 }
    }

    /// A packet came. False when there is no such flow.
    pub fn note(&mut self, flow: u32, sequence: u32) -> bool {
        let Some(seen) = self.flows.get_mut(flow as usize) else { return false };
        if sequence >= seen.next {
            let gap = sequence - seen.next;
            // The numbers left out may still come; those that do are reordered, those that do not are lost.
            seen.window = if gap < WINDOW - 1 { seen.window << (gap + 1) } else { 0 } | 1;
            seen.next = sequence + 1;
            self.distinct += 1;
            return true;
        }
        let age = seen.next - 1 - sequence;
        let bit = if age < WINDOW { 1 << age } else { 0 };
        if seen.window & bit != 0 {
            self.duplicated += 1;
        } else {
            seen.window |= bit;
            self.reordered += 1;
            self.distinct += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sequences: &[u32]) -> (u64, u64, u64) {
        let mut arrivals = Arrivals::new(2);
        for &sequence in sequences {
            assert!(arrivals.note(1, sequence));
        }
        (arrivals.distinct, arrivals.duplicated, arrivals.reordered)
    }

    #[test]
    fn in_order_is_clean_and_gaps_are_only_missing() {
        assert_eq!(counts(&[0, 1, 2, 3]), (4, 0, 0));
        assert_eq!(counts(&[0, 5, 200, 201]), (4, 0, 0));
    }

    #[test]
    fn what_comes_late_is_reordered_once_and_then_a_duplicate() {
        assert_eq!(counts(&[0, 2, 1, 3]), (4, 0, 1));
        assert_eq!(counts(&[0, 2, 1, 1, 3]), (4, 1, 1));
        assert_eq!(counts(&[63, 0, 0]), (2, 1, 1));
    }

    #[test]
    fn duplicates_are_found_at_the_front_and_within_the_window() {
        assert_eq!(counts(&[0, 0]), (1, 1, 0));
        let up_to_63: Vec<u32> = (0..64).chain([0, 31, 63]).collect();
        assert_eq!(counts(&up_to_63), (64, 3, 0));
    }

    #[test]
    fn a_jump_forgets_what_is_too_far_back() {
        assert_eq!(counts(&[0, 64, 0]), (3, 0, 1), "64 back: it cannot be told");
        assert_eq!(counts(&[1, 64, 1]), (2, 1, 0), "63 back: it can");
    }

    #[test]
    fn flows_are_apart_and_unknown_ones_are_refused() {
        let mut arrivals = Arrivals::new(2);
        assert!(arrivals.note(0, 0) && arrivals.note(1, 0) && !arrivals.note(2, 0));
        assert_eq!((arrivals.distinct, arrivals.duplicated), (2, 0));
    }
}
