//! A blocking client of dpvsd's API, for command-line programs.
//!
//! Each request has a connection of its own: the programs that use it make few, and a daemon that restarted in between
//! is no special case.
#![forbid(unsafe_code)]

mod events;
mod path;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dpvs_api::{
    ApiError, ConfigChanges, ConfigRefusal, ConfigSources, Connection, ConnectionPage, DropCount, MarkRule, Operation,
    PortStats, ServiceId, ServicePage, ServiceStatus, Status, Sysctls, Timeouts, WorkerStats,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

pub use events::Events;

/// Where dpvsd listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/dpvs/dpvsd.sock";

/// Environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "DPVS_SOCKET";

/// Time for one request, connecting included. The daemon itself gives up a little earlier and says why.
const TIMEOUT: Duration = Duration::from_secs(25);

/// Connections asked for at a time.
const CONNECTIONS: usize = 5000;
/// Services asked for at a time.
const SERVICES: usize = 1000;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot connect to {}: {}", socket.display(), advice(source))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The daemon found mistakes in a configuration.
    #[error("{}", .0.error)]
    Config(Box<ConfigRefusal>),
    /// What answers is not dpvsd, or not a version that this client understands.
    #[error("{}: {reason}: is it dpvsd that listens there, and of this version?", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with the answer.
        reason: String,
    },
    /// No answer in time.
    #[error("{}: no answer within {} s: is dpvsd stopped (SIGSTOP, a debugger) or overloaded?", .0.display(), TIMEOUT.as_secs())]
    Timeout(PathBuf),
    /// The daemon ends, or this program did not read what it sent.
    #[error(
        "the stream of events has ended: dpvsd stops, or this program reads too slowly; --after goes on after an event"
    )]
    EventsEnded,
    /// This process cannot wait for input and output.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

/// What to do about a connection that failed.
fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let reason = if error.kind() == io::ErrorKind::NotFound { "no such file" } else { "connection refused" };
            format!(
                "{reason}: is dpvsd running? Start it with 'dpvsd --config FILE', or name its socket with {SOCKET_VARIABLE} \
                 (dpvs-ctl: or --socket)"
            )
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: be root, or join the group that owns the socket".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A client; cheap to make, connects on use.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`; if `None`, at [`SOCKET_VARIABLE`]; if that is not set, at [`DEFAULT_SOCKET`].
    pub fn new(socket: Option<&Path>) -> Result<Self, ClientError> {
        let socket = match socket {
            Some(socket) => socket.to_owned(),
            None => std::env::var_os(SOCKET_VARIABLE)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        Ok(Self { runtime: runtime.map_err(ClientError::Runtime)?, socket })
    }

    /// The socket it connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon as a whole.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status")
    }

    /// All services with their servers, fetched page by page.
    pub fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        let mut services = Vec::new();
        let mut next = None;
        loop {
            let page: ServicePage = self.get(&path::page("services", next.as_deref(), SERVICES))?;
            services.extend(page.services);
            next = page.next;
            if next.is_none() {
                return Ok(services);
            }
        }
    }

    /// What happens from now on, or after the event with this id.
    pub fn events(&self, last: Option<&str>) -> Result<Events<'_>, ClientError> {
        Events::follow(self, last)
    }

    /// One service; fails with [`dpvs_api::ErrorKind::NotFound`] if there is none.
    pub fn service(&self, id: ServiceId) -> Result<ServiceStatus, ClientError> {
        self.get(&path::service(id))
    }

    /// The rules that give packets firewall marks, in order.
    pub fn marks(&self) -> Result<Vec<MarkRule>, ClientError> {
        self.get("/v1/marks")
    }

    /// The connection timeouts in force.
    pub fn timeouts(&self) -> Result<Timeouts, ClientError> {
        self.get("/v1/timeouts")
    }

    /// The run-time settings in force.
    pub fn sysctls(&self) -> Result<Sysctls, ClientError> {
        self.get("/v1/sysctls")
    }

    /// Every drop reason with its counter.
    pub fn drops(&self) -> Result<Vec<DropCount>, ClientError> {
        self.get("/v1/drops")
    }

    /// What each worker did.
    pub fn workers(&self) -> Result<Vec<WorkerStats>, ClientError> {
        self.get("/v1/workers")
    }

    /// The ports with their counters.
    pub fn ports(&self) -> Result<Vec<PortStats>, ClientError> {
        self.get("/v1/ports")
    }

    /// The tracked connections, fetched page by page as the iterator goes. It ends after an error.
    pub fn connections(&self) -> impl Iterator<Item = Result<Connection, ClientError>> + '_ {
        Connections { client: self, page: Vec::new().into_iter(), next: Some(None) }
    }

    /// Applies the operations whole or not at all.
    pub fn apply(&self, operations: &[Operation]) -> Result<(), ClientError> {
        let body = serde_json::to_vec(operations).map_err(|error| self.misunderstood(error.to_string()))?;
        self.request(Method::POST, "/v1/batch", body).map(|_| ())
    }

    /// What [`apply_config`](Self::apply_config) would change.
    pub fn compare_config(&self, sources: &ConfigSources) -> Result<ConfigChanges, ClientError> {
        self.post("/v1/config/diff", sources)
    }

    /// Makes what runs as a configuration says.
    pub fn apply_config(&self, sources: &ConfigSources) -> Result<ConfigChanges, ClientError> {
        self.post("/v1/config/apply", sources)
    }

    /// What runs, as a configuration file.
    pub fn export_config(&self) -> Result<String, ClientError> {
        let body = self.request(Method::GET, "/v1/config", Vec::new())?;
        String::from_utf8(body.into()).map_err(|error| self.misunderstood(error.to_string()))
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.misunderstood(error.to_string()))?;
        let answer = self.request(Method::POST, path, body)?;
        serde_json::from_slice(&answer).map_err(|error| self.misunderstood(format!("{path}: {error}")))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.request(Method::GET, path, Vec::new())?;
        serde_json::from_slice(&body).map_err(|error| self.misunderstood(format!("{path}: {error}")))
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let exchange = async { tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await };
        self.runtime.block_on(exchange).unwrap_or_else(|_| Err(ClientError::Timeout(self.socket.clone())))
    }

    async fn connect(&self) -> Result<TokioIo<UnixStream>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let refused = |source| ClientError::Connect { socket: self.socket.clone(), source };
        stream.map(TokioIo::new).map_err(refused)
    }

    /// Why the daemon refused.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        if let Ok(refusal) = serde_json::from_slice::<ConfigRefusal>(body) {
            return ClientError::Config(Box::new(refusal));
        }
        match serde_json::from_slice::<ApiError>(body) {
            Ok(error) => ClientError::Api(error),
            Err(_) => self.misunderstood(format!("HTTP status {status}")),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, ClientError> {
        let stream = self.connect().await?;
        let broken = |error: hyper::Error| self.misunderstood(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "dpvsd")
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.misunderstood(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(self.refusal(status, &body))
        };
        // The connection carries the bytes and ends by itself; only the answer counts.
        tokio::pin!(connection, answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }

    fn misunderstood(&self, reason: String) -> ClientError {
        ClientError::Protocol { socket: self.socket.clone(), reason }
    }
}

/// Iterator behind [`Client::connections`].
struct Connections<'a> {
    client: &'a Client,
    page: std::vec::IntoIter<Connection>,
    /// Cursor of the page to fetch: `Some(None)` is the first, `None` the end.
    next: Option<Option<String>>,
}

impl Iterator for Connections<'_> {
    type Item = Result<Connection, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(connection) = self.page.next() {
                return Some(Ok(connection));
            }
            let path = path::page("connections", self.next.take()?.as_deref(), CONNECTIONS);
            match self.client.get::<ConnectionPage>(&path) {
                Ok(page) => {
                    self.next = page.next.map(Some);
                    self.page = page.connections.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
