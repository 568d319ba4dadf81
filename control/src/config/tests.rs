//! Tests of the configuration file: what it means, and what is said about mistakes.

use std::path::Path;

use dpvs_api::{ConfigFile, ConfigSources, ForwardMode, Protocol, Scheduler};

use super::*;

const PORT: &str = "[[ports]]\nname = 'lan'\ndevice = 'net_tap0'\n";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    parse_files(&[("t.toml", text)], &[])
}

/// Parses a main file, those that it includes, and environment variables.
fn parse_files(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let file = |(path, text): &(&str, &str)| ConfigFile { path: path.into(), text: (*text).to_owned() };
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(&ConfigSources { files: files.iter().map(file).collect(), environment: environment.collect() })
}

#[test]
fn a_short_file_gets_the_defaults() {
    let config = parse(PORT).unwrap();
    assert_eq!(config.daemon.socket, Path::new("/run/dpvs/dpvsd.sock"));
    assert_eq!((config.daemon.drain_timeout, config.daemon.log.as_str()), (0, "info"));
    assert_eq!((config.eal.file_prefix.as_str(), config.eal.hugepages), ("dpvs", Hugepages::Auto));
    assert_eq!((config.workers.number(), config.workers.idle), (1, Idle::Poll));
    assert_eq!(
        config.limits,
        Limits {
            connections: 1_048_576,
            services: 16_384,
            servers: 131_072,
            persistent_clients: 262_144,
            sip_calls: 16_384,
        }
    );
    assert_eq!(config.timeouts, Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
    let port = &config.ports[0];
    assert_eq!((port.rx_descriptors, port.tx_descriptors, port.mtu, port.queues), (1024, 1024, 1500, None));
    assert_eq!(config.interface(0), "dpvs0");
    assert!(port.is_virtual());
}

#[test]
fn a_long_file_says_everything() {
    let config = parse(
        r#"
[daemon]
socket = "/tmp/s"
socket_group = "adm"
drain_timeout = 30
log = "warn,control=debug"
control_core = 0

[eal]
file_prefix = "p"
args = ["--log-level=8"]
hugepages = "no"
memory_mb = 512

[workers]
cores = [1, 1]
idle = "yield"

[limits]
connections = 4096

[timeouts]
udp = 5

[[ports]]
name = "lan"
device = "net_tap0"
vdev = "iface=wire0"
interface = "lan0"
queues = 2
rx_descriptors = 64
tx_descriptors = 128
mtu = 9000
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]

[[ports]]
name = "wan"
device = "0000:3b:00.0"

[[services]]
protocol = "tcp"
address = "192.0.2.10:80"
scheduler = "wrr"
timeout = 60
local_ports = { first = 2000, last = 3000 }
local_addresses = ["192.0.2.20"]

[[services.servers]]
address = "10.0.0.1:8080"
mode = "fullnat"
weight = 5

[[services]]
protocol = "udp"
address = "[2001:db8::10]:53"

[[services.servers]]
address = "[2001:db8::20]:53"
mode = "tun"
"#,
    )
    .unwrap();
    assert_eq!(config.workers, Workers { count: None, cores: Some(vec![1, 1]), idle: Idle::Yield });
    assert_eq!(config.workers.number(), 2);
    assert_eq!(config.daemon.socket_group.as_deref(), Some("adm"));
    assert_eq!((config.daemon.control_core, config.daemon.drain_timeout), (Some(0), 30));
    assert_eq!((config.eal.memory_mb, config.eal.hugepages), (Some(512), Hugepages::No));
    assert_eq!(config.limits, Limits { connections: 4096, ..Limits::default() });
    assert_eq!(config.timeouts, Timeouts { udp: 5, ..Timeouts::default() });
    assert_eq!((config.interface(0), config.interface(1)), ("lan0".to_owned(), "dpvs1".to_owned()));
    assert_eq!(config.ports[0].mac, Some(MacAddress([2, 0, 0, 0, 0, 1])));
    assert_eq!(config.ports[0].addresses[1].to_string(), "2001:db8::1/64");
    assert!(!config.ports[1].is_virtual());
    let [first, second] = config.services.as_slice() else { panic!("{:?}", config.services) };
    let settings = &first.settings;
    assert_eq!((settings.scheduler, settings.timeout, settings.local_ports.first), (Scheduler::Wrr, Some(60), 2000));
    assert_eq!((first.servers[0].mode, first.servers[0].weight), (ForwardMode::Fullnat, 5));
    assert_eq!(
        (second.id.protocol(), second.settings.scheduler, second.servers[0].weight),
        (Some(Protocol::Udp), Scheduler::Wlc, 1)
    );
}

/// A mistake, and all that is said about it.
#[test]
fn mistakes() {
    let service = "[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.10:80'\n";
    let server = "[[services.servers]]\naddress = '10.0.0.1:80'\n";
    let cases: &[(&str, &[&str])] = &[
        // Syntax.
        ("[daemon\n", &["t.toml:1:8: unclosed table, expected `]`"]),
        (
            "[limits]\nservices = 1\nservices = 2\n",
            &["t.toml:3:1: duplicate key: it stands further up already; remove one"],
        ),
        (
            "a = = 1\n",
            &["t.toml:1:5: extra `=`, expected nothing", "t.toml:1:7: unexpected key or value, expected newline, `#`"],
        ),
        // Names and types.
        (
            "[deamon]\nlog = 'info'\n",
            &[
                "t.toml:1:2: deamon: unknown section: correct or remove it; there are daemon, api, eal, workers, limits, \
               timeouts, sysctl, helpers, metrics, connection_log, ports, marks, services",
            ],
        ),
        (
            "[daemon]\nlog = 'info'\nlogs = 'info'\n",
            &[
                "t.toml:3:1: daemon.logs: unknown field `logs`, expected one of `socket`, `socket_group`, `drain_timeout`, \
               `log`, `control_core`; correct or remove it",
            ],
        ),
        (
            "daemon = 1\n",
            &["t.toml:1:10: daemon: must be a section: write [daemon] on a line of its own and its keys below"],
        ),
        (
            "[ports]\nname = 'x'\n",
            &["t.toml:1:1: ports: must be a list: write [[ports]], with two brackets, before each of them"],
        ),
        (
            "[limits]\nservices = 'many'\n",
            &["t.toml:2:12: limits.services: invalid type: string \"many\", expected a number from 0 up"],
        ),
        (
            "[limits]\nservices = -1\n",
            &["t.toml:2:12: limits.services: invalid value: integer `-1`, expected a number from 0 up"],
        ),
        (
            "[eal]\nhugepages = 'maybe'\n",
            &["t.toml:2:13: eal.hugepages: unknown variant `maybe`, expected one of `auto`, `yes`, `no`"],
        ),
        ("[[ports]]\nname = 'x'\n", &["t.toml:1:1: ports[0]: missing field `device`: add it here"]),
        (
            "[[ports]]\nname = 'x'\ndevice = 'net_tap0'\nmac = '1'\n",
            &["t.toml:4:7: ports[0].mac: '1' is not a MAC address: write six bytes, e.g. 02:00:00:00:00:01"],
        ),
        (
            "[[ports]]\nname = 'x'\ndevice = 'net_tap0'\naddresses = ['192.0.2.1/24', '10.0.0.1']\n",
            &["t.toml:4:30: ports[0].addresses[1]: '10.0.0.1' has no prefix length: write ADDRESS/LENGTH, \
               e.g. 192.0.2.1/24 or 2001:db8::1/64"],
        ),
        (
            &format!("{PORT}addresses = ['224.0.0.1/24', '192.0.2.1/24', '::/8']\n"),
            &[
                "t.toml:4:14: ports[0].addresses[0]: address 224.0.0.1 is a multicast address; give a unicast address",
                "t.toml:4:46: ports[0].addresses[2]: address :: is an unspecified address; give a unicast address",
            ],
        ),
        (
            &format!("[daemon]\nlog = \"a\\nb\\u001b=c=d\"\n{PORT}"),
            &["t.toml:2:7: daemon.log: 'a\\nb\\u{1b}=c=d' is no log filter: give error, warn, info, debug or trace, \
               or TARGET=LEVEL,..."],
        ),
        ("[eal]\nargs = 'x'\n", &["t.toml:2:8: eal.args: invalid type: string \"x\", expected a list: [...]"]),
        (
            "[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.10'\n",
            &[
                "t.toml:3:11: services[0].address: invalid socket address syntax: write ADDRESS:PORT, e.g. 192.0.2.1:80 \
               or [2001:db8::1]:80",
            ],
        ),
        (
            "[[services]]\nprotocol = 'dccp'\naddress = '192.0.2.10:80'\nschedular = 'rr'\n[[ports]]\nname = 1\n",
            &[
                "t.toml:2:12: services[0].protocol: unknown variant `dccp`, expected one of `tcp`, `udp`, `sctp`",
                "t.toml:6:8: ports[0].name: invalid type: integer `1`, expected a string",
            ],
        ),
        // Meaning: all errors at once, each at its line.
        ("", &["t.toml:1:1: ports: there is no port: add a [[ports]] section with name and device"]),
        (
            &format!("[daemon]\nsocket = 'run/s'\nlog = 'a=b=c'\ndrain_timeout = 86401\n{PORT}"),
            &[
                "t.toml:2:10: daemon.socket: must be an absolute path: begin it with /",
                "t.toml:4:17: daemon.drain_timeout: 86401 is out of range: give 0 to 86400",
                "t.toml:3:7: daemon.log: 'a=b=c' is no log filter: give error, warn, info, debug or trace, or TARGET=LEVEL,...",
            ],
        ),
        (
            &format!("[daemon]\nsocket = '/{}'\n{PORT}", "x".repeat(107)),
            &["t.toml:2:10: daemon.socket: 108 bytes are too long for a Unix socket: use at most 107"],
        ),
        (
            &format!("[api]\nlisten = '192.0.2.1:8443'\ncertificate = 'a'\nkey = 'b'\nread_socket = 'c'\n{PORT}"),
            &[
                "t.toml:2:10: api.listen: needs certificates on both sides: give client_ca, a PEM file, as well",
                "t.toml:5:15: api.read_socket: must be an absolute path: begin it with /",
            ],
        ),
        (
            &format!("[api]\nwriters = ['CN=a']\nread_socket = '/run/dpvs/dpvsd.sock'\n{PORT}"),
            &[
                "t.toml:2:11: api.writers: is of no use without listen: give an address and a port, or remove it",
                "t.toml:3:15: api.read_socket: is daemon.socket already, whose users may change everything: give another path",
            ],
        ),
        (
            &format!("[api]\nwriters = ['admin']\n{PORT}"),
            &[
                "t.toml:2:12: api.writers[0]: 'admin' is no name in a certificate: write CN=, OU=, DNS=, EMAIL= or URI= and \
               the name, e.g. CN=admin",
            ],
        ),
        (
            &format!("[api]\nread_group = 'adm'\n{PORT}"),
            &["t.toml:2:14: api.read_group: is of no use without read_socket: give the path of one, or remove it"],
        ),
        (
            &format!("[eal]\nfile_prefix = 'a/b'\nmemory_mb = 1\n{PORT}"),
            &[
                "t.toml:2:15: eal.file_prefix: must be part of a file name: use letters, digits, - and _",
                "t.toml:3:13: eal.memory_mb: 1 is out of range: give 16 to 1048576",
            ],
        ),
        (
            &format!("[workers]\ncount = 3\ncores = [1, 2]\n{PORT}"),
            &[
                "t.toml:3:9: workers.cores: 2 cores for 3 workers: give one per worker (a core may repeat), or remove count",
            ],
        ),
        (&format!("[workers]\ncount = 0\n{PORT}"), &["t.toml:2:9: workers.count: 0 is out of range: give 1 to 64"]),
        (
            &format!("[workers]\ncores = []\n{PORT}"),
            &["t.toml:2:9: workers.cores: 0 cores: give one per worker, 1 to 64"],
        ),
        (
            &format!("[limits]\nconnections = 2047\nservers = 0\n[workers]\ncount = 2\n{PORT}"),
            &[
                "t.toml:2:15: limits.connections: 2047 is out of range: give 2048 to 1073741824",
                "t.toml:3:11: limits.servers: 0 is out of range: give 1 to 4194304",
            ],
        ),
        (
            &format!("[helpers]\nftp_ports = [21, 1]\n{PORT}"),
            &["t.toml:2:18: helpers.ftp_ports[1]: 1 is out of range: give 2 to 65535"],
        ),
        (
            &format!("[helpers]\nftp_ports = [21, 22, 23, 24, 25, 26, 27, 28, 29]\n{PORT}"),
            &["t.toml:2:13: helpers.ftp_ports: 9 ports are too many: give at most 8"],
        ),
        (
            &format!("[helpers]\ntftp_ports = [0]\n{PORT}"),
            &["t.toml:2:15: helpers.tftp_ports[0]: 0 is out of range: give 1 to 65535"],
        ),
        (
            &format!("[timeouts]\ntcp = 0\nudp = 2678401\n{PORT}"),
            &[
                "t.toml:2:7: timeouts.tcp: 0 is out of range: give 1 to 2678400",
                "t.toml:3:7: timeouts.udp: 2678401 is out of range: give 1 to 2678400",
            ],
        ),
        (
            &format!("[sysctl]\nconn_reuse_mode = 4\n{PORT}"),
            &["t.toml:2:19: sysctl.conn_reuse_mode: 4 is out of range for conn_reuse_mode: give 0 to 3"],
        ),
        (
            &format!("[sysctl]\nsync_version = 1\n{PORT}"),
            &[
                "t.toml:2:16: sysctl.sync_version: sync_version is a setting of IPVS that dpvsd does not have yet (connection synchronisation): leave it out",
            ],
        ),
        (
            &format!(
                "{PORT}interface = 'abcdefghijklmnop'\nqueues = 2\nrx_descriptors = 63\ntx_descriptors = 32769\nmtu = 1279\n"
            ),
            &[
                "t.toml:4:13: ports[0].interface: 'abcdefghijklmnop' cannot be a network interface: use 1 to 15 letters and digits",
                "t.toml:5:10: ports[0].queues: 2 queues for 1 workers: give 1 to 1, or raise workers.count",
                "t.toml:6:18: ports[0].rx_descriptors: 63 is out of range: give 64 to 32768",
                "t.toml:7:18: ports[0].tx_descriptors: 32769 is out of range: give 64 to 32768",
                "t.toml:8:7: ports[0].mtu: 1279 is out of range: give 1280 to 9216",
            ],
        ),
        (
            &format!("{PORT}{PORT}interface = 'dpvs0'\n"),
            &[
                "t.toml:5:8: ports[1].name: 'lan' is the name of ports[0] already: give each port its own",
                "t.toml:6:10: ports[1].device: 'net_tap0' is the device of ports[0] already: give each port its own",
                "t.toml:7:13: ports[1].interface: 'dpvs0' is the interface of ports[0] already: give each port its own",
            ],
        ),
        (
            "[[ports]]\nname = 'x y'\ndevice = 'net_tap0,iface=a'\n[[ports]]\nname = 'y'\ndevice = '3b:00.0'\nvdev = ''\n",
            &[
                "t.toml:2:8: ports[0].name: must be a word: use letters and digits",
                "t.toml:3:10: ports[0].device: must be a PCI address (0000:3b:00.0) or a virtual device (net_tap0): \
                 put arguments into vdev",
                "t.toml:7:8: ports[1].vdev: arguments are for virtual devices, but 3b:00.0 is a PCI device: remove vdev",
            ],
        ),
        (
            &format!("{PORT}{service}{server}mode = 'dr'\nweight = 70000\n{service}timeout = 0\n"),
            &[
                "t.toml:10:10: services[0].servers[0].weight: weight 70000 of server 10.0.0.1:80 is too large; give 0 to 65535",
                "t.toml:14:11: services[1].timeout: service tcp/192.0.2.10:80: a timeout of 0 seconds is out of range; \
                 give 1 to 2678400 (31 days)",
            ],
        ),
        (
            &format!("{PORT}{service}{service}"),
            &[
                "t.toml:9:11: services[1].address: service tcp/192.0.2.10:80 stands twice in the file; remove one, or merge them",
            ],
        ),
        (
            &format!("{PORT}{service}{server}mode = 'fullnat'\n"),
            &[
                "t.toml:4:1: services[0].local_addresses: service tcp/192.0.2.10:80 has FULLNAT servers: give it at least one \
               IPv4 local address",
            ],
        ),
        (
            &format!(
                "{PORT}{service}local_addresses = ['10.9.9.9']\n{server}mode = 'fullnat'\n\
                 [[services.servers]]\naddress = '[2001:db8::2]:80'\nmode = 'fullnat'\n"
            ),
            &[
                "t.toml:7:19: services[0].local_addresses: service tcp/192.0.2.10:80 has FULLNAT servers: give it at least one \
               IPv6 local address",
            ],
        ),
        (
            &format!(
                "[limits]\nservices = 1\n{PORT}{service}[[services]]\nprotocol = 'udp'\naddress = '192.0.2.10:80'\n"
            ),
            &["t.toml:9:1: services[1]: no room: limits.services is 1; raise it, or remove services"],
        ),
    ];
    for (text, expected) in cases {
        let errors = parse(text).expect_err(text).0;
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let got: Vec<&str> = got.iter().map(String::as_str).collect();
        assert_eq!(got, *expected, "{text}");
        assert!(got.iter().all(|line| !line.contains('\n')));
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let error = Config::load(&file).unwrap_err().to_string();
    assert_eq!(error, format!("{}: there is no such file", file.display()));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(Config::load(&file).unwrap_err().to_string().ends_with("not UTF-8 text: save it as UTF-8"));
    std::fs::write(&file, "[limits]\nservers = 0\nservices = 0").unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert!(
        error
            .ends_with("limits.services: 0 is out of range: give 1 to 1048576 (and 2 more: `dpvsd --check` shows all)"),
        "{error}"
    );
}

#[test]
fn included_files_follow_the_main_one() {
    let service = |port: u16| format!("[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.10:{port}'\n");
    let mark = |mark: u32| format!("[[marks]]\nmark = {mark}\n");
    let main = format!("include = ['conf.d/*']\n{PORT}{}{}", service(1), mark(1));
    let (a, b) = (mark(2) + &mark(3), service(2) + &service(3) + &mark(4));
    let config = parse_files(&[("t.toml", &main), ("a.toml", &a), ("b.toml", &b)], &[]).unwrap();
    assert_eq!(config.services.iter().map(|service| service.id.port()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(config.marks.iter().map(|rule| rule.mark).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn mistakes_in_included_files_are_found_there() {
    let service = "[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.10:80'\n";
    for (main, included, expected) in [
        (PORT, "x = [", "a.toml:1:6: unclosed array, expected `]`"),
        ("include = 1", "", "t.toml:1:11: include: invalid type: integer `1`, expected a list: [...]"),
        (PORT, "[daemon]\n", "a.toml:1:2: daemon: included files have marks and services only: move this into t.toml"),
        (PORT, "[[ports]]\n", "a.toml:1:3: ports: included files have marks and services only: move this into t.toml"),
        (
            PORT,
            "include = ['b']\n",
            "a.toml:1:1: include: a file that is included includes no others: name them in t.toml",
        ),
        (
            PORT,
            "y = 1\n",
            "a.toml:1:1: y: unknown section: correct or remove it; there are daemon, api, eal, workers, limits, \
                           timeouts, sysctl, helpers, metrics, connection_log, ports, marks, services",
        ),
        (
            &(PORT.to_owned() + service),
            &format!("#\n{service}timeout = 0\n{service}"),
            "a.toml:5:11: services[0].timeout: service tcp/192.0.2.10:80: a timeout of 0 seconds is out of range; \
             give 1 to 2678400 (31 days)\n\
             a.toml:8:11: services[1].address: service tcp/192.0.2.10:80 stands twice in the file; remove one, or merge them",
        ),
        (PORT, "[[marks]]\nmark = 1\ningress = 'x'", "a.toml:3:11: marks[0].ingress: there is no port 'x'"),
    ] {
        let errors = parse_files(&[("t.toml", main), ("a.toml", included)], &[]).unwrap_err().0;
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(text.join("\n").starts_with(expected), "{}\n{expected}", text.join("\n"));
    }
}

#[test]
fn environment_variables_are_put_into_strings() {
    let text = format!(
        "{PORT}addresses = ['${{NET}}.1/24']\n[daemon]\nlog = '${{LOG:-warn}}'\n[[services]]\nprotocol = 'tcp'\n\
         address = '${{NET}}.10:80'\n"
    );
    let config = parse_files(&[("t.toml", &text)], &[("NET", "192.0.2")]).unwrap();
    assert_eq!(
        (config.daemon.log.as_str(), config.ports[0].addresses[0].to_string().as_str()),
        ("warn", "192.0.2.1/24")
    );
    assert_eq!(config.services[0].id.to_string(), "tcp/192.0.2.10:80");
    let errors = parse_files(&[("t.toml", &text)], &[]).unwrap_err().0;
    let remedy = "environment variable NET is not set: set it, or write ${NET:-DEFAULT}; $${ stands for a literal ${";
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            format!("t.toml:4:14: ports[0].addresses[0]: {remedy}"),
            format!("t.toml:9:11: services[0].address: {remedy}")
        ]
    );
    // What is put in is no TOML, and no number.
    let error = parse_files(&[("t.toml", "[limits]\nservices = '${N}'\n")], &[("N", "5")]).unwrap_err().to_string();
    assert!(error.starts_with("t.toml:2:12: limits.services: invalid type: string \"5\""), "{error}");
}

#[test]
fn files_are_included_from_the_folder_and_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    std::fs::write(&file, format!("include = ['${{DPVS_TEST_NONE:-conf.d}}']\n{PORT}")).unwrap();
    let service = "[[services]]\nprotocol = 'udp'\naddress = '192.0.2.10:53'\n";
    std::fs::write(folder.path().join("conf.d/dns.toml"), service).unwrap();
    assert_eq!(Config::load(&file).unwrap().services.len(), 1);
}

#[test]
fn the_schema_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dpvsd.schema.json");
    if std::env::var_os("DPVS_UPDATE_DOCS").is_some() {
        std::fs::write(&file, schema()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == schema(),
        "deploy/dpvsd.schema.json is old: run 'dpvsd --schema >deploy/dpvsd.schema.json', or \
         'cargo nextest run -p control schema' with DPVS_UPDATE_DOCS=1"
    );
}

#[test]
fn the_schema_takes_what_is_read_and_refuses_what_is_not() {
    let validator = jsonschema::draft202012::new(&serde_json::from_str(&schema()).unwrap()).unwrap();
    let as_json = |text: &str| -> serde_json::Value {
        serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
            .unwrap()
    };
    let complete = uncommented();
    for text in [SAMPLE, &complete, IMPORTED[0], IMPORTED[1], "include = ['conf.d/*.toml']", PORT] {
        let value = as_json(text);
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:?}\n{text}");
    }
    let server =
        "[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.1:80'\n[[services.servers]]\naddress = '10.0.0.1:80'\n";
    for (text, valid) in [
        (format!("{server}mode = 'nat'"), true),
        (format!("{server}mode = '${{MODE}}'"), true),
        (format!("{server}mode = 'nta'"), false),
        (format!("{server}mode = 'nat'\nweight = 'x'"), false),
        (format!("{server}mode = 'nat'\nwieght = 1"), false),
        (server.to_owned(), false),
        (format!("{PORT}mac = '${{MAC}}'"), true),
        (format!("{PORT}mac = '02'"), false),
        ("[eal]\nhugepages = 'maybe'".to_owned(), false),
        ("[eal]\nhugepages = '${HUGE:-auto}'".to_owned(), true),
        ("[daemons]".to_owned(), false),
        ("[sysctl]\nsloppy_tcp = 2".to_owned(), false),
        ("include = 'x'".to_owned(), false),
    ] {
        assert_eq!(validator.is_valid(&as_json(&text)), valid, "{text}");
    }
}

/// What `dpvs-ctl import` makes of its samples.
pub(crate) const IMPORTED: [&str; 2] =
    [include_str!("../../import/tests/samples/everything.toml"), include_str!("../../import/tests/samples/rules.toml")];

#[test]
fn imported_configurations_are_right() {
    for text in IMPORTED {
        parse(&format!("{PORT}\n{text}")).unwrap_or_else(|errors| panic!("{errors:#?}"));
    }
}

const SAMPLE: &str = include_str!("../../../deploy/dpvsd.toml");

/// The sample with its commented keys in force, less those that stand for another default ("without this key").
fn uncommented() -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut no_default = false;
    for line in SAMPLE.lines() {
        match line.strip_prefix("# ").filter(|rest| rest.split_once(" = ").is_some_and(|(key, _)| is_key(key))) {
            Some(_) if no_default => {}
            Some(rest) => lines.push(rest.to_owned()),
            None => lines.push(line.to_owned()),
        }
        no_default = line.to_lowercase().contains("without this key")
            || line.contains("In place of these")
            || no_default && line.starts_with("# fwmark")
            || line.contains("FULLNAT:");
    }
    lines.join("\n")
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn the_sample_is_right_and_shows_the_defaults() {
    let sample = parse(SAMPLE).unwrap_or_else(|errors| panic!("{errors}"));
    let written_out = parse(&uncommented()).unwrap_or_else(|errors| panic!("{errors}"));
    let mut expected = sample.clone();
    expected.workers.count = Some(sample.workers.number());
    expected.ports[0].interface = Some(sample.interface(0));
    assert_eq!(written_out, expected);
    assert!(uncommented().lines().count() > 50);
}

#[test]
fn the_sample_shows_every_key() {
    // An unknown key makes the parser list all known ones.
    let keys = |section: &str, rest: &str| -> Vec<String> {
        let errors = parse(&format!("{section}\n{rest}\nxyz = 1\n")).unwrap_err().0;
        let message = &errors[0].message;
        message.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    };
    let port = "name = 'a'\ndevice = 'b'";
    let service = "protocol = 'tcp'\naddress = '192.0.2.1:80'";
    let mut count = 0;
    for (section, rest) in [
        ("[daemon]", ""),
        ("[api]", ""),
        ("[eal]", ""),
        ("[workers]", ""),
        ("[limits]", ""),
        ("[timeouts]", ""),
        ("[helpers]", ""),
        ("[[ports]]", port),
        ("[[marks]]", "mark = 1"),
        ("[[services]]", service),
        ("[services.health]", ""),
        ("[[services.health.checks]]", "probe = 'tcp'"),
        ("[[services.servers]]", "address = '192.0.2.1:80'\nmode = 'nat'"),
    ] {
        let (_, body) = SAMPLE.split_once(&format!("\n{section}\n")).expect(section);
        let body = body.split("\n[").next().unwrap_or_default();
        // Servers cannot stand without their service.
        let before =
            if section.contains('.') { format!("[[services]]\n{service}\n{section}") } else { section.to_owned() };
        for key in keys(&before, rest) {
            // Those that are sections.
            if ["servers", "checks"].contains(&key.as_str()) || (section, key.as_str()) == ("[[services]]", "health") {
                continue;
            }
            let shown = body.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(shown, "{section} {key}");
            count += 1;
        }
    }
    assert!(count >= 65, "{count}");
    let (_, sysctls) = SAMPLE.split_once("\n[sysctl]\n").unwrap();
    for setting in Sysctls::ALL {
        let line = format!("# {} = {}\n", setting.name, setting.default);
        assert!(sysctls.contains(&line), "{line}");
    }
}
