//! The better of two random choices (ip_vs_twos.c): two servers are drawn by weight, and the one with the lower overhead
//! per weight is taken; a tie keeps the first.

use crate::Pool;
use crate::least::{available, overhead};

pub(crate) fn pick(random: &mut u64, pool: &impl Pool) -> Option<usize> {
    let total: u64 = available(pool).map(|server| u64::from(pool.weight(server))).sum();
    if total == 0 {
        return None;
    }
    let first = draw(random, total, pool)?;
    let second = draw(random, total, pool)?;
    let weight = |server| u64::from(pool.weight(server));
    let is_better = weight(second) * overhead(pool, first) > weight(first) * overhead(pool, second);
    Some(if is_better { second } else { first })
}

/// A server, each with a probability in proportion to its weight.
fn draw(random: &mut u64, total: u64, pool: &impl Pool) -> Option<usize> {
    let mut rest = next(random) % total;
    available(pool).find(|&server| {
        let weight = u64::from(pool.weight(server));
        let is_here = rest < weight;
        rest = rest.saturating_sub(weight);
        is_here
    })
}

/// Xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled"). Its upper half is the
/// better one.
fn next(random: &mut u64) -> u64 {
    // The generator stays at zero; a state that nobody seeded starts here.
    let mut x = if *random == 0 { 0x9e37_79b9_7f4a_7c15 } else { *random };
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *random = x;
    x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn draws_by_weight_while_nobody_has_connections() {
        let chosen = picks(Kind::Twos, &pool(&[6, 3, 1, 0]), 10_000);
        for (server, share) in [(0, 6000), (1, 3000), (2, 1000), (3, 0)] {
            let count = chosen.iter().filter(|&&c| c == Some(server)).count();
            assert!(count.abs_diff(share) < 300, "server {server}: {count} of {share}");
        }
    }

    #[test]
    fn prefers_the_less_loaded() {
        // Server 0 is taken only when both draws are for it: one time in four.
        let mut servers = pool(&[1, 1]);
        servers[0].active = 1;
        let chosen = picks(Kind::Twos, &servers, 10_000);
        let count = chosen.iter().filter(|&&c| c == Some(0)).count();
        assert!(count.abs_diff(2500) < 300, "{count}");
    }
}
