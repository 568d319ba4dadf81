//! Every kind of probe against servers that are good, bad, or say nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dpvs_api::{Check, Digest, Seconds};
use md5::Digest as _;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::{TlsAcceptor, rustls};

use super::*;
use crate::health::target::VirtualAddress;

/// Runs a probe against a target; `Err` is the failure's line.
async fn probe(target: SocketAddr, probe: Value) -> Result<Success, String> {
    let mut check: Check = serde_json::from_value(json!({ "probe": probe })).unwrap();
    check.timeout = Seconds::from_millis(2000);
    run(&Spec { check, target, detour: None }, &Tools::default()).await.map_err(|failure| failure.line())
}

fn fails(outcome: Result<Success, String>, with: &str) {
    let error = outcome.unwrap_err();
    assert!(error.contains(with), "'{error}' lacks '{with}'");
}

/// A TCP server that serves connections one by one with `talk`.
async fn server<F: Future<Output = ()> + Send + 'static>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    address
}

/// A server that sends `answer` once it got the end of a request, and closes.
async fn answers(answer: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|length| length > 0) {}
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

/// A server that says something at once, whatever it is asked.
async fn says(words: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.write_all(words.as_bytes()).await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await
}

/// An address at which nobody listens.
async fn closed() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn tcp() {
    let silent = server(|stream| async move {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    assert_eq!(probe(silent, json!("tcp")).await, Ok(Success::default()));
    fails(probe(silent, json!({ "tcp": { "expect": "x" } })).await, "not done within 2 s");
    fails(probe(closed().await, json!("tcp")).await, "connect: Connection refused");
    let echo = server(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    assert!(probe(echo, json!({ "tcp": { "send": "PING", "expect": "hex:50xx4e" } })).await.is_ok());
    fails(probe(echo, json!({ "tcp": { "send": "PING", "expect": "PONG" } })).await, "expected 'PONG', got 'PING'");
}

#[tokio::test]
async fn sources_are_bound() {
    let (sender, mut peers) = tokio::sync::mpsc::channel(1);
    let address = server(move |stream| {
        let sender = sender.clone();
        async move { sender.send(stream.peer_addr().unwrap().ip()).await.unwrap() }
    })
    .await;
    let check = json!({ "probe": "tcp", "source": "127.0.0.7" });
    let spec = Spec { check: serde_json::from_value(check).unwrap(), target: address, detour: None };
    run(&spec, &Tools::default()).await.unwrap();
    assert_eq!(peers.recv().await.unwrap().to_string(), "127.0.0.7");
}

/// Runs a probe at a virtual address of a server where no packet takes the detour, as no mirror interface is on the way.
async fn probe_at(address: &str, tools: &Tools, target: SocketAddr, probe: Value) -> Result<Success, String> {
    let check: Check = serde_json::from_value(json!({ "probe": probe, "timeout": 0.5 })).unwrap();
    let tunnel = Some(dpvs_api::Tunnel::default());
    let detour = Some(VirtualAddress { address: address.parse().unwrap(), tunnel });
    run(&Spec { check, target, detour }, tools).await.map_err(|failure| failure.line())
}

#[tokio::test]
async fn a_server_that_answers_at_its_own_address_is_no_success_at_the_virtual_one() {
    let (tools, address) = (Tools::default(), "192.0.2.1:80");
    let tcp = server(|_| async {}).await;
    let udp = datagrams(|_| b"yes".to_vec()).await;
    let silence = datagrams(|_| Vec::new()).await;
    let lost = "no packet to the virtual address at 127.0.0.1 left";
    fails(probe_at(address, &tools, tcp, json!("tcp")).await, lost);
    fails(probe_at(address, &tools, udp, json!({ "udp": { "require_reply": true } })).await, lost);
    fails(probe_at(address, &tools, silence, json!("udp")).await, lost);
    fails(probe_at(address, &tools, closed().await, json!("tcp")).await, "connect: Connection refused");
    let from_itself = "the kernel would send from the virtual address 127.0.0.1 itself: give the check another source";
    fails(probe_at("127.0.0.1:80", &tools, tcp, json!("tcp")).await, from_itself);
    fails(probe_at("127.0.0.1:80", &tools, udp, json!("udp")).await, from_itself);
}

#[tokio::test]
async fn checks_at_one_virtual_address_have_ports_of_their_own() {
    // As many for each server as wait to be accepted (net.core.somaxconn).
    const CHECKS: usize = 3 * 120;
    let (sender, mut peers) = tokio::sync::mpsc::channel(CHECKS);
    let talk = move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            sender.send(stream.peer_addr().unwrap().port()).await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
        }
    };
    // For the kernel, sockets that are connected to different servers may have the same port.
    let servers = [server(talk.clone()).await, server(talk.clone()).await, server(talk).await];
    let tools = &Tools { ports: Ports::parse("20000 20999", ""), ..Tools::default() };
    let probe = &json!({ "tcp": { "expect": "x" } });
    let checks = (0..CHECKS).map(|n| probe_at("192.0.2.1:80", tools, servers[n % 3], probe.clone()));
    for outcome in futures_util::future::join_all(checks).await {
        fails(outcome, "not done within");
    }
    let mut ports = std::collections::HashSet::new();
    while let Ok(port) = peers.try_recv() {
        assert!(ports.insert(port), "{port} twice");
    }
    assert_eq!(ports.len(), CHECKS);
}

#[tokio::test]
async fn http() {
    let good = answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    for probe_settings in [
        json!({}),
        json!({ "version": "1.0" }),
        json!({ "body": "^h.l+o$", "body_not": "bye" }),
        json!({ "digest": "md5:5d41402abc4b2a76b9719d911017c592" }),
        json!({ "digest": "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" }),
        json!({ "status": ["100-300"] }),
    ] {
        assert_eq!(probe(good, json!({ "http": probe_settings })).await, Ok(Success::default()), "{probe_settings}");
    }
    for (settings, with) in [
        (json!({ "status": [204, "300-399"] }), "status 200 OK"),
        (json!({ "body": "bye" }), "status 200, but the body does not match 'bye'"),
        (json!({ "body_not": "hel" }), "status 200, but the body matches 'hel'"),
        (json!({ "digest": format!("md5:{}", "0".repeat(32)) }), "digest is md5:5d41402abc4b2a76b9719d911017c592"),
    ] {
        fails(probe(good, json!({ "http": settings })).await, with);
    }
    let bad = answers("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    fails(probe(bad, json!("http")).await, "status 503 Service Unavailable");
    assert!(probe(bad, json!({ "http": { "status": [503] } })).await.is_ok());
    fails(probe(answers("220 mail ready\r\n").await, json!("http")).await, "HTTP: ");
    fails(probe(answers("").await, json!("http")).await, "HTTP: ");
    fails(probe(closed().await, json!("http")).await, "connect: ");
}

#[tokio::test]
async fn http_requests_say_what_they_should() {
    let (sender, mut requests) = tokio::sync::mpsc::channel(1);
    let address = server(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
            sender.send(String::from_utf8(request).unwrap().to_lowercase()).await.unwrap();
        }
    })
    .await;
    let settings =
        json!({ "path": "/a?b=c", "host": "www.example", "headers": { "X-Probe": "1", "User-Agent": "me" } });
    probe(address, json!({ "http": settings })).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("get /a?b=c http/1.1\r\n"), "{request}");
    for line in ["host: www.example", "x-probe: 1", "user-agent: me", "connection: close"] {
        assert!(request.contains(&format!("{line}\r\n")), "{request}");
    }
    probe(address, json!({ "http": { "version": "1.0", "method": "HEAD" } })).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("head / http/1.0\r\n") && request.contains(&format!("host: {address}")), "{request}");
}

/// A certificate for a name, signed by an authority of its own: PEM of the authority's, and the server's side.
struct Identity {
    authority: String,
    server: Arc<ServerConfig>,
    /// Certificate and key of a client, by the same authority.
    client: (String, String),
}

fn identity(name: &str, wants_client: bool) -> Identity {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let sign = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &issuer).unwrap(), key)
    };
    let ((certificate, key), (client, client_key)) = (sign(name), sign("client.example"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = match wants_client {
        false => builder.unwrap().with_no_client_auth(),
        true => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.unwrap().with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut server = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = (client.pem(), client_key.serialize_pem());
    Identity { authority: authority.pem(), server: Arc::new(server), client }
}

async fn tls_server(config: Arc<ServerConfig>) -> SocketAddr {
    let acceptor = TlsAcceptor::from(config);
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn certificates_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let one = identity("www.example", false);
    let ca_file = write(folder.path(), "ca.pem", &one.authority);
    let other_file = write(folder.path(), "other.pem", &identity("x.example", false).authority);
    let address = tls_server(one.server).await;
    let https = |host: Value, tls: Value| json!({ "http": { "host": host, "tls": tls } });
    let host = json!("www.example:8443");
    for (probe_settings, expected) in [
        (https(host.clone(), json!({ "ca_file": ca_file })), Ok(())),
        (https(Value::Null, json!({ "ca_file": ca_file, "server_name": "www.example" })), Ok(())),
        (https(Value::Null, json!({ "verify": false })), Ok(())),
        (https(json!("wrong.example"), json!({ "ca_file": ca_file })), Err("certificate not valid for name")),
        (https(Value::Null, json!({ "ca_file": ca_file })), Err("certificate not valid for name")),
        (https(host.clone(), json!({ "ca_file": other_file })), Err("invalid peer certificate")),
        (https(host.clone(), json!({ "ca_file": "/nonexistent" })), Err("/nonexistent: ")),
        (json!({ "tcp": { "tls": { "ca_file": ca_file, "server_name": "www.example" } } }), Ok(())),
        (json!({ "tcp": { "tls": { "ca_file": ca_file } } }), Err("certificate not valid for name")),
    ] {
        match expected {
            Ok(()) => {
                assert_eq!(probe(address, probe_settings.clone()).await, Ok(Success::default()), "{probe_settings}")
            }
            Err(with) => fails(probe(address, probe_settings).await, with),
        }
    }
    fails(probe(says("no TLS\r\n").await, https(Value::Null, json!({ "verify": false }))).await, "TLS: ");
}

#[tokio::test]
async fn servers_are_told_who_is_wanted() {
    let (sender, mut names) = tokio::sync::mpsc::channel(1);
    let address = server(move |stream| {
        let sender = sender.clone();
        async move {
            let hello =
                tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.unwrap();
            sender.send(hello.client_hello().server_name().map(str::to_owned)).await.unwrap();
        }
    })
    .await;
    for (tls, expected) in [
        (json!({}), Some("www.example")),
        (json!({ "server_name": "a.example" }), Some("a.example")),
        (json!({ "sni": false }), None),
        (json!({ "sni": false, "server_name": "a.example" }), None),
    ] {
        assert!(probe(address, json!({ "http": { "host": "www.example", "tls": tls } })).await.is_err());
        assert_eq!(names.recv().await.unwrap().as_deref(), expected);
    }
}

#[tokio::test]
async fn digests_are_of_whole_bodies() {
    let body = "x".repeat(3 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let address = answers(Box::leak(answer.into_boxed_str())).await;
    let digest = Digest::Md5(md5::Md5::digest(&body).into()).to_string();
    assert_eq!(probe(address, json!({ "http": { "digest": digest } })).await, Ok(Success::default()));
    let part = Digest::Md5(md5::Md5::digest(&body[..1 << 20]).into()).to_string();
    fails(probe(address, json!({ "http": { "digest": part } })).await, &digest);
}

#[tokio::test]
async fn clients_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let one = identity("www.example", true);
    let certificate_file = write(folder.path(), "client.pem", &one.client.0);
    let key_file = write(folder.path(), "client.key", &one.client.1);
    let address = tls_server(one.server).await;
    let with = json!({ "verify": false, "certificate_file": certificate_file, "key_file": key_file });
    assert!(probe(address, json!({ "http": { "tls": with } })).await.is_ok());
    assert!(probe(address, json!({ "http": { "tls": { "verify": false } } })).await.is_err());
}

/// A server of HTTP/2 that answers every request with a gRPC status and a serving status, if any.
async fn grpc_server(tls: Option<Arc<ServerConfig>>, grpc_status: &'static str, serving: Option<u8>) -> SocketAddr {
    use http_body_util::{BodyExt, Full};
    use hyper::body::{Bytes, Frame, Incoming};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let answer = move |request: hyper::Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let data = serving.map_or(Vec::new(), |status| vec![0, 0, 0, 0, 2, 8, status]);
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", grpc_status.parse().unwrap());
        let trailers = Some(Ok::<_, std::convert::Infallible>(trailers));
        let body = Full::new(Bytes::from(data)).with_trailers(async { trailers });
        let body = body.map_frame(|frame: Frame<Bytes>| frame);
        Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
    };
    let acceptor = tls.map(TlsAcceptor::from);
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let service = hyper::service::service_fn(answer);
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            match acceptor {
                None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn grpc() {
    let serving = grpc_server(None, "0", Some(1)).await;
    assert_eq!(probe(serving, json!("grpc")).await, Ok(Success::default()));
    assert_eq!(probe(serving, json!({ "grpc": { "service": "a.b" } })).await, Ok(Success::default()));
    assert!(
        probe(serving, json!({ "http": { "version": "2", "path": "/grpc.health.v1.Health/Check" } })).await.is_ok()
    );
    fails(probe(grpc_server(None, "0", Some(2)).await, json!("grpc")).await, "NOT_SERVING");
    fails(probe(grpc_server(None, "5", None).await, json!("grpc")).await, "gRPC status 5");
    fails(probe(says("HTTP/1.1 200 OK\r\n\r\n").await, json!("grpc")).await, "HTTP: ");
    let secure = grpc_server(Some(identity("www.example", false).server), "0", Some(1)).await;
    assert!(probe(secure, json!({ "grpc": { "tls": { "verify": false } } })).await.is_ok());
}

/// A UDP server that answers every datagram with what `answer` makes of it.
async fn datagrams(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..length]);
            if !answer.is_empty() {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn udp() {
    let echo = datagrams(<[u8]>::to_vec).await;
    let settings = |settings: Value| json!({ "udp": settings });
    assert!(probe(echo, settings(json!({ "send": "hello" }))).await.is_ok());
    assert!(probe(echo, settings(json!({ "send": "hello", "require_reply": true, "expect": "hel" }))).await.is_ok());
    let wrong = settings(json!({ "send": "hello", "require_reply": true, "expect": "bye" }));
    fails(probe(echo, wrong).await, "expected 'bye', got 'hello'");
    let more = |min: Value| {
        settings(json!({ "send": "hello", "require_reply": true, "expect": "hello, world", "min_length": min }))
    };
    fails(probe(echo, more(Value::Null)).await, "the answer has 5 bytes, not 12 to 65535");
    assert!(probe(echo, more(json!(5))).await.is_ok());
    let long = settings(json!({ "send": "hello", "require_reply": true, "min_length": 6 }));
    fails(probe(echo, long).await, "the answer has 5 bytes, not 6 to 65535");
    let silent = datagrams(|_| Vec::new()).await;
    let began = Instant::now();
    assert_eq!(probe(silent, json!("udp")).await, Ok(Success::default()));
    assert!(began.elapsed().as_secs() >= 2, "silence counts once the time is over");
    fails(probe(silent, settings(json!({ "require_reply": true }))).await, "not done within 2 s");
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    fails(probe(closed, json!("udp")).await, "answer: Connection refused");
}

#[tokio::test]
async fn dns() {
    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::{RData, Record};
    let reply = |query: &[u8]| {
        let mut message = Message::from_vec(query).unwrap();
        message.metadata.message_type = MessageType::Response;
        let name = message.queries[0].name().clone();
        match name.to_string().as_str() {
            "a.example." => {
                let data = RData::A(Ipv4Addr::new(192, 0, 2, 7).into());
                message.answers.push(Record::from_rdata(name, 60, data));
            }
            "." => {}
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        message.to_vec().unwrap()
    };
    let by_udp = datagrams(reply).await;
    let by_tcp = server(move |mut stream| async move {
        let mut query = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut query).await.unwrap();
        let answer = reply(&query);
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).await.unwrap();
    })
    .await;
    let a = |answer: &str| json!({ "name": "a.example", "type": "A", "answer": answer });
    for (address, transport) in [(by_udp, "udp"), (by_tcp, "tcp")] {
        for (mut settings, expected) in [
            (json!({}), Ok(())),
            (a("192.0.2.7"), Ok(())),
            (a("192.0.2.8"), Err("expected 192.0.2.8, got: 192.0.2.7")),
            (json!({ "name": "b.example" }), Err("response code Non-Existent Domain")),
            (json!({ "name": "b.example", "rcode": "nxdomain" }), Ok(())),
            (json!({ "name": "b.example", "rcode": "any" }), Ok(())),
            (json!({ "rcode": "refused" }), Err("response code No Error")),
        ] {
            settings["transport"] = transport.into();
            match expected {
                Ok(()) => assert!(probe(address, json!({ "dns": settings })).await.is_ok(), "{settings}"),
                Err(with) => fails(probe(address, json!({ "dns": settings })).await, with),
            }
        }
    }
    fails(probe(datagrams(|_| b"nonsense".to_vec()).await, json!("dns")).await, "not done within 2 s");
}

#[tokio::test]
async fn smtp() {
    let mail = |greeting: &'static str, hello: &'static str| {
        server(move |mut stream| async move {
            let (read, mut write) = stream.split();
            let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(read));
            let _ = write.write_all(greeting.as_bytes()).await;
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = match line.split(' ').next() {
                    Some("HELO") => hello,
                    Some("QUIT") => "221 bye\r\n",
                    _ => "500 what?\r\n",
                };
                let _ = write.write_all(answer.as_bytes()).await;
            }
        })
    };
    let good = mail("220-mail.example\r\n220 ready\r\n", "250 mail.example\r\n").await;
    assert_eq!(probe(good, json!("smtp")).await, Ok(Success::default()));
    fails(probe(mail("554 go away\r\n", "").await, json!("smtp")).await, "reply to greeting: 554 go away");
    fails(probe(mail("220 hi\r\n", "550 no\r\n").await, json!("smtp")).await, "reply to HELO: 550 no");
    fails(probe(answers("").await, json!("smtp")).await, "not done within 2 s");
}

#[tokio::test]
async fn external() {
    let address: SocketAddr = "192.0.2.1:81".parse().unwrap();
    let script = |script: &str, dynamic: bool| json!({ "external": { "command": ["/bin/sh", "-c", script], "dynamic": dynamic } });
    let is_told = "test $DPVS_ADDRESS:$DPVS_PORT = 192.0.2.1:81";
    assert_eq!(probe(address, script(is_told, false)).await, Ok(Success::default()));
    fails(probe(address, script("exit 3", false)).await, "the program ended with exit status: 3");
    assert_eq!(probe(address, script("exit 12", true)).await, Ok(Success { weight: Some(10) }));
    fails(probe(address, script("sleep 10", false)).await, "not done within 2 s");
    let nothing = json!({ "external": { "command": ["/nonexistent"] } });
    fails(probe(address, nothing).await, "run the program: No such file");
}
