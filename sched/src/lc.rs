//! Least connection (ip_vs_lc.c): the least overhead, whatever the weights; a tie keeps the earlier server.

use crate::Pool;
use crate::least::{available, least, overhead};

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    least(available(pool), |server| overhead(pool, server), |_| 1)
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn least_overhead_whatever_the_weights() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (9, 0, 0)], 0),
            (vec![(100, 1, 0), (1, 0, 255)], 1),
            (vec![(1, 1, 0), (1, 0, 256)], 0),
            (vec![(0, 0, 0), (1, 7, 7), (1, 7, 6)], 2),
        ];
        check(Kind::Lc, cases);
    }
}
