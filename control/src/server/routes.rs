//! The paths of the API. Every handler turns a request into operations or a question for the core; nothing else
//! happens here.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dpvs_api::{
    ApiError, ConnectionPage, DropCount, ErrorKind, MarkRule, NewLocalAddress, Operation, PortStats, Server, Service,
    ServiceSettings, ServiceStatus, Status, Sysctls, Timeouts, WorkerStats,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{Endpoint, delete, get, post, put};
use super::input::{Refusal, ip_address, json, service_id, socket_address};
use super::{Limits, openapi, reply};
use crate::core::CoreHandle;

/// Connections in a page if the request does not say.
const PAGE: usize = 1000;
/// Connections in a page at most.
const PAGE_MAX: usize = 10_000;

type Answer = Result<Response, Refusal>;
type Segments3 = Path<(String, String, String)>;
type Segments4 = Path<(String, String, String, String)>;
type Segments5 = Path<(String, String, String, String, String)>;

/// What every handler needs.
#[derive(Clone)]
pub(super) struct Api {
    core: CoreHandle,
    limits: Limits,
}

const SERVICE: &str = "/v1/services/{protocol}/{address}/{port}";
const SERVICE_ZERO: &str = "/v1/services/{protocol}/{address}/{port}/zero";
const SERVERS: &str = "/v1/services/{protocol}/{address}/{port}/servers";
const SERVER: &str = "/v1/services/{protocol}/{address}/{port}/servers/{server}/{server_port}";
const LOCAL_ADDRESSES: &str = "/v1/services/{protocol}/{address}/{port}/local-addresses";
const LOCAL_ADDRESS: &str = "/v1/services/{protocol}/{address}/{port}/local-addresses/{local}";

/// All that the API can do. What is not here is not served.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get(openapi::PATH, openapi, "getOpenApi", "This document").gives_other("application/json"),
        get("/v1/status", status, "getStatus", "The daemon as a whole").gives::<Status>(),
        get("/v1/drops", drops, "getDrops", "Packets dropped, by reason").gives::<Vec<DropCount>>(),
        get("/v1/workers", workers, "getWorkers", "What each worker did").gives::<Vec<WorkerStats>>(),
        get("/v1/ports", ports, "getPorts", "DPDK ports with their counters").gives::<Vec<PortStats>>(),
        get("/v1/connections", connections, "getConnections", "Tracked connections, page by page")
            .described("Connections that come or go meanwhile may be listed or not.")
            .queried::<PageRequest>()
            .gives::<ConnectionPage>(),
        get("/v1/timeouts", timeouts, "getTimeouts", "Connection timeouts in force").gives::<Timeouts>(),
        put("/v1/timeouts", set_timeouts, "setTimeouts", "Set connection timeouts")
            .described("0 leaves a timeout as it is.")
            .takes::<Timeouts>(),
        get("/v1/sysctls", sysctls, "getSysctls", "Run-time settings in force").gives::<Sysctls>(),
        put("/v1/sysctls", set_sysctls, "setSysctls", "Set run-time settings")
            .described("Those that are not named stay as they are.")
            .takes::<Sysctls>(),
        get("/v1/marks", marks, "getMarks", "Rules that give packets firewall marks, in order")
            .gives::<Vec<MarkRule>>(),
        put("/v1/marks", set_marks, "setMarks", "Replace the rules that give packets firewall marks")
            .takes::<Vec<MarkRule>>(),
        post("/v1/zero", zero, "zero", "Set all statistics to zero"),
        post("/v1/batch", batch, "applyBatch", "Apply operations, all of them or none")
            .described("Workers see all of them at once. An error's path begins with the index of its operation.")
            .takes::<Vec<Operation>>(),
        get("/v1/services", services, "getServices", "All services with their servers").gives::<Vec<ServiceStatus>>(),
        post("/v1/services", add_service, "addService", "Add a service, servers included").takes::<Service>(),
        delete("/v1/services", clear, "clear", "Delete all services"),
        get(SERVICE, service, "getService", "A service with its servers").gives::<ServiceStatus>(),
        put(SERVICE, edit_service, "editService", "Replace the settings of a service")
            .described("Servers, local addresses and connections stay.")
            .takes::<ServiceSettings>(),
        delete(SERVICE, delete_service, "deleteService", "Delete a service with its servers"),
        post(SERVICE_ZERO, zero_service, "zeroService", "Set the statistics of a service and its servers to zero"),
        post(SERVERS, add_server, "addServer", "Add a server").takes::<Server>(),
        put(SERVER, edit_server, "editServer", "Replace the settings of a server")
            .described("The body's address must be that of the path.")
            .takes::<Server>(),
        delete(SERVER, delete_server, "deleteServer", "Delete a server")
            .described("Packets of its connections are dropped from then on."),
        post(LOCAL_ADDRESSES, add_local_address, "addLocalAddress", "Add a source address for FULLNAT servers")
            .takes::<NewLocalAddress>(),
        delete(
            LOCAL_ADDRESS,
            delete_local_address,
            "deleteLocalAddress",
            "Delete a source address; its connections go on",
        ),
    ]
}

/// All endpoints, with JSON answers for wrong paths and methods too.
pub(super) fn router(core: CoreHandle, limits: Limits) -> Router {
    let routes = endpoints().into_iter().fold(Router::new(), |router, e| router.route(e.path, e.route));
    routes.fallback(not_found).method_not_allowed_fallback(wrong_method).with_state(Api { core, limits })
}

/// It is the same as long as the program is.
async fn openapi() -> Response {
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
    async fn ask<T>(&self, question: impl Future<Output = Result<T, ApiError>>) -> Result<T, Refusal> {
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

    async fn tell<T: Serialize>(&self, question: impl Future<Output = Result<T, ApiError>>) -> Answer {
        let value = self.ask(question).await?;
        Ok(reply(StatusCode::OK, &value))
    }

    /// Applies the one operation of a request. The core's error path starts with the operation's index, `[0]`, and the
    /// member that holds the body; the peer sent just the body.
    async fn apply(&self, operation: Operation) -> Answer {
        let applied = self.ask(self.core.apply(vec![operation])).await;
        applied.map_err(|refusal| refusal.map_path(within_body))?;
        Ok(StatusCode::NO_CONTENT.into_response())
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

async fn status(State(api): State<Api>) -> Answer {
    api.tell(api.core.status()).await
}

async fn drops(State(api): State<Api>) -> Answer {
    api.tell(api.core.drops()).await
}

async fn workers(State(api): State<Api>) -> Answer {
    api.tell(api.core.workers()).await
}

async fn ports(State(api): State<Api>) -> Answer {
    api.tell(api.core.ports()).await
}

async fn timeouts(State(api): State<Api>) -> Answer {
    api.tell(api.core.timeouts()).await
}

async fn set_timeouts(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let timeouts: Timeouts = json(api.limits, &headers, body).await?;
    api.apply(Operation::SetTimeouts { timeouts }).await
}

async fn sysctls(State(api): State<Api>) -> Answer {
    api.tell(api.core.sysctls()).await
}

async fn set_sysctls(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let values: BTreeMap<String, u32> = json(api.limits, &headers, body).await?;
    api.apply(Operation::SetSysctls { values }).await
}

async fn marks(State(api): State<Api>) -> Answer {
    api.tell(api.core.marks()).await
}

async fn set_marks(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let rules: Vec<MarkRule> = json(api.limits, &headers, body).await?;
    api.apply(Operation::SetMarks { rules }).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PageRequest {
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
    /// Connections in the page, at most; 1000 if absent.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    limit: Option<usize>,
}

async fn connections(State(api): State<Api>, query: Result<Query<PageRequest>, QueryRejection>) -> Answer {
    let Query(page) = query.map_err(|error| Refusal::invalid(format!("query: {}", error.body_text())))?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refusal::invalid(format!("limit {limit} is out of range: use 1 to {PAGE_MAX}")));
    }
    api.tell(api.core.connections(page.cursor, limit)).await
}

async fn services(State(api): State<Api>) -> Answer {
    api.tell(api.core.services()).await
}

async fn service(State(api): State<Api>, Path((protocol, address, port)): Segments3) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.tell(api.core.service(id)).await
}

async fn add_service(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let service: Service = json(api.limits, &headers, body).await?;
    api.apply(Operation::AddService { service }).await
}

async fn edit_service(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let settings: ServiceSettings = json(api.limits, &headers, body).await?;
    api.apply(Operation::EditService { service: id, settings }).await
}

async fn delete_service(State(api): State<Api>, Path((protocol, address, port)): Segments3) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.apply(Operation::DeleteService { service: id }).await
}

async fn clear(State(api): State<Api>) -> Answer {
    api.apply(Operation::Clear).await
}

async fn add_server(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let server: Server = json(api.limits, &headers, body).await?;
    api.apply(Operation::AddServer { service: id, server }).await
}

async fn edit_server(
    State(api): State<Api>,
    Path((protocol, address, port, server, server_port)): Segments5,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let named = socket_address(&server, &server_port)?;
    let server: Server = json(api.limits, &headers, body).await?;
    if server.address != named {
        let message = format!(
            "the path names server {named}, the body {}: a server's address cannot be edited; add the new one and delete the old",
            server.address
        );
        return Err(ApiError { kind: ErrorKind::Invalid, message, path: Some("address".into()) }.into());
    }
    api.apply(Operation::EditServer { service: id, server }).await
}

async fn delete_server(
    State(api): State<Api>,
    Path((protocol, address, port, server, server_port)): Segments5,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let server = socket_address(&server, &server_port)?;
    api.apply(Operation::DeleteServer { service: id, server }).await
}

async fn add_local_address(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let NewLocalAddress { address: local_address, interface } = json(api.limits, &headers, body).await?;
    api.apply(Operation::AddLocalAddress { service: id, local_address, interface }).await
}

async fn delete_local_address(State(api): State<Api>, Path((protocol, address, port, local)): Segments4) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let local_address = ip_address(&local)?;
    api.apply(Operation::DeleteLocalAddress { service: id, local_address }).await
}

async fn zero(State(api): State<Api>) -> Answer {
    api.apply(Operation::Zero { service: None }).await
}

async fn zero_service(State(api): State<Api>, Path((protocol, address, port)): Segments3) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.apply(Operation::Zero { service: Some(id) }).await
}

async fn batch(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let operations: Vec<Operation> = json(api.limits, &headers, body).await?;
    api.ask(api.core.apply(operations)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
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
