//! Handlers about services.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use dpvs_api::{
    ApiError, ErrorKind, NewLocalAddress, Operation, Server, Service, ServiceId, ServicePage, ServiceSettings,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::input::{Refusal, ip_address, json, limit, query, service_id, socket_address};
use super::routes::{Answer, Api};
use super::tags::Asked;

/// Services in a page if the request does not say, and at most.
const PAGE: usize = 1000;
/// Services that the core is asked for at a time, so that others have their turns in between.
const PART: usize = 100;

type Segments3 = Path<(String, String, String)>;
type Segments4 = Path<(String, String, String, String)>;
type Segments5 = Path<(String, String, String, String, String)>;

/// Which services to list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceQuery {
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
    /// Services in the page, at most; 1000 if absent.
    #[schemars(range(min = 1, max = PAGE))]
    limit: Option<usize>,
}

pub(super) async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    asked: Result<Query<ServiceQuery>, QueryRejection>,
) -> Answer {
    let page = query(asked)?;
    let count = limit(page.limit, PAGE, PAGE)?;
    let after: Option<ServiceId> = match &page.cursor {
        Some(cursor) => Some(cursor.parse().map_err(|_| {
            Refusal::invalid(format!("cursor '{cursor}' is none: take it from `next` of the page before"))
        })?),
        None => None,
    };
    api.tell_version(&headers, None, list_page(&api, after, count)).await
}

async fn list_page(api: &Api, mut after: Option<ServiceId>, count: usize) -> Result<ServicePage, ApiError> {
    let mut services = Vec::new();
    loop {
        let (part, more) = api.core.services_after(after, PART.min(count - services.len())).await?;
        services.extend(part);
        after = services.last().map(|status| status.service.id);
        if !more || services.len() >= count {
            return Ok(ServicePage { services, next: after.filter(|_| more).map(|id| id.to_string()) });
        }
    }
}

pub(super) async fn show(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    headers: HeaderMap,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.tell_version(&headers, Some(id), api.core.service(id)).await
}

pub(super) async fn add(State(api): State<Api>, asked: Asked, headers: HeaderMap, body: Body) -> Answer {
    let service: Service = json(api.limits, &headers, body).await?;
    api.apply(asked, None, Operation::AddService { service }).await
}

pub(super) async fn edit(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let settings: ServiceSettings = json(api.limits, &headers, body).await?;
    api.apply(asked, Some(id), Operation::EditService { service: id, settings }).await
}

pub(super) async fn remove(State(api): State<Api>, Path((protocol, address, port)): Segments3, asked: Asked) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.apply(asked, Some(id), Operation::DeleteService { service: id }).await
}

pub(super) async fn clear(State(api): State<Api>, asked: Asked) -> Answer {
    api.apply(asked, None, Operation::Clear).await
}

pub(super) async fn add_server(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let server: Server = json(api.limits, &headers, body).await?;
    api.apply(asked, Some(id), Operation::AddServer { service: id, server }).await
}

pub(super) async fn edit_server(
    State(api): State<Api>,
    Path((protocol, address, port, server, server_port)): Segments5,
    asked: Asked,
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
    api.apply(asked, Some(id), Operation::EditServer { service: id, server }).await
}

pub(super) async fn delete_server(
    State(api): State<Api>,
    Path((protocol, address, port, server, server_port)): Segments5,
    asked: Asked,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let server = socket_address(&server, &server_port)?;
    api.apply(asked, Some(id), Operation::DeleteServer { service: id, server }).await
}

pub(super) async fn add_local_address(
    State(api): State<Api>,
    Path((protocol, address, port)): Segments3,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let NewLocalAddress { address: local_address, interface } = json(api.limits, &headers, body).await?;
    api.apply(asked, Some(id), Operation::AddLocalAddress { service: id, local_address, interface }).await
}

pub(super) async fn delete_local_address(
    State(api): State<Api>,
    Path((protocol, address, port, local)): Segments4,
    asked: Asked,
) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    let local_address = ip_address(&local)?;
    api.apply(asked, Some(id), Operation::DeleteLocalAddress { service: id, local_address }).await
}

pub(super) async fn zero(State(api): State<Api>, Path((protocol, address, port)): Segments3, asked: Asked) -> Answer {
    let id = service_id(&protocol, &address, &port)?;
    api.apply(asked, Some(id), Operation::Zero { service: Some(id) }).await
}
