//! Virtual services in terms of the lab's hosts.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::{Family, Lab, Mode};

/// A virtual service of the lab, written as rules for `ipvsadm`.
#[derive(Clone, Debug)]
pub struct Service {
    mode: Mode,
    family: Family,
    udp: bool,
    port: u16,
    virtual_address: u8,
    scheduler: &'static str,
    weights: Option<Vec<u16>>,
}

impl Service {
    /// A TCP service on virtual address 0, round-robin over all servers.
    pub fn tcp(mode: Mode, family: Family, port: u16) -> Self {
        Self { mode, family, udp: false, port, virtual_address: 0, scheduler: "rr", weights: None }
    }

    /// The same for UDP.
    pub fn udp(mode: Mode, family: Family, port: u16) -> Self {
        Self { udp: true, ..Self::tcp(mode, family, port) }
    }

    /// On another of the virtual addresses 0 to 3.
    pub fn on(mut self, virtual_address: u8) -> Self {
        self.virtual_address = virtual_address;
        self
    }

    /// With another scheduler.
    pub fn scheduler(mut self, name: &'static str) -> Self {
        self.scheduler = name;
        self
    }

    /// With a weight for each of the first servers; the others are left out.
    pub fn weights(mut self, weights: &[u16]) -> Self {
        self.weights = Some(weights.to_vec());
        self
    }

    /// Virtual address and port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.family.virtual_address(self.virtual_address), self.port)
    }

    /// `http://ADDRESS:PORT/PATH`.
    pub fn url(&self, path: &str) -> String {
        crate::address::url(self.address(), path)
    }

    /// `-t ADDRESS:PORT` or `-u ADDRESS:PORT`.
    pub fn selector(&self) -> String {
        format!("{} {}", if self.udp { "-u" } else { "-t" }, self.address())
    }

    /// Address and port of real server `n`, from 1.
    pub fn server(&self, lab: &Lab, n: u8) -> SocketAddr {
        SocketAddr::new(self.family.server(lab.topology(), n), self.port)
    }

    /// Lines for `ipvsadm --restore`.
    pub fn rules(&self, lab: &Lab) -> String {
        let selector = self.selector();
        let mut rules = format!("-A {selector} -s {}\n", self.scheduler);
        if self.mode == Mode::Fullnat {
            for n in 0..2 {
                let _ = writeln!(rules, "-P {selector} -z {}", self.family.local_address(lab.topology(), n));
            }
        }
        let weights = self.weights.clone().unwrap_or_else(|| vec![1; lab.servers().into()]);
        for (n, weight) in (1..).zip(weights) {
            let _ = writeln!(rules, "-a {selector} -r {} {} -w {weight}", self.server(lab, n), self.mode.flag());
        }
        rules
    }
}
