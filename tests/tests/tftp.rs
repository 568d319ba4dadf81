//! TFTP through the director, with tftpd and curl: servers answer from ports of their own.

use dpvs_e2e::lab::text;
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

const SIZE: u64 = 20_000;

#[rstest]
#[case(Mode::Nat, 1)]
#[case(Mode::Nat, 2)]
#[case(Mode::Fullnat, 2)]
fn files_are_read_and_written(#[case] mode: Mode, #[case] workers: u8) {
    let lab = Lab::with_hosts(mode.topology(), 1, 2);
    lab.serve(&["tftp"]);
    let hash = lab.file("bulk", SIZE);
    lab.start(Director::dpvsd(workers));
    for family in [Family::V4, Family::V6] {
        let service = Service::udp(mode, family, 69);
        lab.add(std::slice::from_ref(&service));
        let url = format!("tftp://{}", service.address());
        for round in 0..2 {
            let name = format!("{family:?}-{round}");
            let (from, to) = (format!("{url}/bulk"), format!("{url}/upload/{name}"));
            let back = lab.directory().join(&name).to_string_lossy().into_owned();
            for arguments in [["-o", &back, &from], ["-T", &back, &to]] {
                let output = lab.try_run("c1", &[&["curl", "-sSg", "--max-time", "20"], &arguments[..]].concat());
                assert!(output.status.success(), "{name}: {}", text(&output));
            }
            let stored = lab.directory().join("files/upload").join(&name).to_string_lossy().into_owned();
            for file in [&back, &stored] {
                assert_eq!(lab.run("c1", &["sha256sum", file]).split(' ').next(), Some(&hash[..]), "{file}");
            }
        }
    }
}
