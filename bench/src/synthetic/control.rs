//! The director's control thread as the daemon has it, on another CPU than the worker's; only the kernel and the API's
//! socket are missing.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::core::{Core, CoreHandle, DeviceCounters, Devices, Facts, Parts};
use control::health::Engine;
use core_affinity::CoreId;
use dataplane::snapshot::HelperPorts;
use dpvs_api::{ForwardMode, LocalPorts, Operation, Protocol, Scheduler, Server, Service, ServiceId, ServiceSettings};
use tokio::sync::watch;

use super::director::{Director, Program};
use crate::flows::{Family, Flows, LOCAL_PORTS, Net};

/// What the control thread is to do and does; 0 is to rest.
#[derive(Debug, Default)]
pub struct Switch {
    wanted: AtomicU32,
    present: AtomicU32,
    ends: AtomicBool,
    finished: AtomicU32,
}

impl Switch {
    /// Notes that something has been finished.
    pub fn finish_one(&self) {
        self.finished.fetch_add(1, Ordering::AcqRel);
    }

    /// What it is to do now, to be asked between two pieces of work; `None` to end.
    pub async fn next(&self) -> Option<u32> {
        let wanted = self.wanted.load(Ordering::Acquire);
        self.present.store(wanted, Ordering::Release);
        if wanted == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (!self.ends.load(Ordering::Acquire)).then_some(wanted)
    }
}

/// A running control thread.
pub struct Control<T> {
    switch: Arc<Switch>,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Control<T> {
    /// Starts it on a CPU. `client` talks to it as a user would, on the same thread, until its switch says `None`.
    pub fn start<A: Family, F>(
        director: &Director<A>,
        cpu: usize,
        client: impl FnOnce(CoreHandle, Arc<Switch>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T>>,
    {
        let switch = Arc::new(Switch::default());
        let (fibs, fib) = watch::channel(Arc::clone(director.fib()));
        let facts = Facts {
            config: String::new(),
            socket: String::new(),
            dpdk: String::new(),
            cores: vec![0],
            worker_capacity: 0,
            ports: Vec::new(),
            started: Instant::now(),
        };
        let devices = Arc::new(Devices {
            counters: Box::new(|_| DeviceCounters::default()),
            is_link_up: Box::new(|_| true),
            buffers: Box::new(|| (0, 0)),
        });
        let parts = Parts {
            shared: Arc::clone(&director.shared),
            kernel: None,
            fib,
            devices,
            helper_ports: HelperPorts::default(),
            facts,
        };
        let its_switch = Arc::clone(&switch);
        let thread = std::thread::spawn(move || {
            core_affinity::set_for_current(CoreId { id: cpu });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (mut core, handle) = Core::new(parts);
            core.start_checks(Engine::start(Arc::default())?);
            // The core ends when the client has dropped its handle.
            let ((), outcome) = runtime.block_on(async { tokio::join!(core.run(), client(handle, its_switch)) });
            drop(fibs);
            outcome
        });
        Self { switch, thread: Some(thread) }
    }

    /// Lets it do something else; the worker goes on until it does.
    pub fn switch<A: Family>(&mut self, to: u32, director: &mut Director<A>) -> Result<()> {
        self.switch.wanted.store(to, Ordering::Release);
        let start = Instant::now();
        while self.switch.present.load(Ordering::Acquire) != to {
            for _ in 0..100 {
                director.turn(Program::Director);
            }
            self.check()?;
            if start.elapsed() > Duration::from_secs(20) {
                bail!("the control thread does not follow");
            }
        }
        Ok(())
    }

    /// Lets it go on, beside the worker, until it has finished something at least once.
    pub fn until_finished<A: Family>(&mut self, director: &mut Director<A>) -> Result<()> {
        let start = Instant::now();
        while self.switch.finished.load(Ordering::Acquire) == 0 {
            for _ in 0..1000 {
                director.turn(Program::Director);
            }
            self.check()?;
            if start.elapsed() > Duration::from_secs(120) {
                bail!("the control thread does not finish");
            }
        }
        Ok(())
    }

    /// Ends it; returns what the client returns.
    pub fn end<A: Family>(mut self, director: &mut Director<A>) -> Result<T> {
        self.switch.ends.store(true, Ordering::Release);
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            director.turn(Program::Director);
        }
        self.outcome()
    }

    /// Fails, as its client did, if it has ended.
    fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        self.outcome()?;
        bail!("the control thread has ended")
    }

    /// What the client of a thread that has ended returned.
    fn outcome(&mut self) -> Result<T> {
        let thread = self.thread.take().context("the control thread has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the control thread has panicked"))?
    }
}

impl<T> Drop for Control<T> {
    fn drop(&mut self) {
        self.switch.ends.store(true, Ordering::Release);
    }
}

/// The operations that add the services of these flows.
pub fn services<A: Family>(flows: &Flows, weight: u32) -> impl Iterator<Item = Operation> {
    let locals: Vec<IpAddr> = (0..flows.locals).map(|n| A::host(Net::Local, 1 + n).into()).collect();
    let (first, last) = LOCAL_PORTS;
    let flows = flows.clone();
    (0..flows.services).map(move |id| {
        let (vaddr, vport) = Flows::virt::<A>(id);
        let of_each = flows.servers_of_each();
        // Workers get servers in the opposite order, as IPVS has them.
        let servers = (id * of_each..(id + 1) * of_each).rev().map(|n| Server {
            weight,
            ..Server::new((A::host(Net::Server, 1 + n).into(), flows.dport()).into(), ForwardMode::Fullnat)
        });
        let service = Service {
            id: ServiceId::Address {
                protocol: if flows.protocol == proto::Protocol::TCP { Protocol::Tcp } else { Protocol::Udp },
                address: (vaddr.into(), vport).into(),
            },
            settings: ServiceSettings {
                scheduler: Scheduler::Rr,
                local_ports: LocalPorts { first, last },
                ..ServiceSettings::default()
            },
            local_addresses: locals.clone(),
            servers: servers.collect(),
        };
        Operation::AddService { service }
    })
}
