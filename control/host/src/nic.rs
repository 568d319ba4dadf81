//! Network cards.

use serde::Serialize;

use crate::Root;

/// A network card on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// PCI address, e.g. `0000:3b:00.0`.
    pub address: String,
    /// Vendor and device, in hexadecimal, e.g. `8086:1592`.
    pub id: String,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its network interfaces, while a driver of the kernel's own has it.
    pub interfaces: Vec<String>,
    /// NUMA node; absent on machines with one.
    pub node: Option<u32>,
    /// IOMMU group.
    pub iommu_group: Option<String>,
    /// Receive queues that the kernel's driver has set up.
    pub rx_queues: Option<usize>,
    /// Interrupt vectors that it has (MSI-X), about one for each of its queues; only root may see it.
    pub vectors: Option<usize>,
}

/// Drivers by which DPDK gets a card from the kernel.
pub(crate) const HANDED_OVER: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers that DPDK shares the card with.
const SHARED: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "gve"];

pub(crate) const DEVICES: &str = "sys/bus/pci/devices";

impl Nic {
    /// All of the machine's, by address.
    pub fn all(root: &Root) -> Vec<Self> {
        root.names(DEVICES).into_iter().filter_map(|address| Self::read(root, &address)).collect()
    }

    /// The card with this PCI address (`0000:3b:00.0` or `3b:00.0`) or of this network interface.
    pub fn find(root: &Root, name: &str) -> Option<Self> {
        let wanted = name.to_lowercase();
        let long = format!("0000:{wanted}");
        let matches =
            |nic: &Self| nic.address == wanted || nic.address == long || nic.interfaces.iter().any(|i| i == name);
        Self::all(root).into_iter().find(matches)
    }

    /// `None` if it is no network card (class 02, PCI Code and ID Assignment Specification).
    fn read(root: &Root, address: &str) -> Option<Self> {
        let folder = format!("{DEVICES}/{address}");
        let file = |name: &str| root.read(&format!("{folder}/{name}"));
        let class = file("class")?;
        if !class.strip_prefix("0x").unwrap_or(&class).starts_with("02") {
            return None;
        }
        let hex = |name: &str| file(name).map_or("????".to_owned(), |id| id.trim_start_matches("0x").to_owned());
        // A virtio card's interface belongs to the virtio device below.
        let mut interfaces = root.names(&format!("{folder}/net"));
        for below in root.names(&folder).iter().filter(|name| name.starts_with("virtio")) {
            interfaces.extend(root.names(&format!("{folder}/{below}/net")));
        }
        let queues = |interface: &String| {
            let names = root.names(&format!("sys/class/net/{interface}/queues"));
            names.iter().filter(|name| name.starts_with("rx-")).count()
        };
        Some(Self {
            id: format!("{}:{}", hex("vendor"), hex("device")),
            driver: root.link(&format!("{folder}/driver")),
            rx_queues: interfaces.first().map(queues).filter(|&queues| queues > 0),
            vectors: root.bytes(&format!("{folder}/config")).and_then(|config| vectors(&config)),
            interfaces,
            // -1 where there is one node only.
            node: file("numa_node").and_then(|node| node.parse().ok()),
            iommu_group: root.link(&format!("{folder}/iommu_group")),
            address: address.to_owned(),
        })
    }

    /// Whether DPDK can open it as it is.
    pub fn is_usable(&self) -> bool {
        self.is_handed_over() || self.is_shared()
    }

    /// Whether the kernel has given it away.
    pub fn is_handed_over(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| HANDED_OVER.contains(&driver))
    }

    /// Whether kernel and DPDK use it at the same time, so that it keeps its driver.
    pub fn is_shared(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| SHARED.contains(&driver))
    }
}

/// Vectors of the MSI-X capability in a device's configuration space (PCI Local Bus Specification 3.0, sections 6.7 and
/// 6.8.2.3).
fn vectors(config: &[u8]) -> Option<usize> {
    const HAS_CAPABILITIES: u8 = 0x10;
    const MSI_X: u8 = 0x11;
    if config.get(0x06)? & HAS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = usize::from(config.get(0x34)? & 0xfc);
    // A list that leads in circles has more members than there is room for.
    for _ in 0..48 {
        if at == 0 {
            return None;
        }
        if *config.get(at)? == MSI_X {
            let control = u16::from_le_bytes([*config.get(at + 2)?, *config.get(at + 3)?]);
            return Some(usize::from(control & 0x07ff) + 1);
        }
        at = usize::from(config.get(at + 1)? & 0xfc);
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machines::Machine;

    /// A configuration space whose second capability is MSI-X with `vectors` vectors.
    pub(crate) fn config(vectors: u16) -> Vec<u8> {
        let mut config = vec![0; 256];
        (config[0x06], config[0x34]) = (0x10, 0x40);
        (config[0x40], config[0x41]) = (0x01, 0x70);
        config[0x70] = 0x11;
        config[0x72..0x74].copy_from_slice(&(vectors - 1).to_le_bytes());
        config
    }

    #[test]
    fn vectors_are_counted_and_nonsense_is_survived() {
        assert_eq!(vectors(&config(129)), Some(129));
        assert_eq!(vectors(&config(129)[..0x72]), None, "cut off");
        assert_eq!(vectors(&config(129)[..64]), None, "what others than root see");
        let mut circle = config(129);
        (circle[0x70], circle[0x71]) = (0x05, 0x40);
        assert_eq!(vectors(&circle), None);
        let mut none = config(129);
        none[0x06] = 0;
        assert_eq!(vectors(&none), None);
        assert_eq!(vectors(&[]), None);
    }

    #[test]
    fn cards_are_found_by_address_and_interface() {
        let server = Machine::described(include_str!("machines/server.txt"));
        server.write("sys/bus/pci/devices/0000:3b:00.1/config", config(65));
        let nics = Nic::all(server.root());
        let addresses: Vec<&str> = nics.iter().map(|nic| nic.address.as_str()).collect();
        assert_eq!(addresses, ["0000:3b:00.0", "0000:3b:00.1", "0000:3b:00.2", "0000:d8:00.0"]);
        assert_eq!((nics[0].is_usable(), nics[1].is_usable(), nics[3].is_usable()), (false, true, true));
        assert_eq!(nics[0].rx_queues, Some(4));
        assert_eq!((nics[1].rx_queues, nics[1].vectors), (None, Some(65)));
        for name in ["3B:00.0", "0000:3b:00.0", "ens1f0"] {
            assert_eq!(Nic::find(server.root(), name).as_ref(), nics.first(), "{name}");
        }
        assert_eq!(Nic::find(server.root(), "0000:00:1f.0"), None, "a disk controller");
        let vm = Machine::described(include_str!("machines/vm.txt"));
        let virtio = Nic::find(vm.root(), "eth0").unwrap();
        assert_eq!((virtio.address.as_str(), virtio.id.as_str(), virtio.node), ("0000:00:03.0", "1af4:1000", None));
    }
}
