//! gRPC's health service: `grpc.health.v1.Health/Check` over HTTP/2
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
//!
//! Its two messages have one field each, so they are written and read by hand.

use dpvs_api::GrpcProbe;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::Attendant;
use super::{Failure, Run, Stream, socket, tls};
use crate::health::target::Spec;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// Most bytes of an answer.
const MAX_ANSWER: usize = 4096;
/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;

pub(super) async fn run(run: &Run<'_>, probe: &GrpcProbe) -> Result<(), Failure> {
    let stream = socket::connect(run).await?;
    match &probe.tls {
        None => exchange(stream, run.spec, probe).await,
        Some(settings) => {
            let stream = tls::connect(stream, run, settings, probe.host.as_deref(), &[b"h2"]).await?;
            exchange(stream, run.spec, probe).await
        }
    }
}

async fn exchange(stream: impl Stream + 'static, spec: &Spec, probe: &GrpcProbe) -> Result<(), Failure> {
    let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let _connection = Attendant::of(connection);
    let host = probe.host.clone().unwrap_or_else(|| spec.asked().to_string());
    let scheme = if probe.tls.is_some() { "https" } else { "http" };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{host}{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(message(&probe.service))))
        .map_err(|error| Failure::unexpected(format!("the request cannot be made: {error}")))?;
    judge(sender.send_request(request).await?).await
}

/// A `HealthCheckRequest` with gRPC's prefix: not compressed, length in network byte order.
fn message(service: &str) -> Vec<u8> {
    let mut field = Vec::new();
    if !service.is_empty() {
        // Field 1, a string.
        field.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0];
    message.extend_from_slice(&(field.len() as u32).to_be_bytes());
    message.extend_from_slice(&field);
    message
}

async fn judge(response: Response<Incoming>) -> Result<(), Failure> {
    if !response.status().is_success() {
        return Err(Failure::unexpected(format!("status {}", response.status())));
    }
    // An answer without data has the status among its headers.
    grpc_status(response.headers())?;
    let mut body = response.into_body();
    let mut data = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        match frame.into_data() {
            Ok(more) if data.len() + more.len() <= MAX_ANSWER => data.extend_from_slice(&more),
            Ok(_) => return Err(Failure::unexpected("the answer is too long for one of the health service")),
            Err(frame) => grpc_status(&frame.into_trailers().unwrap_or_default())?,
        }
    }
    match serving_status(&data) {
        Some(SERVING) => Ok(()),
        Some(0) => Err(Failure::unexpected("the service's health is UNKNOWN")),
        Some(2) => Err(Failure::unexpected("the service is NOT_SERVING")),
        Some(3) => Err(Failure::unexpected("the service is SERVICE_UNKNOWN")),
        Some(other) => Err(Failure::unexpected(format!("the service's health is {other}"))),
        None => Err(Failure::unexpected("the answer is none of the health service")),
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(status) => {
            Err(Failure::unexpected(format!("gRPC status {status}: {}", text("grpc-message").unwrap_or_default())))
        }
    }
}

/// Field 1 of a `HealthCheckResponse`; an absent one is 0, as protocol buffers have it.
fn serving_status(data: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], mut rest) = data.split_first_chunk::<5>()? else { return None };
    if rest.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = varint(&mut rest)?.try_into().ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_protocol_buffers() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("a.b"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'b']);
        assert_eq!(message(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        for (data, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 6, 0x12, 2, b'a', b'b', 8, 2], Some(2)),
            (&[0, 0, 0, 0, 3, 8, 0x81, 1], Some(129)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 2, 0x12, 9], None),
            (&[], None),
        ] {
            assert_eq!(serving_status(data), expected, "{data:?}");
        }
    }
}
