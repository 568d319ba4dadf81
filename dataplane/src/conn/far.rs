//! Connections whose server is of the other IP version: what their entry has no room for, and how replies find them.

use std::net::IpAddr;

use proto::{Address, Tuple};

use super::{Conn, ConnId, TupleHasher};

/// The addresses on the server's side of a connection with the flag [`FAR`](super::ConnFlags::FAR), of which the entry has
/// the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarEnd {
    /// Real server's address.
    pub server: IpAddr,
    /// Address that the server sees as its client.
    pub local: IpAddr,
}

impl FarEnd {
    /// The tuple of packets from the server of `conn`, as they arrive at the director; `None` if they are of another
    /// family.
    pub fn outbound<B: Address, A>(&self, conn: &Conn<A>) -> Option<Tuple<B>> {
        let (src, dst) = (B::from_ip(self.server)?, B::from_ip(self.local)?);
        Some(Tuple { src, dst, sport: conn.dport, dport: conn.lport, protocol: conn.protocol })
    }

    fn hash<A>(&self, hasher: &TupleHasher, conn: &Conn<A>) -> u64 {
        match (self.outbound::<std::net::Ipv4Addr, A>(conn), self.outbound::<std::net::Ipv6Addr, A>(conn)) {
            (Some(tuple), _) => hasher.hash(&tuple),
            (_, Some(tuple)) => hasher.hash(&tuple),
            (None, None) => 0,
        }
    }
}

/// Finds connections by the replies of a server of the other version: chains of the table's entries, by the reply's hash.
///
/// As these connections take the long way, this is built to cost nothing where there are none: its memory, eight bytes
/// for each connection that the table can hold, stays untouched.
#[derive(Debug)]
pub(super) struct FarIndex {
    /// A power of two of chains; their first entry plus one, 0 for none.
    heads: Vec<u32>,
    /// By [`ConnId`]: the next entry of the chain plus one.
    next: Vec<u32>,
    len: usize,
}

impl FarIndex {
    pub(super) fn new(capacity: usize) -> Self {
        Self { heads: vec![0; capacity.next_power_of_two()], next: vec![0; capacity], len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn head(&mut self, hash: u64) -> &mut u32 {
        let mask = self.heads.len() - 1;
        &mut self.heads[hash as usize & mask]
    }

    /// Adds a connection that is not in it.
    pub(super) fn insert<A>(&mut self, hasher: &TupleHasher, id: ConnId, conn: &Conn<A>, far: &FarEnd) {
        let head = self.head(far.hash(hasher, conn));
        let next = std::mem::replace(head, id.0 + 1);
        self.next[id.0 as usize] = next;
        self.len += 1;
    }

    /// Removes a connection that is in it.
    pub(super) fn remove<A>(&mut self, hasher: &TupleHasher, id: ConnId, conn: &Conn<A>, far: &FarEnd) {
        let next = self.next[id.0 as usize];
        let head = self.head(far.hash(hasher, conn));
        if *head == id.0 + 1 {
            *head = next;
        } else {
            let mut at = *head;
            while let Some(before) = at.checked_sub(1) {
                at = self.next[before as usize];
                if at == id.0 + 1 {
                    self.next[before as usize] = next;
                    break;
                }
            }
            debug_assert!(at != 0, "a connection that is not in the index");
        }
        self.len -= 1;
    }

    /// The first connection with this hash that `is_match` accepts.
    pub(super) fn find(&self, hash: u64, is_match: impl Fn(ConnId) -> bool) -> Option<ConnId> {
        let mask = self.heads.len() - 1;
        let mut at = self.heads[hash as usize & mask];
        while let Some(id) = at.checked_sub(1) {
            if is_match(ConnId(id)) {
                return Some(ConnId(id));
            }
            at = self.next[id as usize];
        }
        None
    }
}
