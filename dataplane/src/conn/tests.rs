//! Tests of the connection table: against a model of plain hash maps, at 100 % load, and while it is being listed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proto::state::State;
use proto::{Address, Protocol, Tuple};

use super::*;
use crate::ServerId;
use crate::fib::AdjacencyId;
use crate::snapshot::ForwardMode::{self, DirectRouting, FullNat, Nat, Tunnel};

const SEED: [u64; 2] = [0x5eed_0f7e_57ab_1e00, 0x0123_4567_89ab_cdef];

/// Address number `n` of a family.
fn addr<A: Address>(n: u32) -> A {
    let v4 = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
    let v6 = IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n) << (n % 3 * 32)));
    A::from_ip(v4).or(A::from_ip(v6)).expect("one of the two is of this family")
}

fn conn<A: Address>(mode: ForwardMode, client: (u32, u16), server: u32, local: (u32, u16)) -> Conn<A> {
    let (laddr, lport) = if mode == FullNat { local } else { client };
    Conn {
        caddr: addr(client.0),
        vaddr: addr(1),
        daddr: addr(server),
        laddr: addr(laddr),
        cport: client.1,
        vport: 80,
        dport: 80,
        lport,
        protocol: Protocol::TCP,
        mode,
        state: State::SynRecv,
        flags: ConnFlags::empty(),
        server: ServerId(server),
        to_server: AdjacencyId::NONE,
        to_client: AdjacencyId::NONE,
        epoch: 0,
        timer: Timer::default(),
    }
}

/// A FULLNAT connection that shares no tuple with one of another `n`, as clients and local ports come: scattered ones.
pub(super) fn nth<A: Address>(n: u32) -> Conn<A> {
    let mixed = n.wrapping_mul(0x9e37_79b1);
    conn(FullNat, (0x10_0000 + (mixed >> 16), mixed as u16), 2, (0x2_0000 + (n >> 15), 1024 + (n & 0x7fff) as u16))
}

fn find<A: Address>(table: &mut ConnTable<A>, tuple: &Tuple<A>) -> Option<(ConnId, Side)> {
    let hash = table.hash(tuple);
    table.prefetch_bucket(hash);
    let candidate = table.prefetch_entry(hash);
    let found = table.find(hash, tuple);
    let by_candidate = table.get_by(candidate, hash, tuple).map(|(conn, side)| (conn.inbound(), side));
    assert_eq!(by_candidate, found.map(|(id, side)| (table.get(id).inbound(), side)));
    found
}

#[test]
fn a_candidate_is_good_until_its_connection_is_gone() {
    fn check<A: Address>() {
        let mut table = ConnTable::<A>::new(4, SEED, Tick(0));
        let c = conn::<A>(FullNat, (9, 40000), 2, (3, 5000));
        let tuples = [(c.inbound(), Side::Inbound), (c.outbound(), Side::Outbound)];
        let id = table.insert(c.clone(), 60, Tick(0)).unwrap();
        let candidates = tuples.map(|(tuple, _)| table.prefetch_entry(table.hash(&tuple)));
        for ((tuple, side), candidate) in tuples.iter().zip(candidates) {
            let hash = table.hash(tuple);
            let (found, found_side) = table.get_by(candidate, hash, tuple).expect("it is the only one");
            assert_eq!((found.inbound(), found_side), (c.inbound(), *side));
            assert!(table.get_by(candidate, hash, &tuple.reversed()).is_none());
        }
        table.remove(id);
        for ((tuple, _), candidate) in tuples.iter().zip(candidates) {
            assert!(table.get_by(candidate, table.hash(tuple), tuple).is_none(), "the entry is free");
        }
        // Another connection takes the entry, and the tuples are no longer where they were.
        assert_eq!(table.insert(conn(FullNat, (9, 40001), 2, (3, 5001)), 60, Tick(0)), Ok(id));
        for ((tuple, _), candidate) in tuples.iter().zip(candidates) {
            assert!(table.get_by(candidate, table.hash(tuple), tuple).is_none());
        }
    }
    check::<Ipv4Addr>();
    check::<Ipv6Addr>();
}

#[test]
fn both_directions_lead_to_a_nat_connection_and_one_to_a_dr_connection() {
    for (mode, replies) in [(Nat, true), (FullNat, true), (DirectRouting, false), (Tunnel, false)] {
        let mut table = ConnTable::<Ipv4Addr>::new(4, SEED, Tick(0));
        let c = conn(mode, (9, 40000), 2, (3, 5000));
        let id = table.insert(c.clone(), 60, Tick(0)).unwrap();
        assert_eq!(find(&mut table, &c.inbound()), Some((id, Side::Inbound)), "{mode:?}");
        assert_eq!(find(&mut table, &c.outbound()), replies.then_some((id, Side::Outbound)), "{mode:?}");
        assert_eq!(find(&mut table, &c.inbound().reversed()), None, "{mode:?}");
        assert_eq!(table.get(id).daddr, c.daddr);
        assert_eq!(table.remove(id).inbound(), c.inbound());
        assert!(!table.contains(&c.inbound()) && !table.contains(&c.outbound()), "{mode:?}");
        assert!(table.is_empty());
    }
}

/// The hash hides nearly every fault of the comparison, so this tests it alone.
#[test]
fn every_member_of_a_tuple_counts() {
    fn check<A: Address>() {
        let c = conn::<A>(FullNat, (9, 40000), 2, (3, 5000));
        for (side, tuple) in [(Side::Inbound, c.inbound()), (Side::Outbound, c.outbound())] {
            assert!(c.has_tuple(side, &tuple));
            assert!(!c.has_tuple(side, &tuple.reversed()));
            for bit in 0..8 * A::LEN {
                let flipped = |address: A| {
                    let mut bytes = [0; 16];
                    address.write(&mut bytes);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    A::read(&bytes)
                };
                assert!(!c.has_tuple(side, &Tuple { src: flipped(tuple.src), ..tuple }), "{side:?}, source bit {bit}");
                assert!(!c.has_tuple(side, &Tuple { dst: flipped(tuple.dst), ..tuple }), "{side:?}, target bit {bit}");
            }
            for bit in 0..16 {
                assert!(!c.has_tuple(side, &Tuple { sport: tuple.sport ^ 1 << bit, ..tuple }), "{side:?}, bit {bit}");
                assert!(!c.has_tuple(side, &Tuple { dport: tuple.dport ^ 1 << bit, ..tuple }), "{side:?}, bit {bit}");
            }
            assert!(!c.has_tuple(side, &Tuple { protocol: Protocol::UDP, ..tuple }), "{side:?}, protocol");
        }
    }
    check::<Ipv4Addr>();
    check::<Ipv6Addr>();
}

#[test]
fn a_tuple_has_one_owner() {
    let first = conn::<Ipv4Addr>(FullNat, (9, 40000), 2, (3, 5000));
    let cases = [
        ("the same connection", first.clone()),
        ("the client's tuple", conn(Nat, (9, 40000), 7, (0, 0))),
        ("the client's tuple, replies unseen", conn(DirectRouting, (9, 40000), 7, (0, 0))),
        ("the local endpoint", conn(FullNat, (8, 40001), 2, (3, 5000))),
        // A client that is the first connection's real server, sending from the service's port to its local endpoint.
        ("a client's tuple that is a server's", {
            let mut c = conn(Tunnel, (2, 80), 7, (0, 0));
            (c.vaddr, c.vport) = (first.laddr, first.lport);
            c
        }),
        // A server that answers with what is the first connection's client's tuple.
        ("a server's tuple that is a client's", {
            let mut c = conn(FullNat, (8, 40001), 9, (1, 80));
            c.dport = 40000;
            c
        }),
        ("its own tuple twice", conn(FullNat, (9, 80), 9, (1, 80))),
    ];
    for (name, second) in cases {
        let mut table = ConnTable::new(4, SEED, Tick(0));
        let id = table.insert(first.clone(), 60, Tick(0)).unwrap();
        assert_eq!(table.insert(second, 60, Tick(0)), Err(InsertError::Exists), "{name}");
        assert_eq!(table.len(), 1, "{name}");
        table.remove(id);
        assert!(table.insert(first.clone(), 60, Tick(0)).is_ok(), "{name}");
    }

    // DR does not see replies, so the would-be tuple of its replies is free for others.
    let mut table = ConnTable::new(4, SEED, Tick(0));
    table.insert(conn::<Ipv4Addr>(DirectRouting, (9, 40000), 2, (0, 0)), 60, Tick(0)).unwrap();
    let mut other = conn(DirectRouting, (2, 80), 7, (0, 0));
    (other.vaddr, other.vport) = (addr(9), 40000);
    assert!(table.insert(other, 60, Tick(0)).is_ok());
}

fn fill_and_churn<A: Address>(capacity: u32, max_bytes: usize) {
    let mut table = ConnTable::<A>::new(capacity as usize, SEED, Tick(0));
    let bytes = table.memory_bytes();
    assert!(bytes <= max_bytes.saturating_mul(capacity as usize), "{} bytes a connection", bytes / capacity as usize);
    let mut ids = Vec::new();
    for n in 0..capacity {
        ids.push((n, table.insert(nth(n), 300, Tick(0)).unwrap_or_else(|e| panic!("connection {n}: {e}"))));
    }
    assert_eq!(table.insert(nth(capacity), 300, Tick(0)), Err(InsertError::Full));
    assert!(!table.contains(&nth::<A>(capacity).inbound()) && !table.contains(&nth::<A>(capacity).outbound()));
    // Replace every connection twice, in no particular order, with never more than one place free.
    let mut random = 1u64;
    for n in capacity..3 * capacity {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (random >> 33) as usize % ids.len();
        table.remove(ids[at].1);
        ids[at] = (n, table.insert(nth(n), 300, Tick(0)).unwrap_or_else(|e| panic!("connection {n}: {e}")));
    }
    assert_eq!(table.len(), capacity as usize);
    assert_eq!(table.memory_bytes(), bytes, "a table does not grow");
    for &(n, id) in &ids {
        let c = nth::<A>(n);
        assert_eq!(find(&mut table, &c.inbound()), Some((id, Side::Inbound)));
        assert_eq!(find(&mut table, &c.outbound()), Some((id, Side::Outbound)));
    }
    for (n, id) in ids {
        assert_eq!(table.remove(id).inbound(), nth::<A>(n).inbound());
    }
    assert!(table.is_empty());
}

#[test]
fn a_table_takes_as_many_connections_as_it_says() {
    fill_and_churn::<Ipv4Addr>(30_000, 86);
    fill_and_churn::<Ipv6Addr>(10_000, 150);
    fill_and_churn::<Ipv4Addr>(1, usize::MAX);
    fill_and_churn::<Ipv4Addr>(7, usize::MAX);
    let mut none = ConnTable::<Ipv4Addr>::new(0, SEED, Tick(0));
    assert_eq!(none.insert(nth(0), 60, Tick(0)), Err(InsertError::Full));
    assert_eq!(none.expire(Tick(100), 10, |_, _, _| {}), 0);
    assert_eq!(none.dump(0, &mut Vec::with_capacity(4), 4, Tick(0)), None);
}

#[test]
fn connections_end_after_their_timeout_once_and_with_both_tuples() {
    let mut table = ConnTable::<Ipv4Addr>::new(100, SEED, Tick(0));
    let ids: Vec<ConnId> = (0..100).map(|n| table.insert(nth(n), 30 + n, Tick(0)).unwrap()).collect();
    table.get_mut(ids[0]).touch(Tick(240));
    table.set_timeout(ids[99], 1, Tick(0));
    let mut ended = Vec::new();
    assert_eq!(table.expire(Tick(7), 1000, |_, _, _| panic!("none is due")), 0);
    assert_eq!(table.expire(Tick(8), 1000, |_, c, _| ended.push(c.inbound())), 1);
    assert_eq!(ended, [nth(99).inbound()]);
    // 40 s: those of 31 to 40 s; the first one was seen at 30 s.
    let (mut calls, mut count) = (0, 0);
    while table.expiry_lag(Tick(320)) > 0 {
        let n = table.expire(Tick(320), 4, |_, _, _| {});
        assert!(n <= 4);
        (calls, count) = (calls + 1, count + n);
    }
    assert!(count == 10 && calls > 2, "{count} ended in {calls} calls");
    assert_eq!((table.expiry_lag(Tick(320)), table.len()), (0, 89));
    for n in 0..100 {
        let alive = n == 0 || (11..99).contains(&n);
        assert_eq!(table.contains(&nth(n).inbound()), alive, "{n}");
        assert_eq!(table.contains(&nth(n).outbound()), alive, "{n}");
    }
    assert_eq!(table.get(ids[0]).timer.seconds_left(Tick(320)), 20);
    assert_eq!(table.expire(Tick(8 * 3600), 1000, |_, _, _| {}), 89);
    assert!(table.is_empty());
}

#[test]
fn a_dump_holds_each_lasting_connection_once() {
    let mut table = ConnTable::<Ipv6Addr>::new(2000, SEED, Tick(0));
    let mut ids: Vec<ConnId> = (0..1500).map(|n| table.insert(nth(n), 300, Tick(0)).unwrap()).collect();
    // Gaps: in the middle 39 of 40 are free, as many as a call may visit.
    for n in (400..1200).filter(|n| n % 40 != 0) {
        table.remove(ids[n]);
    }
    let lasting: HashSet<_> = (0..1500)
        .filter(|n| !(400..1200).contains(n) || n % 40 == 0)
        .filter(|n| n % 3 != 0)
        .map(|n| (IpAddr::from(nth::<Ipv6Addr>(n).caddr), nth::<Ipv6Addr>(n).cport))
        .collect();
    let (mut cursor, mut calls, mut fresh) = (Some(0), 0, 10_000);
    let mut seen = HashMap::new();
    while let Some(at) = cursor {
        let mut slice = Vec::with_capacity(16);
        let room = slice.capacity();
        cursor = table.dump(at, &mut slice, 40, Tick(80));
        assert!(slice.len() <= room && slice.capacity() == room, "the caller's buffer did not grow");
        assert!(cursor.is_none_or(|next| next > at && next - at <= 40));
        for record in slice {
            assert_eq!(record.expires, if record.client.1 == 1 { 300 } else { 290 });
            *seen.entry(record.client).or_insert(0) += 1;
        }
        calls += 1;
        // Every third of the old ones leaves, and others come, here and there.
        for n in (calls * 7 % 1500..1500).step_by(90).filter(|n| n % 3 == 0) {
            if table.get(ids[n]).inbound() == nth(n as u32).inbound() && table.get(ids[n]).timer.is_armed() {
                table.remove(ids[n]);
                let mut newcomer = nth(fresh);
                newcomer.cport = 1;
                ids[n] = table.insert(newcomer, 300, Tick(80)).unwrap();
                fresh += 1;
            }
        }
    }
    assert!(fresh > 10_050 && calls > 40, "{fresh}, {calls}: the table did change during the dump");
    for client in lasting {
        assert_eq!(seen.get(&client), Some(&1), "{client:?}");
    }
    assert_eq!(table.dump(u64::MAX, &mut Vec::with_capacity(1), 1, Tick(0)), None);
    assert_eq!(table.dump(5, &mut Vec::new(), 10, Tick(0)), Some(5), "without room nothing moves");
}

#[derive(Clone, Debug)]
enum Op {
    Insert { mode: ForwardMode, client: (u32, u16), vaddr: u32, server: u32, local: (u32, u16), timeout: u32 },
    Find { tuple: usize },
    Touch { pick: usize },
    SetTimeout { pick: usize, timeout: u32 },
    Remove { pick: usize },
    Expire { ticks: u32, budget: usize },
}

fn ops() -> impl Strategy<Value = Op> {
    let modes = prop::sample::select(vec![Nat, FullNat, FullNat, DirectRouting, Tunnel]);
    // Clients, servers, virtual and local addresses are drawn from the same few, so that tuples meet in every way.
    let endpoint = || (0..4u32, prop::sample::select(vec![80u16, 81]));
    let timeout = || prop_oneof![1..5u32, 30..40u32, 2040..2060u32];
    prop_oneof![
        6 => (modes, endpoint(), 0..4u32, 0..4u32, endpoint(), timeout()).prop_map(
            |(mode, client, vaddr, server, local, timeout)| Op::Insert { mode, client, vaddr, server, local, timeout }
        ),
        2 => any::<usize>().prop_map(|tuple| Op::Find { tuple }),
        1 => any::<usize>().prop_map(|pick| Op::Touch { pick }),
        1 => (any::<usize>(), timeout()).prop_map(|(pick, timeout)| Op::SetTimeout { pick, timeout }),
        1 => any::<usize>().prop_map(|pick| Op::Remove { pick }),
        2 => (prop_oneof![0..20u32, 0..400u32, 0..20_000u32], prop_oneof![0..3usize, Just(1000)])
            .prop_map(|(ticks, budget)| Op::Expire { ticks, budget }),
    ]
}

/// What the model knows of a connection.
#[derive(Clone, Debug)]
struct Known<A> {
    conn: Conn<A>,
    last_seen: Tick,
    timeout: u32,
}

fn check_against_model<A: Address>(ops: Vec<Op>) -> Result<(), TestCaseError> {
    const CAPACITY: usize = 8;
    let all_tuples: Vec<Tuple<A>> = (0..4 * 4 * 4)
        .map(|i| Tuple {
            src: addr(i & 3),
            dst: addr(i >> 2 & 3),
            sport: 80 + (i >> 4 & 1) as u16,
            dport: 80 + (i >> 5 & 1) as u16,
            protocol: Protocol::TCP,
        })
        .collect();
    let mut table = ConnTable::<A>::new(CAPACITY, SEED, Tick(0));
    let mut by_tuple = HashMap::<Tuple<A>, (ConnId, Side)>::new();
    let mut by_id = HashMap::<ConnId, Known<A>>::new();
    let mut order = Vec::<ConnId>::new();
    let mut now = Tick(0);
    let forget = |by_tuple: &mut HashMap<_, _>, order: &mut Vec<_>, id: ConnId| {
        by_tuple.retain(|_, &mut (owner, _)| owner != id);
        order.retain(|&o| o != id);
    };
    for op in ops {
        match op {
            Op::Insert { mode, client, vaddr, server, local, timeout } => {
                let mut c = conn::<A>(mode, client, server, local);
                c.vaddr = addr(vaddr);
                let (inbound, outbound) = (c.inbound(), c.outbound());
                let taken = by_tuple.contains_key(&inbound)
                    || mode.sees_replies() && (inbound == outbound || by_tuple.contains_key(&outbound));
                match table.insert(c.clone(), timeout, now) {
                    Ok(id) => {
                        prop_assert!(!taken && by_id.len() < CAPACITY);
                        let before = by_id.insert(id, Known { conn: c, last_seen: now, timeout });
                        prop_assert!(before.is_none(), "{:?} was in use", id);
                        by_tuple.insert(inbound, (id, Side::Inbound));
                        if mode.sees_replies() {
                            by_tuple.insert(outbound, (id, Side::Outbound));
                        }
                        order.push(id);
                    }
                    Err(InsertError::Exists) => prop_assert!(taken),
                    Err(InsertError::Full) => prop_assert!(!taken && by_id.len() == CAPACITY),
                }
            }
            Op::Find { tuple } => {
                let tuple = &all_tuples[tuple % all_tuples.len()];
                prop_assert_eq!(find(&mut table, tuple), by_tuple.get(tuple).copied());
                prop_assert_eq!(table.contains(tuple), by_tuple.contains_key(tuple));
                let other = Tuple { protocol: Protocol::UDP, ..*tuple };
                prop_assert_eq!(find(&mut table, &other), None);
            }
            Op::Expire { ticks, budget } => {
                now.0 += ticks;
                let mut ended = Vec::new();
                let n = table.expire(now, budget, |_, c, _| ended.push(c.inbound()));
                prop_assert!(n == ended.len() && n <= budget);
                for tuple in ended {
                    let (id, _) = by_tuple[&tuple];
                    let known = by_id.remove(&id).expect("a connection ends once");
                    prop_assert!(known.last_seen.after(known.timeout) <= now, "early: {:?} at {:?}", known, now);
                    forget(&mut by_tuple, &mut order, id);
                }
                if table.expiry_lag(now) == 0 {
                    prop_assert!(by_id.values().all(|k| k.last_seen.after(k.timeout) > now), "late at {:?}", now);
                }
            }
            Op::Touch { .. } | Op::SetTimeout { .. } | Op::Remove { .. } if order.is_empty() => {}
            Op::Touch { pick } => {
                let id = order[pick % order.len()];
                table.get_mut(id).touch(now);
                by_id.get_mut(&id).expect("known").last_seen = now;
            }
            Op::SetTimeout { pick, timeout } => {
                let id = order[pick % order.len()];
                table.set_timeout(id, timeout, now);
                let known = by_id.get_mut(&id).expect("known");
                (known.last_seen, known.timeout) = (now, timeout);
            }
            Op::Remove { pick } => {
                let id = order[pick % order.len()];
                let removed = table.remove(id);
                let known = by_id.remove(&id).expect("known");
                prop_assert_eq!(removed.inbound(), known.conn.inbound());
                prop_assert_eq!(removed.outbound(), known.conn.outbound());
                forget(&mut by_tuple, &mut order, id);
            }
        }
        prop_assert_eq!(table.len(), by_id.len());
        prop_assert_eq!(table.is_empty(), by_id.is_empty());
        for (tuple, &owner) in &by_tuple {
            prop_assert_eq!(find(&mut table, tuple), Some(owner));
        }
        for (&id, known) in &by_id {
            let left = known.last_seen.after(known.timeout).seconds_since(now);
            prop_assert_eq!(table.get(id).timer.seconds_left(now), left);
            prop_assert_eq!(table.get(id).inbound(), known.conn.inbound());
        }
    }
    let mut listed = Vec::with_capacity(CAPACITY + 1);
    prop_assert_eq!(table.dump(0, &mut listed, usize::MAX, now), None);
    let expected: HashSet<_> = by_id.values().map(|k| k.conn.record(now).client).collect();
    prop_assert_eq!(listed.len(), by_id.len());
    prop_assert!(listed.iter().all(|r| expected.contains(&r.client)));
    Ok(())
}

proptest! {
    #[test]
    fn behaves_like_hash_maps_ipv4(ops in prop::collection::vec(ops(), 1..150)) {
        check_against_model::<Ipv4Addr>(ops)?;
    }

    #[test]
    fn behaves_like_hash_maps_ipv6(ops in prop::collection::vec(ops(), 1..150)) {
        check_against_model::<Ipv6Addr>(ops)?;
    }
}

#[test]
fn an_extra_ends_with_its_connection() {
    const CAPACITY: usize = 8;
    let mut table = ConnTable::<Ipv4Addr>::new(CAPACITY, SEED, Tick(0));
    let mark = |extra: &mut Extra, n: u32| assert_eq!(extra.sequence.change(Side::Inbound, n, 0, 1), Some(n));
    for round in 0..3 {
        let ids: Vec<_> = (0..CAPACITY as u32).map(|n| table.insert(nth(n), 60, Tick(0)).unwrap()).collect();
        for (n, &id) in ids.iter().enumerate() {
            assert!(table.extra(id).is_none(), "round {round}, connection {n} is new");
            mark(table.add_extra(id), n as u32);
            mark(table.add_extra(id), n as u32);
        }
        for (n, &id) in ids.iter().enumerate() {
            let mut expected = Sequence::default();
            assert_eq!(expected.change(Side::Inbound, n as u32, 0, 1), Some(n as u32));
            assert_eq!(table.extra_mut(id).map(|extra| extra.sequence), Some(expected));
        }
        assert_eq!(table.extras_len(), CAPACITY);
        // Some are removed, the others time out. A copy of a connection does not bring its extra along.
        let removed = table.remove(ids[3]);
        let again = table.insert(removed, 60, Tick(0)).unwrap();
        assert!(table.extra(again).is_none());
        assert_eq!(table.extras_len(), CAPACITY - 1);
        let late = Tick(100 * TICKS_PER_SECOND * (round + 1));
        while table.expire(late, 100, |_, _, _| ()) > 0 {}
        assert!(table.is_empty());
        assert_eq!(table.extras_len(), 0);
        table.expire(Tick(late.0 + 1), 100, |_, _, _| ());
    }
}

#[test]
fn packets_are_counted_up_to_eight() {
    let mut table = ConnTable::<Ipv4Addr>::new(4, [1, 2], Tick(0));
    let id = table.insert(nth(1), 60, Tick(0)).unwrap();
    table.count_packet(id);
    assert_eq!(table.packets(id), None, "nobody asked for it");
    table.begin_counting(id);
    for expected in (1..=8).map(Some).chain([None, None]) {
        assert!(expected.is_none() || table.get(id).flags.contains(ConnFlags::COUNTING));
        table.count_packet(id);
        assert_eq!(table.packets(id), expected);
    }
    assert!(!table.get(id).flags.intersects(ConnFlags::NOT_PLAIN), "it may take the short way now");
    // Another connection in the same entry begins without.
    table.begin_counting(id);
    let ended = table.remove(id);
    let id = table.insert(ended, 60, Tick(0)).unwrap();
    assert_eq!(table.packets(id), None);
}

/// A connection to a server of the other IP version, by its numbers of client and local port.
fn far<A: Address, B: Address>(client: u16, server: u32, lport: u16) -> (Conn<A>, FarEnd) {
    let mut c = conn::<A>(FullNat, (9, client), server, (3, lport));
    (c.daddr, c.laddr) = (A::UNSPECIFIED, A::UNSPECIFIED);
    (c, FarEnd { server: addr::<B>(server).into(), local: addr::<B>(7).into() })
}

fn check_far_against_model<A: Address, B: Address>(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut table = ConnTable::<A>::new(6, SEED, Tick(0));
    // By id: both tuples.
    let mut model = HashMap::<ConnId, (Tuple<A>, Tuple<B>)>::new();
    let mut seen = HashSet::<Tuple<B>>::new();
    let mut now = Tick(0);
    for op in ops {
        match op {
            Op::Insert { client, server, local, timeout, .. } => {
                let (c, far) = far::<A, B>(client.1 + client.0 as u16, server, local.1);
                let (inbound, outbound) = (c.inbound(), far.outbound::<B, A>(&c).expect("its family"));
                seen.insert(outbound);
                prop_assert_eq!(far.outbound::<A, A>(&c), None);
                let is_taken = model.values().any(|(i, o)| *i == inbound || *o == outbound);
                match table.insert_far(c, far, timeout, now) {
                    Ok(id) => {
                        prop_assert!(!is_taken);
                        prop_assert_eq!(table.far(id), Some(far));
                        prop_assert!(model.insert(id, (inbound, outbound)).is_none());
                    }
                    Err(InsertError::Exists) => prop_assert!(is_taken),
                    Err(InsertError::Full) => prop_assert!(!is_taken && model.len() == 6),
                }
            }
            Op::Remove { pick } if !model.is_empty() => {
                let mut ids: Vec<_> = model.keys().copied().collect();
                ids.sort_by_key(|id| id.0);
                let id = ids[pick % ids.len()];
                prop_assert_eq!(table.remove(id).inbound(), model.remove(&id).expect("known").0);
            }
            Op::Expire { ticks, budget } => {
                now.0 += ticks;
                let mut ended = Vec::new();
                table.expire(now, budget, |_, c, _| ended.push(c.inbound()));
                model.retain(|_, (inbound, _)| !ended.contains(inbound));
            }
            _ => {}
        }
        // Both halves are there, or neither.
        prop_assert_eq!((table.len(), table.extras_len()), (model.len(), model.len()));
        for outbound in &seen {
            let owner = model.iter().find(|(_, (_, o))| o == outbound).map(|(&id, _)| id);
            prop_assert_eq!(table.find_far(outbound), owner);
            prop_assert_eq!(table.find_far(&outbound.reversed()), None);
        }
        for (&id, (inbound, _)) in &model {
            prop_assert_eq!(find(&mut table, inbound), Some((id, Side::Inbound)));
        }
        let mut records = Vec::with_capacity(8);
        table.dump(0, &mut records, 8, now);
        for record in records {
            let listed = model.values().any(|(i, o)| {
                record.client == (i.src.into(), i.sport)
                    && record.server == (o.src.into(), o.sport)
                    && record.local == (o.dst.into(), o.dport)
            });
            prop_assert!(listed, "{:?}", record);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn connections_across_versions_are_one_from_both_sides(ops in prop::collection::vec(ops(), 1..80)) {
        check_far_against_model::<Ipv4Addr, Ipv6Addr>(ops.clone())?;
        check_far_against_model::<Ipv6Addr, Ipv4Addr>(ops)?;
    }
}
