use serde_json::{Value, json};

use super::*;

fn check(value: Value) -> Result<Check, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn a_probe_is_a_name_or_a_name_with_settings() {
    assert_eq!(check(json!({ "probe": "tcp" })), Ok(Check::new(Probe::Tcp(TcpProbe::default()))));
    let http = check(json!({ "probe": { "http": { "path": "/ok", "status": [200, "300-399"] } }, "interval": 0.5 }));
    let http = http.unwrap();
    assert_eq!((http.interval, http.fall, http.rise), (Seconds::from_millis(500), 3, 2));
    let Probe::Http(probe) = &http.probe else { panic!("{http:?}") };
    assert_eq!(probe.path, "/ok");
    assert!([200, 300, 399].iter().all(|&status| probe.status.iter().any(|range| range.contains(status))));
    assert!(!probe.status.iter().any(|range| range.contains(299)));
    for (value, message) in [
        (json!({ "probe": "ftp" }), "unknown variant `ftp`"),
        (json!({ "probe": "external" }), "needs a command"),
        (json!({ "probe": { "http": { "pth": "/" } } }), "unknown field `pth`"),
        (json!({ "probe": { "http": {}, "tcp": {} } }), "a check has one probe"),
        (json!({ "probe": "tcp", "intervall": 1 }), "unknown field `intervall`"),
        (json!({ "probe": "tcp", "interval": -1 }), "expected a number of seconds from 0 up"),
        (json!({}), "missing field `probe`"),
    ] {
        let error = check(value.clone()).unwrap_err();
        assert!(error.contains(message), "{value}: {error}");
    }
}

#[test]
fn checks_are_read_as_they_are_written() {
    let tls = json!({ "server_name": "a.example", "verify": false, "ca_file": "/ca.pem" });
    for probe in [
        json!({ "tcp": { "send": "PING\r\n", "expect": "hex:2bxx", "tls": tls } }),
        json!({ "http": { "digest": "md5:9b3a0c85a887a256d6939da88aabd8cd", "version": "2", "method": "HEAD" } }),
        json!({ "dns": { "name": "a.example", "type": "AAAA", "rcode": "nxdomain", "transport": "tcp" } }),
        json!({ "udp": { "send": "hex:00ff", "require_reply": true, "min_length": 2 } }),
        json!({ "icmp": {} }),
        json!({ "smtp": { "helo": "director.example" } }),
        json!({ "grpc": { "service": "a.b", "tls": tls } }),
        json!({ "external": { "command": ["/bin/true", "x"], "user": "nobody", "dynamic": true } }),
    ] {
        let read = check(json!({ "probe": probe, "fwmark": 7, "warmup": 0 })).unwrap();
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(check(written.clone()), Ok(read), "{written}");
        let (name, settings) = probe.as_object().unwrap().iter().next().unwrap();
        for (key, value) in settings.as_object().unwrap() {
            let got = &written["probe"][name][key];
            assert!(got == value || key == "tls", "{name}.{key}: {got}, not {value}");
        }
    }
}

#[test]
fn seconds_are_numbers() {
    let read = |value: Value| serde_json::from_value::<Seconds>(value);
    for (value, millis) in [(json!(5), 5000), (json!(0.25), 250), (json!(0), 0)] {
        let seconds = read(value.clone()).unwrap();
        assert_eq!((seconds.as_millis(), serde_json::to_value(seconds).unwrap()), (millis, value));
    }
    for value in [json!(-0.5), json!("5"), json!(1e300), json!(null)] {
        assert!(read(value.clone()).is_err(), "{value}");
    }
    assert_eq!(Seconds::from_millis(1500).to_string(), "1.5 s");
}

#[test]
fn patterns_match_the_begin_of_data() {
    let pattern: Pattern = "hex:8x x1 ff".parse().unwrap();
    assert_eq!(pattern.to_string(), "hex:8xx1ff");
    assert!(pattern.matches(&[0x85, 0x71, 0xff, 0]));
    for data in [&[0x85, 0x71][..], &[0x95, 0x71, 0xff], &[0x85, 0x72, 0xff], &[0x85, 0x71, 0xfe]] {
        assert!(!pattern.matches(data), "{data:?}");
    }
    assert!(Pattern::of(b"220").matches(b"220 ready"));
    assert!("".parse::<Pattern>().unwrap().matches(b""));
    for text in ["hex:0", "hex:0g", "hex:é0"] {
        assert!(text.parse::<Pattern>().is_err() && text.parse::<Payload>().is_err(), "{text}");
    }
    assert!("hex:0x".parse::<Payload>().is_err(), "there is nothing to send for any");
    for text in ["PING\r\n", "hex:00ff", "", "hexagon"] {
        assert_eq!(text.parse::<Payload>().unwrap().to_string(), text);
    }
    assert_eq!("hex:50".parse::<Payload>().unwrap().to_string(), "P");
}

#[test]
fn the_schema_takes_what_is_read() {
    let schema = schemars::schema_for!(Health);
    let validator = jsonschema::draft202012::new(schema.as_value()).unwrap();
    for value in [
        json!({ "checks": [{ "probe": "tcp" }], "quorum": 2, "slow_start": 1.5, "on_failure": "zero-weight" }),
        json!({ "checks": [{ "probe": { "http": { "status": [200, "300-399"], "digest": "md5:00" } } }] }),
        json!({ "checks": [{ "probe": { "udp": { "send": "hex:00f", "expect": "hex:0x" } } }] }),
        json!({ "checks": [{ "probe": { "udp": { "send": "hex:00ff", "expect": "hex:0x" } } }] }),
        json!({ "checks": [{ "probe": { "dns": { "type": "soa" } } }] }),
        json!({ "checks": [{ "probe": "external" }] }),
        json!({ "passive": {} }),
        json!({ "passive": { "interval": 5, "error_limit": 3, "failure_percent": 50, "kinds": ["refused"],
            "base_ejection_time": 1.5, "max_ejection_time": 60, "max_ejection_percent": 100 } }),
        json!({ "passive": { "kinds": ["reset"] } }),
        json!({ "passive": { "errors": 3 } }),
        json!({ "initially": "down", "checks": [{ "probe": { "external": { "command": ["/a"] } } }] }),
        json!({ "checks": [{}] }),
        json!({ "interval": 1 }),
    ] {
        let read = serde_json::from_value::<Health>(value.clone());
        assert_eq!(validator.is_valid(&value), read.is_ok(), "{value}: {:?}", read.err());
    }
}
