//! FULLNAT between IP versions: clients, servers and the director's ICMP against Linux's stacks.

use std::net::SocketAddr;
use std::time::Duration;

use dpvs_e2e::traffic::{dig, download_hash, iperf};
use dpvs_e2e::{Director, Family, Lab, Mode, Service, Topology, eventually};
use rstest::rstest;

const FILE: u64 = 16 << 20;

fn other(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

/// A service for clients of `family` on virtual address `n`, whose server `s1` has the other version.
fn add(lab: &Lab, protocol: &str, family: Family, n: u8, port: u16) -> SocketAddr {
    let virt = SocketAddr::new(family.virtual_address(n), port);
    let far = other(family);
    let server = SocketAddr::new(far.server(lab.topology(), 1), port);
    let local = far.local_address(lab.topology(), 0);
    lab.restore(&format!(
        "-A {protocol} {virt} -s rr\n-P {protocol} {virt} -z {local}\n-a {protocol} {virt} -r {server} -b\n"
    ));
    virt
}

fn url(virt: SocketAddr, path: &str) -> String {
    format!("http://{virt}/{path}")
}

/// A lab with one client and one server.
fn lab(topology: Topology, workers: u8, servers: &[&str]) -> Lab {
    let lab = Lab::with_hosts(topology, 1, 1);
    lab.serve(servers);
    lab.start(Director::dpvsd(workers));
    lab
}

/// Transfers the file in both directions.
fn transfer(lab: &Lab, virt: SocketAddr, hash: &str) {
    assert_eq!(download_hash(lab, "c1", &url(virt, "files/bulk")), hash);
    let [from, to] = ["files/bulk", "s1/upload/bulk"].map(|file| lab.directory().join(file));
    let _ = std::fs::remove_file(&to);
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    lab.run("c1", &["curl", "-sSfg", "--max-time", "50", "-T", &from, &url(virt, "upload/bulk")]);
    assert!(lab.run("c1", &["sha256sum", &to]).starts_with(hash), "the upload arrived as it was");
}

#[rstest]
fn web_pages_files_and_large_datagrams(#[values(1, 2)] workers: u8) {
    let lab = lab(Topology::OneArm, workers, &["http", "dns"]);
    let hash = lab.file("bulk", FILE);
    for family in [Family::V4, Family::V6] {
        let virt = add(&lab, "-t", family, 0, 80);
        for _ in 0..4 * workers {
            let page = lab.run("c1", &["curl", "-sSfg", family.flag(), "--max-time", "5", &url(virt, "")]);
            assert_eq!(page.trim(), "s1");
        }
        transfer(&lab, virt, &hash);

        // The director lists client and server of one connection, as they are.
        let listing = lab.ipvsadm("-Lnc");
        let line = listing.lines().find(|line| line.contains(&virt.to_string()));
        let line = line.unwrap_or_else(|| panic!("no connection to {virt}:\n{listing}"));
        let server = SocketAddr::new(other(family).server(lab.topology(), 1), 80).to_string();
        assert!(line.contains(&family.client(1).to_string()) && line.ends_with(&server), "{line}");
        let services = lab.ipvsadm("-Ln");
        assert!(services.contains(&server) && services.contains("FullNat"), "{services}");

        let names = add(&lab, "-u", family, 0, 53);
        let answer = dig(&lab, "c1", names, "huge", &["+ignore", "+bufsize=4096", "+tries=3"]);
        assert_eq!(answer.map(|records| records.len()), Ok(15), "more than 3,000 bytes in fragments");

        // iperf3 has a TCP control connection beside the UDP stream.
        add(&lab, "-t", family, 0, 5201);
        let stream = add(&lab, "-u", family, 0, 5201);
        let address = other(family).server(lab.topology(), 1).to_string();
        let _server = lab.spawn("s1", &["iperf3", "--server", "-B", &address]);
        eventually("iperf3 listens", Duration::from_secs(5), || {
            !lab.run("s1", &["ss", "-Hlnt", "sport = :5201"]).is_empty()
        });
        for direction in [&[][..], &["-R"]] {
            let options = [&["-u", "-l", "4000", "-b", "8M"][..], direction].concat();
            let passed = iperf(&lab, "c1", stream, 1, &options);
            assert!(passed.bytes > 500e3 && passed.lost_percent < 5.0, "{family:?} {direction:?}: {passed:?}");
        }
    }
    for drop in ["untranslatable", "bad_ip", "no_local_address", "conflict"] {
        assert!(!lab.ctl("drops").contains(drop), "{}", lab.ctl("drops"));
    }
}

/// Both hosts believe in 1500 bytes; the way behind the director or before it has less, which they learn by ICMP.
#[rstest]
fn path_mtu_is_found_on_either_side(#[values(Family::V4, Family::V6)] family: Family) {
    let lab = lab(Topology::TwoArm, 2, &["http"]);
    let hash = lab.file("bulk", 1 << 20);
    let virt = add(&lab, "-t", family, 0, 80);
    transfer(&lab, virt, &hash);
    let server = other(family).server(lab.topology(), 1);
    for (host, port) in [(family.client(1), "dpvs0"), (server, "dpvs1")] {
        let host = format!("{host}/{}", if host.is_ipv4() { 32 } else { 128 });
        lab.run("lb", &["ip", "route", "replace", &host, "dev", port, "mtu", "1400"]);
        transfer(&lab, virt, &hash);
    }
    assert!(lab.ctl("drops").contains("too_big"), "{}", lab.ctl("drops"));
}

/// Nobody listens at the server's port: its ICMP error tells the client, which gives up at once.
#[rstest]
fn a_closed_port_is_reported(#[values(Family::V4, Family::V6)] family: Family) {
    const SCRIPT: &str = "
import socket, sys
client = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((sys.argv[1], 7))
client.send(b'hello')
try:
    client.recv(100)
except ConnectionRefusedError:
    print('refused')
";
    let lab = lab(Topology::OneArm, 2, &[]);
    let virt = add(&lab, "-u", family, 0, 7);
    for _ in 0..3 {
        let said = lab.run("c1", &["/usr/bin/python3", "-c", SCRIPT, &virt.ip().to_string()]);
        assert_eq!(said, "refused\n");
    }
}

#[rstest]
fn nginx_reads_the_clients_address_of_the_other_version(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values("proxy-v1", "proxy-v2")] way: &str,
) {
    let lab = lab(Topology::OneArm, 2, &["http"]);
    let hash = lab.file("bulk", FILE);
    let virt = add(&lab, "-t", family, 0, 81);
    lab.ctl(&format!("services edit tcp/{virt} --client-address {way}"));
    let url = url(virt, "");
    for _ in 0..4 {
        let format = "%{local_ip} %{local_port} %{remote_ip} 81";
        let answer = lab.run("c1", &["curl", "-sSfg", "--max-time", "5", "-w", format, &url]);
        let (told, real) = answer.split_once('\n').expect("nginx's line, then curl's");
        assert_eq!(told, real);
    }
    transfer(&lab, virt, &hash);
}

/// Without a local address of the server's version nothing can be sent to it; the drop says so.
#[test]
fn a_local_address_of_the_servers_version_is_needed() {
    let lab = lab(Topology::OneArm, 1, &["http"]);
    let service = Service::tcp(Mode::Fullnat, Family::V6, 80).weights(&[]);
    lab.add(std::slice::from_ref(&service));
    let server = SocketAddr::new(Family::V4.server(lab.topology(), 1), 80);
    lab.ipvsadm(&format!("-a {} -r {server} -b", service.selector()));
    let url = service.url("");
    assert!(!lab.try_run("c1", &["curl", "-sfg", "--max-time", "1", &url]).status.success());
    assert!(lab.ctl("drops").contains("no_local_address"), "{}", lab.ctl("drops"));
    let local = Family::V4.local_address(lab.topology(), 0);
    lab.ipvsadm(&format!("-P {} -z {local}", service.selector()));
    lab.wait_for_http(&url, Duration::from_secs(5));
    let listed = lab.ipvsadm("-G");
    assert!(listed.contains(&local.to_string()), "{listed}");
}
