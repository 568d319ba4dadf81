//! The EAL's arguments, and what must hold before it may start.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::{EalOptions, PortOptions, StartError, device};

/// The EAL's arguments, program name first. The user's come last, so that they win where DPDK lets the last win.
pub(super) fn build(options: &EalOptions, ports: &[PortOptions], memory: Memory) -> Vec<String> {
    let given = |names: &[&str]| options.args.iter().any(|arg| names.iter().any(|name| arg.starts_with(name)));
    let mut args = vec![options.program.clone(), format!("--file-prefix={}", options.file_prefix)];
    let mut add = |arg: &str| args.push(arg.to_owned());
    match memory {
        // Nothing that outlives the process: no files in a hugepage mount, no shared configuration.
        Memory::Hugepages(reserve) => {
            add("--in-memory");
            if let Some(mb) = reserve {
                add("-m");
                add(&mb.to_string());
            }
        }
        Memory::Ordinary(mb) => {
            // DPDK refuses this with --in-memory.
            for arg in ["--no-huge", "--no-shconf", "-m", &mb.to_string()] {
                add(arg);
            }
        }
        Memory::Arguments if given(&["--no-huge"]) => add("--no-shconf"),
        Memory::Arguments => add("--in-memory"),
    }
    if !given(&["--telemetry", "--no-telemetry"]) {
        add("--no-telemetry");
    }
    // The control thread is lcore 0, whatever its CPU; workers get the next numbers when they register.
    if !given(&["-l", "-c", "--lcores"]) {
        add(&format!("--lcores=0@{}", options.core));
    }
    let pci: Vec<String> = ports.iter().filter_map(|port| device::pci_address(&port.device)).collect();
    if pci.is_empty() {
        if !given(&["-a", "--allow", "-b", "--block", "--no-pci"]) {
            add("--no-pci");
        }
    } else {
        // Only these: DPDK would otherwise take every NIC that is bound to it.
        for address in pci {
            add("-a");
            add(&address);
        }
    }
    args.extend(options.args.iter().cloned());
    args
}

/// How long to wait for another instance of the same name to end.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Refuses arguments of the user's that would undo what the options say.
pub(super) fn check(options: &EalOptions) -> Result<(), StartError> {
    const REFUSED: &[(&str, &str)] = &[
        ("--file-prefix", "set file_prefix instead"),
        ("--proc-type", "one process drives the ports"),
        ("--no-shconf", "DPDK shares no files here anyway; leave it out"),
    ];
    for argument in &options.args {
        if let Some((_, remedy)) = REFUSED.iter().find(|(name, _)| argument.starts_with(name)) {
            return Err(StartError::Argument { argument: argument.clone(), remedy });
        }
    }
    Ok(())
}

/// Keeps a second instance of a name from starting. The kernel releases the lock when the file is closed, that is at the
/// latest when the process ends, however it ends. DPDK's own lock is off with --in-memory.
#[derive(Debug)]
pub(super) struct InstanceLock {
    /// Locked as long as it is open.
    _file: File,
    path: PathBuf,
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // While it is still locked: whoever waits for it finds it gone and makes another.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes the lock of the instance `prefix`.
pub(super) fn lock(prefix: &str) -> Result<InstanceLock, StartError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if prefix.is_empty() || prefix.starts_with('.') || !prefix.chars().all(is_name) {
        return Err(StartError::FilePrefix(prefix.to_owned()));
    }
    let in_run = lock_in(Path::new("/run/dpvs"), prefix);
    if !matches!(in_run, Err(StartError::LockFile { .. })) {
        return in_run;
    }
    // Without root, DPDK puts its files in the user's runtime directory; so do we.
    let user_dir = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("dpvs"));
    user_dir.map_or(in_run, |dir| lock_in(&dir, prefix))
}

fn lock_in(dir: &Path, prefix: &str) -> Result<InstanceLock, StartError> {
    let path = dir.join(format!("{prefix}.lock"));
    let failed = |reason| StartError::LockFile { path: path.clone(), reason };
    fs::create_dir_all(dir).map_err(failed)?;
    // A process that was just killed may need a moment to go.
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        // Not truncated before the lock is ours: it tells who holds it.
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(failed)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {
                let write = |file: &mut File| {
                    file.set_len(0)?;
                    file.rewind()?;
                    writeln!(file, "{}", std::process::id())
                };
                write(&mut file).map_err(failed)?;
                return Ok(InstanceLock { _file: file, path });
            }
            // Its last holder has removed it meanwhile.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(StartError::AlreadyRunning { prefix: prefix.to_owned(), path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

/// True when `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Checks that this thread may run on the core: DPDK does not say which core it cannot use.
pub(super) fn check_core(core: usize) -> Result<(), StartError> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(str::trim);
    match list {
        Some(list) if !contains(list, core) => Err(StartError::Core { core, allowed: list.to_owned() }),
        _ => Ok(()),
    }
}

/// Whether a list of the kernel's, such as "0-3,8", contains a number.
fn contains(list: &str, number: usize) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse::<usize>(), last.parse::<usize>()), (Ok(a), Ok(b)) if (a..=b).contains(&number))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{eal_options, port_options};
    use super::*;

    #[test]
    fn arguments_follow_the_options() {
        let virtual_port = port_options("lan", "net_tap0");
        let nic = port_options("wan", "3b:00.1");
        let base = "prog --file-prefix=test";
        for (args, ports, memory, expected) in [
            (
                "",
                vec![virtual_port.clone()],
                Memory::Hugepages(None),
                "--in-memory --no-telemetry --lcores=0@1 --no-pci",
            ),
            (
                "",
                vec![virtual_port.clone(), nic],
                Memory::Hugepages(Some(64)),
                "--in-memory -m 64 --no-telemetry --lcores=0@1 -a 0000:3b:00.1",
            ),
            (
                "-l 1 --log-level=debug",
                vec![virtual_port.clone()],
                Memory::Ordinary(80),
                "--no-huge --no-shconf -m 80 --no-telemetry --no-pci -l 1 --log-level=debug",
            ),
            (
                "--no-huge --telemetry",
                vec![virtual_port],
                Memory::Arguments,
                "--no-shconf --lcores=0@1 --no-pci --no-huge --telemetry",
            ),
        ] {
            let args = args.split_whitespace().map(str::to_owned).collect();
            let options = EalOptions { args, core: 1, ..eal_options() };
            assert_eq!(build(&options, &ports, memory).join(" "), format!("{base} {expected}"));
        }
    }

    #[test]
    fn arguments_that_undo_options_are_refused() {
        let check = |arg: &str| check(&EalOptions { args: vec![arg.to_owned()], ..eal_options() });
        let error = check("--file-prefix=other").unwrap_err().to_string();
        assert_eq!(error, "DPDK argument '--file-prefix=other' is not possible here: set file_prefix instead");
        assert!(check("--proc-type=secondary").is_err() && check("--vdev=net_null0").is_ok());
    }

    #[test]
    fn one_name_is_locked_once_and_free_again_when_the_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/on/demand");
        let held = lock_in(&dir, "a").unwrap();
        let other_name = lock_in(&dir, "b").unwrap();
        let error = lock_in(&dir, "a").unwrap_err().to_string();
        let expected = format!(
            "another instance runs with file_prefix 'a' (process {} holds {}): stop it or choose another file_prefix",
            std::process::id(),
            dir.join("a.lock").display()
        );
        assert_eq!(error, expected);
        drop((held, other_name));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left behind");
        lock_in(&dir, "a").unwrap();
    }

    #[test]
    fn a_lock_file_that_was_removed_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_in(dir.path(), "a").unwrap();
        let path = dir.path().join("a.lock");
        let old = File::open(&path).unwrap();
        assert!(is_at(&old, &path));
        drop(held);
        let again = lock_in(dir.path(), "a").unwrap();
        assert!(!is_at(&old, &path) && is_at(&again._file, &path));
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for prefix in ["", ".", "..", "a/b", "../x", "a b"] {
            assert!(matches!(lock(prefix), Err(StartError::FilePrefix(p)) if p == prefix), "{prefix:?}");
        }
    }

    #[test]
    fn lists_of_cores_are_understood() {
        for (list, number, expected) in
            [("0-3,8", 3, true), ("0-3,8", 8, true), ("0-3,8", 4, false), ("5", 5, true), ("", 0, false)]
        {
            assert_eq!(contains(list, number), expected, "{number} in {list:?}");
        }
        let error = check_core(100_000).unwrap_err().to_string();
        assert!(error.starts_with("core 100000 for the control thread is not available"), "{error}");
    }
}
