//! Queues and packets that cost next to nothing themselves.

use std::cell::RefCell;
use std::rc::Rc;

use dataplane::PortId;
use dataplane::packet::{Burst, PacketBuf, WorkerIo};

/// Bytes before a new frame, for tunnel headers.
const HEADROOM: usize = 64;
/// Bytes for a frame.
const DATA_ROOM: usize = 128;

/// A packet in memory that lives as long as the program. Like an mbuf it is one pointer wide; unlike one it costs nothing
/// to drop, and is then lost.
pub struct Packet(&'static mut Buffer);

struct Buffer {
    start: u16,
    len: u16,
    bytes: [u8; HEADROOM + DATA_ROOM],
}

impl Packet {
    fn new() -> Self {
        Self(Box::leak(Box::new(Buffer { start: HEADROOM as u16, len: 0, bytes: [0; HEADROOM + DATA_ROOM] })))
    }

    fn reset(&mut self, frame: &[u8]) {
        self.0.start = HEADROOM as u16;
        self.0.len = frame.len() as u16;
        self.data_mut().copy_from_slice(frame);
    }
}

impl PacketBuf for Packet {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        let start = usize::from(self.0.start);
        &self.0.bytes[start..start + usize::from(self.0.len)]
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.0.start);
        &mut self.0.bytes[start..start + usize::from(self.0.len)]
    }

    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        if n > usize::from(self.0.start) {
            return false;
        }
        self.0.start -= n as u16;
        self.0.len += n as u16;
        true
    }

    #[inline(always)]
    fn append(&mut self, n: usize) -> bool {
        if n > self.0.bytes.len() - usize::from(self.0.start) - usize::from(self.0.len) {
            return false;
        }
        self.0.len += n as u16;
        true
    }

    #[inline(always)]
    fn trim_front(&mut self, n: usize) {
        assert!(n <= usize::from(self.0.len), "no more than there is");
        self.0.start += n as u16;
        self.0.len -= n as u16;
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(len as u16);
    }

    #[inline(always)]
    fn is_contiguous(&self) -> bool {
        true
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        None
    }
}

/// One worker's queues on one port. Clones are handles to the same queues.
#[derive(Clone, Default)]
pub struct Wire(Rc<RefCell<Queues>>);

#[derive(Default)]
struct Queues {
    arriving: Vec<Packet>,
    /// Buffers to be used again. What is sent comes here.
    free: Vec<Packet>,
    sent: u64,
    captured: Option<Vec<Vec<u8>>>,
}

impl Wire {
    /// Puts a frame on the wire to the worker.
    pub fn push(&self, frame: &[u8]) {
        let mut queues = self.0.borrow_mut();
        let mut packet = queues.free.pop().unwrap_or_else(Packet::new);
        packet.reset(frame);
        queues.arriving.push(packet);
        // No allocation when it is sent.
        let room = queues.arriving.len();
        queues.free.reserve(room);
    }

    /// How many frames were sent.
    pub fn sent(&self) -> u64 {
        self.0.borrow().sent
    }

    /// Records frames that are sent from now on.
    pub fn capture(&self) {
        self.0.borrow_mut().captured = Some(Vec::new());
    }

    /// Stops recording and returns the frames that were sent, in order.
    pub fn captured(&self) -> Vec<Vec<u8>> {
        self.0.borrow_mut().captured.take().unwrap_or_default()
    }
}

impl WorkerIo for Wire {
    type Packet = Packet;

    #[inline(always)]
    fn receive(&mut self, _port: PortId, burst: &mut Burst<Packet>) {
        burst.extend(self.0.borrow_mut().arriving.drain(..));
    }

    #[inline(always)]
    fn transmit(&mut self, _port: PortId, burst: &mut Burst<Packet>) {
        let mut queues = self.0.borrow_mut();
        queues.sent += burst.len() as u64;
        if let Some(captured) = &mut queues.captured {
            captured.extend(burst.iter().map(|packet| packet.data().to_vec()));
        }
        queues.free.extend(burst.drain(..));
    }

    fn allocate(&mut self) -> Option<Packet> {
        let mut packet = self.0.borrow_mut().free.pop().unwrap_or_else(Packet::new);
        packet.reset(&[]);
        Some(packet)
    }
}
