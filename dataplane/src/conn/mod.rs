//! Connection tracking: one table per worker and address family.
//!
//! * [`entry`]: a connection, 64 bytes for IPv4.
//! * [`hash`]: the seeded hash of tuples.
//! * [`table`]: slab of entries plus an index over both directions, whose buckets are one cache line each.
//! * [`wheel`]: the lazy timer wheel that ends connections.

pub mod entry;
pub mod hash;
mod index;
pub mod table;
pub mod wheel;

#[cfg(test)]
mod tests;

pub use entry::{Conn, ConnFlags, ConnId, ConnRecord, Side};
pub use hash::TupleHasher;
pub use table::{Candidate, ConnTable, InsertError};
pub use wheel::{TICKS_PER_SECOND, Tick, Timer};
