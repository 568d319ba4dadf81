//! The pool of packet buffers.

use std::ptr::NonNull;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::eal::{Eal, c_string};
use crate::error::{Errno, Error};
use crate::mbuf::Mbuf;

/// Bytes that DPDK keeps free before the data of a new packet.
pub const HEADROOM: u16 = sys::DPVS_HEADROOM as u16;

/// Most buffers that a thread's cache can be made to hold.
pub const MAX_CACHE: u32 = sys::DPVS_POOL_CACHE_MAX;

/// What a pool is to be like.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Number of buffers. 2^n - 1 wastes the least memory.
    pub buffers: u32,
    /// Buffers that each thread keeps for itself, at most [`MAX_CACHE`] and two thirds of `buffers`.
    pub cache: u32,
    /// Bytes in each buffer, [`HEADROOM`] included.
    pub data_room: u16,
    /// NUMA node to take the memory from; `None` is any.
    pub socket: Option<u32>,
}

/// The pool of mbufs. Clones are handles; it stays until the process ends.
#[derive(Clone, Debug)]
pub struct Mempool {
    raw: NonNull<sys::rte_mempool>,
}

// SAFETY: the functions used below are thread-safe: the pool's ring is multi-producer and multi-consumer, and each
// thread's cache is reached through the thread's own lcore id.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes the pool. There can be one: transmit queues return buffers without looking where they came from.
    ///
    /// # Errors
    ///
    /// [`Error::SecondPool`]; [`Error::Pool`], mostly because there is not enough memory.
    pub fn new(eal: &Eal, config: &PoolConfig) -> Result<Self, Error> {
        if eal.set_has_pool(true) {
            return Err(Error::SecondPool);
        }
        let name = c_string("packets".to_owned())?;
        let socket = config.socket.map_or(-1, |socket| socket as i32);
        let capture = eal.capture_log();
        let mut errno = 0;
        // SAFETY: a NUL-terminated string and a place for the error.
        let raw = unsafe {
            sys::dpvs_pool_create(name.as_ptr(), config.buffers, config.cache, config.data_room, socket, &raw mut errno)
        };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw }),
            None => {
                eal.set_has_pool(false);
                let (buffers, data_room) = (config.buffers, config.data_room);
                Err(Error::Pool { buffers, data_room, errno: Errno(errno), log: capture.summary() })
            }
        }
    }

    /// Number of buffers in the pool, those in threads' caches included. Slow and exact only when nobody uses
    /// the pool.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is never freed.
        unsafe { sys::dpvs_pool_available(self.as_ptr()) }
    }

    /// Number of buffers the pool was made with.
    pub fn size(&self) -> u32 {
        // SAFETY: the pool is never freed.
        unsafe { sys::dpvs_pool_size(self.as_ptr()) }
    }

    /// A buffer without data and with [`HEADROOM`] before it; `None` when all are in use.
    #[inline]
    pub fn allocate(&self) -> Option<Mbuf> {
        // SAFETY: the pool is never freed.
        let raw = unsafe { sys::dpvs_mbuf_alloc(self.as_ptr()) };
        // SAFETY: the mbuf was just allocated and nobody else has it.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Fills up `burst` and returns true, or changes nothing and returns false when there are too few buffers.
    #[inline]
    pub fn fill<const N: usize>(&self, burst: &mut ArrayVec<Mbuf, N>) -> bool {
        let have = burst.len();
        // SAFETY: an Mbuf is a non-null pointer to an rte_mbuf, and there is room for N of them. The shim fills in
        // all that are missing, each owned by nobody else, or none.
        unsafe {
            let room = burst.as_mut_ptr().add(have).cast();
            let filled = sys::dpvs_mbuf_alloc_bulk(self.as_ptr(), room, (N - have) as u32) == 0;
            if filled {
                burst.set_len(N);
            }
            filled
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}
