//! The types that the configuration file, the HTTP API, `dpvs-ctl` and `ipvsadm` share.
//!
//! Unknown fields are refused everywhere, so that a typing error never means "default".
#![forbid(unsafe_code)]

mod config;
mod connection;
mod error;
mod event;
mod health;
mod id;
mod mark;
mod operation;
mod persistence;
mod request;
mod schema;
mod service;
mod stats;
mod sysctl;

pub use config::{ConfigChanges, ConfigError, ConfigFile, ConfigRefusal, ConfigSources, Edit, Position};
pub use connection::{Connection, ConnectionPage};
pub use error::{ApiError, ErrorKind};
pub use event::{Author, Change, Event, EventKind};
pub use health::{
    Check, CheckStatus, Destination, Digest, DnsProbe, DnsRcode, DnsTransport, DnsType, ExternalProbe, FailureKind,
    GrpcProbe, Health, HealthState, HttpMethod, HttpProbe, HttpVersion, IcmpProbe, Initially, OnFailure, Passive,
    PassiveStatus, Pattern, Payload, Probe, QuorumStatus, Seconds, ServerHealth, ServerHealthStatus, ServerState,
    SmtpProbe, StatusRange, TcpProbe, Tls, UdpProbe,
};
pub use id::{Family, ParseServiceIdError, ServiceId};
pub use mark::{MarkRule, Network, PortRange};
pub use operation::Operation;
pub use persistence::{Engine, Netmask, Persistence};
pub use request::NewLocalAddress;
pub use service::{
    ClientAddress, ForwardMode, LocalPorts, Protocol, Scheduler, SchedulerFlag, Server, ServerId, Service,
    ServiceSettings, SorryServer, Timeouts, Tunnel, TunnelChecksum, TunnelType,
};
pub use stats::{DropCount, FlowStats, PortStats, ServerStatus, ServicePage, ServiceStatus, Status, WorkerStats};
pub use sysctl::{Setting, SysctlError, Sysctls};
