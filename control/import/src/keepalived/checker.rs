//! Checkers, such as `TCP_CHECK` and `HTTP_GET`.

use std::net::IpAddr;

use dpvs_api::{
    Check, DnsProbe, DnsType, ExternalProbe, HttpProbe, HttpVersion, IcmpProbe, Probe, Seconds, SmtpProbe, TcpProbe,
    Tls, UdpProbe,
};

use regex::bytes::Regex;

use super::service::Inherited;
use super::translate::{unknown, untranslated};
use super::tree::Block;
use super::words;
use crate::Report;

/// When checks are made. What is not set has the default of its checker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    delay_loop: Option<Seconds>,
    connect_timeout: Option<Seconds>,
    retry: Option<u32>,
    delay_before_retry: Option<Seconds>,
    warmup: Option<Seconds>,
    /// Servers are taken for down until their first check.
    pub alpha: bool,
}

impl Timing {
    /// Takes a line that is about this, and says whether it was.
    pub fn take(&mut self, block: &Block, report: &mut Report) -> bool {
        let time = match block.keyword.as_str() {
            "delay_loop" => &mut self.delay_loop,
            "connect_timeout" => &mut self.connect_timeout,
            "delay_before_retry" => &mut self.delay_before_retry,
            "warmup" => &mut self.warmup,
            "retry" | "nb_get_retry" => {
                match block.first().parse() {
                    Ok(retry) => self.retry = Some(retry),
                    Err(_) => untranslated(report, block, "this is no number"),
                }
                return true;
            }
            "alpha" => {
                self.alpha = boolean(block);
                return true;
            }
            _ => return false,
        };
        match seconds(block.first()) {
            Some(seconds) => *time = Some(seconds),
            None => untranslated(report, block, "this is no number of seconds"),
        }
        true
    }
}

/// A switch; on if it says no more.
fn boolean(block: &Block) -> bool {
    !["off", "false", "no"].contains(&block.first())
}

fn seconds(text: &str) -> Option<Seconds> {
    let millis = (text.parse::<f64>().ok()? * 1000.0).round();
    (0.0..=f64::from(u32::MAX)).contains(&millis).then(|| Seconds::from_millis(millis as u32))
}

/// Times in keepalived unless it is told otherwise.
const DELAY_LOOP: Seconds = Seconds::from_millis(60_000);
const CONNECT_TIMEOUT: Seconds = Seconds::from_millis(5_000);
const RETRY_DELAY: Seconds = Seconds::from_millis(1_000);
const HTTP_RETRY_DELAY: Seconds = Seconds::from_millis(3_000);

/// What checkers have in common: where they go to, and when.
struct Common {
    timing: Timing,
    address: Option<IpAddr>,
    port: Option<u16>,
    source: Option<IpAddr>,
    fwmark: Option<u32>,
}

impl Common {
    /// Takes a line that is about this, and says whether it was.
    fn take(&mut self, block: &Block, report: &mut Report) -> bool {
        let word = block.first();
        let taken = match block.keyword.as_str() {
            "connect_ip" => word.parse().map(|address| self.address = Some(address)).is_ok(),
            "connect_port" => word.parse().map(|port| self.port = Some(port)).is_ok(),
            "bindto" => word.parse().map(|address| self.source = Some(address)).is_ok(),
            "fwmark" => word.parse().map(|mark| self.fwmark = Some(mark)).is_ok(),
            "bind_port" | "bind_if" => {
                untranslated(report, block, "checks have no source port and no interface of their own");
                true
            }
            "log_all_failures" => {
                untranslated(report, block, "dpvsd logs changes of a server's state");
                true
            }
            _ => return self.timing.take(block, report),
        };
        if !taken {
            untranslated(report, block, "its value cannot be read");
        }
        true
    }

    /// A check with this; `retries` and the time before them are the checker's defaults.
    fn check(&self, probe: Probe, retries: u32, retry_delay: Seconds) -> Check {
        let Timing { delay_loop, connect_timeout, retry, delay_before_retry, warmup, .. } = self.timing;
        let interval = delay_loop.unwrap_or(DELAY_LOOP);
        let fall = retry.unwrap_or(retries).saturating_add(1);
        let retry_interval = delay_before_retry.unwrap_or(retry_delay);
        Check {
            interval,
            timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            fall,
            rise: 1,
            retry_interval: (fall > 1 && retry_interval != interval).then_some(retry_interval),
            warmup,
            address: self.address,
            port: self.port,
            source: self.source,
            fwmark: self.fwmark,
            ..Check::new(probe)
        }
    }
}

/// The checks that a checker stands for, and whether it is in alpha mode.
pub(super) fn checks(block: &Block, inherited: &Inherited, report: &mut Report) -> (Vec<Check>, bool) {
    let timing = Timing { alpha: false, ..inherited.timing };
    let mut common = Common { timing, address: None, port: None, source: None, fwmark: None };
    let checks = match block.keyword.as_str() {
        "TCP_CHECK" => {
            plain(block, &mut common, report);
            vec![common.check(Probe::Tcp(TcpProbe::default()), 1, RETRY_DELAY)]
        }
        "PING_CHECK" => {
            plain(block, &mut common, report);
            vec![common.check(Probe::Icmp(IcmpProbe {}), 1, RETRY_DELAY)]
        }
        "HTTP_GET" => http(block, false, inherited, &mut common, report),
        "SSL_GET" => http(block, true, inherited, &mut common, report),
        "SMTP_CHECK" => smtp(block, &mut common, report),
        "DNS_CHECK" => dns(block, &mut common, report),
        "UDP_CHECK" => udp(block, &mut common, report),
        "MISC_CHECK" => misc(block, &mut common, report),
        "BFD_CHECK" => {
            untranslated(report, block, "there is no such check; use an external one that asks the BFD daemon");
            Vec::new()
        }
        "FILE_CHECK" => {
            untranslated(report, block, "there is no such check; use an external one that reads the file");
            Vec::new()
        }
        _ => {
            unknown(report, block);
            Vec::new()
        }
    };
    (checks, common.timing.alpha)
}

fn plain(block: &Block, common: &mut Common, report: &mut Report) {
    for child in &block.children {
        if !common.take(child, report) {
            unknown(report, child);
        }
    }
}

fn http(block: &Block, is_tls: bool, inherited: &Inherited, common: &mut Common, report: &mut Report) -> Vec<Check> {
    let (host, version) = (inherited.virtual_host.clone(), HttpVersion::Http10);
    let mut probe = HttpProbe { host, version, ..HttpProbe::default() };
    let mut sni = false;
    let mut urls = Vec::new();
    for child in &block.children {
        match child.keyword.as_str() {
            "url" => urls.push(child),
            "virtualhost" => probe.host = Some(child.first().to_owned()),
            "enable_sni" => sni = true,
            "http_protocol" => match child.first() {
                "1.0" | "1.0C" | "1.0c" | "1.0K" | "1.0k" => probe.version = HttpVersion::Http10,
                "1.1" | "1.1K" | "1.1k" => probe.version = HttpVersion::Http11,
                _ => untranslated(report, child, "there is no such version"),
            },
            "fast_recovery" => {
                untranslated(report, child, "each URL is a check of its own; they do not wait for each other")
            }
            _ if common.take(child, report) => {}
            _ => unknown(report, child),
        }
    }
    if urls.is_empty() {
        untranslated(report, block, "it has no url");
    }
    let urls = urls.into_iter().map(|url| {
        let mut probe = probe.clone();
        http_url(url, &mut probe, report);
        // keepalived takes any certificate, and says whom it wants only if it is told to.
        probe.tls = is_tls.then(|| Tls { verify: false, sni, ..Tls::default() });
        common.check(Probe::Http(probe), 1, HTTP_RETRY_DELAY)
    });
    urls.collect()
}

fn http_url(url: &Block, probe: &mut HttpProbe, report: &mut Report) {
    let (mut regex, mut options, mut is_inverted) = (None, String::new(), false);
    for child in &url.children {
        let word = child.first();
        match child.keyword.as_str() {
            "path" => probe.path = word.to_owned(),
            "virtualhost" => probe.host = Some(word.to_owned()),
            "digest" => match format!("md5:{word}").parse() {
                Ok(digest) => probe.digest = Some(digest),
                Err(message) => untranslated(report, child, &message),
            },
            "status_code" => {
                for text in child.texts() {
                    match text.parse() {
                        Ok(range) => probe.status.push(range),
                        Err(message) => untranslated(report, child, &message),
                    }
                }
            }
            "regex" => regex = Some(word.to_owned()),
            "regex_no_match" => is_inverted = true,
            "regex_options" => {
                for option in child.texts() {
                    match option {
                        "caseless" => options.push('i'),
                        "dotall" => options.push('s'),
                        "multiline" => options.push('m'),
                        "extended" => options.push('x'),
                        "ungreedy" => options.push('U'),
                        // The expressions of dpvsd know no other.
                        "utf" | "ucp" => {}
                        _ => untranslated(report, child, &format!("expressions have no option '{option}'")),
                    }
                }
            }
            "regex_stack" => untranslated(report, child, "expressions need no stack"),
            "regex_min_offset" | "regex_max_offset" => {
                untranslated(report, child, "expressions are looked for in the whole body");
            }
            _ => unknown(report, child),
        }
    }
    let Some(mut regex) = regex else { return };
    if !options.is_empty() {
        regex = format!("(?{options}){regex}");
    }
    if let Err(error) = Regex::new(&regex) {
        let error = error.to_string();
        let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        report.warn(&url.place, format!("regex {regex}: not translated, as dpvsd could not read it: {why}"));
        return;
    }
    let field = if is_inverted { &mut probe.body_not } else { &mut probe.body };
    *field = Some(regex);
}

fn smtp(block: &Block, common: &mut Common, report: &mut Report) -> Vec<Check> {
    let mut probe = SmtpProbe::default();
    let mut hosts = Vec::new();
    for child in &block.children {
        match child.keyword.as_str() {
            "helo_name" => child.first().clone_into(&mut probe.helo),
            "host" => hosts.push(child),
            _ if common.take(child, report) => {}
            _ => unknown(report, child),
        }
    }
    let check = |common: &Common| common.check(Probe::Smtp(probe.clone()), 1, RETRY_DELAY);
    if hosts.is_empty() {
        return vec![check(common)];
    }
    // Old configurations name hosts to check in place of the server.
    let of_host = |host: &Block| {
        let mut own = Common { ..*common };
        plain(host, &mut own, report);
        check(&own)
    };
    hosts.into_iter().map(of_host).collect()
}

fn dns(block: &Block, common: &mut Common, report: &mut Report) -> Vec<Check> {
    const TYPES: [DnsType; 7] =
        [DnsType::A, DnsType::Ns, DnsType::Cname, DnsType::Soa, DnsType::Mx, DnsType::Txt, DnsType::Aaaa];
    let mut probe = DnsProbe::default();
    for child in &block.children {
        match child.keyword.as_str() {
            "type" => match TYPES.into_iter().find(|known| known.name().eq_ignore_ascii_case(child.first())) {
                Some(record_type) => probe.record_type = record_type,
                None => untranslated(report, child, "there is no such type; SOA is taken"),
            },
            "name" => child.first().clone_into(&mut probe.name),
            _ if common.take(child, report) => {}
            _ => unknown(report, child),
        }
    }
    let delay_loop = common.timing.delay_loop.unwrap_or(DELAY_LOOP);
    vec![common.check(Probe::Dns(probe), 3, delay_loop)]
}

fn udp(block: &Block, common: &mut Common, report: &mut Report) -> Vec<Check> {
    let mut probe = UdpProbe::default();
    let (mut min, mut max) = (None, None);
    for child in &block.children {
        match child.keyword.as_str() {
            "payload" => match hexadecimal(&child.texts()).parse() {
                Ok(payload) => probe.send = payload,
                Err(message) => untranslated(report, child, &message),
            },
            "require_reply" => {
                probe.require_reply = true;
                if !child.words.is_empty() {
                    match hexadecimal(&child.texts()).parse() {
                        Ok(pattern) => probe.expect = Some(pattern),
                        Err(message) => untranslated(report, child, &message),
                    }
                }
            }
            "min_reply_length" => min = child.first().parse().ok(),
            "max_reply_length" => max = child.first().parse().ok(),
            _ if common.take(child, report) => {}
            _ => unknown(report, child),
        }
    }
    if probe.require_reply {
        (probe.min_length, probe.max_length) = (Some(min.unwrap_or(0)), Some(max.unwrap_or(255)));
    }
    vec![common.check(Probe::Udp(probe), 1, RETRY_DELAY)]
}

/// Digits of words: two each, and a word's odd last one alone, as keepalived reads them.
fn hexadecimal(words: &[&str]) -> String {
    let mut text = "hex:".to_owned();
    for word in words {
        let digits: Vec<char> = word.chars().collect();
        for pair in digits.chunks(2) {
            match *pair {
                [high, low] => text.extend([high, low]),
                [low] => text.extend(['0', low]),
                _ => {}
            }
        }
    }
    text
}

fn misc(block: &Block, common: &mut Common, report: &mut Report) -> Vec<Check> {
    let mut probe = ExternalProbe { command: Vec::new(), user: None, dynamic: false };
    let mut timeout = None;
    for child in &block.children {
        match child.keyword.as_str() {
            "misc_path" => probe.command = words::command(child.first()),
            "misc_timeout" => match seconds(child.first()) {
                Some(seconds) => timeout = Some(seconds),
                None => untranslated(report, child, "this is no number of seconds"),
            },
            "misc_dynamic" => probe.dynamic = true,
            "user" => {
                probe.user = Some(child.first().to_owned());
                if child.words.len() > 1 {
                    untranslated(report, child, "the group is that of the user");
                }
            }
            _ if common.take(child, report) => {}
            _ => unknown(report, child),
        }
    }
    if !probe.command.first().is_some_and(|path| path.starts_with('/')) {
        untranslated(report, block, "misc_path must be the absolute path of a program");
        return Vec::new();
    }
    // Without a timeout, a program may take as long as there is between two runs.
    common.timing.connect_timeout = timeout.or(common.timing.delay_loop).or(Some(DELAY_LOOP));
    vec![common.check(Probe::External(probe), 0, RETRY_DELAY)]
}
