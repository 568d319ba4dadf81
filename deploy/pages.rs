//! Writes manual pages and shell completions of dpvsd and dpvs-ctl, as their command lines are defined:
//!
//!     cargo run --release --example pages -- DIRECTORY
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use control::daemon::Arguments;
use dpvs_ctl_lib::Cli;

/// What a manual has besides the options, in roff.
const DPVSD: &str = r#".SH SIGNALS
.TP
SIGHUP
reads the configuration again and changes what differs. If anything is wrong with it, everything stays as it is.
.TP
SIGTERM, SIGINT
end the daemon; with daemon.drain_timeout, once no connection is open or the time is over. A second signal ends the wait.
.SH ENVIRONMENT
.TP
NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID
are set by systemd, which is told about start, reload, drain and end. Keep\-alives are sent while all workers go on.
.TP
JOURNAL_STREAM
is set by systemd; messages then go to the journal with their levels.
.SH FILES
.TP
/etc/dpvs/dpvsd.toml
the configuration. Every key is explained in /usr/share/doc/dpvs/dpvsd.toml, and for some networks there are whole
configurations in /usr/share/doc/dpvs/samples.
.TP
/run/dpvs/dpvsd.sock
the API, for dpvs\-ctl and ipvsadm.
.SH EXIT STATUS
0 after a signal, and when \-\-check finds nothing wrong; 1 if it does not start, with the reason in one line; 2 for wrong usage.
.SH SEE ALSO
dpvs\-ctl(8), dpvs\-ipvsadm(8)
"#;

const DPVS_CTL: &str = r#".SH ENVIRONMENT
.TP
DPVS_SOCKET
is the socket of dpvsd, unless \-\-socket names one.
.SH FILES
.TP
/run/dpvs/dpvsd.sock
the socket of dpvsd. Root and the members of its group may use it.
.TP
/var/lib/dpvs/nics
which driver each card had before 'dpvs\-ctl nic bind'.
.SH SEE ALSO
dpvsd(8), dpvs\-ipvsadm(8)
"#;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: pages DIRECTORY"));
    };
    write(&directory)
}

/// The manual pages in `man/`, the completions in `bash/`, `zsh/` and `fish/`.
fn write(directory: &Path) -> io::Result<()> {
    for (command, more) in [(Arguments::command(), DPVSD), (Cli::command(), DPVS_CTL)] {
        let name = command.get_name().to_owned();
        // Subcommands have names of their own in pages: "dpvs-ctl services add".
        let mut command = command.disable_help_subcommand(true);
        command.build();
        page(&directory.join("man"), &command, &name, more)?;
        for (shell, folder) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder)?;
            clap_complete::generate_to(shell, &mut command, &name, &folder)?;
        }
    }
    Ok(())
}

/// The page of a command, and one of each of its subcommands.
fn page(folder: &Path, command: &Command, name: &str, more: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = Vec::new();
    // clap wants names that live for ever, and this program ends soon.
    let named = command.clone().name(&*name.to_owned().leak()).version(env!("CARGO_PKG_VERSION"));
    let man = Man::new(named).section("8");
    man.render(&mut text)?;
    text.extend_from_slice(more.as_bytes());
    fs::write(folder.join(format!("{name}.8")), text)?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        page(folder, subcommand, &format!("{name}-{}", subcommand.get_name()), "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |path: &str| {
            let path = folder.path().join(path);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        assert!(read("man/dpvsd.8").contains("SIGHUP") && read("man/dpvsd.8").contains("\\-\\-config"));
        assert!(read("man/dpvs-ctl.8").contains("dpvs\\-ctl\\-doctor(8)"));
        assert!(read("man/dpvs-ctl-services-add.8").contains("\\-\\-scheduler"));
        assert!(read("bash/dpvs-ctl.bash").contains("--scheduler"));
        assert!(read("zsh/_dpvs-ctl").contains("#compdef dpvs-ctl"));
        assert!(read("fish/dpvsd.fish").contains("complete -c dpvsd"));
        let pages = fs::read_dir(folder.path().join("man")).unwrap().count();
        assert_eq!(pages, 2 + subcommands(&Cli::command()));
    }

    fn subcommands(command: &Command) -> usize {
        command.get_subcommands().map(|subcommand| 1 + subcommands(subcommand)).sum()
    }
}
