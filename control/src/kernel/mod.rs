//! Linux as the slow path of the director.
//!
//! * `mirror`: a TAP interface per DPDK port, by which the kernel receives what workers punt and sends by the port.
//! * `follow`: keeps a `model` of the kernel's links, addresses, routes and neighbours and has it compiled (`compile`)
//!   into the packet path's [`Fib`], a few milliseconds after each change.
//! * `neighbour`: makes the kernel resolve next hops, and verify those it would otherwise forget.
//! * `address`: host addresses that the configuration asks for.
//! * `netlink`, `read`: the sockets, and what is read from them.
//! * `thread`: where all of that runs, so that it need not wait while the control thread works on a large configuration.
//!
//! What counts as a route: the tables local, main and default, consulted in this order for equal prefixes. A route out
//! of an interface that is no mirror is in the FIB without next hops, so that its packets are not sent elsewhere.

mod address;
mod announce;
mod compile;
mod counters;
mod follow;
mod mirror;
mod model;
mod neighbour;
mod netlink;
mod read;
mod thread;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::PortId;
use dataplane::fib::Fib;
use dataplane::shared::Shared;
use netlink_packet_route::address::AddressFlags;
use tokio::sync::{Mutex, mpsc, watch};

pub use counters::KernelCounters;

use address::Addresses;
use compile::MirrorPort;
use counters::Counters;
use follow::Follower;
use mirror::{Mirror, Traffic};
use netlink::{Requests, errno};
use thread::KernelThread;

use crate::detour::Detours;

/// A port as the kernel is to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortKernel {
    /// Name of the mirror interface: 1 to 15 bytes, no slash and no white space.
    pub interface: String,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// The port's MTU in bytes: 68 to 65521, and 1280 at least for IPv6.
    pub mtu: u16,
    /// Addresses for the mirror interface with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Why the kernel does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The TUN/TAP driver is missing.
    #[error("mirror interface {interface}: no TAP driver: `modprobe tun`, or pass /dev/net/tun into the container")]
    NoTapDriver {
        /// The mirror interface.
        interface: String,
    },
    /// The process lacks a privilege.
    #[error("mirror interface {interface}: not permitted: run as root or with CAP_NET_ADMIN")]
    NotPermitted {
        /// The mirror interface.
        interface: String,
    },
    /// There is another interface of that name.
    #[error(
        "mirror interface {interface}: the name is taken: choose another, or stop what uses it (`ip link show {interface}`)"
    )]
    NameTaken {
        /// The mirror interface.
        interface: String,
    },
    /// Linux would not accept the name.
    #[error(
        "mirror interface {interface:?}: not an interface name: 1 to 15 characters without `/`, `:` and white space"
    )]
    BadName {
        /// The mirror interface.
        interface: String,
    },
    /// The driver refuses for another reason, or the interface cannot be changed.
    #[error("mirror interface {interface}: cannot {action}: {source}")]
    Mirror {
        /// The mirror interface.
        interface: String,
        /// What was to be done, with what is allowed.
        action: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// An address cannot be added or removed.
    #[error("address {address} on interface {interface}: {source}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Where it was to be.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// There is no such interface to add an address to.
    #[error("address {address}: there is no interface {interface}: name an existing one (`ip link`)")]
    NoInterface {
        /// The address.
        address: IpAddr,
        /// Where it was to be.
        interface: String,
    },
    /// The netlink socket does not work.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
}

impl KernelError {
    /// Explains why a TAP cannot be created. The driver's answers are EBUSY for a TAP of another process and EINVAL for
    /// an interface of another kind (`tun_set_iff` in drivers/net/tun.c).
    fn creation(interface: &str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        match source.raw_os_error() {
            Some(errno::EPERM) => Self::NotPermitted { interface },
            Some(errno::EBUSY | errno::EINVAL | errno::EEXIST) => Self::NameTaken { interface },
            Some(errno::ENODEV | errno::ENXIO) => Self::NoTapDriver { interface },
            _ if source.kind() == io::ErrorKind::NotFound => Self::NoTapDriver { interface },
            _ => Self::Mirror { interface, action: "create it", source },
        }
    }
}

/// The kernel's side of the director: mirror interfaces and the tasks that serve them, as long as this value lives.
pub struct Kernel {
    mirrors: Vec<Arc<Mirror>>,
    counters: Arc<Counters>,
    addresses: Mutex<Addresses>,
    /// Ends the tasks when dropped, as the last of all: the mirror interfaces are gone then.
    _thread: KernelThread,
}

impl Kernel {
    /// Creates the mirror interfaces of `ports`, which are indexed by [`PortId`], and starts to move frames and to
    /// follow the kernel, on a thread of their own. The first FIB is there at once; another comes within 100 ms of each
    /// change that matters. Frames of `detours` are changed on their way. To be called in the network namespace the
    /// director is to live in.
    pub async fn start(
        shared: Arc<Shared>,
        ports: Vec<PortKernel>,
        detours: Arc<Detours>,
    ) -> Result<(Self, watch::Receiver<Arc<Fib>>), KernelError> {
        let thread = KernelThread::start()?;
        let (mirrors, counters, addresses, fib) = thread.run(start_tasks(shared, ports, detours)).await?;
        Ok((Self { mirrors, counters, addresses: Mutex::new(addresses), _thread: thread }, fib))
    }

    /// Makes sure that the host has `address`: adds it to `interface` with a full prefix and without a prefix route,
    /// unless it is on any interface already. Returns whether it was added; the next FIB has it.
    pub async fn ensure_address(&self, interface: &str, address: IpAddr) -> Result<bool, KernelError> {
        let outcome = self.addresses.lock().await.ensure(interface, address).await;
        outcome.map_err(|source| match source.raw_os_error() {
            None if source.kind() == io::ErrorKind::NotFound => {
                KernelError::NoInterface { address, interface: interface.to_owned() }
            }
            _ => KernelError::Address { address, interface: interface.to_owned(), source },
        })
    }

    /// Removes `address` if [`ensure_address`](Self::ensure_address) added it, and returns whether that was so.
    pub async fn remove_address(&self, address: IpAddr) -> Result<bool, KernelError> {
        Ok(self.addresses.lock().await.remove(address).await?)
    }

    /// Removes all addresses that were added. Those on mirror interfaces would vanish anyway.
    pub async fn remove_addresses(&self) -> Result<(), KernelError> {
        let mut addresses = self.addresses.lock().await;
        for address in addresses.added() {
            addresses.remove(address).await?;
        }
        Ok(())
    }

    /// Tells the kernel whether a port has link. Without, the kernel and the FIB pass over routes out of the port.
    /// A mirror interface begins with link. Nothing happens if there is no such port.
    pub async fn set_carrier(&self, port: PortId, up: bool) -> Result<(), KernelError> {
        let Some(mirror) = self.mirrors.get(usize::from(port.0)) else { return Ok(()) };
        mirror.set_carrier(up, &mut Requests::open()?).await
    }

    /// The counters now.
    pub fn counters(&self) -> KernelCounters {
        self.counters.read()
    }

    /// The name of a port's mirror interface.
    ///
    /// # Panics
    ///
    /// If there is no such port.
    pub fn interface(&self, port: PortId) -> &str {
        &self.mirrors[usize::from(port.0)].interface
    }
}

/// What the tasks on the kernel's thread share with a [`Kernel`].
type Started = (Vec<Arc<Mirror>>, Arc<Counters>, Addresses, watch::Receiver<Arc<Fib>>);

/// Makes everything and starts the tasks on the runtime of the caller.
async fn start_tasks(
    shared: Arc<Shared>,
    ports: Vec<PortKernel>,
    detours: Arc<Detours>,
) -> Result<Started, KernelError> {
    let counters = Arc::new(Counters::default());
    let mut requests = Requests::open()?;
    let mut mirrors = Vec::with_capacity(ports.len());
    for (port, config) in ports.iter().enumerate() {
        mirrors.push(Arc::new(create_mirror(PortId(port as u16), config, &mut requests).await?));
    }
    let (kicks, kick_queue) = mpsc::channel(neighbour::KICK_QUEUE);
    let compiled = mirrors.iter().zip(&ports);
    let compiled = compiled.map(|(m, config)| MirrorPort { index: m.index, mac: config.mac, mtu: config.mtu });
    let (follower, fibs) = Follower::start(compiled.collect(), Arc::clone(&counters), kicks.clone()).await?;
    let fib = fibs.subscribe();

    tokio::spawn(follower.run(fibs));
    tokio::spawn(neighbour::kick_all(kick_queue, Requests::open()?, Arc::clone(&counters)));
    let traffic = Traffic { shared: Arc::clone(&shared), detours, counters: Arc::clone(&counters) };
    tokio::spawn(mirror::wire_to_kernel(mirrors.clone(), traffic.clone(), kicks));
    for mirror in &mirrors {
        tokio::spawn(mirror::kernel_to_wire(Arc::clone(mirror), traffic.clone()));
    }
    for (port, config) in ports.iter().enumerate() {
        for &(address, _) in &config.addresses {
            announce::announce(&shared, PortId(port as u16), config.mac, address);
        }
    }
    Ok((mirrors, counters, Addresses::new(requests), fib))
}

/// Creates, addresses and sets up a port's mirror interface.
async fn create_mirror(port: PortId, config: &PortKernel, requests: &mut Requests) -> Result<Mirror, KernelError> {
    let name = &config.interface;
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name.contains(forbidden) || name == "." || name == ".." {
        return Err(KernelError::BadName { interface: name.clone() });
    }
    let mirror = Mirror::create(port, config, requests).await?;
    // The link-local address comes first, so that neighbours can be solicited from the start: the one that the kernel
    // gives an interface is not used for the second or two of duplicate address detection.
    if let Err(error) =
        address::add(requests, mirror.index, address::link_local(config.mac), 64, AddressFlags::empty()).await
    {
        tracing::info!("mirror interface {name} has no IPv6: {error}");
    }
    for &(address, prefix_len) in &config.addresses {
        match address::add(requests, mirror.index, address, prefix_len, AddressFlags::empty()).await {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(errno::EEXIST) => {}
            Err(source) => return Err(KernelError::Address { address, interface: name.clone(), source }),
        }
    }
    mirror.set_up(requests).await?;
    Ok(mirror)
}

#[cfg(test)]
mod root_tests;
