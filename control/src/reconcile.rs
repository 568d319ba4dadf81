//! Compares a configuration with what runs, and makes what runs as it says.
//!
//! Two ways lead from a file to a running daemon. [`Reconciler::apply`] (`dpvs-ctl apply`) makes everything as the file says,
//! what came over the API included. [`Reconciler::reload`] (SIGHUP) applies what changed in the file since the daemon was
//! given one last, and leaves alone what came over the API. Either works out its operations while nothing else can change what
//! runs, and applies all of them together or none.

mod edits;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use dpvs_api::{ApiError, Author, ConfigChanges, ConfigError, ConfigSources, ErrorKind, Operation, ServiceId};
use tokio::sync::Mutex;

use crate::config::{self, Config, ConfigErrors, reload};
use crate::core::{Batch, CoreHandle, Outcome, Running};

/// Why a configuration is not applied.
#[derive(Debug)]
pub enum Refused {
    /// It is wrong.
    Config(ConfigErrors),
    /// It is right by itself, but what runs does not allow it; with the place that this is about, if there is one.
    Core(ApiError, Option<Box<ConfigError>>),
}

impl From<ConfigErrors> for Refused {
    fn from(errors: ConfigErrors) -> Self {
        Self::Config(errors)
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Core(error, None)
    }
}

/// Where configurations are compared and applied; cheap to clone.
#[derive(Clone)]
pub struct Reconciler {
    core: CoreHandle,
    set_log: Arc<dyn Fn(&str) + Send + Sync>,
    /// What the daemon started with; what needs a restart is as it says.
    running: Arc<Config>,
    /// What it was given last.
    last: Arc<Mutex<Config>>,
}

impl Reconciler {
    /// For a daemon that has started with `config`. `set_log` changes what is logged.
    pub fn new(core: CoreHandle, config: Config, set_log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let last = Arc::new(Mutex::new(config.clone()));
        Self { core, set_log: Arc::new(set_log), running: Arc::new(config), last }
    }

    /// Seconds to wait for connections to end, as the configuration that was given last says.
    pub async fn drain_timeout(&self) -> u32 {
        self.last.lock().await.daemon.drain_timeout
    }

    /// How the API is offered, as the configuration that was given last says.
    pub async fn api(&self) -> config::Api {
        self.last.lock().await.api.clone()
    }

    /// What [`apply`](Self::apply) would change.
    pub async fn compare(&self, sources: ConfigSources) -> Result<ConfigChanges, Refused> {
        let (sources, new) = parse(sources).await?;
        let last = self.last.lock().await;
        let (old, wanted) = (last.clone(), new.clone());
        let outcome = self.core.plan(None, move |running| to_file(old, &wanted, running)).await?;
        self.changes(&last, &new, &sources, outcome)
    }

    /// Makes what runs as the configuration says, as a batch without operations so far, and says what that changed.
    pub async fn apply(&self, sources: ConfigSources, batch: Batch) -> Result<ConfigChanges, Refused> {
        let (sources, new) = parse(sources).await?;
        let mut last = self.last.lock().await;
        let (old, wanted) = (last.clone(), new.clone());
        let outcome = self.core.plan(Some(batch), move |running| to_file(old, &wanted, running)).await?;
        let changes = self.changes(&last, &new, &sources, outcome)?;
        self.adopt(&mut last, new);
        Ok(changes)
    }

    /// Applies what changed since the configuration that was given last.
    pub async fn reload(&self, file: &Path) -> Result<ConfigChanges, Refused> {
        let (sources, new) = parse(Config::sources(file)?).await?;
        let mut last = self.last.lock().await;
        let (old, wanted) = (last.clone(), new.clone());
        let plan = move |running: &Running| reload::difference(&old, &wanted, &running.services, &running.marks);
        let outcome = self.core.plan(Some(Batch::new(Vec::new(), Author::File)), plan).await?;
        let changes = self.changes(&last, &new, &sources, outcome)?;
        self.adopt(&mut last, new);
        Ok(changes)
    }

    /// What runs as a configuration file: applying it changes nothing.
    pub async fn export(&self) -> Result<String, ApiError> {
        let last = self.last.lock().await;
        let running = self.core.running().await?;
        let mut text = String::new();
        let waiting = reload::needs_restart(&self.running, &last);
        if !waiting.is_empty() {
            text = format!(
                "# What runs. The configuration given last has other values, for the next start: {}.\n\n",
                waiting.join(", ")
            );
        }
        // What takes effect at once is as given last, what needs a restart as it was at the start.
        let mut config = Config { daemon: self.running.daemon.clone(), ..as_config(&self.running, &running) };
        config.daemon.log.clone_from(&last.daemon.log);
        config.daemon.drain_timeout = last.daemon.drain_timeout;
        match config::export(&config) {
            Ok(written) => Ok(text + &written),
            Err(error) => Err(ApiError {
                kind: ErrorKind::Internal,
                message: format!("the configuration cannot be written: {error}"),
                path: None,
            }),
        }
    }

    fn adopt(&self, last: &mut Config, new: Config) {
        (self.set_log)(&new.daemon.log);
        *last = new;
    }

    fn changes(
        &self,
        last: &Config,
        new: &Config,
        sources: &ConfigSources,
        Outcome { before, operations, result }: Outcome,
    ) -> Result<ConfigChanges, Refused> {
        if let Err(error) = result {
            let key = error.path.as_deref().and_then(|path| key_of(path, &operations, new));
            let place = key.map(|key| Box::new(Config::locate(sources, &key, error.message.clone())));
            return Err(Refused::Core(error, place));
        }
        let settings = [
            ("daemon.log", last.daemon.log != new.daemon.log),
            ("daemon.drain_timeout", last.daemon.drain_timeout != new.daemon.drain_timeout),
        ];
        let settings = settings.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect();
        let edits = edits::edits(&operations, &before);
        Ok(ConfigChanges { operations, edits, settings, restart: reload::needs_restart(&self.running, new) })
    }
}

/// Parses and checks on a thread of its own: a large file takes longer than others should wait for the control thread.
async fn parse(sources: ConfigSources) -> Result<(ConfigSources, Config), Refused> {
    let parsed = tokio::task::spawn_blocking(move || Config::parse(&sources).map(|config| (sources, config))).await;
    match parsed {
        Ok(parsed) => Ok(parsed?),
        Err(error) => Err(Refused::from(ApiError {
            kind: ErrorKind::Internal,
            message: format!("the configuration cannot be read: {error}"),
            path: None,
        })),
    }
}

/// What runs, as a file would say it.
fn as_config(rest: &Config, running: &Running) -> Config {
    Config {
        timeouts: running.timeouts,
        sysctl: running.sysctls,
        marks: running.marks.clone(),
        services: running.services.clone(),
        ..rest.clone()
    }
}

/// What makes everything as `new` says: what changed since a file that says what runs.
fn to_file(last: Config, new: &Config, running: &Running) -> Vec<Operation> {
    reload::difference(&as_config(&last, running), new, &running.services, &running.marks)
}

/// The key of the configuration behind an error's path, such as `[3].server.weight`, into the operations that it led to.
fn key_of(path: &str, operations: &[Operation], config: &Config) -> Option<String> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    let service_key = |id: ServiceId| {
        let index = config.services.iter().position(|service| service.id == id)?;
        Some((index, format!("services[{index}]")))
    };
    let server_key = |id: ServiceId, address: SocketAddr| {
        let (index, key) = service_key(id)?;
        let server = config.services[index].servers.iter().position(|server| server.address == address);
        Some(server.map_or(key.clone(), |server| format!("{key}.servers[{server}]")))
    };
    let under = |key: String, member: &str| key + rest.strip_prefix(member).unwrap_or_default();
    match operations.get(index.parse::<usize>().ok()?)? {
        Operation::AddService { service } => Some(under(service_key(service.id)?.1, ".service")),
        Operation::EditService { service, .. } => Some(under(service_key(*service)?.1, ".settings")),
        Operation::AddServer { service, server } | Operation::EditServer { service, server } => {
            Some(under(server_key(*service, server.address)?, ".server"))
        }
        Operation::AddLocalAddress { service, .. } => Some(format!("{}.local_addresses", service_key(*service)?.1)),
        Operation::SetMarks { .. } => rest.strip_prefix(".rules").map(|rest| format!("marks{rest}")),
        Operation::SetTimeouts { .. } => Some("timeouts".to_owned()),
        Operation::SetSysctls { .. } => rest.strip_prefix(".values").map(|rest| format!("sysctl{rest}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
