//! What happens in the daemon, as `GET /v1/events` tells it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Operation, ServiceId};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Tells it from all others, those of the daemon before a restart included.
    pub id: String,
    /// When, in milliseconds since 1970-01-01 00:00 UTC.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The configuration changed. Operations that were applied together are one event.
    Configuration {
        /// Tag of the configuration that they led to, as `ETag` has it, without the quotes.
        version: String,
        /// Who asked for it.
        by: Author,
        /// The operations, in order, at most [`EventKind::MAX_CHANGES`].
        changes: Vec<Change>,
        /// How many more there were.
        #[serde(default, skip_serializing_if = "is_zero")]
        omitted: usize,
    },
    /// A health check, or what became of connections, decided that a server is available again, or no longer.
    ServerHealth {
        /// The service.
        service: ServiceId,
        /// The server.
        server: SocketAddr,
        /// Whether it takes connections.
        up: bool,
        /// What was found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A worker takes no turns: its packets wait.
    WorkerStalled {
        /// Index of the worker.
        worker: usize,
    },
    /// A worker that had stalled takes turns again.
    WorkerResumed {
        /// Index of the worker.
        worker: usize,
    },
    /// A worker ended by itself, and the daemon ends with it.
    WorkerFailed {
        /// Index of the worker.
        worker: usize,
    },
    /// Many packets are dropped for a reason for which few or none were before.
    DropsBegan {
        /// Name of the reason, as `GET /v1/drops` has it.
        reason: String,
        /// Drops per second.
        per_second: u64,
    },
    /// Few packets are dropped for that reason any longer.
    DropsEnded {
        /// Name of the reason.
        reason: String,
        /// Drops since they began.
        packets: u64,
    },
    /// A port has a link, or none.
    Link {
        /// Name of the port.
        port: String,
        /// Whether it has one.
        up: bool,
    },
    /// The daemon refuses new connections and ends when the last one does.
    Draining,
    /// Events are missing here: they were before the daemon's start, or are older than what it keeps. Only the stream that asked
    /// for them has this.
    Missed,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl EventKind {
    /// Operations that one event names at most.
    pub const MAX_CHANGES: usize = 64;

    /// A change of the configuration by these operations.
    pub fn configuration(version: String, by: Author, operations: &[Operation]) -> Self {
        let changes: Vec<Change> = operations.iter().take(Self::MAX_CHANGES).map(Change::from).collect();
        let omitted = operations.len() - changes.len();
        EventKind::Configuration { version, by, changes, omitted }
    }

    /// Its name, as field `event` and the event's type in the stream have it.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Configuration { .. } => "configuration",
            EventKind::ServerHealth { .. } => "server-health",
            EventKind::WorkerStalled { .. } => "worker-stalled",
            EventKind::WorkerResumed { .. } => "worker-resumed",
            EventKind::WorkerFailed { .. } => "worker-failed",
            EventKind::DropsBegan { .. } => "drops-began",
            EventKind::DropsEnded { .. } => "drops-ended",
            EventKind::Link { .. } => "link",
            EventKind::Draining => "draining",
            EventKind::Missed => "missed",
        }
    }
}

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Author {
    /// The daemon itself.
    Daemon,
    /// The configuration file, when it was read again.
    File,
    /// A process at the Unix socket.
    User {
        /// User id.
        uid: u32,
        /// Process id, if the kernel tells it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// A client with a certificate.
    Certificate {
        /// Common name of its subject, or another name of its.
        name: String,
    },
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Author::Daemon => f.write_str("the daemon"),
            Author::File => f.write_str("the configuration file"),
            Author::User { uid, pid: Some(pid) } => write!(f, "user {uid}, process {pid}"),
            Author::User { uid, pid: None } => write!(f, "user {uid}"),
            Author::Certificate { name } => write!(f, "certificate {name}"),
        }
    }
}

/// An operation in brief.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Name of the operation, e.g. `edit-server`.
    pub op: String,
    /// The service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// The server that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// The local address that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
}

impl From<&Operation> for Change {
    fn from(operation: &Operation) -> Self {
        let (service, server, local_address) = match operation {
            Operation::AddService { service } => (Some(service.id), None, None),
            Operation::EditService { service, .. } | Operation::DeleteService { service } => {
                (Some(*service), None, None)
            }
            Operation::AddServer { service, server } | Operation::EditServer { service, server } => {
                (Some(*service), Some(server.address), None)
            }
            Operation::DeleteServer { service, server } => (Some(*service), Some(*server), None),
            Operation::AddLocalAddress { service, local_address, .. }
            | Operation::DeleteLocalAddress { service, local_address } => (Some(*service), None, Some(*local_address)),
            Operation::Zero { service } => (*service, None, None),
            Operation::Clear
            | Operation::SetMarks { .. }
            | Operation::AddMark { .. }
            | Operation::DeleteMark { .. }
            | Operation::SetTimeouts { .. }
            | Operation::SetSysctls { .. } => (None, None, None),
        };
        Self { op: operation.name().to_owned(), service, server, local_address }
    }
}

impl fmt::Display for Change {
    /// `edit-server tcp/192.0.2.1:80 10.0.0.1:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.op)?;
        self.service.iter().try_for_each(|service| write!(f, " {service}"))?;
        self.server.iter().try_for_each(|server| write!(f, " {server}"))?;
        self.local_address.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn operation(value: Value) -> Operation {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn as_json_and_back() {
        let operations = [
            operation(json!({"op": "delete-server", "service": "tcp/192.0.2.1:80", "server": "10.0.0.1:80"})),
            operation(json!({"op": "clear"})),
        ];
        let by = Author::User { uid: 0, pid: Some(7) };
        let what = EventKind::configuration("a.2".to_owned(), by, &operations);
        let event = Event { id: "a.1".to_owned(), time_ms: 5, what };
        let expected = json!({
            "id": "a.1", "time_ms": 5, "event": "configuration", "version": "a.2",
            "by": {"kind": "user", "uid": 0, "pid": 7},
            "changes": [
                {"op": "delete-server", "service": "tcp/192.0.2.1:80", "server": "10.0.0.1:80"},
                {"op": "clear"},
            ],
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Event>(expected).unwrap(), event);
    }

    #[test]
    fn a_large_batch_is_cut() {
        let zero = operation(json!({"op": "zero"}));
        let what = EventKind::configuration(String::new(), Author::File, &vec![zero; EventKind::MAX_CHANGES + 3]);
        let EventKind::Configuration { changes, omitted, .. } = what else { panic!("{what:?}") };
        assert_eq!((changes.len(), omitted), (EventKind::MAX_CHANGES, 3));
    }

    #[test]
    fn names_are_those_of_the_json() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let service = ServiceId::Fwmark { mark: 1, family: crate::Family::Inet };
        for what in [
            EventKind::configuration(String::new(), Author::Daemon, &[]),
            EventKind::ServerHealth { service, server: address, up: true, reason: None },
            EventKind::WorkerStalled { worker: 0 },
            EventKind::WorkerResumed { worker: 0 },
            EventKind::WorkerFailed { worker: 0 },
            EventKind::DropsBegan { reason: String::new(), per_second: 1 },
            EventKind::DropsEnded { reason: String::new(), packets: 1 },
            EventKind::Link { port: String::new(), up: false },
            EventKind::Draining,
            EventKind::Missed,
        ] {
            assert_eq!(serde_json::to_value(&what).unwrap()["event"], what.name());
        }
    }

    #[test]
    fn changes_name_what_they_are_about() {
        for (value, expected) in [
            (
                json!({"op": "add-service", "service": {"protocol": "udp", "address": "[2001:db8::1]:53"}}),
                "add-service udp/[2001:db8::1]:53",
            ),
            (
                json!({"op": "add-server", "service": "fwmark/7", "server": {"address": "10.0.0.1:80", "mode": "nat"}}),
                "add-server fwmark/7 10.0.0.1:80",
            ),
            (
                json!({"op": "add-local-address", "service": "tcp/192.0.2.1:80", "local_address": "10.0.0.9"}),
                "add-local-address tcp/192.0.2.1:80 10.0.0.9",
            ),
            (json!({"op": "set-sysctls", "values": {}}), "set-sysctls"),
            (json!({"op": "zero"}), "zero"),
        ] {
            assert_eq!(Change::from(&operation(value)).to_string(), expected);
        }
    }
}
