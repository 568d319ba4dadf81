//! Configuration files: checked, compared with what runs, applied, and written.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dpvs_api::{ConfigChanges, ConfigSources, Edit, Operation};
use dpvs_client::{Client, ClientError};
use serde_json::Value;

use crate::run::{Error, read};

/// A file with all that it includes and the environment variables that it names.
pub(crate) fn sources(file: &Path) -> Result<ConfigSources, Error> {
    let variable = |name: &str| std::env::var(name).ok();
    let sources = match file == Path::new("-") {
        true => dpvs_file::read_from(file, read(file)?, variable),
        false => dpvs_file::read(file, variable),
    };
    sources.map_err(Error::Config)
}

/// Asks the daemon what is wrong with a file; if none runs, the program.
pub(crate) fn check(client: &Client, output: &mut dyn Write, file: &Path) -> Result<(), Error> {
    match client.compare_config(&sources(file)?) {
        Ok(_) => Ok(writeln!(output, "{}: ok", file.display())?),
        Err(error @ ClientError::Connect { .. }) if file == Path::new("-") => Err(error.into()),
        Err(ClientError::Connect { source, .. }) if is_absent(&source) => check_without_daemon(file),
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn check_without_daemon(file: &Path) -> Result<(), Error> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("dpvsd"));
    let program = beside.filter(|program| program.exists()).unwrap_or_else(|| PathBuf::from("dpvsd"));
    let status = Command::new(&program).arg("--config").arg(file).arg("--check").status();
    let status = status.map_err(|error| {
        let message =
            format!("no dpvsd runs that could check it, and {} cannot be started: {error}", program.display());
        Error::File(file.to_owned(), message)
    })?;
    if status.success() { Ok(()) } else { Err(Error::Said(1)) }
}

/// Prints what runs, or replaces a file by it.
pub(crate) fn export(client: &Client, output: &mut dyn Write, file: Option<&Path>) -> Result<(), Error> {
    let text = client.export_config()?;
    let Some(file) = file else { return Ok(output.write_all(text.as_bytes())?) };
    replace(file, &text).map_err(|error| Error::File(file.to_owned(), error.to_string()))
}

/// Writes a file beside it first, so that nobody ever sees half of it, even if the machine fails.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // The file that a link names, not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    let mode = fs::metadata(&file).map_or(0o644, |old| old.permissions().mode());
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    new.persist(&file)?;
    fs::File::open(folder)?.sync_all()
}

/// Whether changes are to be made, or have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tense {
    Future,
    Past,
}

/// A line for each change: what comes, what goes, and what of the rest differs.
pub(crate) fn show(changes: &ConfigChanges, tense: Tense) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (index, operation) in changes.operations.iter().enumerate() {
        let edits: Vec<&Edit> = changes.edits.iter().filter(|edit| edit.operation == index).collect();
        let _ = writeln!(text, "{}", line(operation, &edits));
    }
    for key in &changes.settings {
        let _ = writeln!(text, "~ {key}");
    }
    for key in &changes.restart {
        let _ = writeln!(text, "! {key}: differs from what runs; takes effect when dpvsd is started anew");
    }
    let count = changes.operations.len() + changes.settings.len();
    let _ = match (count, tense) {
        (0, Tense::Future) => writeln!(text, "Nothing to apply."),
        (0, Tense::Past) => writeln!(text, "Nothing changed."),
        (1, Tense::Future) => writeln!(text, "1 change to apply."),
        (1, Tense::Past) => writeln!(text, "1 change applied."),
        (_, Tense::Future) => writeln!(text, "{count} changes to apply."),
        (_, Tense::Past) => writeln!(text, "{count} changes applied."),
    };
    text
}

fn line(operation: &Operation, edits: &[&Edit]) -> String {
    let plural = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    match operation {
        Operation::AddService { service } => {
            format!("+ service {} with {}", service.id, plural(service.servers.len(), "server"))
        }
        Operation::DeleteService { service } => format!("- service {service}"),
        Operation::EditService { service, .. } => format!("~ service {service}: {}", values(edits)),
        Operation::AddServer { service, server } => {
            format!("+ server {} of service {service}, weight {}", server.address, server.weight)
        }
        Operation::DeleteServer { service, server } => format!("- server {server} of service {service}"),
        Operation::EditServer { service, server } => {
            format!("~ server {} of service {service}: {}", server.address, values(edits))
        }
        Operation::AddLocalAddress { service, local_address, .. } => {
            format!("+ local address {local_address} of service {service}")
        }
        Operation::DeleteLocalAddress { service, local_address } => {
            format!("- local address {local_address} of service {service}")
        }
        Operation::SetTimeouts { .. } => format!("~ timeouts: {}", values(edits)),
        Operation::SetSysctls { .. } => format!("~ sysctl: {}", values(edits)),
        Operation::SetMarks { .. } => rules(edits),
        // Comparing configurations leads to no others.
        other => format!("~ {}", serde_json::to_string(other).unwrap_or_default()),
    }
}

fn values(edits: &[&Edit]) -> String {
    let word = |value: &Value| match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let edit = |edit: &&Edit| format!("{} {} -> {}", edit.field, word(&edit.old), word(&edit.new));
    edits.iter().map(edit).collect::<Vec<_>>().join(", ")
}

/// Rules for firewall marks are replaced together; a line for each that comes or goes.
fn rules(edits: &[&Edit]) -> String {
    let Some(edit) = edits.first() else { return "~ marks".to_owned() };
    let list = |value: &Value| -> Vec<String> {
        let rules = value.as_array().map_or(&[][..], Vec::as_slice);
        rules.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (old, new) = (list(&edit.old), list(&edit.new));
    let gone = old.iter().filter(|rule| !new.contains(rule)).map(|rule| format!("- {rule}"));
    let come = new.iter().filter(|rule| !old.contains(rule)).map(|rule| format!("+ {rule}"));
    let lines: Vec<String> = gone.chain(come).collect();
    if lines.is_empty() { "~ marks: their order".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use dpvs_api::{ForwardMode, MarkRule, Server, Service, ServiceSettings, Timeouts};

    use super::*;

    #[test]
    fn changes_are_lines() {
        let service = "tcp/192.0.2.1:80".parse().unwrap();
        let server = Server { weight: 5, ..Server::new("10.0.0.1:80".parse().unwrap(), ForwardMode::Nat) };
        let edit =
            |operation, field: &str, old: Value, new: Value| Edit { operation, field: field.to_owned(), old, new };
        let rule: MarkRule = serde_json::from_str(r#"{"mark":7}"#).unwrap();
        let changes = ConfigChanges {
            operations: vec![
                Operation::SetTimeouts { timeouts: Timeouts::default() },
                Operation::SetMarks { rules: vec![rule] },
                Operation::DeleteService { service },
                Operation::AddService { service: Service { servers: vec![server.clone()], ..Service::new(service) } },
                Operation::EditService { service, settings: ServiceSettings::default() },
                Operation::DeleteServer { service, server: server.address },
                Operation::AddServer { service, server: server.clone() },
                Operation::EditServer { service, server },
                Operation::AddLocalAddress { service, local_address: [10, 0, 0, 9].into(), interface: None },
                Operation::DeleteLocalAddress { service, local_address: [10, 0, 0, 8].into() },
            ],
            edits: vec![
                edit(0, "tcp", 900.into(), 60.into()),
                edit(0, "udp", 300.into(), 5.into()),
                edit(1, "rules", serde_json::json!(["mark 1"]), serde_json::json!(["mark 7"])),
                edit(4, "timeout", Value::Null, 5.into()),
                edit(7, "mode", "nat".into(), "dr".into()),
            ],
            settings: vec!["daemon.log".to_owned()],
            restart: vec!["workers".to_owned()],
        };
        let expected = "\
~ timeouts: tcp 900 -> 60, udp 300 -> 5
- mark 1
+ mark 7
- service tcp/192.0.2.1:80
+ service tcp/192.0.2.1:80 with 1 server
~ service tcp/192.0.2.1:80: timeout none -> 5
- server 10.0.0.1:80 of service tcp/192.0.2.1:80
+ server 10.0.0.1:80 of service tcp/192.0.2.1:80, weight 5
~ server 10.0.0.1:80 of service tcp/192.0.2.1:80: mode nat -> dr
+ local address 10.0.0.9 of service tcp/192.0.2.1:80
- local address 10.0.0.8 of service tcp/192.0.2.1:80
~ daemon.log
! workers: differs from what runs; takes effect when dpvsd is started anew
11 changes applied.
";
        assert_eq!(show(&changes, Tense::Past), expected);
        assert_eq!(show(&ConfigChanges::default(), Tense::Future), "Nothing to apply.\n");
    }

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
        replace(&file, "x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "y").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "y");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(replace(&folder.path().join("none/c.toml"), "z").is_err());
    }
}
