//! FULLNAT servers learn who their clients are.

use std::net::IpAddr;
use std::time::Duration;

use dpvs_e2e::capture::Capture;
use dpvs_e2e::traffic::download_hash;
use dpvs_e2e::{Director, Family, Lab, Mode, Service, eventually};
use rstest::rstest;

const FILE: u64 = 8 << 20;

/// A lab with one server and services that tell it in these ways, each on a virtual address of its own.
fn lab(workers: u8, services: &[(&Service, &str)]) -> Lab {
    let lab = Lab::with_hosts(Mode::Fullnat.topology(), 1, 1);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(workers));
    for (service, way) in services {
        lab.add(std::slice::from_ref(*service));
        let protocol = if service.selector().starts_with("-u") { "udp" } else { "tcp" };
        lab.ctl(&format!("services edit {protocol}/{} --client-address {way}", service.address()));
    }
    lab
}

/// Transfers the file in both directions.
fn transfer(lab: &Lab, service: &Service, hash: &str) {
    assert_eq!(download_hash(lab, "c1", &service.url("files/bulk")), hash);
    let [from, to] = ["files/bulk", "s1/upload/bulk"].map(|file| lab.directory().join(file));
    let _ = std::fs::remove_file(&to);
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    lab.run("c1", &["curl", "-sSfg", "--max-time", "50", "-T", &from, &service.url("upload/bulk")]);
    assert!(lab.run("c1", &["sha256sum", &to]).starts_with(hash), "the upload arrived as it was");
}

#[rstest]
fn nginx_reads_the_proxy_header(#[values(1, 2, 4)] workers: u8) {
    let services = [
        (Service::tcp(Mode::Fullnat, Family::V4, 81), "proxy-v1"),
        (Service::tcp(Mode::Fullnat, Family::V6, 81), "proxy-v1"),
        (Service::tcp(Mode::Fullnat, Family::V4, 81).on(1), "proxy-v2"),
        (Service::tcp(Mode::Fullnat, Family::V6, 81).on(1), "proxy-v2"),
    ];
    let lab = lab(workers, &services.each_ref().map(|(service, way)| (service, *way)));
    let hash = lab.file("bulk", FILE);
    for (service, _) in &services {
        let url = service.url("");
        let command = ["curl", "-sSfg", "--max-time", "5", "-w", "%{local_ip} %{local_port} %{remote_ip} 81", &url];
        for _ in 0..3 * workers {
            let answer = lab.run("c1", &command);
            let (told, real) = answer.split_once('\n').expect("nginx's line, then curl's");
            assert_eq!(told, real);
        }
        transfer(&lab, service, &hash);
    }
    for drop in ["tcp_header", "bad_ip", "no_buffer"] {
        assert!(!lab.ctl("drops").contains(drop), "{}", lab.ctl("drops"));
    }
}

/// Its client says nothing until it is greeted, and the server greets only who has sent a header.
#[rstest]
fn a_server_that_speaks_first_has_the_header(#[values("proxy-v1", "proxy-v2")] way: &str) {
    const SCRIPT: &str = "
import socket
listener = socket.create_server(('::', 2525), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection = listener.accept()[0]
    header = connection.recv(4096)
    if header[:6] == b'PROXY ':
        words = header.split()
        client = words[2] + b' ' + words[4]
    else:
        v4 = header[13] >> 4 == 1
        family, end = (socket.AF_INET, 4) if v4 else (socket.AF_INET6, 16)
        port = int.from_bytes(header[16 + 2 * end:18 + 2 * end], 'big')
        client = b'%s %d' % (socket.inet_ntop(family, header[16:16 + end]).encode(), port)
    connection.sendall(b'220 ' + client + b'\\r\\n')
    connection.close()
";
    let services = [Family::V4, Family::V6].map(|family| Service::tcp(Mode::Fullnat, family, 2525));
    let lab = lab(2, &services.each_ref().map(|service| (service, way)));
    let _server = lab.spawn("s1", &["/usr/bin/python3", "-c", SCRIPT]);
    eventually("the server listens", Duration::from_secs(5), || {
        !lab.run("s1", &["ss", "-Hln", "sport = :2525"]).is_empty()
    });
    for (family, service) in [Family::V4, Family::V6].into_iter().zip(&services) {
        let (host, port) = (service.address().ip().to_string(), if family == Family::V4 { 40_004 } else { 40_006 });
        let source = port.to_string();
        let greeting = lab.run("c1", &["nc", "-d", "-w", "5", "-p", &source, &host, "2525"]);
        assert_eq!(greeting, format!("220 {} {port}\r\n", family.client(1)));
    }
}

#[rstest]
fn every_datagram_has_the_header(#[values(1, 2, 4)] workers: u8) {
    // Answers with what the header says, and the length of what follows.
    const SCRIPT: &str = "
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(('::', 5300))
while True:
    data, peer = server.recvfrom(65536)
    assert data[:12] == b'\\r\\n\\r\\n\\0\\r\\nQUIT\\n' and data[12] == 0x21 and data[13] & 15 == 2
    family, end = (socket.AF_INET, 4) if data[13] >> 4 == 1 else (socket.AF_INET6, 16)
    place = 16 + int.from_bytes(data[14:16], 'big')
    client = socket.inet_ntop(family, data[16:16 + end])
    port = int.from_bytes(data[16 + 2 * end:18 + 2 * end], 'big')
    server.sendto(b'%s %d %d' % (client.encode(), port, len(data) - place), peer)
";
    const CLIENT: &str = "
import socket, sys
host, sizes = sys.argv[1], sys.argv[2:]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((host, 5300))
address = client.getsockname()
for size in map(int, sizes):
    client.send(b'x' * size)
    answer, expected = client.recv(4096).decode(), '%s %d %d' % (address[0], address[1], size)
    assert answer == expected, (answer, expected)
";
    let services = [Family::V4, Family::V6].map(|family| Service::udp(Mode::Fullnat, family, 5300));
    let lab = lab(workers, &services.each_ref().map(|service| (service, "proxy-v2")));
    let _server = lab.spawn("s1", &["/usr/bin/python3", "-c", SCRIPT]);
    eventually("the server listens", Duration::from_secs(5), || {
        !lab.run("s1", &["ss", "-Hlnu", "sport = :5300"]).is_empty()
    });
    for service in &services {
        let host = service.address().ip().to_string();
        for _ in 0..2 * workers {
            lab.run("c1", &["/usr/bin/python3", "-c", CLIENT, &host, "0", "1", "512", "1400"]);
        }
    }
}

#[rstest]
fn toa_is_in_the_first_segments(#[values(1, 2, 4)] workers: u8) {
    let services = [Family::V4, Family::V6].map(|family| Service::tcp(Mode::Fullnat, family, 80));
    let lab = lab(workers, &services.each_ref().map(|service| (service, "toa")));
    let hash = lab.file("bulk", FILE);
    // A server without the kernel module does not mind.
    for service in &services {
        transfer(&lab, service, &hash);
    }
    let hash = lab.file("bulk", FILE / 32);
    for (family, service) in [Family::V4, Family::V6].into_iter().zip(&services) {
        let capture = Capture::start(&lab, "s1", "eth0", "tcp dst port 80");
        transfer(&lab, service, &hash);
        // A request of several full segments, before the server has said anything.
        let header = format!("X-Large: {}", "x".repeat(6000));
        lab.run("c1", &["curl", "-sSfg", "--max-time", "5", "-H", &header, &service.url("")]);
        let fields = ["frame.len", "tcp.flags.syn", "tcp.len", "tcp.checksum.status", "tcp.options"];
        let segments = capture.stop().fields("tcp", &fields);
        let client = match family.client(1) {
            IpAddr::V4(client) => client.octets().to_vec(),
            IpAddr::V6(client) => client.octets().to_vec(),
        };
        let (mut syns, mut acknowledgements, mut full, mut others) = (0, 0, 0, 0);
        for segment in &segments {
            let [len, syn, data, checksum, options] = segment.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{segment}")
            };
            assert_eq!(checksum, "1", "{segment}");
            let bytes: Vec<u8> = (0..options.len() / 2)
                .map(|n| u8::from_str_radix(&options[2 * n..2 * n + 2], 16))
                .map(Result::unwrap)
                .collect();
            let is_told = bytes.starts_with(&[254, client.len() as u8 + 4]) && bytes[4..].starts_with(&client);
            match (is_told, syn, data) {
                (true, "1", _) => syns += 1,
                (true, _, "0") => acknowledgements += 1,
                (true, _, _) => full += u32::from(len == "1514"),
                (false, "1", _) => panic!("a SYN without the option: {segment}"),
                (false, _, _) => others += 1,
            }
        }
        // The rest of an upload does without.
        assert!(
            syns >= 1 && acknowledgements >= 1 && full >= 1 && others > 50,
            "{syns} {acknowledgements} {full} {others}: {segments:?}"
        );
        let status = lab.ctl(&format!("services show tcp/{}", service.address()));
        assert!(status.contains("toa: in ") && status.contains("no room in 0"), "{status}");
    }
}
