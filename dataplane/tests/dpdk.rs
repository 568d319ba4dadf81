//! Starting DPDK for real, on virtual devices, without hugepages.
//!
//! DPDK can be started once per process, so each test runs in a process of its own: this program again, told to
//! run that one test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane::PortId;
use dataplane::io::dpdk::{Dpdk, DpdkIo, EalOptions, Hugepages, PortOptions, StartError};
use dataplane::packet::{Burst, WorkerIo};

const PORT: PortId = PortId(0);
const CHILD: &str = "DPDK_TEST_CHILD";

#[test]
fn packets_loop_through_a_ring() {
    isolated("packets_loop_through_a_ring", &[], || {
        let ports = [port("lan", "net_ring0", Some(""))];
        let (dpdk, mut ios) = Dpdk::start(&options("loop"), &ports, 1, 100).unwrap();
        assert!(dpdk.warnings().is_empty() && Dpdk::version().starts_with("DPDK "));
        let facts = dpdk.port(PORT);
        assert_eq!((facts.name.as_str(), facts.driver.as_str(), facts.mtu, facts.queues), ("lan", "net_ring", 1500, 1));
        assert_eq!((&facts.rss, dpdk.ports().len()), (&None, 1));
        let (free, all) = dpdk.buffers();
        assert_eq!(free, all);

        let io = &mut ios[0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = io.register_thread().unwrap();
                let mut burst = Burst::new();
                for n in 0..10u8 {
                    let mut packet = io.allocate().unwrap();
                    assert!(packet.append(60) && packet.prepend(4));
                    packet.data_mut().fill(n);
                    burst.push(packet);
                }
                io.transmit(PORT, &mut burst);
                assert!(burst.is_empty());
                io.receive(PORT, &mut burst);
                assert!(
                    burst.iter().zip(0..10u8).all(|(packet, n)| packet.data() == [n; 64] && packet.is_contiguous())
                );
                assert_eq!(burst.len(), 10);
                drop((burst, guard));
            });
        });
        assert_eq!(dpdk.buffers(), (all, all), "buffers leaked");
        let stats = dpdk.port_stats(PORT).unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (10, 10));
        drop(ios);
        dpdk.stop();
    });
}

#[test]
fn a_worker_without_receive_queue_still_sends() {
    isolated("a_worker_without_receive_queue_still_sends", &[], || {
        let (_dpdk, mut ios) = Dpdk::start(&options("idle"), &[port("a", "net_null0", Some(""))], 2, 0).unwrap();
        let mut burst = Burst::new();
        ios[0].receive(PORT, &mut burst);
        assert!(burst.is_full(), "net_null always has packets");
        burst.clear();
        ios[1].receive(PORT, &mut burst);
        assert!(burst.is_empty());
        burst.push(ios[1].allocate().unwrap());
        ios[1].transmit(PORT, &mut burst);
        assert!(burst.is_empty());
    });
}

#[test]
fn too_few_queues_name_port_and_remedy() {
    isolated("too_few_queues_name_port_and_remedy", &[], || {
        // The driver has 16 in the usual build of DPDK.
        let error = start_error("few", port("lan", "net_ring0", Some("")), 100);
        assert!(error.starts_with("port 'lan' (net_ring0) has only ") && error.contains("100 workers"), "{error}");
        assert!(error.contains("set workers.count = "), "{error}");
    });
}

#[test]
fn unknown_driver_is_said_to_be_unknown() {
    isolated("unknown_driver_is_said_to_be_unknown", &[], || {
        let error = start_error("driver", port("lan", "net_taap0", Some("iface=a")), 1);
        assert!(error.starts_with("port 'lan': no driver in /") && error.contains("creates 'net_taap0'"), "{error}");
        assert!(error.contains("net_tap"), "{error}");
    });
}

#[test]
fn bad_device_arguments_are_reported_with_dpdks_words() {
    isolated("bad_device_arguments_are_reported_with_dpdks_words", &[], || {
        let error = start_error("args", port("lan", "net_null0", Some("sise=64")), 1);
        assert!(error.starts_with("port 'lan': virtual device 'net_null0' with arguments 'sise=64' cannot"), "{error}");
        assert!(error.ends_with("; check its arguments"), "{error}");
    });
}

#[test]
fn device_that_nobody_creates_is_unknown() {
    isolated("device_that_nobody_creates_is_unknown", &[], || {
        let error = start_error("unknown", port("lan", "net_null0", None), 1);
        assert!(error.starts_with("port 'lan': there is no device 'net_null0'; "), "{error}");
    });
}

#[test]
fn refused_mtu_names_port_and_range() {
    isolated("refused_mtu_names_port_and_range", &[], || {
        let error = start_error("mtu", PortOptions { mtu: 20, ..port("lan", "net_null0", Some("")) }, 1);
        assert!(error.starts_with("port 'lan': device 'net_null0' refuses MTU 20"), "{error}");
    });
}

#[test]
fn unknown_eal_argument_is_quoted() {
    isolated("unknown_eal_argument_is_quoted", &[], || {
        let options = EalOptions { args: vec!["--nonsense".to_owned()], ..options("nonsense") };
        let error = one_line(Dpdk::start(&options, &[port("lan", "net_null0", Some(""))], 1, 0).unwrap_err());
        assert!(error.contains("--nonsense"), "{error}");
    });
}

#[test]
fn killed_instance_leaves_nothing_in_the_way() {
    const NAME: &str = "killed_instance_leaves_nothing_in_the_way";
    let dir = tempfile::tempdir().unwrap();
    let socket = match std::env::var("DPDK_TEST_SOCKET") {
        Ok(socket) => socket,
        Err(_) => dir.path().join("memif.sock").to_str().unwrap().to_owned(),
    };
    let run = || {
        let args = format!("role=server,socket={socket},socket-abstract=no");
        let (dpdk, ios) = Dpdk::start(&options("killed"), &[port("lan", "net_memif0", Some(&args))], 1, 0)?;
        assert!(std::path::Path::new(&socket).exists());
        Ok::<_, StartError>((dpdk, ios))
    };
    match std::env::var(CHILD).as_deref() {
        Ok("hold") => {
            let _running = run().unwrap();
            println!("ready");
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok("refused") => {
            let error = run().unwrap_err();
            assert!(matches!(error, StartError::AlreadyRunning { pid: Some(_), .. }), "{error}");
        }
        Ok(_) => {
            let (dpdk, ios) = run().unwrap();
            drop(ios);
            dpdk.stop();
            assert!(!std::path::Path::new(&socket).exists(), "stopping left the socket");
        }
        Err(_) => {
            let spawn = |role: &str| {
                let mut command = child(NAME, role, &[]);
                command.env("DPDK_TEST_SOCKET", &socket).stdout(Stdio::piped()).spawn().unwrap()
            };
            let mut first = spawn("hold");
            let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the first did not start");
            succeed(spawn("refused"));
            first.kill().unwrap();
            first.wait().unwrap();
            assert!(std::fs::exists(&socket).unwrap(), "nothing stale to be cleared away");
            succeed(spawn("again"));
        }
    }
}

/// Two workers answer ARP and ping on a tap with two queues.
#[test]
fn kernel_reaches_a_tap_port() {
    // A network namespace of its own; with a user namespace unless we are root.
    let namespace = ["unshare", "--map-root-user", "--net"];
    if !Command::new(namespace[0]).args(&namespace[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no network namespace can be made here");
        return;
    }
    isolated("kernel_reaches_a_tap_port", &namespace, || {
        let lan = PortOptions {
            queues: 2,
            mtu: 1400,
            mac: Some([2, 0, 0, 0, 0, 1]),
            promiscuous: true,
            ..port("lan", "net_tap0", Some("iface=wire0"))
        };
        let (dpdk, mut ios) = Dpdk::start(&options("tap"), std::slice::from_ref(&lan), 2, 0).unwrap();
        assert_eq!((dpdk.port(PORT).mac, dpdk.port(PORT).mtu), ([2, 0, 0, 0, 0, 1], 1400));
        assert!(shell("ip link show wire0").contains("mtu 1400"));
        // The driver gives the kernel's end the port's own MAC address.
        shell(
            "ip link set wire0 address 02:00:00:00:00:02 && ip addr add 10.9.0.2/24 dev wire0 && ip link set wire0 up",
        );

        let stop = AtomicBool::new(false);
        let received: Vec<usize> = std::thread::scope(|scope| {
            let workers: Vec<_> = ios.iter_mut().map(|io| scope.spawn(|| answer(io, &stop))).collect();
            let pinged = shell("ping -q -c 5 -i 0.05 -W 2 10.9.0.1; true");
            shell("for port in $(seq 1 64); do echo x > /dev/udp/10.9.0.1/$port; done 2>/dev/null; sleep 0.2");
            stop.store(true, Ordering::Relaxed);
            let received = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
            assert!(pinged.contains(" 5 received"), "{pinged}");
            received
        });
        assert!(received.iter().all(|&n| n > 5), "frames per queue: {received:?}");
        assert!(shell("ip neigh show dev wire0").contains("10.9.0.1 lladdr 02:00:00:00:00:01"));
        assert!(dpdk.port_stats(PORT).unwrap().rx_packets >= received.iter().sum::<usize>() as u64);
        drop(ios);
        dpdk.stop();
        assert!(shell("ip -o link").lines().all(|line| !line.contains("wire0")), "stopping left the tap");
    });
}

/// Answers ARP requests and pings until told to stop, and returns how many frames came.
fn answer(io: &mut DpdkIo, stop: &AtomicBool) -> usize {
    let _guard = io.register_thread().unwrap();
    let mut received = 0;
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        io.receive(PORT, &mut burst);
        received += burst.len();
        burst.retain(|packet| reply(packet.data_mut()));
        io.transmit(PORT, &mut burst);
        burst.clear();
    }
    received
}

/// Turns an ARP request or an echo request into its reply and returns true, or returns false.
fn reply(frame: &mut [u8]) -> bool {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    match frame.get(12..14) {
        // RFC 826: operation, sender's and target's addresses.
        Some([0x08, 0x06]) if frame.len() >= 42 && frame[20..22] == [0, 1] && frame[38..42] == [10, 9, 0, 1] => {
            frame.copy_within(22..32, 32);
            frame[22..28].copy_from_slice(&MAC);
            frame[28..32].copy_from_slice(&[10, 9, 0, 1]);
            frame[21] = 2;
        }
        // RFC 792: echo becomes echo reply; the checksum grows by what the type shrinks.
        Some([0x08, 0x00]) if frame.len() >= 42 && frame[23] == 1 && frame[34] == 8 => {
            let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
            frame[34] = 0;
            frame[36..38].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
            frame[26..34].rotate_left(4);
        }
        _ => return false,
    }
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&MAC);
    true
}

fn options(name: &str) -> EalOptions {
    EalOptions {
        file_prefix: format!("test-{name}"),
        args: Vec::new(),
        hugepages: Hugepages::No,
        memory_mb: None,
        core: first_cpu(),
        program: "test".to_owned(),
    }
}

fn port(name: &str, device: &str, args: Option<&str>) -> PortOptions {
    PortOptions {
        name: name.to_owned(),
        device: device.to_owned(),
        vdev_args: args.map(str::to_owned),
        queues: 1,
        rx_descriptors: 256,
        tx_descriptors: 256,
        mtu: 1500,
        mac: None,
        promiscuous: false,
    }
}

fn start_error(name: &str, port: PortOptions, workers: usize) -> String {
    one_line(Dpdk::start(&options(name), &[port], workers, 0).unwrap_err())
}

fn one_line(error: StartError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn first_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    list.split(['-', ',']).next().unwrap().parse().unwrap()
}

fn shell(script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `test`, which is the body of the test of this name, in a process of its own, started by `wrapper`.
fn isolated(name: &str, wrapper: &[&str], test: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        test();
    } else {
        succeed(child(name, "yes", wrapper).spawn().unwrap());
    }
}

fn child(name: &str, role: &str, wrapper: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let mut words: Vec<&str> = wrapper.to_vec();
    words.extend([program.as_str(), "--exact", name, "--nocapture", "--test-threads=1"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(CHILD, role);
    command
}

fn succeed(mut child: Child) {
    let deadline = Instant::now() + Duration::from_secs(40);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                panic!("no end after 40 seconds");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(status.success(), "see the output above: {status}");
}
