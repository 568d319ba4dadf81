//! Follows what happens in the daemon: server-sent events (HTML standard, section 9.2).

use std::time::Duration;

use dpvs_api::Event;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, header};

use crate::{Client, ClientError, TIMEOUT};

/// The daemon gives a sign of life every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a line at most. An event of 64 changes has some 10 KiB.
const LONGEST_LINE: usize = 1 << 20;

/// Events as they happen; ends after an error, of which the daemon's end is one.
#[derive(Debug)]
pub struct Events<'a> {
    client: &'a Client,
    body: Incoming,
    lines: Lines,
    ended: bool,
}

impl<'a> Events<'a> {
    pub(crate) fn follow(client: &'a Client, last: Option<&str>) -> Result<Self, ClientError> {
        let start = async { tokio::time::timeout(TIMEOUT, Self::start(client, last)).await };
        let body =
            client.runtime.block_on(start).unwrap_or_else(|_| Err(ClientError::Timeout(client.socket.clone())))?;
        Ok(Self { client, body, lines: Lines::default(), ended: false })
    }

    async fn start(client: &Client, last: Option<&str>) -> Result<Incoming, ClientError> {
        let broken = |error: hyper::Error| client.misunderstood(error.to_string());
        let stream = client.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
        // It goes on whenever somebody waits for the body.
        client.runtime.spawn(connection);
        let mut request = Request::builder().uri("/v1/events").header(header::HOST, "dpvsd");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| client.misunderstood(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Err(client.refusal(status, &body))
    }

    /// The next event, whenever that is.
    fn wait(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(data) = self.lines.next_data() {
                return serde_json::from_str(&data)
                    .map_err(|error| self.client.misunderstood(format!("/v1/events: {error}")));
            }
            if self.lines.rest.len() > LONGEST_LINE {
                return Err(self.client.misunderstood("/v1/events: a line without end".to_owned()));
            }
            let frame = async { tokio::time::timeout(SILENCE, self.body.frame()).await };
            let frame = self.client.runtime.block_on(frame);
            match frame.map_err(|_| ClientError::Timeout(self.client.socket.clone()))? {
                Some(Ok(frame)) => self.lines.push(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(_)) | None => return Err(ClientError::EventsEnded),
            }
        }
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.wait();
        self.ended = event.is_err();
        Some(event)
    }
}

/// Takes the stream apart. The daemon sends each event's data in one line, so that no more is needed.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The data of the next event that is there whole.
    fn next_data(&mut self) -> Option<String> {
        loop {
            let end = self.rest.iter().position(|&byte| byte == b'\n')?;
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(data) = line.trim_end().strip_prefix("data:") {
                return Some(data.trim_start().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_whatever_the_pieces() {
        let stream = ": keep-alive\n\nid: a.1\nevent: link\ndata: {\"a\":\"é\"}\n\ndata:2\n\nid: x";
        for size in [1, 3, 1000] {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                lines.push(piece);
                found.extend(std::iter::from_fn(|| lines.next_data()));
            }
            assert_eq!(found, ["{\"a\":\"é\"}", "2"], "{size}");
        }
    }
}
