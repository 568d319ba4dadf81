//! Packet buffers.

use std::fmt;
use std::ptr::NonNull;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

/// A packet, owned: dropping it returns the buffer to its pool.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf has one owner, and buffers may be freed by any thread.
unsafe impl Send for Mbuf {}
// SAFETY: shared references only read.
unsafe impl Sync for Mbuf {}

/// Frees the packets at once, which is cheaper than one by one.
#[inline]
pub fn free_burst<const N: usize>(burst: &mut ArrayVec<Mbuf, N>) {
    let count = burst.len();
    // SAFETY: an Mbuf is a pointer to an rte_mbuf. Emptying the burst first gives up ownership of the `count`
    // mbufs, which stay in its memory until DPDK has freed them.
    unsafe {
        burst.set_len(0);
        sys::dpvs_mbuf_free_bulk(burst.as_mut_ptr().cast(), count as u32);
    }
}

impl Mbuf {
    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    ///
    /// The mbuf is valid and has no other owner.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// The packet's bytes; of a packet in several segments, those in the first.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        // SAFETY: see `start`; nobody writes while we are borrowed.
        unsafe { std::slice::from_raw_parts(self.start(), usize::from(self.data_len())) }
    }

    /// The same bytes, to be changed.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: see `start`; we are borrowed exclusively, and no other mbuf shares the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start(), usize::from(self.data_len())) }
    }

    /// Grows the packet by `n` bytes at the front and returns whether there was room. Their content is arbitrary.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> bool {
        let fits = n <= self.headroom() && n <= usize::from(u16::MAX - self.data_len());
        if fits {
            self.set_data_off(self.data_off() - n as u16);
            self.set_lengths(self.data_len() + n as u16, self.packet_len() + n as u32);
        }
        fits
    }

    /// Grows the packet by `n` bytes at the end and returns whether there was room. Their content is arbitrary.
    /// There is none in a packet of several segments.
    #[inline]
    pub fn append(&mut self, n: usize) -> bool {
        let fits = n <= self.tailroom() && self.is_contiguous();
        if fits {
            self.set_lengths(self.data_len() + n as u16, self.packet_len() + n as u32);
        }
        fits
    }

    /// Removes `n` bytes at the front.
    ///
    /// # Panics
    ///
    /// When `n` exceeds the length of [`data`](Self::data).
    #[inline]
    pub fn trim_front(&mut self, n: usize) {
        assert!(n <= usize::from(self.data_len()), "trim_front({n}) of {} bytes", self.data_len());
        self.set_data_off(self.data_off() + n as u16);
        self.set_lengths(self.data_len() - n as u16, self.packet_len() - n as u32);
    }

    /// Cuts the packet to `len` bytes. A larger `len` changes nothing, and a packet of several segments stays.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < usize::from(self.data_len()) && self.is_contiguous() {
            self.set_lengths(len as u16, len as u32);
        }
    }

    /// True when the whole packet is in one buffer.
    #[inline(always)]
    pub fn is_contiguous(&self) -> bool {
        // SAFETY: offset and width are checked by the shim.
        unsafe { self.field::<u16>(sys::DPVS_MBUF_NB_SEGS).read() == 1 }
    }

    /// The RSS hash, if the NIC has computed it.
    #[inline(always)]
    pub fn rss_hash(&self) -> Option<u32> {
        // SAFETY: offsets and widths are checked by the shim.
        unsafe {
            let flags = self.field::<u64>(sys::DPVS_MBUF_OL_FLAGS).read();
            let known = flags & u64::from(sys::DPVS_MBUF_RX_RSS_HASH) != 0;
            known.then(|| self.field::<u32>(sys::DPVS_MBUF_HASH_RSS).read())
        }
    }

    /// Bytes in all segments.
    #[inline(always)]
    pub fn packet_len(&self) -> u32 {
        // SAFETY: offset and width are checked by the shim.
        unsafe { self.field::<u32>(sys::DPVS_MBUF_PKT_LEN).read() }
    }

    /// Free bytes before the packet.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        usize::from(self.data_off())
    }

    /// Free bytes after the data of the first segment.
    #[inline(always)]
    pub fn tailroom(&self) -> usize {
        // SAFETY: offset and width are checked by the shim.
        let room = unsafe { self.field::<u16>(sys::DPVS_MBUF_BUF_LEN).read() };
        usize::from(room) - usize::from(self.data_off()) - usize::from(self.data_len())
    }

    /// A pointer to a field of the mbuf.
    ///
    /// # Safety
    ///
    /// `offset` is that of a field of type `T`.
    #[inline(always)]
    unsafe fn field<T>(&self, offset: u32) -> *mut T {
        // SAFETY: a field lies inside the mbuf.
        unsafe { self.0.as_ptr().byte_add(offset as usize).cast() }
    }

    /// Where the data starts. `data_len` bytes from there lie inside the buffer: the driver, or DPDK's allocation,
    /// has made it so and every method here keeps it so. The buffer is memory of the pool, all of it
    /// initialised by the kernel, and nobody else's while the mbuf is out of the pool.
    #[inline(always)]
    fn start(&self) -> *mut u8 {
        // SAFETY: offset and width are checked by the shim; data_off is at most the buffer's length.
        unsafe { self.field::<*mut u8>(sys::DPVS_MBUF_BUF_ADDR).read().add(usize::from(self.data_off())) }
    }

    #[inline(always)]
    fn data_off(&self) -> u16 {
        // SAFETY: offset and width are checked by the shim.
        unsafe { self.field::<u16>(sys::DPVS_MBUF_DATA_OFF).read() }
    }

    #[inline(always)]
    fn data_len(&self) -> u16 {
        // SAFETY: offset and width are checked by the shim.
        unsafe { self.field::<u16>(sys::DPVS_MBUF_DATA_LEN).read() }
    }

    #[inline(always)]
    fn set_data_off(&mut self, offset: u16) {
        // SAFETY: offset and width are checked by the shim.
        unsafe { self.field::<u16>(sys::DPVS_MBUF_DATA_OFF).write(offset) }
    }

    #[inline(always)]
    fn set_lengths(&mut self, data: u16, packet: u32) {
        // SAFETY: offsets and widths are checked by the shim.
        unsafe {
            self.field::<u16>(sys::DPVS_MBUF_DATA_LEN).write(data);
            self.field::<u32>(sys::DPVS_MBUF_PKT_LEN).write(packet);
        }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the mbuf.
        unsafe { sys::dpvs_mbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("data_len", &self.data_len())
            .field("packet_len", &self.packet_len())
            .field("headroom", &self.headroom())
            .finish_non_exhaustive()
    }
}
