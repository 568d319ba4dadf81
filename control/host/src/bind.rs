//! Hands network cards over to DPDK and back, by the files of /sys (Documentation/ABI/testing/sysfs-bus-pci): the
//! override names the driver that may have the card, and a probe lets that driver take it.

use std::io;
use std::process::Command;

use crate::Root;
use crate::doctor::{allows_no_iommu, strangers};
use crate::nic::{DEVICES, HANDED_OVER, Nic};
use crate::routes::dependence;

/// What a card is handed over to.
pub(crate) const VFIO: &str = "vfio-pci";
/// Where the driver that a card had is remembered.
const MEMORY: &str = "var/lib/dpvs/nics";
/// Cards that driverctl(8) binds when the system starts.
const LASTING: &str = "etc/driverctl.d";

/// What changes the machine.
pub trait Kernel {
    /// Writes to a file of /sys.
    fn write(&mut self, path: &str, text: &str) -> io::Result<()>;
    /// Loads a module.
    fn load(&mut self, module: &str) -> io::Result<()>;
    /// Has driverctl(8) remember or forget a card's driver without touching the card now.
    fn driverctl(&mut self, arguments: &[&str]) -> io::Result<()>;
}

/// This machine.
#[derive(Debug)]
pub struct Linux;

impl Kernel for Linux {
    fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        std::fs::write(Root::default().path(path), text)
    }

    fn load(&mut self, module: &str) -> io::Result<()> {
        run("modprobe", &[module])
    }

    fn driverctl(&mut self, arguments: &[&str]) -> io::Result<()> {
        run("driverctl", arguments)
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    /// Also a card that the machine depends on.
    pub force: bool,
    /// Also after the next start of the system.
    pub persistent: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The card.
    pub address: String,
    /// The driver it had.
    pub from: Option<String>,
    /// The driver it has.
    pub to: Option<String>,
}

/// Why a card was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No such card.
    #[error("there is no network card '{0}': `dpvs-ctl nic list` shows their addresses and interfaces")]
    Unknown(String),
    /// DPDK uses it together with the kernel.
    #[error(
        "{address} keeps its driver {driver}: DPDK and the kernel use the card together; name it in the configuration as it is"
    )]
    Shared {
        /// The card.
        address: String,
        /// Its driver.
        driver: String,
    },
    /// The machine would lose its network.
    #[error("{address} has interface {interface}, and {reason}: --force takes it nevertheless")]
    Needed {
        /// The card.
        address: String,
        /// Its interface.
        interface: String,
        /// What depends on it.
        reason: String,
    },
    /// vfio needs an IOMMU.
    #[error(
        "{0} has no IOMMU group, which vfio-pci needs: intel_iommu=on iommu=pt on the kernel command line; without an IOMMU, \
         echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
    )]
    NoIommu(String),
    /// vfio hands out whole groups.
    #[error(
        "{address} shares an IOMMU group with {others}: bind those to vfio-pci as well, or put the card into another slot"
    )]
    Group {
        /// The card.
        address: String,
        /// Devices with drivers of the kernel's.
        others: String,
    },
    /// The driver is not there.
    #[error("vfio-pci cannot be loaded: {0}; is the kernel built with CONFIG_VFIO_PCI?")]
    NoDriver(io::Error),
    /// The former driver is not remembered and the kernel knows none.
    #[error(
        "{address} has no driver now: no driver of the kernel wants it; load the one it had (modprobe), then `dpvs-ctl nic unbind {address}` again"
    )]
    Orphan {
        /// The card.
        address: String,
    },
    /// Something failed on the way.
    #[error("{address}: {what} failed: {reason}; {}", rollback(.restored))]
    Failed {
        /// The card.
        address: String,
        /// The step.
        what: String,
        /// What the kernel said.
        reason: String,
        /// The driver it has again, or none.
        restored: Option<String>,
    },
    /// It is bound, but not for the next start.
    #[error("{address} is bound, but not for the next start of the system: {reason}; is driverctl installed?")]
    NotLasting {
        /// The card.
        address: String,
        /// What driverctl said.
        reason: io::Error,
    },
}

fn rollback(driver: &Option<String>) -> String {
    match driver {
        Some(driver) => format!("the card is with {driver} as before"),
        None => "the card has no driver now: see dmesg, then `dpvs-ctl nic unbind` it".to_owned(),
    }
}

/// Hands a card, named by address or interface, over to vfio-pci. If that fails, it gets its former driver back.
pub fn bind(root: &Root, kernel: &mut dyn Kernel, name: &str, options: BindOptions) -> Result<Bound, BindError> {
    let nic = Nic::find(root, name).ok_or_else(|| BindError::Unknown(name.to_owned()))?;
    let address = nic.address.clone();
    if let (true, Some(driver)) = (nic.is_shared(), nic.driver.clone()) {
        return Err(BindError::Shared { address, driver });
    }
    if nic.driver.as_deref() != Some(VFIO) {
        check(root, &nic, options.force)?;
        if !root.exists(&format!("sys/bus/pci/drivers/{VFIO}")) {
            kernel.load(VFIO).map_err(BindError::NoDriver)?;
        }
        // Loading it makes vfio known, so that its parameter can be seen only now.
        if nic.iommu_group.is_none() && !allows_no_iommu(root) {
            return Err(BindError::NoIommu(address));
        }
        if let Some(driver) = nic.driver.as_deref().filter(|driver| !HANDED_OVER.contains(driver)) {
            // A memory that cannot be written costs only the choice among several drivers.
            let _ = std::fs::create_dir_all(root.path(MEMORY));
            let _ = std::fs::write(root.path(&format!("{MEMORY}/{address}")), driver);
        }
        rebind(root, kernel, &nic, Some(VFIO))?;
    }
    if options.persistent {
        let lasting = kernel.driverctl(&["--noprobe", "set-override", &address, VFIO]);
        lasting.map_err(|reason| BindError::NotLasting { address: address.clone(), reason })?;
    }
    Ok(Bound { from: nic.driver, to: Some(VFIO.to_owned()), address })
}

/// Gives a card back to the driver that it had, or else to the one that the kernel chooses.
pub fn unbind(root: &Root, kernel: &mut dyn Kernel, name: &str) -> Result<Bound, BindError> {
    let nic = Nic::find(root, name).ok_or_else(|| BindError::Unknown(name.to_owned()))?;
    let address = nic.address.clone();
    if root.exists(&format!("{LASTING}/{address}")) {
        let forgotten = kernel.driverctl(&["--noprobe", "unset-override", &address]);
        forgotten.map_err(|error| failed(root, &address, "driverctl unset-override", &error))?;
    }
    let memory = format!("{MEMORY}/{address}");
    let former = root.read(&memory).filter(|driver| root.exists(&format!("sys/bus/pci/drivers/{driver}")));
    if nic.driver.is_none() || nic.is_handed_over() {
        // The former driver first; the kernel's choice if that does not want it any more.
        let given = former.map(|driver| rebind(root, kernel, &nic, Some(&driver)));
        if !matches!(given, Some(Ok(()))) {
            rebind(root, kernel, &nic, None)?;
        }
        // Other drivers may take the card from now on.
        let _ = kernel.write(&format!("{DEVICES}/{address}/driver_override"), "\n");
        let _ = std::fs::remove_file(root.path(&memory));
    }
    let to = driver_of(root, &address);
    if to.is_none() {
        return Err(BindError::Orphan { address });
    }
    Ok(Bound { address, from: nic.driver, to })
}

/// What speaks against handing the card over.
fn check(root: &Root, nic: &Nic, force: bool) -> Result<(), BindError> {
    let address = nic.address.clone();
    if !force {
        for interface in &nic.interfaces {
            if let Some(reason) = dependence(root, interface) {
                return Err(BindError::Needed { address, interface: interface.clone(), reason });
            }
        }
    }
    let others = strangers(root, nic);
    match others.is_empty() {
        true => Ok(()),
        false => Err(BindError::Group { address, others: others.join(", ") }),
    }
}

fn driver_of(root: &Root, address: &str) -> Option<String> {
    root.link(&format!("{DEVICES}/{address}/driver"))
}

fn failed(root: &Root, address: &str, what: &str, reason: &dyn ToString) -> BindError {
    let restored = driver_of(root, address);
    BindError::Failed { address: address.to_owned(), what: what.to_owned(), reason: reason.to_string(), restored }
}

/// Takes the card from its driver and has `driver`, or the one the kernel chooses, take it. Undone if it fails.
fn rebind(root: &Root, kernel: &mut dyn Kernel, nic: &Nic, driver: Option<&str>) -> Result<(), BindError> {
    let address = nic.address.as_str();
    let Err((what, reason)) = change_driver(root, kernel, address, driver) else { return Ok(()) };
    if driver_of(root, address) != nic.driver {
        // What fails on the way back shows in the driver that the card has in the end.
        let _ = change_driver(root, kernel, address, nic.driver.as_deref());
    }
    let keeps = nic.driver.as_deref().filter(|driver| HANDED_OVER.contains(driver)).unwrap_or("\n");
    let _ = kernel.write(&format!("{DEVICES}/{address}/driver_override"), keeps);
    Err(failed(root, address, &what, &reason))
}

/// The steps. On failure: which one, and why.
fn change_driver(
    root: &Root,
    kernel: &mut dyn Kernel,
    address: &str,
    driver: Option<&str>,
) -> Result<(), (String, String)> {
    let mut step = |what: &str, path: String, text: &str| {
        kernel.write(&path, text).map_err(|error| (format!("{what} ({path})"), error.to_string()))
    };
    step("choosing the driver", format!("{DEVICES}/{address}/driver_override"), driver.unwrap_or("\n"))?;
    if let Some(current) = driver_of(root, address) {
        step("taking it from its driver", format!("sys/bus/pci/drivers/{current}/unbind"), address)?;
    }
    step("giving it to its driver", "sys/bus/pci/drivers_probe".to_owned(), address)?;
    match (driver_of(root, address), driver) {
        (Some(now), Some(wanted)) if now == wanted => Ok(()),
        (_, None) => Ok(()),
        (now, Some(wanted)) => {
            let now = now.unwrap_or_else(|| "no driver".to_owned());
            Err((format!("binding to {wanted}"), format!("it is with {now} (dmesg may say why)")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Machine;

    const CARD: &str = "0000:3b:00.0";

    /// A kernel that does what Linux does with these files.
    struct Fake<'a> {
        machine: &'a Machine,
        /// Drivers that refuse the card.
        refusing: Vec<&'static str>,
        /// What the kernel chooses without an override.
        natural: Option<&'static str>,
        commands: Vec<String>,
    }

    impl<'a> Fake<'a> {
        fn new(machine: &'a Machine) -> Self {
            Self { machine, refusing: Vec::new(), natural: Some("ice"), commands: Vec::new() }
        }
    }

    impl Kernel for Fake<'_> {
        fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
            let root = self.machine.root();
            let overridden = format!("{DEVICES}/{CARD}/driver_override");
            if path == overridden {
                self.machine.write(path, text);
            } else if path.ends_with("/unbind") {
                assert_eq!(text, CARD);
                self.machine.remove(&format!("{DEVICES}/{CARD}/driver"));
            } else if path.ends_with("/drivers_probe") {
                let wanted = root.read(&overridden).filter(|driver| !driver.is_empty());
                let driver = wanted.or(self.natural.map(str::to_owned));
                if let Some(driver) = driver.filter(|driver| !self.refusing.contains(&driver.as_str())) {
                    self.machine.link(&format!("{DEVICES}/{CARD}/driver"), &format!("../../drivers/{driver}"));
                }
            } else {
                panic!("{path}");
            }
            Ok(())
        }

        fn load(&mut self, module: &str) -> io::Result<()> {
            self.commands.push(format!("modprobe {module}"));
            self.machine.write(&format!("sys/bus/pci/drivers/{module}/new_id"), "");
            Ok(())
        }

        fn driverctl(&mut self, arguments: &[&str]) -> io::Result<()> {
            self.commands.push(format!("driverctl {}", arguments.join(" ")));
            Ok(())
        }
    }

    fn machine() -> Machine {
        Machine::described(include_str!("machines/server.txt"))
    }

    #[test]
    fn a_card_is_handed_over_and_given_back() {
        let machine = machine();
        machine.remove("sys/bus/pci/drivers/vfio-pci");
        let mut kernel = Fake::new(&machine);
        let options = BindOptions { persistent: true, ..BindOptions::default() };
        let bound = bind(machine.root(), &mut kernel, "3b:00.0", options).unwrap();
        assert_eq!(bound, Bound { address: CARD.into(), from: Some("ice".into()), to: Some("vfio-pci".into()) });
        assert_eq!(kernel.commands, ["modprobe vfio-pci", "driverctl --noprobe set-override 0000:3b:00.0 vfio-pci"]);
        assert_eq!(machine.root().read("var/lib/dpvs/nics/0000:3b:00.0").as_deref(), Some("ice"));
        let again = bind(machine.root(), &mut kernel, CARD, BindOptions::default()).unwrap();
        assert_eq!(again.from.as_deref(), Some("vfio-pci"), "nothing to do");

        machine.write("etc/driverctl.d/0000:3b:00.0", "vfio-pci");
        // The driver it had is chosen, not the one the kernel would choose now.
        kernel.natural = Some("uio_pci_generic");
        let back = unbind(machine.root(), &mut kernel, CARD).unwrap();
        assert_eq!(back, Bound { address: CARD.into(), from: Some("vfio-pci".into()), to: Some("ice".into()) });
        assert_eq!(kernel.commands[2], "driverctl --noprobe unset-override 0000:3b:00.0");
        assert_eq!(machine.root().read(&format!("{DEVICES}/{CARD}/driver_override")).as_deref(), Some(""));
        assert!(!machine.root().exists("var/lib/dpvs/nics/0000:3b:00.0"));
    }

    #[test]
    fn a_failed_binding_is_undone() {
        let machine = machine();
        let mut kernel = Fake { refusing: vec!["vfio-pci"], ..Fake::new(&machine) };
        let error = bind(machine.root(), &mut kernel, "ens1f0", BindOptions::default()).unwrap_err();
        let expected = "0000:3b:00.0: binding to vfio-pci failed: it is with no driver (dmesg may say why); the card is with ice as before";
        assert_eq!(error.to_string(), expected);
        assert_eq!(machine.root().read(&format!("{DEVICES}/{CARD}/driver_override")).as_deref(), Some(""));
    }

    #[test]
    fn a_card_that_nobody_takes_back_is_named() {
        let machine = machine();
        let mut kernel = Fake { refusing: vec!["vfio-pci", "ice"], ..Fake::new(&machine) };
        let error = bind(machine.root(), &mut kernel, CARD, BindOptions::default()).unwrap_err().to_string();
        assert!(error.contains("the card has no driver now"), "{error}");
        let error = unbind(machine.root(), &mut kernel, CARD).unwrap_err().to_string();
        assert!(error.contains("no driver of the kernel wants it"), "{error}");
        kernel.refusing.clear();
        assert_eq!(unbind(machine.root(), &mut kernel, CARD).unwrap().to.as_deref(), Some("ice"));
    }

    #[test]
    fn cards_that_must_not_or_cannot_be_taken_are_refused() {
        let refusal = |change: &dyn Fn(&Machine), options: BindOptions| {
            let machine = machine();
            change(&machine);
            let mut kernel = Fake::new(&machine);
            let result = bind(machine.root(), &mut kernel, CARD, options);
            if result.is_err() {
                assert_eq!(driver_of(machine.root(), CARD).as_deref(), Some("ice"), "untouched");
            }
            result.map_err(|error| error.to_string())
        };
        let careful = BindOptions::default();
        let forced = BindOptions { force: true, ..careful };
        let default_route = |machine: &Machine| {
            machine.write("proc/net/route", "Iface\nens1f0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n");
        };
        let error = refusal(&default_route, careful).unwrap_err();
        assert_eq!(
            error,
            "0000:3b:00.0 has interface ens1f0, and the default route leads out of it: --force takes it nevertheless"
        );
        assert!(refusal(&default_route, forced).is_ok());
        let no_group = |machine: &Machine| machine.remove(&format!("{DEVICES}/{CARD}/iommu_group"));
        assert!(refusal(&no_group, forced).unwrap_err().contains("has no IOMMU group"));
        let unsafe_mode = |machine: &Machine| {
            no_group(machine);
            machine.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        };
        assert!(refusal(&unsafe_mode, careful).is_ok());
        let in_company = |machine: &Machine| {
            machine.write("sys/kernel/iommu_groups/20/devices/0000:00:1f.0", "");
            machine.link("sys/bus/pci/devices/0000:00:1f.0/driver", "../../drivers/ahci");
        };
        assert!(refusal(&in_company, forced).unwrap_err().contains("IOMMU group with 0000:00:1f.0 (ahci)"));

        let machine = machine();
        let mut kernel = Fake::new(&machine);
        let error = bind(machine.root(), &mut kernel, "0000:d8:00.0", careful).unwrap_err().to_string();
        assert!(error.starts_with("0000:d8:00.0 keeps its driver mlx5_core"), "{error}");
        let error = bind(machine.root(), &mut kernel, "eth77", careful).unwrap_err().to_string();
        assert!(error.starts_with("there is no network card 'eth77'"), "{error}");
    }
}
