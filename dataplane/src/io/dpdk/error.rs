//! Why DPDK or a port does not start.

use std::path::PathBuf;

use super::memory::Memory;

/// Why DPDK or a port does not start: one line that names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The instance name cannot be part of a file name.
    #[error("file_prefix '{0}' is not a name: use letters, digits, '-', '_' and '.' only")]
    FilePrefix(String),
    /// An argument for DPDK that would undo what the options say.
    #[error("DPDK argument '{argument}' is not possible here: {remedy}")]
    Argument {
        /// The argument.
        argument: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Another process of this name runs.
    #[error(
        "another instance runs with file_prefix '{prefix}' ({}holds {}): stop it or choose another file_prefix",
        holder(.pid),
        path.display()
    )]
    AlreadyRunning {
        /// The name.
        prefix: String,
        /// The lock file.
        path: PathBuf,
        /// Process id of the other.
        pid: Option<u32>,
    },
    /// The lock file cannot be made.
    #[error("lock file {} cannot be made: {reason}; run as root or make its directory writable", path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// The control thread's core cannot be used.
    #[error(
        "core {core} for the control thread is not available to this process, which may use {allowed}: \
         choose one of those"
    )]
    Core {
        /// The core.
        core: usize,
        /// The kernel's list of allowed ones.
        allowed: String,
    },
    /// Too few free hugepages.
    #[error(
        "hugepages are asked for, {needed_mb} MiB are needed, but {free_mb} MiB are free: \
         `sysctl vm.nr_hugepages={pages}` adds them, or set hugepages to \"auto\""
    )]
    Hugepages {
        /// Memory needed.
        needed_mb: u64,
        /// Memory in free hugepages.
        free_mb: u64,
        /// Value of vm.nr_hugepages that would do.
        pages: u64,
    },
    /// The EAL does not start.
    #[error("{0}")]
    Eal(dpdk::Error),
    /// The buffer pool cannot be made.
    #[error("{reason}; {}", memory.remedy())]
    Pool {
        /// Where the memory was to come from.
        memory: Memory,
        /// The reason.
        reason: dpdk::Error,
    },
    /// Two ports have the same device.
    #[error("ports '{first}' and '{second}' both use {what}: give each its own")]
    Clash {
        /// One port.
        first: String,
        /// The other port.
        second: String,
        /// What they share.
        what: String,
    },
    /// No PCI device has this address.
    #[error("port '{port}': there is no PCI device '{address}'; `dpvs-ctl nic list` shows them")]
    UnknownPci {
        /// The port.
        port: String,
        /// The address.
        address: String,
    },
    /// The PCI device is there, but DPDK has no port for it.
    #[error(
        "port '{port}': DPDK does not drive PCI device {address}, whose kernel driver is {driver}: \
         `dpvs-ctl nic bind {address}` hands it over (Mellanox devices keep theirs); DPDK's own \
         drivers are in {}",
        directory.display()
    )]
    UndrivenPci {
        /// The port.
        port: String,
        /// The address.
        address: String,
        /// The kernel's driver, or "none".
        driver: String,
        /// Where DPDK loads drivers from.
        directory: PathBuf,
    },
    /// The device is neither PCI nor created by anybody.
    #[error(
        "port '{port}': there is no device '{device}'; for a virtual device give arguments (\"\" for none), \
         for a NIC its PCI address"
    )]
    UnknownDevice {
        /// The port.
        port: String,
        /// The device.
        device: String,
    },
    /// No driver is installed for the virtual device.
    #[error(
        "port '{port}': no driver in {} creates '{device}': correct the name or install the driver (Debian: \
         apt-get install librte-meta-all); known are {known}",
        directory.display()
    )]
    NoDriver {
        /// The port.
        port: String,
        /// The device.
        device: String,
        /// Where DPDK loads drivers from.
        directory: PathBuf,
        /// Network drivers found there that create virtual devices.
        known: String,
    },
    /// The virtual device was refused.
    #[error("port '{port}': {reason}; check its arguments")]
    VirtualDevice {
        /// The port.
        port: String,
        /// The reason.
        reason: dpdk::Error,
    },
    /// The name for the tap's kernel end is taken or impossible.
    #[error("port '{port}': interface name '{interface}' {problem}")]
    Interface {
        /// The port.
        port: String,
        /// The interface.
        interface: String,
        /// What is wrong and the remedy.
        problem: &'static str,
    },
    /// net_tap needs /dev/net/tun.
    #[error(
        "port '{port}': /dev/net/tun cannot be opened: {reason}; \
         `modprobe tun` provides it, and opening it takes root or CAP_NET_ADMIN"
    )]
    NoTun {
        /// The port.
        port: String,
        /// The reason.
        reason: std::io::Error,
    },
    /// A memif socket is in the way.
    #[error("port '{port}': memif socket {} {problem}", path.display())]
    MemifSocket {
        /// The port.
        port: String,
        /// The socket.
        path: PathBuf,
        /// What is wrong and the remedy.
        problem: String,
    },
    /// The port has no queue for every worker.
    #[error(
        "port '{port}' ({device}) has only {queues} queue(s), but {workers} workers are configured: \
         set workers.count = {queues} \
         or use a device with more queues"
    )]
    TooFewQueues {
        /// The port.
        port: String,
        /// The device.
        device: String,
        /// Queues it has.
        queues: u16,
        /// Workers there are to be.
        workers: usize,
    },
    /// The port's `queues` option does not fit.
    #[error("port '{port}': queues = {queues} does not fit {workers} workers: {problem}")]
    Queues {
        /// The port.
        port: String,
        /// The option.
        queues: u16,
        /// Workers there are to be.
        workers: usize,
        /// What is wrong and the remedy.
        problem: &'static str,
    },
    /// Anything else about one port.
    #[error("port '{port}': {reason}")]
    Port {
        /// The port.
        port: String,
        /// The reason.
        reason: dpdk::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "it ".to_owned(), |pid| format!("process {pid} "))
}
