//! What becomes of connections, for those who keep a log of it.
//!
//! A worker that logs puts an event into a bounded ring when a connection begins and when it ends, at a limited rate; a
//! thread of the control side takes them out. What finds no room is counted. How many packets and bytes a connection had
//! is known only if every packet is counted, for which packets must take the long way: that is a choice of its own.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use proto::{Address, Family};

use crate::conn::{ConnFlags, ConnId, ConnRecord, ConnTable, Side, TICKS_PER_SECOND, Tick};
use crate::counters::WorkerCounters;
use crate::limit::RateLimit;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It had no packet for the timeout of its state.
    Timeout,
    /// Its client began another one from the same port.
    Replaced,
    /// Its server was removed.
    ServerGone,
    /// The defence `drop_entry` chose it.
    DropEntry,
}

/// Packets and bytes of a connection; bytes are those of IP packets as received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from the client.
    pub in_packets: u64,
    /// Bytes from the client.
    pub in_bytes: u64,
    /// Packets from the server.
    pub out_packets: u64,
    /// Bytes from the server.
    pub out_bytes: u64,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnNews {
    /// It began.
    Created,
    /// It ended.
    Ended {
        /// Why.
        reason: EndReason,
        /// How long it lasted, in milliseconds; the clock counts 125 at once.
        lasted_ms: u64,
        /// What it carried, if that was counted.
        traffic: Option<Traffic>,
    },
}

/// An entry of the log.
#[derive(Clone, Copy, Debug)]
pub struct ConnEvent {
    /// The connection as it was then.
    pub record: ConnRecord,
    /// What happened.
    pub news: ConnNews,
}

/// How a worker logs.
#[derive(Clone, Debug)]
pub struct ConnLogConfig {
    /// Where the events go.
    pub events: Arc<ArrayQueue<ConnEvent>>,
    /// Events per second that are logged; 0: all.
    pub rate: u32,
    /// Packets and bytes are counted: no packet takes the short way.
    pub traffic: bool,
}

/// A connection that was logged when it began.
#[derive(Clone, Copy, Debug, Default)]
struct Logged {
    /// When; the first tick there is means: it was not.
    began: Tick,
    traffic: Traffic,
}

/// A worker's end of the log.
#[derive(Debug)]
pub(crate) struct ConnLog {
    config: ConnLogConfig,
    limit: Option<RateLimit>,
    /// By family and [`ConnId`]. Untouched until a connection has the place.
    logged: [Box<[Logged]>; 2],
}

impl ConnLog {
    /// For tables of so many connections.
    pub fn new(config: ConnLogConfig, connections: usize) -> Self {
        let logged = || {
            // Zeroed memory that the system gives page by page, as it is used.
            let mut places = Vec::with_capacity(connections);
            places.resize(connections, Logged::default());
            places.into_boxed_slice()
        };
        let limit = (config.rate > 0).then(|| RateLimit::new(config.rate, config.rate));
        Self { config, limit, logged: [logged(), logged()] }
    }

    fn logged<A: Address>(&mut self, id: ConnId) -> &mut Logged {
        let family = usize::from(A::FAMILY == Family::V6);
        &mut self.logged[family][id.0 as usize]
    }

    /// A connection has begun. `record` is made only if there is room.
    pub fn begin<A: Address>(
        &mut self,
        table: &mut ConnTable<A>,
        id: ConnId,
        now: Tick,
        counters: &WorkerCounters,
        record: impl FnOnce(&crate::conn::Conn<A>) -> ConnRecord,
    ) {
        *self.logged::<A>(id) = Logged { began: now, traffic: Traffic::default() };
        if self.config.traffic {
            table.get_mut(id).flags.insert(ConnFlags::LONG_WAY);
        }
        self.push(now, counters, || ConnEvent { record: record(table.get(id)), news: ConnNews::Created });
    }

    /// Counts a packet of `len` bytes.
    #[inline]
    pub fn count<A: Address>(&mut self, id: ConnId, side: Side, len: u16) {
        if self.config.traffic {
            let traffic = &mut self.logged::<A>(id).traffic;
            let (packets, bytes) = match side {
                Side::Inbound => (&mut traffic.in_packets, &mut traffic.in_bytes),
                Side::Outbound => (&mut traffic.out_packets, &mut traffic.out_bytes),
            };
            *packets += 1;
            *bytes += u64::from(len);
        }
    }

    /// A connection has ended. `record` is made only if there is room.
    pub fn end<A: Address>(
        &mut self,
        id: ConnId,
        reason: EndReason,
        now: Tick,
        counters: &WorkerCounters,
        record: impl FnOnce() -> ConnRecord,
    ) {
        let Logged { began, traffic } = std::mem::take(self.logged::<A>(id));
        // An announced connection whose first packet never came.
        if began == Tick::default() {
            return;
        }
        let lasted_ms = u64::from(now.0.saturating_sub(began.0)) * 1000 / u64::from(TICKS_PER_SECOND);
        let traffic = self.config.traffic.then_some(traffic);
        let news = ConnNews::Ended { reason, lasted_ms, traffic };
        self.push(now, counters, || ConnEvent { record: record(), news });
    }

    fn push(&mut self, now: Tick, counters: &WorkerCounters, event: impl FnOnce() -> ConnEvent) {
        if self.limit.as_mut().is_some_and(|limit| !limit.allow(now)) {
            counters.log_suppressed.add(1);
        } else if self.config.events.is_full() || self.config.events.push(event()).is_err() {
            counters.log_overflowed.add(1);
        }
    }
}
