//! Consistent hashing by source address or QUIC connection id, as DPVS offers it: servers have points on a ring, and a client goes to the first
//! available server from its own point on. When a server comes or goes, only its own clients move.
//!
//! The ring is not that of DPVS: another director chooses other servers.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use crate::{Key, Pool, Request, Server};

/// Points of the heaviest server, the number that DPVS gives each; the others have fewer by their weights.
const POINTS: u32 = 160;

/// Servers by their points on the ring, sorted.
pub(crate) type Ring = Arc<[(u32, u32)]>;

pub(crate) fn ring(servers: &[Server]) -> Ring {
    let heaviest = servers.iter().map(|server| server.weight).max().unwrap_or(0);
    let mut ring = Vec::new();
    for (index, server) in (0u32..).zip(servers).filter(|(_, server)| server.weight > 0) {
        // At most 160 times 65535.
        let points = (POINTS * server.weight).div_ceil(heaviest);
        let (ip, port) = (server.address.ip(), server.address.port());
        ring.extend((0..points).map(|point| (position(ip, (u32::from(port) << 16) | point), index)));
    }
    ring.sort_unstable();
    ring.into()
}

/// Where a point of a server, or a client of which the address counts, stands on the ring.
fn position(address: IpAddr, number: u32) -> u32 {
    let mut hasher = SipHasher13::new();
    match address {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.write(&number.to_le_bytes());
    hasher.finish() as u32
}

/// Where a QUIC connection stands on the ring.
fn position_of_quic(id: u64) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(&id.to_le_bytes());
    hasher.finish() as u32
}

pub(crate) fn pick(ring: &[(u32, u32)], key: Key, request: &impl Request, pool: &impl Pool) -> Option<usize> {
    let id = if key == Key::QuicId { request.quic_id() } else { None };
    let own = id.map_or_else(|| position(request.source(), u32::MAX), position_of_quic);
    let start = ring.partition_point(|&(position, _)| position < own);
    let round = ring[start..].iter().chain(&ring[..start]);
    round.map(|&(_, server)| server as usize).find(|&server| pool.is_available(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const CLIENTS: u32 = 20_000;

    fn client(n: u32) -> Packet {
        from((0x0a00_0000 + n).to_be_bytes(), 1024)
    }

    #[test]
    fn shares_follow_the_weights() {
        let weights = [4, 2, 2];
        let ring = ring(&servers(&weights));
        let members = pool(&weights);
        let mut counts = [0u32; 3];
        for n in 0..CLIENTS {
            counts[pick(&ring, Key::Source, &client(n), &members).unwrap()] += 1;
        }
        for (count, share) in counts.into_iter().zip([CLIENTS / 2, CLIENTS / 4, CLIENTS / 4]) {
            assert!(count.abs_diff(share) < CLIENTS / 10, "{counts:?}");
        }
    }

    #[test]
    fn only_clients_of_the_server_that_goes_move() {
        let weights = [1; 5];
        let (before, after) = (ring(&servers(&weights)), ring(&servers(&weights[..4])));
        let members = pool(&weights);
        let mut overloaded = members.clone();
        overloaded[4].overloaded = true;
        for n in 0..1000 {
            let was = pick(&before, Key::Source, &client(n), &members);
            let is = pick(&after, Key::Source, &client(n), &members);
            assert!(was == is || was == Some(4), "{was:?} {is:?}");
            assert_eq!(pick(&before, Key::Source, &client(n), &overloaded), is, "unavailable is as good as gone");
        }
    }
    #[test]
    fn a_quic_connection_keeps_its_server_when_the_client_moves() {
        let weights = [1; 5];
        let (ring, members) = (ring(&servers(&weights)), pool(&weights));
        let mut used = [false; 5];
        for id in 0..100 {
            let quic = |n| client(n).of_quic(id);
            let server = pick(&ring, Key::QuicId, &quic(1), &members);
            assert_eq!(pick(&ring, Key::QuicId, &quic(2), &members), server);
            used[server.unwrap()] = true;
        }
        assert_eq!(used, [true; 5], "ids are spread");
        for n in 0..100 {
            let by_address = pick(&ring, Key::Source, &client(n), &members);
            assert_eq!(pick(&ring, Key::QuicId, &client(n), &members), by_address, "what is not QUIC");
        }
    }
}
