//! Schedulers: which real server takes a new connection.
//!
//! A [`Scheduler`] is immutable and belongs to the configuration; what a scheduler remembers between connections is
//! a worker's [`State`]. Servers are seen through [`Pool`], so that this crate knows nothing of tables and counters.
//! Rules are those of Linux IPVS (net/netfilter/ipvs/ip_vs_*.c, 6.1): a server of weight 0 or over its threshold takes
//! no new connection under any scheduler.
#![forbid(unsafe_code)]

mod conhash;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod locality;
mod mh;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
mod twos;
mod wlc;
mod wrr;

use std::net::{IpAddr, SocketAddr};

/// The real servers of a service at the moment of a decision, in list order.
pub trait Pool {
    /// How many servers there are.
    fn len(&self) -> usize;
    /// A number that the server keeps while others come and go.
    fn id(&self, server: usize) -> u32;
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

/// The packet that asks for a connection.
pub trait Request {
    /// Where it comes from.
    fn source(&self) -> IpAddr;
    /// The client's port.
    fn source_port(&self) -> u16;
    /// Where it goes.
    fn destination(&self) -> IpAddr;
    /// The first 8 bytes of the destination connection id, if it is a QUIC packet.
    fn quic_id(&self) -> Option<u64>;
    /// Seconds since some fixed moment; never less than before.
    fn now(&self) -> u32;
    /// What lblc and lblcr remember, and how long.
    fn expirations(&self) -> Expirations;
}

/// How long lblc and lblcr remember the servers of a destination, in seconds. 0: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expirations {
    /// After its last connection, lblc.
    pub lblc: u32,
    /// After its last connection, lblcr; also the time without change after which the most loaded server leaves the set.
    pub lblcr: u32,
}

impl Default for Expirations {
    /// A day, as in IPVS.
    fn default() -> Self {
        Self { lblc: 24 * 60 * 60, lblcr: 24 * 60 * 60 }
    }
}

/// Scheduling methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Round robin: the next available server in list order.
    Rr,
    /// Weighted round robin: servers take turns in proportion to their weights.
    Wrr,
    /// Least connection: the least overhead.
    Lc,
    /// Weighted least connection: the least overhead per weight.
    Wlc,
    /// Shortest expected delay: the least active connections per weight, the new one included.
    Sed,
    /// Never queue: a server without active connections, or the one of the shortest expected delay.
    Nq,
    /// Weighted failover: the highest weight.
    Fo,
    /// Weighted overflow: the highest weight among those with no more active connections than that.
    Ovf,
    /// The less loaded of two that are drawn by weight.
    Twos,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh(Hashing),
    /// Maglev hashing of the source.
    Mh(Hashing),
    /// Locality-based least connection: a server for each destination.
    Lblc,
    /// Locality-based least connection with replication: a set of servers for each destination.
    Lblcr,
    /// Consistent hashing.
    Conhash(Key),
}

/// What consistent hashing hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Key {
    /// The source address.
    #[default]
    Source,
    /// QUIC's connection id, so that a client that moves to another address keeps its server; the source address where
    /// there is no id.
    QuicId,
}

/// Options of source and Maglev hashing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hashing {
    /// The source port counts as well as the address.
    pub port: bool,
    /// When the server is unavailable, another takes its connections; otherwise they are refused.
    pub fallback: bool,
}

/// What a scheduler needs to know of a server in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address and port.
    pub address: SocketAddr,
    /// Configured weight, 0 to 65535.
    pub weight: u32,
    /// The weight, or the one before it was set to 0: Maglev hashing keeps the server's place. 0 if there was none.
    pub last_weight: u32,
}

/// A scheduling method with what it derives from the servers. A copy shares what that is.
#[derive(Clone, Debug)]
pub struct Scheduler(Method);

#[derive(Clone, Debug)]
enum Method {
    Rr,
    Wrr(wrr::Turns),
    Lc,
    Wlc,
    Sed,
    Nq,
    Fo,
    Ovf,
    Twos,
    Dh(dh::Table),
    Sh(sh::Table, Hashing),
    Mh(mh::Table, Hashing),
    Lblc(lblc::Table),
    Lblcr(lblcr::Table),
    Conhash(conhash::Ring, Key),
}

impl Scheduler {
    /// Prepares `kind` for these servers, in list order. The methods that hash build their tables here: Maglev hashing
    /// takes some 0.04 ms and 8 KiB.
    pub fn new(kind: Kind, servers: &[Server]) -> Self {
        Self(match kind {
            Kind::Rr => Method::Rr,
            Kind::Wrr => Method::Wrr(wrr::Turns::new(servers.iter().map(|server| server.weight))),
            Kind::Lc => Method::Lc,
            Kind::Wlc => Method::Wlc,
            Kind::Sed => Method::Sed,
            Kind::Nq => Method::Nq,
            Kind::Fo => Method::Fo,
            Kind::Ovf => Method::Ovf,
            Kind::Twos => Method::Twos,
            Kind::Dh => Method::Dh(dh::table(servers.len())),
            Kind::Sh(hashing) => Method::Sh(sh::table(servers), hashing),
            Kind::Mh(hashing) => Method::Mh(mh::table(servers), hashing),
            Kind::Lblc => Method::Lblc(lblc::Table::new()),
            Kind::Lblcr => Method::Lblcr(lblcr::Table::new()),
            Kind::Conhash(key) => Method::Conhash(conhash::ring(servers), key),
        })
    }

    /// With what `former`, the scheduler of the same service before a change, remembers of destinations, if both are of
    /// one kind.
    pub fn after(self, former: &Scheduler) -> Self {
        match (&self.0, &former.0) {
            (Method::Lblc(_), Method::Lblc(_)) | (Method::Lblcr(_), Method::Lblcr(_)) => former.clone(),
            _ => self,
        }
    }

    /// The method.
    pub fn kind(&self) -> Kind {
        match self.0 {
            Method::Rr => Kind::Rr,
            Method::Wrr(_) => Kind::Wrr,
            Method::Lc => Kind::Lc,
            Method::Wlc => Kind::Wlc,
            Method::Sed => Kind::Sed,
            Method::Nq => Kind::Nq,
            Method::Fo => Kind::Fo,
            Method::Ovf => Kind::Ovf,
            Method::Twos => Kind::Twos,
            Method::Dh(_) => Kind::Dh,
            Method::Sh(_, hashing) => Kind::Sh(hashing),
            Method::Mh(_, hashing) => Kind::Mh(hashing),
            Method::Lblc(_) => Kind::Lblc,
            Method::Lblcr(_) => Kind::Lblcr,
            Method::Conhash(_, key) => Kind::Conhash(key),
        }
    }

    /// The server for a new connection, as index into `pool`; `None` when none takes it.
    pub fn pick(&self, state: &mut State, request: &impl Request, pool: &impl Pool) -> Option<usize> {
        let choice = match &self.0 {
            Method::Rr => rr::pick(state.last, pool),
            Method::Wrr(turns) => wrr::pick(turns, state, pool),
            Method::Wlc => wlc::pick(pool),
            _ => self.pick_otherwise(state, request, pool),
        };
        if choice.is_some() {
            state.last = choice;
        }
        choice
    }

    /// The choice of the less usual methods, in a function of its own so that the usual ones stay short.
    #[inline(never)]
    fn pick_otherwise(&self, state: &mut State, request: &impl Request, pool: &impl Pool) -> Option<usize> {
        match &self.0 {
            Method::Rr | Method::Wrr(_) | Method::Wlc => None,
            Method::Lc => lc::pick(pool),
            Method::Sed => sed::pick(pool),
            Method::Nq => nq::pick(pool),
            Method::Fo => fo::pick(pool),
            Method::Ovf => ovf::pick(pool),
            Method::Twos => twos::pick(&mut state.random, pool),
            Method::Dh(table) => dh::pick(table, request.destination(), pool),
            Method::Sh(table, hashing) => sh::pick(table, *hashing, request, pool),
            Method::Mh(table, hashing) => mh::pick(table, *hashing, request, pool),
            Method::Lblc(table) => lblc::pick(table, request, pool),
            Method::Lblcr(table) => lblcr::pick(table, request, pool),
            Method::Conhash(ring, key) => conhash::pick(ring, *key, request, pool),
        }
    }

    /// Brings `state` up to date after the servers or their weights have changed. `last` is where the server that
    /// was chosen last stands now, or the one before it if it is gone.
    pub fn resume(&self, state: &mut State, last: Option<usize>) {
        state.last = last;
        if let Method::Wrr(turns) = &self.0 {
            turns.resume(state);
        }
    }
}

/// What a worker remembers of one service between two connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    last: Option<usize>,
    current_weight: u32,
    random: u64,
}

impl State {
    /// The state before the first connection. What is drawn at random depends on `seed`.
    pub fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

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
    //! Pools and packets made of plain numbers.

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
        fn id(&self, server: usize) -> u32 {
            server as u32
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

    /// 10.0.0.1:80, 10.0.0.2:80 and so on.
    pub fn servers(weights: &[u32]) -> Vec<Server> {
        let address = |n: u32| SocketAddr::new((0x0a00_0001 + n).to_be_bytes().into(), 80);
        let server = |(n, &weight)| Server { address: address(n), weight, last_weight: weight };
        (0..).zip(weights).map(server).collect()
    }

    #[derive(Clone, Copy, Debug)]
    pub struct Packet {
        source: [u8; 4],
        source_port: u16,
        destination: [u8; 4],
        quic_id: Option<u64>,
        now: u32,
        expirations: Expirations,
    }

    pub fn from(source: [u8; 4], source_port: u16) -> Packet {
        Packet { source, source_port, ..to([203, 0, 113, 1], 1) }
    }

    pub fn to(destination: [u8; 4], now: u32) -> Packet {
        let expirations = Expirations::default();
        Packet { source: [198, 51, 100, 1], source_port: 1024, destination, quic_id: None, now, expirations }
    }

    impl Packet {
        pub fn of_quic(self, id: u64) -> Self {
            Self { quic_id: Some(id), ..self }
        }

        /// While both expirations are so many seconds.
        pub fn expiring_after(self, seconds: u32) -> Self {
            Self { expirations: Expirations { lblc: seconds, lblcr: seconds }, ..self }
        }
    }

    impl Request for Packet {
        fn source(&self) -> IpAddr {
            self.source.into()
        }
        fn source_port(&self) -> u16 {
            self.source_port
        }
        fn destination(&self) -> IpAddr {
            self.destination.into()
        }
        fn quic_id(&self) -> Option<u64> {
            self.quic_id
        }
        fn now(&self) -> u32 {
            self.now
        }
        fn expirations(&self) -> Expirations {
            self.expirations
        }
    }

    pub fn scheduler(kind: Kind, pool: &[Entry]) -> Scheduler {
        Scheduler::new(kind, &servers(&pool.iter().map(|e| e.weight).collect::<Vec<_>>()))
    }

    /// The choices for `n` clients.
    pub fn picks(kind: Kind, pool: &Vec<Entry>, n: usize) -> Vec<Option<usize>> {
        let scheduler = scheduler(kind, pool);
        let mut state = State::default();
        let client = |n: usize| from([10, 1, (n >> 8) as u8, n as u8], n as u16);
        (0..n).map(|n| scheduler.pick(&mut state, &client(n), pool)).collect()
    }

    /// Weight, active and inactive connections.
    pub type Numbers = (u32, u64, u64);

    /// Checks the first choice among such servers.
    pub fn check<const N: usize>(kind: Kind, cases: [(Vec<Numbers>, usize); N]) {
        for (servers, expected) in cases {
            let entry = |&(weight, active, inactive): &Numbers| Entry { weight, overloaded: false, active, inactive };
            let pool: Vec<Entry> = servers.iter().map(entry).collect();
            assert_eq!(picks(kind, &pool, 1), [Some(expected)], "{servers:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    const WITH_ALL: Hashing = Hashing { port: true, fallback: true };
    const ALL: [Kind; 18] = [
        Kind::Rr,
        Kind::Wrr,
        Kind::Lc,
        Kind::Wlc,
        Kind::Sed,
        Kind::Nq,
        Kind::Fo,
        Kind::Ovf,
        Kind::Twos,
        Kind::Dh,
        Kind::Sh(Hashing { port: false, fallback: false }),
        Kind::Sh(WITH_ALL),
        Kind::Mh(Hashing { port: false, fallback: false }),
        Kind::Mh(WITH_ALL),
        Kind::Lblc,
        Kind::Lblcr,
        Kind::Conhash(Key::Source),
        Kind::Conhash(Key::QuicId),
    ];

    #[test]
    fn a_scheduler_knows_its_kind() {
        for kind in ALL {
            assert_eq!(Scheduler::new(kind, &servers(&[1, 2])).kind(), kind);
        }
    }

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
            let chosen = picks(kind, &servers, 200);
            // Without fallback, hashing may lead to one that is not available.
            let may_refuse = match kind {
                Kind::Dh => true,
                Kind::Sh(hashing) | Kind::Mh(hashing) => !hashing.fallback,
                _ => false,
            };
            let is_right = |c: &Option<usize>| matches!(c, Some(0 | 3)) || (c.is_none() && may_refuse);
            assert!(chosen.iter().all(is_right), "{kind:?}: {chosen:?}");
        }
    }

    #[test]
    fn resume_after_removal_continues_in_the_list() {
        let scheduler = Scheduler::new(Kind::Rr, &servers(&[1, 1, 1]));
        let mut state = State::default();
        let (packet, members) = (from([192, 0, 2, 1], 1), pool(&[1, 1, 1]));
        assert_eq!(scheduler.pick(&mut state, &packet, &members), Some(0));
        assert_eq!(scheduler.pick(&mut state, &packet, &members), Some(1));
        // Server 0 leaves: the one chosen last is now at index 0, the next in turn at index 1.
        let fewer = Scheduler::new(Kind::Rr, &servers(&[1, 1]));
        fewer.resume(&mut state, Some(0));
        assert_eq!(fewer.pick(&mut state, &packet, &pool(&[1, 1])), Some(1));
    }

    #[test]
    fn destinations_are_remembered_through_a_change_of_servers() {
        for kind in [Kind::Lblc, Kind::Lblcr] {
            let mut members = pool(&[1, 1]);
            let before = scheduler(kind, &members);
            let packet = to([192, 0, 2, 1], 1);
            let pick =
                |scheduler: &Scheduler, members: &Vec<Entry>| scheduler.pick(&mut State::default(), &packet, members);
            assert_eq!(pick(&before, &members), Some(0));
            members[0].active = 1;
            assert_eq!(pick(&scheduler(kind, &members).after(&before), &members), Some(0), "{kind:?}");
            assert_eq!(pick(&scheduler(kind, &members), &members), Some(1), "{kind:?}");
            assert_eq!(scheduler(Kind::Rr, &members).after(&before).kind(), Kind::Rr);
        }
    }
}
