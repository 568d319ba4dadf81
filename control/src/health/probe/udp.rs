//! UDP: a datagram, and an answer, or at least no ICMP error (keepalived's `UDP_CHECK`).

use dpvs_api::{Pattern, UdpProbe};

use super::{Failure, Run, socket};

/// Does not end without an answer if none is required: the caller's timeout is the success then.
pub(super) async fn run(run: &Run<'_>, probe: &UdpProbe) -> Result<(), Failure> {
    let socket = socket::datagrams(run).await?;
    socket.send(&probe.send.0).await.map_err(Failure::io("send"))?;
    let mut buffer = vec![0; 65_535];
    // An ICMP error about the datagram is an error here.
    let length = socket.recv(&mut buffer).await.map_err(Failure::io("answer"))?;
    if !probe.require_reply {
        return Ok(());
    }
    let least = probe.expect.as_ref().map_or(0, Pattern::len);
    let min = probe.min_length.map_or(least, usize::from);
    let max = usize::from(probe.max_length.unwrap_or(u16::MAX));
    if !(min..=max).contains(&length) {
        return Err(Failure::unexpected(format!("the answer has {length} bytes, not {min} to {max}")));
    }
    match &probe.expect {
        Some(pattern) if !pattern.agrees(&buffer[..length]) => {
            let got = String::from_utf8_lossy(&buffer[..length]);
            Err(Failure::unexpected(format!("expected '{pattern}', got '{got}'")))
        }
        _ => Ok(()),
    }
}
