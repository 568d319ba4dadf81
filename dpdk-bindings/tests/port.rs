//! A port whose transmit queue feeds its receive queue.

mod common;

use arrayvec::ArrayVec;
use dpdk::{Eal, Error, Mbuf, Mempool, PortConfig};

const CONFIG: PortConfig = PortConfig {
    rx_queues: 1,
    tx_queues: 1,
    rx_descriptors: 256,
    tx_descriptors: 256,
    mtu: 1500,
    mac: None,
    promiscuous: true,
    rss_key: [0; dpdk::rss::KEY_SIZE],
};

#[test]
fn packets_go_out_and_come_back() {
    let eal = common::eal();
    let pool = common::pool(&eal);
    eal.add_virtual_device("net_ring0", "").unwrap();
    assert_eq!(eal.devices(), ["net_ring0"]);
    refusals(&eal, &pool);

    let device = eal.device("net_ring0").unwrap();
    assert!(matches!(eal.device("net_ring0"), Err(Error::InUse { .. })));
    let info = device.info().unwrap();
    assert_eq!((info.driver.as_str(), info.is_software), ("net_ring", true));
    let (port, mut rx, mut tx) = device.start(&CONFIG, &pool).unwrap();
    assert_eq!((rx.len(), tx.len()), (1, 1));
    assert_eq!(port.rss(), None);
    assert_eq!(port.mtu().unwrap(), 1500);
    assert!(port.link().unwrap().is_some());
    let (mut rx, mut tx) = (rx.remove(0), tx.remove(0));

    // More than the ring takes: the rest stays with us, in order.
    let mut sent = 0u32;
    let mut burst = ArrayVec::<Mbuf, 64>::new();
    loop {
        while !burst.is_full() {
            let mut packet = pool.allocate().unwrap();
            assert!(packet.append(60));
            let number = sent + burst.len() as u32;
            packet.data_mut()[..4].copy_from_slice(&number.to_be_bytes());
            burst.push(packet);
        }
        let n = tx.transmit(&mut burst);
        sent += n as u32;
        assert_eq!(burst.len(), 64 - n);
        if n < 64 {
            break;
        }
    }
    assert!(sent > 64);
    assert_eq!(number(&burst[0]), sent, "what was not sent moved to the front");
    drop(burst);
    assert_eq!(pool.available(), pool.size() - sent);

    let mut received = 0;
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    while rx.receive(&mut burst) > 0 {
        for packet in burst.drain(..) {
            assert_eq!((number(&packet), packet.data().len()), (received, 60));
            received += 1;
        }
    }
    assert_eq!(received, sent);
    assert_eq!(pool.available(), pool.size(), "buffers leaked");
    let stats = port.stats().unwrap();
    assert_eq!((stats.tx_packets, stats.rx_packets), (u64::from(sent), u64::from(received)));

    // A receive into a burst that holds something appends.
    burst.extend(std::iter::from_fn(|| pool.allocate()).take(2));
    assert_eq!(tx.transmit(&mut burst), 2);
    burst.push(pool.allocate().unwrap());
    assert_eq!((rx.receive(&mut burst), burst.len()), (2, 3));
    drop(burst);

    // The port stays as long as a queue of it, and gives everything back when the last goes.
    drop(port);
    drop(tx);
    assert!(matches!(eal.device("net_ring0"), Err(Error::InUse { .. })));
    drop(rx);
    assert!(matches!(eal.device("net_ring0"), Err(Error::NoDevice { .. })));
    assert_eq!(pool.available(), pool.size());
}

fn refusals(eal: &Eal, pool: &Mempool) {
    let error = eal.device("net_ring9").unwrap_err().to_string();
    assert_eq!(error, "DPDK has no port for device 'net_ring9'; it has net_ring0");
    let error = eal.add_virtual_device("net_wrong0", "").unwrap_err().to_string();
    assert!(error.starts_with("virtual device 'net_wrong0' with arguments '' cannot be created: "), "{error}");
    assert!(eal.add_virtual_device("net_null\0", "").is_err());

    eal.add_virtual_device("net_null0", "").unwrap();
    let many = PortConfig { rx_queues: 2000, ..CONFIG };
    let error = eal.device("net_null0").unwrap().start(&many, pool).unwrap_err().to_string();
    assert!(
        error.starts_with("device 'net_null0' has at most ") && error.contains(" receive queues, but 2000"),
        "{error}"
    );

    eal.add_virtual_device("net_null1", "").unwrap();
    let multicast = PortConfig { mac: Some([1, 0, 0, 0, 0, 1]), ..CONFIG };
    let error = eal.device("net_null1").unwrap().start(&multicast, pool).unwrap_err();
    assert!(matches!(error, Error::Mac { .. }), "{error}");

    eal.add_virtual_device("net_null2", "").unwrap();
    let tiny = PortConfig { mtu: 20, ..CONFIG };
    let error = eal.device("net_null2").unwrap().start(&tiny, pool).unwrap_err();
    assert!(matches!(error, Error::Mtu { mtu: 20, .. }), "{error}");
    assert_eq!(pool.available(), pool.size(), "a failed start leaked buffers");
}

fn number(packet: &Mbuf) -> u32 {
    u32::from_be_bytes(packet.data()[..4].try_into().unwrap())
}
