//! From a command line to what is to be done.

use std::net::SocketAddr;

use dpvs_api::{
    Engine, Family, ForwardMode, LocalPorts, Operation, Persistence, Protocol, Scheduler, SchedulerFlag, Server,
    Service, ServiceId, ServiceSettings, Timeouts,
};

use crate::arguments::{Arguments, ServiceArgument, Transport};
use crate::check::{self, Command, Opt};
use crate::failure::Failure;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Change(Change),
    List(List),
    Save { numeric: bool },
    Restore,
    LocalAddresses(Option<ServiceId>),
}

/// A change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// One that says all that there is to say.
    Operation(Operation),
    /// An edit of a service, whose other settings stay as they are.
    EditService {
        id: ServiceId,
        scheduler: Scheduler,
        scheduler_flags: Vec<SchedulerFlag>,
        timeout: Option<u32>,
        persistence: Option<Persistence>,
        one_packet: bool,
        local_ports: Option<LocalPorts>,
    },
}

/// What to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Table(Format, Option<ServiceId>),
    Connections(Format),
    Timeouts,
    Daemons,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    pub numeric: bool,
    pub no_sort: bool,
    pub exact: bool,
    /// `-c --persistent-conn` prints persistence engines.
    pub persistence_engine: bool,
    pub view: View,
}

/// Which columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    #[default]
    Table,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunInfo,
}

/// Checks what a command line says as a whole.
pub(crate) fn action(arguments: Arguments) -> Result<Action, Failure> {
    check::options(arguments.command, arguments.options)?;
    match arguments.command {
        Command::AddService | Command::EditService => service(&arguments).map(Action::Change),
        Command::AddServer | Command::EditServer => server(&arguments).map(operation),
        Command::DeleteService => {
            let service = service_id(&arguments)?;
            Ok(operation(Operation::DeleteService { service }))
        }
        Command::DeleteServer => {
            let service = service_id(&arguments)?;
            let server = server_address(&arguments, service)?;
            Ok(operation(Operation::DeleteServer { service, server }))
        }
        Command::AddLocalAddress | Command::DeleteLocalAddress => local_address(arguments).map(operation),
        Command::GetLocalAddress => optional_service(&arguments).map(Action::LocalAddresses),
        Command::Clear => Ok(operation(Operation::Clear)),
        Command::Zero => {
            let service = optional_service(&arguments)?;
            Ok(operation(Operation::Zero { service }))
        }
        Command::Set => {
            let [tcp, tcp_fin, udp] = arguments.timeouts;
            Ok(operation(Operation::SetTimeouts { timeouts: Timeouts { tcp, tcp_fin, udp } }))
        }
        Command::List => list(&arguments).map(Action::List),
        Command::Save => Ok(Action::Save { numeric: arguments.options.has(Opt::Numeric) }),
        Command::Restore => Ok(Action::Restore),
        Command::StartDaemon | Command::StopDaemon => Err(Failure::unsupported("connection synchronization daemons")),
    }
}

fn operation(operation: Operation) -> Action {
    Action::Change(Change::Operation(operation))
}

/// The service of a command that needs one.
fn service_id(arguments: &Arguments) -> Result<ServiceId, Failure> {
    // Whether there is one is checked before.
    match arguments.service {
        Some(ServiceArgument::Address(Transport::Tcp, address)) => {
            Ok(ServiceId::Address { protocol: Protocol::Tcp, address })
        }
        Some(ServiceArgument::Address(Transport::Udp, address)) => {
            Ok(ServiceId::Address { protocol: Protocol::Udp, address })
        }
        Some(ServiceArgument::Address(Transport::Sctp, address)) => {
            Ok(ServiceId::Address { protocol: Protocol::Sctp, address })
        }
        Some(ServiceArgument::Fwmark(mark, family)) => Ok(ServiceId::Fwmark { mark, family }),
        None => Err(Failure::usage("illegal virtual server address[:port] specified")),
    }
}

fn optional_service(arguments: &Arguments) -> Result<Option<ServiceId>, Failure> {
    arguments.service.map(|_| service_id(arguments)).transpose()
}

fn service(arguments: &Arguments) -> Result<Change, Failure> {
    let options = arguments.options;
    if let Some(ServiceArgument::Address(transport, address)) = arguments.service {
        if address.port() == 0 && !options.has(Opt::Persistent) {
            return Err(Failure::usage("Zero port specified for non-persistent service"));
        }
        if options.has(Opt::OnePacket) && transport != Transport::Udp {
            return Err(Failure::usage("One-Packet Scheduling is only for UDP virtual services"));
        }
    }
    let id = service_id(arguments)?;
    if options.has(Opt::SynProxy) {
        return Err(Failure::unsupported("the SYN proxy (-j)"));
    }
    let engine = match arguments.engine.as_deref() {
        None | Some("") => None,
        Some("sip") => Some(Engine::Sip),
        Some(name) => return Err(Failure::no_engine(name)),
    };
    if engine.is_some() && !options.has(Opt::Persistent) {
        return Err(Failure::refused("dpvsd: a persistence engine (--pe) is of no use without persistence (-p)"));
    }
    let persistence = options.has(Opt::Persistent).then_some(Persistence { engine, ..arguments.persistence });
    let scheduler = match arguments.scheduler.as_deref() {
        None | Some("") => Scheduler::default(),
        Some(name) => Scheduler::ALL
            .into_iter()
            .find(|scheduler| scheduler.name() == name)
            .ok_or_else(|| Failure::no_scheduler(name))?,
    };
    let scheduler_flags = arguments.scheduler_flags.clone();
    let (timeout, local_ports) = (arguments.conn_timeout, arguments.local_ports);
    let one_packet = options.has(Opt::OnePacket);
    if arguments.command == Command::EditService {
        return Ok(Change::EditService {
            id,
            scheduler,
            scheduler_flags,
            timeout,
            persistence,
            one_packet,
            local_ports,
        });
    }
    let local_ports = local_ports.unwrap_or_default();
    let settings = ServiceSettings {
        scheduler,
        scheduler_flags,
        timeout,
        persistence,
        one_packet,
        local_ports,
        ..ServiceSettings::default()
    };
    Ok(Change::Operation(Operation::AddService { service: Service { settings, ..Service::new(id) } }))
}

/// Address and port of the server; the port is the service's if not given, and always in DR and TUN modes, where the
/// packet's port is not translated.
fn server_address(arguments: &Arguments, service: ServiceId) -> Result<SocketAddr, Failure> {
    let (address, l4_port) =
        arguments.server.ok_or_else(|| Failure::usage("illegal real server address[:port] specified"))?;
    let is_untranslated = arguments.command != Command::DeleteServer
        && matches!(arguments.mode, ForwardMode::Dr | ForwardMode::Tun)
        && service.address().is_some();
    let l4_port = l4_port.filter(|_| !is_untranslated).unwrap_or(service.port());
    Ok(SocketAddr::new(address, l4_port))
}

fn server(arguments: &Arguments) -> Result<Operation, Failure> {
    let is_tunnel = arguments.mode == ForwardMode::Tun;
    if let (Some(service), Some((server, _))) = (arguments.service, arguments.server) {
        let family = match service {
            ServiceArgument::Address(_, address) => Family::of(address.ip()),
            ServiceArgument::Fwmark(_, family) => family,
        };
        // dpvsd itself says which families FULLNAT can join.
        let may_differ = is_tunnel || arguments.mode == ForwardMode::Fullnat;
        if family != Family::of(server) && !may_differ {
            return Err(Failure::usage("Different address family is allowed only for tunneling servers"));
        }
    }
    let tunnel = check::tunnel(arguments.tun_type, arguments.tun_port, is_tunnel, arguments.options)?;
    let service = service_id(arguments)?;
    let server = Server {
        tunnel,
        weight: arguments.weight,
        upper_threshold: arguments.upper_threshold,
        lower_threshold: arguments.lower_threshold,
        ..Server::new(server_address(arguments, service)?, arguments.mode)
    };
    Ok(match arguments.command {
        Command::AddServer => Operation::AddServer { service, server },
        _ => Operation::EditServer { service, server },
    })
}

fn local_address(arguments: Arguments) -> Result<Operation, Failure> {
    let service = service_id(&arguments)?;
    let local_address = arguments.local_address.ok_or_else(|| Failure::usage("illegal local address specified"))?;
    Ok(match arguments.command {
        Command::AddLocalAddress => {
            Operation::AddLocalAddress { service, local_address, interface: arguments.interface }
        }
        _ => Operation::DeleteLocalAddress { service, local_address },
    })
}

fn list(arguments: &Arguments) -> Result<List, Failure> {
    let options = arguments.options;
    // Of several views the first here wins.
    let view = [
        (Opt::Stats, View::Stats),
        (Opt::Rate, View::Rate),
        (Opt::Thresholds, View::Thresholds),
        (Opt::PersistentConn, View::PersistentConn),
        (Opt::TunInfo, View::TunInfo),
    ]
    .into_iter()
    .find_map(|(option, view)| options.has(option).then_some(view));
    let format = Format {
        numeric: options.has(Opt::Numeric),
        no_sort: options.has(Opt::NoSort),
        exact: options.has(Opt::Exact),
        persistence_engine: options.has(Opt::PersistentConn),
        view: view.unwrap_or_default(),
    };
    Ok(if options.has(Opt::Connection) {
        List::Connections(format)
    } else if options.has(Opt::Timeout) {
        List::Timeouts
    } else if options.has(Opt::Daemon) {
        List::Daemons
    } else {
        List::Table(format, optional_service(arguments)?)
    })
}
