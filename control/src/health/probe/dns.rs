//! DNS: a query, and what the answer is to be (keepalived's `DNS_CHECK`).

use dpvs_api::{DnsProbe, DnsRcode, DnsTransport, DnsType};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Failure, Run, socket};

pub(super) async fn run(run: &Run<'_>, probe: &DnsProbe) -> Result<(), Failure> {
    let query = query(probe)?;
    let bytes = query.to_vec().map_err(|error| Failure::unexpected(format!("the query cannot be made: {error}")))?;
    match probe.transport {
        DnsTransport::Udp => {
            let socket = socket::datagrams(run).await?;
            socket.send(&bytes).await.map_err(Failure::io("send"))?;
            let mut buffer = vec![0; 65_535];
            // What is no answer to this query may come from anybody: go on waiting.
            loop {
                let length = socket.recv(&mut buffer).await.map_err(Failure::io("receive"))?;
                if let Some(answer) = answer_to(&query, &buffer[..length]) {
                    return judge(&answer, probe);
                }
            }
        }
        DnsTransport::Tcp => {
            let mut stream = socket::connect(run).await?;
            // RFC 1035 section 4.2.2: the message's length comes first.
            let length = (bytes.len() as u16).to_be_bytes();
            stream.write_all(&[&length[..], &bytes].concat()).await.map_err(Failure::io("send"))?;
            let length = stream.read_u16().await.map_err(Failure::io("receive"))?;
            let mut buffer = vec![0; length.into()];
            stream.read_exact(&mut buffer).await.map_err(Failure::io("receive"))?;
            let answer = answer_to(&query, &buffer);
            judge(&answer.ok_or_else(|| Failure::unexpected("no answer to the query"))?, probe)
        }
    }
}

fn query(probe: &DnsProbe) -> Result<Message, Failure> {
    let mut name = Name::from_ascii(&probe.name)
        .map_err(|error| Failure::unexpected(format!("'{}' is no domain name: {error}", probe.name)))?;
    name.set_fqdn(true);
    let record_type = match probe.record_type {
        DnsType::A => RecordType::A,
        DnsType::Aaaa => RecordType::AAAA,
        DnsType::Cname => RecordType::CNAME,
        DnsType::Mx => RecordType::MX,
        DnsType::Ns => RecordType::NS,
        DnsType::Ptr => RecordType::PTR,
        DnsType::Soa => RecordType::SOA,
        DnsType::Srv => RecordType::SRV,
        DnsType::Txt => RecordType::TXT,
    };
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    Ok(message)
}

fn answer_to(query: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == query.metadata.id
        // A server that refuses need not repeat the question.
        && (answer.queries.is_empty() || answer.queries == query.queries);
    is_answer.then_some(answer)
}

fn judge(answer: &Message, probe: &DnsProbe) -> Result<(), Failure> {
    let code = answer.metadata.response_code;
    let expected = match probe.rcode {
        DnsRcode::NoError => Some(ResponseCode::NoError),
        DnsRcode::ServFail => Some(ResponseCode::ServFail),
        DnsRcode::NxDomain => Some(ResponseCode::NXDomain),
        DnsRcode::Refused => Some(ResponseCode::Refused),
        DnsRcode::Any => None,
    };
    if expected.is_some_and(|expected| expected != code) {
        return Err(Failure::unexpected(format!("response code {code}")));
    }
    let Some(wanted) = &probe.answer else { return Ok(()) };
    let records: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    let bare = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    match records.iter().any(|record| bare(record) == bare(wanted)) {
        true => Ok(()),
        false => Err(Failure::unexpected(format!("expected {wanted}, got: {}", records.join(", ")))),
    }
}
