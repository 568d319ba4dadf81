//! What the real ipvsadm does not have: DPVS's options, what is refused, and `-R` as one batch.

mod common;

use common::{FixedNames, Model, ipvsadm, service};
use dpvs_api::{ForwardMode, LocalPorts, Operation, Scheduler, Server, ServiceSettings};

struct Shell {
    model: Model,
    names: FixedNames,
}

impl Shell {
    fn new() -> Self {
        Self { model: Model::default(), names: FixedNames::default() }
    }

    fn run(&self, line: &str) -> (String, u8) {
        let words: Vec<&str> = line.split_whitespace().collect();
        ipvsadm(&self.model, &self.names, &words, "")
    }

    fn ok(&self, line: &str) -> String {
        let (output, status) = self.run(line);
        assert_eq!(status, 0, "{line}: {output}");
        output
    }

    fn restore(&self, input: &str) -> (String, u8) {
        ipvsadm(&self.model, &self.names, &["-R"], input)
    }

    fn batches(&self) -> Vec<Vec<Operation>> {
        self.model.batches.take()
    }
}

#[test]
fn fullnat_with_local_addresses() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80 -s rr");
    shell.ok("-P -z 10.0.0.201 -t 192.0.2.1:80 -F dpvs0");
    shell.ok("--add-laddr --laddr 10.0.0.202 -t 192.0.2.1:80");
    shell.ok("-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -b -w 5");
    shell.ok("-e -t 192.0.2.1:80 -r 10.0.0.2:8080 --fullnat -w 6");
    let id = "tcp/192.0.2.1:80".parse().unwrap();
    assert_eq!(
        shell.batches()[1..3].concat(),
        [
            Operation::AddLocalAddress {
                service: id,
                local_address: "10.0.0.201".parse().unwrap(),
                interface: Some("dpvs0".into())
            },
            Operation::AddLocalAddress { service: id, local_address: "10.0.0.202".parse().unwrap(), interface: None },
        ]
    );
    assert_eq!(
        shell.ok("-Ln -t 192.0.2.1:80").lines().last(),
        Some("  -> 10.0.0.2:8080                FullNat 6      0          0         ")
    );
    let saved = "\
-A -t 192.0.2.1:80 -s rr
-P -t 192.0.2.1:80 -z 10.0.0.201
-P -t 192.0.2.1:80 -z 10.0.0.202
-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -b -w 6
";
    assert_eq!(shell.ok("-S -n"), saved);
    assert_eq!(
        shell.ok("-G"),
        "VIP:VPORT            TOTAL    SNAT_IP              CONFLICTS  CONNS     \n\
         192.0.2.1:80         2        \n\
         \u{20}                             10.0.0.201           -          -         \n\
         \u{20}                             10.0.0.202           -          -         \n"
    );
    shell.ok("-Q -z 10.0.0.201 -t 192.0.2.1:80");
    assert_eq!(shell.ok("-G -t 192.0.2.1:80").lines().count(), 3);
    assert_eq!(shell.run("-G -t 192.0.2.9:80"), ("No such service\n".into(), 1));
    // What was saved restores what was there.
    let other = Shell::new();
    assert_eq!(other.restore(saved), (String::new(), 0));
    assert_eq!(other.ok("-S -n"), saved);
    assert_eq!(other.batches().len(), 1);
}

#[test]
fn usage_of_dpvs_options() {
    let shell = Shell::new();
    for (line, message) in [
        ("-P -t 192.0.2.1:80", "You need to supply the 'laddr' option for the 'add-laddr' command"),
        ("-Q -z 10.0.0.1", "You need to supply the 'service-address' option for the 'del-laddr' command"),
        ("-P -t 192.0.2.1:80 -z x", "illegal local address specified"),
        ("-A -t 192.0.2.1:80 -z 10.0.0.1", "Illegal 'laddr' option with the 'add-service' command"),
        ("-A -t 192.0.2.1:80 --fullnat", "Illegal 'forwarding-method' option with the 'add-service' command"),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -b -m", "multiple 'forwarding-method' options specified"),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -b sh-port", "unexpected argument sh-port"),
        ("-A -t 192.0.2.1:80 --conn-timeout 0", "invalid timeout value `0' specified"),
        (
            "-A -t 192.0.2.1:80 --local-ports 5-4",
            "illegal local ports `5-4' specified: write FIRST-LAST, e.g. 1025-65535",
        ),
    ] {
        assert_eq!(shell.run(line), (format!("{message}\n"), 2), "{line}");
    }
    assert!(shell.batches().is_empty());
}

#[test]
fn what_dpvsd_has_not_got_is_refused_by_name() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80");
    shell.batches();
    for (line, what) in [
        ("-A -t 192.0.2.2:80 -j enable", "the SYN proxy (-j)"),
        ("--start-daemon master --mcast-interface eth0", "connection synchronization daemons"),
        ("--stop-daemon backup", "connection synchronization daemons"),
    ] {
        assert_eq!(shell.run(line), (format!("dpvsd does not support {what} yet\n"), 255), "{line}");
    }
    let (output, status) = shell.run("-A -t 192.0.2.2:80 -s nosuch");
    let reason = "dpvsd: 'nosuch' is not among its schedulers: \
                  rr, wrr, lc, wlc, sed, nq, fo, ovf, lblc, lblcr, dh, sh, mh, twos, conhash\n";
    assert_eq!((output, status), (format!("Scheduler or persistence engine not found\n{reason}"), 255));
    assert!(shell.batches().is_empty());
}

#[test]
fn consistent_hashing_has_a_flag() {
    let shell = Shell::new();
    shell.ok("-A -u 192.0.2.1:443 -s conhash -b conhash-qid");
    assert_eq!(shell.ok("-S -n"), "-A -u 192.0.2.1:443 -s conhash -b conhash-qid\n");
    assert_eq!(shell.ok("-Ln -u 192.0.2.1:443").lines().last(), Some("UDP  192.0.2.1:443 conhash (conhash-qid)"));
    let refused = ("incompatible scheduler flag `conhash-qid'\n".to_owned(), 2);
    let (output, status) = shell.run("-A -u 192.0.2.2:443 -s rr -b conhash-qid");
    assert_eq!((output.lines().next().map(|line| format!("{line}\n")).unwrap_or_default(), status), refused);
}

#[test]
fn an_edit_keeps_what_it_does_not_name() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80 -s rr --conn-timeout 60 --local-ports 2000-2999");
    assert_eq!(shell.ok("-S -n"), "-A -t 192.0.2.1:80 -s rr --conn-timeout 60 --local-ports 2000-2999\n");
    assert_eq!(shell.ok("-Ln -t 192.0.2.1:80").lines().last(), Some("TCP  192.0.2.1:80 rr conn-timeout 60"));
    shell.ok("-E -t 192.0.2.1:80 -s wrr");
    assert_eq!(shell.ok("-S -n"), "-A -t 192.0.2.1:80 -s wrr --conn-timeout 60 --local-ports 2000-2999\n");
    let told = Some(dpvs_api::ClientAddress::Toa);
    shell.model.table.borrow_mut().services[0].settings.client_address = told;
    shell.ok("-E -t 192.0.2.1:80 --conn-timeout 61");
    assert_eq!(shell.model.table.borrow().services[0].settings.client_address, told);
    assert_eq!(shell.ok("-S -n"), "-A -t 192.0.2.1:80 -s wlc --conn-timeout 61 --local-ports 2000-2999\n");
}

#[test]
fn the_port_of_a_server_is_the_services_wherever_it_stands() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80");
    shell.ok("-a -r 10.0.0.1 -m -t 192.0.2.1:80");
    shell.ok("-a -r 10.0.0.2:85 -g -t 192.0.2.1:80");
    shell.ok("-a -r 10.0.0.3:85 -b -t 192.0.2.1:80");
    let ports: Vec<u16> =
        shell.model.table.borrow().services[0].servers.iter().map(|server| server.address.port()).collect();
    assert_eq!(ports, [80, 80, 85]);
}

#[test]
fn a_restore_is_one_batch() {
    let shell = Shell::new();
    let input = "\
# A comment.
-A -t 192.0.2.1:80 -s rr --conn-timeout 60
ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.1:80 -m
-E -t 192.0.2.1:80 -s wrr
--set 600 0 0
";
    assert_eq!(shell.restore(input), (String::new(), 0));
    let id = "tcp/192.0.2.1:80".parse().unwrap();
    let expected = [
        Operation::AddService {
            service: dpvs_api::Service {
                settings: ServiceSettings { scheduler: Scheduler::Rr, timeout: Some(60), ..ServiceSettings::default() },
                ..service("tcp/192.0.2.1:80")
            },
        },
        Operation::AddServer { service: id, server: Server::new("10.0.0.1:80".parse().unwrap(), ForwardMode::Nat) },
        // Starts from what the first line made of it.
        Operation::EditService {
            service: id,
            settings: ServiceSettings {
                scheduler: Scheduler::Wrr,
                scheduler_flags: Vec::new(),
                timeout: Some(60),
                persistence: None,
                one_packet: false,
                local_ports: LocalPorts::default(),
                client_address: None,
                sorry_server: None,
                health: None,
            },
        },
        Operation::SetTimeouts { timeouts: dpvs_api::Timeouts { tcp: 600, tcp_fin: 0, udp: 0 } },
    ];
    assert_eq!(shell.batches(), [expected]);
}

#[test]
fn what_checks_have_taken_out_is_saved_but_not_listed() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80");
    for server in ["10.0.0.1:80", "10.0.0.2:80"] {
        shell.ok(&format!("-a -t 192.0.2.1:80 -r {server} -m"));
    }
    let saved = shell.ok("-S -n");
    shell.model.table.borrow_mut().removed.push("10.0.0.1:80".parse().unwrap());
    for view in ["", "--stats", "--rate", "--thresholds", "--persistent-conn"] {
        let listed = shell.ok(&format!("-Ln {view}"));
        assert!(!listed.contains("10.0.0.1:80") && listed.contains("10.0.0.2:80"), "{listed}");
    }
    assert_eq!(shell.ok("-S -n"), saved);
}

#[test]
fn health_checks_survive_edits() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80");
    shell.ok("-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m");
    let health = || shell.model.table.borrow().services[0].clone();
    {
        let services = &mut shell.model.table.borrow_mut().services;
        services[0].settings.health = Some(Box::default());
        services[0].servers[0].health = Some(Box::default());
    }
    let (before, edits) = (health(), ["-E -t 192.0.2.1:80 -s rr", "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 5"]);
    edits.iter().for_each(|edit| drop(shell.ok(edit)));
    assert_eq!(shell.restore(&edits.join("\n")), (String::new(), 0));
    let after = health();
    assert_eq!((after.settings.scheduler, after.servers[0].weight), (Scheduler::Rr, 5));
    assert_eq!(
        (&after.settings.health, &after.servers[0].health),
        (&before.settings.health, &before.servers[0].health)
    );
    // What the same batch adds has none.
    shell.restore("-C\n-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g");
    assert_eq!((health().settings.health, health().servers[0].health.clone()), (None, None));
}

#[test]
fn a_restore_fails_whole_and_names_the_line() {
    let shell = Shell::new();
    shell.ok("-A -t 192.0.2.1:80");
    let saved = shell.ok("-S -n");
    for (input, message, status) in [
        ("-A -t 192.0.2.2:80\n\n-A -t 192.0.2.1:80\n", "line 3: Service already exists", 255),
        ("-D -t 192.0.2.1:80\n-D -t 192.0.2.1:80\n", "line 2: No such service", 255),
        ("-C\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m\n", "line 2: Service not defined", 255),
        ("-d -t 192.0.2.1:80 -r 10.0.0.1:80\n", "line 1: No such destination", 255),
        ("-C\n-A -t 192.0.2.2\n", "line 2: Zero port specified for non-persistent service", 2),
        ("-C\n-A -t 192.0.2.2:80 -j enable\n", "line 2: dpvsd does not support the SYN proxy (-j) yet", 255),
        ("-C\n-A -t 192.0.2.2:80 -k\n", "line 2: -k: unknown option", 255),
        ("-C\nfoo\n", "line 2: Try `ipvsadm -h' or 'ipvsadm --help' for more information.", 255),
        ("-C\n-L -n\n", "line 2: only commands that change the table can be restored", 2),
        ("-C\n-R\n", "line 2: only commands that change the table can be restored", 2),
        ("-C\n-h\n", "line 2: only commands that change the table can be restored", 2),
    ] {
        assert_eq!(shell.restore(input), (format!("{message}\n"), status), "{input}");
        assert_eq!(shell.ok("-S -n"), saved, "{input}");
    }
}

#[test]
fn help_and_version() {
    let shell = Shell::new();
    let version = shell.ok("-v");
    assert!(version.starts_with("ipvsadm v1.31 (dpvs ") && version.lines().count() == 1, "{version}");
    let help = shell.ok("--help");
    assert!(help.starts_with(&version));
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    assert!(!help.contains('%'), "{help}");
}
