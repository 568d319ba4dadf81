//! Ports: devices that DPDK drives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dpdk_sys as sys;

use crate::eal::{Capture, Eal, c_string, text};
use crate::error::{Errno, Error};
use crate::mempool::Mempool;
use crate::queue::{RxQueue, TxQueue};
use crate::rss::{self, RssConfig};

/// A device that was found and is nobody else's, not started yet.
#[derive(Debug)]
pub struct Device {
    claim: Claim,
}

/// The right to a port, given back when dropped.
#[derive(Debug)]
struct Claim {
    eal: Eal,
    id: u16,
    name: String,
}

/// What a device's driver says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the driver, such as "net_tap".
    pub driver: String,
    /// NUMA node, if it has one.
    pub socket: Option<u32>,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Smallest MTU in bytes.
    pub min_mtu: u16,
    /// Largest MTU in bytes.
    pub max_mtu: u16,
    /// Entries of the RSS redirection table; 0 without RSS.
    pub reta_size: u16,
    /// Bytes of the RSS key; 0 when the driver does not say.
    pub rss_key_size: u8,
    /// True for software drivers: there is no NIC that filters addresses, computes RSS or waits for a link.
    pub is_software: bool,
}

/// How to start a port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues, at least 1.
    pub rx_queues: u16,
    /// Transmit queues, at least 1.
    pub tx_queues: u16,
    /// Descriptors of each receive queue, fitted to what the driver can do.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue, likewise.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// MAC address; `None` leaves the device its own.
    pub mac: Option<[u8; 6]>,
    /// Whether to receive frames for other stations.
    pub promiscuous: bool,
    /// RSS key; as much of it is used as the NIC's key is long.
    pub rss_key: [u8; rss::KEY_SIZE],
}

/// Counters of a port since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the NIC dropped because the receive queues were full.
    pub rx_missed: u64,
    /// Erroneous packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped because there was no mbuf.
    pub rx_no_buffer: u64,
}

/// A link that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Speed in Mbit/s; `u32::MAX` when unknown.
    pub speed: u32,
}

/// A started port. It is stopped and closed when this and its queues are dropped.
#[derive(Debug)]
pub struct Port {
    started: Arc<Started>,
    info: DeviceInfo,
    rss: Option<RssConfig>,
}

/// A port that is configured, and stopped and closed when the last handle goes.
#[derive(Debug)]
pub(crate) struct Started {
    claim: Claim,
    /// Drivers do not expect two control operations at once.
    control: Mutex<()>,
}

impl Eal {
    /// The device of this name: a PCI address or the name of a virtual device.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`]; [`Error::InUse`] when it was handed out before.
    pub fn device(&self, name: &str) -> Result<Device, Error> {
        let c_name = c_string(name.to_owned())?;
        let mut id = 0;
        // SAFETY: a NUL-terminated string and a place for the number.
        if unsafe { sys::dpvs_port_by_name(c_name.as_ptr(), &raw mut id) } != 0 {
            return Err(Error::NoDevice { device: name.to_owned(), known: self.devices() });
        }
        if !self.claim(id) {
            return Err(Error::InUse { device: name.to_owned() });
        }
        Ok(Device { claim: Claim { eal: self.clone(), id, name: name.to_owned() } })
    }
}

impl Device {
    /// What the driver says.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn info(&self) -> Result<DeviceInfo, Error> {
        self.claim.info(&self.claim.eal.capture_log()).map(|info| DeviceInfo::new(&info))
    }

    /// Configures and starts the port, and hands out its queues, each once. On failure the device is closed.
    ///
    /// # Errors
    ///
    /// [`Error::TooFewQueues`], [`Error::Mtu`], [`Error::Mac`], and [`Error::Operation`] for all else.
    pub fn start(self, config: &PortConfig, pool: &Mempool) -> Result<(Port, Vec<RxQueue>, Vec<TxQueue>), Error> {
        let capture = self.claim.eal.capture_log();
        let raw_info = self.claim.info(&capture)?;
        let info = DeviceInfo::new(&raw_info);
        let key_size = rss::key_size(&info.driver, &raw_info, config.rx_queues);
        // From here on an early return closes the device, which gives the pool its buffers back.
        let started = Started { claim: self.claim, control: Mutex::new(()) };
        let claim = &started.claim;
        claim.check_queues("receive", info.max_rx_queues, config.rx_queues)?;
        claim.check_queues("transmit", info.max_tx_queues, config.tx_queues)?;
        claim.check_mtu(&info, config.mtu, &capture)?;
        claim.configure(config, key_size, pool, &capture)?;
        if let Some(mac) = config.mac {
            claim.set_mac(mac, &capture)?;
        }
        claim.set_mtu(&info, config.mtu, &capture)?;
        // SAFETY: the port is configured and has all its queues.
        claim.check("start", unsafe { sys::dpvs_port_start(claim.id) }, &capture)?;
        if config.promiscuous {
            // SAFETY: numbers only.
            let result = unsafe { sys::dpvs_port_set_promiscuous(claim.id, 1) };
            // Some software drivers have no filter to switch off, and say that they cannot.
            if !(info.is_software && result == -Errno::ENOTSUP.0) {
                claim.check("promiscuous mode", result, &capture)?;
            }
        }
        let rss = match key_size {
            0 => None,
            size => rss::settle(claim.id, raw_info.reta_size, config.rx_queues, size),
        };
        let started = Arc::new(started);
        let rx_queues = (0..config.rx_queues).map(|queue| RxQueue::new(&started, queue)).collect();
        let tx_queues = (0..config.tx_queues).map(|queue| TxQueue::new(&started, queue)).collect();
        Ok((Port { started, info, rss }, rx_queues, tx_queues))
    }
}

impl Claim {
    fn info(&self, capture: &Capture) -> Result<sys::dpvs_port_info, Error> {
        let mut info = std::mem::MaybeUninit::uninit();
        // SAFETY: the shim fills in the struct and returns 0, or returns an error.
        let result = unsafe { sys::dpvs_port_info(self.id, info.as_mut_ptr()) };
        self.check("inquiry", result, capture)?;
        // SAFETY: it is filled in.
        Ok(unsafe { info.assume_init() })
    }

    fn check_queues(&self, direction: &'static str, max: u16, wanted: u16) -> Result<(), Error> {
        if wanted <= max {
            return Ok(());
        }
        Err(Error::TooFewQueues { device: self.name.clone(), direction, max, wanted })
    }

    fn check_mtu(&self, info: &DeviceInfo, mtu: u16, capture: &Capture) -> Result<(), Error> {
        if (info.min_mtu..=info.max_mtu).contains(&mtu) {
            return Ok(());
        }
        Err(self.mtu_error(info, mtu, Errno::EINVAL, capture))
    }

    fn configure(&self, config: &PortConfig, key_size: u8, pool: &Mempool, capture: &Capture) -> Result<(), Error> {
        let port_config = sys::dpvs_port_config {
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            mtu: config.mtu,
            rss_key_size: key_size,
            rss_key: config.rss_key.as_ptr(),
        };
        // SAFETY: the configuration and the key it points to live during the call.
        let result = unsafe { sys::dpvs_port_configure(self.id, &raw const port_config) };
        self.check("configuration", result, capture)?;
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: two numbers that the shim reads and writes.
        let result = unsafe { sys::dpvs_port_adjust_descriptors(self.id, &raw mut rx, &raw mut tx) };
        self.check("choice of descriptor numbers", result, capture)?;
        for queue in 0..config.rx_queues {
            // SAFETY: the pool is never freed.
            let result = unsafe { sys::dpvs_rx_queue_setup(self.id, queue, rx, pool.as_ptr()) };
            self.check("set-up of a receive queue", result, capture)?;
        }
        for queue in 0..config.tx_queues {
            // SAFETY: numbers only.
            let result = unsafe { sys::dpvs_tx_queue_setup(self.id, queue, tx) };
            self.check("set-up of a transmit queue", result, capture)?;
        }
        Ok(())
    }

    fn set_mac(&self, mac: [u8; 6], capture: &Capture) -> Result<(), Error> {
        // SAFETY: six bytes.
        Errno::check(unsafe { sys::dpvs_port_set_mac(self.id, mac.as_ptr()) }).map(drop).map_err(|errno| {
            let device = self.name.clone();
            Error::Mac { device, mac, errno, log: capture.summary() }
        })
    }

    fn set_mtu(&self, info: &DeviceInfo, mtu: u16, capture: &Capture) -> Result<(), Error> {
        // SAFETY: numbers only.
        match Errno::check(unsafe { sys::dpvs_port_set_mtu(self.id, mtu) }) {
            // Drivers without this operation, such as memif, take what the configuration says.
            Ok(_) | Err(Errno::ENOTSUP) => Ok(()),
            Err(errno) => Err(self.mtu_error(info, mtu, errno, capture)),
        }
    }

    fn mtu_error(&self, info: &DeviceInfo, mtu: u16, errno: Errno, capture: &Capture) -> Error {
        let (min, max) = (info.min_mtu, info.max_mtu);
        Error::Mtu { device: self.name.clone(), mtu, min, max, errno, log: capture.summary() }
    }

    fn check(&self, operation: &'static str, result: i32, capture: &Capture) -> Result<(), Error> {
        Errno::check(result).map(drop).map_err(|errno| {
            let device = self.name.clone();
            Error::Operation { device, operation, errno, log: capture.summary() }
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.eal.release(self.id);
    }
}

impl DeviceInfo {
    fn new(info: &sys::dpvs_port_info) -> Self {
        let driver = text(&info.driver);
        Self {
            socket: u32::try_from(info.socket).ok(),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            reta_size: info.reta_size,
            rss_key_size: info.rss_key_size,
            is_software: rss::is_software(&driver),
            driver,
        }
    }
}

impl Port {
    /// What the driver says.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// How the NIC spreads TCP and UDP over the receive queues; `None` when it does not or we cannot tell.
    pub fn rss(&self) -> Option<&RssConfig> {
        self.rss.as_ref()
    }

    /// The MAC address.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let mut mac = [0; 6];
        let _control = self.started.lock();
        // SAFETY: six bytes.
        let result = unsafe { sys::dpvs_port_mac(self.started.claim.id, mac.as_mut_ptr()) };
        self.check("inquiry of the MAC address", result).map(|()| mac)
    }

    /// The MTU in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn mtu(&self) -> Result<u16, Error> {
        let mut mtu = 0;
        let _control = self.started.lock();
        // SAFETY: a place for the number.
        let result = unsafe { sys::dpvs_port_mtu(self.started.claim.id, &raw mut mtu) };
        self.check("inquiry of the MTU", result).map(|()| mtu)
    }

    /// The counters.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn stats(&self) -> Result<PortStats, Error> {
        let mut raw = std::mem::MaybeUninit::uninit();
        let _control = self.started.lock();
        // SAFETY: the shim fills in the struct and returns 0, or returns an error.
        let result = unsafe { sys::dpvs_port_stats(self.started.claim.id, raw.as_mut_ptr()) };
        self.check("inquiry of counters", result)?;
        // SAFETY: it is filled in.
        let raw: sys::dpvs_port_stats = unsafe { raw.assume_init() };
        Ok(PortStats {
            rx_packets: raw.rx_packets,
            tx_packets: raw.tx_packets,
            rx_bytes: raw.rx_bytes,
            tx_bytes: raw.tx_bytes,
            rx_missed: raw.rx_missed,
            rx_errors: raw.rx_errors,
            tx_errors: raw.tx_errors,
            rx_no_buffer: raw.rx_no_buffer,
        })
    }

    /// The link, or `None` while it is down.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn link(&self) -> Result<Option<Link>, Error> {
        let (mut up, mut speed) = (0, 0);
        let _control = self.started.lock();
        // SAFETY: two places for numbers.
        let result = unsafe { sys::dpvs_port_link(self.started.claim.id, &raw mut up, &raw mut speed) };
        self.check("inquiry of the link", result).map(|()| (up != 0).then_some(Link { speed }))
    }

    /// Waits until the link is up, at most until `timeout` has passed, and returns it as it is then.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`].
    pub fn wait_for_link(&self, timeout: Duration) -> Result<Option<Link>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let link = self.link()?;
            if link.is_some() || Instant::now() >= deadline {
                return Ok(link);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self, operation: &'static str, result: i32) -> Result<(), Error> {
        Errno::check(result).map(drop).map_err(|errno| {
            let device = self.started.claim.name.clone();
            Error::Operation { device, operation, errno, log: String::new() }
        })
    }
}

impl Started {
    pub(crate) fn id(&self) -> u16 {
        self.claim.id
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: no queue handle is left, so no thread is in a burst.
        unsafe {
            sys::dpvs_port_stop(self.claim.id);
            sys::dpvs_port_close(self.claim.id);
        }
    }
}
