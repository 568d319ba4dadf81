//! Real servers that are killed and revived while clients use them: what clients lose, and what the revived one gets.
//! docs/health.md has what this has measured.

use std::time::{Duration, Instant, SystemTime};

use dpvs_e2e::lab::Background;
use dpvs_e2e::{Config, Lab, Topology};

/// A server that dies is out after `INTERVAL` x `FALL`; `MARGIN` is for the runs of the checks, and what follows from them, on a
/// busy machine.
const INTERVAL: f64 = 0.3;
const FALL: u32 = 2;
const MARGIN: f64 = 0.8;
const SLOW_START: f64 = 4.0;
/// Begin of the slow start, in which the server gets a tenth to two fifths of its weight.
const EARLY: f64 = 1.3;

/// A service, the check of its servers, and the client's command, which prints the name of the server.
struct Case {
    what: &'static str,
    protocol: &'static str,
    port: u16,
    probe: &'static str,
    client: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        what: "http",
        protocol: "tcp",
        port: 80,
        probe: "http = { body = \"^s[123]\" }",
        client: "curl -sf --max-time 1 http://192.0.2.100/",
    },
    Case {
        what: "dns",
        protocol: "udp",
        port: 53,
        probe: "dns = { name = \"whoami.\", type = \"TXT\" }",
        client: "dig +short +tries=1 +time=1 @192.0.2.100 whoami TXT | grep -o '^\"s[123]' | tr -d '\"'",
    },
    Case {
        what: "smtp",
        protocol: "tcp",
        port: 25,
        probe: "smtp = {}",
        client: "curl -sv --max-time 1 smtp://192.0.2.100 --mail-from c1@client.example --mail-rcpt nobody@server.example \
                 -T - 2>&1 <<<'Subject: load' | sed -n 's/^< 220 \\(s[123]\\) .*/\\1/p; /^< 250.*accepted/s/.*/taken/p' \
                 | paste -sd' ' | sed -n 's/ taken$//p'",
    },
];

impl Case {
    /// NAT servers on the lab's hosts.
    fn service(&self) -> String {
        let Self { protocol, port, probe, .. } = self;
        let mut text = format!(
            "\n[[services]]\nprotocol = \"{protocol}\"\naddress = \"192.0.2.100:{port}\"\nscheduler = \"wrr\"\n\
             [services.health]\nslow_start = {SLOW_START}\n\
             [[services.health.checks]]\nprobe = {{ {probe} }}\ninterval = {INTERVAL}\ntimeout = 1\nfall = {FALL}\nrise = 2\n"
        );
        for server in 21..=23 {
            text += &format!("[[services.servers]]\naddress = \"198.51.100.{server}:{port}\"\nmode = \"nat\"\n");
        }
        text
    }

    /// The client's command again and again, until its standard input ends.
    fn load(&self, lab: &Lab) -> Background {
        let script = format!(
            "while read -t 0.01 line; test $? -gt 128; do began=$EPOCHREALTIME; answer=$({} || true); \
             echo \"$began ${{answer:-lost}}\"; done",
            self.client
        );
        lab.spawn("c1", &["bash", "-c", &script])
    }
}

/// A request of a client: when it began, and who has answered.
struct Request {
    began: f64,
    server: String,
}

fn requests(load: Background) -> Vec<Request> {
    let output = load.finish(Duration::from_secs(10));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let request = |line: &str| {
        let (began, server) = line.split_once(' ')?;
        Some(Request { began: began.parse().ok()?, server: server.to_owned() })
    };
    text.lines().map(|line| request(line).unwrap_or_else(|| panic!("'{line}': {output:?}"))).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is right").as_secs_f64()
}

/// Waits until so many services have server s1; when each has changed.
fn wait_for_first(lab: &Lab, present: bool, limit: f64) -> [f64; CASES.len()] {
    let began = Instant::now();
    let mut changed = [None; CASES.len()];
    while changed.contains(&None) {
        let table = lab.ipvsadm("-Ln");
        for (case, changed) in CASES.iter().zip(&mut changed) {
            if changed.is_none() && table.contains(&format!("198.51.100.21:{} ", case.port)) == present {
                *changed = Some(now());
            }
        }
        assert!(began.elapsed().as_secs_f64() < limit, "server s1 (present: {present}): not within {limit} s\n{table}");
    }
    changed.map(Option::unwrap_or_default)
}

#[test]
fn killed_servers_leave_in_time_and_revived_ones_return_slowly() {
    let lab = Lab::with_hosts(Topology::TwoArm, 1, 3);
    let whats = CASES.map(|case| case.what);
    lab.serve(&whats);
    let services: String = CASES.iter().map(Case::service).collect();
    let config = Config::of(&lab, 1, |text| text + &services);
    lab.start_with(&config.path());
    let pause = |seconds: f64| std::thread::sleep(Duration::from_secs_f64(seconds));
    pause(INTERVAL * 2.0);

    let loads: Vec<Background> = CASES.iter().map(|case| case.load(&lab)).collect();
    pause(1.2);
    let killed = now();
    for what in whats {
        lab.kill("s1", what);
    }
    let all_killed = now();
    let out = wait_for_first(&lab, false, INTERVAL * f64::from(FALL) + MARGIN);
    pause(1.0);
    let revived = now();
    let _revived = whats.map(|what| lab.revive("s1", what));
    let back = wait_for_first(&lab, true, INTERVAL * 2.0 + MARGIN + 1.0);
    pause(SLOW_START + 2.0);
    println!("| server | out of the service | last request lost | lost | back | share at first | share at last |");
    for ((case, load), (out, back)) in CASES.iter().zip(loads).zip(out.into_iter().zip(back)) {
        let requests = requests(load);
        let what = case.what;
        let within = |from: f64, to: f64| requests.iter().filter(move |request| (from..to).contains(&request.began));
        let share = |from: f64, to: f64| {
            let all = within(from, to).count();
            assert!(all >= 8, "{what}: {all} requests are too few to say anything");
            within(from, to).filter(|request| request.server == "s1").count() as f64 / all as f64
        };
        let is_lost = |request: &&Request| request.server == "lost";
        assert_eq!(within(0.0, killed - 0.1).filter(is_lost).count(), 0, "{what}: nothing is lost before");
        assert!((0.2..0.5).contains(&share(0.0, killed)), "{what}: s1 has its share before");

        let lost: Vec<f64> = requests.iter().filter(is_lost).map(|request| request.began - killed).collect();
        let last = lost.last().copied().unwrap_or_default();
        assert!(!lost.is_empty(), "{what}: the server was in use");
        assert!(last <= INTERVAL * f64::from(FALL) + MARGIN, "{what}: lost {lost:?} seconds after the kill");
        assert!(within(all_killed, revived).all(|request| request.server != "s1"), "{what}: the dead do not answer");

        let (early, late) = (share(back, back + EARLY), share(back + SLOW_START, f64::MAX));
        println!(
            "| {what} | {:.2} s | {last:.2} s | {} of {} | {:.2} s | {:.0} % | {:.0} % |",
            out - killed,
            lost.len(),
            within(killed, out).count(),
            back - revived,
            early * 100.0,
            late * 100.0
        );
        assert!((0.25..0.42).contains(&late), "{what}: its full share is a third, not {late}");
        assert!(early < 0.22, "{what}: a slow start: {early}");
    }
    lab.stop_director("TERM");
}
