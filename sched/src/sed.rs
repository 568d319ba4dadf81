//! Shortest expected delay (ip_vs_sed.c): the least `(active + 1) / weight`, the load that the new connection would find;
//! a tie keeps the earlier server.

use crate::Pool;
use crate::least::{available, least};

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    least(available(pool), |server| pool.active(server) + 1, |server| u64::from(pool.weight(server)))
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn least_active_and_the_new_one_per_weight() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (2, 0, 0), (3, 0, 0)], 2),
            (vec![(1, 0, 0), (3, 2, 0)], 0),
            (vec![(1, 0, 0), (3, 1, 0)], 1),
            (vec![(1, 0, 99), (1, 0, 0)], 0),
            (vec![(0, 0, 0), (1, 8, 0)], 1),
        ];
        check(Kind::Sed, cases);
    }
}
