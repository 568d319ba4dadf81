//! Tells the service manager how the daemon does (sd_notify(3): datagrams to the socket named by `NOTIFY_SOCKET`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Who started the daemon and wants to hear from it; perhaps nobody.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    socket: Option<OsString>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        Self { socket: std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) }
    }

    /// The one that listens at `socket`: a path, or `@` and an abstract name.
    #[cfg(test)]
    pub(super) fn at(socket: impl Into<OsString>) -> Self {
        Self { socket: Some(socket.into()) }
    }

    /// The daemon does its work, `status` in short.
    pub fn ready(&self, status: &str) {
        self.notify(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; [`ready`](Self::ready) says when that is over.
    pub fn reloading(&self) {
        // Since when: a manager that reloads by signal tells this reload from earlier ones by it.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_micros());
        self.notify(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=Reading the configuration again"));
    }

    /// The daemon waits up to `patience` for connections to end; the manager must not lose its own patience before.
    pub fn draining(&self, patience: Duration) {
        let limit = (patience + STOP_TIME).as_micros();
        let status = format!("Draining: waiting up to {} s for connections to end", patience.as_secs());
        self.notify(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={limit}\nSTATUS={status}"));
    }

    /// The daemon ends.
    pub fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=Stopping");
    }

    /// The daemon is alive, see [`Watchdog`](super::watchdog::Watchdog).
    pub(super) fn alive(&self) {
        self.notify("WATCHDOG=1");
    }

    fn notify(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            let first = state.lines().next().unwrap_or_default();
            tracing::warn!("cannot tell the service manager {first}: {error}");
        }
    }
}

/// What the daemon takes to end when it waits for nothing.
const STOP_TIME: Duration = Duration::from_secs(15);

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_sockets_get_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("dpvs-notify-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, address) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            send(&address, "READY=1").unwrap();
            assert_eq!(receive(&socket), "READY=1");
        }
        assert!(send(OsStr::new("/nonexistent/socket"), "READY=1").is_err());
    }

    #[test]
    fn the_daemons_life_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path);
        manager.ready("2 workers");
        assert_eq!(receive(&socket), "READY=1\nSTATUS=2 workers");
        manager.reloading();
        let state = receive(&socket);
        let time = state.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.split_once('\n'));
        assert!(time.is_some_and(|(time, _)| time.parse::<u64>().unwrap() > 0), "{state}");
        manager.draining(Duration::from_secs(60));
        let expected =
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=75000000\nSTATUS=Draining: waiting up to 60 s for connections to end";
        assert_eq!(receive(&socket), expected);
        manager.alive();
        assert_eq!(receive(&socket), "WATCHDOG=1");
        manager.stopping();
        assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=Stopping");
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        ServiceManager { socket: None }.ready("nobody hears this");
    }
}
