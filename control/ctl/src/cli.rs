//! The grammar.

mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dpvs_api::{
    ForwardMode, Health, LocalPorts, Netmask, Network, PortRange, Protocol, Scheduler, ServerHealth, ServiceId,
    TunnelChecksum, TunnelType,
};

pub(crate) use self::values::{EngineChoice, FromFile, SchedulerFlags, Sorry, Told, assignments};
use self::values::{
    client_address, forward_mode, from_file, local_ports, persistence_engine, protocol, scheduler, scheduler_flags,
    setting, socket_address, sorry_server, tunnel_checksum, tunnel_type,
};
use crate::filter::Endpoint;
use crate::machine::{Doctor, NicCommand};

const CONFIG_HELP: &str = "\
Examples:
  dpvs-ctl diff /etc/dpvs/dpvsd.toml
  dpvs-ctl apply /etc/dpvs/dpvsd.toml
  VIP=192.0.2.10 dpvs-ctl --json diff dpvsd.toml | jq '.operations[].op'

Environment variables in the file are those of this command.";

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// keepalived.conf
    Keepalived,
    /// Output of 'ipvsadm -S'
    Ipvsadm,
}

/// Controls and observes dpvsd, the layer-4 load balancer.
#[derive(Debug, Parser)]
#[command(
    name = "dpvs-ctl",
    version,
    infer_subcommands = true,
    after_help = "\
Services are written PROTOCOL/ADDRESS:PORT, e.g. tcp/192.0.2.10:80 or udp/[2001:db8::1]:53; those for a firewall mark
fwmark/MARK, or fwmark/MARK/inet6.

Examples:
  dpvs-ctl status
  dpvs-ctl services add tcp/192.0.2.10:80 --scheduler wlc --mode nat --server 10.0.0.1:8080 --server 10.0.0.2:8080
  dpvs-ctl servers edit tcp/192.0.2.10:80 10.0.0.1:8080 --weight 0
  dpvs-ctl connections --server 10.0.0.1
  dpvs-ctl drops
  dpvs-ctl apply /etc/dpvs/dpvsd.toml
  dpvs-ctl --json services list | jq '.[].address'

Exit status: 0 done, 1 the daemon refused or does not answer, 2 wrong usage."
)]
pub struct Cli {
    /// Socket of dpvsd [default: $DPVS_SOCKET, else /run/dpvs/dpvsd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon as a whole: version, configuration, table usage
    Status,
    /// Virtual services
    #[command(subcommand)]
    Services(Services),
    /// Real servers of a service
    #[command(subcommand)]
    Servers(Servers),
    /// Source addresses of a service's FULLNAT connections
    #[command(subcommand)]
    LocalAddresses(LocalAddresses),
    /// Traffic of services and servers: totals, rates, and connections that could not be made
    Stats {
        /// Only this service
        service: Option<ServiceId>,
    },
    /// Tracked connections
    Connections(ConnectionFilters),
    /// Packets dropped, by reason
    Drops {
        /// Also the reasons that never occurred
        #[arg(long)]
        all: bool,
    },
    /// What each worker did
    Workers,
    /// DPDK ports and their counters
    Ports,
    /// What happens, as it happens: changes and who made them, health of servers, workers in trouble
    #[command(after_help = "\
Examples:
  dpvs-ctl events
  dpvs-ctl --json events --after 5f3a9c01.17 | jq 'select(.event == \"server-health\")'

It goes on until the daemon ends. With --json, each line is an event.")]
    Events {
        /// Go on after the event with this id, of which the daemon keeps the last 1024
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// Rules that give packets firewall marks, for services fwmark/MARK; the first that matches counts
    #[command(subcommand)]
    Marks(Marks),
    /// Connection timeouts
    Timeouts {
        /// What to do; shows them if absent
        #[command(subcommand)]
        command: Option<TimeoutsCommand>,
    },
    /// Run-time settings, by the names of IPVS's sysctls
    Get {
        /// Only this one
        #[arg(value_parser = setting)]
        name: Option<String>,
    },
    /// Set run-time settings: name and value, or several NAME=VALUE
    #[command(after_help = "\
Examples:
  dpvs-ctl set expire_nodest_conn 1
  dpvs-ctl set net.ipv4.vs.conn_reuse_mode=0 sloppy_tcp=1

A setting lasts until the daemon ends; [sysctl] in the configuration file keeps it.")]
    Set {
        /// NAME VALUE, or NAME=VALUE; repeat NAME=VALUE for more
        #[arg(required = true, value_name = "NAME VALUE")]
        settings: Vec<String>,
    },
    /// Set traffic counters to zero
    Zero {
        /// Only those of this service and its servers
        service: Option<ServiceId>,
    },
    /// Check a configuration file and say all that is wrong with it
    Check {
        /// The file; '-' is standard input
        file: PathBuf,
    },
    /// What 'apply' would change
    #[command(after_help = CONFIG_HELP)]
    Diff {
        /// The file; '-' is standard input
        file: PathBuf,
    },
    /// Make the running daemon as a configuration file says, all or nothing
    ///
    /// Only what differs is touched: connections and counters of everything else go on. What runs and is not in the file
    /// goes, what came over the API or by ipvsadm included.
    #[command(after_help = CONFIG_HELP)]
    Apply {
        /// The file; '-' is standard input
        file: PathBuf,
    },
    /// What runs as a configuration file, changes over the API and by ipvsadm included
    #[command(after_help = "\
Example, to keep what was changed while it ran:
  dpvs-ctl export --output /etc/dpvs/dpvsd.toml

Included files become part of the one file, environment variables and comments are gone.")]
    Export {
        /// Write it to this file, whole or not at all, in place of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Translate a configuration of keepalived, or the output of 'ipvsadm -S', and print it
    #[command(after_help = "\
Examples:
  dpvs-ctl import /etc/keepalived/keepalived.conf >/etc/dpvs/conf.d/services.toml
  ipvsadm -S -n | dpvs-ctl import -

What has no translation is named on standard error, with file and line.")]
    Import {
        /// The file; '-' is standard input
        file: PathBuf,
        /// What it is [default: seen from what it says]
        #[arg(long, value_enum)]
        format: Option<ImportFormat>,
        /// Which lines behind '@ID' hold, as 'keepalived -i' says [default: the host's name up to its first dot]
        #[arg(long, value_name = "ID")]
        config_id: Option<String>,
        /// Fail if anything has no translation
        #[arg(long)]
        strict: bool,
    },
    /// Apply a file of operations, all or none
    ///
    /// The file holds a JSON array of the API's operations, e.g.
    /// [{"op": "clear"}, {"op": "add-service", "service": {...}}].
    ApplyBatch {
        /// The file; '-' is standard input
        file: PathBuf,
    },
    /// Examine this machine: huge pages, cores, network cards, kernel; with remedies. Needs no daemon
    Doctor(Doctor),
    /// Network cards and their drivers. Needs no daemon
    #[command(subcommand)]
    Nic(NicCommand),
}

/// Commands about services.
#[derive(Debug, Subcommand)]
pub enum Services {
    /// All services, one a line
    List,
    /// One service with its servers
    Show {
        /// The service
        service: ServiceId,
    },
    /// Add a service, with its servers if any are given: they take traffic together
    #[command(after_help = "\
Examples:
  dpvs-ctl services add udp/192.0.2.10:53 --scheduler rr
  dpvs-ctl services add tcp/192.0.2.10:80 --mode fullnat --local-address 10.0.0.200 --server 10.0.0.1:8080
  echo \"checks = [{ probe = { http = { path = '/' } } }]\" | dpvs-ctl services add tcp/192.0.2.10:80 --health -")]
    Add {
        /// The service
        service: ServiceId,
        /// Settings of the service
        #[command(flatten)]
        settings: Settings,
        /// Source address for FULLNAT; repeat for more
        #[arg(long = "local-address", value_name = "ADDRESS")]
        local_addresses: Vec<IpAddr>,
        /// A real server, of weight 1; repeat for more
        #[arg(long = "server", value_name = "ADDRESS:PORT", value_parser = socket_address, requires = "mode")]
        servers: Vec<SocketAddr>,
        /// How the servers are reached
        #[arg(long, value_parser = forward_mode())]
        mode: Option<ForwardMode>,
    },
    /// Change settings; those not named stay as they are
    Edit {
        /// The service
        service: ServiceId,
        /// Settings to change
        #[command(flatten)]
        settings: Settings,
        /// Go back to the director's timeout
        #[arg(long, conflicts_with = "timeout")]
        no_timeout: bool,
    },
    /// Delete a service with its servers
    Delete {
        /// The service
        service: ServiceId,
    },
    /// Delete all services
    Clear,
}

/// Settings of a service.
#[derive(Debug, Args)]
pub struct Settings {
    /// Scheduling method [default of a new service: wlc]
    #[arg(short, long, value_parser = scheduler())]
    pub scheduler: Option<Scheduler>,
    /// Options of the scheduling method, with commas between them; "none" takes them away
    #[arg(long, value_name = "FLAG,...", value_parser = scheduler_flags)]
    pub scheduler_flags: Option<SchedulerFlags>,
    /// Timeout of established connections, in seconds [default of a new service: the director's]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// Schedule every UDP datagram by itself, and keep no connection [default of a new service: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub one_packet: Option<bool>,
    /// A client's next connections go to the server of its first, for so many seconds; 0 takes persistence away
    #[arg(long, value_name = "SECONDS")]
    pub persistent: Option<u32>,
    /// Persistent clients that agree in this go to the same server: 255.255.255.0, or the length of a prefix
    #[arg(long, value_name = "MASK")]
    pub netmask: Option<Netmask>,
    /// What tells persistent clients apart besides: "sip" (the Call-ID), "none"
    #[arg(long, value_name = "ENGINE", value_parser = persistence_engine())]
    pub persistence_engine: Option<EngineChoice>,
    /// Ports used on each local address [default of a new service: 1025-65535]
    #[arg(long, value_name = "FIRST-LAST", value_parser = local_ports)]
    pub local_ports: Option<LocalPorts>,
    /// How servers in mode fullnat learn the clients' addresses [default of a new service: none]
    #[arg(long, value_name = "HOW", value_parser = client_address())]
    pub client_address: Option<Told>,
    /// Takes new connections while no server does; "none" takes it away
    #[arg(long, value_name = "MODE/ADDRESS:PORT", value_parser = sorry_server)]
    pub sorry_server: Option<Sorry>,
    /// How servers are checked: a file with what [services.health] has in the configuration file; '-' is standard input,
    /// "none" takes the checks away
    #[arg(long, value_name = "FILE", value_parser = from_file::<Health>)]
    pub health: Option<FromFile<Health>>,
}

/// Commands about servers.
#[derive(Debug, Subcommand)]
pub enum Servers {
    /// Add a server
    #[command(after_help = "\
Example:
  dpvs-ctl servers add tcp/192.0.2.10:80 10.0.0.3:8080 --mode nat --weight 2
  dpvs-ctl servers add tcp/192.0.2.10:80 [2001:db8::3]:80 --mode tun --tunnel gue --tunnel-port 6080")]
    Add {
        /// The service
        service: ServiceId,
        /// Address and port of the server
        #[arg(value_parser = socket_address)]
        server: SocketAddr,
        /// How it is reached
        #[arg(long, value_parser = forward_mode())]
        mode: ForwardMode,
        /// Weight and thresholds
        #[command(flatten)]
        load: Load,
    },
    /// Change a server; what is not named stays as it is
    #[command(after_help = "\
Example, to drain a server (existing connections go on):
  dpvs-ctl servers edit tcp/192.0.2.10:80 10.0.0.3:8080 --weight 0")]
    Edit {
        /// The service
        service: ServiceId,
        /// Address and port of the server
        #[arg(value_parser = socket_address)]
        server: SocketAddr,
        /// How it is reached
        #[arg(long, value_parser = forward_mode())]
        mode: Option<ForwardMode>,
        /// Weight and thresholds
        #[command(flatten)]
        load: Load,
    },
    /// Delete a server; packets of its connections are dropped from then on
    Delete {
        /// The service
        service: ServiceId,
        /// Address and port of the server
        #[arg(value_parser = socket_address)]
        server: SocketAddr,
    },
}

/// What a server takes.
#[derive(Debug, Args)]
pub struct Load {
    /// Share of new connections, 0 to 65535 [default of a new server: 1]
    #[arg(short, long)]
    pub weight: Option<u32>,
    /// Number of connections at which new ones stop; 0: no limit [default of a new server: 0]
    #[arg(long, value_name = "CONNECTIONS")]
    pub upper_threshold: Option<u32>,
    /// Number of connections below which they resume; 0: three quarters of the upper one [default of a new server: 0]
    #[arg(long, value_name = "CONNECTIONS")]
    pub lower_threshold: Option<u32>,
    /// How packets are wrapped
    #[command(flatten)]
    pub tunnel: TunnelArguments,
    /// How the server is checked in place of its service's way: a file with what [services.servers.health] has in the
    /// configuration file; '-' is standard input, "none" goes back to the service's way
    #[arg(long, value_name = "FILE", value_parser = from_file::<ServerHealth>)]
    pub health: Option<FromFile<ServerHealth>>,
}

/// How packets to a server in mode tun are wrapped.
#[derive(Debug, Args)]
pub struct TunnelArguments {
    /// Encapsulation in mode tun [default of a new server: ipip]
    #[arg(long, value_name = "TYPE", value_parser = tunnel_type())]
    pub tunnel: Option<TunnelType>,
    /// UDP port at the server; gue only
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub tunnel_port: Option<u16>,
    /// Checksum of the tunnel's header; csum for gue and gre, remcsum for gue [default of a new server: none]
    #[arg(long, value_name = "KIND", value_parser = tunnel_checksum())]
    pub tunnel_checksum: Option<TunnelChecksum>,
}

/// Commands about local addresses.
#[derive(Debug, Subcommand)]
pub enum LocalAddresses {
    /// Local addresses of all services or of one
    List {
        /// Only this service
        service: Option<ServiceId>,
    },
    /// Add a local address
    Add {
        /// The service
        service: ServiceId,
        /// The local address
        address: IpAddr,
        /// Mirror interface that gets the address if the kernel has it nowhere
        #[arg(long)]
        interface: Option<String>,
    },
    /// Delete a local address; its connections go on
    Delete {
        /// The service
        service: ServiceId,
        /// The local address
        address: IpAddr,
    },
}

/// Which connections to list.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dpvs-ctl connections --service tcp/192.0.2.10:80 --client 198.51.100.7
  dpvs-ctl connections --server 10.0.0.1:8080 --limit 20")]
pub struct ConnectionFilters {
    /// Only tcp or udp
    #[arg(long, value_parser = protocol())]
    pub protocol: Option<Protocol>,
    /// Only of this client: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ENDPOINT")]
    pub client: Option<Endpoint>,
    /// Only to this service
    #[arg(long)]
    pub service: Option<ServiceId>,
    /// Only to this real server: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "ENDPOINT")]
    pub server: Option<Endpoint>,
    /// Stop after this many
    #[arg(long, value_name = "CONNECTIONS")]
    pub limit: Option<usize>,
}

/// Commands about firewall marks.
#[derive(Debug, Subcommand)]
pub enum Marks {
    /// All rules, in order
    List,
    /// Add a rule
    #[command(after_help = "\
Example, one service for two addresses and two ports:
  dpvs-ctl marks add 7 --protocol tcp --destination 192.0.2.10 --destination-ports 80
  dpvs-ctl marks add 7 --protocol tcp --destination 192.0.2.11 --destination-ports 443
  dpvs-ctl services add fwmark/7 --mode nat --server 10.0.0.1:0")]
    Add {
        /// The rule
        #[command(flatten)]
        rule: Rule,
        /// How many rules come before it [default: all]
        #[arg(long, value_name = "RULES")]
        position: Option<usize>,
    },
    /// Delete the first rule that is the same
    Delete {
        /// The rule
        #[command(flatten)]
        rule: Rule,
    },
    /// Delete all rules
    Clear,
}

/// A rule: what is not named may be anything.
#[derive(Debug, Args)]
pub struct Rule {
    /// The mark, at least 1
    pub mark: u32,
    /// Transport protocol
    #[arg(long, value_parser = protocol())]
    pub protocol: Option<Protocol>,
    /// Where packets come from
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub source: Option<Network>,
    /// Where packets go to
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub destination: Option<Network>,
    /// Source ports
    #[arg(long, value_name = "PORT[-PORT]")]
    pub source_ports: Option<PortRange>,
    /// Destination ports
    #[arg(long, value_name = "PORT[-PORT]")]
    pub destination_ports: Option<PortRange>,
    /// Name of the DPDK port that packets come in by
    #[arg(long, value_name = "NAME")]
    pub ingress: Option<String>,
}

/// Commands about timeouts.
#[derive(Debug, Subcommand)]
pub enum TimeoutsCommand {
    /// Show them
    Show,
    /// Set them; those not named stay as they are
    #[command(arg_required_else_help = true)]
    Set {
        /// Established TCP connections, in seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        tcp: Option<u32>,
        /// TCP connections after a FIN, in seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        tcp_fin: Option<u32>,
        /// UDP flows, in seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        udp: Option<u32>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_explained() {
        for (line, message) in [
            ("services show 192.0.2.1:80", "write PROTOCOL/ADDRESS:PORT"),
            ("servers add tcp/192.0.2.1:80 10.0.0.1 --mode nat", "write ADDRESS:PORT"),
            ("servers add tcp/192.0.2.1:80 10.0.0.1:80", "--mode <MODE>"),
            ("servers add tcp/192.0.2.1:80 10.0.0.1:80 --mode x", "[possible values: nat, fullnat, dr, tun]"),
            ("servers add tcp/192.0.2.1:80 10.0.0.1:80 --mode tun --tunnel x", "[possible values: ipip, gue, gre]"),
            ("servers edit tcp/192.0.2.1:80 10.0.0.1:80 --tunnel-port 0", "0 is not in 1.."),
            ("services add tcp/192.0.2.1:80 --server 10.0.0.1:80", "--mode <MODE>"),
            ("services add tcp/192.0.2.1:80 --scheduler x", "[possible values: rr, wrr, lc, wlc, sed"),
            ("services add tcp/192.0.2.1:80 --scheduler-flags sh-x", "'sh-x' is no flag; write none or some of sh-"),
            ("services add tcp/192.0.2.1:80 --local-ports 9-8", "write FIRST-LAST"),
            ("services add tcp/192.0.2.1:80 --sorry-server 10.0.0.9:80", "write MODE/ADDRESS:PORT"),
            ("services add tcp/192.0.2.1:80 --sorry-server nta/10.0.0.9:80", "write MODE/ADDRESS:PORT"),
            ("services edit tcp/192.0.2.1:80 --timeout 5 --no-timeout", "cannot be used with"),
            ("connections --client 10.0.0.0/8", "write ADDRESS or ADDRESS:PORT"),
            ("timeouts set --tcp 0", "0 is not in 1.."),
            ("timeouts set", "Usage:"),
            ("set", "Usage:"),
            ("", "Usage:"),
        ] {
            let words = std::iter::once("dpvs-ctl").chain(line.split_whitespace());
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(message), "{line}: {error}");
        }
    }
}
