//! Which option goes with which command.

use dpvs_api::{Tunnel, TunnelChecksum, TunnelType};

use crate::failure::Failure;

/// What the first option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    AddLocalAddress,
    DeleteLocalAddress,
    GetLocalAddress,
}

impl Command {
    /// Its name in messages.
    fn name(self) -> &'static str {
        match self {
            Command::AddService => "add-service",
            Command::EditService => "edit-service",
            Command::DeleteService => "delete-service",
            Command::Clear => "flush",
            Command::List => "list",
            Command::AddServer => "add-server",
            Command::DeleteServer => "delete-server",
            Command::EditServer => "edit-server",
            Command::Set => "set",
            Command::StartDaemon => "start-daemon",
            Command::StopDaemon => "stop-daemon",
            Command::Restore => "restore",
            Command::Save => "save",
            Command::Zero => "zero",
            Command::AddLocalAddress => "add-laddr",
            Command::DeleteLocalAddress => "del-laddr",
            Command::GetLocalAddress => "get-laddr",
        }
    }

    /// True if it changes servers; `-b` means FULLNAT then.
    pub fn is_about_server(self) -> bool {
        matches!(self, Command::AddServer | Command::EditServer | Command::DeleteServer)
    }
}

/// What an option says; several spellings can say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forward,
    Weight,
    UpperThreshold,
    LowerThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    OnePacket,
    PersistenceEngine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    LocalAddress,
    Interface,
    SynProxy,
    ConnTimeout,
    LocalPorts,
}

impl Opt {
    /// All, in the order in which they are checked.
    const ALL: [(Opt, &'static str); 39] = [
        (Opt::Numeric, "numeric"),
        (Opt::Connection, "connection"),
        (Opt::Service, "service-address"),
        (Opt::Scheduler, "scheduler"),
        (Opt::Persistent, "persistent"),
        (Opt::Netmask, "netmask"),
        (Opt::Server, "real-server"),
        (Opt::Forward, "forwarding-method"),
        (Opt::Weight, "weight"),
        (Opt::UpperThreshold, "u-threshold"),
        (Opt::LowerThreshold, "l-threshold"),
        (Opt::McastInterface, "mcast-interface"),
        (Opt::Timeout, "timeout"),
        (Opt::Daemon, "daemon"),
        (Opt::Stats, "stats"),
        (Opt::Rate, "rate"),
        (Opt::Thresholds, "thresholds"),
        (Opt::PersistentConn, "persistent-conn"),
        (Opt::NoSort, "nosort"),
        (Opt::SyncId, "syncid"),
        (Opt::Exact, "exact"),
        (Opt::OnePacket, "ops"),
        (Opt::PersistenceEngine, "pe"),
        (Opt::SchedulerFlags, "sched-flags"),
        (Opt::McastGroup, "mcast-group"),
        (Opt::McastPort, "mcast-port"),
        (Opt::McastTtl, "mcast-ttl"),
        (Opt::SyncMaxlen, "sync-maxlen"),
        (Opt::TunInfo, "tun-info"),
        (Opt::TunType, "tun-type"),
        (Opt::TunPort, "tun-port"),
        (Opt::TunNoCsum, "tun-nocsum"),
        (Opt::TunCsum, "tun-csum"),
        (Opt::TunRemCsum, "tun-remcsum"),
        (Opt::LocalAddress, "laddr"),
        (Opt::Interface, "ifname"),
        (Opt::SynProxy, "synproxy"),
        (Opt::ConnTimeout, "conn-timeout"),
        (Opt::LocalPorts, "local-ports"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A set of options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OptSet(u64);

impl OptSet {
    /// Adds an option, which must not be there yet.
    pub fn add(&mut self, option: Opt) -> Result<(), Failure> {
        if self.has(option) {
            return Err(Failure::usage(format!("multiple '{}' options specified", option.name())));
        }
        self.0 |= 1 << option as u64;
        Ok(())
    }

    pub fn has(self, option: Opt) -> bool {
        self.0 & (1 << option as u64) != 0
    }

    pub fn has_any(self, options: &[Opt]) -> bool {
        options.iter().any(|&option| self.has(option))
    }
}

/// How an option stands to a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Needed,
    Allowed,
    /// At most one of these.
    Exclusive,
    Illegal,
}

fn rule(command: Command, option: Opt) -> Rule {
    use Rule::{Allowed, Exclusive, Illegal, Needed};
    let needed: &[Opt];
    let allowed: &[Opt];
    match command {
        Command::AddService | Command::EditService => {
            needed = &[Opt::Service];
            allowed = &[
                Opt::Scheduler,
                Opt::Persistent,
                Opt::Netmask,
                Opt::OnePacket,
                Opt::PersistenceEngine,
                Opt::SchedulerFlags,
                Opt::SynProxy,
                Opt::ConnTimeout,
                Opt::LocalPorts,
            ];
        }
        Command::DeleteService => (needed, allowed) = (&[Opt::Service], &[]),
        Command::List => {
            if matches!(option, Opt::Connection | Opt::Service | Opt::Timeout | Opt::Daemon) {
                return Exclusive;
            }
            needed = &[];
            // The real one lets a sync id pass; it means nothing here.
            allowed = &[
                Opt::Numeric,
                Opt::Stats,
                Opt::Rate,
                Opt::Thresholds,
                Opt::PersistentConn,
                Opt::NoSort,
                Opt::SyncId,
                Opt::Exact,
                Opt::TunInfo,
            ];
        }
        Command::AddServer | Command::EditServer => {
            needed = &[Opt::Service, Opt::Server];
            allowed = &[
                Opt::Forward,
                Opt::Weight,
                Opt::UpperThreshold,
                Opt::LowerThreshold,
                Opt::TunType,
                Opt::TunPort,
                Opt::TunNoCsum,
                Opt::TunCsum,
                Opt::TunRemCsum,
            ];
        }
        Command::DeleteServer => (needed, allowed) = (&[Opt::Service, Opt::Server], &[]),
        Command::StartDaemon => {
            needed = &[];
            allowed =
                &[Opt::McastInterface, Opt::SyncId, Opt::McastGroup, Opt::McastPort, Opt::McastTtl, Opt::SyncMaxlen];
        }
        Command::StopDaemon => (needed, allowed) = (&[], &[Opt::SyncId]),
        Command::Save => (needed, allowed) = (&[], &[Opt::Numeric]),
        Command::Zero => (needed, allowed) = (&[], &[Opt::Service]),
        Command::Clear | Command::Set | Command::Restore => (needed, allowed) = (&[], &[]),
        Command::AddLocalAddress | Command::DeleteLocalAddress => {
            (needed, allowed) = (&[Opt::Service, Opt::LocalAddress], &[Opt::Interface]);
        }
        Command::GetLocalAddress => (needed, allowed) = (&[], &[Opt::Service, Opt::Numeric]),
    }
    if needed.contains(&option) {
        Needed
    } else if allowed.contains(&option) {
        Allowed
    } else {
        Illegal
    }
}

/// Checks the options of a command.
pub(crate) fn options(command: Command, options: OptSet) -> Result<(), Failure> {
    let mut exclusive: Option<&str> = None;
    let of = command.name();
    for (option, name) in Opt::ALL {
        let message = match (options.has(option), rule(command, option)) {
            (false, Rule::Needed) => format!("You need to supply the '{name}' option for the '{of}' command"),
            (true, Rule::Illegal) => format!("Illegal '{name}' option with the '{of}' command"),
            (true, Rule::Exclusive) => match exclusive.replace(name) {
                None => continue,
                Some(other) => {
                    format!("The option '{name}' conflicts with the '{other}' option in the '{of}' command")
                }
            },
            _ => continue,
        };
        return Err(Failure::usage(message));
    }
    let is_table = [Opt::Stats, Opt::Rate, Opt::Thresholds];
    let conflict = options.has_any(&[Opt::Connection, Opt::Timeout, Opt::Daemon]) && options.has_any(&is_table)
        || options.has_any(&[Opt::Timeout, Opt::Daemon]) && options.has(Opt::PersistentConn);
    if command == Command::List && conflict {
        return Err(Failure::usage("options conflicts in the list command"));
    }
    Ok(())
}

/// The tunnel that the options of a server describe. A tunnel port belongs to GUE, which needs one; of the checksum options one
/// can be given, none for IPIP, not the remote one for GRE.
pub(crate) fn tunnel(
    tunnel: TunnelType,
    port: Option<u16>,
    is_tunnel: bool,
    options: OptSet,
) -> Result<Tunnel, Failure> {
    const CHECKSUMS: [Opt; 3] = [Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum];
    if !is_tunnel {
        let conflict = options.has_any(&[Opt::TunType, Opt::TunPort]) || options.has_any(&CHECKSUMS);
        let failure = Failure::usage("Tunnel options conflict with forward method");
        return if conflict { Err(failure) } else { Ok(Tunnel::default()) };
    }
    let of = tunnel.name();
    match (tunnel, options.has(Opt::TunPort)) {
        (TunnelType::Gue, false) => {
            return Err(Failure::usage(format!("You need to supply the 'tun-port' option for the '{of}' tunnel type")));
        }
        (TunnelType::Ipip | TunnelType::Gre, true) => {
            return Err(Failure::usage(format!("Illegal 'tun-port' option with the '{of}' tunnel type")));
        }
        _ => {}
    }
    let mut chosen: Option<Opt> = None;
    for option in CHECKSUMS.into_iter().filter(|&option| options.has(option)) {
        let name = option.name();
        if tunnel == TunnelType::Ipip || (tunnel == TunnelType::Gre && option == Opt::TunRemCsum) {
            return Err(Failure::usage(format!("Illegal '{name}' option with the '{of}' tunnel type")));
        }
        if let Some(other) = chosen.replace(option) {
            let other = other.name();
            return Err(Failure::usage(format!(
                "The option '{name}' conflicts with the '{other}' option in the '{of}' tunnel type"
            )));
        }
    }
    let checksum = match chosen {
        Some(Opt::TunCsum) => TunnelChecksum::Csum,
        Some(Opt::TunRemCsum) => TunnelChecksum::Remcsum,
        _ => TunnelChecksum::None,
    };
    Ok(Tunnel { kind: tunnel, port, checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_options_is_in_order() {
        for (index, (option, _)) in Opt::ALL.into_iter().enumerate() {
            assert_eq!(option as usize, index);
        }
    }
}
