//! The paths of the API. Every handler turns a request into operations or a question for the core; nothing else
//! happens here.

use std::collections::BTreeMap;
use std::future::Future;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use dpvs_api::{ApiError, ErrorKind, MarkRule, NewLocalAddress, Operation, Server, Service, ServiceSettings, Timeouts};
use serde::{Deserialize, Serialize};

use super::input::{Refusal, ip_address, json, service_id, socket_address};
use super::{Limits, reply};
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
struct Api {
    core: CoreHandle,
    limits: Limits,
}

/// All paths, with JSON answers for the wrong ones too.
pub(super) fn router(core: CoreHandle, limits: Limits) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/drops", get(drops))
        .route("/v1/workers", get(workers))
        .route("/v1/ports", get(ports))
        .route("/v1/connections", get(connections))
        .route("/v1/timeouts", get(timeouts).put(set_timeouts))
        .route("/v1/sysctls", get(sysctls).put(set_sysctls))
        .route("/v1/marks", get(marks).put(set_marks))
        .route("/v1/zero", post(zero))
        .route("/v1/batch", post(batch))
        .route("/v1/services", get(services).post(add_service).delete(clear))
        .route("/v1/services/{protocol}/{address}/{port}", get(service).put(edit_service).delete(delete_service))
        .route("/v1/services/{protocol}/{address}/{port}/zero", post(zero_service))
        .route("/v1/services/{protocol}/{address}/{port}/servers", post(add_server))
        .route(
            "/v1/services/{protocol}/{address}/{port}/servers/{server}/{server_port}",
            put(edit_server).delete(delete_server),
        )
        .route("/v1/services/{protocol}/{address}/{port}/local-addresses", post(add_local_address))
        .route("/v1/services/{protocol}/{address}/{port}/local-addresses/{local}", delete(delete_local_address))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Api { core, limits })
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageRequest {
    cursor: Option<String>,
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
