//! Handlers about the director as a whole.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use dpvs_api::{MarkRule, Operation, Timeouts};
use schemars::JsonSchema;
use serde::Deserialize;

use super::input::{json, limit, query};
use super::routes::{Answer, Api};
use super::tags::Asked;

/// Connections in a page if the request does not say.
const PAGE: usize = 1000;
/// Connections in a page at most.
const PAGE_MAX: usize = 10_000;

pub(super) async fn status(State(api): State<Api>) -> Answer {
    api.tell(api.core.status()).await
}

pub(super) async fn drops(State(api): State<Api>) -> Answer {
    api.tell(api.core.drops()).await
}

pub(super) async fn workers(State(api): State<Api>) -> Answer {
    api.tell(api.core.workers()).await
}

pub(super) async fn ports(State(api): State<Api>) -> Answer {
    api.tell(api.core.ports()).await
}

pub(super) async fn metrics(State(api): State<Api>) -> Answer {
    api.metrics.answer().await
}

pub(super) async fn timeouts(State(api): State<Api>, headers: HeaderMap) -> Answer {
    api.tell_version(&headers, None, api.core.timeouts()).await
}

pub(super) async fn set_timeouts(State(api): State<Api>, asked: Asked, headers: HeaderMap, body: Body) -> Answer {
    let timeouts: Timeouts = json(api.limits, &headers, body).await?;
    api.apply(asked, None, Operation::SetTimeouts { timeouts }).await
}

pub(super) async fn sysctls(State(api): State<Api>, headers: HeaderMap) -> Answer {
    api.tell_version(&headers, None, api.core.sysctls()).await
}

pub(super) async fn set_sysctls(State(api): State<Api>, asked: Asked, headers: HeaderMap, body: Body) -> Answer {
    let values: BTreeMap<String, u32> = json(api.limits, &headers, body).await?;
    api.apply(asked, None, Operation::SetSysctls { values }).await
}

pub(super) async fn marks(State(api): State<Api>, headers: HeaderMap) -> Answer {
    api.tell_version(&headers, None, api.core.marks()).await
}

pub(super) async fn set_marks(State(api): State<Api>, asked: Asked, headers: HeaderMap, body: Body) -> Answer {
    let rules: Vec<MarkRule> = json(api.limits, &headers, body).await?;
    api.apply(asked, None, Operation::SetMarks { rules }).await
}

/// Which connections to list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    /// Where to go on: `next` of the page before.
    cursor: Option<String>,
    /// Connections in the page, at most; 1000 if absent.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    limit: Option<usize>,
}

pub(super) async fn connections(
    State(api): State<Api>,
    asked: Result<Query<ConnectionQuery>, QueryRejection>,
) -> Answer {
    let page = query(asked)?;
    api.tell(api.core.connections(page.cursor, limit(page.limit, PAGE, PAGE_MAX)?)).await
}

pub(super) async fn zero(State(api): State<Api>, asked: Asked) -> Answer {
    api.apply(asked, None, Operation::Zero { service: None }).await
}

pub(super) async fn batch(State(api): State<Api>, asked: Asked, headers: HeaderMap, body: Body) -> Answer {
    let operations: Vec<Operation> = json(api.limits, &headers, body).await?;
    api.apply_all(asked, None, operations).await
}
