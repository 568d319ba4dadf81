//! TCP: a connection, and a banner or an answer if need be (keepalived's `TCP_CHECK`).

use dpvs_api::{Pattern, TcpProbe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Failure, Run, Stream, socket, tls};

pub(super) async fn run(run: &Run<'_>, probe: &TcpProbe) -> Result<(), Failure> {
    let stream = socket::connect(run).await?;
    match &probe.tls {
        None => talk(stream, probe).await,
        Some(settings) => talk(tls::connect(stream, run, settings, None, &[]).await?, probe).await,
    }
}

async fn talk(mut stream: impl Stream, probe: &TcpProbe) -> Result<(), Failure> {
    if !probe.send.0.is_empty() {
        stream.write_all(&probe.send.0).await.map_err(Failure::io("send"))?;
        stream.flush().await.map_err(Failure::io("send"))?;
    }
    match &probe.expect {
        None => Ok(()),
        Some(pattern) => expect(&mut stream, pattern).await,
    }
}

async fn expect(stream: &mut impl Stream, pattern: &Pattern) -> Result<(), Failure> {
    let mut answer = vec![0; pattern.len()];
    let mut length = 0;
    while length < answer.len() {
        match stream.read(&mut answer[length..]).await.map_err(Failure::io("receive"))? {
            0 => break,
            more => length += more,
        }
    }
    match pattern.matches(&answer[..length]) {
        true => Ok(()),
        false => Err(Failure::unexpected(format!(
            "expected '{pattern}', got '{}'",
            String::from_utf8_lossy(&answer[..length])
        ))),
    }
}
