//! `GET /v1/events`: what happens, as server-sent events (HTML standard, section 9.2).

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dpvs_api::{ApiError, ErrorKind};
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::access::Peer;
use super::input::Refusal;
use super::routes::Api;
use crate::events::Follower;

/// A stream that goes on until the peer leaves, reads too slowly, or the daemon stops.
pub(super) async fn follow(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
        let message = format!("{} peers follow events already: try again when one has left", api.limits.streams);
        ApiError { kind: ErrorKind::Unavailable, message, path: None }
    })?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let follower = api.core.events().follow(last);
    peer.outlive();
    let keep_alive = KeepAlive::new().interval(api.limits.keep_alive).text("keep-alive");
    let stream = stream(Following { follower, stopping: peer.stopping.clone(), _place: place });
    let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
    // The connection has outlived its time when the stream ends.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

struct Following {
    follower: Follower,
    stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Following {
    async fn next(&mut self) -> Option<Arc<dpvs_api::Event>> {
        tokio::select! {
            biased;
            event = self.follower.next() => event,
            _ = self.stopping.changed() => None,
        }
    }
}

fn stream(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(following, async |mut following| {
        let event = following.next().await?;
        // No type of the API fails to serialize.
        let data = serde_json::to_string(&*event).ok()?;
        Some((Ok(Event::default().id(&event.id).event(event.what.name()).data(data)), following))
    })
}
