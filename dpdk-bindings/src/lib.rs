//! Safe wrapper of the parts of DPDK that dpvs uses.
//!
//! [`Eal`] starts DPDK, [`Mempool`] holds the packet buffers, a [`Device`] becomes a started [`Port`] with its
//! [`RxQueue`]s and [`TxQueue`]s, and packets are [`Mbuf`]s.
//!
//! Queues keep their port alive, and the port is closed when the last of them goes. The EAL and the pool stay until
//! the process ends; so an mbuf can be one pointer that depends on nothing else.

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
