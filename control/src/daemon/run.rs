//! Start, life and end of the daemon.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::queue::ArrayQueue;
use dataplane::conn_log::ConnLogConfig;
use dataplane::io::dpdk::{Dpdk, DpdkIo, EalOptions, Hugepages, PortOptions, StartError};
use dataplane::reassembly::MAX_HELD;
use dataplane::shared::{Limits, Shared};
use dataplane::steer::Rss;
use dataplane::worker::{self, Worker, WorkerConfig};
use dataplane::{PortId, WorkerId};
use dpvs_api::{ApiError, Author, Connection, EventKind, Operation, Service, Sysctls};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::cores::{self, Cores};
use super::error::DaemonError;
use super::log::Log;
use super::memory;
use super::notify::ServiceManager;
use super::watchdog::Watchdog;
use super::workers::Threads;
use crate::config::{self, Config, ConfigErrors};
use crate::connection_log::{self, ConnectionLog, Target};
use crate::core::{Batch, Core, CoreHandle, DeviceCounters, Devices, Facts, Parts, PortFacts};
use crate::detour::Detours;
use crate::health::Engine;
use crate::kernel::{Kernel, PortKernel};
use crate::metrics::Extent;
use crate::reconcile::{Reconciler, Refused};
use crate::server::{self, Door, Socket, Tls, TlsError, TlsListener};

/// Frames that can be under way between workers and kernel, in each direction.
const SLOW_PATH_FRAMES: usize = 1024;
/// Ethernet header and two VLAN tags.
const FRAME_OVERHEAD: usize = 14 + 2 * 4;
/// Packets that a worker holds besides its bursts and fragments: those that wait for neighbours, and rings from other workers, of
/// which only a few are ever full at a time.
const FRAMES_PER_WORKER: usize = 512;
const FRAMES_PER_RING: usize = 1024;
const FULL_RINGS: usize = 4;
/// How often a draining daemon looks whether connections are left.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

/// Connections looked at in one go meanwhile.
const DRAIN_PAGE: usize = 1000;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file.
    pub config: PathBuf,
    /// Arguments for DPDK, after those of the file.
    pub eal_args: Vec<String>,
}

fn system(action: &'static str) -> impl Fn(std::io::Error) -> DaemonError {
    move |source| DaemonError::System { action, source }
}

/// Runs the daemon until a signal ends it.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    let started = Instant::now();
    let sources = Config::sources(&options.config)?;
    let config = Config::parse(&sources)?;
    let log = Log::start(&config.daemon.log);
    let place = config.clone();
    start(options, config, log, started).map_err(|error| match error.key(&place) {
        Some(key) => ConfigErrors(vec![Config::locate(&sources, &key, error.to_string())]).into(),
        None => error,
    })
}

fn start(options: &Options, config: Config, log: Log, started: Instant) -> Result<(), DaemonError> {
    let cores = Cores::plan(&config, &cores::available()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("start the control thread's event loop"))?;
    runtime.block_on(live(options, config, cores, log, started))
}

async fn live(options: &Options, config: Config, cores: Cores, log: Log, started: Instant) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let socket = Socket::bind(&config.daemon.socket, config.daemon.socket_group.as_deref())?;
    let mut doors = vec![Door::Unix(socket)];
    if let Some(path) = &config.api.read_socket {
        let socket = Socket::bind(path, config.api.read_group.as_deref()).map_err(DaemonError::ReadSocket)?;
        doors.push(Door::Unix(socket.read_only()));
    }
    let tls = load_tls(&config.api)?.map(|tls| watch::Sender::new(Arc::new(tls)));
    // Values are dropped in the reverse of their order here: workers, mirror interfaces, ports, socket.
    let (dpdk, ios) = start_dpdk(&config, &options.eal_args, &cores)?;
    let dpdk = Arc::new(dpdk);
    let shared = Shared::new(limits(&config));
    let capacity = config.limits.connections.div_ceil(config.workers.number());
    let detours = Arc::<Detours>::default();
    let ports = port_kernels(&config, &dpdk);
    let (kernel, fib) = Kernel::start(Arc::clone(&shared), ports, Arc::clone(&detours)).await?;
    // Not before, as the address may be one of a mirror interface.
    let scrape_socket = match config.metrics.listen {
        Some(listen) => {
            let listener = TcpListener::bind(listen).await;
            Some(listener.map_err(|source| DaemonError::Metrics { listen, source })?)
        }
        None => None,
    };
    if let (Some(listen), Some(tls)) = (config.api.listen, &tls) {
        let listener = TlsListener::bind(listen, tls.subscribe()).await;
        doors.push(Door::Tls(listener.map_err(|source| DaemonError::Listen { listen, source })?));
    }
    let facts = facts(options, &config, &cores, &dpdk, capacity as u64, started);
    let devices = devices(&dpdk);
    let helper_ports = config.helpers.compile();
    let (mut core, handle) =
        Core::new(Parts { shared: Arc::clone(&shared), kernel: Some(kernel), fib, devices, helper_ports, facts });
    let values = Sysctls::default().difference(&config.sysctl);
    let settings = vec![
        Operation::SetTimeouts { timeouts: config.timeouts },
        Operation::SetSysctls { values },
        Operation::SetMarks { rules: config.marks.clone() },
    ];
    core.apply(Batch::new(settings, Author::File)).await.map_err(DaemonError::Services)?;
    let add = |service: &Service| Operation::AddService { service: service.clone() };
    let services: Vec<Operation> = config.services.iter().map(add).collect();
    core.apply(Batch::new(services, Author::File)).await.map_err(DaemonError::Services)?;

    let worker_config = WorkerConfig {
        connections: capacity,
        seed: seed()?,
        idle: match config.workers.idle {
            config::Idle::Poll => worker::Idle::Poll,
            config::Idle::Yield => worker::Idle::Yield,
        },
        rss: rss(&dpdk, config.workers.number()),
    };
    let huge_before = memory::in_huge_pages();
    let mut workers = worker::build(ios, &shared, &worker_config);
    let huge_after = memory::in_huge_pages();
    let tables = workers.iter().map(Worker::table_bytes).sum::<usize>() as u64;
    let connection_log = log_connections(&config, &shared, &handle, &mut workers)?;
    let work = workers.into_iter().map(|worker| || work(worker));
    let mut threads = Threads::start(&shared, work, &cores.workers).map_err(system("start a worker's thread"))?;

    core.start_checks(Engine::start(detours).map_err(system("start the thread of health checks"))?);

    for warning in cores.warnings(config.workers.idle).iter().chain(dpdk.warnings()) {
        tracing::warn!("{warning}");
    }
    if let (Some(before), Some(after)) = (huge_before, huge_after) {
        memory::report(tables, after.saturating_sub(before));
    }
    tracing::info!("ready: {}", summary(&config, &cores, &dpdk));
    let manager = ServiceManager::from_environment();
    let status = status(&config);
    manager.ready(&status);
    let watched = watch(&manager, &shared, &handle);

    let (end_api, api_ends) = oneshot::channel::<()>();
    let extent = Extent { services: config.metrics.services, servers: config.metrics.servers };
    let limits = server::Limits { metrics: extent, ..server::Limits::default() };
    let levels = log.clone();
    let reconciler = Reconciler::new(handle.clone(), config, move |filter| levels.set(filter));
    let api = server::serve(limits, doors, handle.clone(), reconciler.clone(), async { drop(api_ends.await) });
    let scraped = handle.clone();
    let scrapes = async {
        match scrape_socket {
            Some(listener) => server::serve_metrics(limits, listener, scraped).await,
            None => std::future::pending().await,
        }
    };
    let supervisor = Supervisor { options, handle, reconciler, connection_log, tls, manager: manager.clone(), status };
    let supervised = async {
        let outcome = supervisor.supervise(&mut signals, &mut threads).await;
        drop(end_api);
        outcome
    };
    let outcome = tokio::select! {
        (outcome, ()) = async { tokio::join!(supervised, api) } => outcome,
        // It ends with the API.
        () = scrapes => Ok(()),
        // Not while the supervisor has a handle.
        () = core.run() => Ok(()),
        never = watched => match never {},
        never = log.report_repeats() => match never {},
    };
    manager.stopping();
    let failed = threads.stop().await;
    log.finish();
    if !failed.is_empty() {
        let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
        return Err(DaemonError::Worker(failed.join(", ")));
    }
    outcome?;
    drop(core);
    drop(dpdk);
    tracing::info!("stopped");
    Ok(())
}

/// Tells the service manager's watchdog, if it has one, that the daemon is alive.
fn watch(
    manager: &ServiceManager,
    shared: &Arc<Shared>,
    core: &CoreHandle,
) -> impl Future<Output = Infallible> + use<> {
    let watchdog = Watchdog::from_environment(manager, shared);
    let core = core.clone();
    async move {
        match watchdog {
            Some(watchdog) => watchdog.run(core).await,
            None => std::future::pending().await,
        }
    }
}

/// What `systemctl status` says.
fn status(config: &Config) -> String {
    let ports: Vec<&str> = config.ports.iter().map(|port| port.name.as_str()).collect();
    format!("{} on {}", plural(config.workers.number(), "worker"), ports.join(", "))
}

/// Has the workers log connections, if the configuration says where to.
fn log_connections(
    config: &Config,
    shared: &Arc<Shared>,
    handle: &CoreHandle,
    workers: &mut [Worker<DpdkIo>],
) -> Result<Option<ConnectionLog>, DaemonError> {
    let config::ConnectionLog { file, socket, rate, traffic } = &config.connection_log;
    let target = match (file, socket) {
        (Some(file), _) => Target::File(file.clone()),
        (None, Some(socket)) => Target::Socket(socket.clone()),
        (None, None) => return Ok(None),
    };
    let rings: Vec<_> = workers.iter().map(|_| Arc::new(ArrayQueue::new(connection_log::RING))).collect();
    let rate = rate.div_ceil(workers.len() as u32);
    for (worker, events) in workers.iter_mut().zip(&rings) {
        worker.log_connections(ConnLogConfig { events: Arc::clone(events), rate, traffic: *traffic });
    }
    let file = file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    ConnectionLog::start(target, rings, Arc::clone(&shared.snapshot), Arc::clone(handle.metrics()))
        .map(Some)
        .map_err(|source| DaemonError::ConnectionLog { file, source })
}

/// What a worker's thread does.
fn work(worker: Worker<DpdkIo>) {
    // Held until the worker has given its packets back.
    let _registration = match worker.io().register_thread() {
        Ok(registration) => Some(registration),
        Err(error) => {
            tracing::warn!("a worker is slower than it could be: {error}");
            None
        }
    };
    worker.run();
}

/// SIGTERM and SIGINT end the daemon, SIGHUP makes it read its file again.
struct Signals {
    end: EndSignals,
    hangup: Signal,
}

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let listen = |kind| signal(kind).map_err(system("listen for signals"));
        let (terminate, interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { end: EndSignals { terminate, interrupt }, hangup: listen(SignalKind::hangup())? })
    }
}

impl EndSignals {
    /// Waits for a signal to end, and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Reacts to signals and to workers that end.
struct Supervisor<'a> {
    options: &'a Options,
    handle: CoreHandle,
    reconciler: Reconciler,
    connection_log: Option<ConnectionLog>,
    manager: ServiceManager,
    /// What the service manager shows.
    status: String,
    /// Where the API gets what TLS connections are made with.
    tls: Option<watch::Sender<Arc<Tls>>>,
}

impl Supervisor<'_> {
    async fn supervise(&self, signals: &mut Signals, threads: &mut Threads) -> Result<(), DaemonError> {
        loop {
            tokio::select! {
                worker = threads.ended() => return Err(self.failed(worker)),
                name = signals.end.next() => {
                    tracing::info!("{name}: stopping");
                    break;
                }
                _ = signals.hangup.recv() => {
                    self.manager.reloading();
                    self.reload().await;
                    self.manager.ready(&self.status);
                }
            }
        }
        let patience = Duration::from_secs(self.reconciler.drain_timeout().await.into());
        if patience.is_zero() {
            return Ok(());
        }
        self.manager.draining(patience);
        tracing::info!("draining: waiting up to {} s for connections to end", patience.as_secs());
        tokio::select! {
            worker = threads.ended() => return Err(self.failed(worker)),
            name = signals.end.next() => tracing::info!("{name} again: not waiting any longer"),
            left = tokio::time::timeout(patience, self.drain()) => match left {
                Ok(()) => tracing::info!("drained: no connection is open"),
                Err(_) => tracing::warn!("drain_timeout is over: connections that are open break"),
            },
        }
        Ok(())
    }

    fn failed(&self, worker: usize) -> DaemonError {
        self.handle.events().publish(EventKind::WorkerFailed { worker });
        DaemonError::Worker(worker.to_string())
    }

    /// Refuses new connections and waits until none is open.
    async fn drain(&self) {
        if self.handle.drain().await.is_err() {
            return;
        }
        while self.has_open_connections().await.unwrap_or(false) {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }

    /// Whether packets that matter may still come. The search ends at the first such connection.
    async fn has_open_connections(&self) -> Result<bool, ApiError> {
        let mut cursor = None;
        loop {
            let page = self.handle.connections(cursor, DRAIN_PAGE).await?;
            if page.connections.iter().any(is_open) {
                return Ok(true);
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(false);
            }
        }
    }

    /// Reads the file again and applies what changed in it; leaves everything as it is if anything is wrong.
    async fn reload(&self) {
        self.connection_log.iter().for_each(ConnectionLog::reopen);
        let reloaded = self.reconciler.reload(&self.options.config).await;
        self.handle.metrics().reloaded(reloaded.is_ok(), SystemTime::now());
        let errors = match reloaded {
            Ok(changes) => {
                for key in &changes.restart {
                    tracing::warn!("reload: {key} changed, which needs a restart");
                }
                let count = changes.operations.len();
                tracing::info!("reloaded {}: {count} changes of services and settings", self.options.config.display());
                self.reload_tls().await;
                return;
            }
            Err(Refused::Config(errors)) => errors.0.iter().map(ToString::to_string).collect(),
            Err(Refused::Core(error, place)) => vec![place.map_or(error.to_string(), |place| place.to_string())],
        };
        for error in errors {
            tracing::error!("reload: {error}");
        }
        tracing::error!("reload failed: the configuration stays as it was");
    }
}

impl Supervisor<'_> {
    /// Reads the API's certificates again.
    async fn reload_tls(&self) {
        let Some(current) = &self.tls else { return };
        match load_tls(&self.reconciler.api().await) {
            Ok(Some(tls)) => drop(current.send_replace(Arc::new(tls))),
            // It ends with a restart, which the reload has asked for.
            Ok(None) => {}
            Err(error) => {
                tracing::error!("reload: {}: {error}; the API goes on with the certificates that it has", error.key())
            }
        }
    }
}

/// What TLS connections to the API are made with; `None` if there is no address for them. The check of the configuration has
/// seen that all files are named.
fn load_tls(api: &config::Api) -> Result<Option<Tls>, TlsError> {
    match (api.listen, &api.certificate, &api.key, &api.client_ca) {
        (Some(_), Some(certificate), Some(key), Some(client_ca)) => {
            Tls::load(certificate, key, client_ca, api.writers.clone()).map(Some)
        }
        _ => Ok(None),
    }
}

/// False once both sides have closed: what is left only waits for stray packets, two minutes by default.
fn is_open(connection: &Connection) -> bool {
    !["TIME_WAIT", "CLOSE"].contains(&connection.state.as_str())
}

fn start_dpdk(config: &Config, eal_args: &[String], cores: &Cores) -> Result<(Dpdk, Vec<DpdkIo>), StartError> {
    let workers = config.workers.number();
    let eal = EalOptions {
        file_prefix: config.eal.file_prefix.clone(),
        args: config.eal.args.iter().chain(eal_args).cloned().collect(),
        hugepages: match config.eal.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Yes => Hugepages::Yes,
            config::Hugepages::No => Hugepages::No,
        },
        memory_mb: config.eal.memory_mb,
        core: cores.control,
        program: "dpvsd".to_owned(),
    };
    let port = |port: &config::Port| PortOptions {
        name: port.name.clone(),
        device: port.device.clone(),
        vdev_args: port.vdev.clone(),
        queues: port.queues.unwrap_or(workers as u16),
        rx_descriptors: port.rx_descriptors,
        tx_descriptors: port.tx_descriptors,
        mtu: port.mtu,
        mac: port.mac.map(|mac| mac.0),
        // The kernel wants multicast (neighbour discovery, VRRP) and perhaps further addresses on the mirror interface.
        promiscuous: true,
    };
    let ports: Vec<PortOptions> = config.ports.iter().map(port).collect();
    let rings = (workers - 1).min(FULL_RINGS);
    let frames = workers * (FRAMES_PER_WORKER + MAX_HELD + rings * FRAMES_PER_RING);
    Dpdk::start(&eal, &ports, workers, frames + config.eal.packet_buffers as usize)
}

fn limits(config: &Config) -> Limits {
    let mtu = config.ports.iter().map(|port| port.mtu).max().unwrap_or_default();
    Limits {
        workers: config.workers.number(),
        ports: config.ports.len(),
        max_services: config.limits.services,
        max_servers: config.limits.servers,
        templates: config.limits.persistent_clients,
        call_ids: config.limits.sip_calls,
        noted_replies: config.limits.connections,
        slow_path_frames: SLOW_PATH_FRAMES,
        max_frame: usize::from(mtu) + FRAME_OVERHEAD,
    }
}

fn port_kernels(config: &Config, dpdk: &Dpdk) -> Vec<PortKernel> {
    let kernel = |(index, facts): (usize, &dataplane::io::dpdk::PortFacts)| PortKernel {
        interface: config.interface(index),
        mac: facts.mac,
        mtu: facts.mtu,
        addresses: config.ports[index].addresses.iter().map(|prefix| (prefix.address, prefix.length)).collect(),
    };
    dpdk.ports().enumerate().map(kernel).collect()
}

fn facts(
    options: &Options,
    config: &Config,
    cores: &Cores,
    dpdk: &Dpdk,
    worker_capacity: u64,
    started: Instant,
) -> Facts {
    let port = |(index, facts): (usize, &dataplane::io::dpdk::PortFacts)| PortFacts {
        name: facts.name.clone(),
        device: facts.device.clone(),
        interface: config.interface(index),
        mac: facts.mac,
        queues: facts.queues.into(),
    };
    Facts {
        config: options.config.display().to_string(),
        socket: config.daemon.socket.display().to_string(),
        dpdk: Dpdk::version().trim_start_matches("DPDK ").to_owned(),
        cores: cores.workers.clone(),
        worker_capacity,
        ports: dpdk.ports().enumerate().map(port).collect(),
        started,
    }
}

fn devices(dpdk: &Arc<Dpdk>) -> Arc<Devices> {
    let (counting, linked, pool) = (Arc::clone(dpdk), Arc::clone(dpdk), Arc::clone(dpdk));
    let counters = move |port: PortId| match counting.port_stats(port) {
        Ok(stats) => DeviceCounters {
            missed: stats.rx_missed,
            no_buffer: stats.rx_no_buffer,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
        },
        // The driver has none.
        Err(_) => DeviceCounters::default(),
    };
    // The driver of net_tap asks for its interface by name, in vain once that has been moved to another namespace.
    let is_link_up = move |port: PortId| linked.port(port).driver == "net_tap" || linked.is_link_up(port);
    Arc::new(Devices {
        counters: Box::new(counters),
        is_link_up: Box::new(is_link_up),
        buffers: Box::new(move || pool.buffers()),
    })
}

/// The ports' RSS if they have one. Ports whose RSS differs from the first one's cost their packets a hop.
fn rss(dpdk: &Dpdk, workers: usize) -> Rss {
    let of_port = dpdk.ports().find_map(|port| port.rss.as_ref());
    match of_port {
        Some(rss) => Rss { key: rss.key.clone(), table: rss.reta.iter().map(|&queue| WorkerId(queue)).collect() },
        None => Rss::software(workers),
    }
}

/// A random key for the hash of connections.
fn seed() -> Result<[u64; 2], DaemonError> {
    let random = || getrandom::u64().map_err(|error| system("get random numbers")(error.into()));
    Ok([random()?, random()?])
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn summary(config: &Config, cores: &Cores, dpdk: &Dpdk) -> String {
    let cores: Vec<String> = cores.workers.iter().map(ToString::to_string).collect();
    let ports: Vec<String> = dpdk
        .ports()
        .enumerate()
        .map(|(index, port)| format!("{} ({} as {})", port.name, port.device, config.interface(index)))
        .collect();
    format!(
        "{} on {} {}, ports {}, {}, API at {}, {}",
        plural(cores.len(), "worker"),
        if cores.len() == 1 { "core" } else { "cores" },
        cores.join(", "),
        ports.join(", "),
        plural(config.services.len(), "service"),
        config.daemon.socket.display(),
        Dpdk::version(),
    )
}

#[cfg(test)]
mod tests {
    use dpvs_api::{ForwardMode, Protocol};
    use proto::state::State;

    use super::*;

    #[test]
    fn a_drain_waits_for_open_connections_only() {
        let address = ([192, 0, 2, 1], 80).into();
        let is_open = |state: State| {
            is_open(&Connection {
                protocol: Some(Protocol::Tcp),
                state: state.name().to_owned(),
                mode: ForwardMode::Nat,
                client: address,
                virtual_service: address,
                local: address,
                server: address,
                expires: 1,
                worker: Some(0),
                call_id: None,
            })
        };
        for state in State::ALL {
            assert_eq!(is_open(state), ![State::TimeWait, State::Close].contains(&state), "{state:?}");
        }
    }
}
