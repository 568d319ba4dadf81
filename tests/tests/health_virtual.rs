//! Health checks at the virtual address: a DR or TUN server must have it, whatever its own address answers.

use std::time::{Duration, Instant};

use dpvs_e2e::{Config, Lab, Topology};

/// A check that fails takes the timeout, at most; after two runs it is down, after one it is up again.
const CHECK: &str = "interval = 0.2\ntimeout = 0.4\nfall = 2\nrise = 1\nwarmup = 0.1";
/// For all that is expected at a time, on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// A service with one check of each of its servers, which are hosts with their modes, such as `21 dr`.
fn service(id: &str, probe: &str, more: &str, servers: &[&str]) -> String {
    let (protocol, address) = id.split_once('/').unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut text = format!(
        "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\nscheduler = \"rr\"\n\
         [services.health]\ninitially = \"down\"\n[[services.health.checks]]\nprobe = {probe}\n{CHECK}\n{more}\n"
    );
    for server in servers {
        let (n, mode) = server.split_once(' ').unwrap();
        let server = host.replace("100", n).replace("101", n).replace("102", n);
        text += &format!("[[services.servers]]\naddress = \"{server}:{port}\"\nmode = \"{mode}\"\n");
    }
    text
}

/// The last numbers of the servers that take connections.
fn listed(lab: &Lab, id: &str) -> String {
    let table = lab.ipvsadm(&format!("-Ln {}", id.replace("tcp/", "-t ").replace("udp/", "-u ")));
    let servers = table.lines().filter_map(|line| {
        let server = line.trim_start().strip_prefix("-> ")?.split_whitespace().next()?;
        let host = server.rsplit_once(':')?.0.trim_end_matches(']').rsplit(['.', ':']).next()?;
        host.parse::<u8>().is_ok().then(|| host.to_owned())
    });
    servers.collect::<Vec<_>>().join(" ")
}

fn expect(lab: &Lab, expected: &[(&str, &str)]) {
    let began = Instant::now();
    for (id, servers) in expected {
        loop {
            let found = listed(lab, id);
            if found == *servers {
                break;
            }
            let shown = || lab.ctl(&format!("services show {id}"));
            assert!(began.elapsed() < LIMIT, "{id}: '{found}', not '{servers}' within {LIMIT:?}\n{}", shown());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!("{expected:?} after {:?}", began.elapsed());
}

const HTTP: &str = "{ http = { path = \"/\" } }";
const WEB: &str = "tcp/192.0.2.100:80";
const WEB6: &str = "tcp/[2001:db8:1::100]:80";
const DNS: &str = "udp/192.0.2.100:53";
const UDP6: &str = "udp/[2001:db8:1::101]:53";
const PING: &str = "tcp/192.0.2.101:80";
const PING6: &str = "tcp/[2001:db8:1::102]:80";
const OWN: &str = "tcp/192.0.2.102:80";

#[test]
fn a_server_without_the_virtual_address_leaves() {
    let lab = Lab::with_hosts(Topology::OneArm, 1, 2);
    lab.oracle_server();
    lab.serve(&["http", "dns"]);
    let all = &["21 dr", "22 dr", "31 tun"];
    let direct = &["21 dr", "22 dr"];
    let services = [
        service(WEB, HTTP, "", all),
        service(WEB6, HTTP, "", all),
        service(DNS, "{ dns = { name = \"whoami.\", type = \"TXT\" } }", "", direct),
        service(UDP6, "{ udp = { send = \"x\" } }", "", direct),
        service(PING, "\"icmp\"", "", all),
        service(PING6, "\"icmp\"", "", all),
        service(OWN, HTTP, "destination = \"server\"", direct),
    ];
    let config = Config::of(&lab, 2, |text| text + &services.concat());
    lab.start_with(&config.path());
    let both = [(WEB, "21 22 31"), (WEB6, "21 22 31"), (DNS, "21 22"), (UDP6, "21 22")];
    let pings = [(PING, "21 22 31"), (PING6, "21 22 31"), (OWN, "21 22")];
    // Nothing is up before a check has found it so.
    expect(&lab, &[both.as_slice(), &pings].concat());
    let shown = lab.ctl(&format!("services show {WEB}"));
    assert!(shown.contains("http 192.0.2.100:80/ at 192.0.2.21 (dr)"), "{shown}");
    assert!(shown.contains("http 192.0.2.100:80/ at 192.0.2.31 (tun, ipip)"), "{shown}");

    // The virtual addresses leave a server, which goes on to answer at its own, and sends what it gets for them back to the
    // director: no other server may answer in its place.
    lab.shell("s1", "sysctl -qw net.ipv4.ip_forward=1; for n in 0 1 2; do ip address del 192.0.2.10$n/32 dev lo; done");
    expect(&lab, &[(WEB, "22 31"), (DNS, "22"), (PING, "22 31"), (WEB6, "21 22 31"), (OWN, "21 22")]);
    lab.run("c1", &["curl", "-sf", "--max-time", "2", "http://192.0.2.21/"]);
    let shown = lab.ctl(&format!("services show {WEB}"));
    assert!(shown.contains("not done within 0.4 s"), "{shown}");
    let drops = lab.ctl("drops");
    assert!(drops.contains("martian"), "{drops}");
    lab.shell("s2", "for n in 0 2; do ip address del 2001:db8:1::10$n/128 dev lo; done");
    expect(&lab, &[(WEB6, "21 31"), (PING6, "21 31"), (WEB, "22 31"), (UDP6, "21 22")]);
    lab.shell("s1", "for n in 0 1 2; do ip address add 192.0.2.10$n/32 dev lo; done");
    lab.shell("s2", "for n in 0 2; do ip address add 2001:db8:1::10$n/128 dev lo; done");
    expect(&lab, &[both.as_slice(), &pings].concat());

    // The ends of the tunnels.
    lab.run("u1", &["sh", "-c", "ip link set tunl0 down; ip link set ip6tnl0 down"]);
    expect(&lab, &[(WEB, "21 22"), (WEB6, "21 22"), (PING, "21 22"), (PING6, "21 22")]);
    lab.run("u1", &["sh", "-c", "ip link set tunl0 up; ip link set ip6tnl0 up"]);
    expect(&lab, &both);

    // What the server reports about packets to the virtual address is heard. Every datagram is to have its answer, whatever the
    // server has reported before.
    lab.run("s1", &["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]);
    for what in ["http", "dns"] {
        lab.kill("s1", what);
    }
    expect(&lab, &[(WEB, "22 31"), (WEB6, "22 31"), (DNS, "22"), (UDP6, "22"), (OWN, "22")]);
    for id in [WEB, WEB6, DNS, UDP6] {
        let shown = lab.ctl(&format!("services show {id}"));
        assert!(shown.contains("Connection refused"), "{shown}");
    }
    lab.stop_director("TERM");
}
