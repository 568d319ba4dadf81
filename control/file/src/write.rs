//! Makes the text of a configuration.

use std::fmt::Write;
use std::net::SocketAddr;

use dpvs_api::{
    Check, DnsProbe, Family, ForwardMode, GrpcProbe, Health, HttpProbe, Passive, Probe, Server, Service, ServiceId,
    SmtpProbe, TcpProbe, Tls, UdpProbe,
};
use serde::Serialize;
use toml::{Table, Value};

/// The text that is read as `configuration`: a section for each table, `[[name]]` before each item of a list of tables, and
/// everything else in one line. What is as in `defaults` is left out.
pub fn write(configuration: &impl Serialize, defaults: &Table) -> Result<String, toml::ser::Error> {
    let mut table = Table::try_from(configuration)?;
    leave_out(&mut table, defaults);
    let mut text = String::new();
    for (name, value) in &table {
        match value {
            Value::Table(section) if !section.is_empty() => {
                heading(&mut text, &format!("[{name}]"));
                body(&mut text, name, section);
            }
            Value::Table(_) => {}
            Value::Array(items) => list(&mut text, name, items),
            _ => line(&mut text, name, value),
        }
    }
    Ok(text)
}

/// What services and servers have unless their configuration says otherwise, for [`write`].
pub fn service_defaults() -> Result<Table, toml::ser::Error> {
    let server = Server::new(SocketAddr::from(([0, 0, 0, 0], 0)), ForwardMode::Nat);
    let id = ServiceId::Fwmark { mark: 0, family: Family::default() };
    let mut service = Table::try_from(Service { servers: vec![server], ..Service::new(id) })?;
    service.insert("health".to_owned(), health()?);
    if let Some(Value::Array(servers)) = service.get_mut("servers") {
        // There is no default for these.
        for server in servers.iter_mut().filter_map(Value::as_table_mut) {
            server.retain(|name, _| name != "address" && name != "mode");
            let checks = Table::from_iter([("checks".to_owned(), checks()?)]);
            server.insert("health".to_owned(), optional(checks));
        }
    }
    Ok(Table::from_iter([("services".to_owned(), Value::Array(vec![Value::Table(service)]))]))
}

fn health() -> Result<Value, toml::ser::Error> {
    let mut health = Table::try_from(Health::default())?;
    health.insert("checks".to_owned(), checks()?);
    health.insert("passive".to_owned(), optional(Table::try_from(Passive::default())?));
    Ok(optional(health))
}

/// A list of one check.
fn checks() -> Result<Value, toml::ser::Error> {
    let mut check = Table::try_from(Check::new(Probe::Tcp(TcpProbe::default())))?;
    let probes = [
        Probe::Tcp(TcpProbe { tls: Some(Tls::default()), ..TcpProbe::default() }),
        Probe::Http(HttpProbe { tls: Some(Tls::default()), ..HttpProbe::default() }),
        Probe::Dns(DnsProbe::default()),
        Probe::Udp(UdpProbe::default()),
        Probe::Smtp(SmtpProbe::default()),
        Probe::Grpc(GrpcProbe { tls: Some(Tls::default()), ..GrpcProbe::default() }),
    ];
    let mut defaults = Table::new();
    for probe in probes {
        for (name, value) in Table::try_from(probe)? {
            let Value::Table(mut settings) = value else { continue };
            if let Some(Value::Table(tls)) = settings.remove("tls") {
                settings.insert("tls".to_owned(), optional(tls));
            }
            defaults.insert(name, optional(settings));
        }
    }
    check.insert("probe".to_owned(), optional(defaults));
    Ok(Value::Array(vec![Value::Table(check)]))
}

/// The defaults of a table that must be there even if all of it is as these say: nothing has a value without a name.
fn optional(mut defaults: Table) -> Value {
    defaults.insert(String::new(), Value::Boolean(true));
    Value::Table(defaults)
}

/// Lists of tables that are empty unless they are given; a server's own checks are its service's.
const EMPTY: [&str; 4] = ["ports", "marks", "services", "servers"];

/// Removes what is the default, in all tables alike: items of a list of tables have the defaults of the list's first item.
fn leave_out(table: &mut Table, defaults: &Table) {
    table.retain(|name, value| {
        let default = defaults.get(name);
        match (&mut *value, default) {
            (Value::Table(table), Some(Value::Table(defaults))) if !defaults.is_empty() => {
                if table == defaults {
                    return false;
                }
                leave_out(table, defaults);
                true
            }
            (Value::Array(items), Some(Value::Array(defaults))) if defaults.first().is_some_and(Value::is_table) => {
                let Some(Value::Table(defaults)) = defaults.first() else { return true };
                items.iter_mut().filter_map(Value::as_table_mut).for_each(|item| leave_out(item, defaults));
                !items.is_empty() || !EMPTY.contains(&name)
            }
            (value, default) => default != Some(value),
        }
    });
}

fn heading(text: &mut String, heading: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(heading);
    text.push('\n');
}

/// What has a heading of its own within an item of a list: lists of tables, and tables with such lists in them.
fn has_heading(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        Value::Table(table) => table.values().any(has_heading),
        _ => false,
    }
}

fn list(text: &mut String, name: &str, items: &[Value]) {
    for item in items.iter().filter_map(Value::as_table) {
        heading(text, &format!("[[{name}]]"));
        body(text, name, item);
    }
}

fn body(text: &mut String, name: &str, table: &Table) {
    for (key, value) in table.iter().filter(|(_, value)| !has_heading(value)) {
        line(text, key, value);
    }
    for (key, value) in table.iter().filter(|(_, value)| has_heading(value)) {
        let name = format!("{name}.{key}");
        match value {
            Value::Table(table) => {
                // The headings within imply it.
                if table.values().any(|value| !has_heading(value)) {
                    heading(text, &format!("[{name}]"));
                }
                body(text, &name, table);
            }
            value => list(text, &name, value.as_array().map_or(&[], Vec::as_slice)),
        }
    }
}

fn line(text: &mut String, key: &str, value: &Value) {
    let mut value = value.clone();
    escape(&mut value);
    // Writing to a string cannot fail. Names of keys are words.
    let _ = writeln!(text, "{key} = {value}");
}

/// Strings in which something looks like an environment variable.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace("${", "$${"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| escape(value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_become_sections_and_lists() {
        let table: Table = r#"
            a = { x = 1, y = "a\n$${B}", z = [1, 2] }
            empty = {}
            nothing = []
            [[s]]
            p = "tcp"
            t = { q = 1 }
            [[s.servers]]
            w = 1
            v = 1
            [[s.servers]]
            w = 2
            [[s]]
            p = "udp"
            servers = []
        "#
        .parse()
        .unwrap();
        let defaults: Table =
            "nothing = []\na = { x = 1, z = [] }\ns = [{ p = 'tcp', servers = [{ w = 1 }], t = { r = 1 } }]"
                .parse()
                .unwrap();
        let text = write(&table, &defaults).unwrap();
        let expected = "[a]\ny = \"\"\"\na\n$$${B}\"\"\"\nz = [1, 2]\n\n[[s]]\nt = { q = 1 }\n\n[[s.servers]]\nv = 1\n\n[[s.servers]]\nw = 2\n\n[[s]]\np = \"udp\"\n";
        assert_eq!(text, expected);
    }
}
