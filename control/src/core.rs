//! The owner of everything slow ([`Core`]), and the handle by which the API reaches it ([`CoreHandle`]).
//!
//! The core is an actor: one task owns the registry, the statistics and the publisher, and answers requests one by
//! one, so that no lock is needed and a batch of operations is never seen half done. [`CoreHandle`] is cheap to clone.

mod handle;
mod view;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane::fib::Fib;
use dataplane::shared::{Publisher, Shared};
use dataplane::snapshot::{HelperPorts, Settings, Snapshot};
use dataplane::{PortId, ServerId as ServerSlot};
use dpvs_api::{ApiError, ErrorKind, EventKind, ServiceId};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::connections::ConnectionReader;
use crate::events::Events;
use crate::health::{Effects, Engine, Monitor};
use crate::kernel::Kernel;
use crate::local::LocalAddresses;
use crate::metrics::{ControlMetrics, Publications};
use crate::registry::{Draft, Registry};
use crate::settings;
use crate::stats::{self, Outcomes, SAMPLE_INTERVAL, Stats};
use crate::trouble::Watch;

pub use self::handle::{Batch, CoreHandle, Outcome, Running};
pub(crate) use self::handle::{Plan, Request};

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
/// How often it is looked at what became of connections.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

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
            events: handle.events().clone(),
            publications: Publications::default(),
            metrics: Arc::clone(handle.metrics()),
            health: Monitor::new(handle.events().clone()),
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
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = looks.tick(), if self.health.is_watching() => {
                    let counts = |slot| Outcomes::of(&self.parts.shared, slot);
                    let effects = self.health.look(&self.registry, counts, Instant::now());
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
            Request::Scene(extent, reply) => drop(reply.send(self.scene(extent))),
            Request::Drain(reply) => {
                self.draining = true;
                self.events.publish(EventKind::Draining);
                self.publish();
                let _ = reply.send(());
            }
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
}

/// Whether a removed server's slot is still in use. Until every worker has the snapshot without it, it may be.
fn is_busy(shared: &Shared, adopted: bool) -> impl Fn(ServerSlot) -> bool {
    move |slot| !adopted || stats::connections(shared, slot) != (0, 0) || stats::persistent(shared, slot) != 0
}

fn no_service(id: ServiceId) -> ApiError {
    ApiError { kind: ErrorKind::NotFound, message: format!("service {id} does not exist; add it first"), path: None }
}

#[cfg(test)]
pub(crate) mod tests;
