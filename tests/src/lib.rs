//! What the end-to-end tests share: a typed handle on `deploy/lab`, which builds clients, real servers and a director
//! in network namespaces, and the traffic and measurements that the tests apply to them.
//!
//! Nothing of the director is linked in: tests start the finished programs and judge what the wire and the
//! command line show, so the same test runs against `dpvsd` and against the Linux kernel's IPVS.
//!
//! Helpers panic with the failed command and its output: in a test, that is the report.
#![forbid(unsafe_code)]

pub mod address;
pub mod capture;
pub mod config;
pub mod lab;
pub mod service;
pub mod traffic;
pub mod wire;

pub use address::{Family, Mode, Topology};
pub use config::Config;
pub use lab::{Background, Director, Lab, Pmd};
pub use service::Service;

use std::time::{Duration, Instant};

/// Waits until `condition` holds, at most `limit`; returns how long it took.
///
/// # Panics
/// When the limit passes, naming `what`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}
