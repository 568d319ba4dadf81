//! Weighted overflow (ip_vs_ovf.c): the server of the highest weight among those that have no more active connections
//! than their weight; a tie keeps the earlier server. None when all have more.

use crate::least::available;
use crate::{Pool, fo};

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    fo::heaviest(available(pool).filter(|&server| pool.active(server) <= u64::from(pool.weight(server))), pool)
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn overflows_to_the_next() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (3, 3, 900), (2, 0, 0)], 1),
            (vec![(1, 0, 0), (3, 4, 0), (2, 0, 0)], 2),
            (vec![(1, 1, 0), (3, 4, 0), (2, 3, 0)], 0),
            (vec![(3, 0, 0), (3, 0, 0)], 0),
        ];
        check(Kind::Ovf, cases);
        let mut full = pool(&[1, 2]);
        (full[0].active, full[1].active) = (2, 3);
        assert_eq!(picks(Kind::Ovf, &full, 1), [None]);
    }
}
