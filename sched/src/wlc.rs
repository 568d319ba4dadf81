//! Weighted least connection (ip_vs_wlc.c): the least overhead per weight, where overhead is
//! `active * 256 + inactive`; a tie keeps the earlier server.

use crate::Pool;
use crate::least::{available, least, overhead};

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    least(available(pool), |server| overhead(pool, server), |server| u64::from(pool.weight(server)))
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
        check(Kind::Wlc, cases);
    }
}
