//! The HTTP/JSON API on Unix sockets, and over TCP with TLS.
//!
//! `curl --unix-socket /run/dpvs/dpvsd.sock http://dpvsd/v1/services` works, and so do `dpvs-ctl` and `ipvsadm`, which
//! use nothing else. A peer can neither stall the daemon nor make it grow: connections, their lifetime, header time,
//! body size and body time are bounded, and a peer that is slow delays only itself.
//!
//! `routes` has the table of all that there is.

mod access;
mod config;
mod director;
mod endpoint;
#[cfg(test)]
mod event_tests;
mod events;
mod input;
mod metrics;
mod openapi;
mod routes;
mod services;
mod socket;
mod tags;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dpvs_api::{ApiError, ErrorKind};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use self::access::{Peer, Role};
pub use self::metrics::serve_metrics;
pub use self::socket::{BindError, Socket};
pub use self::tls::{Tls, TlsError, TlsListener};
use crate::core::CoreHandle;
use crate::metrics::Extent;
use crate::reconcile::Reconciler;

/// What a peer may use. The defaults suit a daemon; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the socket's backlog.
    pub connections: usize,
    /// Bytes of a request body. 16 MiB hold a batch of some 100 000 operations.
    pub body: usize,
    /// Time for the header of a request, counted from the end of the request before.
    pub header_time: Duration,
    /// Time for the body of a request, and then again for the daemon's work on it.
    pub request_time: Duration,
    /// Time a connection lasts, unless it follows events.
    pub lifetime: Duration,
    /// Time within which a peer must read some of what is sent to it; it is cut off then.
    pub write_time: Duration,
    /// Peers that follow events at a time; these connections count among the others as well.
    pub streams: usize,
    /// Time between signs of life in a stream without events.
    pub keep_alive: Duration,
    /// Time that running requests get when the daemon stops.
    pub drain: Duration,
    /// How much `/metrics` shows.
    pub metrics: Extent,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            body: 16 << 20,
            header_time: Duration::from_secs(10),
            request_time: Duration::from_secs(10),
            lifetime: Duration::from_secs(120),
            write_time: Duration::from_secs(30),
            streams: 16,
            keep_alive: Duration::from_secs(15),
            drain: Duration::from_secs(2),
            metrics: Extent::default(),
        }
    }
}

/// Where peers come in.
#[derive(Debug)]
pub enum Door {
    /// From this machine.
    Unix(Socket),
    /// From elsewhere.
    Tls(TlsListener),
}

/// Somebody who came in.
enum Caller {
    Unix { stream: UnixStream, group: u32, role: Role },
    Tls { stream: TcpStream, tls: watch::Receiver<Arc<Tls>> },
}

impl Door {
    async fn accept(&self) -> io::Result<Caller> {
        match self {
            Door::Unix(socket) => {
                let stream = socket.accept().await?;
                Ok(Caller::Unix { stream, group: socket.gid(), role: socket.role() })
            }
            Door::Tls(listener) => {
                let (stream, tls) = listener.accept().await?;
                Ok(Caller::Tls { stream, tls })
            }
        }
    }
}

/// Serves the API until `shutdown` is ready, then lets running requests finish for [`Limits::drain`]. Each door has the limits
/// for itself.
pub async fn serve(
    limits: Limits,
    doors: Vec<Door>,
    core: CoreHandle,
    config: Reconciler,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes::router(core, config, limits);
    let (stop, stopping) = watch::channel(());
    let open = doors.into_iter().map(|door| serve_door(limits, router.clone(), door, stopping.clone()));
    let open = futures_util::future::join_all(open);
    tokio::join!(open, async {
        shutdown.await;
        drop(stop);
    });
}

async fn serve_door(limits: Limits, router: Router, door: Door, stopping: watch::Receiver<()>) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut stop = stopping.clone();
    loop {
        // The permit comes first: without one, the peer stays in the backlog and costs nothing here.
        let accepted = async {
            let permit = Arc::clone(&slots).acquire_owned().await;
            (permit, door.accept().await)
        };
        tokio::select! {
            _ = stop.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = accepted => match accepted {
                Ok(caller) => {
                    let (router, stopping) = (router.clone(), stopping.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        serve_caller(limits, router, caller, stopping).await;
                    });
                }
                Err(error) => {
                    // Out of descriptors, say: wait rather than spin on it.
                    tracing::warn!("API: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limits.drain, finished).await;
}

/// Finds out who it is, and serves it.
async fn serve_caller(limits: Limits, router: Router, caller: Caller, mut stopping: watch::Receiver<()>) {
    match caller {
        Caller::Unix { stream, group, role } => {
            let author = access::check(&stream, group).await;
            let peer = author.map(|author| Peer::new(author, role, stopping.clone()));
            serve_connection(limits, router, stream, peer, stopping).await;
        }
        Caller::Tls { stream, mut tls } => {
            let current = Arc::clone(&tls.borrow_and_update());
            let accepted = match tokio::time::timeout(limits.header_time, current.accept(stream)).await {
                Ok(accepted) => accepted,
                Err(_) => return tracing::debug!("API: no TLS handshake within {:?}", limits.header_time),
            };
            let (stream, author, role) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => return tracing::debug!("API: TLS handshake failed: {error}"),
            };
            // Certificates that are replaced may no longer be good for anything: the connection ends as if the daemon did.
            let (end, ending) = watch::channel(());
            let peer = Ok(Peer::new(author, role, ending.clone()));
            let replaced = async {
                tokio::select! {
                    _ = stopping.changed() => {}
                    _ = tls.changed() => {}
                }
                drop(end);
                std::future::pending().await
            };
            tokio::select! {
                () = serve_connection(limits, router, stream, peer, ending) => {}
                () = replaced => {}
            }
        }
    }
}

/// Answers the requests of one peer until it leaves, its time is up, or `stopping` closes.
async fn serve_connection(
    limits: Limits,
    router: Router,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    peer: Result<Peer, ApiError>,
    mut stopping: watch::Receiver<()>,
) {
    let served = peer.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, peer) = (router.clone(), served.clone());
        async move {
            Ok::<_, Infallible>(match peer {
                Err(error) => reply_error(&error),
                Ok(peer) => answer(router, peer, request.map(Body::new)).await,
            })
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_time));
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let ended = async {
        tokio::select! {
            ended = &mut connection => return ended,
            _ = stopping.changed() => std::pin::Pin::new(&mut connection).graceful_shutdown(),
        }
        (&mut connection).await
    };
    let time_is_up = async {
        tokio::time::sleep(limits.lifetime).await;
        if peer.is_ok_and(|peer| peer.outlives()) {
            std::future::pending().await
        }
    };
    // A peer that breaks off or sends garbage is its own problem; hyper has answered 400 where it could.
    tokio::select! {
        ended = ended => match ended {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!("API: connection ended: {error}");
                // A peer that was only idle is told that this is the end, which TLS does not take from a closed connection.
                let mut stream = connection.into_parts().io.into_inner();
                let _ = tokio::time::timeout(limits.header_time, stream.shutdown()).await;
            }
        },
        () = time_is_up => tracing::debug!("API: connection cut off after {:?}", limits.lifetime),
    }
}

/// The answer to a request, which is logged.
async fn answer(router: Router, peer: Peer, mut request: Request) -> Response {
    let (asked, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    let author = peer.author.clone();
    request.extensions_mut().insert(peer);
    let response = route(router, request).await;
    let milliseconds = asked.elapsed().as_secs_f64() * 1e3;
    // What a peer sends does not get into the log unescaped.
    tracing::debug!("API: {author}: {method} {path:?}: {}, {milliseconds:.1} ms", response.status().as_u16());
    response
}

/// The router's answer, with the few errors that axum words itself (a path that is not UTF-8, say) made JSON.
async fn route(router: Router, request: Request) -> Response {
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if !response.status().is_client_error() || is_json {
        return response;
    }
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), 1024).await.unwrap_or_default();
    let message = String::from_utf8_lossy(&text).into_owned();
    reply(status, &ApiError { kind: ErrorKind::Invalid, message, path: None })
}

/// The status that goes with a kind of error.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::Full => StatusCode::CONFLICT,
        ErrorKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn reply_error(error: &ApiError) -> Response {
    reply(status_of(error.kind), error)
}

/// A JSON answer that ends with a newline, so that `curl` leaves the shell's prompt alone.
fn reply(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let (status, mut body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        // No type of the API fails to serialize (string keys only); if one ever does, say so rather than panic.
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{{\"kind\":\"internal\",\"message\":\"{error}\"}}").into_bytes(),
        ),
    };
    body.push(b'\n');
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, headers, body).into_response()
}
