//! Prints connections.

use std::io::{self, Write};

use dpvs_api::{Connection, Engine, Protocol};

use crate::command::Format;
use crate::list::endpoint;
use crate::names::Names;

/// Prints the title of the listing.
pub(crate) fn title(output: &mut dyn Write, format: Format) -> io::Result<()> {
    writeln!(output, "IPVS connection entries")?;
    write!(output, "pro expire {:<11} {:<18} {:<18} ", "state", "source", "virtual")?;
    if format.persistence_engine {
        writeln!(output, "{:<18} {:<16} pe_data", "destination", "pe name")
    } else {
        writeln!(output, "destination")
    }
}

/// Prints one connection. Only templates of a persistence engine have something in its columns.
pub(crate) fn connection(
    output: &mut dyn Write,
    format: Format,
    connection: &Connection,
    names: &dyn Names,
) -> io::Result<()> {
    let protocol = match connection.protocol {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        Some(Protocol::Sctp) => "SCTP",
        None => "IP",
    };
    let expires = format!("{:02}:{:02}", connection.expires / 60, connection.expires % 60);
    let name = |address| endpoint(address, connection.protocol, format.numeric, names);
    let (client, service, server) =
        (name(connection.client), name(connection.virtual_service), name(connection.server));
    let state = &connection.state;
    write!(output, "{protocol:<3} {expires:<6} {state:<11} {client:<18} {service:<18} ")?;
    match &connection.call_id {
        Some(call_id) if format.persistence_engine => {
            writeln!(output, "{server:<18} {:<18} {call_id}", Engine::Sip.name())
        }
        _ => writeln!(output, "{server}"),
    }
}
