//! Which flow comes next.

/// Which flow the next packet belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// Each of `flows` flows equally often, at random.
    Uniform {
        /// Number of flows.
        flows: u32,
    },
    /// The flow of rank `k` of `flows` in proportion to `1 / k`, at random.
    Zipf {
        /// Number of flows.
        flows: u32,
    },
    /// One after the other, until `end`.
    Sequence {
        /// The next flow.
        next: u32,
        /// The first that does not come any more.
        end: u32,
    },
}

impl Pick {
    /// How many of the next `n` packets there are.
    pub fn available(&self, n: usize) -> usize {
        match *self {
            Pick::Sequence { next, end } => n.min((end - next) as usize),
            _ => n,
        }
    }

    /// The next flow.
    #[inline(always)]
    pub fn next(&mut self, random: &mut u64) -> u32 {
        match self {
            Pick::Uniform { flows } => scale(xorshift(random), *flows),
            Pick::Zipf { flows } => {
                // The inverse of the distribution function ln(k) / ln(flows).
                let uniform = (xorshift(random) >> 11) as f64 / (1u64 << 53) as f64;
                let rank = (uniform * f64::from(*flows).log2()).exp2() as u64;
                // Frequent flows are not neighbours in the table.
                scale(rank.wrapping_mul(0x9e37_79b9_7f4a_7c15), *flows)
            }
            Pick::Sequence { next, .. } => {
                *next += 1;
                *next - 1
            }
        }
    }
}

/// xorshift64 (G. Marsaglia, "Xorshift RNGs", 2003).
#[inline(always)]
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Scales the high half of a random word to `0..n`.
#[inline(always)]
fn scale(random: u64, n: u32) -> u32 {
    (((random >> 32) * u64::from(n)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(mut pick: Pick, flows: usize, packets: usize) -> Vec<usize> {
        let mut random = 0x1234_5678_9abc_def1;
        let mut seen = vec![0; flows];
        for _ in 0..packets {
            seen[pick.next(&mut random) as usize] += 1;
        }
        seen
    }

    #[test]
    fn uniform_flows_come_equally_often() {
        let seen = histogram(Pick::Uniform { flows: 100 }, 100, 1_000_000);
        // Six standard deviations of about 100.
        assert!(seen.iter().all(|n| n.abs_diff(10_000) < 600), "{seen:?}");
    }

    #[test]
    fn zipf_flows_come_in_proportion_to_their_rank() {
        let mut seen = histogram(Pick::Zipf { flows: 1 << 16 }, 1 << 16, 1_000_000);
        seen.sort_unstable_by(|a, b| b.cmp(a));
        // Rank 1 has ln 2 / ln 65536 of all packets, rank 2 has ln 1.5 / ln 65536.
        assert!(seen[0].abs_diff(62_500) < 2_000 && seen[1].abs_diff(36_560) < 2_000, "{:?}", &seen[..4]);
    }

    #[test]
    fn a_sequence_ends() {
        let mut pick = Pick::Sequence { next: 7, end: 10 };
        assert_eq!(pick.available(64), 3);
        assert_eq!([0; 3].map(|_| pick.next(&mut 1)), [7, 8, 9]);
        assert_eq!(pick.available(64), 0);
    }
}
