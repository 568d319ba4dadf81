//! Measures a director in a process of its own: on memif with the traffic generator as its peer, and on a port that repeats
//! a file. Beside it, in turns, `dpdk-testpmd`, which only swaps addresses.

pub mod result;
