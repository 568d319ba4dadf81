//! Round robin (ip_vs_rr.c): the next available server in list order, weights only count as zero or not.

use crate::{Pool, round};

pub(crate) fn pick(last: Option<usize>, pool: &impl Pool) -> Option<usize> {
    round(last, pool.len()).find(|&server| pool.is_available(server))
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn takes_turns_whatever_the_weights() {
        let chosen = picks(Kind::Rr, &pool(&[1, 7, 3]), 7);
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0].map(Some));
    }

    #[test]
    fn skips_weight_zero() {
        let chosen = picks(Kind::Rr, &pool(&[1, 0, 3]), 4);
        assert_eq!(chosen, [0, 2, 0, 2].map(Some));
    }
}
