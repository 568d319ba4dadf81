//! Maglev hashing (ip_vs_mh.c; Eisenbud and others, "Maglev", NSDI 2016, section 3.4): the source address, with the source
//! port if so asked, decides in a table whose places the servers take in turns, each by a sequence of its own. When a
//! server comes or goes, few clients of the others move.
//!
//! The keys of the hash are fixed: every director and every Linux kernel makes the same table of the same servers.

use std::sync::Arc;

use crate::hash::{fold, half_sip};
use crate::{Hashing, Pool, Request, Server, wrr};

/// Places in the table, a prime number: the kernel's for its default configuration (IP_VS_MH_TAB_INDEX 12).
const SIZE: u32 = 4093;

/// A server takes less than 2^6 places in a turn.
const TURN_BITS: u32 = 6;

/// Keys of the two hashes.
const KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];

/// The server of each place; empty when there is none to fill it.
pub(crate) type Table = Arc<[u16]>;

/// Where a server stands in its sequence of places.
struct Sequence {
    server: u16,
    place: u32,
    skip: u32,
    /// Places it takes in each turn.
    turn: u32,
}

pub(crate) fn table(servers: &[Server]) -> Table {
    let step = servers.iter().fold(0, |divisor, server| wrr::gcd(server.last_weight, divisor));
    if step == 0 {
        return Table::default();
    }
    let largest = servers.iter().map(|server| server.last_weight / step).max().unwrap_or(0);
    let shift = (u32::BITS - largest.leading_zeros()).saturating_sub(TURN_BITS);
    let sequence = |(index, server): (u16, &Server)| {
        let address = fold(server.address.ip()).wrapping_add(u32::from(server.address.port()));
        Sequence {
            server: index,
            place: half_sip(KEYS[0], address) % SIZE,
            skip: half_sip(KEYS[1], address) % (SIZE - 1) + 1,
            turn: ((server.last_weight / step) >> shift).max(1),
        }
    };
    // More servers than places: the kernel refuses them, here they get none.
    let present = (0u16..).zip(servers).take(SIZE as usize).filter(|(_, server)| server.last_weight > 0);
    let mut sequences: Vec<Sequence> = present.map(sequence).collect();
    const FREE: u16 = u16::MAX;
    let mut table = vec![FREE; SIZE as usize];
    let mut free = SIZE;
    'filled: while !sequences.is_empty() {
        for sequence in &mut sequences {
            for _ in 0..sequence.turn {
                while table[sequence.place as usize] != FREE {
                    sequence.place = (sequence.place + sequence.skip) % SIZE;
                }
                table[sequence.place as usize] = sequence.server;
                free -= 1;
                if free == 0 {
                    break 'filled;
                }
            }
        }
    }
    table.into()
}

pub(crate) fn pick(table: &[u16], hashing: Hashing, request: &impl Request, pool: &impl Pool) -> Option<usize> {
    let port = if hashing.port { u32::from(request.source_port()) } else { 0 };
    let key = fold(request.source()).wrapping_add(port);
    let place = |offset: u32| half_sip(KEYS[0], key.wrapping_add(offset)) % SIZE;
    let server_at = |place: u32| table.get(place as usize).map(|&server| usize::from(server));
    let first = place(0);
    match server_at(first)? {
        server if pool.is_available(server) => Some(server),
        _ if hashing.fallback => {
            let places = (first..first + SIZE).map(|offset| place(offset % SIZE));
            places.filter_map(server_at).find(|&server| pool.is_available(server))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn shares(servers: &[Server]) -> Vec<usize> {
        let table = table(servers);
        (0..servers.len()).map(|n| table.iter().filter(|&&server| usize::from(server) == n).count()).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        assert_eq!(shares(&servers(&[1, 1, 1])), [1365, 1364, 1364]);
        assert_eq!(shares(&servers(&[10, 20, 0])), [1365, 2728, 0]);
        assert_eq!(shares(&servers(&[4093])), [4093]);
        // 65535 is cut to 63 places a turn, 1 to the least there is.
        assert_eq!(shares(&servers(&[65535, 1]))[1], 63);
        assert!(table(&servers(&[0, 0])).is_empty() && table(&[]).is_empty());
    }

    #[test]
    fn weight_zero_keeps_the_place_it_had() {
        let mut members = servers(&[5, 5, 5]);
        let before = table(&members);
        members[1].weight = 0;
        assert_eq!(table(&members), before);
    }

    #[test]
    fn few_clients_move_when_a_server_goes() {
        let members = servers(&[1; 10]);
        let (before, after) = (table(&members), table(&members[..9]));
        let moved = before.iter().zip(after.iter()).filter(|(before, after)| **before != 9 && before != after).count();
        // A plain modulus would move nine tenths.
        assert!(moved < SIZE as usize / 10, "{moved}");
    }

    #[test]
    fn fallback_moves_only_who_must() {
        let weights = [2, 1, 5];
        let table = table(&servers(&weights));
        let mut members = pool(&weights);
        members[2].overloaded = true;
        let pick = |fallback, n| pick(&table, Hashing { port: true, fallback }, &from([198, 51, 100, 7], n), &members);
        let mut moved = 0;
        for port in 0..200 {
            match pick(false, port) {
                None => {
                    moved += 1;
                    assert!(matches!(pick(true, port), Some(0 | 1)));
                }
                some => assert_eq!(pick(true, port), some),
            }
        }
        assert!((80..160).contains(&moved), "{moved}");
    }
}
