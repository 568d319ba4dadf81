//! Receive and transmit queues.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use crate::mbuf::Mbuf;
use crate::port::Started;

/// A receive queue. There is one handle of each, so no two threads poll it at once.
#[derive(Debug)]
pub struct RxQueue {
    port_id: u16,
    queue: u16,
    _port: Arc<Started>,
    _not_sync: PhantomData<Cell<()>>,
}

impl RxQueue {
    pub(crate) fn new(port: &Arc<Started>, queue: u16) -> Self {
        Self { port_id: port.id(), queue, _port: Arc::clone(port), _not_sync: PhantomData }
    }

    /// Receives packets until `burst` is full or the queue is empty, and returns how many came.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        const { assert!(N <= u16::MAX as usize) };
        let have = burst.len();
        // SAFETY: an Mbuf is a non-null pointer to an rte_mbuf. There is room for N of them; DPDK writes at most
        // as many as are missing, and those it returns are ours. The port is started and this is the only handle.
        unsafe {
            let room = burst.as_mut_ptr().add(have).cast();
            let n = usize::from(sys::dpvs_rx_burst(self.port_id, self.queue, room, (N - have) as u16));
            burst.set_len(have + n);
            n
        }
    }
}

/// A transmit queue. There is one handle of each, so no two threads fill it at once.
#[derive(Debug)]
pub struct TxQueue {
    port_id: u16,
    queue: u16,
    _port: Arc<Started>,
    _not_sync: PhantomData<Cell<()>>,
}

impl TxQueue {
    pub(crate) fn new(port: &Arc<Started>, queue: u16) -> Self {
        Self { port_id: port.id(), queue, _port: Arc::clone(port), _not_sync: PhantomData }
    }

    /// Sends from the front of `burst`, removes what was sent and returns how many; the rest stays the caller's.
    #[inline]
    pub fn transmit<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        const { assert!(N <= u16::MAX as usize) };
        let have = burst.len();
        // SAFETY: an Mbuf is a pointer to an rte_mbuf. The first `sent` now belong to DPDK, so they are removed
        // without being dropped: length 0 forgets all, then the rest is moved to the front and counted again.
        // All come from the one pool, as fast free asks. The port is started and this is the only handle.
        unsafe {
            let mbufs = burst.as_mut_ptr();
            let sent = usize::from(sys::dpvs_tx_burst(self.port_id, self.queue, mbufs.cast(), have as u16));
            burst.set_len(0);
            if sent < have {
                std::ptr::copy(mbufs.add(sent), mbufs, have - sent);
                burst.set_len(have - sent);
            }
            sent
        }
    }
}
