//! Safe wrapper of the parts of DPDK that dpvs uses.
//!
//! [`Eal`] starts DPDK, [`Mempool`] holds the packet buffers, a [`Device`] becomes a started [`Port`] with its
//! [`RxQueue`]s and [`TxQueue`]s, and packets are [`Mbuf`]s.
//!
//! What is borrowed from DPDK keeps what it depends on alive: queues their port, ports their pool, everything the
//! EAL. An mbuf holds nothing (it is one pointer), so a pool is freed, and the EAL cleaned up, only if every mbuf
//! is back when the last handle goes; otherwise both stay until the process ends.

pub mod eal;
pub mod error;
pub mod mbuf;
pub mod mempool;
pub mod port;
pub mod queue;
pub mod rss;
pub mod thread;

pub use eal::Eal;
pub use error::{Errno, Error};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, PoolConfig};
pub use port::{Device, DeviceInfo, Port, PortConfig, PortStats};
pub use queue::{RxQueue, TxQueue};
pub use rss::RssConfig;
pub use thread::ThreadGuard;
