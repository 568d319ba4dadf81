//! Never queue (ip_vs_nq.c): the first server without active connections; when all have some, shortest expected delay.

use crate::least::available;
use crate::{Pool, sed};

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    available(pool).find(|&server| pool.active(server) == 0).or_else(|| sed::pick(pool))
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn an_idle_server_comes_first() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (9, 0, 0)], 0),
            (vec![(9, 1, 0), (1, 0, 50)], 1),
            (vec![(9, 1, 0), (0, 0, 0)], 0),
            (vec![(1, 1, 0), (9, 1, 0)], 1),
            (vec![(1, 1, 0), (2, 3, 0)], 0),
        ];
        check(Kind::Nq, cases);
    }
}
