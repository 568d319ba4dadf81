//! The log: the journal of systemd if it is what standard error leads to, else lines on standard error. Its level can
//! change while the daemon runs.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::repeats::Repeats;

/// How often suppressed messages are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Changes what is logged.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    repeats: Repeats,
}

impl Log {
    /// Starts the log of this process. If it has one already, that one stays.
    pub fn start(filter: &str) -> Self {
        let (layer, handle) = reload::Layer::new(parse(filter));
        let repeats = Repeats::default();
        let log = tracing_subscriber::registry().with(layer).with(repeats.clone());
        let _ = match journal() {
            Some(journal) => log.with(journal).try_init(),
            None => log.with(lines()).try_init(),
        };
        Self { filter: handle, repeats }
    }

    /// Logs what `filter` says from now on.
    pub fn set(&self, filter: &str) {
        let _ = self.filter.reload(parse(filter));
    }

    /// Says from time to time how many repeated messages were suppressed.
    pub async fn report_repeats(&self) -> Infallible {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        loop {
            ticks.tick().await;
            self.repeats.report(Instant::now(), false);
        }
    }

    /// Says what was suppressed and not reported yet.
    pub fn finish(&self) {
        self.repeats.report(Instant::now(), true);
    }
}

/// The configuration's check has refused filters that cannot be parsed.
fn parse(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn lines<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false)
}

/// Says why the daemon ends, in one line on standard error.
pub fn last_words(error: &dyn std::fmt::Display) {
    // How lines tell the journal their level (sd-daemon(3)): 3 is an error.
    let level = if leads_to_journal() { "<3>" } else { "" };
    eprintln!("{level}dpvsd: error: {error}");
}

fn leads_to_journal() -> bool {
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    stderr.is_ok_and(|file| is_stream(&stream, file.dev(), file.ino()))
}

/// The journal, which keeps a message's level and fields, if standard error leads there.
fn journal() -> Option<tracing_journald::Layer> {
    if !leads_to_journal() {
        return None;
    }
    // Without journald's native socket, the stream takes lines.
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(Some("DPVS".to_owned())).with_priority_mappings(PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    }))
}

/// Whether `JOURNAL_STREAM` (systemd.exec(5)), device and inode in decimal, means this file.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_stream_is_told_from_others() {
        assert!(is_stream("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", ":", "8:1234:5", "x:1234"] {
            assert!(!is_stream(other, 8, 1234), "{other}");
        }
    }
}
