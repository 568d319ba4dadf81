//! What can go wrong, one line each.

use std::ffi::CStr;
use std::fmt;

/// An errno value, DPDK's own ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// No such file or directory.
    pub const ENOENT: Errno = Errno(2);
    /// Out of memory.
    pub const ENOMEM: Errno = Errno(12);
    /// Permission denied.
    pub const EACCES: Errno = Errno(13);
    /// Device or resource busy.
    pub const EBUSY: Errno = Errno(16);
    /// No such device.
    pub const ENODEV: Errno = Errno(19);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(22);
    /// Operation not supported.
    pub const ENOTSUP: Errno = Errno(95);

    /// `Ok` unless `result` is a negative errno value.
    pub(crate) fn check(result: i32) -> Result<i32, Errno> {
        if result < 0 { Err(Errno(-result)) } else { Ok(result) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Drivers return -1 for "failed", not because an operation is not permitted.
        if self.0 == 1 {
            return f.write_str("failed");
        }
        // SAFETY: the result is a NUL-terminated string in storage of this thread, valid until its next call.
        let text = unsafe { CStr::from_ptr(dpdk_sys::dpvs_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

/// Why DPDK did not do as asked. `log` is what DPDK logged meanwhile, on one line, perhaps empty.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The EAL can be initialised once per process.
    #[error("DPDK was started in this process before: it can be once only; restart the process")]
    AlreadyInitialised,
    /// The EAL does not start.
    #[error("DPDK does not start: {errno}{}", said(log))]
    Eal {
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// A string that was to be passed to C contains a NUL byte.
    #[error("{0:?} contains a NUL byte: remove it")]
    Nul(String),
    /// There is a pool already.
    #[error("a second mbuf pool was asked for: all ports share one")]
    SecondPool,
    /// The pool cannot be made.
    #[error("no memory pool of {buffers} packet buffers of {data_room} bytes: {errno}{}", said(log))]
    Pool {
        /// Number of buffers.
        buffers: u32,
        /// Bytes in each.
        data_room: u16,
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// No port belongs to this device.
    #[error("DPDK has no port for device '{device}'; it has {}", listed(known))]
    NoDevice {
        /// The device asked for.
        device: String,
        /// The devices there are.
        known: Vec<String>,
    },
    /// The device is in use already.
    #[error("device '{device}' is in use already: name each device once")]
    InUse {
        /// The device.
        device: String,
    },
    /// A virtual device cannot be created.
    #[error("virtual device '{device}' with arguments '{arguments}' cannot be created: {errno}{}", said(log))]
    AddDevice {
        /// The device.
        device: String,
        /// Its arguments.
        arguments: String,
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// The device has too few queues.
    #[error("device '{device}' has at most {max} {direction} queues, but {wanted} are asked for: use fewer queues")]
    TooFewQueues {
        /// The device.
        device: String,
        /// "receive" or "transmit".
        direction: &'static str,
        /// How many it has.
        max: u16,
        /// How many were asked for.
        wanted: u16,
    },
    /// The device refuses the MTU.
    #[error("device '{device}' refuses MTU {mtu}: {errno}; it takes {min} to {max}{}", said(log))]
    Mtu {
        /// The device.
        device: String,
        /// The MTU asked for.
        mtu: u16,
        /// The smallest it claims to take.
        min: u16,
        /// The largest.
        max: u16,
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// The device refuses the MAC address.
    #[error(
        "device '{device}' refuses MAC address {}: {errno}; it must be unicast and not all zeros{}",
        colons(mac),
        said(log)
    )]
    Mac {
        /// The device.
        device: String,
        /// The address.
        mac: [u8; 6],
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// Any other operation on a device failed.
    #[error("device '{device}': {operation} failed: {errno}{}", said(log))]
    Operation {
        /// The device.
        device: String,
        /// What failed.
        operation: &'static str,
        /// The reason.
        errno: Errno,
        /// DPDK's log.
        log: String,
    },
    /// The thread gets no lcore id.
    #[error("DPDK takes no further thread: {errno}; use fewer workers")]
    Thread {
        /// The reason.
        errno: Errno,
    },
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" (DPDK says: {log})") }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn colons(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_carry_the_log_if_any() {
        let error = |log: &str| Error::AddDevice {
            device: "net_tap0".into(),
            arguments: "iface=a".into(),
            errno: Errno::EBUSY,
            log: log.into(),
        };
        let plain =
            "virtual device 'net_tap0' with arguments 'iface=a' cannot be created: Device or resource busy".to_owned();
        assert_eq!(error("").to_string(), plain);
        assert_eq!(error("TAP: no").to_string(), plain + " (DPDK says: TAP: no)");
        let mac =
            Error::Mac { device: "d".into(), mac: [2, 0, 0, 0, 0, 255], errno: Errno::EINVAL, log: String::new() };
        assert!(mac.to_string().starts_with("device 'd' refuses MAC address 02:00:00:00:00:ff: Invalid argument"));
    }

    #[test]
    fn results_of_c_functions_are_checked() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(7), Ok(7));
        assert_eq!(Errno::check(-19), Err(Errno::ENODEV));
        assert_eq!(Errno::ENODEV.to_string(), "No such device");
        assert_eq!(Errno(1).to_string(), "failed");
    }
}
