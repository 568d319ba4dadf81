//! What comes from the peer: bodies, path segments and queries, each refused with a message that says where it is wrong.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dpvs_api::{ApiError, ErrorKind, Family, Protocol, ServiceId};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{Limits, reply, status_of};

/// An error answer: nearly always the status of its kind.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl Refusal {
    /// A request that is wrong in some way that has a status of its own.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::INTERNAL_SERVER_ERROR => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        };
        Self { status, error: ApiError { kind, message: message.into(), path: None } }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The same refusal with its JSON path as the peer knows it; none if nothing of it is left.
    pub(super) fn map_path(mut self, map: impl FnOnce(&str) -> String) -> Self {
        self.error.path = self.error.path.map(|path| map(&path)).filter(|path| !path.is_empty());
        self
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { status: status_of(error.kind), error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        reply(self.status, &self.error)
    }
}

/// Reads a JSON body within the limits.
pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
    limits: Limits,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    if !is_json(headers) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON and say so: send the header 'Content-Type: application/json'",
        ));
    }
    let body = read(limits.body, limits.request_time, body).await?;
    if body.len() < LARGE {
        return parse(&body);
    }
    match tokio::task::spawn_blocking(move || parse(&body)).await {
        Ok(parsed) => parsed,
        Err(_) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the body could not be read: please report this"))
        }
    }
}

/// Bytes from which on a body is parsed on a thread of its own, as it would delay others.
const LARGE: usize = 64 << 10;

/// `application/json` with or without parameters such as a character set.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}

async fn read(limit: usize, time: Duration, body: Body) -> Result<Vec<u8>, Refusal> {
    let collected = tokio::time::timeout(time, Limited::new(body, limit).collect()).await.map_err(|_| {
        let message = format!("the body did not arrive within {} s", time.as_secs_f32());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
    })?;
    match collected {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            let message = format!("the body is larger than {limit} bytes: send the operations in several batches");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(error) => Err(Refusal::invalid(format!("the body broke off: {error}"))),
    }
}

/// Deserializes and, on failure, names the JSON path, line and column.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // "?" stands where the text ends or is no JSON.
        let path = Some(path.trim_end_matches('?').trim_end_matches('.').to_owned()).filter(|path| !path.is_empty());
        let message = match &path {
            Some(path) => format!("{path}: {}", error.inner()),
            None => error.inner().to_string(),
        };
        ApiError { kind: ErrorKind::Invalid, message, path }
    })?;
    deserializer.end().map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(value)
}

/// The parameters of a query.
pub(super) fn query<T>(asked: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    let Query(parameters) = asked.map_err(|error| Refusal::invalid(format!("query: {}", error.body_text())))?;
    Ok(parameters)
}

/// The size of a page.
pub(super) fn limit(asked: Option<usize>, default: usize, max: usize) -> Result<usize, Refusal> {
    match asked.unwrap_or(default) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        limit => Err(Refusal::invalid(format!("limit {limit} is out of range: use 1 to {max}"))),
    }
}

/// `{protocol}/{address}/{port}` of a path, or `fwmark/{mark}/{family}`.
pub(super) fn service_id(protocol: &str, address: &str, l4_port: &str) -> Result<ServiceId, Refusal> {
    if protocol == "fwmark" {
        let mark = segment(address, "a firewall mark: use 1 to 4294967295")?;
        return match l4_port {
            "inet" => Ok(ServiceId::Fwmark { mark, family: Family::Inet }),
            "inet6" => Ok(ServiceId::Fwmark { mark, family: Family::Inet6 }),
            other => Err(Refusal::invalid(format!("'{other}' in the path is not a family: use inet or inet6"))),
        };
    }
    let protocol = Protocol::named(protocol).ok_or_else(|| {
        let names = Protocol::ALL.map(Protocol::name).join(", ");
        Refusal::invalid(format!("'{protocol}' in the path is not a protocol: use {names} or fwmark"))
    })?;
    Ok(ServiceId::Address { protocol, address: socket_address(address, l4_port)? })
}

/// `{address}/{port}` of a path; IPv6 addresses stand there without brackets.
pub(super) fn socket_address(address: &str, l4_port: &str) -> Result<SocketAddr, Refusal> {
    let l4_port = segment(l4_port, "a port: use 1 to 65535")?;
    Ok(SocketAddr::new(ip_address(address)?, l4_port))
}

pub(super) fn ip_address(address: &str) -> Result<IpAddr, Refusal> {
    segment(address, "an IP address: write 192.0.2.1 or 2001:db8::1, without brackets")
}

fn segment<T: std::str::FromStr<Err: Display>>(text: &str, what: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::invalid(format!("'{text}' in the path is not {what}")))
}

#[cfg(test)]
mod tests {
    use dpvs_api::{Operation, Service};

    use super::*;

    fn failure<T: DeserializeOwned>(body: &str) -> (Option<String>, String) {
        let Err(refusal) = parse::<T>(body.as_bytes()) else { panic!("{body} was taken") };
        (refusal.error.path, refusal.error.message)
    }

    #[test]
    fn errors_name_path_line_and_column() {
        let body = "{\"protocol\":\"tcp\",\n\"address\":\"192.0.2.1:80\",\n\"servers\":[{\"address\":\"x\",\"mode\":\"nat\"}]}";
        let (path, message) = failure::<Service>(body);
        assert_eq!(path.as_deref(), Some("servers[0].address"));
        assert!(message.starts_with("servers[0].address: "), "{message}");
        assert!(message.contains("at line 3 column"), "{message}");
        let (path, message) = failure::<Service>("{\"protocol\":\"tcp\",\"address\":\"192.0.2.1:80\",\"wieght\":1}");
        assert_eq!(path.as_deref(), Some("wieght"));
        assert!(message.contains("unknown field `wieght`"), "{message}");
        let (path, message) = failure::<Service>("{\"protocol\":\"tcp\"");
        assert_eq!((path, message.as_str()), (None, "EOF while parsing an object at line 1 column 17"));
        let (path, _) = failure::<Service>("{\"servers\":[{\"mode\":\"nat\" x");
        assert_eq!(path.as_deref(), Some("servers[0]"));
        let (path, _) = failure::<Vec<Operation>>("[{\"op\":\"clear\"},{\"op\":\"nosuch\"}]");
        assert_eq!(path.as_deref(), Some("[1].op"));
    }

    #[test]
    fn whole_and_shallow_bodies_only() {
        let (_, message) = failure::<Vec<Operation>>("[] []");
        assert!(message.contains("trailing characters"), "{message}");
        let (_, message) = failure::<Vec<Operation>>(&format!("[{{\"op\":\"clear\",\"x\":{}", "[".repeat(100_000)));
        assert!(message.contains("recursion limit exceeded"), "{message}");
        let (_, message) = failure::<Vec<Operation>>("");
        assert!(message.contains("EOF"), "{message}");
    }

    #[test]
    fn media_types() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
