//! Forwarding while thousands of health checks run.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control::core::CoreHandle;
use dataplane::snapshot::ForwardMode;
use dpvs_api::{Check, Operation, Probe, Seconds, Server, ServerHealth, ServiceId, TcpProbe};
use nix::sched::{CloneFlags, setns, unshare};
use proto::Protocol;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::control::{Control, Switch, services};
use super::director::{Director, Program};
use super::measure::count;
use super::scenario::Bench;
use crate::flows::{Family, Flows, Way};
use crate::frame::Shape;
use crate::pick::Pick;
use crate::stats::Spread;

/// What the control thread does, by [`Switch`].
const REST: u32 = 0;
const CHECK: u32 = 1;

/// Services, of ten servers each, all of which are checked.
const SERVICES: u32 = 500;
/// Milliseconds between two runs of a check.
const INTERVAL_MS: u32 = 5_000;
/// Before the first of the addresses that are checked: those for benchmarks (RFC 2544 appendix C.2.2).
const CHECKED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Time of a lap, and before it.
const LAP: Duration = Duration::from_millis(1250);
const WARM_UP: Duration = Duration::from_millis(300);

/// What health checks cost the packets. FULLNAT, UDP, client to server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Checking {
    /// Address family of the packets.
    pub family: String,
    /// Connections.
    pub flows: u32,
    /// TCP checks, each of a server of its own.
    pub checks: u32,
    /// Seconds between two runs of a check.
    pub interval_s: f64,
    /// CPU of control thread, checks and checked servers, on another than the worker's.
    pub control_cpu: usize,
    /// Millions of packets by second while nothing is checked; the source's work included.
    pub undisturbed: Spread,
    /// By how much forwarding is slower while checks run, as a share, round by round.
    pub slowdown: Spread,
    /// Runs of checks by second.
    pub runs_per_s: f64,
    /// Packets that were checked byte by byte.
    pub verified: u64,
}

impl Checking {
    /// For people.
    pub fn line(&self) -> String {
        format!(
            "{} TCP checks every {} s, {:.0} runs/s, beside traffic of {:.1} Mpps, FULLNAT {}: {:.2} % slower [{:.2}-{:.2}]",
            count(self.checks),
            self.interval_s,
            self.runs_per_s,
            self.undisturbed.median,
            self.family,
            100.0 * self.slowdown.median,
            100.0 * self.slowdown.min,
            100.0 * self.slowdown.max,
        )
    }
}

/// What the client saw.
#[derive(Default)]
struct Seen {
    runs: u64,
    seconds: f64,
}

/// A network of the thread's own, all addresses of which from [`CHECKED`] on are local. Threads that are started while it lives
/// share it.
struct Network {
    before: File,
}

impl Network {
    fn start() -> Result<Self> {
        let before = File::open("/proc/thread-self/ns/net").context("this thread's network")?;
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace (root rights are needed)")?;
        let network = Self { before };
        let local = format!("route add local {CHECKED}/16 dev lo");
        for command in ["link set lo up", &local] {
            let status =
                Command::new("ip").args(command.split(' ')).status().context("ip (Debian package iproute2)")?;
            ensure!(status.success(), "ip {command}: {status}");
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.before, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot go back to the network that there was: {error}");
        }
    }
}

/// Gives all servers a check, each at an address of its own, or takes them away.
fn edits(servers: &[(ServiceId, Server)], port: Option<u16>) -> Vec<Operation> {
    let health = |number: u32, port: u16| {
        let check = Check {
            interval: Seconds::from_millis(INTERVAL_MS),
            address: Some(Ipv4Addr::from_bits(CHECKED.to_bits() + 1 + number).into()),
            port: Some(port),
            ..Check::new(Probe::Tcp(TcpProbe::default()))
        };
        Box::new(ServerHealth { checks: Some(vec![check]), ..ServerHealth::default() })
    };
    let edit = |(number, (service, server)): (u32, &(ServiceId, Server))| {
        let health = port.map(|port| health(number, port));
        Operation::EditServer { service: *service, server: Server { health, ..server.clone() } }
    };
    (0..).zip(servers).map(edit).collect()
}

/// The servers that operations add.
fn servers(add: &[Operation]) -> Vec<(ServiceId, Server)> {
    let of = |operation: &Operation| match operation {
        Operation::AddService { service } => {
            service.servers.iter().map(|server| (service.id, server.clone())).collect()
        }
        _ => Vec::new(),
    };
    add.iter().flat_map(of).collect()
}

/// Has the servers checked, or not.
async fn client(handle: CoreHandle, switch: Arc<Switch>, add: Vec<Operation>) -> Result<Seen> {
    let servers = servers(&add);
    handle.apply(add).await?;
    // What is checked.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });

    let mut seen = Seen::default();
    let mut began = None;
    while let Some(task) = switch.next().await {
        match (task, began) {
            (CHECK, None) => {
                handle.apply(edits(&servers, Some(port))).await?;
                began = Some(Instant::now());
            }
            (CHECK, Some(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            (_, Some(since)) => {
                seen.seconds += since.elapsed().as_secs_f64();
                for service in handle.services().await? {
                    let health = service.server_status.iter().filter_map(|server| server.health_status.as_ref());
                    for check in health.flat_map(|health| &health.checks) {
                        let error = check.error.as_deref().unwrap_or_default();
                        ensure!(check.failures == 0, "{} failed: {error}", check.check);
                        seen.runs += check.runs;
                    }
                }
                handle.apply(edits(&servers, None)).await?;
                began = None;
            }
            (_, None) => {}
        }
    }
    Ok(seen)
}

/// Packets forwarded by cycle in a lap.
fn lap<A: Family>(director: &mut Director<A>, ghz: f64) -> f64 {
    let mut run = |time: Duration| {
        let (start, limit) = (hw::cycles(), time.as_nanos() as f64 * ghz);
        let (mut packets, mut cycles) = (0, 0);
        while (cycles as f64) < limit {
            packets += director.turn(Program::Director);
            cycles = hw::cycles() - start;
        }
        packets as f64 / cycles as f64
    };
    run(WARM_UP);
    run(LAP)
}

/// Measures with `flows` connections.
pub fn measure<A: Family>(bench: &Bench, flows: u32, rounds: usize) -> Result<Checking> {
    let cpu = *bench.cpus.get(1).context("there is one CPU only")?;
    let numbering = Flows::new(ForwardMode::FullNat, Protocol::UDP, SERVICES, flows);
    let checks = numbering.servers();
    let shape = Shape::new::<A>(Protocol::UDP, 64);
    let add = services::<A>(&numbering, 1).collect();
    let _network = Network::start()?;
    let mut director = Director::<A>::without_services(&bench.pool, vec![numbering], shape, flows as usize).remove(0);
    let mut control = Control::start(&director, cpu, move |handle, switch| client(handle, switch, add));
    while director.shared.snapshot.load().services.iter().next().is_none() {
        std::thread::yield_now();
    }
    director.open(flows, shape)?;
    director.source_mut().send(Way::In, shape);
    director.source_mut().pick = Pick::Uniform { flows };

    let (mut undisturbed, mut slowdown) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            // Each comes first equally often.
            let task = (round + turn) % 2;
            control.switch(task as u32, &mut director)?;
            rates[task] = lap(&mut director, bench.ghz);
            for _ in 0..4 {
                director.verified_turn(Program::Director, Way::In)?;
            }
        }
        undisturbed.push(rates[REST as usize] * bench.ghz * 1e3);
        slowdown.push(rates[REST as usize] / rates[CHECK as usize] - 1.0);
    }
    control.switch(REST, &mut director)?;
    director.check_no_loss()?;
    let seen = control.end(&mut director)?;
    let runs_per_s = seen.runs as f64 / seen.seconds;
    let wanted = f64::from(checks) * 1e3 / f64::from(INTERVAL_MS);
    ensure!(runs_per_s > 0.8 * wanted, "{runs_per_s:.0} checks a second ran, not {wanted}");
    Ok(Checking {
        family: A::NAME.to_owned(),
        flows,
        checks,
        interval_s: f64::from(INTERVAL_MS) / 1e3,
        control_cpu: cpu,
        undisturbed: Spread::of(undisturbed),
        slowdown: Spread::of(slowdown),
        runs_per_s,
        verified: director.verified,
    })
}
