//! What workers and the control thread share: the published snapshot, counters and bounded queues.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::conn::ConnRecord;
use crate::counters::WorkerCounters;
use crate::directory::Directory;
use crate::reassembly::{WHOLE_PACKETS, WholePool};
use crate::replies::Replies;
use crate::snapshot::Snapshot;
use crate::templates::Templates;
use crate::{PortId, WorkerId};

/// Sizes that are fixed at start-up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of workers, at least 1.
    pub workers: usize,
    /// Number of ports, at least 1.
    pub ports: usize,
    /// Virtual services, at most; ids stay below.
    pub max_services: usize,
    /// Real servers, at most, those with connections left after removal included; ids stay below.
    pub max_servers: usize,
    /// Clients of persistent services, at most.
    pub templates: usize,
    /// Of these, with a Call-ID.
    pub call_ids: usize,
    /// NAT connections of services for several addresses or ports, at most.
    pub noted_replies: usize,
    /// Frames that can be under way between workers and kernel, in each direction.
    pub slow_path_frames: usize,
    /// Largest frame in bytes that passes between workers and kernel.
    pub max_frame: usize,
}

/// A frame on its way between a worker and the kernel, in a buffer that is used again.
#[derive(Debug)]
pub struct SlowFrame {
    /// The port it came in by or is to leave by.
    pub port: PortId,
    len: usize,
    bytes: Box<[u8]>,
}

impl SlowFrame {
    fn new(capacity: usize) -> Self {
        Self { port: PortId(0), len: 0, bytes: vec![0; capacity].into_boxed_slice() }
    }

    /// The frame.
    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The frame, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// Room for a frame; call [`set_len`](Self::set_len) once it is filled.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Declares the first `len` bytes to be the frame; capped at the capacity.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.bytes.len());
    }

    /// Copies a frame in and returns whether it fits.
    pub fn fill(&mut self, port: PortId, frame: &[u8]) -> bool {
        let Some(space) = self.bytes.get_mut(..frame.len()) else { return false };
        space.copy_from_slice(frame);
        self.port = port;
        self.len = frame.len();
        true
    }
}

/// A bounded queue of frames with its own supply of buffers: nothing is allocated after start-up.
#[derive(Debug)]
pub struct FrameQueue {
    full: ArrayQueue<SlowFrame>,
    empty: ArrayQueue<SlowFrame>,
}

impl FrameQueue {
    fn new(frames: usize, max_frame: usize) -> Self {
        let queue = Self { full: ArrayQueue::new(frames), empty: ArrayQueue::new(frames) };
        for _ in 0..frames {
            // The queue has room for exactly this many.
            let _ = queue.empty.push(SlowFrame::new(max_frame));
        }
        queue
    }

    /// An empty buffer, or `None` while all are under way.
    pub fn take_empty(&self) -> Option<SlowFrame> {
        self.empty.pop()
    }

    /// Queues a filled buffer. There is always room: buffers are only as many as places.
    pub fn send(&self, frame: SlowFrame) {
        let _ = self.full.push(frame);
    }

    /// The next filled buffer; give it back with [`recycle`](Self::recycle).
    pub fn receive(&self) -> Option<SlowFrame> {
        self.full.pop()
    }

    /// Returns a buffer to the supply.
    pub fn recycle(&self, frame: SlowFrame) {
        let _ = self.empty.push(frame);
    }
}

/// A request of the control thread to one worker, answered between bursts.
#[derive(Debug)]
pub enum Command {
    /// Append connections to `records`, from `cursor` on, until its capacity is reached.
    Dump {
        /// 0 to begin with, then what the last reply said.
        cursor: u64,
        /// Empty, with the capacity that bounds the slice.
        records: Vec<ConnRecord>,
    },
}

/// A worker's answer.
#[derive(Debug)]
pub enum Reply {
    /// A slice of the table.
    Dump {
        /// Where to go on; `None` when the table is through.
        next: Option<u64>,
        /// The connections.
        records: Vec<ConnRecord>,
    },
}

/// What one worker shares with the control thread.
#[derive(Debug)]
pub struct WorkerShared {
    /// Written by the worker only.
    pub counters: WorkerCounters,
    /// Requests to the worker.
    pub commands: ArrayQueue<Command>,
    /// Its answers, in order.
    pub replies: ArrayQueue<Reply>,
}

/// What all workers and the control thread share.
#[derive(Debug)]
pub struct Shared {
    /// The limits it was built with.
    pub limits: Limits,
    /// The configuration in force. Publish with [`publish`](Self::publish) only from the control thread.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// By [`WorkerId`].
    pub workers: Box<[CachePadded<WorkerShared>]>,
    /// Which servers the clients of persistent services go to.
    pub templates: Templates,
    /// Which worker has a connection whose replies do not tell; with more than one worker.
    pub replies: Option<Replies>,
    /// Frames for the kernel.
    pub punt: FrameQueue,
    /// Frames from the kernel; the first worker sends them.
    pub inject: FrameQueue,
    /// Next hops that the kernel is asked to resolve. Bounded; a worker asks again later if it is full.
    pub resolve: ArrayQueue<(PortId, IpAddr)>,
    /// By [`ServerId`](crate::ServerId): over the upper threshold and not yet below the lower one again. Set and cleared by
    /// whichever worker notices; a lost update is made up for by the next connection.
    pub(crate) overloaded: Box<[AtomicBool]>,
    /// Whose the connections are that others have announced; for none while there is one worker only.
    pub directory: Directory,
    /// Buffers for packets that are put together from fragments.
    pub whole_packets: WholePool,
    stop: AtomicBool,
}

/// Tuples in the directory of announced connections. Each connection has one or two, until it ends.
const DIRECTORY_TUPLES: usize = 1 << 16;

impl Shared {
    /// Allocates everything.
    pub fn new(limits: Limits) -> Arc<Self> {
        let worker = || {
            CachePadded::new(WorkerShared {
                counters: WorkerCounters::new(limits.ports, limits.max_servers, limits.max_services),
                commands: ArrayQueue::new(16),
                replies: ArrayQueue::new(16),
            })
        };
        Arc::new(Self {
            limits,
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            workers: std::iter::repeat_with(worker).take(limits.workers).collect(),
            templates: Templates::new(limits.templates, limits.call_ids, random_seed()),
            replies: (limits.workers > 1).then(|| Replies::new(limits.noted_replies, random_seed())),
            punt: FrameQueue::new(limits.slow_path_frames, limits.max_frame),
            inject: FrameQueue::new(limits.slow_path_frames, limits.max_frame),
            resolve: ArrayQueue::new(1024),
            overloaded: std::iter::repeat_with(AtomicBool::default).take(limits.max_servers).collect(),
            directory: Directory::new(if limits.workers > 1 { DIRECTORY_TUPLES } else { 0 }, random_seed()),
            whole_packets: WholePool::new(limits.workers * WHOLE_PACKETS),
            stop: AtomicBool::new(false),
        })
    }

    /// What a worker shares.
    pub fn worker(&self, id: WorkerId) -> &WorkerShared {
        &self.workers[usize::from(id.0)]
    }

    /// Tells the workers to finish: they send what they hold and return.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// True once [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// From the system's random source.
fn random_seed() -> [u64; 2] {
    let random = RandomState::new();
    [random.hash_one(0), random.hash_one(1)]
}

/// The control thread's end: publishes snapshots and keeps each until no worker holds it.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    kept: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// There is one publisher per [`Shared`].
    pub fn new(shared: Arc<Shared>) -> Self {
        let kept = vec![shared.snapshot.load_full()];
        Self { shared, kept }
    }

    /// Makes `snapshot` the one in force and frees those that nobody holds any more.
    pub fn publish(&mut self, mut snapshot: Snapshot) {
        let current = self.current();
        snapshot.generation = current.generation + 1;
        snapshot.fib_since = match snapshot.fib.generation == current.fib.generation {
            true => current.fib_since,
            false => snapshot.generation,
        };
        let snapshot = Arc::new(snapshot);
        self.shared.snapshot.store(Arc::clone(&snapshot));
        self.kept.push(snapshot);
        self.kept.retain(|kept| Arc::strong_count(kept) > 1);
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// True when every worker uses the snapshot in force.
    pub fn is_adopted(&self) -> bool {
        let generation = self.current().generation;
        self.shared.workers.iter().all(|w| w.counters.snapshot_generation.get_acquire() >= generation)
    }
}
