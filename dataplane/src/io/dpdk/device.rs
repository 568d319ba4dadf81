//! Devices of ports: what can be checked before DPDK opens them, and what to say when it cannot.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ::dpdk::{Device, Eal, Error};

use super::{PortOptions, StartError};

/// The complete address if `device` is a PCI address, "0000:3b:00.1" or short "3b:00.1".
pub(super) fn pci_address(device: &str) -> Option<String> {
    let (rest, function) = device.rsplit_once('.')?;
    let hex = |text: &str, len: usize| text.len() == len && text.chars().all(|c| c.is_ascii_hexdigit());
    let is_function = function.len() == 1 && ("0"..="7").contains(&function);
    match rest.split(':').collect::<Vec<_>>()[..] {
        [bus, slot] if hex(bus, 2) && hex(slot, 2) && is_function => Some(format!("0000:{}", device.to_lowercase())),
        [domain, bus, slot] if hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && is_function => {
            Some(device.to_lowercase())
        }
        _ => None,
    }
}

/// Checks what the options alone tell.
pub(super) fn check(port: &PortOptions, workers: usize) -> Result<(), StartError> {
    let queues = |problem| StartError::Queues { port: port.name.clone(), queues: port.queues, workers, problem };
    if port.queues == 0 {
        return Err(queues("a port needs at least one"));
    }
    if usize::from(port.queues) > workers {
        return Err(queues("nobody would serve the others; set queues to the number of workers"));
    }
    let driver = driver(&port.device);
    if ["net_tap", "net_af_packet"].contains(&driver) && usize::from(port.queues) != workers {
        return Err(queues("this device has as many receive as transmit queues, one per worker; leave queues out"));
    }
    let qpairs = argument(port, "qpairs").and_then(|n| n.parse::<usize>().ok());
    if driver == "net_af_packet" && qpairs.is_some_and(|n| n != workers) {
        return Err(queues("its argument qpairs differs; leave qpairs out"));
    }
    Ok(())
}

/// Checks that no two ports share a device or a tap interface.
pub(super) fn check_clashes(ports: &[PortOptions]) -> Result<(), StartError> {
    let name = |port: &PortOptions| pci_address(&port.device).unwrap_or_else(|| port.device.clone());
    for (i, second) in ports.iter().enumerate() {
        for first in &ports[..i] {
            let clash = |what| StartError::Clash { first: first.name.clone(), second: second.name.clone(), what };
            if name(first) == name(second) {
                return Err(clash(format!("device '{}'", second.device)));
            }
            let interface = argument(second, "iface");
            if interface.is_some() && argument(first, "iface") == interface {
                return Err(clash(format!("interface '{}'", interface.unwrap_or_default())));
            }
        }
    }
    Ok(())
}

/// Checks the surroundings of the device, and clears away what an earlier run that was killed left behind.
pub(super) fn prepare(port: &PortOptions) -> Result<(), StartError> {
    if let Some(address) = pci_address(&port.device) {
        if !Path::new("/sys/bus/pci/devices").join(&address).exists() {
            return Err(StartError::UnknownPci { port: port.name.clone(), address });
        }
        return Ok(());
    }
    match driver(&port.device) {
        "net_tap" => prepare_tap(port),
        "net_af_packet" => prepare_af_packet(port),
        "net_memif" => prepare_memif(port),
        _ => Ok(()),
    }
}

/// Creates the device if it is to be, finds it, and checks that it has a queue for every worker.
pub(super) fn open(eal: &Eal, port: &PortOptions, workers: usize) -> Result<Device, StartError> {
    let pci = pci_address(&port.device);
    if let Some(args) = &port.vdev_args {
        let args = complete_arguments(port, args, workers);
        eal.add_virtual_device(&port.device, &args).map_err(|reason| explain_refusal(port, reason))?;
    }
    let device = eal.device(pci.as_deref().unwrap_or(&port.device)).map_err(|reason| match (reason, pci) {
        (Error::NoDevice { .. }, Some(address)) => {
            let driver = fs::read_link(format!("/sys/bus/pci/devices/{address}/driver")).ok();
            let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
            let driver = driver.unwrap_or("none").to_owned();
            let directory = Eal::driver_directory().to_owned();
            StartError::UndrivenPci { port: port.name.clone(), address, driver, directory }
        }
        (Error::NoDevice { device, .. }, None) => StartError::UnknownDevice { port: port.name.clone(), device },
        (reason, _) => StartError::Port { port: port.name.clone(), reason },
    })?;
    let info = device.info().map_err(|reason| StartError::Port { port: port.name.clone(), reason })?;
    if usize::from(info.max_tx_queues) < workers || info.max_rx_queues < port.queues {
        return Err(StartError::TooFewQueues {
            port: port.name.clone(),
            device: port.device.clone(),
            queues: info.max_tx_queues.min(info.max_rx_queues),
            workers,
        });
    }
    Ok(device)
}

/// Name of the driver of a virtual device: the device's name without its number.
fn driver(device: &str) -> &str {
    device.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// The value of one of the virtual device's arguments "key=value,...".
fn argument<'a>(port: &'a PortOptions, key: &str) -> Option<&'a str> {
    let args = port.vdev_args.as_deref()?;
    args.split(',').find_map(|arg| arg.split_once('=').filter(|(k, _)| k.trim() == key)).map(|(_, value)| value.trim())
}

/// Adds what follows from the number of workers.
fn complete_arguments(port: &PortOptions, args: &str, workers: usize) -> String {
    if driver(&port.device) == "net_af_packet" && argument(port, "qpairs").is_none() {
        return format!("{args},qpairs={workers}");
    }
    args.to_owned()
}

fn prepare_tap(port: &PortOptions) -> Result<(), StartError> {
    if let Err(reason) = File::options().read(true).write(true).open("/dev/net/tun") {
        return Err(StartError::NoTun { port: port.name.clone(), reason });
    }
    let Some(interface) = argument(port, "iface") else { return Ok(()) };
    if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ':', ' ']) {
        return Err(interface_error(port, interface, "is not possible: use 1 to 15 letters and digits"));
    }
    if interface_exists(interface) {
        return Err(interface_error(
            port,
            interface,
            "is taken: choose another or remove that interface (ip link del)",
        ));
    }
    Ok(())
}

fn prepare_af_packet(port: &PortOptions) -> Result<(), StartError> {
    match argument(port, "iface") {
        None => Err(interface_error(port, "", "is missing: add iface=NAME to the device's arguments")),
        Some(interface) if !interface_exists(interface) => {
            Err(interface_error(port, interface, "is not in this network namespace: create it or correct the name"))
        }
        _ => Ok(()),
    }
}

/// Removes the socket that a killed memif server left: the driver would refuse to start because it exists.
fn prepare_memif(port: &PortOptions) -> Result<(), StartError> {
    let is_server = matches!(argument(port, "role"), Some("server" | "master"));
    let is_file = argument(port, "socket-abstract") == Some("no");
    if !is_server || !is_file {
        return Ok(());
    }
    let path = Path::new(argument(port, "socket").unwrap_or("/run/memif.sock"));
    let failed = |problem: String| StartError::MemifSocket { port: port.name.clone(), path: path.to_owned(), problem };
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(failed("exists and is no socket: choose another path".to_owned()));
    }
    // A listener of memif's kind refuses a stream otherwise (wrong type of socket); "refused" means nobody listens.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| failed(format!("was left by an earlier run and cannot be removed ({error}): remove it"))),
        _ => Err(failed("is in use: stop the other process or choose another path".to_owned())),
    }
}

/// Asked of /proc, which follows the network namespace; what /sys shows depends on who mounted it.
fn interface_exists(interface: &str) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().any(|line| line.split_once(':').is_some_and(|(name, _)| name.trim() == interface))
}

fn interface_error(port: &PortOptions, interface: &str, problem: &'static str) -> StartError {
    StartError::Interface { port: port.name.clone(), interface: interface.to_owned(), problem }
}

/// An unknown driver is the likeliest reason, and DPDK does not say so.
fn explain_refusal(port: &PortOptions, reason: Error) -> StartError {
    let directory = Eal::driver_directory();
    match known_drivers(directory) {
        known if !known.is_empty() && !known.iter().any(|name| is_created_by(&port.device, name)) => {
            StartError::NoDriver {
                port: port.name.clone(),
                device: port.device.clone(),
                directory: directory.to_owned(),
                known: known.join(", "),
            }
        }
        _ => StartError::VirtualDevice { port: port.name.clone(), reason },
    }
}

/// The network drivers in the directory that can create virtual devices for us.
fn known_drivers(directory: &Path) -> Vec<String> {
    const VIRTUAL: &[&str] =
        &["af_packet", "af_xdp", "bond", "failsafe", "memif", "null", "pcap", "ring", "tap", "vhost", "virtio"];
    let installed = |name: &&&str| directory.join(format!("librte_net_{name}.so")).exists();
    VIRTUAL.iter().filter(installed).map(|name| format!("net_{name}")).collect()
}

fn is_created_by(device: &str, driver: &str) -> bool {
    device.starts_with(driver) || (driver == "net_tap" && device.starts_with("net_tun"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::tests::port_options;
    use super::*;

    fn port(device: &str, args: &str) -> PortOptions {
        PortOptions { vdev_args: Some(args.to_owned()), ..port_options("lan", device) }
    }

    #[test]
    fn pci_addresses_are_told_from_names() {
        for (device, expected) in [
            ("0000:3b:00.1", Some("0000:3b:00.1")),
            ("0001:3B:1f.7", Some("0001:3b:1f.7")),
            ("3b:00.0", Some("0000:3b:00.0")),
            ("3b:00.8", None),
            ("3b:00", None),
            ("net_tap0", None),
            ("net_tap.0", None),
            ("000g:3b:00.1", None),
            ("", None),
        ] {
            assert_eq!(pci_address(device).as_deref(), expected, "{device:?}");
        }
    }

    #[test]
    fn queue_options_that_cannot_work_are_refused() {
        for (device, args, queues, workers, refused) in [
            ("net_null0", "", 1, 1, false),
            ("net_null0", "", 1, 2, false),
            ("net_null0", "", 0, 1, true),
            ("net_null0", "", 3, 2, true),
            ("net_tap0", "", 2, 2, false),
            ("net_tap0", "", 1, 2, true),
            ("net_af_packet0", "iface=a", 1, 2, true),
            ("net_af_packet0", "iface=a,qpairs=2", 2, 2, false),
            ("net_af_packet0", "iface=a,qpairs=4", 2, 2, true),
        ] {
            let options = PortOptions { queues, ..port(device, args) };
            assert_eq!(check(&options, workers).is_err(), refused, "{device} {args} {queues} {workers}");
        }
    }

    #[test]
    fn arguments_are_found_and_completed() {
        let packet = port("net_af_packet0", "iface=wire0, framesz=4096");
        assert_eq!(argument(&packet, "iface"), Some("wire0"));
        assert_eq!(argument(&packet, "framesz"), Some("4096"));
        assert_eq!(argument(&packet, "face"), None);
        assert_eq!(complete_arguments(&packet, "iface=wire0", 2), "iface=wire0,qpairs=2");
        let tap = port("net_tap0", "iface=wire0");
        assert_eq!(complete_arguments(&tap, "iface=wire0", 2), "iface=wire0");
    }

    #[test]
    fn clashing_ports_are_named() {
        let tap = |name: &str, device: &str, args: &str| PortOptions { name: name.into(), ..port(device, args) };
        let error = check_clashes(&[tap("a", "net_tap0", ""), tap("b", "net_tap0", "")]).unwrap_err().to_string();
        assert_eq!(error, "ports 'a' and 'b' both use device 'net_tap0': give each its own");
        let same = [tap("a", "net_tap0", "iface=w"), tap("b", "net_tap1", "iface=w")];
        assert!(check_clashes(&same).unwrap_err().to_string().contains("interface 'w'"));
        assert!(check_clashes(&[tap("a", "3b:00.0", ""), tap("b", "0000:3b:00.0", "")]).is_err());
        assert!(check_clashes(&[tap("a", "net_tap0", "iface=v"), tap("b", "net_tap1", "iface=w")]).is_ok());
    }

    #[test]
    fn interfaces_are_checked_in_this_namespace() {
        assert!(interface_exists("lo") && !interface_exists("l"));
        let error = prepare_tap(&port("net_tap0", "iface=lo")).unwrap_err();
        assert!(matches!(error, StartError::Interface { .. } | StartError::NoTun { .. }), "{error}");
        let error = prepare_af_packet(&port("net_af_packet0", "iface=none0")).unwrap_err().to_string();
        assert!(error.starts_with("port 'lan': interface name 'none0' is not in this network namespace"), "{error}");
        assert!(prepare_af_packet(&port("net_af_packet0", "")).unwrap_err().to_string().contains("add iface=NAME"));
        let error = prepare(&port_options("lan", "ffff:ff:1f.7")).unwrap_err();
        assert!(matches!(error, StartError::UnknownPci { .. }), "{error}");
    }

    #[test]
    fn stale_memif_socket_goes_and_a_live_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memif.sock");
        let server =
            |role: &str| port("net_memif0", &format!("role={role},socket={},socket-abstract=no", path.display()));
        prepare_memif(&server("server")).unwrap();

        let listener = UnixListener::bind(&path).unwrap();
        let error = prepare_memif(&server("server")).unwrap_err().to_string();
        assert!(error.contains("is in use") && path.exists(), "{error}");
        drop(listener);
        prepare_memif(&server("client")).unwrap();
        assert!(path.exists(), "a client's socket is its server's");
        prepare_memif(&server("server")).unwrap();
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert!(prepare_memif(&server("server")).unwrap_err().to_string().contains("is no socket"));
    }

    #[test]
    fn devices_belong_to_drivers() {
        for (device, driver, expected) in [
            ("net_tap0", "net_tap", true),
            ("net_tun0", "net_tap", true),
            ("net_virtio_user3", "net_virtio", true),
            ("net_tup0", "net_tap", false),
        ] {
            assert_eq!(is_created_by(device, driver), expected, "{device}");
        }
    }
}
