//! The log of connections: JSON lines about what began and what ended.
//!
//! Workers put events into rings, one each; a thread of its own takes them out and writes, so that neither a worker nor
//! the control thread ever waits for a disk. What finds no room in a ring is counted and missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use dataplane::conn_log::{ConnEvent, ConnNews, EndReason};
use dataplane::snapshot::Snapshot;
use dpvs_api::{Connection, ForwardMode, Protocol};
use serde::Serialize;

use crate::connections;
use crate::metrics::ControlMetrics;
use crate::registry::service_id;

/// Events that may wait in a worker's ring: a tenth of a second of 80,000 a second.
pub const RING: usize = 8192;
/// How long the thread sleeps when there is nothing to write.
const NAP: Duration = Duration::from_millis(50);
/// Events taken from a ring in one go.
const BATCH: usize = 1024;
/// How long it is left in peace after an error.
const REST: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, to which is appended.
    File(PathBuf),
    /// A Unix datagram socket, a line for each datagram.
    Socket(PathBuf),
}

/// A running log. Dropping it writes what is left in the rings.
pub struct ConnectionLog {
    shared: Arc<Switch>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Switch {
    stop: AtomicBool,
    reopen: AtomicBool,
}

impl ConnectionLog {
    /// Opens the target and starts to write what comes out of the rings, one for each worker.
    ///
    /// # Errors
    ///
    /// When a file cannot be opened. A socket may appear later.
    pub fn start(
        target: Target,
        rings: Vec<Arc<ArrayQueue<ConnEvent>>>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<ControlMetrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Switch::default());
        let mut writer = Writer { sink: None, target, snapshot, metrics, line: Vec::new(), failing: None };
        if let Target::File(path) = &writer.target {
            writer.sink = Some(Sink::File(open(path)?));
        }
        let switch = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("connection-log".to_owned());
        let thread = thread.spawn(move || {
            loop {
                // Asked before the rings are emptied: what came before the end is written.
                let stops = switch.stop.load(Ordering::Acquire);
                if switch.reopen.swap(false, Ordering::AcqRel) {
                    writer.sink = None;
                }
                let events: usize = rings.iter().enumerate().map(|(worker, ring)| writer.drain(worker, ring)).sum();
                match events {
                    0 if stops => return,
                    0 => std::thread::park_timeout(NAP),
                    _ => {}
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Opens the file again by its name, after it was moved away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.thread.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

enum Sink {
    File(File),
    Socket(UnixDatagram),
}

/// The thread's own.
struct Writer {
    target: Target,
    sink: Option<Sink>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<ControlMetrics>,
    line: Vec<u8>,
    /// After an error: when to try again.
    failing: Option<Instant>,
}

impl Writer {
    /// Writes the events of a worker that are there, at most [`BATCH`], and returns how many.
    fn drain(&mut self, worker: usize, ring: &ArrayQueue<ConnEvent>) -> usize {
        let snapshot = self.snapshot.load();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let events = ring.len().min(BATCH);
        self.line.clear();
        let mut lines = 0;
        for event in std::iter::from_fn(|| ring.pop()).take(events) {
            let line = Line::new(&event, worker, time_ms, &snapshot);
            if serde_json::to_writer(&mut self.line, &line).is_ok() {
                self.line.push(b'\n');
                lines += 1;
            }
        }
        if lines > 0 {
            match self.failing {
                Some(until) if Instant::now() < until => self.metrics.log_lost(lines),
                _ => self.write(lines),
            }
        }
        events
    }

    /// Writes the lines; says what is wrong, once until it works again.
    fn write(&mut self, lines: u64) {
        let outcome = self.try_write();
        let (Target::File(path) | Target::Socket(path)) = &self.target;
        let path = path.display();
        match outcome {
            Ok(()) => {
                self.metrics.logged(lines);
                if self.failing.take().is_some() {
                    tracing::info!("connection log: {path} is written again");
                }
            }
            Err(error) => {
                self.metrics.log_lost(lines);
                self.sink = None;
                if self.failing.replace(Instant::now() + REST).is_none() {
                    tracing::warn!("connection log: cannot write to {path}: {error}; lines are lost meanwhile");
                }
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(match &self.target {
                Target::File(path) => Sink::File(open(path)?),
                Target::Socket(path) => {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(path)?;
                    socket.set_write_timeout(Some(REST))?;
                    Sink::Socket(socket)
                }
            }),
        };
        match sink {
            Sink::File(file) => file.write_all(&self.line),
            Sink::Socket(socket) => {
                self.line.split_inclusive(|&byte| byte == b'\n').try_for_each(|line| socket.send(line).map(drop))
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A line of the log.
#[derive(Serialize)]
struct Line {
    time_ms: u64,
    event: &'static str,
    worker: usize,
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    client: String,
    virtual_service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    server: String,
    mode: ForwardMode,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(flatten)]
    traffic: Option<Traffic>,
}

#[derive(Serialize)]
struct Traffic {
    in_packets: u64,
    in_bytes: u64,
    out_packets: u64,
    out_bytes: u64,
}

impl Line {
    fn new(event: &ConnEvent, worker: usize, time_ms: u64, snapshot: &Snapshot) -> Self {
        let Connection { protocol, state, mode, client, virtual_service, local, server, .. } =
            connections::connection(&event.record, worker);
        let service = snapshot.services.service_of(event.record.server_id);
        let mut line = Self {
            time_ms,
            event: "created",
            worker,
            protocol,
            service: service.map(|service| service_id(&service.key).to_string()),
            client: client.to_string(),
            virtual_service: virtual_service.to_string(),
            // The entry has no room for one of the other IP version than the client's.
            local: (mode == ForwardMode::Fullnat && !local.ip().is_unspecified()).then(|| local.to_string()),
            server: server.to_string(),
            mode,
            state,
            reason: None,
            duration: None,
            traffic: None,
        };
        if let ConnNews::Ended { reason, lasted_ms, traffic } = event.news {
            line.event = "ended";
            line.reason = Some(match reason {
                EndReason::Timeout => "timeout",
                EndReason::Replaced => "replaced",
                EndReason::ServerGone => "server_gone",
                EndReason::DropEntry => "drop_entry",
            });
            line.duration = Some(lasted_ms as f64 / 1000.0);
            line.traffic = traffic.map(|t| Traffic {
                in_packets: t.in_packets,
                in_bytes: t.in_bytes,
                out_packets: t.out_packets,
                out_bytes: t.out_bytes,
            });
        }
        line
    }
}

#[cfg(test)]
mod tests;
