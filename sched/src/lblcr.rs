//! Locality-based least connection with replication (ip_vs_lblcr.c), for caches: connections to one destination address
//! go to the least loaded of a set of servers. When that one has too many connections while another server is nearly
//! idle, the choice of weighted least connection joins the set; when the set has not changed for a time
//! (`lblcr_expiration`), its most loaded server leaves.

use crate::least::{least, overhead};
use crate::locality::{self, is_overloaded};
use crate::{Pool, Request, wlc};

/// Most servers of one destination; the kernel has no limit.
const SET: usize = 16;

/// The servers of each destination.
pub(crate) type Table = locality::Table<SET>;

pub(crate) fn pick(table: &Table, request: &impl Request, pool: &impl Pool) -> Option<usize> {
    let (destination, now, expiration) = (request.destination(), request.now(), request.expirations().lblcr);
    let weight = |server: usize| u64::from(pool.weight(server));
    let Some(entry) = table.find(destination, now, expiration) else {
        let server = wlc::pick(pool)?;
        table.set(destination, pool.id(server), now);
        return Some(server);
    };
    let members = || entry.servers(pool);
    let best = least(members().filter(|&server| pool.is_available(server)), |server| overhead(pool, server), weight);
    if entry.ids().nth(1).is_some() && now.saturating_sub(entry.changed()) > expiration {
        // The most overhead per weight is the least weight per overhead.
        let with_weight = members().filter(|&server| weight(server) > 0);
        let most = with_weight.reduce(|most, server| {
            let is_more = overhead(pool, most) * weight(server) < overhead(pool, server) * weight(most);
            if is_more { server } else { most }
        });
        if let Some(most) = most {
            entry.remove(pool.id(most), now);
        }
    }
    if let Some(best) = best
        && !is_overloaded(best, pool)
    {
        return Some(best);
    }
    let server = wlc::pick(pool)?;
    entry.insert(pool.id(server), now);
    Some(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn the_set_grows_under_load_and_shrinks_after_the_expiration() {
        const EXPIRATION: u32 = 60 * 60;
        let table = Table::new();
        let mut servers = pool(&[2, 10, 1]);
        let pick =
            |now: u32, servers: &Vec<Entry>| pick(&table, &to([192, 0, 2, 1], now).expiring_after(EXPIRATION), servers);
        let set =
            || table.find([192, 0, 2, 1].into(), 1, EXPIRATION).map(|entry| entry.ids().collect::<Vec<_>>()).unwrap();
        assert_eq!(pick(1, &servers), Some(0));
        // Server 0 has more than its weight, server 1 less than half of its own: it joins.
        servers[0].active = 3;
        assert_eq!(pick(2, &servers), Some(1));
        assert_eq!(set(), [1, 0]);
        // From now on the less loaded of the two, though server 2 is idle.
        servers[1].active = 9;
        assert_eq!(pick(3, &servers), Some(1));
        servers[0].active = 0;
        assert_eq!(pick(4, &servers), Some(0));
        assert_eq!(pick(2 + EXPIRATION, &servers), Some(0));
        assert_eq!(set(), [1, 0]);
        // The most loaded leaves.
        assert_eq!(pick(3 + EXPIRATION, &servers), Some(0));
        assert_eq!(set(), [0]);
    }

    #[test]
    fn a_set_without_available_server_gets_one() {
        let table = Table::new();
        let mut servers = pool(&[1, 1]);
        let pick = |servers: &Vec<Entry>| pick(&table, &to([192, 0, 2, 1], 1), servers);
        assert_eq!(pick(&servers), Some(0));
        servers[0].overloaded = true;
        assert_eq!(pick(&servers), Some(1));
        servers[0].overloaded = false;
        servers[1].inactive = 1;
        assert_eq!(pick(&servers), Some(0), "both are in the set");
        servers.iter_mut().for_each(|server| server.weight = 0);
        assert_eq!(pick(&servers), None);
    }
}
