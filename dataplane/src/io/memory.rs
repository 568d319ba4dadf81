//! Packets in plain memory, so that the packet path runs in tests without DPDK.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::PortId;
use crate::packet::{Burst, PacketBuf, WorkerIo};

/// Bytes before a new frame; DPDK's default headroom.
pub const HEADROOM: usize = 128;

/// Bytes for a frame and what is appended to it; an mbuf of DPDK's default size has as many.
pub const DATA_ROOM: usize = 2048;

/// A frame on the heap with room before and after it.
#[derive(Clone)]
pub struct HeapPacket {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
    contiguous: bool,
    rss_hash: Option<u32>,
}

impl HeapPacket {
    /// An empty frame with [`HEADROOM`] bytes before it and [`DATA_ROOM`] for it.
    pub fn new() -> Self {
        Self::with_room(HEADROOM, DATA_ROOM)
    }

    /// An empty frame with `headroom` bytes before it and `data_room` bytes for it.
    pub fn with_room(headroom: usize, data_room: usize) -> Self {
        Self { buffer: vec![0; headroom + data_room], start: headroom, len: 0, contiguous: true, rss_hash: None }
    }

    /// A copy of `frame` in a buffer with [`HEADROOM`] bytes before it, larger than [`DATA_ROOM`] if need be.
    pub fn from_frame(frame: &[u8]) -> Self {
        let mut packet = Self::with_room(HEADROOM, DATA_ROOM.max(frame.len()));
        packet.len = frame.len();
        packet.data_mut().copy_from_slice(frame);
        packet
    }

    /// Pretends that the NIC computed this RSS hash.
    pub fn with_rss_hash(mut self, hash: u32) -> Self {
        self.rss_hash = Some(hash);
        self
    }

    /// Pretends that the frame goes on in a second buffer.
    pub fn with_more_segments(mut self) -> Self {
        self.contiguous = false;
        self
    }

    /// Free bytes before the frame.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Free bytes after the frame.
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.start - self.len
    }
}

impl Default for HeapPacket {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HeapPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapPacket")
            .field("len", &self.len)
            .field("headroom", &self.headroom())
            .field("tailroom", &self.tailroom())
            .finish_non_exhaustive()
    }
}

impl PacketBuf for HeapPacket {
    #[inline]
    fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    fn prepend(&mut self, n: usize) -> bool {
        if n > self.headroom() {
            return false;
        }
        self.start -= n;
        self.len += n;
        true
    }

    fn append(&mut self, n: usize) -> bool {
        if n > self.tailroom() {
            return false;
        }
        self.len += n;
        true
    }

    fn trim_front(&mut self, n: usize) {
        assert!(n <= self.len, "trim_front({n}) of a frame of {} bytes", self.len);
        self.start += n;
        self.len -= n;
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    fn rss_hash(&self) -> Option<u32> {
        self.rss_hash
    }
}

/// One worker's queues in memory. Clones are handles to the same queues: give one to the worker, keep another
/// to play the network.
#[derive(Clone, Debug)]
pub struct MemoryIo {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    ports: Vec<PortQueues>,
    free_buffers: usize,
}

#[derive(Debug)]
struct PortQueues {
    input: VecDeque<HeapPacket>,
    output: VecDeque<HeapPacket>,
    /// Frames that `output` holds at most, like a transmit queue's descriptors.
    output_limit: usize,
}

impl MemoryIo {
    /// Empty queues for `ports` ports, and no limit on buffers or on output.
    pub fn new(ports: usize) -> Self {
        let queues = || PortQueues { input: VecDeque::new(), output: VecDeque::new(), output_limit: usize::MAX };
        let ports = std::iter::repeat_with(queues).take(ports).collect();
        Self { state: Arc::new(Mutex::new(State { ports, free_buffers: usize::MAX })) }
    }

    /// Puts a frame on the wire towards `port`.
    pub fn push(&self, port: PortId, frame: &[u8]) {
        self.push_packet(port, HeapPacket::from_frame(frame));
    }

    /// The same for a packet that was prepared with an RSS hash, with several segments or with little room.
    pub fn push_packet(&self, port: PortId, packet: HeapPacket) {
        self.lock().port(port).input.push_back(packet);
    }

    /// The oldest frame that `port` sent.
    pub fn pop(&self, port: PortId) -> Option<Vec<u8>> {
        self.lock().port(port).output.pop_front().map(|packet| packet.data().to_vec())
    }

    /// All frames that `port` sent, oldest first.
    pub fn drain(&self, port: PortId) -> Vec<Vec<u8>> {
        self.lock().port(port).output.drain(..).map(|packet| packet.data().to_vec()).collect()
    }

    /// Frames that nobody received yet.
    pub fn pending(&self, port: PortId) -> usize {
        self.lock().port(port).input.len()
    }

    /// Makes the transmit queue of `port` hold at most `frames`, until they are popped.
    pub fn limit_output(&self, port: PortId, frames: usize) {
        self.lock().port(port).output_limit = frames;
    }

    /// Lets [`allocate`](WorkerIo::allocate) succeed `buffers` more times.
    pub fn limit_buffers(&self, buffers: usize) {
        self.lock().free_buffers = buffers;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn port(&mut self, port: PortId) -> &mut PortQueues {
        &mut self.ports[usize::from(port.0)]
    }
}

impl WorkerIo for MemoryIo {
    type Packet = HeapPacket;

    fn receive(&mut self, port: PortId, burst: &mut Burst<HeapPacket>) {
        let mut state = self.lock();
        let input = &mut state.port(port).input;
        let n = burst.remaining_capacity().min(input.len());
        burst.extend(input.drain(..n));
    }

    fn transmit(&mut self, port: PortId, burst: &mut Burst<HeapPacket>) {
        let mut state = self.lock();
        let queues = state.port(port);
        let n = queues.output_limit.saturating_sub(queues.output.len()).min(burst.len());
        queues.output.extend(burst.drain(..n));
    }

    fn allocate(&mut self) -> Option<HeapPacket> {
        let mut state = self.lock();
        state.free_buffers = state.free_buffers.checked_sub(1)?;
        Some(HeapPacket::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::BURST;

    const PORT: PortId = PortId(0);

    #[test]
    fn packet_grows_and_shrinks_within_its_room() {
        let mut packet = HeapPacket::from_frame(&[1, 2, 3, 4]);
        assert!(packet.prepend(2));
        packet.data_mut()[..2].copy_from_slice(&[8, 9]);
        assert!(packet.append(1));
        packet.data_mut()[6] = 5;
        assert_eq!(packet.data(), [8, 9, 1, 2, 3, 4, 5]);
        packet.trim_front(3);
        assert_eq!(packet.data(), [2, 3, 4, 5]);
        packet.truncate(2);
        assert_eq!(packet.data(), [2, 3]);
        packet.truncate(9);
        assert_eq!(packet.data(), [2, 3], "a longer length changes nothing");
        assert_eq!(packet.headroom() + packet.tailroom() + 2, HEADROOM + DATA_ROOM);
    }

    #[test]
    fn packet_refuses_to_outgrow_its_room() {
        let mut packet = HeapPacket::from_frame(&[7; 60]);
        assert!(!packet.prepend(HEADROOM + 1));
        assert!(!packet.append(DATA_ROOM - 60 + 1));
        assert_eq!(packet.data(), [7; 60], "a refusal changes nothing");
        assert!(packet.prepend(HEADROOM) && packet.append(DATA_ROOM - 60));
        assert_eq!(packet.data().len(), HEADROOM + DATA_ROOM);
    }

    #[test]
    #[should_panic(expected = "trim_front(5) of a frame of 4 bytes")]
    fn trimming_more_than_the_frame_panics() {
        HeapPacket::from_frame(&[0; 4]).trim_front(5);
    }

    #[test]
    fn receive_fills_the_burst_in_order() {
        let wire = MemoryIo::new(1);
        let mut io = wire.clone();
        for n in 0..BURST + 3 {
            wire.push(PORT, &[n as u8]);
        }
        let mut burst = Burst::new();
        io.receive(PORT, &mut burst);
        assert_eq!(burst.len(), BURST);
        assert!(burst.iter().enumerate().all(|(n, packet)| packet.data() == [n as u8]));
        io.receive(PORT, &mut burst);
        assert_eq!(wire.pending(PORT), 3, "a full burst takes nothing");
        burst.truncate(1);
        io.receive(PORT, &mut burst);
        assert_eq!(burst.iter().map(|p| p.data()[0]).collect::<Vec<_>>(), [0, 64, 65, 66]);
    }

    #[test]
    fn transmit_leaves_what_did_not_fit() {
        let wire = MemoryIo::new(2);
        let mut io = wire.clone();
        wire.limit_output(PortId(1), 2);
        let mut burst: Burst<_> = (0..3).map(|n| HeapPacket::from_frame(&[n])).collect();
        io.transmit(PortId(1), &mut burst);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].data(), [2]);
        assert_eq!(wire.pop(PortId(1)), Some(vec![0]));
        io.transmit(PortId(1), &mut burst);
        assert!(burst.is_empty());
        assert_eq!(wire.drain(PortId(1)), [[1], [2]]);
        assert_eq!(wire.pop(PORT), None);
    }

    #[test]
    fn allocation_stops_at_the_limit() {
        let mut io = MemoryIo::new(1);
        io.limit_buffers(1);
        assert!(io.allocate().is_some_and(|packet| packet.data().is_empty()));
        assert!(io.allocate().is_none());
    }
}
