//! Following the kernel: a task that keeps the model up to date and publishes a FIB whenever one of its parts changed.
//!
//! Neighbours, which change all the time, are updated from each notification. Links, addresses and routes are read
//! anew when a notification says that something about them changed: the kernel removes IPv4 routes of a vanished
//! link or address without a word, and its messages about multipath routes tell parts of the change only.

use std::sync::Arc;

use dataplane::fib::Fib;
use netlink_packet_route::RouteNetlinkMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::compile::{Compiler, MirrorPort};
use super::counters::Counters;
use super::model::Model;
use super::neighbour::Kick;
use super::netlink::{Monitor, Requests, kind, parse};

/// How long to wait for further changes after the first.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// The wait grows with the time it takes to read and compile, so that route flaps leave two thirds of the thread to
/// others; but not beyond this.
const DEBOUNCE_MAX: Duration = Duration::from_secs(1);

/// How often everything is read anew in case the kernel changed something silently.
const RESYNC: Duration = Duration::from_secs(30);

/// How often stale neighbours are verified. The kernel sees no traffic to them and would never do it by itself, so
/// that a changed MAC address or a dead host would go unnoticed.
const VERIFY: Duration = Duration::from_secs(5);

/// Neighbours verified per round.
const VERIFY_AT_MOST: usize = 1000;

/// What must be read anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
    /// The model has changed already.
    model: bool,
}

impl Dirty {
    const ALL: Self = Self { links: true, addresses: true, routes: true, neighbours: true, model: true };

    fn any(self) -> bool {
        self != Self::default()
    }
}

/// The kernel's state and whoever wants to know it.
pub(super) struct Follower {
    requests: Requests,
    monitor: Monitor,
    model: Model,
    compiler: Compiler,
    /// Interface indices of the mirrors.
    mirrors: Vec<u32>,
    dirty: Dirty,
    debounce: Duration,
    counters: Arc<Counters>,
    kicks: mpsc::Sender<Kick>,
    warned_unexpanded: bool,
}

impl Follower {
    /// Subscribes, reads everything and compiles the first FIB. `mirrors` are indexed by port.
    pub async fn start(
        mirrors: Vec<MirrorPort>,
        counters: Arc<Counters>,
        kicks: mpsc::Sender<Kick>,
    ) -> std::io::Result<(Self, watch::Sender<Arc<Fib>>)> {
        let mut follower = Self {
            // Subscribed before anything is read, so that no change falls between.
            monitor: Monitor::open()?,
            requests: Requests::open()?,
            model: Model::default(),
            mirrors: mirrors.iter().map(|mirror| mirror.index).collect(),
            compiler: Compiler::new(mirrors),
            dirty: Dirty::ALL,
            debounce: DEBOUNCE,
            counters,
            kicks,
            warned_unexpanded: false,
        };
        follower.reload().await?;
        // The first one differs from nothing, so it is always there.
        let fib = follower.compile().await.unwrap_or_default();
        Ok((follower, watch::Sender::new(Arc::new(fib))))
    }

    /// Follows changes for ever. Failing sockets are opened anew.
    pub async fn run(mut self, fibs: watch::Sender<Arc<Fib>>) {
        let mut verify = ticker(VERIFY);
        let mut resync = ticker(RESYNC);
        loop {
            if let Err(error) = self.turn(&fibs, &mut verify, &mut resync).await {
                tracing::error!("netlink: {error}; reading the kernel's state anew");
                sleep(Duration::from_secs(1)).await;
                match (Monitor::open(), Requests::open()) {
                    (Ok(monitor), Ok(requests)) => (self.monitor, self.requests) = (monitor, requests),
                    (Err(error), _) | (_, Err(error)) => tracing::error!("netlink: {error}"),
                }
                self.dirty = Dirty::ALL;
            }
        }
    }

    /// Waits for something to do, gathers what else comes at the same time, and publishes the outcome.
    async fn turn(
        &mut self,
        fibs: &watch::Sender<Arc<Fib>>,
        verify: &mut Interval,
        resync: &mut Interval,
    ) -> std::io::Result<()> {
        if !self.dirty.any() {
            tokio::select! {
                _ = verify.tick() => self.verify_stale(),
                _ = resync.tick() => self.dirty = Dirty::ALL,
                complete = self.monitor.receive() => self.note(complete?),
            }
        }
        if !self.dirty.any() {
            return Ok(());
        }
        let deadline = Instant::now() + self.debounce;
        loop {
            tokio::select! {
                // Under a flood of notifications the deadline must still win.
                biased;
                () = sleep_until(deadline) => break,
                complete = self.monitor.receive() => self.note(complete?),
            }
        }
        let start = Instant::now();
        self.reload().await?;
        if let Some(fib) = self.compile().await {
            fibs.send_replace(Arc::new(fib));
        }
        self.debounce = (start.elapsed() * 2).clamp(DEBOUNCE, DEBOUNCE_MAX);
        Ok(())
    }

    /// Takes in the notifications received last; not `complete` when some were lost.
    fn note(&mut self, complete: bool) {
        if !complete {
            self.counters.resyncs.add(1);
            self.dirty = Dirty::ALL;
            return;
        }
        let Self { monitor, model, dirty, .. } = self;
        for message in monitor.messages() {
            match message.message_type() {
                // The kernel takes routes along when links and addresses go.
                kind::NEWLINK | kind::DELLINK => (dirty.links, dirty.routes) = (true, true),
                kind::NEWADDR | kind::DELADDR => (dirty.addresses, dirty.routes) = (true, true),
                kind::NEWROUTE | kind::DELROUTE | kind::NEWNEXTHOP | kind::DELNEXTHOP => dirty.routes = true,
                kind::NEWNEIGH | kind::DELNEIGH => match parse(&message) {
                    Ok(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
                        dirty.model |= model.update_neighbour(&neighbour);
                    }
                    Ok(RouteNetlinkMessage::DelNeighbour(neighbour)) => {
                        dirty.model |= model.remove_neighbour(&neighbour);
                    }
                    _ => dirty.neighbours = true,
                },
                _ => {}
            }
        }
    }

    /// Reads what is dirty. Notifications that come meanwhile wait in their socket and are applied afterwards; as each
    /// tells an object's state and not a difference, the model ends up right whichever the dump has seen.
    async fn reload(&mut self) -> std::io::Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.links {
            self.model.links = self.requests.links().await?;
        }
        if dirty.addresses {
            self.model.addresses = self.requests.addresses().await?;
        }
        if dirty.routes {
            self.model.routes = self.requests.routes().await?;
            if !self.warned_unexpanded && self.model.routes.iter().any(|route| route.unexpanded) {
                self.warned_unexpanded = true;
                tracing::warn!("routes with next-hop objects lead nowhere: set sysctl net.ipv4.nexthop_compat_mode=1");
            }
        }
        if dirty.neighbours {
            self.model.neighbours = self.requests.neighbours().await?;
        }
        Ok(())
    }

    /// Compiles off this thread, which has frames to move meanwhile: large tables take their time.
    async fn compile(&mut self) -> Option<Fib> {
        let (model, mut compiler) = (std::mem::take(&mut self.model), std::mem::take(&mut self.compiler));
        let work = tokio::task::spawn_blocking(move || {
            let fib = compiler.compile(&model);
            (model, compiler, fib)
        });
        match work.await {
            Ok((model, compiler, fib)) => {
                (self.model, self.compiler) = (model, compiler);
                if let Some(fib) = &fib {
                    self.counters.fib_generation.set(fib.generation.into());
                }
                fib
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down and drops this task as well.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Makes the kernel verify stale neighbours. Those that had their turn are no longer stale, so that all get one.
    fn verify_stale(&mut self) {
        for kick in self.model.stale(&self.mirrors).into_iter().take(VERIFY_AT_MOST) {
            if self.kicks.try_send(kick).is_err() {
                self.counters.neighbour_kicks_failed.add(1);
            }
        }
    }
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
