//! Changes of the configuration; a list of them is applied whole or not at all.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MarkRule, Server, Service, ServiceId, ServiceSettings, Timeouts};

/// One change. Applied in order, published together: workers never see a list half done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Adds a service that must not exist, servers included.
    AddService {
        /// The service.
        service: Service,
    },
    /// Changes a service's settings; servers, local addresses and connections stay.
    EditService {
        /// The service.
        service: ServiceId,
        /// The new settings, all of them.
        settings: ServiceSettings,
    },
    /// Removes a service and its servers.
    DeleteService {
        /// The service.
        service: ServiceId,
    },
    /// Removes every service.
    Clear,
    /// Adds a server that the service must not have.
    AddServer {
        /// The service.
        service: ServiceId,
        /// The server.
        server: Server,
    },
    /// Changes a server's mode, weight and thresholds.
    EditServer {
        /// The service.
        service: ServiceId,
        /// The server, all of it.
        server: Server,
    },
    /// Removes a server; packets of its connections are dropped from then on.
    DeleteServer {
        /// The service.
        service: ServiceId,
        /// Address and port of the server.
        server: SocketAddr,
    },
    /// Adds a source address for FULLNAT.
    AddLocalAddress {
        /// The service.
        service: ServiceId,
        /// The local address.
        local_address: IpAddr,
        /// Mirror interface that gets the address (as /32 or /128) if the kernel has it nowhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
    },
    /// Removes a source address; connections that use it go on.
    DeleteLocalAddress {
        /// The service.
        service: ServiceId,
        /// The local address.
        local_address: IpAddr,
    },
    /// Sets statistics to zero, of one service with its servers or of everything.
    Zero {
        /// The service; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<ServiceId>,
    },
    /// Replaces the rules that give packets firewall marks.
    SetMarks {
        /// The rules, in order.
        rules: Vec<MarkRule>,
    },
    /// Adds a rule.
    AddMark {
        /// The rule.
        rule: MarkRule,
        /// How many rules come before it; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<usize>,
    },
    /// Removes the first rule that is the same.
    DeleteMark {
        /// The rule.
        rule: MarkRule,
    },
    /// Sets connection timeouts.
    SetTimeouts {
        /// The new values; 0 leaves a value as it is.
        timeouts: Timeouts,
    },
    /// Sets run-time settings, see [`Sysctls`](crate::Sysctls).
    SetSysctls {
        /// New values by name; those not named stay as they are.
        values: BTreeMap<String, u32>,
    },
}

impl Operation {
    /// Its name in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::AddService { .. } => "add-service",
            Operation::EditService { .. } => "edit-service",
            Operation::DeleteService { .. } => "delete-service",
            Operation::Clear => "clear",
            Operation::AddServer { .. } => "add-server",
            Operation::EditServer { .. } => "edit-server",
            Operation::DeleteServer { .. } => "delete-server",
            Operation::AddLocalAddress { .. } => "add-local-address",
            Operation::DeleteLocalAddress { .. } => "delete-local-address",
            Operation::Zero { .. } => "zero",
            Operation::SetMarks { .. } => "set-marks",
            Operation::AddMark { .. } => "add-mark",
            Operation::DeleteMark { .. } => "delete-mark",
            Operation::SetTimeouts { .. } => "set-timeouts",
            Operation::SetSysctls { .. } => "set-sysctls",
        }
    }
}
