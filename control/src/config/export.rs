//! Writes a configuration as a file that is read as the same one.

use toml::Table;

use super::{Config, Port};

/// The text of a configuration file. What has its default is left out.
pub fn export(config: &Config) -> Result<String, toml::ser::Error> {
    dpvs_file::write(config, &defaults()?)
}

/// A configuration all of whose values are defaults; lists of tables have one item, with values that no item needs to write.
fn defaults() -> Result<Table, toml::ser::Error> {
    let mut defaults = Table::try_from(Config { ports: vec![Port::default()], ..Config::default() })?;
    defaults.extend(dpvs_file::service_defaults()?);
    Ok(defaults)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dpvs_api::{ConfigFile, ConfigSources};

    use super::*;

    fn parse(text: &str) -> Config {
        let file = ConfigFile { path: Path::new("t.toml").to_owned(), text: text.to_owned() };
        let sources = ConfigSources { files: vec![file], environment: Default::default() };
        Config::parse(&sources).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let sample = parse(include_str!("../../../deploy/dpvsd.toml"));
        assert_eq!(parse(&export(&sample).unwrap()), sample);
        let text = r#"[daemon]
log = "warn"
drain_timeout = 3

[workers]
cores = [1, 1]
idle = "yield"

[timeouts]
udp = 5

[sysctl]
sloppy_tcp = 1

[helpers]
ftp_ports = []

[[ports]]
name = "lan"
device = "net_tap0"
vdev = ""
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]

[[marks]]
mark = 7
destination = "192.0.2.11"
destination_ports = "8000-8100"
ingress = "lan"

[[services]]
protocol = "tcp"
address = "192.0.2.10:80"
scheduler = "sh"
scheduler_flags = ["sh-port"]
timeout = 60
persistence = { timeout = 360, netmask = "24" }
local_ports = { first = 2000, last = 3000 }
local_addresses = ["192.0.2.20"]

[services.health]
passive = { error_limit = 3 }
on_failure = "zero-weight"

[[services.health.checks]]
probe = { http = { path = "/x", tls = {} } }
interval = 1.5

[[services.health.checks]]
probe = { tcp = {} }

[[services.servers]]
address = "10.0.0.1:8080"
mode = "fullnat"

[[services.servers]]
address = "10.0.0.2:8080"
mode = "fullnat"
weight = 0

[[services.servers]]
address = "10.0.0.3:8080"
mode = "fullnat"

[[services.servers.health.checks]]
probe = { icmp = {} }

[[services.servers]]
address = "10.0.0.4:8080"
mode = "fullnat"
health = { checks = [] }

[[services]]
fwmark = 7
family = "inet6"
health = { passive = {} }

[[services]]
fwmark = 8
health = {}
"#;
        let config = parse(text);
        let written = export(&config).unwrap();
        assert_eq!(written, text.replace("log = \"warn\"\ndrain_timeout = 3", "drain_timeout = 3\nlog = \"warn\""));
        assert_eq!(parse(&written), config);
    }
}
