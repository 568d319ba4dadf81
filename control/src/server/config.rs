//! Configuration files: compared with what runs, applied, and written.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dpvs_api::{ApiError, ConfigRefusal, ConfigSources, ErrorKind};

use super::input::{Refusal, json};
use super::routes::Api;
use super::tags::Asked;
use super::{reply, status_of};
use crate::reconcile::Refused;

/// What runs, as TOML.
pub(super) async fn export(State(api): State<Api>) -> Result<Response, Refusal> {
    let text = api.config.export().await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/toml"))], text).into_response())
}

/// What applying the sources would change.
pub(super) async fn diff(State(api): State<Api>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let sources = sources(&api, &headers, body).await?;
    Ok(api.config.compare(sources).await.map_or_else(refuse, |changes| reply(StatusCode::OK, &changes)))
}

/// Makes what runs as the sources say.
pub(super) async fn apply(
    State(api): State<Api>,
    asked: Asked,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let sources = sources(&api, &headers, body).await?;
    let applied = api.config.apply(sources, asked.batch(None, Vec::new())).await;
    Ok(applied.map_or_else(refuse, |changes| reply(StatusCode::OK, &changes)))
}

async fn sources(api: &Api, headers: &HeaderMap, body: Body) -> Result<ConfigSources, Refusal> {
    let sources: ConfigSources = json(api.limits, headers, body).await?;
    if sources.files.is_empty() {
        let message = "there is no file: give the path and the text of at least one".to_owned();
        return Err(ApiError { kind: ErrorKind::Invalid, message, path: Some("files".to_owned()) }.into());
    }
    Ok(sources)
}

fn refuse(refused: Refused) -> Response {
    let (error, errors) = match refused {
        Refused::Config(errors) => {
            let error = ApiError { kind: ErrorKind::Invalid, message: errors.to_string(), path: None };
            (error, errors.0)
        }
        Refused::Core(error, place) => (error, place.map(|place| *place).into_iter().collect()),
    };
    reply(status_of(error.kind), &ConfigRefusal { error, errors })
}
