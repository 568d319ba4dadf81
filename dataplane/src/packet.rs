//! What the pipeline asks of a packet buffer and of the ports, so that it runs on mbufs and on plain memory alike.

use arrayvec::ArrayVec;

use crate::PortId;

/// Packets per burst.
pub const BURST: usize = 64;

/// Up to [`BURST`] packets.
pub type Burst<P> = ArrayVec<P, BURST>;

/// A frame in one contiguous buffer with room before and after it. Dropping it frees the buffer.
pub trait PacketBuf: Sized + Send {
    /// The frame, from the Ethernet header on.
    fn data(&self) -> &[u8];
    /// The frame, to be changed in place.
    fn data_mut(&mut self) -> &mut [u8];
    /// Grows the frame by `n` bytes at the front and returns whether there was room. The new bytes are arbitrary.
    fn prepend(&mut self, n: usize) -> bool;
    /// Grows the frame by `n` bytes at the end and returns whether there was room. The new bytes are arbitrary.
    fn append(&mut self, n: usize) -> bool;
    /// Removes `n` bytes at the front; `n` must not exceed the length.
    fn trim_front(&mut self, n: usize);
    /// Cuts the frame to `len` bytes; a larger `len` changes nothing.
    fn truncate(&mut self, len: usize);
    /// False when the frame is spread over several buffers; `data` then shows only the first.
    fn is_contiguous(&self) -> bool;
    /// The RSS hash that the NIC computed, if it did.
    fn rss_hash(&self) -> Option<u32>;
}

/// One worker's queues: a receive and a transmit queue on each port, and a source of empty buffers.
pub trait WorkerIo {
    /// The buffer type.
    type Packet: PacketBuf;
    /// Receives packets of `port` until `burst` is full or the queue is empty.
    fn receive(&mut self, port: PortId, burst: &mut Burst<Self::Packet>);
    /// Sends from the front of `burst` and removes what was sent; the rest stays the caller's.
    fn transmit(&mut self, port: PortId, burst: &mut Burst<Self::Packet>);
    /// An empty buffer, or `None` when the pool has none.
    fn allocate(&mut self) -> Option<Self::Packet>;
}
