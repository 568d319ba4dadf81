//! Locality-based least connection (ip_vs_lblc.c), for caches: connections to one destination address stay with one
//! server, chosen by weighted least connection, until it is gone, has weight 0, or has too many connections while another
//! is nearly idle. As in the kernel, a connection threshold does not end that.

use crate::locality::{self, is_overloaded};
use crate::{Pool, Request, wlc};

/// The server of each destination.
pub(crate) type Table = locality::Table<1>;

pub(crate) fn pick(table: &Table, request: &impl Request, pool: &impl Pool) -> Option<usize> {
    let (destination, now) = (request.destination(), request.now());
    let known = table.find(destination, now, request.expirations().lblc);
    if let Some(server) = known.and_then(|entry| entry.servers(pool).next())
        && pool.weight(server) > 0
        && !is_overloaded(server, pool)
    {
        return Some(server);
    }
    let server = wlc::pick(pool)?;
    table.set(destination, pool.id(server), now);
    Some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn stays_until_the_server_is_overloaded() {
        let table = Table::new();
        let mut servers = pool(&[2, 10]);
        let pick = |n: u8, servers: &Vec<Entry>| pick(&table, &to([192, 0, 2, n], 1), servers);
        assert_eq!(pick(1, &servers), Some(0));
        servers[0].active = 2;
        assert_eq!((pick(1, &servers), pick(2, &servers)), (Some(0), Some(1)));
        // More than its weight, and the other has less than half of its own.
        (servers[0].active, servers[1].active) = (3, 4);
        assert_eq!(pick(1, &servers), Some(1));
        servers[0].active = 0;
        assert_eq!(pick(1, &servers), Some(1), "it stays there");
        servers[1].weight = 0;
        assert_eq!((pick(1, &servers), pick(2, &servers)), (Some(0), Some(0)));
    }

    #[test]
    fn is_forgotten_after_the_expiration() {
        let table = Table::new();
        let mut servers = pool(&[1, 1]);
        let pick = |now: u32, expiration: u32, servers: &Vec<Entry>| {
            pick(&table, &to([192, 0, 2, 1], now).expiring_after(expiration), servers)
        };
        assert_eq!(pick(1, 30, &servers), Some(0));
        servers[0].inactive = 1;
        assert_eq!(pick(100, 30, &servers), Some(0), "there was no pass since");
        assert_eq!(pick(1799, 30, &servers), Some(0));
        assert_eq!(pick(1801, 30, &servers), Some(0), "used less than 30 seconds before the pass");
        servers[1].inactive = 2;
        servers[0].inactive = 3;
        assert_eq!(pick(3600, 30, &servers), Some(1), "unused for 30 seconds at the pass");
        assert_eq!(pick(7200 + 3600, 86400, &servers), Some(1));
        servers[1].inactive = 4;
        assert_eq!(pick(2 * 7200, 0, &servers), Some(0), "it is the present setting that counts");
    }

    #[test]
    fn stays_while_all_are_overloaded() {
        let table = Table::new();
        let mut servers = pool(&[2, 10]);
        let pick = |servers: &Vec<Entry>| pick(&table, &to([192, 0, 2, 1], 1), servers);
        assert_eq!(pick(&servers), Some(0));
        (servers[0].active, servers[1].active) = (90, 5);
        assert_eq!(pick(&servers), Some(0));
    }
}
