//! Tests of the table of templates: keys, time, bounds, and workers that race.

use super::*;

const T0: Tick = Tick(8);

fn key(client: u32) -> Key<'static> {
    Key {
        protocol: Protocol::TCP,
        client: client.to_be_bytes().into(),
        vaddr: [192, 0, 2, 1].into(),
        vport: 80,
        call_id: None,
    }
}

fn target(server: u32) -> Target {
    Target { server: ServerId(server), daddr: [10, 0, 0, server as u8].into(), dport: 80, mode: ForwardMode::Nat }
}

fn after(seconds: u32) -> Tick {
    Tick(T0.0 + seconds * TICKS_PER_SECOND)
}

/// A whole sweep by one worker; the servers of those that ended.
fn sweep(table: &Templates, now: Tick) -> Vec<u32> {
    let (mut state, mut ended) = (Sweep::default(), Vec::new());
    loop {
        table.sweep(&mut state, (0, 1), now, |server| ended.push(server.0));
        if state.next == usize::MAX || table.is_empty() {
            return ended;
        }
    }
}

fn insert(table: &Templates, client: u32, server: u32) -> TemplateId {
    match table.insert(&key(client), target(server), 300, T0) {
        Some(Inserted::New(id)) => id,
        other => panic!("{other:?}"),
    }
}

fn server(table: &Templates, key: &Key<'_>, now: Tick) -> Option<u32> {
    table.find(key, now).map(|(id, server)| {
        table.release(id);
        server.0
    })
}

#[test]
fn every_part_of_the_key_counts() {
    let table = Templates::new(64, 4, [1, 2]);
    let id = insert(&table, 1, 7);
    assert_eq!(server(&table, &key(1), T0), Some(7));
    for other in [
        key(2),
        Key { protocol: Protocol::UDP, ..key(1) },
        Key { vaddr: [192, 0, 2, 2].into(), ..key(1) },
        Key { vport: 0, ..key(1) },
        Key { call_id: Some(b"x"), ..key(1) },
        Key { client: "::1".parse().unwrap(), ..key(1) },
    ] {
        assert_eq!(server(&table, &other, T0), None, "{other:?}");
    }
    assert_eq!(table.insert(&key(1), target(9), 300, T0), Some(Inserted::Found(id, ServerId(7))));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_held_template_lives_on_by_the_minute() {
    let table = Templates::new(64, 0, [1, 2]);
    let id = insert(&table, 1, 7);
    assert_eq!(sweep(&table, after(299)), []);
    assert_eq!(sweep(&table, after(301)), [], "a connection holds it");
    table.release(id);
    assert_eq!(sweep(&table, after(359)), []);
    assert_eq!(server(&table, &key(1), after(359)), Some(7));
    // A new connection gives it a minute now, not its first timeout.
    let (id, _) = table.find(&key(1), after(359)).unwrap();
    table.restart(id, after(359));
    table.release(id);
    assert_eq!(sweep(&table, after(418)), []);
    assert_eq!(server(&table, &key(1), after(420)), None, "its time is over");
    assert_eq!(sweep(&table, after(420)), [7]);
    assert!(table.is_empty());
    insert(&table, 1, 8);
}

#[test]
fn connections_restart_the_time() {
    let table = Templates::new(64, 0, [1, 2]);
    table.release(insert(&table, 1, 7));
    let (id, _) = table.find(&key(1), after(200)).unwrap();
    table.restart(id, after(200));
    table.release(id);
    assert_eq!(sweep(&table, after(499)), []);
    assert_eq!(sweep(&table, after(500)), [7]);
}

#[test]
fn an_invalid_template_gives_way() {
    let table = Templates::new(64, 0, [1, 2]);
    let id = insert(&table, 1, 7);
    table.invalidate(id);
    table.release(id);
    assert_eq!(server(&table, &key(1), T0), None);
    insert(&table, 1, 8);
    assert_eq!(server(&table, &key(1), T0), Some(8));
    let mut records = Vec::new();
    assert_eq!(table.dump(0, &mut records, 10), None);
    let mut ports: Vec<_> = records.iter().map(|r| (r.virt.1, r.server.1)).collect();
    ports.sort();
    assert_eq!(ports, [(80, 80), (65535, 65535)]);
}

#[test]
fn call_ids_are_compared_whole_and_bounded() {
    let table = Templates::new(64, 2, [1, 2]);
    let long = [b'a'; sip::MAX_CALL_ID];
    let with = |call_id| Key { call_id: Some(call_id), ..key(1) };
    let mut held = Vec::new();
    for (call_id, n) in [(&long[..], 1), (&long[1..], 2)] {
        match table.insert(&with(call_id), target(n), 300, T0) {
            Some(Inserted::New(id)) => held.push(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((server(&table, &with(&long), T0), server(&table, &with(&long[1..]), T0)), (Some(1), Some(2)));
    assert_eq!(table.insert(&with(b"third"), target(3), 300, T0), None, "no place for a third");
    held.into_iter().for_each(|id| table.release(id));
    let mut records = Vec::new();
    table.dump(0, &mut records, 10);
    let mut lengths: Vec<_> = records.into_iter().map(|r| r.call_id.unwrap().len()).collect();
    lengths.sort();
    assert_eq!(lengths, [254, 255]);
    assert_eq!(sweep(&table, after(300)).len(), 2);
    assert!(matches!(table.insert(&with(b"third"), target(3), 300, T0), Some(Inserted::New(_))));
}

#[test]
fn the_capacity_is_a_limit_and_a_listing_has_all() {
    let table = Templates::new(500, 0, [3, 4]);
    let mut inserted = 0;
    for client in 0..600 {
        inserted += usize::from(table.insert(&key(client), target(client), 300, T0).is_some());
    }
    assert_eq!(inserted, 500);
    assert_eq!(table.len(), 500);
    let (mut records, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let limit = records.len() + 7;
        cursor = table.dump(from, &mut records, limit);
    }
    assert_eq!(records.len(), 500);
    assert_eq!((records[0].expires, records[0].assured), (301, false), "no worker has told the time yet");
}

#[test]
fn workers_agree_on_one_server_each() {
    const CLIENTS: u32 = 64;
    let table = Templates::new(256, 0, [5, 6]);
    for round in 0..50 {
        let now = Tick(T0.0 + round * 1000 * TICKS_PER_SECOND);
        let chosen: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let open = |worker: u32| {
                let table = &table;
                move || {
                    let mut sweep = Sweep::default();
                    let open = |client| {
                        table.sweep(&mut sweep, (worker as usize, 4), now, |_| {});
                        let found = match table.find(&key(client), now) {
                            Some((id, server)) => Inserted::Found(id, server),
                            None => table.insert(&key(client), target(worker + 4 * round), 300, now).unwrap(),
                        };
                        match found {
                            Inserted::New(id) => (id, worker + 4 * round),
                            Inserted::Found(id, server) => (id, server.0),
                        }
                    };
                    let held: Vec<_> = (0..CLIENTS).map(open).collect();
                    held.iter().for_each(|(id, _)| table.release(*id));
                    held.into_iter().map(|(_, server)| server).collect()
                }
            };
            let threads: Vec<_> = (0..4).map(|worker| scope.spawn(open(worker))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for other in &chosen[1..] {
            assert_eq!(other, &chosen[0], "round {round}");
        }
        assert!(chosen[0].iter().all(|server| server / 4 == round), "those of the round before have ended");
    }
}
