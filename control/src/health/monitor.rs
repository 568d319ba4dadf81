//! Which checks there are, for which servers, and what follows from them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dataplane::ServerId as ServerSlot;
use dpvs_api::{CheckStatus, EventKind, Health, HealthState, QuorumStatus, ServerHealthStatus, ServerState, ServiceId};
use tokio::task::AbortHandle;

use super::engine::Engine;
use super::notify::Job;
use super::outlier::{Candidate, Ejections};
use super::service::{Configured, News, ServerHealth, ServiceHealth};
use super::target::{Spec, checks_of};
use super::watched::{Board, CheckId, Watched};
use crate::events::Events;
use crate::registry::{Effect, Entry, Member, Registry};
use crate::stats::Outcomes;

/// What follows for the servers of services, in the order in which they were added.
pub(crate) type Effects = Vec<(ServiceId, Vec<Effect>)>;

/// A server's state with its checks.
#[derive(Clone, Debug)]
pub(crate) struct CheckedServer {
    pub state: ServerState,
    /// If it is judged by what becomes of its connections.
    pub ejections: Option<Ejections>,
    checks: Vec<Arc<Watched>>,
}

impl CheckedServer {
    /// How its checks do.
    pub fn checks(&self, now: Instant) -> impl Iterator<Item = CheckStatus> {
        self.checks.iter().map(move |check| check.status(now))
    }
}

/// Follows the registry and the verdicts of checks.
pub(crate) struct Monitor {
    events: Events,
    board: Arc<Board>,
    /// `None` before it is started: no check runs then.
    engine: Option<Engine>,
    checks: HashMap<Spec, Watch>,
    services: BTreeMap<ServiceId, ServiceHealth>,
    /// Services some of whose servers start slowly just now.
    ramping: BTreeSet<ServiceId>,
    /// Services whose servers are judged by what becomes of connections.
    watching: BTreeSet<ServiceId>,
    last_id: CheckId,
}

/// A check and what it is for.
struct Watch {
    check: Arc<Watched>,
    services: HashSet<ServiceId>,
    task: Option<AbortHandle>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

impl Monitor {
    pub fn new(events: Events) -> Self {
        Self {
            events,
            board: Arc::default(),
            engine: None,
            checks: HashMap::new(),
            services: BTreeMap::new(),
            ramping: BTreeSet::new(),
            watching: BTreeSet::new(),
            last_id: 0,
        }
    }

    /// Has the checks run from now on, and tells of quorums as they are.
    pub fn start(&mut self, engine: Engine, registry: &Registry) {
        for watch in self.checks.values_mut() {
            watch.task = Some(engine.watch(Arc::clone(&watch.check)));
        }
        self.engine = Some(engine);
        for (id, service) in &self.services {
            let health = registry.service(*id).and_then(|entry| entry.settings().health.as_deref());
            let quorum = service.quorum_status(Instant::now());
            if let (Some(health), Some(quorum)) = (health, quorum) {
                self.run_quorum_program(*id, health, quorum.reached, quorum.weight);
            }
        }
    }

    /// Where checks tell that their verdicts changed.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Whether some servers' shares change with time.
    pub fn is_ramping(&self) -> bool {
        !self.ramping.is_empty()
    }

    /// Whether it is to be looked at what becomes of connections.
    pub fn is_watching(&self) -> bool {
        !self.watching.is_empty()
    }

    /// Takes note of services that came, changed, or went. Checks that stay go on as if nothing happened.
    pub fn follow(&mut self, ids: impl IntoIterator<Item = ServiceId>, registry: &Registry, now: Instant) -> Effects {
        let mut effects = Vec::new();
        for id in ids {
            let entry = registry.service(id);
            let was_checked = self.services.contains_key(&id);
            let relieved = self.assign(id, entry, now);
            let Some(entry) = entry else { continue };
            let default = Health::default();
            let health = entry.settings().health.as_deref().unwrap_or(&default);
            relieved.iter().for_each(|&address| self.tell_server(id, entry, health, address, true));
            match self.services.contains_key(&id) {
                true => effects.push((id, self.decide(id, entry, now))),
                false if was_checked => effects.push((id, vec![Effect::NONE; entry.servers().len()])),
                false => {}
            }
        }
        effects
    }

    /// What follows from the verdicts that changed since the last time.
    pub fn verdicts(&mut self, registry: &Registry, now: Instant) -> Effects {
        let changed = self.board.take();
        let watches =
            changed.iter().filter_map(|check| self.checks.get(&check.spec).filter(|w| w.check.id == check.id));
        let ids: BTreeSet<ServiceId> = watches.flat_map(|watch| watch.services.iter().copied()).collect();
        self.decide_all(ids, registry, now)
    }

    /// What follows from the time that has passed.
    pub fn ramp(&mut self, registry: &Registry, now: Instant) -> Effects {
        self.decide_all(self.ramping.clone(), registry, now)
    }

    /// What follows from what became of connections, of which workers have counted so many.
    pub fn look(&mut self, registry: &Registry, counts: impl Fn(ServerSlot) -> Outcomes, now: Instant) -> Effects {
        let mut ids = Vec::new();
        for &id in &self.watching {
            let (Some(service), Some(entry)) = (self.services.get_mut(&id), registry.service(id)) else { continue };
            let Some(health) = entry.settings().health.as_deref() else { continue };
            let Some(passive) = &health.passive else { continue };
            let candidate = |member: &Member| Candidate {
                address: member.server.address,
                slot: member.slot,
                weight: member.server.weight,
                counts: counts(member.slot),
            };
            let candidates: Vec<Candidate> = entry.servers().iter().map(candidate).collect();
            if service.look(passive, health.initially, &candidates, now) {
                ids.push(id);
            }
        }
        self.decide_all(ids, registry, now)
    }

    /// How a server does by its checks and its connections.
    pub fn server_status(&self, id: ServiceId, address: SocketAddr, now: Instant) -> Option<ServerHealthStatus> {
        let server = self.services.get(&id)?.servers.get(&address)?;
        let (state, since) = server.shown();
        Some(ServerHealthStatus {
            state,
            seconds: now.saturating_duration_since(since).as_secs(),
            checks: server.checks.iter().map(|check| check.status(now)).collect(),
            passive: server.passive.as_ref().map(|record| record.status(now)),
        })
    }

    /// A server's state and its checks, to be looked at elsewhere.
    pub fn checks(&self, id: ServiceId, address: SocketAddr) -> Option<CheckedServer> {
        let server = self.services.get(&id)?.servers.get(&address)?;
        Some(CheckedServer {
            state: server.shown().0,
            ejections: server.passive.as_ref().map(|record| record.ejections()),
            checks: server.checks.clone(),
        })
    }

    /// Whether enough of a service's servers are up; `None` if nobody looks at them.
    pub fn has_quorum(&self, id: ServiceId) -> Option<bool> {
        self.services.get(&id)?.has_quorum()
    }

    /// Whether enough of a service's servers are up, and since when.
    pub fn quorum_status(&self, id: ServiceId, now: Instant) -> Option<QuorumStatus> {
        self.services.get(&id)?.quorum_status(now)
    }

    fn decide_all(&mut self, ids: impl IntoIterator<Item = ServiceId>, registry: &Registry, now: Instant) -> Effects {
        let known = ids.into_iter().filter_map(|id| Some((id, registry.service(id)?)));
        known.map(|(id, entry)| (id, self.decide(id, entry, now))).collect()
    }

    fn decide(&mut self, id: ServiceId, entry: &Entry, now: Instant) -> Vec<Effect> {
        let Some(service) = self.services.get_mut(&id) else { return Vec::new() };
        let default = Health::default();
        let health = entry.settings().health.as_deref().unwrap_or(&default);
        let configured = |member: &Member| Configured {
            address: member.server.address,
            weight: member.server.weight,
            on_failure: member.server.health.as_deref().and_then(|own| own.on_failure).unwrap_or(health.on_failure),
        };
        let configured: Vec<Configured> = entry.servers().iter().map(configured).collect();
        let (effects, news) = service.decide(health, &configured, entry.sorry().is_some(), now);
        match service.is_ramping() {
            true => self.ramping.insert(id),
            false => self.ramping.remove(&id),
        };
        for item in news {
            match item {
                News::Server(address, up) => self.tell_server(id, entry, health, address, up),
                News::Quorum(reached, weight) => self.tell_quorum(id, health, reached, weight),
            }
        }
        effects
    }

    fn tell_server(&self, id: ServiceId, entry: &Entry, health: &Health, address: SocketAddr, up: bool) {
        let server = self.services.get(&id).and_then(|service| service.servers.get(&address));
        let failed = server.iter().flat_map(|server| &server.checks);
        let failed = failed.filter(|check| check.verdict().state == HealthState::Down);
        let reasons = failed.filter_map(|check| Some(format!("{}: {}", check.spec, check.error()?)));
        let ejection = server.and_then(|server| server.passive.as_ref()?.reason());
        let reasons: Vec<String> = reasons.chain(ejection.map(str::to_owned)).collect();
        let reason = reasons.join("; ");
        match up {
            true => tracing::info!("service {id}: server {address} is up"),
            false => tracing::warn!("service {id}: server {address} is down: {reason}"),
        }
        let told = Some(reason.clone()).filter(|reason| !up && !reason.is_empty());
        self.events.publish(EventKind::ServerHealth { service: id, server: address, up, reason: told });

        let member = entry.servers().iter().find(|member| member.server.address == address);
        let own = member.and_then(|member| member.server.health.as_deref());
        let (own, of_service, event) = match up {
            true => (own.map(|own| &own.notify_up), &health.notify_up, "server-up"),
            false => (own.map(|own| &own.notify_down), &health.notify_down, "server-down"),
        };
        let command = own.filter(|command| !command.is_empty()).unwrap_or(of_service);
        let server = vec![("DPVS_SERVER", address.to_string()), ("DPVS_REASON", reason)];
        self.notify(id, format!("service {id}, server {address}"), command, event, up, server);
    }

    fn tell_quorum(&self, id: ServiceId, health: &Health, reached: bool, weight: u64) {
        match reached {
            true => tracing::info!("service {id}: quorum reached, servers of weight {weight} are up"),
            false => tracing::warn!("service {id}: no quorum, servers of weight {weight} are up"),
        }
        self.run_quorum_program(id, health, reached, weight);
    }

    fn run_quorum_program(&self, id: ServiceId, health: &Health, reached: bool, weight: u64) {
        let (command, event) = match reached {
            true => (&health.quorum_up, "quorum-up"),
            false => (&health.quorum_down, "quorum-down"),
        };
        self.notify(id, format!("service {id}"), command, event, reached, vec![("DPVS_WEIGHT", weight.to_string())]);
    }

    fn notify(
        &self,
        id: ServiceId,
        subject: String,
        command: &[String],
        event: &str,
        up: bool,
        mut environment: Vec<(&'static str, String)>,
    ) {
        let Some(engine) = self.engine.as_ref().filter(|_| !command.is_empty()) else { return };
        environment.push(("DPVS_EVENT", event.to_owned()));
        environment.push(("DPVS_SERVICE", id.to_string()));
        environment.push(("DPVS_STATE", if up { "up" } else { "down" }.to_owned()));
        engine.notify(Job { subject, command: command.to_vec(), environment });
    }

    /// Gives the servers of a service their checks, and ends those that nobody has any longer. Returns the servers that were
    /// out and that nobody looks at from now on, so that they take connections again.
    fn assign(&mut self, id: ServiceId, entry: Option<&Entry>, now: Instant) -> Vec<SocketAddr> {
        let mut before = self.services.remove(&id).unwrap_or_default();
        self.ramping.remove(&id);
        self.watching.remove(&id);
        let is_watched =
            entry.is_some_and(|entry| entry.settings().health.as_ref().is_some_and(|h| h.passive.is_some()));
        let mut old: HashMap<CheckId, Arc<Watched>> = HashMap::new();
        for check in before.servers.values().flat_map(|server| &server.checks) {
            old.insert(check.id, Arc::clone(check));
        }
        let mut servers = HashMap::new();
        for member in entry.map(Entry::servers).unwrap_or_default() {
            let address = member.server.address;
            let specs = checks_of(entry.map(Entry::settings).unwrap_or(&Default::default()), &member.server)
                .iter()
                .map(|check| Spec::new(id, &member.server, check))
                .collect::<Vec<_>>();
            if specs.is_empty() && !is_watched {
                continue;
            }
            let checks: Vec<Arc<Watched>> = specs.into_iter().map(|spec| self.check(spec, id, now)).collect();
            checks.iter().for_each(|check| drop(old.remove(&check.id)));
            let mut server = match before.servers.remove(&address) {
                Some(server) => ServerHealth { checks, ..server },
                None => ServerHealth::new(checks, now),
            };
            server.passive.take_if(|_| !is_watched);
            servers.insert(address, server);
        }
        let configured = entry.map(Entry::servers).unwrap_or_default().iter().map(|member| member.server.address);
        let relieved =
            configured.filter(|address| before.servers.get(address).is_some_and(ServerHealth::was_out)).collect();
        for check in old.values() {
            if let Some(watch) = self.checks.get_mut(&check.spec) {
                watch.services.remove(&id);
                if watch.services.is_empty() {
                    self.checks.remove(&check.spec);
                }
            }
        }
        if !servers.is_empty() {
            before.servers = servers;
            self.services.insert(id, before);
            if is_watched {
                self.watching.insert(id);
            }
        }
        relieved
    }

    /// The check that does this, which may be there already.
    fn check(&mut self, spec: Spec, id: ServiceId, now: Instant) -> Arc<Watched> {
        let Self { board, engine, checks, last_id, .. } = self;
        let watch = checks.entry(spec.clone()).or_insert_with(|| {
            *last_id += 1;
            let check = Arc::new(Watched::new(*last_id, spec, Arc::clone(board), now));
            let task = engine.as_ref().map(|engine| engine.watch(Arc::clone(&check)));
            Watch { check, services: HashSet::new(), task }
        });
        watch.services.insert(id);
        Arc::clone(&watch.check)
    }
}

#[cfg(test)]
mod tests;
