//! Carries out commands.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dpvs_api::{ApiError, ConfigError, ErrorKind, Operation, ServiceId, ServiceStatus, Sysctls, Timeouts};
use dpvs_client::{Client, ClientError};
use dpvs_host::BindError;
use serde::Serialize;

use crate::cli::{self, Cli, Command, ConnectionFilters, LocalAddresses, Marks, Servers, Services, TimeoutsCommand};
use crate::{change, config, event, import, machine, show};

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    /// The daemon refused or does not answer.
    Client(ClientError),
    /// The result could not be printed.
    Output(io::Error),
    /// A file cannot be used.
    File(PathBuf, String),
    /// A configuration is wrong.
    Config(Vec<ConfigError>),
    /// Another program has said why.
    Said(u8),
    /// A network card was not bound.
    Bind(BindError),
    /// The machine has so many problems, which were printed.
    Problems(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Client(error) => error.fmt(f),
            Error::Output(error) => write!(f, "standard output: {error}"),
            Error::Config(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Error::Said(status) => write!(f, "exit status {status}"),
            Error::File(path, reason) => write!(f, "{}: {reason}", path.display()),
            Error::Bind(error) => error.fmt(f),
            Error::Problems(1) => f.write_str("1 problem, as said above"),
            Error::Problems(number) => write!(f, "{number} problems, as said above"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        Error::Client(error)
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Error::Client(error.into())
    }
}

impl From<BindError> for Error {
    fn from(error: BindError) -> Self {
        Error::Bind(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Output(error)
    }
}

/// Carries out a command line.
pub fn run(cli: &Cli, client: &Client, output: &mut dyn Write) -> Result<(), Error> {
    match &cli.command {
        Command::Status => print(cli, output, &client.status()?, show::status),
        Command::Services(command) => services(cli, client, output, command),
        Command::Servers(command) => servers(client, command),
        Command::LocalAddresses(command) => local_addresses(cli, client, output, command),
        Command::Stats { service } => print_services(cli, client, output, *service, show::stats),
        Command::Connections(filters) => connections(cli, client, output, filters),
        Command::Drops { all } => {
            let mut drops = client.drops()?;
            drops.retain(|drop| *all || drop.packets > 0);
            print(cli, output, &drops, |drops| show::drops(drops))
        }
        Command::Workers => print(cli, output, &client.workers()?, |workers| show::workers(workers)),
        Command::Ports => print(cli, output, &client.ports()?, |ports| show::ports(ports)),
        Command::Events { after } => events(cli, client, output, after.as_deref()),
        Command::Marks(command) => marks(cli, client, output, command),
        Command::Timeouts { command: None | Some(TimeoutsCommand::Show) } => {
            print(cli, output, &client.timeouts()?, show::timeouts)
        }
        Command::Timeouts { command: Some(TimeoutsCommand::Set { tcp, tcp_fin, udp }) } => {
            // 0 leaves a timeout as it is.
            let [tcp, tcp_fin, udp] = [tcp, tcp_fin, udp].map(|timeout| timeout.unwrap_or(0));
            apply(client, Operation::SetTimeouts { timeouts: Timeouts { tcp, tcp_fin, udp } })
        }
        Command::Get { name: None } => print(cli, output, &client.sysctls()?, show::sysctls),
        Command::Get { name: Some(name) } => {
            let value = client.sysctls()?.get(name).ok_or_else(|| unknown_setting(name))?;
            print(cli, output, &value, |value| format!("{value}\n"))
        }
        Command::Set { settings } => {
            let invalid = |message| ApiError { kind: ErrorKind::Invalid, message, path: None };
            apply(client, Operation::SetSysctls { values: cli::assignments(settings).map_err(invalid)? })
        }
        Command::Zero { service } => apply(client, Operation::Zero { service: *service }),
        Command::Check { file } => config::check(client, output, file),
        Command::Diff { file } => {
            let changes = client.compare_config(&config::sources(file)?)?;
            print(cli, output, &changes, |changes| config::show(changes, config::Tense::Future))
        }
        Command::Apply { file } => {
            let changes = client.apply_config(&config::sources(file)?)?;
            print(cli, output, &changes, |changes| config::show(changes, config::Tense::Past))
        }
        Command::Export { output: file } => config::export(client, output, file.as_deref()),
        Command::Import { file, format, config_id, strict } => {
            import::import(output, file, *format, config_id.as_deref(), *strict)
        }
        Command::ApplyBatch { file } => Ok(client.apply(&read_operations(file)?)?),
        Command::Doctor(arguments) => machine::doctor(cli.json, output, arguments),
        Command::Nic(command) => machine::nic(cli.json, output, command),
    }
}

/// Why there is nothing to show of a setting.
fn unknown_setting(name: &str) -> ApiError {
    // Any value will do: the name is what is wrong.
    let error = Sysctls::default().set(name, 0).err();
    let message = error.map_or_else(|| format!("dpvsd does not know {name}"), |error| error.to_string());
    ApiError { kind: ErrorKind::NotFound, message, path: None }
}

fn apply(client: &Client, operation: Operation) -> Result<(), Error> {
    Ok(client.apply(&[operation])?)
}

/// Prints a value as JSON or for people.
fn print<T: Serialize>(cli: &Cli, output: &mut dyn Write, value: &T, show: impl Fn(&T) -> String) -> Result<(), Error> {
    print_as(cli.json, output, value, show)
}

/// The same, for commands that see no more of the command line.
pub(crate) fn print_as<T: Serialize>(
    as_json: bool,
    output: &mut dyn Write,
    value: &T,
    show: impl Fn(&T) -> String,
) -> Result<(), Error> {
    let text = if as_json { json(value)? + "\n" } else { show(value) };
    Ok(output.write_all(text.as_bytes())?)
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))
}

/// Prints all services or, as one object in JSON, one.
fn print_services(
    cli: &Cli,
    client: &Client,
    output: &mut dyn Write,
    id: Option<ServiceId>,
    show: impl Fn(&[ServiceStatus]) -> String,
) -> Result<(), Error> {
    match id {
        Some(id) => print(cli, output, &client.service(id)?, |status| show(std::slice::from_ref(status))),
        None => print(cli, output, &client.services()?, |services| show(services)),
    }
}

fn services(cli: &Cli, client: &Client, output: &mut dyn Write, command: &Services) -> Result<(), Error> {
    match command {
        Services::List => print_services(cli, client, output, None, show::services),
        Services::Show { service } => print(cli, output, &client.service(*service)?, show::service),
        Services::Add { service, settings, local_addresses, servers, mode } => {
            apply(client, change::add_service(*service, settings, local_addresses, servers, *mode))
        }
        Services::Edit { service, settings, no_timeout } => {
            let old = client.service(*service)?;
            apply(client, change::edit_service(&old.service, settings, *no_timeout))
        }
        Services::Delete { service } => apply(client, Operation::DeleteService { service: *service }),
        Services::Clear => apply(client, Operation::Clear),
    }
}

fn servers(client: &Client, command: &Servers) -> Result<(), Error> {
    apply(
        client,
        match command {
            Servers::Add { service, server, mode, load } => change::add_server(*service, *server, *mode, load),
            Servers::Edit { service, server, mode, load } => {
                change::edit_server(&client.service(*service)?, *server, *mode, load)?
            }
            Servers::Delete { service, server } => Operation::DeleteServer { service: *service, server: *server },
        },
    )
}

fn local_addresses(cli: &Cli, client: &Client, output: &mut dyn Write, command: &LocalAddresses) -> Result<(), Error> {
    match command {
        LocalAddresses::List { service } => print_services(cli, client, output, *service, show::local_addresses),
        LocalAddresses::Add { service, address, interface } => {
            let (service, local_address, interface) = (*service, *address, interface.clone());
            apply(client, Operation::AddLocalAddress { service, local_address, interface })
        }
        LocalAddresses::Delete { service, address } => {
            apply(client, Operation::DeleteLocalAddress { service: *service, local_address: *address })
        }
    }
}

fn marks(cli: &Cli, client: &Client, output: &mut dyn Write, command: &Marks) -> Result<(), Error> {
    match command {
        Marks::List => print(cli, output, &client.marks()?, |rules| show::marks(rules)),
        Marks::Add { rule, position } => {
            apply(client, Operation::AddMark { rule: change::mark_rule(rule), position: *position })
        }
        Marks::Delete { rule } => apply(client, Operation::DeleteMark { rule: change::mark_rule(rule) }),
        Marks::Clear => apply(client, Operation::SetMarks { rules: Vec::new() }),
    }
}

/// Prints connections as they arrive: there may be millions.
fn connections(cli: &Cli, client: &Client, output: &mut dyn Write, filters: &ConnectionFilters) -> Result<(), Error> {
    let passing = client.connections().filter(|connection| connection.as_ref().map_or(true, |c| filters.pass(c)));
    if !cli.json {
        output.write_all(show::connections_heading().as_bytes())?;
    }
    let mut count = 0;
    for connection in passing.take(filters.limit.unwrap_or(usize::MAX)) {
        let connection = connection?;
        let text = if cli.json {
            let opening = if count == 0 { "[\n" } else { ",\n" };
            format!("{opening}{}", json(&connection)?)
        } else {
            show::connection(&connection)
        };
        output.write_all(text.as_bytes())?;
        count += 1;
    }
    if cli.json {
        output.write_all(if count == 0 { b"[]\n" } else { b"\n]\n" })?;
    }
    Ok(())
}

/// Prints events as they arrive.
fn events(cli: &Cli, client: &Client, output: &mut dyn Write, after: Option<&str>) -> Result<(), Error> {
    for event in client.events(after)? {
        let event = event?;
        let line = match cli.json {
            true => serde_json::to_string(&event).map_err(|error| Error::Output(error.into()))?,
            false => event::line(&event),
        };
        writeln!(output, "{line}")?;
        output.flush()?;
    }
    Ok(())
}

fn read_operations(path: &Path) -> Result<Vec<Operation>, Error> {
    let text = read(path)?;
    serde_json::from_str(&text).map_err(|error| Error::File(path.to_owned(), error.to_string()))
}

/// The text of a file, or of standard input.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Error::File(path.to_owned(), error.to_string()))?;
    Ok(text)
}
