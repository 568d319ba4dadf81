//! Prints connections.

use std::io::{self, Write};

use dpvs_api::{Connection, Protocol};

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

/// Prints one connection. dpvsd has no persistence engines, so the columns for them stay empty, as those of a
/// connection without one do.
pub(crate) fn connection(
    output: &mut dyn Write,
    format: Format,
    connection: &Connection,
    names: &dyn Names,
) -> io::Result<()> {
    let protocol = match connection.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    let expires = format!("{:02}:{:02}", connection.expires / 60, connection.expires % 60);
    let name = |address| endpoint(address, connection.protocol, format.numeric, names);
    let (client, service, server) =
        (name(connection.client), name(connection.virtual_service), name(connection.server));
    let state = &connection.state;
    writeln!(output, "{protocol:<3} {expires:<6} {state:<11} {client:<18} {service:<18} {server}")
}
