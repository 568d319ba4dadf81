//! What the API can do, and what the handlers of it share. Every handler turns a request into operations or a question for the
//! core; nothing else happens here.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dpvs_api::{
    ApiError, ConfigChanges, ConfigSources, ConnectionPage, DropCount, ErrorKind, Event, MarkRule, NewLocalAddress,
    Operation, PortStats, Server, Service, ServiceId, ServicePage, ServiceSettings, ServiceStatus, Status, Sysctls,
    Timeouts, WorkerStats,
};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::endpoint::{Endpoint, delete, get, post, put};
use super::input::Refusal;
use super::metrics::Metrics;
use super::tags::{Asked, is_known, tagged};
use super::{Limits, config, director, events, openapi, reply, services};
use crate::core::CoreHandle;
use crate::reconcile::Reconciler;

pub(super) type Answer = Result<Response, Refusal>;

/// What every handler needs.
#[derive(Clone)]
pub(super) struct Api {
    pub core: CoreHandle,
    pub config: Reconciler,
    pub limits: Limits,
    /// Places for those who follow events.
    pub streams: Arc<Semaphore>,
    pub metrics: Metrics,
}

const SERVICE: &str = "/v1/services/{protocol}/{address}/{port}";
const SERVICE_ZERO: &str = "/v1/services/{protocol}/{address}/{port}/zero";
const SERVERS: &str = "/v1/services/{protocol}/{address}/{port}/servers";
const SERVER: &str = "/v1/services/{protocol}/{address}/{port}/servers/{server}/{server_port}";
const LOCAL_ADDRESSES: &str = "/v1/services/{protocol}/{address}/{port}/local-addresses";
const LOCAL_ADDRESS: &str = "/v1/services/{protocol}/{address}/{port}/local-addresses/{local}";

/// All that the API can do. What is not here is not served.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let lists = [about_director(), about_services()];
    lists.into_iter().flatten().collect()
}

fn about_director() -> Vec<Endpoint> {
    use director::*;
    vec![
        get(openapi::PATH, document, "getOpenApi", "This document").gives_other("application/json"),
        get("/v1/status", status, "getStatus", "The daemon as a whole").gives::<Status>(),
        get("/v1/events", events::follow, "followEvents", "What happens from now on")
            .described(
                "Server-sent events. The data of each is an Event. With Last-Event-ID, the stream goes on after that event; it \
                 begins with the event `missed` if some since then are no longer known. A peer that reads too slowly is cut off.",
            )
            .streams::<Event>(),
        get("/v1/drops", drops, "getDrops", "Packets dropped, by reason").gives::<Vec<DropCount>>(),
        get("/v1/workers", workers, "getWorkers", "What each worker did").gives::<Vec<WorkerStats>>(),
        get("/v1/ports", ports, "getPorts", "DPDK ports with their counters").gives::<Vec<PortStats>>(),
        get("/v1/connections", connections, "getConnections", "Tracked connections, page by page")
            .described("Connections that come or go meanwhile may be listed or not.")
            .queried::<ConnectionQuery>()
            .gives::<ConnectionPage>(),
        get("/metrics", metrics, "getMetrics", "Metrics in the text format of Prometheus")
            .gives_other("text/plain"),
        get("/v1/timeouts", timeouts, "getTimeouts", "Connection timeouts in force").gives::<Timeouts>().versioned(),
        put("/v1/timeouts", set_timeouts, "setTimeouts", "Set connection timeouts")
            .described("0 leaves a timeout as it is.")
            .takes::<Timeouts>()
            .versioned(),
        get("/v1/sysctls", sysctls, "getSysctls", "Run-time settings in force").gives::<Sysctls>().versioned(),
        put("/v1/sysctls", set_sysctls, "setSysctls", "Set run-time settings")
            .described("Those that are not named stay as they are.")
            .takes::<Sysctls>()
            .versioned(),
        get("/v1/marks", marks, "getMarks", "Rules that give packets firewall marks, in order")
            .gives::<Vec<MarkRule>>()
            .versioned(),
        put("/v1/marks", set_marks, "setMarks", "Replace the rules that give packets firewall marks")
            .takes::<Vec<MarkRule>>()
            .versioned(),
        post("/v1/zero", zero, "zero", "Set all statistics to zero"),
        post("/v1/batch", batch, "applyBatch", "Apply operations, all of them or none")
            .described("Workers see all of them at once. An error's path begins with the index of its operation.")
            .takes::<Vec<Operation>>()
            .versioned(),
        get("/v1/config", config::export, "getConfig", "What runs, as a configuration file")
            .described("Applying it changes nothing.")
            .gives_other("application/toml"),
        // Sources are too long for the query of a GET.
        post("/v1/config/diff", config::diff, "diffConfig", "What applying a configuration would change")
            .described("Nothing is changed. Mistakes are answered with all that is wrong, in `errors`.")
            .reads()
            .takes::<ConfigSources>()
            .gives::<ConfigChanges>(),
        post("/v1/config/apply", config::apply, "applyConfig", "Make what runs as a configuration says, all or nothing")
            .described(
                "What differs is changed, and nothing else is touched; what the configuration does not have goes. Mistakes are \
                 answered with all that is wrong, in `errors`.",
            )
            .takes::<ConfigSources>()
            .gives::<ConfigChanges>(),
    ]
}

fn about_services() -> Vec<Endpoint> {
    use services::*;
    vec![
        get("/v1/services", list, "getServices", "Services with their servers, page by page")
            .described("Sorted by protocol, address and port; then those of firewall marks.")
            .queried::<ServiceQuery>()
            .gives::<ServicePage>()
            .versioned(),
        post("/v1/services", add, "addService", "Add a service, servers included").takes::<Service>().versioned(),
        delete("/v1/services", clear, "clear", "Delete all services").versioned(),
        get(SERVICE, show, "getService", "A service with its servers").gives::<ServiceStatus>().versioned(),
        put(SERVICE, edit, "editService", "Replace the settings of a service")
            .described("Servers, local addresses and connections stay.")
            .takes::<ServiceSettings>()
            .versioned(),
        delete(SERVICE, remove, "deleteService", "Delete a service with its servers").versioned(),
        post(SERVICE_ZERO, zero, "zeroService", "Set the statistics of a service and its servers to zero"),
        post(SERVERS, add_server, "addServer", "Add a server").takes::<Server>().versioned(),
        put(SERVER, edit_server, "editServer", "Replace the settings of a server")
            .described("The body's address must be that of the path. The version is that of the service.")
            .takes::<Server>()
            .versioned(),
        delete(SERVER, delete_server, "deleteServer", "Delete a server")
            .described("Packets of its connections are dropped from then on.")
            .versioned(),
        post(LOCAL_ADDRESSES, add_local_address, "addLocalAddress", "Add a source address for FULLNAT servers")
            .takes::<NewLocalAddress>()
            .versioned(),
        delete(
            LOCAL_ADDRESS,
            delete_local_address,
            "deleteLocalAddress",
            "Delete a source address; its connections go on",
        )
        .versioned(),
    ]
}

/// All endpoints, with JSON answers for wrong paths and methods too.
pub(super) fn router(core: CoreHandle, config: Reconciler, limits: Limits) -> Router {
    let streams = Arc::new(Semaphore::new(limits.streams));
    let routes = endpoints().into_iter().fold(Router::new(), |router, endpoint| {
        let path = endpoint.path;
        router.route(path, endpoint.route())
    });
    let metrics = Metrics::new(core.clone(), limits);
    let api = Api { core, config, limits, streams, metrics };
    routes.fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(api)
}

/// It is the same as long as the program is.
async fn document() -> Response {
    static DOCUMENT: LazyLock<serde_json::Value> = LazyLock::new(|| openapi::document(&endpoints()));
    reply(StatusCode::OK, &*DOCUMENT)
}

async fn not_found(uri: Uri) -> Refusal {
    let message = format!("there is no {}: the paths start with /v1/, e.g. /v1/services", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{method} does not apply to {}: see the Allow header for what does", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

impl Api {
    /// Asks the core, which answers in microseconds unless it is in trouble.
    pub async fn ask<T>(&self, question: impl Future<Output = Result<T, ApiError>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.limits.request_time, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Refusal::from(ApiError {
                kind: ErrorKind::Unavailable,
                message: "dpvsd does not answer in time; a change may still take effect: check before repeating it"
                    .into(),
                path: None,
            })),
        }
    }

    pub async fn tell<T: Serialize>(&self, question: impl Future<Output = Result<T, ApiError>>) -> Answer {
        let value = self.ask(question).await?;
        Ok(reply(StatusCode::OK, &value))
    }

    /// Tells about the configuration of a service or of the whole, with its version; nothing else if the peer has that.
    ///
    /// The version is asked for first: if something changes in between, it is too old for what goes with it, and a change that
    /// presupposes it is refused, rather than too new.
    pub async fn tell_version<T: Serialize>(
        &self,
        headers: &HeaderMap,
        scope: Option<ServiceId>,
        question: impl Future<Output = Result<T, ApiError>>,
    ) -> Answer {
        let version = self.ask(self.core.version(scope)).await?;
        if is_known(headers, &version)? {
            return Ok(tagged(StatusCode::NOT_MODIFIED.into_response(), &version));
        }
        Ok(tagged(self.tell(question).await?, &version))
    }

    /// Applies the one operation of a request. The core's error path starts with the operation's index, `[0]`, and the
    /// member that holds the body; the peer sent just the body.
    pub async fn apply(&self, asked: Asked, scope: Option<ServiceId>, operation: Operation) -> Answer {
        let applied = self.apply_all(asked, scope, vec![operation]).await;
        applied.map_err(|refusal| refusal.map_path(within_body))
    }

    /// Applies operations; the answer has the version that they led to.
    pub async fn apply_all(&self, asked: Asked, scope: Option<ServiceId>, operations: Vec<Operation>) -> Answer {
        let version = self.ask(self.core.apply(asked.batch(scope, operations))).await?;
        let done = StatusCode::NO_CONTENT.into_response();
        Ok(if version.is_empty() { done } else { tagged(done, &version) })
    }
}

/// `[0].service.servers[1].weight` as the sender of a service knows it: `servers[1].weight`.
fn within_body(path: &str) -> String {
    let path = path.strip_prefix("[0]").unwrap_or(path);
    let path = path.strip_prefix('.').unwrap_or(path);
    let body = ["service.", "server.", "settings.", "timeouts.", "rules", "values."]
        .iter()
        .find_map(|member| path.strip_prefix(member));
    body.unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::within_body;

    #[test]
    fn paths_are_those_of_the_body() {
        for (path, expected) in [
            ("[0].service.servers[1].weight", "servers[1].weight"),
            ("[0].server.weight", "weight"),
            ("[0].timeouts.tcp", "tcp"),
            ("[0].address", "address"),
            ("[0]", ""),
        ] {
            assert_eq!(within_body(path), expected);
        }
    }
}
