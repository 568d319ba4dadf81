//! The figures that targets are about, taken from what was measured.

use super::Parts;
use crate::stats::Spread;
use crate::synthetic::{Listing, Measured, Memory, Synthetic, count};
use crate::wire::result::{Latency, Program, Rate, WireResults, Wiring, Workload};

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its value over the runs.
    pub spread: Spread,
    /// Why it does not count although it may be good.
    pub objection: Option<String>,
    /// What must be known beside it.
    pub remark: Option<String>,
}

impl From<Spread> for Figure {
    fn from(spread: Spread) -> Self {
        Self { spread, objection: None, remark: None }
    }
}

/// A figure, or why there is none.
type Found = Result<Figure, String>;

/// Round by round, because what is compared was measured at the same time.
fn each(a: &[f64], b: &[f64], compare: fn(f64, f64) -> f64) -> Spread {
    Spread::of(a.iter().zip(b).map(|(&a, &b)| compare(a, b)).collect())
}

/// Synthetic source. Of both ways the dearer counts.
impl Parts {
    fn synthetic(&self) -> Result<&Synthetic, String> {
        self.synthetic.as_ref().ok_or_else(|| "this part was not run: dpvs-bench synthetic".to_owned())
    }

    fn dearest(&self, mode: &str, family: &str, protocol: &str, flows: u32) -> Result<&Measured, String> {
        let is_it = |m: &&Measured| {
            (&*m.mode, &*m.family, &*m.protocol, m.flows) == (mode, family, protocol, flows) && m.is_plain()
        };
        let measured = self.synthetic()?.forwarding.iter().filter(is_it);
        measured.max_by(|a, b| a.cost.median.total_cmp(&b.cost.median)).ok_or_else(|| "not among the cases".to_owned())
    }

    /// Nanoseconds that FULLNAT of UDP over IPv4 takes more than a swap.
    pub fn cost_above_swap(&self, flows: u32) -> Found {
        let measured = self.dearest("FULLNAT", "IPv4", "UDP", flows)?;
        Ok(measured.cost.scaled(1.0 / self.facts.tsc_ghz).into())
    }

    /// Cost above swap of a mode by that of FULLNAT, UDP over IPv4.
    pub fn cost_to_fullnat(&self, mode: &str, flows: u32) -> Found {
        let (this, base) = (self.dearest(mode, "IPv4", "UDP", flows)?, self.dearest("FULLNAT", "IPv4", "UDP", flows)?);
        Ok(each(&this.cost_rounds, &base.cost_rounds, |this, base| this / base).into())
    }

    /// A rate by FULLNAT's of UDP over IPv4.
    pub fn rate_to_fullnat(&self, mode: &str, family: &str, protocol: &str, flows: u32) -> Found {
        let this = self.dearest(mode, family, protocol, flows)?;
        let base = self.dearest("FULLNAT", "IPv4", "UDP", flows)?;
        Ok(each(&base.director_rounds, &this.director_rounds, |base, this| base / this).into())
    }

    /// The worst of FULLNAT's rates for UDP over IPv4 with several services by that with one.
    pub fn many_services(&self, flows: u32) -> Found {
        let forwarding = &self.synthetic()?.forwarding;
        let is_plain = |m: &&Measured| {
            (&*m.mode, &*m.family, &*m.protocol, &*m.choice) == ("FULLNAT", "IPv4", "UDP", "uniform")
                && (m.flows, &*m.length) == (flows, "64")
        };
        let plain = || forwarding.iter().filter(is_plain);
        let ratios = plain().filter(|m| m.services > 1).filter_map(|many| {
            let one = plain().find(|m| m.services == 1 && m.way == many.way)?;
            Some(each(&one.director_rounds, &many.director_rounds, |one, many| one / many))
        });
        let worst = ratios.min_by(|a, b| a.median.total_cmp(&b.median));
        Ok(worst.ok_or("not among the cases")?.into())
    }

    /// Millions of new connections by second.
    pub fn new_connections(&self, family: &str) -> Found {
        let connections = self.synthetic()?.connections.iter().find(|c| c.family == family);
        let connections = connections.ok_or("not among the cases")?;
        let spread = connections.total.reciprocal(1000.0 * self.facts.tsc_ghz);
        Ok(Figure { objection: connections.losses.clone(), ..spread.into() })
    }

    /// The rate of two workers by that of one.
    pub fn two_workers(&self, flows: u32) -> Found {
        let scenarios = &self.synthetic()?.scenarios;
        let scaling = scenarios.workers.iter().find(|scaling| (scaling.workers, scaling.flows_of_each) == (2, flows));
        let scaling = scaling.ok_or_else(|| reason(scenarios.notes.iter().chain(&scenarios.failures), "workers"))?;
        let remark =
            format!("swap {:.2}, source alone {:.2}", scaling.swap_scaling.median, scaling.source_scaling.median);
        Ok(Figure { remark: Some(remark), ..scaling.scaling.into() })
    }

    /// By how many per cent forwarding is slower beside questions about connections.
    pub fn listing(&self, of: fn(&Listing) -> Spread) -> Found {
        let scenarios = &self.synthetic()?.scenarios;
        let listing = scenarios.listings.iter().max_by_key(|listing| listing.flows);
        let listing = listing.ok_or_else(|| reason(scenarios.notes.iter().chain(&scenarios.failures), "listing"))?;
        let remark = format!("{} connections, {} whole lists", count(listing.flows), listing.lists);
        Ok(Figure { remark: Some(remark), ..of(listing).scaled(100.0).into() })
    }

    /// By how many per cent forwarding is slower beside health checks.
    pub fn checking(&self) -> Found {
        let scenarios = &self.synthetic()?.scenarios;
        let checking = scenarios.checks.iter().max_by_key(|checking| checking.checks);
        let checking = checking.ok_or_else(|| reason(scenarios.notes.iter().chain(&scenarios.failures), "checks"))?;
        let remark = format!("{} TCP checks, {:.0} runs/s", count(checking.checks), checking.runs_per_s);
        Ok(Figure { remark: Some(remark), ..checking.slowdown.scaled(100.0).into() })
    }

    /// Packets that were lost while the configuration was replaced.
    pub fn lost_by_replacement(&self) -> Found {
        let scenarios = &self.synthetic()?.scenarios;
        let replacement = scenarios.replacements.iter().max_by_key(|replacement| replacement.services);
        let replacement =
            replacement.ok_or_else(|| reason(scenarios.notes.iter().chain(&scenarios.failures), "replacing"))?;
        let remark = format!(
            "{} replacements, each of {} services with {} servers",
            replacement.replacements,
            count(replacement.services),
            replacement.servers_of_each
        );
        // A packet that is lost ends the measurement with an error: then there is no result.
        Ok(Figure { remark: Some(remark), ..Spread::of(vec![0.0]).into() })
    }

    /// Something about memory.
    pub fn memory(&self, of: fn(&Memory) -> f64) -> Found {
        Ok(Spread::of(vec![of(&self.synthetic()?.memory)]).into())
    }
}

/// Two processes.
impl Parts {
    fn wire(&self) -> Result<&WireResults, String> {
        self.wire.as_ref().ok_or_else(|| "this part was not run: dpvs-bench wire".to_owned())
    }

    /// FULLNAT of UDP over IPv4, 64 bytes, by one worker, and testpmd's 5tswap beside it. Of several ways the dearest counts.
    fn fullnat_and_testpmd(&self, wiring: Wiring, flows: u32) -> Result<(&Rate, &Rate), String> {
        let wire = self.wire()?;
        let rates = || wire.rates.iter().filter(|rate| rate.wiring == wiring && is_base(&rate.workload, flows));
        let pairs = rates().filter(|rate| rate.program == Program::Dpvsd && rate.workload.mode == "FULLNAT");
        let pairs = pairs.filter_map(|rate| {
            let is_its = |other: &&Rate| {
                other.group == rate.group && other.program == Program::Testpmd && other.workload.mode == "5tswap"
            };
            Some((rate, rates().find(is_its)?))
        });
        pairs.max_by(|a, b| a.0.ns.median.total_cmp(&b.0.ns.median)).ok_or_else(|| reason(&wire.notes, ""))
    }

    /// Nanoseconds that FULLNAT of UDP over IPv4 takes more than 5tswap on zero-wire.
    pub fn cost_above_testpmd(&self, flows: u32) -> Found {
        self.wire()?;
        let pair = self.fullnat_and_testpmd(Wiring::ZeroWire, flows);
        let many = |_| "zero-wire has a packet of every flow in memory; see the cost above swap".to_owned();
        let (director, testpmd) = if flows > 100_000 { pair.map_err(many) } else { pair }?;
        Ok(each(&director.mpps_runs, &testpmd.mpps_runs, |director, testpmd| 1e3 / director - 1e3 / testpmd).into())
    }

    /// FULLNAT's rate by that of 5tswap on memif.
    pub fn share_of_testpmd(&self, flows: u32) -> Found {
        let (director, testpmd) = self.fullnat_and_testpmd(Wiring::Memif, flows)?;
        let spread = each(&director.mpps_runs, &testpmd.mpps_runs, |director, testpmd| director / testpmd);
        let wrong = director.verification.as_ref().filter(|v| v.checked > 0 && !v.is_clean());
        let objection = wrong.map(|v| {
            format!(
                "of {} packets checked {} were wrong, {} came twice, {} late",
                v.checked, v.wrong, v.duplicated, v.reordered
            )
        });
        let idle = [director, testpmd].map(|rate| rate.idle().unwrap_or(f64::NAN) * 100.0);
        let remark =
            format!("the generator waits {:.0} % of the time for dpvsd, {:.0} % for testpmd", idle[0], idle[1]);
        Ok(Figure { objection, remark: Some(remark), ..spread.into() })
    }

    /// Microseconds that 99 % of the packets take at most, FULLNAT of UDP over IPv4 at half of the largest rate.
    pub fn latency_at_half_load(&self) -> Found {
        let wire = self.wire()?;
        let is_base = |l: &&Latency| {
            let Workload { family, protocol, workers, .. } = &l.workload;
            (&**family, &**protocol, *workers) == ("IPv4", "UDP", 1) && (l.load - 0.5).abs() < 0.01
        };
        let base = || wire.latencies.iter().filter(is_base);
        let director = base().filter(|l| l.program == Program::Dpvsd && l.workload.mode == "FULLNAT");
        let director = director.max_by(|a, b| a.p99.median.total_cmp(&b.p99.median));
        let director = director.ok_or_else(|| reason(&wire.notes, ""))?;
        let testpmd = base().find(|l| l.program == Program::Testpmd);
        let remark = testpmd.map(|l| format!("testpmd {} at the same rate: {:.2} us", l.workload.mode, l.p99.median));
        Ok(Figure { remark, ..director.p99.into() })
    }
}

fn is_base(workload: &Workload, flows: u32) -> bool {
    let Workload { family, protocol, length, choice, .. } = workload;
    (&**family, &**protocol, &**length, &**choice) == ("IPv4", "UDP", "64", "uniform")
        && (workload.flows, workload.workers) == (flows, 1)
}

/// Why something is not there, as far as the part has said so in sentences with this word.
fn reason<'a>(notes: impl IntoIterator<Item = &'a String>, word: &str) -> String {
    let about: Vec<&str> =
        notes.into_iter().map(String::as_str).filter(|note| note.to_lowercase().contains(word)).collect();
    if about.is_empty() { "not among the cases".to_owned() } else { about.join(" ") }
}
