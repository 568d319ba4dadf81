//! `GET /metrics`: on the API's socket, and on a TCP listener of its own, which has nothing else.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Frame;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::Limits;
use super::input::Refusal;
use crate::core::CoreHandle;
use crate::metrics;

/// Bytes in a piece of the answer.
const PIECE: usize = 64 << 10;
/// Connections at a time to the TCP listener; further ones wait in its backlog.
const CONNECTIONS: usize = 16;
/// Pieces that may wait for a peer.
const PIECES: usize = 4;

/// What answering takes.
#[derive(Clone)]
pub(super) struct Metrics {
    core: CoreHandle,
    limits: Limits,
    /// One answer at a time is written: each has a thread.
    turn: Arc<Semaphore>,
}

impl Metrics {
    pub fn new(core: CoreHandle, limits: Limits) -> Self {
        Self { core, limits, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The metrics as they are now.
    pub async fn answer(&self) -> Result<Response, Refusal> {
        let extent = self.limits.metrics;
        let asked = async {
            let turn = Arc::clone(&self.turn).acquire_owned().await;
            (turn, self.core.scene(extent).await)
        };
        let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "others are being answered: try again later");
        let (turn, scene) = tokio::time::timeout(self.limits.request_time, asked).await.map_err(|_| busy())?;
        let scene = scene?;
        let (pieces, body) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut text = Text { piece: String::new(), pieces };
            // Fails when the peer leaves before the end.
            if metrics::render(scene, &mut text).is_ok() {
                _ = text.send();
            }
        });
        let headers = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
        Ok((headers, Body::new(Pieces(body))).into_response())
    }
}

/// Collects text and passes it on in pieces; waits while too many wait for the peer.
struct Text {
    piece: String,
    pieces: mpsc::Sender<Bytes>,
}

impl Text {
    fn send(&mut self) -> fmt::Result {
        let piece = std::mem::replace(&mut self.piece, String::with_capacity(PIECE + 256));
        self.pieces.blocking_send(piece.into()).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.piece.push_str(text);
        if self.piece.len() >= PIECE { self.send() } else { Ok(()) }
    }
}

/// The body of an answer that is still being written.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Serves `/metrics` alone, to everybody who can connect, until it is dropped.
pub async fn serve_metrics(limits: Limits, listener: TcpListener, core: CoreHandle) {
    let router = router(core, limits);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The permit comes first: without one, the peer stays in the backlog and costs nothing here.
        let accepted = async {
            let permit = Arc::clone(&slots).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        let _permit = permit;
                        serve_connection(limits, router, stream).await;
                    });
                }
                Err(error) => {
                    // Out of descriptors, say: wait rather than spin on it.
                    tracing::warn!("metrics: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn serve_connection(limits: Limits, router: Router, stream: TcpStream) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_time));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    // What a peer does wrong is its own problem.
    match tokio::time::timeout(limits.lifetime, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("metrics: connection ended: {error}"),
        Err(_) => tracing::debug!("metrics: connection cut off after {:?}", limits.lifetime),
    }
}

/// The paths of the TCP listener.
fn router(core: CoreHandle, limits: Limits) -> Router {
    let not_found = async |uri: Uri| {
        Refusal::new(StatusCode::NOT_FOUND, format!("there is no {}: the metrics are at /metrics", uri.path()))
    };
    Router::new()
        .route("/metrics", get(async |State(metrics): State<Metrics>| metrics.answer().await))
        .fallback(not_found)
        .with_state(Metrics::new(core, limits))
}
