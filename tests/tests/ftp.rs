//! FTP through the director, active and passive, with vsftpd, curl and lftp.

use dpvs_e2e::lab::text;
use dpvs_e2e::{Director, Family, Lab, Mode, Service};
use rstest::rstest;

const SIZE: u64 = 1 << 20;

/// How clients have the data connection made: `EPSV`, `PASV`, `EPRT`, `PORT`; over IPv6 the second and the last do as
/// the one before.
const WAYS: [&[&str]; 4] = [&[], &["--disable-epsv"], &["--ftp-port", "-"], &["--ftp-port", "-", "--disable-eprt"]];

/// Lists the directory and transfers a file both ways over each kind of data connection, several times, so that they meet
/// every worker.
fn transfers(director: Director, mode: Mode) {
    let lab = Lab::with_hosts(mode.topology(), 1, 2);
    lab.serve(&["ftp"]);
    let hash = lab.file("bulk", SIZE);
    lab.start(director);
    for family in [Family::V4, Family::V6] {
        let service = Service::tcp(mode, family, 21);
        lab.add(std::slice::from_ref(&service));
        let url = format!("ftp://{}", service.address());
        let files = lab.directory().join("files");
        for (way, options) in WAYS.iter().enumerate() {
            for round in 0..2 {
                let name = format!("{family:?}-{way}-{round}");
                let (source, target) = (files.join("bulk"), files.join("upload").join(&name));
                let (from, to) = (format!("{url}/bulk"), format!("{url}/upload/{name}"));
                let back = lab.directory().join(&name);
                let (source, back) = (source.to_string_lossy(), back.to_string_lossy());
                // One control connection for all.
                let common = &[&["-sSg", "--max-time", "20"], *options].concat()[..];
                let directory = format!("{url}/");
                let list = [common, &[&directory]].concat();
                let download = [&["--next"], common, &["-o", &back, &from]].concat();
                let upload = [&["--next"], common, &["-T", &source, &to]].concat();
                let output = lab.run("c1", &[&["curl"], &list[..], &download, &upload].concat());
                assert!(output.contains(" bulk"), "{name}: {output}");
                for file in [&back, &target.to_string_lossy()] {
                    assert_eq!(lab.run("c1", &["sha256sum", file]).split(' ').next(), Some(&hash[..]), "{file}");
                }
            }
        }
        for passive in ["true", "false"] {
            let commands = format!(
                "set net:timeout 5; set net:max-retries 1; set ftp:passive-mode {passive}; cd upload; ls; cat {family:?}-0-0"
            );
            let output = lab.try_run("c1", &["lftp", "-e", &format!("{commands}; bye"), &url]);
            assert!(output.status.success(), "lftp, passive {passive}: {}", text(&output));
            assert!(output.stdout.len() as u64 > SIZE, "lftp, passive {passive}: {} bytes", output.stdout.len());
        }
    }
}

#[rstest]
#[case(Mode::Nat, 1)]
#[case(Mode::Nat, 4)]
#[case(Mode::Fullnat, 1)]
#[case(Mode::Fullnat, 2)]
fn dpvsd(#[case] mode: Mode, #[case] workers: u8) {
    transfers(Director::dpvsd(workers), mode);
}

#[test]
fn linux() {
    transfers(Director::Ipvs, Mode::Nat);
}
