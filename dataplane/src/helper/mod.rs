//! Helpers: they read the data of connections that announce other connections, and see to it that those go to the same
//! server (net/netfilter/ipvs: ip_vs_app.c, ip_vs_ftp.c).
//!
//! An announced connection waits in the table of the worker that owns the announcing one, its controller, in the state
//! LISTEN. One of its ports may be unknown, and is 0 until the first packet shows it. Wherever its packets arrive, they are
//! passed to that worker ([`crate::directory`]). The controller does not end before it.

mod ftp;
mod splice;
mod text;
mod tftp;

pub use ftp::Ftp;

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use proto::parse::Fragment;
use proto::state::State;
use proto::{Protocol, Tuple, tcp};

use crate::conn::{Announced, Conn, ConnFlags, ConnId, InsertError, Side, Unanswered};
use crate::conn_log::EndReason;
use crate::directory::EnterError;
use crate::fib::AdjacencyId;
use crate::ip::Ip;
use crate::lifecycle::count_ended;
use crate::packet::WorkerIo;
use crate::pipeline::{Job, Pipeline};
use crate::snapshot::{ForwardMode, Service, Snapshot};
use crate::verdict::{DropReason, Verdict};
use crate::way::Way;

/// Local ports that are tried for one connection, per worker.
const PORT_ATTEMPTS: usize = 128;

/// Virtual ports that are offered when the server's own is in use.
const OTHER_PORTS: (u16, u16) = (1024, 65535);

/// What a worker keeps for helpers.
pub(crate) struct Helpers {
    /// Announced connections of which a port is unknown.
    open: u32,
    /// The last number given to a controller or a tuple.
    number: u32,
    random: u64,
}

/// A tuple of an announced connection that other workers must know.
struct Expected<A> {
    tuple: Tuple<A>,
    /// There is no other choice: whoever has the tuple loses it.
    is_certain: bool,
}

/// Why a connection could not be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnnounceError {
    /// Another connection has one of its tuples.
    Taken,
    /// A table is full.
    Full,
}

impl Helpers {
    pub(crate) fn new(seed: u64) -> Self {
        Self { open: 0, number: 0, random: seed | 1 }
    }

    /// A number that no other controller or tuple of this worker has.
    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// The ports of a range in a random order of its own: all others, if `attempts` allows, from one that nobody can guess.
    fn ports(&mut self, (first, last): (u16, u16), attempts: usize) -> impl Iterator<Item = u16> + use<> {
        // Xorshift (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let first = first.max(1);
        let count = u64::from(last.saturating_sub(first)) + 1;
        let start = self.random % count;
        (0..count.min(attempts as u64)).map(move |i| first + ((start + i) % count) as u16)
    }
}

impl<Io: WorkerIo> Pipeline<Io> {
    /// Has the helper for its virtual port read a new connection, if there is one.
    pub(crate) fn attach_helper<A: Ip>(&mut self, snapshot: &Snapshot, service: &Service, id: ConnId) {
        let table = A::table(&mut self.tables);
        let conn = table.get_mut(id);
        // To a server of the other IP version only the controlling connection would be understood.
        if !conn.mode.sees_replies() || conn.flags.contains(ConnFlags::FAR) {
            return;
        }
        let ports = &snapshot.settings.helper_ports;
        match conn.protocol {
            Protocol::TCP if ports.ftp.contains(&conn.vport) => {
                conn.flags.insert(ConnFlags::LONG_WAY);
                table.add_extra(id).ftp = Some(Ftp::new(service.local_ports));
            }
            Protocol::UDP if ports.tftp.contains(&conn.vport) => conn.flags.insert(ConnFlags::LONG_WAY),
            _ => {}
        }
    }

    /// Has the connection's helper, if there is one, read a packet that is still as it came. The verdict, if there is one
    /// already.
    #[inline(always)]
    pub(crate) fn help<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        job: &mut Job<Io::Packet, A>,
        id: ConnId,
        side: Side,
        way: Way,
    ) -> Result<(), Verdict> {
        if tftp::is_for_server(snapshot, job, side) {
            return self.help_tftp(snapshot, job, id);
        }
        let has_helper = A::table(&mut self.tables).extra(id).is_some_and(|extra| extra.ftp.is_some());
        // Commands in fragments of a segment are not read.
        if !has_helper || job.ip.fragment != Fragment::None {
            return Ok(());
        }
        match way.mtu(&snapshot.fib) {
            Some(mtu) => self.help_ftp(snapshot, job, id, side, mtu),
            None => Ok(()),
        }
    }

    /// Expects `conn`, in the state LISTEN. With `is_open` one of its ports is unknown.
    fn announce<A: Ip>(
        &mut self,
        snapshot: &Snapshot,
        controller: ConnId,
        conn: Conn<A>,
        expected: &[Expected<A>],
        is_open: bool,
    ) -> Result<ConnId, AnnounceError> {
        let (server, timeout) = (conn.server, snapshot.settings.timeouts.get(State::Listen));
        self.make_way(&conn);
        let table = A::table(&mut self.tables);
        let id = table.insert(conn, timeout, self.now).map_err(|error| match error {
            InsertError::Full => AnnounceError::Full,
            InsertError::Exists => AnnounceError::Taken,
        })?;
        let mut tickets = ArrayVec::new();
        if self.shared.limits.workers > 1 {
            for Expected { tuple, is_certain } in expected {
                let number = self.helpers.next_number();
                let directory = &self.shared.directory;
                let entered = match is_certain {
                    true => directory.take(tuple, self.id, number),
                    false => directory.enter(tuple, self.id, number),
                };
                match entered {
                    Ok(ticket) => tickets.push(ticket),
                    Err(error) => {
                        tickets.into_iter().for_each(|ticket| self.shared.directory.remove(ticket));
                        A::table(&mut self.tables).remove(id);
                        return Err(match error {
                            EnterError::Taken => AnnounceError::Taken,
                            EnterError::Full => AnnounceError::Full,
                        });
                    }
                }
            }
        }
        let number = self.control::<A>(controller);
        let announced = Announced { controller: (controller, number), tickets, is_open };
        A::table(&mut self.tables).add_extra(id).announced = Some(announced);
        self.helpers.open += u32::from(is_open);
        if !is_open {
            self.log_begin::<A>(id);
        }
        self.counters().load(server).inactive.add(1);
        Ok(id)
    }

    /// Counts one more connection of a controller, and returns the controller's number.
    fn control<A: Ip>(&mut self, controller: ConnId) -> u32 {
        let extra = A::table(&mut self.tables).add_extra(controller);
        if extra.number == 0 {
            extra.number = self.helpers.next_number();
        }
        extra.controls += 1;
        extra.number
    }

    /// Ends connections to the same server that are in the way of `conn` and of no use any more.
    fn make_way<A: Ip>(&mut self, conn: &Conn<A>) {
        for tuple in [conn.inbound(), conn.outbound()] {
            let table = A::table(&mut self.tables);
            let Some((id, _)) = table.find(table.hash(&tuple), &tuple) else { continue };
            let old = table.get(id);
            let is_over = matches!(old.state, State::Listen | State::TimeWait | State::Close);
            if is_over && (old.daddr, old.server) == (conn.daddr, conn.server) && old.vaddr == conn.vaddr {
                self.end_connection::<A>(id, EndReason::Replaced);
                self.release_announced();
            }
        }
    }

    /// For the first packet of an announced connection one of whose ports was unknown: fills it in.
    pub(crate) fn open_announced<A: Ip>(
        &mut self,
        job: &Job<Io::Packet, A>,
    ) -> Option<Result<(ConnId, Side), DropReason>> {
        let (tuple, flags) = (job.ip.tuple, job.ip.flags);
        let is_opening = match tuple.protocol {
            Protocol::TCP => flags.contains(tcp::Flags::SYN) && !flags.contains(tcp::Flags::RST | tcp::Flags::ACK),
            protocol => protocol == Protocol::UDP,
        };
        if self.helpers.open == 0 || !is_opening {
            return None;
        }
        let table = A::table(&mut self.tables);
        let open = Tuple { sport: 0, ..tuple };
        let (id, side) = table.find(table.hash(&open), &open)?;
        // The connection gets another tuple, which it cannot while it is in the table.
        let mut announced = table.extra_mut(id)?.announced.take_if(|announced| announced.is_open)?;
        let mut conn = table.remove(id);
        let controller = table.extra(announced.controller.0).filter(|extra| extra.number == announced.controller.1);
        let ports = controller.and_then(|extra| Some(extra.ftp.as_ref()?.local_ports()));
        let laddr = table.get(announced.controller.0).laddr;
        let timeout = conn.timer.timeout();
        let inserted = match (side, conn.mode, ports) {
            (Side::Inbound, ForwardMode::FullNat, Some(ports)) => {
                conn.cport = tuple.sport;
                conn.laddr = laddr;
                self.insert_with_local_port(&conn, ports, timeout)
            }
            (Side::Inbound, ForwardMode::FullNat, None) => Err(InsertError::Exists),
            (Side::Inbound, ..) => {
                (conn.cport, conn.lport) = (tuple.sport, tuple.sport);
                table.insert(conn.clone(), timeout, self.now)
            }
            (Side::Outbound, ..) if conn.protocol == Protocol::UDP => {
                (conn.dport, conn.state) = (tuple.sport, State::Udp);
                self.insert_with_virtual_port(&mut conn, &mut announced.tickets, timeout)
            }
            (Side::Outbound, ..) => {
                conn.dport = tuple.sport;
                table.insert(conn.clone(), timeout, self.now)
            }
        };
        self.helpers.open -= 1;
        let announced = Announced { is_open: false, ..announced };
        Some(match inserted {
            Ok(id) => {
                A::table(&mut self.tables).add_extra(id).announced = Some(announced);
                self.log_begin::<A>(id);
                Ok((id, side))
            }
            Err(error) => {
                count_ended(&self.shared, self.id, &conn, None);
                self.release::<A>(announced);
                Err(match error {
                    InsertError::Full => DropReason::TableFull,
                    InsertError::Exists => DropReason::TupleConflict,
                })
            }
        })
    }

    /// Inserts a FULLNAT connection with a local port that is free and whose replies come to this worker.
    fn insert_with_local_port<A: Ip>(
        &mut self,
        conn: &Conn<A>,
        ports: (u16, u16),
        timeout: u32,
    ) -> Result<ConnId, InsertError> {
        let attempts = PORT_ATTEMPTS * self.shared.limits.workers;
        for lport in self.helpers.ports(ports, attempts) {
            let conn = Conn { lport, ..conn.clone() };
            if !self.takes_reply(&conn.outbound()) {
                continue;
            }
            match A::table(&mut self.tables).insert(conn, timeout, self.now) {
                Err(InsertError::Exists) => {}
                result => return result,
            }
        }
        Err(InsertError::Exists)
    }

    /// Lets go of what announced connections that have ended held.
    pub(crate) fn release_announced(&mut self) {
        while let Some(announced) = self.tables.v4.pop_ended() {
            self.release::<Ipv4Addr>(announced);
        }
        while let Some(announced) = self.tables.v6.pop_ended() {
            self.release::<Ipv6Addr>(announced);
        }
    }

    fn release<A: Ip>(&mut self, announced: Announced) {
        let Announced { controller: (controller, number), tickets, is_open } = announced;
        tickets.into_iter().for_each(|ticket| self.shared.directory.remove(ticket));
        self.helpers.open -= u32::from(is_open);
        if let Some(extra) = A::table(&mut self.tables).extra_mut(controller)
            && extra.number == number
        {
            extra.controls -= 1;
        }
    }
}

/// A data connection of a control connection, with the ports of the latter.
fn data_connection<A: Ip>(control: &Conn<A>) -> Conn<A> {
    Conn {
        state: State::Listen,
        flags: ConnFlags::empty(),
        to_server: AdjacencyId::NONE,
        to_client: Unanswered::Once.code(),
        timer: Default::default(),
        ..control.clone()
    }
}
