//! Packets longer than a packet buffer, put together from fragments.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::table::MAX_LEN;
use crate::packet::PacketBuf;

/// Room in front for the headers of tunnels.
const HEADROOM: usize = 256;
/// Room behind, for what is added to a packet on its way.
const TAILROOM: usize = 256;
const ROOM: usize = HEADROOM + proto::ethernet::HEADER_LEN + MAX_LEN as usize + TAILROOM;

/// A supply of buffers for whole packets, shared by all workers: a packet may end at another worker than the one that put
/// it together.
#[derive(Clone, Debug)]
pub struct WholePool {
    free: Arc<ArrayQueue<Box<Buffer>>>,
}

#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
    largest: u16,
}

/// A frame whose IP packet was put together from fragments; it leaves in fragments again. Dropping it returns the buffer.
#[derive(Debug)]
pub struct Whole {
    /// Taken on drop only.
    buffer: Option<Box<Buffer>>,
    home: WholePool,
}

impl WholePool {
    /// Buffers for `packets` packets of any length; 64 KiB each.
    pub fn new(packets: usize) -> Self {
        let free = ArrayQueue::new(packets.max(1));
        for _ in 0..packets {
            let bytes = vec![0; ROOM].into_boxed_slice();
            // There is room for exactly this many.
            let _ = free.push(Box::new(Buffer { bytes, start: HEADROOM, len: 0, largest: 0 }));
        }
        Self { free: Arc::new(free) }
    }

    /// An empty buffer for a packet whose largest fragment has `largest` bytes; `None` while all are in use.
    pub fn take(&self, largest: u16) -> Option<Whole> {
        let mut buffer = self.free.pop()?;
        (buffer.start, buffer.len, buffer.largest) = (HEADROOM, 0, largest);
        Some(Whole { buffer: Some(buffer), home: self.clone() })
    }

    /// How many are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

impl Whole {
    /// Length in bytes of the largest fragment that the packet came in, an IP packet. None that it leaves in may be
    /// larger: the way on was found to be as wide by those who sent it.
    pub fn largest(&self) -> u16 {
        self.buffer.as_ref().map_or(0, |buffer| buffer.largest)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // There is room for all.
            let _ = self.home.free.push(buffer);
        }
    }
}

impl PacketBuf for Whole {
    fn data(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.bytes[buffer.start..buffer.start + buffer.len])
    }

    fn data_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer.bytes[buffer.start..buffer.start + buffer.len])
    }

    fn prepend(&mut self, n: usize) -> bool {
        let Some(buffer) = self.buffer.as_mut().filter(|buffer| n <= buffer.start) else { return false };
        buffer.start -= n;
        buffer.len += n;
        true
    }

    fn append(&mut self, n: usize) -> bool {
        let fits = |buffer: &&mut Box<Buffer>| n <= buffer.bytes.len() - buffer.start - buffer.len;
        let Some(buffer) = self.buffer.as_mut().filter(fits) else { return false };
        buffer.len += n;
        true
    }

    fn trim_front(&mut self, n: usize) {
        if let Some(buffer) = &mut self.buffer {
            assert!(n <= buffer.len, "trim_front({n}) of a frame of {} bytes", buffer.len);
            buffer.start += n;
            buffer.len -= n;
        }
    }

    fn truncate(&mut self, len: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.len = buffer.len.min(len);
        }
    }

    fn is_contiguous(&self) -> bool {
        true
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }
}

/// A packet on the long way: in the buffer that it was received in, or put together.
#[derive(Debug)]
pub enum Carrier<P> {
    /// As received.
    Frame(P),
    /// Put together from fragments.
    Whole(Whole),
}

impl<P> Carrier<P> {
    /// The length in bytes of the largest fragment of a packet that was put together.
    pub fn largest_fragment(&self) -> Option<u16> {
        match self {
            Carrier::Frame(_) => None,
            Carrier::Whole(whole) => Some(whole.largest()),
        }
    }
}

macro_rules! either {
    ($self:ident, $packet:ident => $what:expr) => {
        match $self {
            Carrier::Frame($packet) => $what,
            Carrier::Whole($packet) => $what,
        }
    };
}

impl<P: PacketBuf> PacketBuf for Carrier<P> {
    fn data(&self) -> &[u8] {
        either!(self, packet => packet.data())
    }

    fn data_mut(&mut self) -> &mut [u8] {
        either!(self, packet => packet.data_mut())
    }

    fn prepend(&mut self, n: usize) -> bool {
        either!(self, packet => packet.prepend(n))
    }

    fn append(&mut self, n: usize) -> bool {
        either!(self, packet => packet.append(n))
    }

    fn trim_front(&mut self, n: usize) {
        either!(self, packet => packet.trim_front(n))
    }

    fn truncate(&mut self, len: usize) {
        either!(self, packet => packet.truncate(len))
    }

    fn is_contiguous(&self) -> bool {
        either!(self, packet => packet.is_contiguous())
    }

    fn rss_hash(&self) -> Option<u32> {
        either!(self, packet => packet.rss_hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_are_as_new() {
        let pool = WholePool::new(2);
        let mut first = pool.take(1500).unwrap();
        assert!(first.append(4000) && first.prepend(40));
        first.data_mut()[4039] = 9;
        first.trim_front(40);
        first.truncate(3000);
        assert_eq!((first.data().len(), first.largest()), (3000, 1500));
        let second = pool.take(1).unwrap();
        assert!(pool.take(2).is_none());
        drop((first, second));
        let mut again = pool.take(7).unwrap();
        assert_eq!((again.data().len(), again.largest(), pool.available()), (0, 7, 1));
        assert!(again.append(65535 + TAILROOM) && !again.append(1), "the longest packet with Ethernet's header fits");
        assert!(again.prepend(HEADROOM) && !again.prepend(1));
    }
}
