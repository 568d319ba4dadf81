//! Destination hashing (ip_vs_dh.c): the destination address decides, in a table of 256 buckets that the servers fill in
//! turn, whatever their weights. When the server of a bucket is unavailable, the connection is refused.

use std::net::IpAddr;
use std::sync::Arc;

use crate::Pool;
use crate::hash::{fold, golden};

/// Logarithm of the number of buckets.
const BITS: u32 = 8;

/// The server of each bucket; empty without servers.
pub(crate) type Table = Arc<[u16]>;

pub(crate) fn table(servers: usize) -> Table {
    (0..1usize << BITS).filter_map(|bucket| u16::try_from(bucket.checked_rem(servers)?).ok()).collect()
}

pub(crate) fn pick(table: &[u16], destination: IpAddr, pool: &impl Pool) -> Option<usize> {
    let server = usize::from(*table.get(golden(fold(destination), BITS) as usize)?);
    pool.is_available(server).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn buckets_take_turns() {
        assert_eq!(&table(3)[..5], [0, 1, 2, 0, 1]);
        assert_eq!((table(3).len(), table(300)[255], table(0).len()), (256, 255, 0));
    }

    #[test]
    fn an_unavailable_server_is_not_replaced() {
        let mut servers = pool(&[1, 1]);
        let chosen = |servers: &Vec<Entry>| -> Vec<Option<usize>> {
            (1..=20).map(|n| pick(&table(2), [192, 0, 2, n].into(), servers)).collect()
        };
        let before = chosen(&servers);
        servers[1].overloaded = true;
        let after: Vec<_> = before.iter().map(|c| c.filter(|&server| server != 1)).collect();
        assert_eq!(chosen(&servers), after);
        assert!(before.contains(&Some(0)) && before.contains(&Some(1)));
    }
}
