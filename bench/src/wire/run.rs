//! Carries out the plan.

use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dataplane::fib::Mac;
use dataplane::snapshot::ForwardMode;

use super::cable::{Cable, Generator, Role};
use super::dut::{Bench, Dpvsd, External, Port, START_TIMEOUT, TESTPMD, Testpmd, mode_name};
use super::inspect::Treatment;
use super::plan::{self, Device, Group, Task, ZeroWire};
use super::process::{Process, is_installed};
use super::result::{Program, Verified, WireResults, Wiring};
use super::session::{self, Case, Session};
use super::tally::{Key, Tally, treatment};
use super::{Arguments, Part, core_to_core, interrupt, pcap, table};
use crate::facts;
use crate::frame::OWN_MAC;

/// MAC address that DPDK gives its first pcap device: "pcap" and the device's number.
const PCAP_MAC: Mac = [2, 0x70, 0x63, 0x61, 0x70, 0];
/// Rate of the passes in which every packet is checked.
const VERIFIED_MPPS: f64 = 0.3;
/// Turns of testpmd that wait for packets to come back, before it is given up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures everything that the arguments ask for.
pub fn all(arguments: &Arguments, bench: Bench) -> Result<WireResults> {
    let mut runner = Runner {
        ghz: facts::tsc_ghz(),
        generator: None,
        has_testpmd: is_installed(TESTPMD),
        results: WireResults::default(),
        last_mpps: None,
        core_to_core_ns: 0.0,
        cables: 0,
        group: 0,
        arguments,
        bench,
    };
    runner.results.tsc_ghz = runner.ghz;
    if !runner.has_testpmd {
        runner.results.notes.push(format!(
            "{TESTPMD} is not installed, so there is nothing to compare with: `apt-get install dpdk` and measure again"
        ));
    }
    if arguments.only != Some(Part::Memif) && arguments.dut.is_none() {
        for plan in plan::zero_wire(arguments.full) {
            runner.zero_wire(&plan)?;
        }
    }
    if arguments.only != Some(Part::ZeroWire) {
        let groups = match (&arguments.dut, arguments.full) {
            (Some(_), is_full) => plan::external(arguments.dut_mode.into(), arguments.rounds, is_full),
            (None, true) => plan::full(arguments.rounds),
            (None, false) => plan::quick(arguments.rounds),
        };
        runner.generator = Some(Generator::start(arguments.generator_core)?);
        for group in groups {
            runner.memif(&group)?;
        }
    }
    table::notes(&runner.results);
    Ok(runner.results)
}

struct Runner<'a> {
    arguments: &'a Arguments,
    bench: Bench,
    ghz: f64,
    generator: Option<Generator>,
    has_testpmd: bool,
    results: WireResults,
    /// The rate that loads are shares of.
    last_mpps: Option<f64>,
    core_to_core_ns: f64,
    cables: u32,
    group: u32,
}

/// A program that runs with the generator at its other end.
enum Running {
    Dpvsd(Dpvsd),
    Testpmd(Testpmd),
    External(External),
}

impl Running {
    fn process(&mut self) -> &mut Process {
        match self {
            Running::Dpvsd(dpvsd) => dpvsd.process(),
            Running::Testpmd(testpmd) => testpmd.process(),
            Running::External(external) => external.process(),
        }
    }
}

impl Runner<'_> {
    fn time(&self) -> Duration {
        Duration::from_millis(self.arguments.time)
    }

    /// Measures a group on memif.
    fn memif(&mut self, group: &Group) -> Result<()> {
        self.group += 1;
        let mut tally = Tally::default();
        let first_verified = self.results.verified.len();
        for round in 0..group.rounds {
            for (device, tasks) in &group.turns {
                if *device == Device::Testpmd && !self.has_testpmd {
                    continue;
                }
                self.turn(device, tasks, &mut tally).with_context(|| format!("{device:?}, round {round}"))?;
            }
        }
        let mut rows = WireResults::default();
        tally.finish(&mut rows);
        table::rows(&rows);
        table::verified(&self.results.verified[first_verified..]);
        self.results.rates.append(&mut rows.rates);
        self.results.latencies.append(&mut rows.latencies);
        self.results.connections.append(&mut rows.connections);
        Ok(())
    }

    /// A program starts, does its tasks and ends.
    fn turn(&mut self, device: &Device, tasks: &[Task], tally: &mut Tally) -> Result<()> {
        self.cables += 1;
        self.core_to_core_ns = core_to_core::round_trip_ns(self.bench.cores)?;
        let (socket, role) = match (device, &self.arguments.socket) {
            (Device::External(_), Some(socket)) => (socket.clone(), self.arguments.dut_role),
            _ => (self.bench.directory.join(format!("memif{}.sock", self.cables)), Role::Client),
        };
        let generator = self.generator.as_mut().context("no generator")?;
        let port = Port::Memif(role, socket.clone());
        let flows = tasks.iter().map(|task| task.case().flows).max().unwrap_or(1);
        // Whoever listens must be there first.
        let mut cable = None;
        if role == Role::Client {
            cable = Some(generator.cable(&socket, Role::Server)?);
        }
        let mut running = match device {
            Device::Dpvsd(mode) => Running::Dpvsd(Dpvsd::start(&self.bench, *mode, &port, flows)?),
            Device::Testpmd => Running::Testpmd(Testpmd::start(&self.bench, &port)?),
            Device::External(_) => {
                let command = self.arguments.dut.as_deref().context("no command")?;
                Running::External(External::start(&self.bench, command, role, &socket)?)
            }
        };
        let mut cable = match cable {
            Some(cable) => cable,
            None => {
                let deadline = Instant::now() + START_TIMEOUT;
                while !socket.exists() && Instant::now() < deadline {
                    running.process().check()?;
                    interrupt::check()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
                generator.cable(&socket, Role::Client)?
            }
        };
        cable.wait(START_TIMEOUT, || running.process().check())?;
        let outcome = self.tasks(&mut running, &mut cable, tasks, tally);
        // A device that ended explains why nothing came back.
        outcome.or_else(|error| running.process().check().and(Err(error)))
    }

    fn tasks(&mut self, running: &mut Running, cable: &mut Cable, tasks: &[Task], tally: &mut Tally) -> Result<()> {
        let mut has_yielded = false;
        let mut macs = [None; 2];
        for task in tasks {
            interrupt::check()?;
            let case = task.case();
            let treated = match running {
                Running::Testpmd(testpmd) => {
                    let mode = task.testpmd_mode().unwrap_or("5tswap");
                    testpmd.forward(mode)?;
                    treatment(mode)
                }
                Running::Dpvsd(_) => Treatment::Director { ttl_falls: Some(1) },
                Running::External(_) => Treatment::Director { ttl_falls: None },
            };
            let known = match running {
                Running::External(_) => self.arguments.dut_mac.or(macs[usize::from(case.is_v6)]),
                Running::Dpvsd(_) => macs[usize::from(case.is_v6)],
                Running::Testpmd(_) => Some(OWN_MAC),
            };
            let mac = match known {
                Some(mac) => mac,
                None if case.is_v6 => cable.resolve::<std::net::Ipv6Addr>(PROBE_TIMEOUT)?,
                None => cable.resolve::<std::net::Ipv4Addr>(PROBE_TIMEOUT)?,
            };
            macs[usize::from(case.is_v6)] = Some(mac);
            let mut session = Session::new(cable, mac, treated, self.ghz);
            session.probe(case, PROBE_TIMEOUT)?;
            if !has_yielded {
                has_yielded = true;
                running.process().yield_generator_core(self.bench.cores)?;
            }
            self.task(running, &mut session, task, tally).with_context(|| case.name())?;
        }
        if let Running::Dpvsd(dpvsd) = running {
            for (reason, packets) in dpvsd.drops()? {
                eprintln!("dpvsd dropped {packets}: {reason}");
            }
        }
        Ok(())
    }

    fn task(&mut self, running: &Running, session: &mut Session, task: &Task, tally: &mut Tally) -> Result<()> {
        let (program, group, ghz, time) = (running.program(), self.group, self.ghz, self.time());
        let mode = task.testpmd_mode().filter(|_| program == Program::Testpmd);
        let mode = mode.unwrap_or_else(|| mode_name(task.case().mode));
        let key = |case: &Case, wire_len| {
            let workload = case.workload(mode, wire_len);
            Key { group, wiring: Wiring::Memif, program: program.clone(), workload }
        };
        match task {
            Task::Rate(case, _) => {
                session.open(case)?;
                let run = session.rate(case, time)?;
                if program != Program::Testpmd {
                    self.last_mpps = Some(run.traffic.mpps(ghz));
                }
                tally.rate(key(case, run.wire_len), &run, ghz, self.core_to_core_ns);
            }
            Task::Latency(case, load, _) => {
                let full = self.last_mpps.context("no rate was measured before")?;
                session.open(case)?;
                let run = session.latency(case, full * load, time)?;
                tally.latency(key(case, run.wire_len), *load, run);
            }
            Task::Verify(case) => {
                session.open(case)?;
                let run = session.verify(case, VERIFIED_MPPS, time)?;
                self.results.verified.push(Verified {
                    program: program.clone(),
                    workload: case.workload(mode, run.wire_len),
                    offered_mpps: run.offered_mpps,
                    sent: run.sent,
                    lost: run.lost,
                    verification: run.verification,
                });
            }
            Task::Connect(case, packets) => {
                let run = session.connect(case, 0, *packets)?;
                tally.connections(key(case, run.wire_len), *packets, run);
            }
        }
        Ok(())
    }

    /// Measures on a port that repeats a file.
    fn zero_wire(&mut self, plan: &ZeroWire) -> Result<()> {
        self.group += 1;
        let path = self.bench.directory.join("packets.pcap");
        let frames = session::frames(&plan.case, PCAP_MAC);
        let wire_len = frames.iter().map(|frame| frame.len() + 4).sum::<usize>() as f64 / frames.len() as f64;
        let mut file = BufWriter::new(File::create(&path)?);
        pcap::write(&mut file, &frames)
            .and_then(|()| std::io::Write::flush(&mut file))
            .context("cannot write packets")?;
        drop(frames);
        let port = Port::File(path, plan.case.flows);
        let mut tally = Tally::default();
        let group = self.group;
        let key = |program, mode: &str| {
            let workload = plan.case.workload(mode, wire_len);
            Key { group, wiring: Wiring::ZeroWire, program, workload }
        };
        for _ in 0..self.arguments.rounds {
            for &mode in &plan.modes {
                let mpps = self.zero_wire_dpvsd(mode, &port, plan.case.flows)?;
                tally.own_rate(key(Program::Dpvsd, mode_name(mode)), mpps);
            }
            if self.has_testpmd {
                let mut testpmd = Testpmd::start(&self.bench, &port)?;
                for mode in ["io", "macswap", "5tswap"] {
                    interrupt::check()?;
                    testpmd.forward(mode)?;
                    std::thread::sleep(self.time() / 4);
                    tally.own_rate(key(Program::Testpmd, mode), testpmd.measure(self.time())?);
                }
            }
        }
        let mut rows = WireResults::default();
        tally.finish(&mut rows);
        table::rows(&rows);
        self.results.rates.append(&mut rows.rates);
        Ok(())
    }

    fn zero_wire_dpvsd(&mut self, mode: ForwardMode, port: &Port, flows: u32) -> Result<f64> {
        interrupt::check()?;
        let dpvsd = Dpvsd::start(&self.bench, mode, port, flows)?;
        // Until the neighbours have reached the worker, packets wait and are dropped.
        let deadline = Instant::now() + START_TIMEOUT;
        let dropped = |dpvsd: &Dpvsd| Ok::<u64, anyhow::Error>(dpvsd.drops()?.iter().map(|(_, packets)| packets).sum());
        loop {
            let (sent, dropped_before) = (dpvsd.sent()?.0, dropped(&dpvsd)?);
            std::thread::sleep(self.time() / 4);
            if dpvsd.sent()?.0 > sent && dropped(&dpvsd)? == dropped_before {
                break;
            }
            ensure!(Instant::now() < deadline, "dpvsd does not forward: it drops {:?}", dpvsd.drops()?);
        }
        let (before, dropped_before) = (dpvsd.sent()?, dropped(&dpvsd)?);
        std::thread::sleep(self.time());
        let (after, dropped_after) = (dpvsd.sent()?, dropped(&dpvsd)?);
        ensure!(dropped_after == dropped_before, "dpvsd drops packets: {:?}", dpvsd.drops()?);
        Ok((after.0 - before.0) as f64 / (after.1 - before.1).as_secs_f64() / 1e6)
    }
}

impl Running {
    fn program(&self) -> Program {
        match self {
            Running::Dpvsd(_) => Program::Dpvsd,
            Running::Testpmd(_) => Program::Testpmd,
            Running::External(_) => Program::External,
        }
    }
}

impl Task {
    fn case(&self) -> &Case {
        match self {
            Task::Rate(case, _) | Task::Latency(case, ..) | Task::Verify(case) | Task::Connect(case, _) => case,
        }
    }

    fn testpmd_mode(&self) -> Option<&'static str> {
        match self {
            Task::Rate(_, mode) | Task::Latency(_, _, mode) => *mode,
            Task::Verify(_) | Task::Connect(..) => None,
        }
    }
}
