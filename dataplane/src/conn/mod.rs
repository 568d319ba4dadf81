//! Connection tracking: one table per worker and address family.
//!
//! * [`entry`]: a connection, 64 bytes for IPv4.
//! * [`extra`]: what few connections have beside their entry.
//! * [`far`]: connections whose server is of the other IP version.
//! * [`sequence`]: sequence numbers of connections whose data are changed on the way.
//! * [`hash`]: the seeded hash of tuples.
//! * [`table`]: slab of entries plus an index over both directions, whose buckets are one cache line each.
//! * [`wheel`]: the lazy timer wheel that ends connections.

pub mod entry;
pub mod extra;
pub mod far;
pub mod hash;
mod index;
pub mod sequence;
pub mod table;
pub mod wheel;

#[cfg(test)]
mod tests;

pub use entry::{Conn, ConnFlags, ConnId, ConnRecord, Side, Unanswered};
pub use extra::{Announced, Extra};
pub use far::FarEnd;
pub use hash::TupleHasher;
pub use sequence::Sequence;
pub use table::{Candidate, ConnTable, InsertError};
pub use wheel::{TICKS_PER_SECOND, Tick, Timer};
