//! Schedulers: which real server takes a new connection.
//!
//! A [`Scheduler`] is immutable and belongs to the configuration; what a scheduler remembers between connections is
//! a worker's [`State`]. Servers are seen through [`Pool`], so that this crate knows nothing of tables and counters.
//! Rules are those of Linux IPVS (net/netfilter/ipvs/ip_vs_*.c, 6.1): a server of weight 0 or over its threshold takes
//! no new connection under any scheduler.
#![forbid(unsafe_code)]

mod rr;
mod wlc;
mod wrr;

/// The real servers of a service at the moment of a decision, in list order.
pub trait Pool {
    /// How many servers there are.
    fn len(&self) -> usize;
    /// Configured weight, 0 to 65535.
    fn weight(&self, server: usize) -> u32;
    /// True while the server is over its connection threshold.
    fn is_overloaded(&self, server: usize) -> bool;
    /// Connections in an active state, of the whole director.
    fn active(&self, server: usize) -> u64;
    /// Connections in any other state, of the whole director.
    fn inactive(&self, server: usize) -> u64;

    /// True when there is no server.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the server takes new connections.
    fn is_available(&self, server: usize) -> bool {
        self.weight(server) > 0 && !self.is_overloaded(server)
    }
}

/// Scheduling methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Round robin: the next available server in list order.
    Rr,
    /// Weighted round robin: servers take turns in proportion to their weights.
    Wrr,
    /// Weighted least connection: the least overhead per weight.
    Wlc,
}

/// A scheduling method with what it derives from the servers' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduler {
    kind: Kind,
    turns: wrr::Turns,
}

impl Scheduler {
    /// Prepares `kind` for servers of these weights, in list order.
    pub fn new(kind: Kind, weights: &[u32]) -> Self {
        Self { kind, turns: wrr::Turns::new(weights) }
    }

    /// The method.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The server for a new connection, as index into `pool`; `None` when none takes it.
    pub fn pick(&self, state: &mut State, pool: &impl Pool) -> Option<usize> {
        let choice = match self.kind {
            Kind::Rr => rr::pick(state.last, pool),
            Kind::Wrr => wrr::pick(&self.turns, state, pool),
            Kind::Wlc => wlc::pick(pool),
        };
        if choice.is_some() {
            state.last = choice;
        }
        choice
    }

    /// Brings `state` up to date after the servers or their weights have changed. `last` is where the server that
    /// was chosen last stands now, or the one before it if it is gone.
    pub fn resume(&self, state: &mut State, last: Option<usize>) {
        state.last = last;
        if self.kind == Kind::Wrr {
            self.turns.resume(state);
        }
    }
}

/// What a worker remembers of one service between two connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    last: Option<usize>,
    current_weight: u32,
}

impl State {
    /// The server chosen last.
    pub fn last(&self) -> Option<usize> {
        self.last
    }
}

/// Server indices from the one after `last` round to `last` itself; from the head when nothing was chosen yet.
fn round(last: Option<usize>, len: usize) -> impl Iterator<Item = usize> {
    let start = match last {
        Some(last) if last + 1 < len => last + 1,
        _ => 0,
    };
    (start..len).chain(0..start)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A pool made of plain numbers.

    use super::*;

    #[derive(Clone, Copy, Debug)]
    pub struct Entry {
        pub weight: u32,
        pub overloaded: bool,
        pub active: u64,
        pub inactive: u64,
    }

    pub fn pool(weights: &[u32]) -> Vec<Entry> {
        weights.iter().map(|&weight| Entry { weight, overloaded: false, active: 0, inactive: 0 }).collect()
    }

    impl Pool for Vec<Entry> {
        fn len(&self) -> usize {
            Vec::len(self)
        }
        fn weight(&self, server: usize) -> u32 {
            self[server].weight
        }
        fn is_overloaded(&self, server: usize) -> bool {
            self[server].overloaded
        }
        fn active(&self, server: usize) -> u64 {
            self[server].active
        }
        fn inactive(&self, server: usize) -> u64 {
            self[server].inactive
        }
    }

    pub fn picks(kind: Kind, pool: &Vec<Entry>, n: usize) -> Vec<Option<usize>> {
        let weights: Vec<u32> = pool.iter().map(|e| e.weight).collect();
        let scheduler = Scheduler::new(kind, &weights);
        let mut state = State::default();
        (0..n).map(|_| scheduler.pick(&mut state, pool)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    const ALL: [Kind; 3] = [Kind::Rr, Kind::Wrr, Kind::Wlc];

    #[test]
    fn nobody_available() {
        for kind in ALL {
            assert_eq!(picks(kind, &pool(&[]), 2), [None, None], "{kind:?}, no server");
            assert_eq!(picks(kind, &pool(&[0, 0]), 2), [None, None], "{kind:?}, weight 0");
            let mut overloaded = pool(&[3, 65535]);
            overloaded.iter_mut().for_each(|e| e.overloaded = true);
            assert_eq!(picks(kind, &overloaded, 2), [None, None], "{kind:?}, overloaded");
        }
    }

    #[test]
    fn only_available_servers_are_chosen() {
        for kind in ALL {
            let mut servers = pool(&[5, 0, 65535, 2]);
            servers[2].overloaded = true;
            let chosen = picks(kind, &servers, 20);
            assert!(chosen.iter().all(|c| matches!(c, Some(0 | 3))), "{kind:?}: {chosen:?}");
        }
    }

    #[test]
    fn resume_after_removal_continues_in_the_list() {
        let scheduler = Scheduler::new(Kind::Rr, &[1, 1, 1]);
        let mut state = State::default();
        let servers = pool(&[1, 1, 1]);
        assert_eq!(scheduler.pick(&mut state, &servers), Some(0));
        assert_eq!(scheduler.pick(&mut state, &servers), Some(1));
        // Server 0 leaves: the one chosen last is now at index 0, the next in turn at index 1.
        let fewer = Scheduler::new(Kind::Rr, &[1, 1]);
        fewer.resume(&mut state, Some(0));
        assert_eq!(fewer.pick(&mut state, &pool(&[1, 1])), Some(1));
    }
}
