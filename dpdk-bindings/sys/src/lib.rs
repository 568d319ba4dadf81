//! Raw bindings to the parts of DPDK that dpvs uses.
//!
//! `csrc/shim.h` declares plain C functions over DPDK's inline functions and awkward structs, and
//! `csrc/layout.h` computes the offsets of the few mbuf fields that are read on every packet. bindgen reads
//! those two headers and nothing else. Use the safe wrapper, the crate `dpdk`.
// The names are those of C.
#![allow(non_camel_case_types)]

/// A packet buffer. Only pointers to it exist in Rust; see the `DPVS_MBUF_*` offsets.
#[repr(C)]
#[derive(Debug)]
pub struct rte_mbuf {
    opaque: [u8; 0],
}

/// A pool of packet buffers. Only pointers to it exist in Rust.
#[repr(C)]
#[derive(Debug)]
pub struct rte_mempool {
    opaque: [u8; 0],
}

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
