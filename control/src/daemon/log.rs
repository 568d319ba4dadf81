//! The log: lines on standard error, whose level can change while the daemon runs.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Changes what is logged.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Starts the log of this process. If it has one already, that one stays.
    pub fn start(filter: &str) -> Self {
        let (layer, handle) = reload::Layer::new(parse(filter));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        let _ = tracing_subscriber::registry().with(layer).with(lines).try_init();
        Self { filter: handle }
    }

    /// Logs what `filter` says from now on.
    pub fn set(&self, filter: &str) {
        let _ = self.filter.reload(parse(filter));
    }
}

/// The configuration's check has refused filters that cannot be parsed.
fn parse(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"))
}
