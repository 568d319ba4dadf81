//! Source hashing (ip_vs_sh.c): the source address, with the source port if so asked, decides in a table of 256 buckets.
//! Going round the list, each server fills as many buckets as its weight, and one if its weight is 0.

use std::sync::Arc;

use crate::hash::{fold, golden};
use crate::{Hashing, Pool, Request, Server};

/// Logarithm of the number of buckets.
const BITS: u32 = 8;
const SIZE: usize = 1 << BITS;

/// The server of each bucket; empty without servers.
pub(crate) type Table = Arc<[u16]>;

pub(crate) fn table(servers: &[Server]) -> Table {
    let turns = (0u16..).zip(servers).flat_map(|(index, server)| {
        let buckets = server.weight.clamp(1, SIZE as u32) as usize;
        std::iter::repeat_n(index, buckets)
    });
    // One round of 256 servers or more is enough, and fewer go round.
    let round: Vec<u16> = turns.take(SIZE).collect();
    round.iter().copied().cycle().take(SIZE).collect()
}

pub(crate) fn pick(table: &[u16], hashing: Hashing, request: &impl Request, pool: &impl Pool) -> Option<usize> {
    let port = if hashing.port { u32::from(request.source_port()) } else { 0 };
    let hash = golden(fold(request.source()).wrapping_add(port), BITS) as usize;
    let server_at = |bucket: usize| table.get(bucket % SIZE).map(|&server| usize::from(server));
    let is_available = |server: &usize| pool.is_available(*server);
    match server_at(hash)? {
        server if pool.is_available(server) => Some(server),
        // The kernel's search begins at twice the hash.
        _ if hashing.fallback => (2 * hash..2 * hash + SIZE).filter_map(server_at).find(is_available),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn servers_fill_as_many_buckets_as_their_weight() {
        assert_eq!(&table(&servers(&[2, 0, 3]))[..8], [0, 0, 1, 2, 2, 2, 0, 0]);
        assert_eq!(table(&servers(&[2, 0, 3])).len(), SIZE);
        assert_eq!(table(&servers(&[255, 7]))[254..], [0, 1]);
        assert!(table(&servers(&[65535, 7])).iter().all(|&server| server == 0));
        assert_eq!(table(&servers(&[1; 300]))[255], 255);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn fallback_moves_only_who_must() {
        let weights = [2, 1, 5];
        let table = table(&servers(&weights));
        let mut members = pool(&weights);
        let chosen = |fallback: bool, members: &Vec<Entry>| -> Vec<Option<usize>> {
            let hashing = Hashing { port: false, fallback };
            (1..=200).map(|n| pick(&table, hashing, &from([198, 51, 100, n], 1), members)).collect()
        };
        let before = chosen(false, &members);
        assert_eq!(chosen(true, &members), before);
        members[2].overloaded = true;
        for ((before, without), with) in before.into_iter().zip(chosen(false, &members)).zip(chosen(true, &members)) {
            match before {
                Some(2) => assert!(without.is_none() && matches!(with, Some(0 | 1)), "{without:?}, {with:?}"),
                _ => assert_eq!((without, with), (before, before)),
            }
        }
    }

    #[test]
    fn the_port_counts_only_if_asked() {
        let table = table(&servers(&[1, 1, 1]));
        let members = pool(&[1, 1, 1]);
        let servers_of = |port: bool| {
            let hashing = Hashing { port, fallback: false };
            let picks = (1000..1100).filter_map(|n| pick(&table, hashing, &from([192, 0, 2, 1], n), &members));
            picks.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((servers_of(false), servers_of(true)), (1, 3));
    }
}
