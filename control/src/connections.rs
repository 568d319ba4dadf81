//! Listing of connections: asks the workers for their tables, slice by slice.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::conn::ConnRecord;
use dataplane::shared::{Command, Reply, Shared};
use dataplane::snapshot;
use dataplane::templates::TemplateRecord;
use dpvs_api::{ApiError, Connection, ConnectionPage, ErrorKind, ForwardMode, Protocol};

/// Connections asked for at once. A busy worker copies two between two bursts, so this many take it some milliseconds.
const SLICE: usize = 2_000;
/// Most connections of one page.
pub const MAX_PAGE: usize = 10_000;
/// How long a worker may take for a slice. It answers between bursts unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// A running worker answers within this time as a rule, so that sleeping would only delay.
const EAGER: Duration = Duration::from_micros(300);

/// Reads the workers' tables. Only one may exist, because answers carry no name.
#[derive(Debug)]
pub struct ConnectionReader {
    shared: Arc<Shared>,
    /// By worker: a request was sent whose answer was not awaited to the end.
    unanswered: Vec<bool>,
    /// Used again and again: in new memory, the worker that fills it would wait for page faults.
    buffer: Vec<ConnRecord>,
}

impl ConnectionReader {
    /// The reader of all workers' tables.
    pub fn new(shared: Arc<Shared>) -> Self {
        let unanswered = vec![false; shared.workers.len()];
        Self { shared, unanswered, buffer: Vec::new() }
    }

    /// Up to `limit` connections from `cursor` on, at least 1 and at most [`MAX_PAGE`].
    pub async fn page(&mut self, cursor: Option<&str>, limit: usize) -> Result<ConnectionPage, ApiError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let (mut worker, mut position) = match cursor {
            Some(cursor) => parse_cursor(cursor).ok_or_else(|| bad_cursor(cursor))?,
            None => (0, 0),
        };
        let mut connections = Vec::new();
        while worker < self.shared.workers.len() && connections.len() < limit {
            let (next, records) = self.slice(worker, position, SLICE.min(limit - connections.len())).await?;
            connections.extend(records.iter().map(|record| connection(record, worker)));
            self.buffer = records;
            match next {
                Some(next) => position = next,
                None => (worker, position) = (worker + 1, 0),
            }
        }
        // Templates follow, as if they were another worker's.
        while worker == self.shared.workers.len() && connections.len() < limit {
            let mut records = Vec::new();
            let next = self.shared.templates.dump(position, &mut records, limit - connections.len());
            connections.extend(records.iter().map(template));
            match next {
                Some(next) => position = next,
                None => (worker, position) = (worker + 1, 0),
            }
        }
        let has_more = match worker.cmp(&self.shared.workers.len()) {
            Ordering::Less => true,
            Ordering::Equal => !self.shared.templates.is_empty(),
            Ordering::Greater => false,
        };
        let next = has_more.then(|| format!("{worker}-{position:x}"));
        Ok(ConnectionPage { connections, next })
    }

    async fn slice(
        &mut self,
        worker: usize,
        cursor: u64,
        records: usize,
    ) -> Result<(Option<u64>, Vec<ConnRecord>), ApiError> {
        if self.unanswered[worker] {
            // Somebody gave up waiting; the answer is not ours.
            self.answer(worker).await?;
        }
        self.unanswered[worker] = true;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if buffer.capacity() != records {
            buffer = Vec::with_capacity(records);
        }
        let command = Command::Dump { cursor, records: buffer };
        if self.shared.workers[worker].commands.push(command).is_err() {
            self.unanswered[worker] = false;
            return Err(stuck(worker));
        }
        let Reply::Dump { next, records } = self.answer(worker).await?;
        Ok((next, records))
    }

    async fn answer(&mut self, worker: usize) -> Result<Reply, ApiError> {
        let asked = Instant::now();
        loop {
            if let Some(reply) = self.shared.workers[worker].replies.pop() {
                self.unanswered[worker] = false;
                return Ok(reply);
            }
            match asked.elapsed() {
                waited if waited < EAGER => tokio::task::yield_now().await,
                waited if waited < PATIENCE => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return Err(stuck(worker)),
            }
        }
    }
}

/// `WORKER-POSITION`, the position in hexadecimal. Users pass it back as it is.
fn parse_cursor(cursor: &str) -> Option<(usize, u64)> {
    let (worker, position) = cursor.split_once('-')?;
    Some((worker.parse().ok()?, u64::from_str_radix(position, 16).ok()?))
}

fn bad_cursor(cursor: &str) -> ApiError {
    let message = format!("'{cursor}' is no cursor; pass the 'next' of the page before, or none to begin");
    ApiError { kind: ErrorKind::Invalid, message, path: Some("cursor".to_owned()) }
}

fn stuck(worker: usize) -> ApiError {
    let message = format!("worker {worker} did not answer within {} s; look at its core's load", PATIENCE.as_secs());
    ApiError { kind: ErrorKind::Unavailable, message, path: None }
}

fn template(record: &TemplateRecord) -> Connection {
    let endpoint = |(addr, port)| SocketAddr::new(addr, port);
    let client = SocketAddr::new(record.client, 0);
    Connection {
        protocol: protocol(record.protocol),
        state: if record.assured { "ASSURED" } else { "NONE" }.to_owned(),
        mode: mode(record.mode),
        client,
        virtual_service: endpoint(record.virt),
        local: client,
        server: endpoint(record.server),
        expires: record.expires,
        worker: None,
        call_id: record.call_id.as_deref().map(printable),
    }
}

/// A Call-ID as text.
fn printable(bytes: &[u8]) -> String {
    let character = |&byte: &u8| match byte {
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    bytes.iter().map(character).collect()
}

fn protocol(protocol: proto::Protocol) -> Option<Protocol> {
    match protocol {
        proto::Protocol::TCP => Some(Protocol::Tcp),
        proto::Protocol::UDP => Some(Protocol::Udp),
        proto::Protocol::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

fn mode(mode: snapshot::ForwardMode) -> ForwardMode {
    match mode {
        snapshot::ForwardMode::Nat => ForwardMode::Nat,
        snapshot::ForwardMode::FullNat => ForwardMode::Fullnat,
        snapshot::ForwardMode::DirectRouting => ForwardMode::Dr,
        snapshot::ForwardMode::Tunnel => ForwardMode::Tun,
    }
}

/// A connection as the API shows it.
pub(crate) fn connection(record: &ConnRecord, worker: usize) -> Connection {
    let endpoint = |(addr, port)| SocketAddr::new(addr, port);
    Connection {
        protocol: protocol(record.protocol),
        state: record.state.name().to_owned(),
        mode: mode(record.mode),
        client: endpoint(record.client),
        virtual_service: endpoint(record.virt),
        local: endpoint(record.local),
        server: endpoint(record.server),
        expires: record.expires,
        worker: Some(worker),
        call_id: None,
    }
}

#[cfg(test)]
mod tests {
    use dataplane::ServerId;
    use dataplane::shared::Limits;
    use proto::state::State;

    use super::*;

    fn shared(workers: usize) -> Arc<Shared> {
        Shared::new(Limits {
            workers,
            ports: 1,
            max_services: 1,
            max_servers: 1,
            templates: 1,
            call_ids: 1,
            noted_replies: 1,
            slow_path_frames: 1,
            max_frame: 64,
        })
    }

    fn record(number: u64) -> ConnRecord {
        let endpoint = |last, port| (std::net::IpAddr::from([10, 0, 0, last]), port);
        ConnRecord {
            protocol: proto::Protocol::TCP,
            state: State::Established,
            mode: snapshot::ForwardMode::FullNat,
            client: endpoint(1, number as u16),
            virt: endpoint(2, 80),
            local: endpoint(3, 5000),
            server: endpoint(4, 8080),
            server_id: ServerId(0),
            expires: 900,
        }
    }

    /// Stands in for a worker that has `total` connections: answers `answers` requests and ends.
    async fn answer(shared: Arc<Shared>, worker: usize, total: u64, answers: usize) {
        for _ in 0..answers {
            let command = loop {
                match shared.workers[worker].commands.pop() {
                    Some(command) => break command,
                    None => tokio::task::yield_now().await,
                }
            };
            let Command::Dump { cursor, mut records } = command;
            let room = records.capacity() as u64;
            let end = total.min(cursor + room);
            records.extend((cursor..end).map(record));
            shared.workers[worker].replies.push(Reply::Dump { next: (end < total).then_some(end), records }).unwrap();
        }
    }

    #[tokio::test]
    async fn pages_cover_all_workers_once() {
        let shared = shared(3);
        let totals = [6000u64, 0, 1];
        for (worker, total) in totals.into_iter().enumerate() {
            tokio::spawn(answer(Arc::clone(&shared), worker, total, usize::MAX));
        }
        let mut reader = ConnectionReader::new(shared);
        let (mut cursor, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = reader.page(cursor.as_deref(), 2500).await.unwrap();
            assert!(page.connections.len() <= 2500);
            seen.extend(page.connections.iter().map(|c| (c.worker, c.client.port())));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let expected: Vec<_> = (0..6000).map(|port| (Some(0), port)).chain([(Some(2), 0)]).collect();
        assert_eq!(seen, expected);
        assert_eq!(pages, 3);
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_one() {
        let shared = shared(1);
        let mut reader = ConnectionReader::new(Arc::clone(&shared));
        let listing = tokio::time::timeout(Duration::from_millis(50), reader.page(None, 1));
        assert!(listing.await.is_err(), "nobody answers");
        // Now the worker wakes up and answers the old request and the new one.
        tokio::spawn(answer(shared, 0, 2, 2));
        let page = reader.page(Some("0-1"), 1).await.unwrap();
        assert_eq!(page.connections[0].client.port(), 1);
        assert_eq!(page.next, None);
    }

    #[tokio::test]
    async fn bad_cursors_are_refused_and_far_ones_end() {
        let mut reader = ConnectionReader::new(shared(1));
        for cursor in ["", "1", "a-0", "0-x", "-1-0", "0-10000000000000000"] {
            let error = reader.page(Some(cursor), 1).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{cursor}");
            assert!(error.message.contains("is no cursor"), "{error}");
        }
        assert_eq!(reader.page(Some("7-0"), 1).await.unwrap().next, None);
    }

    #[test]
    fn records_become_connections() {
        let got = connection(&record(7), 3);
        let expected = Connection {
            protocol: Some(Protocol::Tcp),
            state: "ESTABLISHED".to_owned(),
            mode: ForwardMode::Fullnat,
            client: "10.0.0.1:7".parse().unwrap(),
            virtual_service: "10.0.0.2:80".parse().unwrap(),
            local: "10.0.0.3:5000".parse().unwrap(),
            server: "10.0.0.4:8080".parse().unwrap(),
            expires: 900,
            worker: Some(3),
            call_id: None,
        };
        assert_eq!(got, expected);
    }
}
