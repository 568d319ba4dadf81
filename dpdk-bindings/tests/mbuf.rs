//! Packet buffers: growing, shrinking, and back to the pool.

mod common;

use arrayvec::ArrayVec;
use dpdk::mempool::HEADROOM;
use dpdk::{Eal, Error, Mbuf, Mempool, PoolConfig};

#[test]
fn mbufs_grow_shrink_and_return_to_the_pool() {
    let eal = common::eal();
    assert!(matches!(Eal::init(["again"]), Err(Error::AlreadyInitialised)));
    let pool = common::pool(&eal);
    let second = PoolConfig { buffers: 15, cache: 0, data_room: 2176, socket: None };
    assert!(matches!(Mempool::new(&eal, &second), Err(Error::SecondPool)));
    assert_eq!(pool.available(), pool.size());

    // The main thread has an lcore id, this one is registered, the third is not: all ways through the pool.
    grow_and_shrink(&pool);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let guard = dpdk::thread::register_thread(&eal).unwrap();
            exhaust(&pool);
            drop(guard);
        });
    });
    std::thread::scope(|scope| {
        scope.spawn(|| exhaust(&pool));
    });
    assert_eq!(pool.available(), pool.size(), "buffers leaked");
}

fn grow_and_shrink(pool: &Mempool) {
    let mut packet = pool.allocate().unwrap();
    assert_eq!(pool.available(), pool.size() - 1);
    assert!(packet.data().is_empty() && packet.is_contiguous());
    assert_eq!(packet.rss_hash(), None);
    assert_eq!((packet.headroom(), packet.tailroom()), (usize::from(HEADROOM), 2176 - usize::from(HEADROOM)));

    assert!(packet.append(60));
    packet.data_mut().copy_from_slice(&[7; 60]);
    assert!(packet.prepend(20));
    packet.data_mut()[..20].fill(9);
    assert_eq!(packet.data(), [[9; 20].as_slice(), &[7; 60]].concat());
    assert_eq!(packet.packet_len(), 80);
    packet.trim_front(30);
    assert_eq!(packet.data(), [7; 50]);
    packet.truncate(51);
    packet.truncate(8);
    assert_eq!((packet.data(), packet.packet_len()), ([7; 8].as_slice(), 8));
    assert_eq!(packet.headroom(), usize::from(HEADROOM) + 10);

    assert!(!packet.prepend(packet.headroom() + 1) && !packet.append(packet.tailroom() + 1));
    assert!(!packet.prepend(1 << 16) && !packet.append(1 << 16), "lengths do not wrap");
    assert_eq!(packet.data(), [7; 8], "a refusal changes nothing");
    assert!(packet.prepend(packet.headroom()) && packet.append(packet.tailroom()));
    assert_eq!(packet.data().len(), 2176);
    assert!(std::panic::catch_unwind(move || packet.trim_front(2177)).is_err());
}

fn exhaust(pool: &Mempool) {
    let mut all: Vec<Mbuf> = Vec::new();
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    while pool.fill(&mut burst) {
        assert!(burst.is_full());
        all.extend(burst.drain(..));
    }
    assert!(burst.is_empty(), "a failed fill leaves nothing");
    all.extend(std::iter::from_fn(|| pool.allocate()));
    // Two other threads' caches may keep 96 each, one and a half times their nominal size.
    assert!(all.len() as u32 >= pool.size() - 192, "only {} buffers", all.len());
    burst.extend(all.drain(..32));
    dpdk::mbuf::free_burst(&mut burst);
    assert!(burst.is_empty());
}
