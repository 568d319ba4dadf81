//! The server with the least load per weight, for the schedulers that compare loads.

use crate::Pool;

/// The first of `servers` for which `overhead / weight` is least; weights are at least 1.
pub(crate) fn least(
    servers: impl Iterator<Item = usize>,
    overhead: impl Fn(usize) -> u64,
    weight: impl Fn(usize) -> u64,
) -> Option<usize> {
    let mut least = None;
    // Infinite. Products fit 64 bits: a director has less than 2^37 connections (2^31 for each of 64 workers), and a
    // weight has 16 bits.
    let (mut least_overhead, mut least_weight) = (1, 0);
    for server in servers {
        let (overhead, weight) = (overhead(server), weight(server));
        // overhead / weight < least_overhead / least_weight, without the division.
        if overhead * least_weight < least_overhead * weight {
            (least, least_overhead, least_weight) = (Some(server), overhead, weight);
        }
    }
    least
}

/// The servers that take new connections, in list order.
pub(crate) fn available(pool: &impl Pool) -> impl Iterator<Item = usize> {
    (0..pool.len()).filter(|&server| pool.is_available(server))
}

/// What a server's connections count: an active one as much as 256 others.
pub(crate) fn overhead(pool: &impl Pool, server: usize) -> u64 {
    (pool.active(server) << 8) + pool.inactive(server)
}
