//! Packets from NICs and virtual devices that DPDK drives.
//!
//! [`Dpdk::start`] does everything from the EAL to started ports and hands one [`DpdkIo`] to each worker. What can
//! be checked before DPDK is asked is checked, because DPDK's own messages seldom name the cause ([`StartError`]).

mod arguments;
mod device;
mod error;
mod memory;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use ::dpdk::{Device, Eal, Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};
pub use ::dpdk::{PortStats, RssConfig, ThreadGuard};

pub use self::error::StartError;
use crate::PortId;
use crate::packet::{Burst, PacketBuf, WorkerIo};

/// How to start DPDK.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// Name of this instance; two of the same name cannot run at once.
    pub file_prefix: String,
    /// Further arguments for DPDK, after those made from the other options.
    pub args: Vec<String>,
    /// Whether packets live in hugepages.
    pub hugepages: Hugepages,
    /// Memory for packets in MiB; `None` takes what the ports need.
    pub memory_mb: Option<u32>,
    /// CPU that the calling thread, the control thread, is pinned to.
    pub core: usize,
    /// Name of the program in messages.
    pub program: String,
}

/// Whether packets live in hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// If there are enough, otherwise in ordinary memory, with a warning.
    Auto,
    /// Yes, or fail.
    Yes,
    /// No: slower, and most NICs refuse it; virtual devices do not.
    No,
}

/// How to start a port.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// The user's name for it, for messages.
    pub name: String,
    /// PCI address, or the name of a virtual device such as "net_tap0".
    pub device: String,
    /// Arguments of the virtual device, such as "iface=wire0"; it is created with them. `None` for PCI devices and
    /// for virtual devices that [`EalOptions::args`] create.
    pub vdev_args: Option<String>,
    /// Receive queues, served by as many workers. Every worker has a transmit queue.
    pub queues: u16,
    /// Descriptors of each receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// MAC address; `None` leaves the device its own.
    pub mac: Option<[u8; 6]>,
    /// Whether to receive frames for other stations.
    pub promiscuous: bool,
}

/// What is known of a started port.
#[derive(Clone, Debug)]
pub struct PortFacts {
    /// The user's name for it.
    pub name: String,
    /// PCI address or name of the virtual device.
    pub device: String,
    /// DPDK's driver, such as "net_tap".
    pub driver: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// Receive queues.
    pub queues: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// How the NIC chooses the queue of a TCP or UDP packet; `None` when it does not by a hash we can compute.
    pub rss: Option<RssConfig>,
}

/// The running ports. Dropping it is [`stop`](Self::stop).
#[derive(Debug)]
pub struct Dpdk {
    // Dropped in this order: the next instance may start when the ports are closed.
    ports: Vec<(PortFacts, Port)>,
    pool: Mempool,
    warnings: Vec<String>,
    _lock: arguments::InstanceLock,
}

/// One worker's queues on every port.
#[derive(Debug)]
pub struct DpdkIo {
    queues: Box<[WorkerQueues]>,
    pool: Mempool,
    eal: Eal,
}

#[derive(Debug)]
struct WorkerQueues {
    /// `None` on a port with fewer receive queues than there are workers.
    rx: Option<RxQueue>,
    tx: TxQueue,
}

/// How long ports may take to get a link, all together, before the start goes on with a warning.
const LINK_TIMEOUT: Duration = Duration::from_secs(3);

impl Dpdk {
    /// Starts DPDK and the ports, for `workers` workers that hold at most `extra_frames` packets all together
    /// besides the bursts in their hands. Possible once per process. Pins the calling thread to [`EalOptions::core`].
    ///
    /// # Errors
    ///
    /// See [`StartError`]. DPDK is left as it is then: end the process.
    pub fn start(
        options: &EalOptions,
        ports: &[PortOptions],
        workers: usize,
        extra_frames: usize,
    ) -> Result<(Self, Vec<DpdkIo>), StartError> {
        let mut warnings = Vec::new();
        arguments::check(options)?;
        for port in ports {
            device::check(port, workers)?;
        }
        device::check_clashes(ports)?;
        let pool_config = memory::pool_config(ports, workers, extra_frames);
        let memory = memory::choose(options, &pool_config, &mut warnings)?;
        arguments::check_core(options.core)?;
        let lock = arguments::lock(&options.file_prefix)?;
        for port in ports {
            device::prepare(port)?;
        }
        let eal = Eal::init(arguments::build(options, ports, memory)).map_err(StartError::Eal)?;

        let mut devices: Vec<Device> = Vec::new();
        for port in ports {
            devices.push(device::open(&eal, port, workers)?);
        }
        let socket = devices.first().and_then(|device| device.info().ok()).and_then(|info| info.socket);
        let pool_config = ::dpdk::PoolConfig { socket, ..pool_config };
        let pool = Mempool::new(&eal, &pool_config).map_err(|reason| StartError::Pool { memory, reason })?;

        let mut ios: Vec<Vec<WorkerQueues>> = std::iter::repeat_with(Vec::new).take(workers).collect();
        let mut started = Vec::new();
        for ((options, config), device) in ports.iter().zip(port_configs(ports, workers)).zip(devices) {
            let in_port = |reason| StartError::Port { port: options.name.clone(), reason };
            let (port, rx, tx) = device.start(&config, &pool).map_err(in_port)?;
            let facts = PortFacts {
                name: options.name.clone(),
                device: options.device.clone(),
                driver: port.info().driver.clone(),
                mac: port.mac().map_err(in_port)?,
                queues: options.queues,
                mtu: port.mtu().map_err(in_port)?,
                rss: port.rss().cloned(),
            };
            started.push((facts, port));
            let mut rx = rx.into_iter();
            for (io, tx) in ios.iter_mut().zip(tx) {
                io.push(WorkerQueues { rx: rx.next(), tx });
            }
        }
        let ios = ios.into_iter().map(|queues| DpdkIo { queues: queues.into(), pool: pool.clone(), eal: eal.clone() });
        let ios = ios.collect();
        let mut dpdk = Self { ports: started, pool, warnings, _lock: lock };
        dpdk.wait_for_links();
        Ok((dpdk, ios))
    }

    /// What the user should know although the start succeeded, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What is known of a port.
    ///
    /// # Panics
    ///
    /// When there is no such port, here and below.
    pub fn port(&self, id: PortId) -> &PortFacts {
        &self.ports[usize::from(id.0)].0
    }

    /// All ports, by [`PortId`].
    pub fn ports(&self) -> impl ExactSizeIterator<Item = &PortFacts> {
        self.ports.iter().map(|(facts, _)| facts)
    }

    /// The NIC's counters of a port.
    ///
    /// # Errors
    ///
    /// When the driver has none.
    pub fn port_stats(&self, id: PortId) -> Result<PortStats, ::dpdk::Error> {
        self.ports[usize::from(id.0)].1.stats()
    }

    /// True while a port's link is up. A memif link is up while its peer is there.
    pub fn is_link_up(&self, id: PortId) -> bool {
        self.ports[usize::from(id.0)].1.link().is_ok_and(|link| link.is_some())
    }

    /// Packet buffers that are free and that there are.
    pub fn buffers(&self) -> (u32, u32) {
        (self.pool.available(), self.pool.size())
    }

    /// The version of DPDK, such as "DPDK 22.11.11".
    pub fn version() -> String {
        Eal::version().to_owned()
    }

    /// Stops and closes the ports, which removes taps and memif sockets. Drop every [`DpdkIo`] before: a port stays
    /// open as long as one has a queue of it. DPDK's memory stays until the process ends.
    pub fn stop(self) {}

    fn wait_for_links(&mut self) {
        let deadline = Instant::now() + LINK_TIMEOUT;
        for (facts, port) in &self.ports {
            if port.info().is_software {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !port.wait_for_link(left).is_ok_and(|link| link.is_some()) {
                let PortFacts { name, device, .. } = facts;
                self.warnings.push(format!("port '{name}' ({device}) has no link yet: check the cable"));
            }
        }
    }
}

/// What to ask of each port.
fn port_configs(ports: &[PortOptions], workers: usize) -> Vec<PortConfig> {
    // One key for all ports, so that a connection has one worker whichever port its packets come in by; random, so that
    // nobody outside can aim at one worker.
    let random = RandomState::new();
    let rss_key = std::array::from_fn(|i| random.hash_one(i) as u8);
    let config = |options: &PortOptions| PortConfig {
        rx_queues: options.queues,
        tx_queues: workers as u16,
        rx_descriptors: options.rx_descriptors,
        tx_descriptors: options.tx_descriptors,
        mtu: options.mtu,
        mac: options.mac,
        promiscuous: options.promiscuous,
        rss_key,
    };
    ports.iter().map(config).collect()
}

impl DpdkIo {
    /// Registers the calling thread, which is to run this worker, until the guard is dropped. The worker would work
    /// without, but slowly: its buffers would bypass the per-thread cache.
    ///
    /// # Errors
    ///
    /// When DPDK takes no more threads.
    pub fn register_thread(&self) -> Result<ThreadGuard, ::dpdk::Error> {
        ::dpdk::thread::register_thread(&self.eal)
    }
}

impl WorkerIo for DpdkIo {
    type Packet = Mbuf;

    #[inline]
    fn receive(&mut self, port: PortId, burst: &mut Burst<Mbuf>) {
        if let Some(rx) = &mut self.queues[usize::from(port.0)].rx {
            rx.receive(burst);
        }
    }

    #[inline]
    fn transmit(&mut self, port: PortId, burst: &mut Burst<Mbuf>) {
        self.queues[usize::from(port.0)].tx.transmit(burst);
    }

    #[inline]
    fn allocate(&mut self) -> Option<Mbuf> {
        self.pool.allocate()
    }
}

impl PacketBuf for Mbuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        Mbuf::data(self)
    }

    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        Mbuf::data_mut(self)
    }

    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        Mbuf::prepend(self, n)
    }

    #[inline(always)]
    fn append(&mut self, n: usize) -> bool {
        Mbuf::append(self, n)
    }

    #[inline(always)]
    fn trim_front(&mut self, n: usize) {
        Mbuf::trim_front(self, n);
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        Mbuf::truncate(self, len);
    }

    #[inline(always)]
    fn is_contiguous(&self) -> bool {
        Mbuf::is_contiguous(self)
    }

    #[inline(always)]
    fn rss_hash(&self) -> Option<u32> {
        Mbuf::rss_hash(self)
    }
}
