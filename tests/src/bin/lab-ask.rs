//! A client that is told where it comes from, and tells which real server answers.
//!
//! * `lab-ask dns SOURCE PORT COUNT TARGET...`: to each target it sends `COUNT` DNS queries for `whoami.`, each from an
//!   address of its own, number n of those spread over the /8 (IPv4) or /16 (IPv6) network that SOURCE is in, and from
//!   PORT on with a port that no query before had. It prints a line for each target with the name of the server that
//!   answered each, or `-` for none.
//! * `lab-ask http PORT TARGET STEP...`: each step `open` makes a connection and keeps it, `close:N` closes connection N,
//!   from 0. Ports count up from PORT. It prints the name of the server of each connection, or `-` for none.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use socket2::{Domain, Socket, Type};

/// How long it is waited for answers, each time after all queries without answer were sent. An answer begins anew.
const PATIENCE: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// How long it is waited for a connection: a lost packet is sent again after a second, and then after two more.
const CONNECT: Duration = Duration::from_secs(4);

/// `whoami. TXT`, with id 0x1234.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x06whoami\0\0\x10\0\x01";

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["dns", source, first_port, count, ref targets @ ..] => {
            let source: IpAddr = source.parse().context("SOURCE")?;
            let (mut port, count): (u16, u16) = (first_port.parse()?, count.parse()?);
            for target in targets {
                let target: SocketAddr = target.parse().context("TARGET")?;
                let sources = (0..count).map(|n| SocketAddr::new(spread(source, n), port + n));
                println!("{}", dns(sources, target)?.join(" "));
                port += count;
            }
        }
        ["http", port, target, ref steps @ ..] => {
            println!("{}", http(port.parse()?, target.parse()?, steps)?.join(" "));
        }
        _ => bail!("usage: lab-ask dns SOURCE PORT COUNT TARGET... | lab-ask http PORT TARGET STEP..."),
    }
    Ok(())
}

/// Address `n` of those that differ in most of their bits.
fn spread(network: IpAddr, n: u16) -> IpAddr {
    let mixed = |n: u32| n.wrapping_mul(0x9e37_79b1).rotate_left(n % 32);
    let n = u32::from(n) + 1;
    match network {
        IpAddr::V4(v4) => Ipv4Addr::from_bits((v4.to_bits() & 0xff00_0000) | (mixed(n) >> 8)).into(),
        IpAddr::V6(v6) => {
            let word = |i: u32| u128::from(mixed(n * 4 + i));
            let host = (word(0) << 96 | word(1) << 64 | word(2) << 32 | word(3)) & (u128::MAX >> 16);
            Ipv6Addr::from_bits((v6.to_bits() & !(u128::MAX >> 16)) | host).into()
        }
    }
}

fn dns(sources: impl Iterator<Item = SocketAddr>, target: SocketAddr) -> anyhow::Result<Vec<String>> {
    let open = |source: SocketAddr| -> anyhow::Result<UdpSocket> {
        let socket = UdpSocket::bind(source).with_context(|| format!("bind {source}"))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let sockets: Vec<UdpSocket> = sources.map(open).collect::<Result<_, _>>()?;
    let mut names = vec![None; sockets.len()];
    let mut patience = PATIENCE.iter();
    while names.contains(&None)
        && let Some(&patience_now) = patience.next()
    {
        for (socket, _) in sockets.iter().zip(&names).filter(|(_, name)| name.is_none()) {
            // An error is one that an ICMP message reported for the query before.
            let _ = socket.send(QUERY).or_else(|_| socket.send(QUERY));
        }
        let start = Instant::now();
        while names.contains(&None) && start.elapsed() < patience_now {
            for (socket, name) in sockets.iter().zip(&mut names).filter(|(_, name)| name.is_none()) {
                let mut answer = [0; 512];
                if let Ok(length) = socket.recv(&mut answer) {
                    *name = Some(text_record(&answer[..length]).context("answer without text")?);
                    patience = PATIENCE.iter();
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(names.into_iter().map(|name| name.unwrap_or_else(|| "-".to_owned())).collect())
}

/// The text of an answer's first record, whose owner name is a compressed one.
fn text_record(answer: &[u8]) -> Option<String> {
    // Owner name, type, class, time to live, length of the data, length of the text.
    let text = answer.get(QUERY.len() + 2 + 2 + 2 + 4 + 2..)?;
    let (&length, text) = text.split_first()?;
    String::from_utf8(text.get(..length.into())?.to_vec()).ok()
}

fn http(first_port: u16, target: SocketAddr, steps: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut names = Vec::new();
    for step in steps {
        if let Some(n) = step.strip_prefix("close:") {
            let connection = connections.get_mut(n.parse::<usize>()?).and_then(Option::take);
            let mut connection = connection.with_context(|| format!("no connection {n}"))?;
            connection.shutdown(Shutdown::Write)?;
            io::copy(&mut connection, &mut io::sink())?;
            // The last acknowledgement is on its way.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, first_port + connections.len() as u16).into())?;
        match socket.connect_timeout(&target.into(), CONNECT) {
            Ok(()) => {
                let mut connection = TcpStream::from(socket);
                names.push(name(&mut connection)?);
                connections.push(Some(connection));
            }
            Err(_) => {
                names.push("-".to_owned());
                connections.push(None);
            }
        }
    }
    Ok(names)
}

/// Asks on an open connection.
fn name(connection: &mut TcpStream) -> anyhow::Result<String> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 2048];
        let length = connection.read(&mut part)?;
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        // The body is one line.
        match text.split_once("\r\n\r\n") {
            Some((_, body)) if body.ends_with('\n') => return Ok(body.trim().to_owned()),
            _ if length == 0 => bail!("incomplete answer: {text}"),
            _ => {}
        }
    }
}
