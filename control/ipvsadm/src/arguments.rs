//! Reads the options of one command line into values; each is checked as soon as it is met.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dpvs_api::{Family, ForwardMode, LocalPorts, Netmask, Persistence, Protocol, SchedulerFlag, TunnelType};

use crate::address::{endpoint, ipv4, leading_number, number};
use crate::check::{Command, Opt, OptSet};
use crate::failure::{Failure, REFUSED};
use crate::names::Names;
use crate::options::{Options, Tag};

/// 31 days, the longest timeout.
const MAX_TIMEOUT: i64 = 31 * 86400;

/// The service that a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceArgument {
    /// Protocol, address and port (0 if not given).
    Address(Transport, SocketAddr),
    /// A firewall mark and the family.
    Fwmark(u32, Family),
}

/// Transport protocols of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// The protocol whose service names count.
    fn for_names(self) -> Protocol {
        match self {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Sctp => Protocol::Sctp,
        }
    }
}

/// What a command line says.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    pub command: Command,
    pub options: OptSet,
    pub service: Option<ServiceArgument>,
    pub scheduler: Option<String>,
    pub scheduler_flags: Vec<SchedulerFlag>,
    pub server: Option<(IpAddr, Option<u16>)>,
    pub mode: ForwardMode,
    pub weight: u32,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub tun_type: TunnelType,
    pub tun_port: Option<u16>,
    pub timeouts: [u32; 3],
    pub local_address: Option<IpAddr>,
    pub interface: Option<String>,
    pub conn_timeout: Option<u32>,
    pub persistence: Persistence,
    pub engine: Option<String>,
    pub local_ports: Option<LocalPorts>,
}

/// Outcome of reading a command line.
#[derive(Clone, Debug)]
pub(crate) enum Parsed {
    Help,
    Version,
    Command(Box<Arguments>),
}

/// Reads the words that follow the program's name; at least one.
pub(crate) fn parse(program: &str, words: &[String], names: &dyn Names) -> Result<Parsed, Failure> {
    let try_help = || Failure::refused(format!("Try `{program} -h' or '{program} --help' for more information."));
    let mut options = Options::new(words);
    let Ok(Some((tag, argument))) = options.take() else { return Err(try_help()) };
    let command = match tag {
        Tag::Help => return Ok(Parsed::Help),
        Tag::Version => return Ok(Parsed::Version),
        tag => command(tag, argument.unwrap_or_default())?.ok_or_else(try_help)?,
    };
    if command.is_about_server() {
        options.server_command();
    }
    let mut arguments = Arguments {
        command,
        options: OptSet::default(),
        service: None,
        scheduler: None,
        scheduler_flags: Vec::new(),
        server: None,
        mode: ForwardMode::Dr,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        tun_type: TunnelType::Ipip,
        tun_port: None,
        timeouts: [0; 3],
        local_address: None,
        interface: None,
        conn_timeout: None,
        persistence: Persistence::default(),
        engine: None,
        local_ports: None,
    };
    let mut scheduler_flags = None;
    loop {
        match options.take() {
            Ok(Some((Tag::SchedulerFlags, flags))) => {
                arguments.options.add(Opt::SchedulerFlags)?;
                scheduler_flags = flags;
            }
            Ok(Some((tag, argument))) => {
                let invalid = || Failure::usage(format!("invalid option `{}'", options.culprit()));
                arguments.option(tag, argument, names).unwrap_or_else(|| Err(invalid()))?;
            }
            Ok(None) => break,
            Err(malformed) => {
                let message = format!("{}: {}", options.culprit(), malformed.words());
                return Err(Failure { status: REFUSED, message });
            }
        }
    }
    let mut operands = options.operands().into_iter();
    if command == Command::Set {
        let missing = || Failure::usage("--set option requires 3 timeout values");
        let values: Vec<&str> = operands.by_ref().take(3).collect();
        let values: [&str; 3] = values.try_into().map_err(|_| missing())?;
        for (timeout, value) in arguments.timeouts.iter_mut().zip(values) {
            *timeout = parse_timeout(value, 0)?;
        }
    }
    if let Some(operand) = operands.next() {
        return Err(Failure::usage(format!("unexpected argument {operand}")));
    }
    if let Some(flags) = scheduler_flags {
        arguments.scheduler_flags = parse_scheduler_flags(arguments.scheduler.as_deref().unwrap_or("wlc"), flags)?;
    }
    Ok(Parsed::Command(Box::new(arguments)))
}

/// The command of the first option, `None` if that is no command.
fn command(tag: Tag, argument: &str) -> Result<Option<Command>, Failure> {
    let is_state = matches!(argument, "master" | "backup");
    Ok(Some(match tag {
        Tag::AddService => Command::AddService,
        Tag::EditService => Command::EditService,
        Tag::DeleteService => Command::DeleteService,
        Tag::AddServer => Command::AddServer,
        Tag::EditServer => Command::EditServer,
        Tag::DeleteServer => Command::DeleteServer,
        Tag::Clear => Command::Clear,
        Tag::List => Command::List,
        Tag::Zero => Command::Zero,
        Tag::Set => Command::Set,
        Tag::Restore => Command::Restore,
        Tag::Save => Command::Save,
        Tag::StartDaemon if is_state => Command::StartDaemon,
        Tag::StartDaemon => return Err(Failure::usage("illegal start-daemon parameter specified")),
        Tag::StopDaemon if is_state => Command::StopDaemon,
        Tag::StopDaemon => return Err(Failure::usage("illegal start_daemon specified")),
        Tag::AddLocalAddress => Command::AddLocalAddress,
        Tag::DeleteLocalAddress => Command::DeleteLocalAddress,
        Tag::GetLocalAddress => Command::GetLocalAddress,
        _ => return Ok(None),
    }))
}

impl Arguments {
    /// Takes one option; `None` if it is one that can only stand first.
    fn option(&mut self, tag: Tag, argument: Option<&str>, names: &dyn Names) -> Option<Result<(), Failure>> {
        let text = argument.unwrap_or_default();
        let illegal = |what: &str| Failure::usage(format!("illegal {what} specified"));
        let (option, value) = match tag {
            Tag::Tcp => (Opt::Service, self.service(Transport::Tcp, text, names)),
            Tag::Udp => (Opt::Service, self.service(Transport::Udp, text, names)),
            Tag::Sctp => (Opt::Service, self.service(Transport::Sctp, text, names)),
            Tag::Fwmark => (Opt::Service, self.fwmark(text)),
            Tag::Scheduler => (Opt::Scheduler, set(&mut self.scheduler, Some(text.to_owned()))),
            Tag::Persistent if argument.is_some() => {
                (Opt::Persistent, parse_timeout(text, 1).map(|timeout| self.persistence.timeout = timeout))
            }
            Tag::Persistent => (Opt::Persistent, Ok(())),
            Tag::Netmask => (Opt::Netmask, self.netmask(text, names)),
            Tag::RealServer => (Opt::Server, self.server(text, names)),
            Tag::Masquerading => (Opt::Forward, set(&mut self.mode, ForwardMode::Nat)),
            Tag::Ipip => (Opt::Forward, set(&mut self.mode, ForwardMode::Tun)),
            Tag::Gatewaying => (Opt::Forward, set(&mut self.mode, ForwardMode::Dr)),
            Tag::Fullnat => (Opt::Forward, set(&mut self.mode, ForwardMode::Fullnat)),
            Tag::Weight => (Opt::Weight, store(&mut self.weight, text, "weight")),
            Tag::UpperThreshold => (Opt::UpperThreshold, store(&mut self.upper_threshold, text, "u_threshold")),
            Tag::LowerThreshold => (Opt::LowerThreshold, store(&mut self.lower_threshold, text, "l_threshold")),
            Tag::Numeric => (Opt::Numeric, Ok(())),
            Tag::Connection => (Opt::Connection, Ok(())),
            Tag::McastInterface => (Opt::McastInterface, Ok(())),
            Tag::SyncId => (Opt::SyncId, in_range(text, 0, 255, "syncid")),
            Tag::Timeout => (Opt::Timeout, Ok(())),
            Tag::Daemon => (Opt::Daemon, Ok(())),
            Tag::Stats => (Opt::Stats, Ok(())),
            Tag::Rate => (Opt::Rate, Ok(())),
            Tag::Thresholds => (Opt::Thresholds, Ok(())),
            Tag::PersistentConn => (Opt::PersistentConn, Ok(())),
            Tag::NoSort => (Opt::NoSort, Ok(())),
            Tag::Sort => return Some(Ok(())),
            Tag::Exact => (Opt::Exact, Ok(())),
            // The real one ends this message with a newline of its own.
            Tag::Ipv6 => match &mut self.service {
                Some(ServiceArgument::Fwmark(_, family)) => {
                    *family = Family::Inet6;
                    return Some(Ok(()));
                }
                _ => return Some(Err(Failure::usage("-6 used before -f\n"))),
            },
            Tag::OnePacket => (Opt::OnePacket, Ok(())),
            Tag::PersistenceEngine => (Opt::PersistenceEngine, set(&mut self.engine, Some(text.to_owned()))),
            Tag::McastGroup => (Opt::McastGroup, mcast_group(text)),
            Tag::McastPort => (Opt::McastPort, in_range(text, 1, 65535, "mcast-port")),
            Tag::McastTtl => (Opt::McastTtl, in_range(text, 1, 255, "mcast-ttl")),
            Tag::SyncMaxlen => (Opt::SyncMaxlen, in_range(text, 1, 65535 - 20 - 8, "sync-maxlen")),
            Tag::TunInfo => (Opt::TunInfo, Ok(())),
            Tag::TunType => {
                let tun_type = TunnelType::ALL
                    .into_iter()
                    .find(|tunnel| tunnel.name() == text)
                    .ok_or_else(|| illegal("tunnel type"));
                (Opt::TunType, tun_type.map(|tun_type| self.tun_type = tun_type))
            }
            Tag::TunPort => {
                let port = number(text, 1, 65535).and_then(|port| u16::try_from(port).ok());
                (Opt::TunPort, port.ok_or_else(|| illegal("tunnel port")).map(|port| self.tun_port = Some(port)))
            }
            Tag::TunNoCsum => (Opt::TunNoCsum, Ok(())),
            Tag::TunCsum => (Opt::TunCsum, Ok(())),
            Tag::TunRemCsum => (Opt::TunRemCsum, Ok(())),
            Tag::LocalAddress => {
                let address = text.parse().map_err(|_| illegal("local address"));
                (Opt::LocalAddress, address.map(|address| self.local_address = Some(address)))
            }
            Tag::Interface => (Opt::Interface, set(&mut self.interface, Some(text.to_owned()))),
            Tag::SynProxy if matches!(text, "enable" | "disable") => (Opt::SynProxy, Ok(())),
            Tag::SynProxy => (Opt::SynProxy, Err(illegal("synproxy state (enable or disable)"))),
            Tag::ConnTimeout => {
                (Opt::ConnTimeout, parse_timeout(text, 1).map(|timeout| self.conn_timeout = Some(timeout)))
            }
            Tag::LocalPorts => (Opt::LocalPorts, local_ports(text).map(|ports| self.local_ports = Some(ports))),
            _ => return None,
        };
        Some(self.options.add(option).and(value))
    }

    fn service(&mut self, transport: Transport, text: &str, names: &dyn Names) -> Result<(), Failure> {
        let illegal = || Failure::usage("illegal virtual server address[:port] specified");
        let (address, l4_port) = endpoint(text, transport.for_names(), names).ok_or_else(illegal)?;
        // A second service is refused by the caller; the first counts until then.
        let address = SocketAddr::new(address, l4_port.unwrap_or(0));
        self.service.get_or_insert(ServiceArgument::Address(transport, address));
        Ok(())
    }

    fn fwmark(&mut self, text: &str) -> Result<(), Failure> {
        let mark = number(text, 1, i64::from(u32::MAX)).and_then(|mark| u32::try_from(mark).ok());
        let mark = mark.ok_or_else(|| Failure::usage(format!("invalid fwmark value `{text}' specified")))?;
        self.service.get_or_insert(ServiceArgument::Fwmark(mark, Family::Inet));
        Ok(())
    }

    fn server(&mut self, text: &str, names: &dyn Names) -> Result<(), Failure> {
        let transport = match self.service {
            Some(ServiceArgument::Address(transport, _)) => transport,
            _ => Transport::Tcp,
        };
        let server = endpoint(text, transport.for_names(), names);
        self.server = Some(server.ok_or_else(|| Failure::usage("illegal real server address[:port] specified"))?);
        Ok(())
    }

    fn netmask(&mut self, text: &str, names: &dyn Names) -> Result<(), Failure> {
        let is_ipv6 = match self.service {
            Some(ServiceArgument::Address(_, address)) => address.is_ipv6(),
            Some(ServiceArgument::Fwmark(_, family)) => family == Family::Inet6,
            None => false,
        };
        if is_ipv6 {
            return match leading_number(text) {
                length @ 1..=128 => {
                    // One client each is how it is without.
                    self.persistence.netmask = (length < 128).then_some(Netmask::Prefix(length as u8));
                    Ok(())
                }
                _ => Err(Failure::usage("illegal ipv6 netmask specified")),
            };
        }
        match ipv4(text).or_else(|| names.address_of(text)) {
            Some(mask) => {
                self.persistence.netmask = Some(mask).filter(|mask| *mask != Ipv4Addr::BROADCAST).map(Netmask::Mask);
                Ok(())
            }
            None => Err(Failure::usage("illegal virtual server persistent mask specified")),
        }
    }
}

fn set<T>(place: &mut T, value: T) -> Result<(), Failure> {
    *place = value;
    Ok(())
}

fn store(place: &mut u32, text: &str, what: &str) -> Result<(), Failure> {
    let value = number(text, 0, i64::from(i32::MAX)).and_then(|value| u32::try_from(value).ok());
    *place = value.ok_or_else(|| Failure::usage(format!("illegal {what} specified")))?;
    Ok(())
}

fn in_range(text: &str, min: i64, max: i64, what: &str) -> Result<(), Failure> {
    number(text, min, max).map(|_| ()).ok_or_else(|| Failure::usage(format!("illegal {what} specified")))
}

fn parse_timeout(text: &str, min: i64) -> Result<u32, Failure> {
    let timeout = number(text, min, MAX_TIMEOUT).and_then(|value| u32::try_from(value).ok());
    timeout.ok_or_else(|| Failure::usage(format!("invalid timeout value `{text}' specified")))
}

fn mcast_group(text: &str) -> Result<(), Failure> {
    let (family, address) = if text.contains(':') {
        ("IPv6", text.parse().map(IpAddr::V6))
    } else {
        ("IPv4", text.parse().map(IpAddr::V4))
    };
    if address.is_ok_and(|address| address.is_multicast()) {
        return Ok(());
    }
    Err(Failure::usage(format!("invalid {family} mcast-group `{text}'")))
}

/// `FIRST-LAST`.
fn local_ports(text: &str) -> Result<LocalPorts, Failure> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let port = |text| number(text, 1, 65535).and_then(|value| u16::try_from(value).ok());
        Some(LocalPorts { first: port(first)?, last: port(last)? })
    });
    range.filter(|ports| ports.first <= ports.last).ok_or_else(|| {
        Failure::usage(format!("illegal local ports `{text}' specified: write FIRST-LAST, e.g. 1025-65535"))
    })
}

/// Reads scheduler flags. The three numbered ones have names of their own with some schedulers.
fn parse_scheduler_flags(scheduler: &str, text: &str) -> Result<Vec<SchedulerFlag>, Failure> {
    use SchedulerFlag::{ConhashQid, Flag1, Flag2, Flag3, MhFallback, MhPort, ShFallback, ShPort};
    let mut flags = Vec::new();
    for name in text.split(',').filter(|name| !name.is_empty()) {
        let flag = SchedulerFlag::ALL.into_iter().find(|flag| flag.name() == name);
        let flag = match (flag, scheduler) {
            (None, _) => return Err(Failure::usage(format!("invalid scheduler flag `{name}'"))),
            (Some(Flag1), "sh") => ShFallback,
            (Some(Flag2), "sh") => ShPort,
            (Some(Flag1), "mh") => MhFallback,
            (Some(Flag2), "mh") => MhPort,
            // Means nothing to them, and the real one does not list it.
            (Some(Flag3), "sh" | "mh") => continue,
            (Some(flag @ (ShFallback | ShPort)), "sh") => flag,
            (Some(flag @ (MhFallback | MhPort)), "mh") => flag,
            (Some(flag @ ConhashQid), "conhash") | (Some(flag @ (Flag1 | Flag2 | Flag3)), _) => flag,
            _ => return Err(Failure::usage(format!("incompatible scheduler flag `{name}'"))),
        };
        if !flags.contains(&flag) {
            flags.push(flag);
        }
    }
    flags.sort_unstable();
    Ok(flags)
}
