//! Large transfers arrive unchanged, in every mode, over IPv4 and IPv6.

use dpvs_e2e::traffic::{BULK, download_hash};
use dpvs_e2e::{Director, Family, Lab, Mode, Pmd, Service};
use rstest::rstest;

fn transfer(director: Director, mode: Mode, family: Family) {
    let lab = Lab::new(mode.topology());
    lab.serve(if mode == Mode::Tun { &["http", "tunnel"] } else { &["http"] });
    let hash = lab.file("bulk", BULK);
    lab.start(director);
    let service = Service::tcp(mode, family, 80);
    lab.add(std::slice::from_ref(&service));
    assert_eq!(download_hash(&lab, "c1", &service.url("files/bulk")), hash);
    let answered: u64 = lab.request_counts(1).iter().sum();
    assert_eq!(answered, 1, "the file came from a real server, once");
}

#[rstest]
fn dpvsd(
    #[values(Mode::Nat, Mode::Fullnat, Mode::Dr, Mode::Tun)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 2, 4)] workers: u8,
) {
    transfer(Director::dpvsd(workers), mode, family);
}

#[rstest]
fn linux(#[values(Mode::Nat, Mode::Dr, Mode::Tun)] mode: Mode, #[values(Family::V4, Family::V6)] family: Family) {
    transfer(Director::Ipvs, mode, family);
}

#[rstest]
#[case(Pmd::AfPacket, 1)]
#[case(Pmd::AfPacket, 2)]
#[case(Pmd::AfPacket, 4)]
#[case(Pmd::Memif, 1)]
#[case(Pmd::Memif, 2)]
#[case(Pmd::Memif, 4)]
fn driver(#[case] pmd: Pmd, #[case] workers: u8, #[values(Mode::Nat, Mode::Fullnat)] mode: Mode) {
    transfer(Director::Dpvsd { workers, pmd }, mode, Family::V4);
}

/// The other end of the tunnels is Linux itself, with its own idea of what a tunnel packet must look like.
#[rstest]
fn tunnel_ends_in_linux(
    #[values(Director::Ipvs, Director::dpvsd(1))] director: Director,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let lab = Lab::new(Mode::Tun.topology());
    lab.oracle_server();
    lab.start(director);
    let server = match family {
        Family::V4 => "192.0.2.31:80",
        Family::V6 => "[2001:db8:1::31]:80",
    };
    let service = Service::tcp(Mode::Tun, family, 80).weights(&[]);
    lab.add(std::slice::from_ref(&service));
    lab.ipvsadm(&format!("-a {} -r {server} -i", service.selector()));
    lab.run("u1", &["sh", "-c", &format!("head -c 8M /dev/urandom >{}/u1/files/bulk", lab.directory().display())]);
    let path = lab.directory().join("u1/files/bulk");
    let expected = lab.run("c1", &["sha256sum", &path.to_string_lossy()]);
    let expected = expected.split(' ').next().expect("sha256sum prints the hash first");
    assert_eq!(download_hash(&lab, "c1", &service.url("files/bulk")), expected);
}
