//! Changes under traffic: rules, configuration files, neighbours and routes.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use dpvs_e2e::traffic::{SlowDownload, who_answers};
use dpvs_e2e::{Config, Director, Family, Lab, Mode, Service};
use rstest::rstest;

const FILE: u64 = 16 << 20;

/// Nine downloads of three seconds or so, from every server.
fn downloads(lab: &Lab, service: &Service) -> Vec<SlowDownload> {
    let downloads: Vec<_> = (0..9).map(|_| SlowDownload::start(lab, "c1", &service.url("files/slow"), "6M")).collect();
    let servers: BTreeSet<_> = downloads.iter().map(SlowDownload::server).collect();
    assert_eq!(servers.len(), 3, "{servers:?}");
    downloads
}

/// The whole file arrives by every download.
fn finish(downloads: Vec<SlowDownload>, hash: &str) {
    for download in downloads {
        let server = download.server();
        assert_eq!(download.finish().as_deref(), Ok(hash), "from {server}");
    }
}

#[rstest]
fn removing_a_server_leaves_the_others_alone(
    #[values(Mode::Nat, Mode::Fullnat)] mode: Mode,
    #[values(1, 2)] workers: u8,
) {
    removing_a_server(Director::dpvsd(workers), mode);
}

#[test]
fn linux_removing_a_server_leaves_the_others_alone() {
    removing_a_server(Director::Ipvs, Mode::Nat);
}

fn removing_a_server(director: Director, mode: Mode) {
    let lab = Lab::new(mode.topology());
    lab.serve(&["http"]);
    let hash = lab.file("slow", FILE);
    lab.start(director);
    let service = Service::tcp(mode, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    let downloads = downloads(&lab, &service);
    lab.ipvsadm(&format!("-d {} -r {}", service.selector(), service.server(&lab, 3)));
    for _ in 0..10 {
        assert_ne!(who_answers(&lab, "c1", &service.url("")), "s3");
    }
    // Packets of the removed server's connections are dropped, as in IPVS: those downloads hang.
    let (removed, others): (Vec<_>, Vec<_>) = downloads.into_iter().partition(|download| download.server() == "s3");
    finish(others, &hash);
    drop(removed);
}

#[rstest]
fn weight_zero_drains(#[values(Director::Ipvs, Director::dpvsd(1), Director::dpvsd(2))] director: Director) {
    let lab = Lab::new(Mode::Nat.topology());
    lab.serve(&["http"]);
    let hash = lab.file("slow", FILE);
    lab.start(director);
    let service = Service::tcp(Mode::Nat, Family::V6, 80);
    lab.add(std::slice::from_ref(&service));
    let downloads = downloads(&lab, &service);
    lab.ipvsadm(&format!("-e {} -r {} -m -w 0", service.selector(), service.server(&lab, 3)));
    for _ in 0..10 {
        assert_ne!(who_answers(&lab, "c1", &service.url("")), "s3");
    }
    finish(downloads, &hash);
}

/// A service for the configuration file.
fn service_text(lab: &Lab, port: u16, servers: &[u8]) -> String {
    let (vip, local) = (Family::V4.virtual_address(0), Family::V4.local_address(lab.topology(), 0));
    let mut text = format!(
        "\n[[services]]\nprotocol = \"tcp\"\naddress = \"{vip}:{port}\"\nscheduler = \"rr\"\nlocal_addresses = [\"{local}\"]\n"
    );
    for &server in servers {
        let address = Family::V4.server(lab.topology(), server);
        text += &format!("[[services.servers]]\naddress = \"{address}:80\"\nmode = \"fullnat\"\n");
    }
    text
}

#[rstest]
fn reload_loses_nothing(#[values(1, 2)] workers: u8) {
    let lab = Lab::new(Mode::Fullnat.topology());
    lab.serve(&["http"]);
    let hash = lab.file("slow", FILE);
    let base = lab.config_text(workers, dpvs_e2e::Pmd::Tap);
    let config = Config::new(&(base.clone() + &service_text(&lab, 80, &[1, 2, 3])));
    lab.start_with(&config.path());
    let service = Service::tcp(Mode::Fullnat, Family::V4, 80);
    let downloads = downloads(&lab, &service);

    config.write(&(base.clone() + &service_text(&lab, 80, &[1, 2, 3]) + &service_text(&lab, 8080, &[2])));
    hang_up(&lab);
    let added = Service::tcp(Mode::Fullnat, Family::V4, 8080).url("");
    lab.wait_for_http(&added, Duration::from_secs(3));
    assert_eq!(who_answers(&lab, "c1", &added), "s2");

    // A file with a mistake changes nothing.
    config.write("services = 1");
    hang_up(&lab);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(who_answers(&lab, "c1", &added), "s2");

    finish(downloads, &hash);
}

fn hang_up(lab: &Lab) {
    let status = Command::new("kill").args(["-HUP", &lab.director_pid()]).status().expect("kill runs");
    assert!(status.success());
}

/// A server comes back with another network card and announces it.
#[rstest]
fn server_changes_its_mac_address(#[values(Mode::Nat, Mode::Fullnat, Mode::Dr)] mode: Mode) {
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(1));
    let service = Service::tcp(mode, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");
    lab.run("s1", &["ip", "link", "set", "eth0", "address", "02:00:00:00:99:01"]);
    let address = service.server(&lab, 1).ip().to_string();
    // Nobody answers an announcement, which is what arping's exit status says.
    lab.try_run("s1", &["arping", "-q", "-U", "-c", "1", "-I", "eth0", "-S", &address, &address]);
    let time = lab.wait_for_http(&service.url(""), Duration::from_secs(2));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

/// One address on two servers; the route decides, as with anycast behind a director.
#[test]
fn route_change_is_followed_within_100_ms() {
    let lab = Lab::with_hosts(Mode::Nat.topology(), 1, 2);
    lab.serve(&["http"]);
    lab.start(Director::dpvsd(1));
    for server in ["s1", "s2"] {
        lab.run(server, &["ip", "address", "add", "203.0.113.9/32", "dev", "lo"]);
    }
    let via = |n| Family::V4.server(lab.topology(), n).to_string();
    lab.run("lb", &["ip", "route", "replace", "203.0.113.9/32", "via", &via(1)]);
    let service = Service::tcp(Mode::Nat, Family::V4, 80).weights(&[]);
    lab.add(std::slice::from_ref(&service));
    lab.ipvsadm(&format!("-a {} -r 203.0.113.9:80 -m", service.selector()));
    lab.wait_for_http(&service.url(""), Duration::from_secs(3));
    // Both neighbours are known before the change is timed.
    lab.run("lb", &["ping", "-c", "1", "-W", "2", &via(2)]);
    assert_eq!(who_answers(&lab, "c1", &service.url("")), "s1");

    lab.run("lb", &["ip", "route", "replace", "203.0.113.9/32", "via", &via(2)]);
    let changed = Instant::now();
    let mut last = String::new();
    while changed.elapsed() < Duration::from_millis(100) {
        last = who_answers(&lab, "c1", &service.url(""));
        if last == "s2" {
            break;
        }
    }
    assert_eq!(last, "s2", "after {:?}", changed.elapsed());
}
