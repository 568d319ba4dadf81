//! What `ipvsadm` prints and says, command by command.

use dpvs_e2e::wire::{tcp, udp};

use crate::case::{Case, Listing, both, case};

/// A table with every scheduler and option. As both directors save the same text, and each restores it to what it was, the
/// rules of either can be restored into the other.
fn whole() -> Case {
    let mut rules = String::new();
    for (port, scheduler) in
        (101..).zip(["rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"])
    {
        rules += &format!("-A -t {{V1}}:{port} -s {scheduler}\n-a -t {{V1}}:{port} -r {{S1}}:8080 -m -w {port}\n");
    }
    rules += "-A -t {V2}:1 -s sh -b sh-port\n-A -t {V2}:2 -s sh -b sh-fallback\n\
              -A -t {V2}:3 -s sh -b sh-port,sh-fallback\n-A -t {V2}:4 -s mh -b mh-port\n\
              -A -t {V2}:5 -s mh -b mh-port,mh-fallback\n-A -t {V2}:6 -s rr -b flag-1,flag-3\n\
              -A -u {V3}:53 -s rr -o\n-a -u {V3}:53 -r {S1}:53 -m\n\
              -A -u {V3}:5060 -s rr -p 60 --pe sip\n-a -u {V3}:5060 -r {S1}:5060 -m\n\
              -A -u {V3}:5061 -s rr -p 60 --pe sip -o\n-a -u {V3}:5061 -r {S1}:5061 -m\n\
              -A -t {V3}:443 -s wlc -p\n-a -t {V3}:443 -r {S1}:443 -g -w 0\n\
              -A -t {V3}:444 -s wlc -p 7200 -M {255.255.255.0|64}\n-a -t {V3}:444 -r {S1}:444 -i\n\
              -A -t {V3}:21 -s wlc -p 1 -M {255.255.0.0|1}\n-A -t {V3}:0 -s wlc -p 86400\n-a -t {V3}:0 -r {S1}:0 -m\n\
              -A -f {M1} {-6} -s lc\n-a -f {M1} {-6} -r {S1}:0 -g -w 65535\n\
              -A -f {M2} {-6} -s lc -p 30 -M {255.0.0.0|32} -o\n-a -f {M2} {-6} -r {S1}:8080 -m\n\
              -A --sctp-service {V4}:9899 -s wrr -p 10\n-a --sctp-service {V4}:9899 -r {S1}:9899 -m -w 3\n\
              -A -t {V5}:80 -s rr\n-a -t {V5}:80 -r {S1}:80 -m -w 2 -x 100\n-a -t {V5}:80 -r {S2}:80 -g -x 100 -y 50\n";
    let tunnels = [
        "",
        " --tun-type gue --tun-port 6080",
        " --tun-type gue --tun-port 6081 --tun-nocsum",
        " --tun-type gue --tun-port 6082 --tun-csum",
        " --tun-type gue --tun-port 6083 --tun-remcsum",
        " --tun-type gre",
        " --tun-type gre --tun-csum",
    ];
    for (n, tunnel) in (3..).zip(tunnels) {
        rules +=
            &format!("-a -t {{V5}}:80 -r {{S{n}}}:80 -i{tunnel} -w {n}\n-a -t {{V5}}:80 -r {{X{n}}}:80 -i{tunnel}\n");
    }
    case("a whole table is saved and restored", &rules)
        .list(Listing::Rules)
        .list(Listing::Thresholds)
        .shell(
            "ipvsadm -Sn >/tmp/rules; ipvsadm -C; ipvsadm -Ln | wc -l; ipvsadm -R </tmp/rules; echo $?; \
             ipvsadm -Sn | diff /tmp/rules -; rm /tmp/rules; ipvsadm -Ln --tun-info -t {V5}:80; ipvsadm -Z; echo $?; \
             ipvsadm -Ln --persistent-conn -t {V3}:443; ipvsadm -Ln --thresholds -t {V5}:80 --sort; \
             ipvsadm -Ln --rate --exact --sctp-service {V4}:9899 --nosort; ipvsadm -Ln -f {M2} {-6}; ipvsadm -Ln --daemon; echo $?",
        )
        .list(Listing::Rules)
        .list(Listing::Services)
        .alone()
}

/// The area's part of the table.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(both(
        case(
            "rules of all kinds",
            "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:80 -m -w 1\n-a -t {V1}:80 -r {S2}:80 -g -w 0\n\
             -a -t {V1}:80 -r {S3}:80 -i -w 300 -x 5 -y 2\n-A -u {V2}:53 -s wlc\n-a -u {V2}:53 -r {S1}:53\n\
             -A -t {V3}:443 -s sh -b sh-port,sh-fallback\n-A -t {V4}:443 -s mh -b mh-fallback\n\
             -a -t {V4}:443 -r {S1}:443 -m -w 65535 -x 65535",
        )
        .list(Listing::Services)
        .list(Listing::Thresholds)
        .list(Listing::Stats)
        .list(Listing::Rules)
        .ipvsadm("-Ln -t {V1}:80")
        .ipvsadm("-Ln -t {V1}:80 --thresholds")
        .ipvsadm("-Ln -u {V2}:53 --persistent-conn")
        .ipvsadm("-Ln -t {V1}:80 --stats --exact")
        .ipvsadm("-Ln -t {V1}:80 --rate")
        .ipvsadm("-Ln -t {V1}:80 --sort")
        .ipvsadm("-Ln -t {V1}:80 --nosort")
        .ipvsadm("-ln -t {V4}:443"),
    ));
    all.extend(both(
        case("traffic is counted", "-A -t {V1}:80 -s lc\n-a -t {V1}:80 -r {S1}:80 -m\n-a -t {V1}:80 -r {S2}:80 -m")
            .open("C1:4000", "V1:80")
            .open("C2:4000", "V1:80")
            .open("C3:4000", "V1:80")
            .close("C1:4000", "V1:80")
            .send(tcp("C2:4000", "V1:80", "PA").seq(1001).ack(5001).length(1000))
            .send(tcp("@C2:4000", "C2:4000", "PA").seq(5001).ack(2001).length(1400))
            .list(Listing::Stats)
            .list(Listing::Services)
            .connections(),
    ));
    for (mode, option) in [("NAT", 'm'), ("DR", 'g'), ("TUN", 'i')] {
        all.extend(both(
            case(
                format!("{mode}, UDP is counted"),
                &format!("-A -u {{V1}}:53 -s lc\n-a -u {{V1}}:53 -r {{S1}}:53 -{option}"),
            )
            .send_all((1..=5).map(|n| udp(&format!("C{n}:4000"), "V1:53", 100 * n)))
            .send(udp("C1:4000", "V1:53", 1))
            .list(Listing::Stats)
            .list(Listing::Services)
            .connections(),
        ));
    }
    // Mistakes.
    let mistakes = [
        "-A -t {V1}:80 -s rr",
        "-A -t {V1}:81 -s nonsense",
        "-A -t {V1}:82 -s rr -b nonsense",
        "-D -t {V1}:99",
        "-E -t {V1}:99 -s rr",
        "-a -t {V1}:99 -r {S1}:80 -m",
        "-a -t {V1}:80 -r {S1}:80 -m",
        "-e -t {V1}:80 -r {S2}:80 -m",
        "-d -t {V1}:80 -r {S2}:80",
        "-a -t {V1}:80 -r {S3}:80 -m -w 70000",
        "-a -t {V1}:80 -r {S3}:80 -w -1",
        "-a -t {V1}:80 -r {S3}:80 -m -x 2 -y 5",
        "-a -t {V1}:80 -r {S3}:80 -m -x -1",
        "-A -t {V1}:0 -s rr",
        "-A -t {V1}:83 -s rr -p 0",
        "-A -t {V1} -s rr",
        "-A -t {V1}:http-nonsense -s rr",
        "-A -s rr",
        "-Ln -t {V1}:99",
        "-Z -t {V1}:99",
        "-a -t {V1}:80",
        "-a -t {V1}:80 -r {S4}:8080 -g",
        "-a -t {V1}:80 -r {S5} -g",
    ];
    for mistake in mistakes {
        let refused = case(format!("ipvsadm {mistake}"), "-A -t {V1}:80 -s rr\n-a -t {V1}:80 -r {S1}:80 -m")
            .ipvsadm(mistake)
            .list(Listing::Rules);
        // In the words of the daemon.
        let explained = ["-s nonsense", "-x 2 -y 5"].iter().any(|part| mistake.contains(part));
        let reason = "ipvsadm says the same, and dpvsd adds a line with the cause and the remedy";
        all.extend(both(match mistake {
            _ if explained => refused.differs(reason),
            _ if mistake.contains("-w 70000") => refused.differs("weights of dpvsd end at 65535, as ipvsadm(8) says"),
            _ => refused,
        }));
    }
    all.extend(both(
        case("counters are zeroed, of one service", "-A -u {V1}:53 -s lc\n-a -u {V1}:53 -r {S1}:53 -m")
            .send(udp("C1:4000", "V1:53", 100))
            .list(Listing::Stats)
            .ipvsadm("-Z -u {V1}:53")
            .list(Listing::Stats)
            .send(udp("C1:4000", "V1:53", 100))
            .list(Listing::Stats),
    ));
    all.push(
        case(
            "what is saved is restored",
            "-A -t {V1}:80 -s wrr\n-a -t {V1}:80 -r {S1}:80 -m -w 3 -x 9 -y 4\n-a -t {V1}:80 -r {S2}:80 -i\n\
             -A -u {V2}:53 -s mh -b mh-port\n-a -u {V2}:53 -r {S1}:5353 -m\n-a -u {V2}:53 -r {S2} -g -w 0",
        )
        .list(Listing::Rules)
        .shell("ipvsadm -Sn >/tmp/rules; ipvsadm -C; ipvsadm -Ln | wc -l; ipvsadm -R </tmp/rules; ipvsadm -Sn | diff /tmp/rules -; rm /tmp/rules")
        .list(Listing::Rules)
        .list(Listing::Services)
        .alone(),
    );
    all.extend(both(whole()));
    all.push(
        case(
            "timeouts",
            "-A -u {V1}:53 -s lc\n-a -u {V1}:53 -r {S1}:53 -m\n-A -t {V1}:80 -s lc\n-a -t {V1}:80 -r {S1}:80 -m",
        )
        .ipvsadm("-Ln --timeout")
        .ipvsadm("--set 600 90 40")
        .ipvsadm("-Ln --timeout")
        .send(udp("C1:4000", "V1:53", 100))
        .open("C1:4000", "V1:80")
        .open("C2:4000", "V1:80")
        .send(tcp("@C2:4000", "C2:4000", "FA").seq(5001).ack(1001))
        .connections()
        .ipvsadm("--set 0 0 41")
        .ipvsadm("-Ln --timeout")
        .ipvsadm("--set 900 120 300")
        .connections()
        .alone(),
    );
    all
}
