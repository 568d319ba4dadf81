//! The log of connections: what workers say of those that begin and end.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dataplane::conn_log::{ConnEvent, ConnLogConfig, ConnNews, EndReason, Traffic};
use dataplane::counters::Counter;
use dataplane::snapshot::ForwardMode::{FullNat, Nat, Tunnel};
use dataplane::snapshot::Reuse;
use proto::Protocol;
use proto::state::State;
use proto::tcp::Flags;

use crate::support::packet::{tcp, udp};
use crate::support::*;

struct Log(Arc<ArrayQueue<ConnEvent>>);

impl Log {
    /// All workers log to one ring.
    fn of(director: &mut Director, ring: usize, rate: u32, traffic: bool) -> Self {
        let events = Arc::new(ArrayQueue::new(ring));
        for worker in director.workers_mut() {
            worker.log_connections(ConnLogConfig { events: Arc::clone(&events), rate, traffic });
        }
        Self(events)
    }

    fn take(&self) -> Vec<ConnEvent> {
        std::iter::from_fn(|| self.0.pop()).collect()
    }
}

#[test]
fn a_connection_is_logged_with_what_it_carried() {
    for family in FAMILIES {
        for mode in [Nat, FullNat, Tunnel] {
            let mut director = Director::new(Setup::workers(2), vec![service(1, family, Protocol::UDP, mode, &[1])]);
            let log = Log::of(&mut director, 64, 0, true);
            let datagram = udp(client(family, 4000), virt(family, 1));
            let (_, seen) = director.forward(0, CLIENTS, &datagram);
            let began = log.take();
            assert_eq!(began.len(), 1, "{mode:?}");
            assert_eq!(began[0].news, ConnNews::Created);
            let record = director.connection();
            assert_eq!((began[0].record.client, began[0].record.server), (record.client, record.server));
            assert_eq!(began[0].record.local, record.local);

            director.forward(1, CLIENTS, &datagram);
            let replies = if mode == Tunnel { 0 } else { 3 };
            for _ in 0..replies {
                director.forward(1, SERVERS, &udp(seen.ip.dst, seen.ip.src));
            }
            director.pass_seconds(400);
            let length = if family == proto::Family::V4 { 36 } else { 56 };
            let traffic =
                Traffic { in_packets: 2, in_bytes: 2 * length, out_packets: replies, out_bytes: replies * length };
            let ended = log.take();
            let [ConnEvent { news: ConnNews::Ended { reason, lasted_ms, traffic: counted }, .. }] = ended[..] else {
                panic!("{ended:?}")
            };
            assert_eq!((reason, counted), (EndReason::Timeout, Some(traffic)), "{mode:?}");
            assert!((300_000..301_000).contains(&lasted_ms), "{lasted_ms}");
            director.finish();
        }
    }
}

#[test]
fn without_traffic_connections_keep_their_way() {
    let family = FAMILIES[0];
    let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
    let log = Log::of(&mut director, 64, 0, false);
    director.forward(0, CLIENTS, &udp(client(family, 4000), virt(family, 1)));
    director.pass_seconds(400);
    let events = log.take();
    assert!(matches!(events[1].news, ConnNews::Ended { traffic: None, .. }), "{events:?}");
    director.finish();
}

#[test]
fn the_reason_of_the_end_is_said() {
    let family = FAMILIES[0];
    let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::TCP, Nat, &[1, 2])]);
    director.settings.reuse = Reuse::Ended;
    director.settings.expire_nodest_conn = true;
    director.publish();
    let log = Log::of(&mut director, 64, 0, false);
    let segment = |flags| tcp(client(family, 1000), virt(family, 1), flags);
    director.receive(0, CLIENTS, &segment(Flags::SYN));
    director.receive(0, CLIENTS, &segment(Flags::ACK));
    director.receive(0, CLIENTS, &segment(Flags(Flags::RST.0 | Flags::ACK.0)));
    log.take();
    director.receive(0, CLIENTS, &segment(Flags::SYN));
    let events = log.take();
    let [over, ConnEvent { news: ConnNews::Created, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(over.record.state, State::Close);
    assert!(matches!(over.news, ConnNews::Ended { reason: EndReason::Replaced, .. }), "{over:?}");

    director.configure(|services| services[0].servers.clear());
    director.run();
    let events = log.take();
    assert!(
        matches!(events[..], [ConnEvent { news: ConnNews::Ended { reason: EndReason::ServerGone, .. }, .. }]),
        "{events:?}"
    );
    director.finish();
}

#[test]
fn what_is_too_much_is_counted() {
    let family = FAMILIES[0];
    for (ring, rate, counter) in [
        (64, 8, (|c| &c.log_suppressed) as fn(&dataplane::counters::WorkerCounters) -> &Counter),
        (8, 0, |c| &c.log_overflowed),
    ] {
        let mut director = Director::new(Setup::workers(1), vec![service(1, family, Protocol::UDP, Nat, &[1])]);
        let log = Log::of(&mut director, ring, rate, false);
        for cport in 1..=20 {
            director.forward(0, CLIENTS, &udp(client(family, 4000 + cport), virt(family, 1)));
        }
        assert_eq!(log.take().len(), 8);
        assert_eq!(director.total(|c| counter(c).get()), 12);
        director.finish();
    }
}
