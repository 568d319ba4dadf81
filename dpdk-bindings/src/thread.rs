//! Threads that DPDK did not start.

use std::marker::PhantomData;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::error::{Errno, Error};

/// Keeps the thread registered with DPDK, so that it has an lcore id and a cache in every mempool.
#[derive(Debug)]
pub struct ThreadGuard {
    /// It belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// Registers the calling thread until the guard is dropped. Without it the thread can use everything, but each
/// mbuf that it allocates or frees goes through the pool's shared ring.
///
/// # Errors
///
/// [`Error::Thread`], when DPDK has no lcore id left (it has 128 in its usual build).
pub fn register_thread(_eal: &Eal) -> Result<ThreadGuard, Error> {
    // SAFETY: there is a handle of the EAL, so it is initialised.
    let result = unsafe { sys::dpvs_thread_register() };
    match Errno::check(result) {
        Ok(_) => Ok(ThreadGuard { _not_send: PhantomData }),
        Err(errno) => Err(Error::Thread { errno }),
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        // SAFETY: the guard is not Send, so this is the thread that was registered.
        unsafe { sys::dpvs_thread_unregister() };
    }
}
