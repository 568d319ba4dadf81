//! Weighted failover (ip_vs_fo.c): the available server of the highest weight; a tie keeps the earlier server.

use crate::Pool;
use crate::least::available;

pub(crate) fn pick(pool: &impl Pool) -> Option<usize> {
    heaviest(available(pool), pool)
}

/// The first of the heaviest servers.
pub(crate) fn heaviest(servers: impl Iterator<Item = usize>, pool: &impl Pool) -> Option<usize> {
    // Of several that are equal, `min_by_key` takes the first.
    servers.min_by_key(|&server| std::cmp::Reverse(pool.weight(server)))
}

#[cfg(test)]
mod tests {
    use crate::Kind;
    use crate::testing::*;

    #[test]
    fn the_heaviest_takes_all() {
        // (weight, active, inactive) per server -> expected choice
        let cases = [
            (vec![(1, 0, 0), (3, 900, 900), (2, 0, 0)], 1),
            (vec![(3, 9, 0), (3, 0, 0)], 0),
            (vec![(0, 0, 0), (1, 0, 0)], 1),
        ];
        check(Kind::Fo, cases);
        let mut servers = pool(&[1, 3, 2]);
        servers[1].overloaded = true;
        assert_eq!(picks(Kind::Fo, &servers, 2), [Some(2), Some(2)]);
    }
}
