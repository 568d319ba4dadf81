//! Packet captures, judged by programs other than the one under test.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::{Background, Lab, eventually};

/// A running `tcpdump` on a host.
#[derive(Debug)]
pub struct Capture {
    process: Background,
    path: PathBuf,
}

impl Capture {
    /// Starts capturing on `interface` of `host`; returns once packets are seen.
    pub fn start(lab: &Lab, host: &str, interface: &str, filter: &str) -> Self {
        let path = lab.directory().join(format!("{host}-{interface}.pcap"));
        let file = path.to_string_lossy().into_owned();
        let command = [
            "tcpdump",
            "-i",
            interface,
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-B",
            "16384",
            "-Z",
            "root",
            "-w",
            &file,
            filter,
        ];
        let process = lab.spawn(host, &command);
        // The file appears, with its header, when the capture socket is open.
        eventually("tcpdump starts", Duration::from_secs(5), || {
            std::fs::metadata(&path).is_ok_and(|file| file.len() >= 24)
        });
        Self { process, path }
    }

    /// Ends it and returns the file.
    pub fn stop(self) -> Captured {
        // The last packets are on their way to the file.
        std::thread::sleep(Duration::from_millis(100));
        self.process.signal("INT");
        let output = self.process.finish(Duration::from_secs(5));
        assert!(output.status.success(), "tcpdump: {}", crate::lab::text(&output));
        Captured { path: self.path }
    }
}

/// A finished capture file.
#[derive(Debug)]
pub struct Captured {
    path: PathBuf,
}

impl Captured {
    /// One line of tab-separated `fields` for each packet that `filter` (in Wireshark's language) selects.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut command = Command::new("tshark");
        command.args(["-r", &self.path.to_string_lossy(), "-Y", filter, "-T", "fields"]);
        for option in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
            command.args(["-o", &format!("{option}:TRUE")]);
        }
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.output().expect("tshark is installed");
        assert!(output.status.success(), "tshark: {}", crate::lab::text(&output));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Number of packets that `filter` selects.
    pub fn count(&self, filter: &str) -> usize {
        self.fields(filter, &["frame.number"]).len()
    }
}
