//! The owner of everything slow, and the handle by which the API reaches it.
//!
//! The core is an actor: one task owns the registry, the statistics and the publisher, and answers requests one by
//! one, so that no lock is needed and a batch of operations is never seen half done. [`CoreHandle`] is cheap to clone.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane::fib::Fib;
use dataplane::shared::{Publisher, Shared};
use dataplane::snapshot::{HelperPorts, Settings, Snapshot};
use dataplane::{PortId, ServerId as ServerSlot};
use dpvs_api::{
    ApiError, Author, ConnectionPage, DropCount, ErrorKind, EventKind, MarkRule, Operation, PortStats, ServerStatus,
    Service, ServiceId, ServiceStatus, Status, Sysctls, Timeouts, WorkerStats,
};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::connections::ConnectionReader;
use crate::events::Events;
use crate::health::{Effects, Engine, Monitor};
use crate::kernel::Kernel;
use crate::local::LocalAddresses;
use crate::metrics::{ControlMetrics, Publications, Scene};
use crate::registry::{Draft, Entry, Member, Registry};
use crate::settings;
use crate::stats::{self, SAMPLE_INTERVAL, Stats};
use crate::trouble::Watch;

/// Requests that may wait for the core; a caller beyond that waits itself.
const QUEUE: usize = 64;

/// What the core forwards by; what the API changes and a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// All services, in list order.
    pub services: Vec<Service>,
    /// Rules that give packets firewall marks.
    pub marks: Vec<MarkRule>,
    /// Connection timeouts.
    pub timeouts: Timeouts,
    /// Run-time settings.
    pub sysctls: Sysctls,
}

/// Works out what to change in what runs.
type WorkOut = dyn FnOnce(&Running) -> Vec<Operation> + Send;

/// Operations that are worked out when nothing else can change what runs.
pub(crate) struct Plan {
    operations: Box<WorkOut>,
    /// What the operations become part of; `None`: they are not applied, the question is which they would be.
    batch: Option<Batch>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// What a plan led to.
#[derive(Debug)]
pub struct Outcome {
    /// What ran before.
    pub before: Running,
    /// What the plan made of it.
    pub operations: Vec<Operation>,
    /// What is wrong with the operations.
    pub result: Result<(), ApiError>,
}

/// A request with the place its answer goes to. A caller that left is no error.
#[derive(Debug)]
pub(crate) enum Request {
    Connections(Option<String>, usize, oneshot::Sender<Result<ConnectionPage, ApiError>>),
    Drain(oneshot::Sender<()>),
    Apply(Batch, oneshot::Sender<Result<String, ApiError>>),
    Plan(Plan, oneshot::Sender<Outcome>),
    Running(oneshot::Sender<Running>),
    Version(Option<ServiceId>, oneshot::Sender<Result<String, ApiError>>),
    ServicesAfter(Option<ServiceId>, usize, oneshot::Sender<(Vec<ServiceStatus>, bool)>),
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    Service(ServiceId, oneshot::Sender<Result<ServiceStatus, ApiError>>),
    Timeouts(oneshot::Sender<Timeouts>),
    Marks(oneshot::Sender<Vec<MarkRule>>),
    Sysctls(oneshot::Sender<Sysctls>),
    Drops(oneshot::Sender<Vec<DropCount>>),
    Workers(oneshot::Sender<Vec<WorkerStats>>),
    Ports(oneshot::Sender<Vec<PortStats>>),
    Status(oneshot::Sender<Status>),
    Scene(oneshot::Sender<Scene>),
}

/// Where others talk to the core. Every method fails with [`ErrorKind::Unavailable`] once the daemon stops.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    requests: mpsc::Sender<Request>,
    events: Events,
    metrics: Arc<ControlMetrics>,
}

/// Operations with who asks for them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// To be applied in order.
    pub operations: Vec<Operation>,
    /// Whom events name for them.
    pub by: Author,
    /// The service that they are about; `None`: the configuration.
    pub scope: Option<ServiceId>,
    /// Versions of the scope one of which must be in force; `None`: any.
    pub only_if: Option<Vec<String>>,
}

impl Batch {
    /// Operations without a condition.
    pub fn new(operations: Vec<Operation>, by: Author) -> Self {
        Self { operations, by, scope: None, only_if: None }
    }
}

impl From<Vec<Operation>> for Batch {
    fn from(operations: Vec<Operation>) -> Self {
        Self::new(operations, Author::Daemon)
    }
}

impl CoreHandle {
    /// A handle and the queue that the core serves.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let metrics = Arc::new(ControlMetrics::new(SystemTime::now()));
        (Self { requests, events: Events::default(), metrics }, queue)
    }

    /// What the control thread observes of itself.
    pub fn metrics(&self) -> &Arc<ControlMetrics> {
        &self.metrics
    }

    /// What happens in the daemon.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Applies the operations in order and publishes them together, or none of them. The error's `path` names the
    /// operation by index and the field, e.g. `[3].server.weight`. Returns the version of the batch's scope that they led to.
    pub async fn apply(&self, batch: impl Into<Batch>) -> Result<String, ApiError> {
        self.ask(|reply| Request::Apply(batch.into(), reply)).await?
    }

    /// Applies the operations that `plan` makes of what runs, as part of a batch that has no others; nothing comes in between.
    /// Without a batch, they are not applied: the outcome says what would be wrong with them, as far as that shows beforehand.
    pub async fn plan(
        &self,
        batch: Option<Batch>,
        plan: impl FnOnce(&Running) -> Vec<Operation> + Send + 'static,
    ) -> Result<Outcome, ApiError> {
        self.ask(|reply| Request::Plan(Plan { operations: Box::new(plan), batch }, reply)).await
    }

    /// What runs.
    pub async fn running(&self) -> Result<Running, ApiError> {
        self.ask(Request::Running).await
    }

    /// All services with their servers, sorted by protocol, address and port; then those of firewall marks.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ApiError> {
        self.ask(Request::Services).await
    }

    /// Up to `count` services after one, which need not exist, or from the first on, and whether there are more.
    pub async fn services_after(
        &self,
        id: Option<ServiceId>,
        count: usize,
    ) -> Result<(Vec<ServiceStatus>, bool), ApiError> {
        self.ask(|reply| Request::ServicesAfter(id, count, reply)).await
    }

    /// The version of a service's configuration, or of the whole; statistics do not count. [`ErrorKind::NotFound`] if there
    /// is no such service.
    pub async fn version(&self, scope: Option<ServiceId>) -> Result<String, ApiError> {
        self.ask(|reply| Request::Version(scope, reply)).await?
    }

    /// One service; [`ErrorKind::NotFound`] if there is none.
    pub async fn service(&self, id: ServiceId) -> Result<ServiceStatus, ApiError> {
        self.ask(|reply| Request::Service(id, reply)).await?
    }

    /// The rules that give packets firewall marks, in order.
    pub async fn marks(&self) -> Result<Vec<MarkRule>, ApiError> {
        self.ask(Request::Marks).await
    }

    /// The connection timeouts in force.
    pub async fn timeouts(&self) -> Result<Timeouts, ApiError> {
        self.ask(Request::Timeouts).await
    }

    /// The run-time settings in force.
    pub async fn sysctls(&self) -> Result<Sysctls, ApiError> {
        self.ask(Request::Sysctls).await
    }

    /// Up to `limit` (at least 1) tracked connections from `cursor` on, `None` for the beginning. Connections that come
    /// or go meanwhile may be listed or not.
    pub async fn connections(&self, cursor: Option<String>, limit: usize) -> Result<ConnectionPage, ApiError> {
        self.ask(|reply| Request::Connections(cursor, limit, reply)).await?
    }

    /// Every drop reason, in the order of the counters, those at zero included.
    pub async fn drops(&self) -> Result<Vec<DropCount>, ApiError> {
        self.ask(Request::Drops).await
    }

    /// What each worker did.
    pub async fn workers(&self) -> Result<Vec<WorkerStats>, ApiError> {
        self.ask(Request::Workers).await
    }

    /// The ports with their counters.
    pub async fn ports(&self) -> Result<Vec<PortStats>, ApiError> {
        self.ask(Request::Ports).await
    }

    /// The daemon as a whole.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.ask(Request::Status).await
    }

    /// What metrics are made of.
    pub async fn scene(&self) -> Result<Scene, ApiError> {
        self.ask(Request::Scene).await
    }

    /// From now on, new connections are refused; those that exist go on.
    pub async fn drain(&self) -> Result<(), ApiError> {
        self.ask(Request::Drain).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| stopped())?;
        let answer = answer.await.map_err(|_| stopped())?;
        self.metrics.answered(asked.elapsed());
        Ok(answer)
    }
}

/// What the core knows about the daemon and never changes.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Configuration file.
    pub config: String,
    /// Path of the API's socket.
    pub socket: String,
    /// DPDK's version.
    pub dpdk: String,
    /// By worker: the core it is pinned to.
    pub cores: Vec<usize>,
    /// Connections that each worker's tables can hold, per address family.
    pub worker_capacity: u64,
    /// By port.
    pub ports: Vec<PortFacts>,
    /// When the daemon started.
    pub started: Instant,
}

/// A port as the API shows it.
#[derive(Clone, Debug)]
pub struct PortFacts {
    /// Its name in the configuration.
    pub name: String,
    /// The DPDK device.
    pub device: String,
    /// Its mirror interface in the kernel.
    pub interface: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// Receive and transmit queues.
    pub queues: usize,
}

/// What a [`Core`] is made of.
pub struct Parts {
    /// What workers share with the control thread.
    pub shared: Arc<Shared>,
    /// The kernel's side. `None` leaves local addresses to the administrator.
    pub kernel: Option<Kernel>,
    /// The forwarding table as the kernel's side compiles it.
    pub fib: watch::Receiver<Arc<Fib>>,
    /// The ports' devices.
    pub devices: Arc<Devices>,
    /// Virtual ports that helpers look after.
    pub helper_ports: HelperPorts,
    /// The rest.
    pub facts: Facts,
}

/// What the core asks of the ports' devices; functions, so that it can be tested without any.
pub struct Devices {
    /// What the device counted.
    pub counters: Box<dyn Fn(PortId) -> DeviceCounters + Send + Sync>,
    /// Whether the device has a link.
    pub is_link_up: Box<dyn Fn(PortId) -> bool + Send + Sync>,
    /// Packet buffers that are free, and all.
    pub buffers: Box<dyn Fn() -> (u32, u32) + Send + Sync>,
}

/// What a device counts that workers do not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets dropped because the receive queues were full.
    pub missed: u64,
    /// Packets dropped for want of buffers.
    pub no_buffer: u64,
    /// Damaged packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// The owner of the configuration and the statistics.
pub struct Core {
    requests: mpsc::Receiver<Request>,
    parts: Parts,
    registry: Registry,
    stats: Stats,
    publisher: Publisher,
    publications: Publications,
    metrics: Arc<ControlMetrics>,
    connections: Arc<Mutex<ConnectionReader>>,
    local_addresses: LocalAddresses,
    draining: bool,
    events: Events,
    watch: Watch,
    health: Monitor,
    /// By port: what the kernel was told of its link.
    links: Vec<bool>,
}

/// How often the ports' links are looked at.
const LINK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the shares of servers that start slowly grow.
const RAMP_INTERVAL: Duration = Duration::from_millis(500);

impl Core {
    /// An empty configuration, published, and the handle to change it.
    pub fn new(parts: Parts) -> (Self, CoreHandle) {
        let (handle, requests) = CoreHandle::new();
        let shared = Arc::clone(&parts.shared);
        let now = Instant::now();
        let mut core = Self {
            requests,
            registry: Registry::new(shared.limits.max_services, shared.limits.max_servers)
                .with_ports(parts.facts.ports.iter().map(|port| port.name.clone()).collect()),
            stats: Stats::new(Arc::clone(&shared), now),
            publisher: Publisher::new(Arc::clone(&shared)),
            watch: Watch::new(&shared, now),
            events: handle.events.clone(),
            publications: Publications::default(),
            metrics: Arc::clone(&handle.metrics),
            health: Monitor::new(handle.events.clone()),
            connections: Arc::new(Mutex::new(ConnectionReader::new(shared))),
            local_addresses: LocalAddresses::default(),
            links: vec![true; parts.facts.ports.len()],
            parts,
            draining: false,
        };
        core.publish();
        (core, handle)
    }

    /// Serves requests, follows the forwarding table and samples the statistics, until every handle is gone.
    pub async fn run(&mut self) {
        let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut link_checks = tokio::time::interval(LINK_INTERVAL);
        link_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ramps = tokio::time::interval(RAMP_INTERVAL);
        ramps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let verdicts = self.health.board();
        let mut follow = true;
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                changed = self.parts.fib.changed(), if follow => match changed {
                    Ok(()) => self.publish(),
                    Err(_) => {
                        tracing::error!("the kernel is no longer followed: routes and neighbours stay as they are now");
                        follow = false;
                    }
                },
                () = verdicts.news() => {
                    let effects = self.health.verdicts(&self.registry, Instant::now());
                    self.take_effects(effects);
                }
                _ = ramps.tick(), if self.health.is_ramping() => {
                    let effects = self.health.ramp(&self.registry, Instant::now());
                    self.take_effects(effects);
                }
                due = ticks.tick() => {
                    self.metrics.ticked(due.elapsed());
                    self.tick(Instant::now()).await;
                }
                _ = link_checks.tick() => self.follow_links().await,
            }
        }
    }

    /// Has health checks run from now on.
    pub fn start_checks(&mut self, engine: Engine) {
        self.health.start(engine, &self.registry);
    }

    /// Has verdicts of health checks take effect.
    fn take_effects(&mut self, effects: Effects) {
        if self.registry.set_effects(effects) {
            self.publish();
        }
    }

    async fn tick(&mut self, now: Instant) {
        let adopted = self.publisher.is_adopted();
        let freed = self.registry.sweep(&is_busy(&self.parts.shared, adopted));
        self.stats.follow(&freed);
        self.stats.sample(now);
        self.watch.look(&self.parts.shared, now).into_iter().for_each(|news| self.events.publish(news));
        if let Some(kernel) = &self.parts.kernel
            && adopted
        {
            let configured = self.registry.local_addresses();
            self.local_addresses.release(kernel, &configured, &self.connections, now).await;
        }
    }

    /// Tells the kernel which ports have a link, so that its routes lead out of those.
    async fn follow_links(&mut self) {
        let Some(kernel) = &self.parts.kernel else { return };
        for (index, told) in self.links.iter_mut().enumerate() {
            let port = PortId(index as u16);
            let up = (self.parts.devices.is_link_up)(port);
            if up == *told {
                continue;
            }
            let name = &self.parts.facts.ports[index].name;
            tracing::info!("port {name}: link is {}", if up { "up" } else { "down" });
            *told = up;
            self.events.publish(EventKind::Link { port: name.clone(), up });
            if let Err(error) = kernel.set_carrier(port, up).await {
                tracing::warn!("port {name}: {error}");
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        // Sending fails when the caller left, which is its own business.
        match request {
            Request::Apply(batch, reply) => drop(reply.send(self.apply(batch).await)),
            Request::Plan(Plan { operations, batch }, reply) => {
                let before = self.running();
                let operations = operations(&before);
                let result = match batch {
                    Some(batch) => self.apply(Batch { operations: operations.clone(), ..batch }).await.map(drop),
                    None => self.registry.draft(&operations).map(drop),
                };
                drop(reply.send(Outcome { before, operations, result }));
            }
            Request::Running(reply) => drop(reply.send(self.running())),
            Request::Services(reply) => {
                drop(reply.send(self.registry.services().map(|(id, entry)| self.service(id, entry)).collect()));
            }
            Request::Service(id, reply) => {
                let entry = self.registry.service(id).ok_or_else(|| no_service(id));
                drop(reply.send(entry.map(|entry| self.service(id, entry))));
            }
            Request::ServicesAfter(id, count, reply) => {
                let mut after = self.registry.services_after(id);
                let services = after.by_ref().take(count).map(|(id, entry)| self.service(id, entry)).collect();
                drop(reply.send((services, after.next().is_some())));
            }
            Request::Version(scope, reply) => drop(reply.send(self.version(scope))),
            Request::Marks(reply) => drop(reply.send(self.registry.marks().to_vec())),
            Request::Timeouts(reply) => drop(reply.send(self.registry.timeouts())),
            Request::Sysctls(reply) => drop(reply.send(settings::shown(self.registry.sysctls(), &self.parts.shared))),
            Request::Connections(cursor, limit, reply) => {
                // Waits for workers, so it must not keep the core.
                let connections = Arc::clone(&self.connections);
                tokio::spawn(async move {
                    let page = connections.lock().await.page(cursor.as_deref(), limit).await;
                    drop(reply.send(page));
                });
            }
            Request::Drops(reply) => drop(reply.send(stats::drops(&self.parts.shared))),
            Request::Workers(reply) => {
                let facts = &self.parts.facts;
                drop(reply.send(self.stats.workers(&facts.cores, facts.worker_capacity)));
            }
            Request::Ports(reply) => drop(reply.send(self.ports())),
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Scene(reply) => drop(reply.send(self.scene())),
            Request::Drain(reply) => {
                self.draining = true;
                self.events.publish(EventKind::Draining);
                self.publish();
                let _ = reply.send(());
            }
        }
    }

    fn running(&self) -> Running {
        Running {
            services: self.registry.services().map(|(id, entry)| entry.service(id)).collect(),
            marks: self.registry.marks().to_vec(),
            timeouts: self.registry.timeouts(),
            sysctls: self.registry.sysctls(),
        }
    }

    /// See [`CoreHandle::apply`].
    pub async fn apply(&mut self, batch: impl Into<Batch>) -> Result<String, ApiError> {
        let Batch { operations, by, scope, only_if } = batch.into();
        self.check(scope, only_if)?;
        let draft = self.registry.draft(&operations)?;
        let added = self.ensure_local_addresses(&draft).await?;
        let touched = draft.touched(&self.registry);
        let before = self.registry.revision();
        let changes = match self.registry.commit(draft, &is_busy(&self.parts.shared, self.publisher.is_adopted())) {
            Ok(changes) => changes,
            Err(error) => {
                if let Some(kernel) = &self.parts.kernel {
                    self.local_addresses.undo(kernel, &added).await;
                }
                return Err(error);
            }
        };
        self.stats.follow(&changes);
        let effects = self.health.follow(touched, &self.registry, Instant::now());
        let has_effect = self.registry.set_effects(effects);
        if self.registry.revision() != before || has_effect {
            self.publish();
        }
        if self.registry.revision() != before {
            let version = self.version(None)?;
            self.events.publish(EventKind::configuration(version, by, &operations));
        }
        // What is gone has none.
        Ok(self.version(scope).unwrap_or_default())
    }

    /// Numbers begin anew with every run, so that the run is part of it.
    fn version(&self, scope: Option<ServiceId>) -> Result<String, ApiError> {
        let number = match scope {
            Some(id) => self.registry.service(id).ok_or_else(|| no_service(id))?.version(),
            None => self.registry.revision(),
        };
        Ok(format!("{}.{number}", self.events.run()))
    }

    /// Makes sure that the scope has one of these versions. About a service that does not exist, the operations say more.
    fn check(&self, scope: Option<ServiceId>, only_if: Option<Vec<String>>) -> Result<(), ApiError> {
        let (Some(versions), Ok(now)) = (only_if, self.version(scope)) else { return Ok(()) };
        if versions.contains(&now) {
            return Ok(());
        }
        let what = scope.map_or("the configuration".to_owned(), |id| format!("service {id}"));
        let message = format!(
            "{what} has changed: its version is now \"{now}\", not the one of If-Match; read it again and repeat the change \
             on what it is now"
        );
        Err(ApiError { kind: ErrorKind::PreconditionFailed, message, path: None })
    }

    /// Gives the host the local addresses that it lacks, and returns which those are.
    async fn ensure_local_addresses(&mut self, draft: &Draft) -> Result<Vec<IpAddr>, ApiError> {
        let Some(kernel) = &self.parts.kernel else { return Ok(Vec::new()) };
        let fib = Arc::clone(&self.parts.fib.borrow());
        self.local_addresses.ensure(kernel, draft.local_addresses(), &self.parts.facts.ports, &fib).await
    }

    fn publish(&mut self) {
        self.publisher.publish(Snapshot {
            generation: 0, // The publisher numbers it.
            fib_since: 0,
            services: self.registry.table(),
            fib: Arc::clone(&self.parts.fib.borrow_and_update()),
            settings: Settings {
                helper_ports: self.parts.helper_ports.clone(),
                ..settings::compile(self.registry.timeouts(), self.registry.sysctls(), self.draining)
            },
        });
        self.publications.note(self.publisher.current().generation, SystemTime::now());
    }

    fn scene(&self) -> Scene {
        let fib = &self.publisher.current().fib;
        Scene {
            shared: Arc::clone(&self.parts.shared),
            services: self.registry.table(),
            books: self.stats.books(),
            devices: Arc::clone(&self.parts.devices),
            facts: self.parts.facts.clone(),
            control: Arc::clone(&self.metrics),
            publications: self.publications.clone(),
            draining: self.draining,
            routes: (fib.route_count() as u64, fib.neighbour_count() as u64),
        }
    }

    fn service(&self, id: ServiceId, entry: &Entry) -> ServiceStatus {
        let now = Instant::now();
        let status = |member: &Member| {
            let (active_connections, inactive_connections) = stats::connections(&self.parts.shared, member.slot);
            let stats = self.stats.server(member.slot);
            let persistent_connections = stats::persistent(&self.parts.shared, member.slot);
            let server = member.server.clone();
            ServerStatus {
                effective_weight: member.effective_weight(),
                health_status: self.health.server_status(id, server.address, now),
                server,
                active_connections,
                inactive_connections,
                persistent_connections,
                stats,
            }
        };
        let counts = self.stats.service_counts(entry.slot());
        ServiceStatus {
            service: entry.without_servers(id),
            server_status: entry.servers().iter().rev().map(status).collect(),
            sorry_server_status: entry.sorry().map(status),
            stats: self.stats.service(entry.slot()),
            no_server: counts.no_server,
            local_port_exhausted: counts.local_port_exhausted,
            client_address_sent: counts.client_address_sent,
            client_address_omitted: counts.client_address_omitted,
            quorum_status: self.health.quorum_status(id, now),
        }
    }

    fn ports(&self) -> Vec<PortStats> {
        let port = |(index, facts): (usize, &PortFacts)| {
            let id = PortId(index as u16);
            let traffic = stats::port_traffic(&self.parts.shared, id);
            let device = (self.parts.devices.counters)(id);
            let mac: Vec<String> = facts.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            PortStats {
                name: facts.name.clone(),
                device: facts.device.clone(),
                interface: facts.interface.clone(),
                mac: mac.join(":"),
                queues: facts.queues,
                rx_packets: traffic.rx_packets,
                rx_bytes: traffic.rx_bytes,
                tx_packets: traffic.tx_packets,
                tx_bytes: traffic.tx_bytes,
                rx_missed: device.missed + device.no_buffer,
            }
        };
        self.parts.facts.ports.iter().enumerate().map(port).collect()
    }

    fn status(&self) -> Status {
        let Parts { shared, facts, .. } = &self.parts;
        let snapshot = self.publisher.current();
        let hosts = self.registry.marked_hosts().map(|host| SocketAddr::new(host, 0));
        let unanswered: HashSet<SocketAddr> = self
            .registry
            .services()
            .filter_map(|(id, _)| id.address())
            .chain(hosts)
            .filter(|address| !snapshot.fib.is_local(address.ip()))
            .collect();
        let mut unanswered_vips: Vec<SocketAddr> = unanswered.into_iter().collect();
        unanswered_vips.sort_unstable();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: facts.started.elapsed().as_secs(),
            config: facts.config.clone(),
            table_capacity: facts.worker_capacity * shared.workers.len() as u64,
            connections: stats::table_entries(shared),
            template_capacity: shared.templates.capacity() as u64,
            templates: shared.templates.len() as u64,
            services: self.registry.services().len() as u64,
            generation: snapshot.generation,
            socket: facts.socket.clone(),
            draining: self.draining,
            routes: snapshot.fib.route_count() as u64,
            neighbours: snapshot.fib.neighbour_count() as u64,
            dpdk: facts.dpdk.clone(),
            unanswered_vips,
        }
    }
}

/// Whether a removed server's slot is still in use. Until every worker has the snapshot without it, it may be.
fn is_busy(shared: &Shared, adopted: bool) -> impl Fn(ServerSlot) -> bool {
    move |slot| !adopted || stats::connections(shared, slot) != (0, 0) || stats::persistent(shared, slot) != 0
}

fn no_service(id: ServiceId) -> ApiError {
    ApiError { kind: ErrorKind::NotFound, message: format!("service {id} does not exist; add it first"), path: None }
}

fn stopped() -> ApiError {
    ApiError {
        kind: ErrorKind::Unavailable,
        message: "dpvsd is stopping; try again once it runs".to_owned(),
        path: None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
