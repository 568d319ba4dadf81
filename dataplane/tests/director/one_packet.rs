//! One-packet scheduling: every datagram goes where its turn is, and nothing is remembered.

use dataplane::ServerId;
use dataplane::snapshot::ForwardMode::{DirectRouting, Nat, Tunnel};
use dataplane::verdict::DropReason;
use proto::Protocol;

use crate::support::packet::udp;
use crate::support::*;

#[test]
fn each_datagram_is_scheduled_by_itself() {
    for family in FAMILIES {
        for mode in [Nat, DirectRouting, Tunnel] {
            for workers in [1, 2, 4] {
                let mut balanced = service(1, family, Protocol::UDP, mode, &[1, 2, 3]);
                balanced.one_packet = true;
                let mut director = Director::new(Setup::workers(workers), vec![balanced]);
                let datagram = udp(client(family, 4000), virt(family, 1));
                let mut order = Vec::new();
                for n in 0..6 {
                    // Whichever worker gets it, one and the same schedules the client's datagrams.
                    let (port, seen) = director.forward(n % workers, CLIENTS, &datagram);
                    assert_eq!(port, SERVERS);
                    let is_for = |&n: &u8| match mode {
                        DirectRouting => seen.dst_mac == mac_of(server(family, n)),
                        _ => seen.ip.dst.ip() == server(family, n),
                    };
                    order.push((1..=3).find(is_for).expect("one of the servers"));
                    let inner = seen.ip.innermost();
                    let at = if mode == Nat { DPORT } else { VPORT };
                    assert_eq!((inner.src, inner.dst.port()), (client(family, 4000), at));
                    assert_eq!((inner.payload.as_slice(), inner.ttl), (&b"datagram"[..], 63));
                }
                assert_eq!(order, [1, 2, 3, 1, 2, 3], "{family:?} {mode:?} {workers} workers");
                assert_eq!(director.connections(), []);
                for id in [16, 17, 18].map(ServerId) {
                    assert_eq!(director.total(|c| c.load(id).total.get()), 2);
                    assert_eq!(director.total(|c| c.server(id).in_packets.get()), 2);
                    assert_eq!(director.load(id), (0, 0));
                }
                director.finish();
            }
        }
    }
}

#[test]
fn replies_are_not_translated() {
    for family in FAMILIES {
        let mut balanced = service(1, family, Protocol::UDP, Nat, &[1]);
        balanced.one_packet = true;
        let mut director = Director::new(Setup::workers(2), vec![balanced]);
        let (_, seen) = director.forward(0, CLIENTS, &udp(client(family, 4000), virt(family, 1)));
        let reply = udp(seen.ip.dst, seen.ip.src);
        assert!(director.receive(0, SERVERS, &reply).is_empty());
        assert_eq!(director.punted(), [(SERVERS, frame_for(SERVERS, &reply))], "the kernel routes it as it is");
        director.finish();
    }
}

#[test]
fn what_cannot_be_forwarded_is_refused() {
    for family in FAMILIES {
        let mut balanced = service(1, family, Protocol::UDP, Nat, &[1]);
        balanced.one_packet = true;
        let mut director = Director::new(Setup::workers(1), vec![balanced]);
        let datagram = udp(client(family, 4000), virt(family, 1));
        let (port, _) = director.forward(0, CLIENTS, &datagram.clone().with_payload(vec![0; 1400]));
        assert_eq!(port, SERVERS);
        for (packet, reason) in
            [(datagram.clone().with_ttl(1), DropReason::TtlExceeded), (datagram.clone(), DropReason::NoServer)]
        {
            if reason == DropReason::NoServer {
                director.configure(|services| services[0].servers[0].weight = 0);
            }
            let (port, seen) = director.forward(0, CLIENTS, &packet);
            assert_eq!((port, seen.ip.dst.ip()), (CLIENTS, client(family, 0).ip()), "an ICMP error");
            assert_eq!(director.dropped(reason), 1);
        }
        director.finish();
    }
}
