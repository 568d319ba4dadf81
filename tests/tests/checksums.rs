//! Every packet that a director touched has correct checksums, by Wireshark's judgement.

use dpvs_e2e::capture::Capture;
use dpvs_e2e::traffic::{dig, download_hash};
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

fn checksums(director: Director, mode: Mode, family: Family) {
    let lab = Lab::with_hosts(mode.topology(), 1, 1);
    lab.serve(if mode == Mode::Tun { &["http", "dns", "tunnel"] } else { &["http", "dns"] });
    let hash = lab.file("some", 1 << 20);
    lab.start(director);
    let web = Service::tcp(mode, family, 80);
    let names = Service::udp(mode, family, 53);
    lab.add(&[web.clone(), names.clone()]);
    let captures = ["c1", "s1"].map(|host| Capture::start(&lab, host, "eth0", "ip or ip6"));
    assert_eq!(download_hash(&lab, "c1", &web.url("files/some")), hash);
    // Odd and even lengths.
    for name in ["whoami", "large", "none", "nones"] {
        let _ = dig(&lab, "c1", names.address(), name, &["+bufsize=4096"]);
    }
    assert!(dig(&lab, "c1", names.address(), "whoami", &[]).is_ok());
    for capture in captures {
        let captured = capture.stop();
        for protocol in ["tcp", "udp"] {
            let checked = captured.count(&format!("{protocol}.checksum.status == 1"));
            assert!(checked > 4, "only {checked} {protocol} packets were seen: {captured:?}");
        }
        let bad = captured.fields(
            "ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0",
            &["frame.number", "_ws.col.Info"],
        );
        assert!(bad.is_empty(), "{captured:?}: {bad:#?}");
    }
}

#[rstest]
fn dpvsd(
    #[values(Mode::Nat, Mode::Fullnat, Mode::Dr, Mode::Tun)] mode: Mode,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    checksums(Director::dpvsd(2), mode, family);
}

#[rstest]
fn linux(#[values(Mode::Nat, Mode::Dr, Mode::Tun)] mode: Mode, #[values(Family::V4, Family::V6)] family: Family) {
    checksums(Director::Ipvs, mode, family);
}
