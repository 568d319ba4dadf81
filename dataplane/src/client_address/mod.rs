//! How the servers of a FULLNAT service learn their clients' addresses, which the packets no longer carry.
//!
//! * [`toa`]: an option in the first TCP segments.

pub(crate) mod toa;
