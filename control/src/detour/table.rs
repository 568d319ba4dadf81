//! The flows that take a detour.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataplane::snapshot::Encapsulation;
use proto::Protocol;

/// Most flows, those included whose sockets were closed lately.
const CAPACITY: usize = 16_384;

/// How long a flow stays when its socket is closed: the kernel may repeat a FIN, or have to answer the server's.
const LINGER: Duration = Duration::from_secs(2);

/// An address with a port; for an echo of ICMP, one end has its identifier and the other its sequence number.
pub(crate) type End = (IpAddr, u16);

/// A flow, between the director's end and the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub protocol: Protocol,
    pub local: End,
    pub remote: End,
}

/// Where a flow really goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtualEnd {
    pub end: End,
    /// The server's tunnel; `None`: direct routing.
    pub tunnel: Option<Encapsulation>,
}

/// The flows that take a detour, shared by checks and the thread of the kernel's frames.
#[derive(Debug, Default)]
pub struct Detours {
    table: Mutex<Table>,
    /// How many there are, to be read without the lock.
    len: AtomicUsize,
    /// Identification of the next tunnel header.
    next_id: AtomicU16,
}

#[derive(Debug, Default)]
struct Table {
    /// By what the kernel sends.
    flows: HashMap<Flow, Entry>,
    /// What the kernel sends, by what the server answers to.
    answered: HashMap<Flow, Flow>,
    /// Closed ones, oldest first, with the numbers of their entries.
    closed: VecDeque<(Instant, Flow, u64)>,
    last_number: u64,
}

#[derive(Debug)]
struct Entry {
    to: VirtualEnd,
    /// Tells it from a later one of the same flow.
    number: u64,
    is_open: bool,
    was_used: Arc<AtomicBool>,
}

/// A flow's detour, until some time after this is dropped.
#[derive(Debug)]
pub(crate) struct Detour {
    detours: Arc<Detours>,
    flow: Flow,
    number: u64,
    was_used: Arc<AtomicBool>,
}

impl Detours {
    /// Has a flow, whose remote end is the server, take a detour. `None` if there are too many, or if the answers could not be
    /// told from those of another one.
    pub(crate) fn add(self: &Arc<Self>, flow: Flow, to: VirtualEnd) -> Option<Detour> {
        let mut table = self.table();
        table.forget(Instant::now());
        let answers = Flow { remote: to.end, ..flow };
        for former in [Some(flow), table.answered.get(&answers).copied()].into_iter().flatten() {
            match table.flows.get(&former) {
                Some(Entry { is_open: true, .. }) => return None,
                Some(_) => table.remove(&former),
                None => {}
            }
        }
        while table.flows.len() >= CAPACITY {
            let (_, oldest, number) = table.closed.pop_front()?;
            table.remove_number(&oldest, number);
        }
        table.last_number += 1;
        let (number, was_used) = (table.last_number, Arc::new(AtomicBool::new(false)));
        table.answered.insert(answers, flow);
        table.flows.insert(flow, Entry { to, number, is_open: true, was_used: Arc::clone(&was_used) });
        self.len.store(table.flows.len(), Ordering::Release);
        Some(Detour { detours: Arc::clone(self), flow, number, was_used })
    }

    /// True while no flow takes a detour.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Identification for a tunnel header.
    pub(super) fn next_id(&self) -> u16 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Where a packet of the kernel really goes to; notes that there was one.
    pub(super) fn of_kernel(&self, flow: &Flow) -> Option<VirtualEnd> {
        let table = self.fresh();
        let entry = table.flows.get(flow)?;
        entry.was_used.store(true, Ordering::Relaxed);
        Some(entry.to)
    }

    /// The server's end, as the kernel knows it, of a flow whose other end is a virtual one.
    pub(super) fn of_server(&self, flow: &Flow) -> Option<End> {
        Some(self.fresh().answered.get(flow)?.remote)
    }

    /// The table without what its time is up for.
    fn fresh(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table();
        table.forget(Instant::now());
        self.len.store(table.flows.len(), Ordering::Release);
        table
    }

    /// The table is whole between any two changes.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        while let Some(&(when, flow, number)) = self.closed.front()
            && now.saturating_duration_since(when) >= LINGER
        {
            self.closed.pop_front();
            self.remove_number(&flow, number);
        }
    }

    fn remove_number(&mut self, flow: &Flow, number: u64) {
        if self.flows.get(flow).is_some_and(|entry| entry.number == number) {
            self.remove(flow);
        }
    }

    fn remove(&mut self, flow: &Flow) {
        if let Some(entry) = self.flows.remove(flow) {
            self.answered.remove(&Flow { remote: entry.to.end, ..*flow });
        }
    }
}

impl Detour {
    /// Whether a packet has taken it.
    pub fn was_used(&self) -> bool {
        self.was_used.load(Ordering::Relaxed)
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        let mut table = self.detours.table();
        if let Some(entry) = table.flows.get_mut(&self.flow)
            && entry.number == self.number
        {
            entry.is_open = false;
            table.closed.push_back((Instant::now(), self.flow, self.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(local_port: u16, server: u8) -> Flow {
        let remote = (IpAddr::from([10, 0, 0, server]), 80);
        Flow { protocol: Protocol::TCP, local: (IpAddr::from([192, 0, 2, 1]), local_port), remote }
    }

    const TO: VirtualEnd = VirtualEnd { end: (IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100)), 80), tunnel: None };

    fn answers(local_port: u16) -> Flow {
        Flow { remote: TO.end, ..flow(local_port, 0) }
    }

    #[test]
    fn a_flow_is_found_from_both_sides() {
        let detours = Arc::new(Detours::default());
        assert!(detours.is_empty());
        let detour = detours.add(flow(1025, 1), TO).unwrap();
        assert!(!detours.is_empty() && !detour.was_used());
        assert_eq!(detours.of_server(&answers(1025)), Some(flow(1025, 1).remote));
        assert_eq!(detours.of_server(&answers(1026)), None);
        assert_eq!(detours.of_kernel(&flow(1025, 2)), None);
        assert!(!detour.was_used());
        assert_eq!(detours.of_kernel(&flow(1025, 1)), Some(TO));
        assert!(detour.was_used());
    }

    #[test]
    fn answers_tell_whose_they_are() {
        let detours = Arc::new(Detours::default());
        let one = detours.add(flow(1025, 1), TO).unwrap();
        assert!(detours.add(flow(1025, 2), TO).is_none(), "both servers would answer the same endpoint");
        assert!(detours.add(flow(1025, 1), VirtualEnd { end: flow(0, 9).remote, ..TO }).is_none(), "the same flow");
        let other = detours.add(flow(1026, 2), TO).unwrap();
        assert_eq!(detours.of_server(&answers(1026)), Some(flow(0, 2).remote));
        // A closed one gives way, and its end does not end the one that took its place.
        drop(one);
        let new = detours.add(flow(1025, 2), TO).unwrap();
        assert_eq!(detours.of_server(&answers(1025)), Some(flow(0, 2).remote));
        detours.table().forget(Instant::now() + LINGER);
        assert_eq!(detours.of_server(&answers(1025)), Some(flow(0, 2).remote));
        drop((new, other));
    }

    #[test]
    fn closed_flows_stay_for_a_while() {
        let detours = Arc::new(Detours::default());
        drop(detours.add(flow(1025, 1), TO).unwrap());
        assert_eq!(detours.of_kernel(&flow(1025, 1)), Some(TO));
        let mut table = detours.table();
        table.forget(Instant::now() + LINGER / 2);
        assert_eq!((table.flows.len(), table.answered.len()), (1, 1));
        table.forget(Instant::now() + LINGER);
        assert_eq!((table.flows.len(), table.answered.len(), table.closed.len()), (0, 0, 0));
        drop(table);
        assert_eq!(detours.of_kernel(&flow(1025, 1)), None);
        assert!(detours.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let detours = Arc::new(Detours::default());
        let flow = |n: usize| flow(1 + (n % 50_000) as u16, 1);
        let mut open: Vec<Detour> = (0..CAPACITY).map(|n| detours.add(flow(n), TO).unwrap()).collect();
        assert!(detours.add(flow(CAPACITY), TO).is_none(), "all are open");
        drop(open.swap_remove(0));
        assert!(detours.add(flow(CAPACITY), TO).is_some(), "the closed one has gone");
        assert_eq!(detours.of_kernel(&flow(0)), None);
        let table = detours.table();
        assert_eq!((table.flows.len(), table.answered.len()), (CAPACITY, CAPACITY));
    }
}
