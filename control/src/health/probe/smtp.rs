//! SMTP: greeting, HELO, QUIT (keepalived's `SMTP_CHECK`; RFC 5321 section 4.2 about replies).

use dpvs_api::SmtpProbe;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Failure, Run, socket};

/// Longest line and most lines of a reply. RFC 5321 section 4.5.3.1.5 allows lines of 512 bytes.
const MAX_LINE: u64 = 2048;
const MAX_LINES: usize = 100;

pub(super) async fn run(run: &Run<'_>, probe: &SmtpProbe) -> Result<(), Failure> {
    let mut stream = BufReader::new(socket::connect(run).await?);
    expect(&mut stream, "greeting", "220").await?;
    say(&mut stream, &format!("HELO {}\r\n", probe.helo)).await?;
    expect(&mut stream, "HELO", "250").await?;
    say(&mut stream, "QUIT\r\n").await?;
    expect(&mut stream, "QUIT", "221").await
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> Result<(), Failure> {
    stream.write_all(line.as_bytes()).await.map_err(Failure::io("send"))
}

/// Reads a reply, all lines of it.
async fn expect(stream: &mut BufReader<TcpStream>, to: &str, code: &str) -> Result<(), Failure> {
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        let length = stream.take(MAX_LINE).read_until(b'\n', &mut line).await.map_err(Failure::io("receive"))?;
        let text = String::from_utf8_lossy(&line);
        if length == 0 {
            return Err(Failure::unexpected(format!("the connection ended in place of the reply to {to}")));
        }
        if !text.starts_with(code) {
            return Err(Failure::unexpected(format!("reply to {to}: {}", text.trim_end())));
        }
        // A hyphen behind the code says that more lines follow.
        if text.as_bytes().get(code.len()) != Some(&b'-') {
            return Ok(());
        }
    }
    Err(Failure::unexpected(format!("the reply to {to} does not end")))
}
