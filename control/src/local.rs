//! Local addresses of FULLNAT on the director host.
//!
//! Servers answer to a local address, so the host must have it: somebody has to answer their ARP and ND requests. One
//! that the host lacks is added to a mirror interface, and taken away again when no service and no connection uses it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::PortId;
use dataplane::fib::{Fib, Resolution};
use dpvs_api::{ApiError, ErrorKind};
use tokio::sync::{Mutex, oneshot};

use crate::connections::{ConnectionReader, MAX_PAGE};
use crate::core::PortFacts;
use crate::kernel::Kernel;
use crate::registry::NewLocalAddress;

/// How often tables are searched for connections of an address that no service has any more.
const SEARCH_INTERVAL: Duration = Duration::from_secs(20);

/// The addresses that were added, and the search for connections of those that may go.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses {
    added: HashSet<IpAddr>,
    /// Where the search says which addresses no connection uses.
    search: Option<oneshot::Receiver<HashSet<IpAddr>>>,
    searched: Option<Instant>,
}

impl LocalAddresses {
    /// Gives the host those addresses that it lacks, all or none, and returns which those are.
    pub async fn ensure(
        &mut self,
        kernel: &Kernel,
        wanted: &[NewLocalAddress],
        ports: &[PortFacts],
        fib: &Fib,
    ) -> Result<Vec<IpAddr>, ApiError> {
        let mut added = Vec::new();
        // Thousands of services may share an address, and each look at the host's costs a dump.
        let mut seen = HashSet::new();
        for NewLocalAddress { address, interface, path } in wanted {
            if !seen.insert((address, interface)) {
                continue;
            }
            let outcome = match choose(interface.as_deref(), *address, ports, fib) {
                Ok(interface) => match kernel.ensure_address(interface, *address).await {
                    Ok(true) => {
                        tracing::info!("added local address {address} to {interface}");
                        added.push(*address);
                        continue;
                    }
                    Ok(false) => continue,
                    Err(error) => error.to_string(),
                },
                Err(message) => message,
            };
            self.undo(kernel, &added).await;
            return Err(ApiError { kind: ErrorKind::Invalid, message: outcome, path: Some(path.clone()) });
        }
        self.added.extend(&added);
        Ok(added)
    }

    /// Takes addresses away again.
    pub async fn undo(&mut self, kernel: &Kernel, addresses: &[IpAddr]) {
        for address in addresses {
            self.added.remove(address);
            match kernel.remove_address(*address).await {
                Ok(_) => tracing::info!("removed local address {address}"),
                Err(error) => tracing::warn!("cannot remove local address {address}: {error}"),
            }
        }
    }

    /// Takes away what neither a service nor a connection uses any more. To be called every few seconds, when all
    /// workers have adopted the configuration whose addresses are `configured`.
    pub async fn release(
        &mut self,
        kernel: &Kernel,
        configured: &HashSet<IpAddr>,
        connections: &Arc<Mutex<ConnectionReader>>,
        now: Instant,
    ) {
        let unused = match self.search.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Err(oneshot::error::TryRecvError::Empty)) => return,
            Some(Ok(unused)) => unused,
            Some(Err(oneshot::error::TryRecvError::Closed)) | None => HashSet::new(),
        };
        self.search = None;
        let unused: Vec<IpAddr> = unused.difference(configured).copied().collect();
        self.undo(kernel, &unused).await;

        let surplus: HashSet<IpAddr> = self.added.difference(configured).copied().collect();
        let too_soon = self.searched.is_some_and(|searched| now.duration_since(searched) < SEARCH_INTERVAL);
        if surplus.is_empty() || too_soon {
            return;
        }
        self.searched = Some(now);
        let (tell, told) = oneshot::channel();
        self.search = Some(told);
        let connections = Arc::clone(connections);
        tokio::spawn(async move {
            if let Some(unused) = without_connections(surplus, &connections).await {
                let _ = tell.send(unused);
            }
        });
    }
}

/// Those of `addresses` that no connection uses; `None` if the workers do not tell.
async fn without_connections(
    mut addresses: HashSet<IpAddr>,
    connections: &Mutex<ConnectionReader>,
) -> Option<HashSet<IpAddr>> {
    let mut cursor: Option<String> = None;
    loop {
        // Locked for a page at a time, so that listings get their turn.
        let page = connections.lock().await.page(cursor.as_deref(), MAX_PAGE).await.ok()?;
        for connection in &page.connections {
            addresses.remove(&connection.local.ip());
        }
        cursor = page.next;
        if cursor.is_none() || addresses.is_empty() {
            return Some(addresses);
        }
    }
}

/// The mirror interface for a local address: the one that the user means, by its own name or its port's; else the one
/// by which the address's network is reached; else the first.
fn choose<'a>(wanted: Option<&str>, address: IpAddr, ports: &'a [PortFacts], fib: &Fib) -> Result<&'a str, String> {
    if let Some(name) = wanted {
        return match ports.iter().find(|port| port.interface == name || port.name == name) {
            Some(port) => Ok(&port.interface),
            None => {
                let names: Vec<&str> = ports.iter().map(|port| port.interface.as_str()).collect();
                Err(format!("{name} is no mirror interface; there are: {}", names.join(", ")))
            }
        };
    }
    let resolution = match address {
        IpAddr::V4(v4) => fib.resolve(v4, 0),
        IpAddr::V6(v6) => fib.resolve(v6, 0),
    };
    let port = match resolution {
        Resolution::Ready(adjacency) => fib.adjacency(adjacency).port,
        Resolution::Unresolved { port, .. } => port,
        Resolution::NoRoute => PortId(0),
    };
    match ports.get(usize::from(port.0)) {
        Some(port) => Ok(&port.interface),
        None => Err(format!("there is no mirror interface for local address {address}")),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::fib::{NextHop, PortInfo, Route};

    use super::*;

    fn ports() -> Vec<PortFacts> {
        let port = |name: &str, interface: &str| PortFacts {
            name: name.to_owned(),
            device: "net_tap0".to_owned(),
            interface: interface.to_owned(),
            mac: [2; 6],
            queues: 1,
        };
        vec![port("lan", "dpvs0"), port("srv", "dpvs1")]
    }

    fn fib() -> Fib {
        let info = || PortInfo { mac: [2; 6], mtu: 1500, addresses: Vec::new() };
        let route = |network: &str, prefix_len, port| Route {
            network: network.parse().unwrap(),
            prefix_len,
            next_hops: vec![NextHop { port: PortId(port), gateway: None, weight: 1 }],
            preferred_source: None,
            mtu: None,
        };
        let known = ((PortId(1), IpAddr::from([10, 1, 0, 9])), [4; 6]);
        Fib::new(1, vec![info(), info()], [route("10.0.0.0", 16, 0), route("10.1.0.0", 16, 1)], [known], [])
    }

    #[test]
    fn the_interface_is_named_or_follows_from_the_routes() {
        for (wanted, address, expected) in [
            (Some("dpvs1"), "10.0.0.1", Ok("dpvs1")),
            (Some("srv"), "10.0.0.1", Ok("dpvs1")),
            (Some("eth0"), "10.0.0.1", Err("eth0 is no mirror interface; there are: dpvs0, dpvs1".to_owned())),
            (None, "10.0.0.1", Ok("dpvs0")),
            (None, "10.1.0.1", Ok("dpvs1")),
            (None, "10.1.0.9", Ok("dpvs1")),
            (None, "10.2.0.1", Ok("dpvs0")),
            (None, "2001:db8::1", Ok("dpvs0")),
        ] {
            assert_eq!(choose(wanted, address.parse().unwrap(), &ports(), &fib()), expected, "{wanted:?} {address}");
        }
    }
}
