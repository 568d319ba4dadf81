//! The handle by which others reach the core.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use dpvs_api::{
    ApiError, Author, ConnectionPage, DropCount, ErrorKind, MarkRule, Operation, PortStats, Service, ServiceId,
    ServiceStatus, Status, Sysctls, Timeouts, WorkerStats,
};
use tokio::sync::{mpsc, oneshot};

use crate::events::Events;
use crate::metrics::{ControlMetrics, Extent, Scene};

/// Requests that may wait for the core; a caller beyond that waits itself.
const QUEUE: usize = 64;

/// What the core forwards by; what the API changes and a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// All services, in list order.
    pub services: Vec<Service>,
    /// Rules that give packets firewall marks.
    pub marks: Vec<MarkRule>,
    /// Connection timeouts.
    pub timeouts: Timeouts,
    /// Run-time settings.
    pub sysctls: Sysctls,
}

/// Works out what to change in what runs.
type WorkOut = dyn FnOnce(&Running) -> Vec<Operation> + Send;

/// Operations that are worked out when nothing else can change what runs.
pub(crate) struct Plan {
    pub(super) operations: Box<WorkOut>,
    /// What the operations become part of; `None`: they are not applied, the question is which they would be.
    pub(super) batch: Option<Batch>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// What a plan led to.
#[derive(Debug)]
pub struct Outcome {
    /// What ran before.
    pub before: Running,
    /// What the plan made of it.
    pub operations: Vec<Operation>,
    /// What is wrong with the operations.
    pub result: Result<(), ApiError>,
}

/// A request with the place its answer goes to. A caller that left is no error.
#[derive(Debug)]
pub(crate) enum Request {
    Connections(Option<String>, usize, oneshot::Sender<Result<ConnectionPage, ApiError>>),
    Drain(oneshot::Sender<()>),
    Apply(Batch, oneshot::Sender<Result<String, ApiError>>),
    Plan(Plan, oneshot::Sender<Outcome>),
    Running(oneshot::Sender<Running>),
    Version(Option<ServiceId>, oneshot::Sender<Result<String, ApiError>>),
    ServicesAfter(Option<ServiceId>, usize, oneshot::Sender<(Vec<ServiceStatus>, bool)>),
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    Service(ServiceId, oneshot::Sender<Result<ServiceStatus, ApiError>>),
    Timeouts(oneshot::Sender<Timeouts>),
    Marks(oneshot::Sender<Vec<MarkRule>>),
    Sysctls(oneshot::Sender<Sysctls>),
    Drops(oneshot::Sender<Vec<DropCount>>),
    Workers(oneshot::Sender<Vec<WorkerStats>>),
    Ports(oneshot::Sender<Vec<PortStats>>),
    Status(oneshot::Sender<Status>),
    Scene(Extent, oneshot::Sender<Scene>),
}

/// Where others talk to the core. Every method fails with [`ErrorKind::Unavailable`] once the daemon stops.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    requests: mpsc::Sender<Request>,
    events: Events,
    metrics: Arc<ControlMetrics>,
}

/// Operations with who asks for them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// To be applied in order.
    pub operations: Vec<Operation>,
    /// Whom events name for them.
    pub by: Author,
    /// The service that they are about; `None`: the configuration.
    pub scope: Option<ServiceId>,
    /// Versions of the scope one of which must be in force; `None`: any.
    pub only_if: Option<Vec<String>>,
}

impl Batch {
    /// Operations without a condition.
    pub fn new(operations: Vec<Operation>, by: Author) -> Self {
        Self { operations, by, scope: None, only_if: None }
    }
}

impl From<Vec<Operation>> for Batch {
    fn from(operations: Vec<Operation>) -> Self {
        Self::new(operations, Author::Daemon)
    }
}

impl CoreHandle {
    /// A handle and the queue that the core serves.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let metrics = Arc::new(ControlMetrics::new(SystemTime::now()));
        (Self { requests, events: Events::default(), metrics }, queue)
    }

    /// What the control thread observes of itself.
    pub fn metrics(&self) -> &Arc<ControlMetrics> {
        &self.metrics
    }

    /// What happens in the daemon.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Applies the operations in order and publishes them together, or none of them. The error's `path` names the
    /// operation by index and the field, e.g. `[3].server.weight`. Returns the version of the batch's scope that they led to.
    pub async fn apply(&self, batch: impl Into<Batch>) -> Result<String, ApiError> {
        self.ask(|reply| Request::Apply(batch.into(), reply)).await?
    }

    /// Applies the operations that `plan` makes of what runs, as part of a batch that has no others; nothing comes in between.
    /// Without a batch, they are not applied: the outcome says what would be wrong with them, as far as that shows beforehand.
    pub async fn plan(
        &self,
        batch: Option<Batch>,
        plan: impl FnOnce(&Running) -> Vec<Operation> + Send + 'static,
    ) -> Result<Outcome, ApiError> {
        self.ask(|reply| Request::Plan(Plan { operations: Box::new(plan), batch }, reply)).await
    }

    /// What runs.
    pub async fn running(&self) -> Result<Running, ApiError> {
        self.ask(Request::Running).await
    }

    /// All services with their servers, sorted by protocol, address and port; then those of firewall marks.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ApiError> {
        self.ask(Request::Services).await
    }

    /// Up to `count` services after one, which need not exist, or from the first on, and whether there are more.
    pub async fn services_after(
        &self,
        id: Option<ServiceId>,
        count: usize,
    ) -> Result<(Vec<ServiceStatus>, bool), ApiError> {
        self.ask(|reply| Request::ServicesAfter(id, count, reply)).await
    }

    /// The version of a service's configuration, or of the whole; statistics do not count. [`ErrorKind::NotFound`] if there
    /// is no such service.
    pub async fn version(&self, scope: Option<ServiceId>) -> Result<String, ApiError> {
        self.ask(|reply| Request::Version(scope, reply)).await?
    }

    /// One service; [`ErrorKind::NotFound`] if there is none.
    pub async fn service(&self, id: ServiceId) -> Result<ServiceStatus, ApiError> {
        self.ask(|reply| Request::Service(id, reply)).await?
    }

    /// The rules that give packets firewall marks, in order.
    pub async fn marks(&self) -> Result<Vec<MarkRule>, ApiError> {
        self.ask(Request::Marks).await
    }

    /// The connection timeouts in force.
    pub async fn timeouts(&self) -> Result<Timeouts, ApiError> {
        self.ask(Request::Timeouts).await
    }

    /// The run-time settings in force.
    pub async fn sysctls(&self) -> Result<Sysctls, ApiError> {
        self.ask(Request::Sysctls).await
    }

    /// Up to `limit` (at least 1) tracked connections from `cursor` on, `None` for the beginning. Connections that come
    /// or go meanwhile may be listed or not.
    pub async fn connections(&self, cursor: Option<String>, limit: usize) -> Result<ConnectionPage, ApiError> {
        self.ask(|reply| Request::Connections(cursor, limit, reply)).await?
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

    /// What metrics of this extent are made of.
    pub async fn scene(&self, extent: Extent) -> Result<Scene, ApiError> {
        self.ask(|reply| Request::Scene(extent, reply)).await
    }

    /// From now on, new connections are refused; those that exist go on.
    pub async fn drain(&self) -> Result<(), ApiError> {
        self.ask(Request::Drain).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ApiError> {
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| stopped())?;
        let answer = answer.await.map_err(|_| stopped())?;
        self.metrics.answered(asked.elapsed());
        Ok(answer)
    }
}

fn stopped() -> ApiError {
    ApiError {
        kind: ErrorKind::Unavailable,
        message: "dpvsd is stopping; try again once it runs".to_owned(),
        path: None,
    }
}
