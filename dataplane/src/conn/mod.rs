//! Connection tracking: one table per worker and address family.
//!
//! * [`entry`]: a connection, 64 bytes for IPv4.
//! * [`hash`]: the seeded hash of tuples.
//! * [`table`]: slab of entries plus the bucketed index over both directions.
//! * [`wheel`]: the lazy timer wheel that ends connections.

pub mod entry;
pub mod hash;
pub mod table;
pub mod wheel;

pub use entry::{Conn, ConnId, ConnRecord, Side};
pub use table::{ConnTable, InsertError};
pub use wheel::{TICKS_PER_SECOND, Tick};
