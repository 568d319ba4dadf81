//! Weighted least connection (ip_vs_wlc.c): the least overhead per weight, where overhead is
//! `active * 256 + inactive`; a tie keeps the earlier server.

use crate::Pool;

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    let mut least = None;
    // Infinite. Products fit 64 bits: a director has less than 2^37 connections (2^31 for each of 64 workers), and a
    // weight has 16 bits.
    let (mut least_overhead, mut least_weight) = (1, 0);
    for server in 0..pool.len() {
        if !pool.is_available(server) {
            continue;
        }
        let overhead = (pool.active(server) << 8) + pool.inactive(server);
        let weight = u64::from(pool.weight(server));
        // overhead / weight < least_overhead / least_weight, without the division.
        if overhead * least_weight < least_overhead * weight {
            (least, least_overhead, least_weight) = (Some(server), overhead, weight);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn least_overhead_per_weight() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (1, 0, 0)], 0),
            (vec![(1, 1, 0), (1, 0, 255)], 1),
            (vec![(1, 1, 0), (1, 0, 256)], 0),
            (vec![(1, 10, 0), (3, 20, 0)], 1),
            (vec![(1, 10, 0), (2, 20, 0)], 0),
            (vec![(65535, u64::from(u32::MAX), 0), (1, 65538, 0)], 0),
        ];
        for (servers, expected) in cases {
            let pool: Vec<Entry> = servers
                .iter()
                .map(|&(weight, active, inactive)| Entry { weight, overloaded: false, active, inactive })
                .collect();
            assert_eq!(picks(Kind::Wlc, &pool, 1), [Some(expected)], "{servers:?}");
        }
    }
}
