//! Tests with the real kernel. Each runs in a network namespace of its own, for which it needs root.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dataplane::fib::Resolution;
use dataplane::shared::Limits;
use tokio::time::sleep;

use super::*;

/// Set for the test binary that runs inside a namespace: the name of the test.
const INSIDE: &str = "DPVS_TEST_IN_NAMESPACE";

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

/// Runs a test in a network namespace: runs this binary again, for this test only, under `unshare`.
fn in_namespace(test: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("{test}: SKIPPED, needs root to create a network namespace");
        return;
    }
    let module = module_path!().split_once("::").unwrap().1;
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(INSIDE, test)
        .output()
        .expect("`unshare` of util-linux");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "the test did not run: {out}{err}");
    eprint!("{err}");
}

/// Runs `ip` of iproute2 and returns what it says.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("`ip` of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn port(interface: &str, addresses: &[&str]) -> PortKernel {
    let addresses = addresses.iter().map(|text| {
        let (address, len) = text.split_once('/').unwrap();
        (address.parse().unwrap(), len.parse().unwrap())
    });
    PortKernel { interface: interface.to_owned(), mac: MAC, mtu: 1450, addresses: addresses.collect() }
}

fn shared(frames: usize) -> Arc<Shared> {
    Shared::new(Limits {
        workers: 1,
        ports: 1,
        max_services: 1,
        max_servers: 1,
        templates: 1,
        call_ids: 1,
        noted_replies: 1,
        slow_path_frames: frames,
        max_frame: 2048,
    })
}

/// A director with one port, `dpvs0`.
struct Lab {
    shared: Arc<Shared>,
    kernel: Kernel,
    fib: watch::Receiver<Arc<Fib>>,
    latencies: Vec<Duration>,
}

impl Lab {
    async fn start(addresses: &[&str]) -> Self {
        let shared = shared(256);
        let (kernel, fib) =
            Kernel::start(Arc::clone(&shared), vec![port("dpvs0", addresses)], Arc::default()).await.unwrap();
        Self { shared, kernel, fib, latencies: Vec::new() }
    }

    fn resolve(&self, dst: &str) -> Resolution {
        match dst.parse().unwrap() {
            IpAddr::V4(ip) => self.fib.borrow().resolve(ip, 0),
            IpAddr::V6(ip) => self.fib.borrow().resolve(ip, 0),
        }
    }

    fn mac_of(&self, dst: &str) -> Option<[u8; 6]> {
        match self.resolve(dst) {
            Resolution::Ready(id) => Some(self.fib.borrow().adjacency(id).dst_mac),
            _ => None,
        }
    }

    fn next_hop(&self, dst: &str) -> Option<String> {
        match self.resolve(dst) {
            Resolution::Unresolved { next_hop, .. } => Some(next_hop.to_string()),
            _ => None,
        }
    }

    /// Waits until the FIB fulfils `condition`.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}: not in the FIB; {:?}", self.fib.borrow());
            let _ = tokio::time::timeout(Duration::from_millis(50), self.fib.changed()).await;
        }
        self.latencies.push(start.elapsed());
    }

    /// Waits for a frame of the kernel that `select` accepts.
    async fn frame<T>(&self, what: &str, select: impl Fn(&[u8]) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            while let Some(frame) = self.shared.inject.receive() {
                let selected = select(frame.data());
                self.shared.inject.recycle(frame);
                if let Some(selected) = selected {
                    return selected;
                }
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{what}: no such frame");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Hands a frame to the kernel as a worker would.
    fn punt(&self, frame: &[u8]) {
        let mut buffer = self.shared.punt.take_empty().unwrap();
        assert!(buffer.fill(PortId(0), frame));
        self.shared.punt.send(buffer);
    }
}

/// An ARP packet in a frame (RFC 826).
fn arp(dst: [u8; 6], operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut frame = [dst, sender.0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend([&sender.0[..], &sender.1, &target.0, &target.1].concat());
    frame
}

/// The destination MAC, operation, sender MAC and target address of an ARP frame.
fn parse_arp(frame: &[u8]) -> Option<([u8; 6], u16, [u8; 6], Ipv4Addr)> {
    let arp = frame.get(12..42).filter(|rest| rest.starts_with(&[8, 6]))?;
    let target: [u8; 4] = arp[26..30].try_into().unwrap();
    let operation = u16::from_be_bytes([arp[8], arp[9]]);
    Some((frame[..6].try_into().unwrap(), operation, frame[6..12].try_into().unwrap(), target.into()))
}

/// The target of a neighbour solicitation (RFC 4861, section 4.3).
fn parse_solicitation(frame: &[u8]) -> Option<Ipv6Addr> {
    let is_solicitation = frame.get(12..14)? == [0x86, 0xdd] && frame.get(20)? == &58 && frame.get(54)? == &135;
    let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
    is_solicitation.then(|| target.into())
}

#[test]
fn mirror_interfaces_come_and_go_with_the_director() {
    in_namespace("mirror_interfaces_come_and_go_with_the_director", async || {
        let lab = Lab::start(&["10.0.0.1/24", "fd00::1/64"]).await;
        assert_eq!(lab.kernel.interface(PortId(0)), "dpvs0");
        let link = ip("-o link show dpvs0");
        for expected in ["UP,LOWER_UP", "mtu 1450", "link/ether 02:00:00:00:00:10", "BROADCAST,MULTICAST"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
        let addresses = ip("-o addr show dpvs0");
        for expected in ["10.0.0.1/24 brd 10.0.0.255", "fd00::1/64", "fe80::ff:fe00:10/64"] {
            assert!(addresses.contains(expected), "{expected}: {addresses}");
        }
        assert!(!addresses.contains("tentative"), "all addresses can be used at once: {addresses}");
        {
            let fib = lab.fib.borrow();
            let expected: [IpAddr; 3] =
                ["10.0.0.1", "fd00::1", "fe80::ff:fe00:10"].map(|address| address.parse().unwrap());
            assert_eq!((fib.ports[0].mac, fib.ports[0].mtu), (MAC, 1450));
            assert_eq!(fib.ports[0].addresses, expected);
        }
        assert_eq!(lab.next_hop("10.0.0.7").as_deref(), Some("10.0.0.7"));
        assert_eq!(lab.next_hop("fd00::7").as_deref(), Some("fd00::7"));
        assert_eq!(lab.resolve("192.0.2.1"), Resolution::NoRoute);

        drop(lab);
        // Tasks are dropped when the runtime comes to it.
        sleep(Duration::from_millis(100)).await;
        assert!(!ip("-o link show").contains("dpvs0"));
    });
}

#[test]
fn what_cannot_be_had_is_explained() {
    in_namespace("what_cannot_be_had_is_explained", async || {
        let lab = Lab::start(&[]).await;
        let start = async |interface: &str| {
            let error = Kernel::start(shared(1), vec![port(interface, &[])], Arc::default()).await.err().unwrap();
            let text = error.to_string();
            assert!(text.contains(interface) && !text.contains('\n'), "{text}");
            error
        };
        assert!(matches!(start("dpvs0").await, KernelError::NameTaken { .. }), "another director's");
        assert!(matches!(start("lo").await, KernelError::NameTaken { .. }), "an interface of another kind");
        assert!(matches!(start("a-name-too-long-for-linux").await, KernelError::BadName { .. }));
        assert!(matches!(start("a/b").await, KernelError::BadName { .. }));
        assert!(matches!(
            Kernel::start(shared(1), vec![port("", &[])], Arc::default()).await,
            Err(KernelError::BadName { .. })
        ));
        for (what, bad) in [
            ("MTU", PortKernel { mtu: 60, ..port("dpvs1", &[]) }),
            ("MAC", PortKernel { mac: [0xff; 6], ..port("dpvs1", &[]) }),
        ] {
            let error = Kernel::start(shared(1), vec![bad], Arc::default()).await.err().unwrap().to_string();
            assert!(error.contains("dpvs1") && error.contains(what), "{error}");
        }
        assert!(!ip("-o link show").contains("dpvs1"), "nothing is left of a failed start");
        drop(lab);
    });
}

#[test]
fn changes_of_the_kernel_reach_the_fib() {
    in_namespace("changes_of_the_kernel_reach_the_fib", async || {
        let mut lab = Lab::start(&["10.0.0.1/24", "fd00::1/64"]).await;
        ip("link set lo up");

        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev dpvs0 nud reachable");
        lab.until("neighbour", |l| l.mac_of("10.0.0.7") == Some([2, 0, 0, 0, 0, 7])).await;
        ip("neigh replace 10.0.0.7 lladdr 02:00:00:00:00:08 dev dpvs0");
        lab.until("another MAC", |l| l.mac_of("10.0.0.7") == Some([2, 0, 0, 0, 0, 8])).await;
        ip("neigh del 10.0.0.7 dev dpvs0");
        lab.until("neighbour deleted", |l| l.mac_of("10.0.0.7").is_none()).await;
        ip("neigh add fd00::7 lladdr 02:00:00:00:00:07 dev dpvs0 nud permanent");
        lab.until("IPv6 neighbour", |l| l.mac_of("fd00::7") == Some([2, 0, 0, 0, 0, 7])).await;

        ip("route add 192.0.2.0/24 via 10.0.0.254");
        lab.until("route", |l| l.next_hop("192.0.2.1").as_deref() == Some("10.0.0.254")).await;
        ip("route add 192.0.2.0/24 via 10.0.0.253 metric 10");
        ip("route del 192.0.2.0/24 via 10.0.0.254");
        lab.until("the next metric", |l| l.next_hop("192.0.2.1").as_deref() == Some("10.0.0.253")).await;
        ip("route del 192.0.2.0/24");
        lab.until("route deleted", |l| l.resolve("192.0.2.1") == Resolution::NoRoute).await;
        ip("-4 route add default via inet6 fd00::fe dev dpvs0");
        lab.until("IPv6 next hop", |l| l.next_hop("8.8.8.8").as_deref() == Some("fd00::fe")).await;
        ip("route add blackhole 8.8.8.0/24");
        lab.until("blackhole", |l| l.resolve("8.8.8.8") == Resolution::NoRoute).await;
        ip("route add 8.8.8.128/25 dev lo");
        lab.until("another interface", |l| l.resolve("8.8.8.129") == Resolution::NoRoute).await;

        ip("-6 route add 2001:db8::/32 nexthop via fd00::a weight 1 nexthop via fd00::b weight 3");
        let hops = |l: &Lab| {
            let at = |flow| match l.fib.borrow().resolve("2001:db8::1".parse::<Ipv6Addr>().unwrap(), flow) {
                Resolution::Unresolved { next_hop, .. } => next_hop.to_string(),
                _ => String::new(),
            };
            [0, 1 << 30, u32::MAX].map(at)
        };
        lab.until("multipath", |l| hops(l) == ["fd00::a", "fd00::b", "fd00::b"]).await;
        ip("-6 route del 2001:db8::/32 via fd00::a");
        lab.until("a path deleted", |l| hops(l) == ["fd00::b", "fd00::b", "fd00::b"]).await;

        ip("nexthop add id 1 via 10.0.0.251 dev dpvs0");
        ip("route add 198.51.100.0/24 nhid 1");
        lab.until("next-hop object", |l| l.next_hop("198.51.100.1").as_deref() == Some("10.0.0.251")).await;
        ip("nexthop replace id 1 via 10.0.0.252 dev dpvs0");
        lab.until("object replaced", |l| l.next_hop("198.51.100.1").as_deref() == Some("10.0.0.252")).await;
        ip("nexthop del id 1");
        lab.until("object deleted", |l| l.next_hop("198.51.100.1").as_deref() == Some("fd00::fe")).await;

        let local = |l: &Lab, text: &str| l.fib.borrow().is_local(text.parse().unwrap());
        ip("addr add 10.5.0.1/24 dev dpvs0");
        lab.until("address", |l| local(l, "10.5.0.1") && l.next_hop("10.5.0.9").as_deref() == Some("10.5.0.9")).await;
        assert_eq!(lab.fib.borrow().ports[0].addresses[1], IpAddr::from([10, 5, 0, 1]));
        ip("addr del 10.5.0.1/24 dev dpvs0");
        lab.until("address deleted", |l| {
            !local(l, "10.5.0.1") && l.next_hop("10.5.0.9").as_deref() == Some("fd00::fe")
        })
        .await;
        ip("addr add 192.0.2.80/32 dev lo");
        lab.until("address of another interface", |l| local(l, "192.0.2.80")).await;

        lab.kernel.set_carrier(PortId(0), false).await.unwrap();
        lab.until("no link", |l| l.resolve("10.0.0.7") == Resolution::NoRoute).await;
        lab.until("no link, IPv6", |l| l.resolve("fd00::7") == Resolution::NoRoute).await;
        lab.kernel.set_carrier(PortId(0), true).await.unwrap();
        lab.until("link", |l| l.next_hop("10.0.0.7").as_deref() == Some("10.0.0.7")).await;
        lab.until("link, IPv6", |l| l.next_hop("fd00::8").as_deref() == Some("fd00::8")).await;

        ip("link set dpvs0 mtu 1400");
        lab.until("MTU", |l| l.fib.borrow().ports[0].mtu == 1400).await;
        ip("link set dpvs0 down");
        lab.until("down", |l| l.resolve("10.0.0.7") == Resolution::NoRoute).await;
        ip("link set dpvs0 up");
        lab.until("up", |l| l.next_hop("10.0.0.7").as_deref() == Some("10.0.0.7")).await;
        ip("link del dpvs0");
        lab.until("gone", |l| {
            l.resolve("10.0.0.7") == Resolution::NoRoute && l.fib.borrow().ports[0].addresses.is_empty()
        })
        .await;

        lab.latencies.sort();
        let (median, worst) = (lab.latencies[lab.latencies.len() / 2], lab.latencies.last().unwrap());
        eprintln!("{} changes, visible after {median:?} (median), {worst:?} (worst)", lab.latencies.len());
        assert!(median < Duration::from_millis(100), "{:?}", lab.latencies);
    });
}

#[test]
fn state_changes_of_neighbours_are_no_news() {
    in_namespace("state_changes_of_neighbours_are_no_news", async || {
        let mut lab = Lab::start(&["10.0.0.1/24"]).await;
        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev dpvs0 nud reachable");
        lab.until("neighbour", |l| l.mac_of("10.0.0.7").is_some()).await;
        // The interface's own notifications may still be under way.
        sleep(Duration::from_millis(100)).await;
        let generation = lab.fib.borrow().generation;
        for state in ["stale", "reachable", "delay", "permanent"] {
            ip(&format!("neigh change 10.0.0.7 lladdr 02:00:00:00:00:07 dev dpvs0 nud {state}"));
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(lab.fib.borrow().generation, generation);
        ip("neigh change 10.0.0.7 dev dpvs0 nud failed");
        lab.until("failed", |l| l.mac_of("10.0.0.7").is_none()).await;
        assert_eq!(lab.fib.borrow().generation, generation + 1);
        assert_eq!(lab.kernel.counters().fib_generation, u64::from(generation) + 1);
    });
}

#[test]
fn next_hops_are_resolved_on_request() {
    in_namespace("next_hops_are_resolved_on_request", async || {
        let mut lab = Lab::start(&["10.0.0.1/24", "fd00::1/64"]).await;
        let target = Ipv4Addr::new(10, 0, 0, 7);
        for _ in 0..3 {
            lab.shared.resolve.push((PortId(0), target.into())).unwrap();
        }
        let request = |frame: &[u8]| parse_arp(frame).filter(|(.., of)| *of == target);
        let (dst, operation, sender, _) = lab.frame("ARP request", request).await;
        assert_eq!((dst, operation, sender), ([0xff; 6], 1, MAC));
        let counters = lab.kernel.counters();
        assert_eq!((counters.resolve_requests, counters.neighbour_kicks), (3, 1), "the kernel is asked once");
        assert!(counters.from_kernel >= 1);

        lab.punt(&arp(MAC, 2, (PEER, [10, 0, 0, 7]), (MAC, [10, 0, 0, 1])));
        lab.until("ARP reply", |l| l.mac_of("10.0.0.7") == Some(PEER)).await;
        assert_eq!(lab.kernel.counters().to_kernel, 1);

        let target: Ipv6Addr = "fd00::7".parse().unwrap();
        lab.shared.resolve.push((PortId(0), target.into())).unwrap();
        lab.frame("neighbour solicitation", |frame| parse_solicitation(frame).filter(|of| *of == target)).await;
        // A request for a port that does not exist is ignored.
        lab.shared.resolve.push((PortId(9), target.into())).unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(lab.kernel.counters().neighbour_kicks_failed, 0);
    });
}

#[test]
fn the_kernel_answers_punted_frames() {
    in_namespace("the_kernel_answers_punted_frames", async || {
        let lab = Lab::start(&["10.0.0.1/24"]).await;
        lab.punt(&arp([0xff; 6], 1, (PEER, [10, 0, 0, 9]), ([0; 6], [10, 0, 0, 1])));
        let (dst, operation, sender, _) =
            lab.frame("ARP reply", |frame| parse_arp(frame).filter(|(_, operation, ..)| *operation == 2)).await;
        assert_eq!((dst, operation, sender), (PEER, 2, MAC));

        // While the interface is down, frames are dropped and counted; buffers are not lost.
        ip("link set dpvs0 down");
        for _ in 0..1000 {
            lab.punt(&arp([0xff; 6], 1, (PEER, [10, 0, 0, 9]), ([0; 6], [10, 0, 0, 1])));
            sleep(Duration::from_micros(100)).await;
        }
        sleep(Duration::from_millis(20)).await;
        let counters = lab.kernel.counters();
        assert_eq!((counters.to_kernel, counters.to_kernel_dropped), (1, 1000));
    });
}

#[test]
fn frames_of_the_kernel_are_complete_and_bounded() {
    in_namespace("frames_of_the_kernel_are_complete_and_bounded", async || {
        let lab = Lab::start(&["10.0.0.1/24"]).await;
        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:77 dev dpvs0 nud permanent");
        let socket = UdpSocket::bind("10.0.0.1:1000").unwrap();
        socket.send_to(b"payload of an odd length", "10.0.0.7:2000").unwrap();
        let datagram = |frame: &[u8]| (frame.get(12..14)? == [8, 0] && frame[23] == 17).then(|| frame.to_vec());
        let frame = lab.frame("datagram", datagram).await;
        assert_eq!((&frame[..6], &frame[6..12]), (&PEER[..], &MAC[..]));
        // The sum over pseudo header and datagram with its checksum is all ones (RFC 768).
        let mut covered = frame[26..].to_vec();
        covered.extend([0, 17]);
        covered.extend(&frame[38..40]);
        let sum: u32 = covered.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum();
        assert_ne!(&frame[40..42], [0, 0], "a checksum is present");
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "and it is right");

        // Nobody takes frames any more: the queue fills, the rest is dropped. Too long ones never get in.
        let before = lab.kernel.counters();
        for _ in 0..300 {
            socket.send_to(b"x", "10.0.0.7:2000").unwrap();
        }
        sleep(Duration::from_millis(100)).await;
        let after = lab.kernel.counters();
        assert!(after.from_kernel - before.from_kernel <= 256);
        assert!(after.from_kernel_no_buffer >= 44, "{after:?}");
        while let Some(frame) = lab.shared.inject.receive() {
            lab.shared.inject.recycle(frame);
        }
        ip("link set dpvs0 mtu 4000");
        socket.send_to(&[0; 3000], "10.0.0.7:2000").unwrap();
        sleep(Duration::from_millis(50)).await;
        assert_eq!(lab.kernel.counters().from_kernel_too_long, 1);
    });
}

#[test]
fn stale_neighbours_are_verified_and_dead_ones_leave() {
    in_namespace("stale_neighbours_are_verified_and_dead_ones_leave", async || {
        let mut lab = Lab::start(&["10.0.0.1/24"]).await;
        // The kernel waits 5 s before it probes and 1 s between probes; here it is to be quick.
        for (name, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "50")] {
            std::fs::write(format!("/proc/sys/net/ipv4/neigh/dpvs0/{name}"), value).unwrap();
        }
        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:77 dev dpvs0 nud stale");
        lab.until("neighbour", |l| l.mac_of("10.0.0.7") == Some(PEER)).await;
        let (dst, operation, ..) = lab.frame("announcement", parse_arp).await;
        assert_eq!((dst, operation), ([0xff; 6], 1), "the director tells everybody its address first");
        let (dst, operation, ..) = lab.frame("probe", parse_arp).await;
        assert_eq!((dst, operation), (PEER, 1), "a request to the neighbour itself");
        lab.until("dead", |l| l.mac_of("10.0.0.7").is_none()).await;
    });
}

#[test]
fn lost_notifications_are_made_up_for() {
    in_namespace("lost_notifications_are_made_up_for", async || {
        let mut lab = Lab::start(&["10.0.0.1/24"]).await;
        let batch = |command: &'static str, range: std::ops::Range<u32>| async move {
            use std::io::Write;
            let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            for n in range {
                let network = Ipv4Addr::from(0x1400_0000 + (n << 8));
                writeln!(stdin, "route {command} {network}/24 via 10.0.0.{}", n % 200 + 2).unwrap();
            }
            drop(stdin);
            // This blocks the thread, so that nobody reads notifications meanwhile.
            assert!(child.wait().unwrap().success());
        };
        let hop = |l: &Lab, n: u32| match l.fib.borrow().resolve(Ipv4Addr::from(0x1400_0001 + (n << 8)), 0) {
            Resolution::Unresolved { next_hop, .. } => Some(next_hop),
            _ => None,
        };
        let expected = |n: u32| Some(IpAddr::from([10, 0, 0, (n % 200 + 2) as u8]));
        lab.kernel._thread.run(batch("add", 0..20_000)).await;
        lab.until("20000 routes", |l| (0..20_000).all(|n| hop(l, n) == expected(n))).await;
        assert!(lab.kernel.counters().resyncs > 0, "the burst was meant to overflow the socket");

        lab.kernel._thread.run(batch("del", 100..20_000)).await;
        lab.until("100 routes", |l| (0..20_000).all(|n| hop(l, n) == expected(n).filter(|_| n < 100))).await;
        // And the socket works on.
        ip("route add 192.0.2.0/24 via 10.0.0.254");
        lab.until("one more", |l| l.next_hop("192.0.2.1").as_deref() == Some("10.0.0.254")).await;
    });
}

#[test]
fn host_addresses_are_added_and_only_ours_removed() {
    in_namespace("host_addresses_are_added_and_only_ours_removed", async || {
        let mut lab = Lab::start(&["10.0.0.1/24", "fd00::1/64"]).await;
        ip("link set lo up");
        ip("addr add 10.0.0.50/32 dev lo");
        let [own, v6, present]: [IpAddr; 3] = ["10.0.0.60", "fd00::60", "10.0.0.50"].map(|text| text.parse().unwrap());
        assert!(lab.kernel.ensure_address("dpvs0", own).await.unwrap());
        assert!(!lab.kernel.ensure_address("dpvs0", own).await.unwrap(), "it is there");
        assert!(lab.kernel.ensure_address("dpvs0", v6).await.unwrap());
        assert!(!lab.kernel.ensure_address("dpvs0", present).await.unwrap(), "on another interface");
        lab.until("addresses", |l| l.fib.borrow().is_local(own) && l.fib.borrow().is_local(v6)).await;
        let addresses = ip("-o addr show dpvs0");
        assert!(addresses.contains("10.0.0.60/32") && addresses.contains("fd00::60/128"), "{addresses}");
        assert!(addresses.contains("nodad deprecated noprefixroute"), "{addresses}");
        assert!(!ip("-6 route show dev dpvs0").contains("fd00::60"));
        let source = ip("-6 route get fd00::61");
        assert!(source.contains("src fd00::1 "), "virtual addresses are no sources: {source}");
        // The kernel answers for them.
        lab.punt(&arp([0xff; 6], 1, (PEER, [10, 0, 0, 9]), ([0; 6], [10, 0, 0, 60])));
        lab.frame("ARP reply", |frame| parse_arp(frame).filter(|(_, operation, ..)| *operation == 2)).await;

        assert!(lab.kernel.remove_address(own).await.unwrap());
        assert!(!lab.kernel.remove_address(own).await.unwrap());
        assert!(!lab.kernel.remove_address(present).await.unwrap(), "it was not ours");
        lab.until("removed", |l| !l.fib.borrow().is_local(own)).await;
        assert!(ip("-o addr show dev lo").contains("10.0.0.50"));
        ip("addr del fd00::60/128 dev dpvs0");
        lab.kernel.remove_addresses().await.unwrap();

        let error = lab.kernel.ensure_address("nowhere", own).await.unwrap_err();
        assert!(matches!(error, KernelError::NoInterface { .. }), "{error}");
    });
}
