//! DPDK's environment abstraction layer: start and devices.
//!
//! It is never cleaned up: `rte_eal_cleanup` unmaps DPDK's memory while DPDK's own interrupt thread may still be
//! reading handles in it (DPDK 22.11 crashes so now and then when a memif port was in use), and all that it
//! releases goes with the process anyway, as long as DPDK shares no files (`--in-memory`, `--no-shconf`).

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;

use crate::error::{Errno, Error};

/// The running EAL. Clones are handles; it runs until the process ends.
#[derive(Clone, Debug)]
pub struct Eal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// False when the caller chose log levels: then DPDK's log is left alone.
    captures_log: bool,
    /// Ports that are handed out.
    claimed: Mutex<BTreeSet<u16>>,
    has_pool: AtomicBool,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK with these arguments, of which the first is the program's name.
    ///
    /// Possible once per process, even if it fails. The calling thread becomes DPDK's main thread and is pinned as
    /// the arguments say. DPDK's own output is kept for error messages, and later only errors go to stderr,
    /// unless there is a `--log-level` argument.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyInitialised`], [`Error::Nul`], [`Error::Eal`].
    pub fn init<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let args = args.into_iter().map(|arg| c_string(arg.into())).collect::<Result<Vec<_>, _>>()?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyInitialised);
        }
        let captures_log = !args.iter().any(|arg| arg.to_bytes().starts_with(b"--log-level"));
        // EAL permutes the array, may change the strings, and keeps pointers to them: they are its own for ever.
        let mut argv: Vec<*mut c_char> = args.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as c_int;
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();

        let capture = Capture::start(captures_log);
        // SAFETY: argv has argc NUL-terminated, writable strings and a null pointer after them, none ever freed;
        // STARTED guarantees that this is the only call.
        let result = unsafe { sys::dpvs_eal_init(argc, argv.as_mut_ptr(), c_int::from(captures_log)) };
        match Errno::check(result) {
            Ok(_) => Ok(Self {
                inner: Arc::new(Inner { captures_log, claimed: Mutex::default(), has_pool: AtomicBool::new(false) }),
            }),
            Err(errno) => Err(Error::Eal { errno, log: capture.summary() }),
        }
    }

    /// The version of DPDK that is running, such as "DPDK 22.11.11".
    pub fn version() -> &'static str {
        // SAFETY: a NUL-terminated string that lives as long as the process.
        unsafe { CStr::from_ptr(sys::dpvs_version()) }.to_str().unwrap_or("DPDK")
    }

    /// The directory that DPDK loads its drivers from.
    pub fn driver_directory() -> &'static Path {
        // SAFETY: a NUL-terminated string literal of the shim.
        let path = unsafe { CStr::from_ptr(sys::dpvs_driver_directory()) };
        Path::new(path.to_str().unwrap_or_default())
    }

    /// Names of the devices that have a port: PCI addresses and names of virtual devices.
    pub fn devices(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut next = 0;
        // SAFETY: any port number may be asked about.
        while let Ok(port) = Errno::check(unsafe { sys::dpvs_port_next(next) }) {
            let mut name = [0; 64];
            // SAFETY: the buffer has the 64 bytes that the shim asserts are enough.
            if unsafe { sys::dpvs_port_name(port as u16, name.as_mut_ptr()) } == 0 {
                names.push(text(&name));
            }
            next = port as u16 + 1;
        }
        names
    }

    /// Creates a virtual device, such as "net_tap0" with arguments "iface=wire0".
    ///
    /// # Errors
    ///
    /// [`Error::AddDevice`], [`Error::Nul`].
    pub fn add_virtual_device(&self, device: &str, arguments: &str) -> Result<(), Error> {
        let name = c_string(device.to_owned())?;
        let args = c_string(arguments.to_owned())?;
        let capture = self.capture_log();
        // SAFETY: three NUL-terminated strings, which DPDK copies.
        let result = unsafe { sys::dpvs_device_add(c"vdev".as_ptr(), name.as_ptr(), args.as_ptr()) };
        Errno::check(result).map(drop).map_err(|errno| Error::AddDevice {
            device: device.to_owned(),
            arguments: arguments.to_owned(),
            errno,
            log: capture.summary(),
        })
    }

    /// Collects DPDK's log until the result is dropped.
    pub(crate) fn capture_log(&self) -> Capture {
        Capture::start(self.inner.captures_log)
    }

    /// Marks a port as handed out and returns whether it was free.
    pub(crate) fn claim(&self, port: u16) -> bool {
        self.inner.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(port)
    }

    /// Undoes [`claim`](Self::claim).
    pub(crate) fn release(&self, port: u16) {
        self.inner.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }

    /// Marks whether there is a pool, and returns whether there was one before.
    pub(crate) fn set_has_pool(&self, has: bool) -> bool {
        self.inner.has_pool.swap(has, Ordering::AcqRel)
    }
}

/// While it lives, DPDK's log is collected instead of shown.
pub(crate) struct Capture {
    active: bool,
}

impl Capture {
    fn start(active: bool) -> Self {
        if active {
            // SAFETY: may be called at any time.
            unsafe { sys::dpvs_log_capture() };
        }
        Self { active }
    }

    /// The end of what was logged, on one line; empty when nothing was.
    pub(crate) fn summary(&self) -> String {
        if !self.active {
            return String::new();
        }
        let mut buffer = vec![0u8; 16384];
        // SAFETY: the shim writes at most as many bytes as it is told the buffer has.
        let n = unsafe { sys::dpvs_log_read(buffer.as_mut_ptr().cast(), buffer.len()) };
        summarize(&String::from_utf8_lossy(&buffer[..n]))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.active {
            // SAFETY: may be called at any time.
            unsafe { sys::dpvs_log_release() };
        }
    }
}

/// Messages that say nothing of the cause: two follow every failure, the last is about other processes of DPDK.
const EMPTY: &[&str] = &["cannot attach the device", "Failed to attach device", "Invalid 'command line'", "mp action"];

/// The last three messages, without EAL's usage text, which is indented or ends in a colon.
fn summarize(log: &str) -> String {
    let mut messages: Vec<&str> = Vec::new();
    for line in log.lines() {
        let is_usage = line.starts_with(char::is_whitespace) || line.starts_with("Usage");
        let is_message = !is_usage && line.contains(": ") && !EMPTY.iter().any(|empty| line.contains(empty));
        let line = line.trim();
        if is_message && !messages.iter().any(|seen| seen.ends_with(line)) {
            messages.push(line);
        }
    }
    messages[messages.len().saturating_sub(3)..].join("; ")
}

/// The text in a C array up to its NUL.
pub(crate) fn text(array: &[c_char]) -> String {
    let bytes: Vec<u8> = array.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn c_string(text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|error| Error::Nul(String::from_utf8_lossy(&error.into_vec()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_keeps_the_last_messages_and_no_usage() {
        let log = "EAL: one\nEAL: two\nEAL: two\nEAL: three\nx: unrecognized option '--y'\n\
                   EAL: Driver cannot attach the device (d)\nUsage: x [options]\n\nEAL common options:\n  -c COREMASK  Hexadecimal: mask\n";
        assert_eq!(summarize(log), "EAL: two; EAL: three; x: unrecognized option '--y'");
        assert_eq!(summarize(""), "");
    }

    #[test]
    fn text_ends_at_the_nul() {
        assert_eq!(text(&[b'a' as c_char, b'b' as c_char, 0, b'c' as c_char]), "ab");
        assert_eq!(text(&[b'a' as c_char]), "a");
    }

    #[test]
    fn nul_in_a_string_is_refused() {
        assert!(matches!(c_string("a\0b".into()), Err(Error::Nul(s)) if s == "a\0b"));
    }

    #[test]
    fn version_names_dpdk() {
        assert!(Eal::version().starts_with("DPDK "), "{}", Eal::version());
    }
}
