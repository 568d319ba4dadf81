//! HTTP: a request, and what status and body are to be (keepalived's `HTTP_GET` and `SSL_GET`).

use dpvs_api::{Digest, HttpProbe, HttpVersion};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use md5::Digest as _;

use super::{Failure, Run, Stream, socket, tls};
use crate::health::target::{Spec, body_pattern};

/// Of a body, so many bytes are matched with expressions; a digest is that of all of it.
const MAX_BODY: usize = 1 << 20;

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const HTTP2: &[&[u8]] = &[b"h2"];

pub(super) async fn run(run: &Run<'_>, probe: &HttpProbe) -> Result<(), Failure> {
    let stream = socket::connect(run).await?;
    let protocols = if probe.version == HttpVersion::Http2 { HTTP2 } else { HTTP1 };
    match &probe.tls {
        None => exchange(stream, run.spec, probe).await,
        Some(settings) => {
            let stream = tls::connect(stream, run, settings, probe.host.as_deref(), protocols).await?;
            exchange(stream, run.spec, probe).await
        }
    }
}

async fn exchange(stream: impl Stream + 'static, spec: &Spec, probe: &HttpProbe) -> Result<(), Failure> {
    let request = request(spec, probe)?;
    let io = TokioIo::new(stream);
    if probe.version == HttpVersion::Http2 {
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await?;
        let _connection = Attendant::of(connection);
        judge(sender.send_request(request).await?, probe).await
    } else {
        let (mut sender, connection) = conn::http1::handshake(io).await?;
        let _connection = Attendant::of(connection);
        judge(sender.send_request(request).await?, probe).await
    }
}

/// A task that keeps a connection going as long as somebody needs it.
pub(super) struct Attendant(tokio::task::AbortHandle);

impl Attendant {
    pub fn of<T: Send + 'static>(connection: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(connection).abort_handle())
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(spec: &Spec, probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = probe.host.clone().unwrap_or_else(|| spec.asked().to_string());
    let is_http2 = probe.version == HttpVersion::Http2;
    let uri = match is_http2 {
        // HTTP/2 has the host in the pseudo-header :authority.
        true => format!("{}://{host}{}", if probe.tls.is_some() { "https" } else { "http" }, probe.path),
        false => probe.path.clone(),
    };
    let version = match probe.version {
        HttpVersion::Http10 => Version::HTTP_10,
        HttpVersion::Http11 => Version::HTTP_11,
        HttpVersion::Http2 => Version::HTTP_2,
    };
    let mut request = Request::builder().method(probe.method.name()).uri(uri).version(version);
    request = request.header(USER_AGENT, concat!("dpvsd/", env!("CARGO_PKG_VERSION")));
    if !is_http2 {
        request = request.header(HOST, host).header(CONNECTION, "close");
    }
    // One of the same name replaces what stands there.
    let mut request = request
        .body(Empty::new())
        .map_err(|error| Failure::unexpected(format!("the request cannot be made: {error}")))?;
    for (name, value) in &probe.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request)
}

async fn judge(response: Response<Incoming>, probe: &HttpProbe) -> Result<(), Failure> {
    let status = response.status();
    let code = status.as_u16();
    let is_expected = match probe.status.as_slice() {
        [] => status.is_success(),
        ranges => ranges.iter().any(|range| range.contains(code)),
    };
    if !is_expected {
        return Err(Failure::unexpected(format!("status {status}")));
    }
    if probe.body.is_none() && probe.body_not.is_none() && probe.digest.is_none() {
        return Ok(());
    }
    let (body, digest) = body(response.into_body(), probe.digest.as_ref()).await?;
    let finds = |pattern: &str| body_pattern(pattern).is_ok_and(|pattern| pattern.is_match(&body));
    if let Some(pattern) = &probe.body
        && !finds(pattern)
    {
        return Err(Failure::unexpected(format!("status {code}, but the body does not match '{pattern}'")));
    }
    if let Some(pattern) = &probe.body_not
        && finds(pattern)
    {
        return Err(Failure::unexpected(format!("status {code}, but the body matches '{pattern}'")));
    }
    match digest {
        Some(got) if Some(&got) != probe.digest.as_ref() => {
            Err(Failure::unexpected(format!("status {code}, but the body's digest is {got}")))
        }
        _ => Ok(()),
    }
}

/// Computes a digest piece by piece.
enum Hash {
    Md5(md5::Md5),
    Sha256(sha2::Sha256),
}

impl Hash {
    /// For a digest of this kind.
    fn like(digest: &Digest) -> Self {
        match digest {
            Digest::Md5(_) => Hash::Md5(md5::Md5::new()),
            Digest::Sha256(_) => Hash::Sha256(sha2::Sha256::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Hash::Md5(hash) => hash.update(data),
            Hash::Sha256(hash) => hash.update(data),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Hash::Md5(hash) => Digest::Md5(hash.finalize().into()),
            Hash::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
        }
    }
}

/// The body's begin, as far as it counts, and the digest of all of it if one is expected.
async fn body(mut body: Incoming, expected: Option<&Digest>) -> Result<(Vec<u8>, Option<Digest>), Failure> {
    let mut bytes = Vec::new();
    let mut hash = expected.map(Hash::like);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            match &mut hash {
                Some(hash) => hash.update(&data),
                None if data.len() >= room => break,
                None => {}
            }
        }
    }
    Ok((bytes, hash.map(Hash::finish)))
}
