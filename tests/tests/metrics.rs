//! Metrics as Prometheus sees them: the text, and what the dashboard and the alert rules make of it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use dpvs_e2e::lab::{source_tree, text};
use dpvs_e2e::{Config, Family, Lab, Mode, Service, eventually};
use serde_json::Value;

const LISTEN: &str = "127.0.0.1:9778";
const PROMETHEUS: &str = "127.0.0.1:9090";

/// A director with a FULLNAT service of web servers, and metrics at [`LISTEN`].
fn lab(metrics: &str) -> (Lab, Config, Service) {
    let lab = Lab::with_hosts(Mode::Fullnat.topology(), 1, 2);
    lab.serve(&["http"]);
    let config = Config::of(&lab, 2, |text| format!("{text}\n[metrics]\nlisten = \"{LISTEN}\"\n{metrics}"));
    lab.start_with(&config.path());
    let service = Service::tcp(Mode::Fullnat, Family::V4, 80);
    lab.add(std::slice::from_ref(&service));
    let health = lab.directory().join("lb/health.toml");
    fs::write(&health, "checks = [{ probe = { http = { path = '/' } }, interval = 0.5, warmup = 0 }]").expect("a file");
    lab.ctl(&format!("services edit tcp/{} --health {}", service.address(), health.display()));
    eventually("the servers are up", Duration::from_secs(5), || {
        get(&lab, &format!("http://{LISTEN}/metrics")).matches("\ndpvs_server_up{").count() == 2
    });
    (lab, config, service)
}

fn get(lab: &Lab, url: &str) -> String {
    lab.run("lb", &["curl", "-sSfg", "--max-time", "10", url])
}

/// The samples of a scrape, by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        })
        .collect()
}

#[test]
fn scrapes() {
    let (lab, config, service) = lab("");
    let url = service.url("");
    for _ in 0..8 {
        lab.run("c1", &["curl", "-sSfg", "--max-time", "5", "-o", "/dev/null", &url]);
    }
    let scrape = get(&lab, &format!("http://{LISTEN}/metrics"));
    let check = format!("curl -sSfg http://{LISTEN}/metrics | promtool check metrics");
    let said = lab.run("lb", &["bash", "-o", "pipefail", "-euc", &format!("{check} 2>&1")]);
    assert_eq!(said, "", "promtool has nothing to say");

    let samples = samples(&scrape);
    let name = format!("tcp/{}", service.address());
    let of_service = |metric: &str| samples[format!("{metric}{{service=\"{name}\"}}").as_str()];
    assert_eq!(of_service("dpvs_service_connections_total"), 8.0);
    assert_eq!(of_service("dpvs_service_available_servers"), 2.0);
    assert_eq!(of_service("dpvs_service_active_connections"), 0.0);
    assert!(of_service("dpvs_service_inactive_connections") >= 1.0);
    assert!(of_service("dpvs_service_local_endpoints_used") >= 1.0);
    assert_eq!(of_service("dpvs_service_local_endpoints"), 129_022.0);
    let servers = (1..=2).map(|n| {
        let labels = format!("{{service=\"{name}\",server=\"{}\"}}", service.server(&lab, n));
        samples[format!("dpvs_server_connections_total{labels}").as_str()]
    });
    assert_eq!(servers.sum::<f64>(), 8.0);
    for n in 1..=2 {
        let server = service.server(&lab, n);
        let labels = format!("{{service=\"{name}\",server=\"{server}\"}}");
        assert_eq!(samples[format!("dpvs_server_up{labels}").as_str()], 1.0);
        let labels = format!("{{service=\"{name}\",server=\"{server}\",check=\"http {server}/\"}}");
        assert!(samples[format!("dpvs_check_runs_total{labels}").as_str()] >= 1.0);
    }
    assert_eq!(of_service("dpvs_service_quorum_reached"), 1.0);
    let of_workers = |metric: &str| -> f64 {
        (0..2).map(|worker| samples[format!("{metric}{{worker=\"{worker}\"}}").as_str()]).sum()
    };
    let ports = samples.iter().filter(|(series, _)| series.starts_with("dpvs_port_received_packets_total{"));
    let received: f64 = ports.map(|(_, packets)| packets).sum();
    let found = of_workers("dpvs_worker_packets_total");
    assert!(found >= received && received > 80.0, "{found} {received}");
    let (busy, all) = (of_workers("dpvs_worker_busy_cycles_total"), of_workers("dpvs_worker_cycles_total"));
    assert!(busy > 0.0 && busy < all, "{busy} of {all} cycles");
    assert!(samples["dpvs_packet_buffers_free"] < samples["dpvs_packet_buffers"]);
    assert_eq!(samples["dpvs_config_last_reload_successful"], 1.0);

    // The same is at the API's socket; there is nothing else here.
    let socket = lab.directory().join("lb/dpvsd.sock");
    let over_socket = ["curl", "-sSf", "--unix-socket", &socket.to_string_lossy(), "http://d/metrics"];
    assert!(lab.run("lb", &over_socket).contains("dpvs_build_info{"));
    let elsewhere = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{LISTEN}/v1/services")];
    assert_eq!(lab.run("lb", &elsewhere), "404");

    let good = fs::read_to_string(config.path()).expect("the configuration");
    config.write(&format!("{good}\n[nonsense]\n"));
    lab.run("lb", &["kill", "-HUP", &lab.director_pid()]);
    eventually("the failed reload shows", Duration::from_secs(5), || {
        get(&lab, &format!("http://{LISTEN}/metrics")).contains("dpvs_config_reloads_total{result=\"failure\"} 1\n")
    });
}

/// The expressions of the dashboard's panels, as Grafana would send them.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut expressions = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let is_row = panel["type"] == "row";
        assert!(is_row || panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}: described");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "6s");
            let expression = expression.replace("$instance", ".*").replace("$service", ".*");
            assert!(!expression.contains('$'), "{title}: a variable that the dashboard lacks: {expression}");
            expressions.push((title.to_owned(), expression));
        }
    }
    expressions
}

fn query(lab: &Lab, path: &str, expression: &str) -> Value {
    let url = format!("http://{PROMETHEUS}/api/v1/{path}");
    let answer = lab.run("lb", &["curl", "-sS", "--max-time", "10", "-G", "--data-urlencode", expression, &url]);
    let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(answer["status"], "success", "{expression}: {answer}");
    answer["data"].clone()
}

#[test]
fn prometheus_dashboard_and_rules() {
    let (lab, _config, service) = lab("");
    let deploy = source_tree().join("deploy");
    let directory = lab.directory().join("lb/prometheus");
    fs::create_dir_all(&directory).expect("a directory");
    // An hour of rates would take an hour: windows are made of seconds here.
    let rules = fs::read_to_string(deploy.join("prometheus/dpvs.rules.yml")).expect("the rules");
    let rules = rules.replace("[1m]", "[6s]").replace("[5m]", "[6s]");
    fs::write(directory.join("rules.yml"), rules).expect("the rules");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yml]\n\
         scrape_configs:\n  - job_name: dpvs\n    static_configs: [{{ targets: ['{LISTEN}'] }}]\n"
    );
    fs::write(directory.join("prometheus.yml"), config).expect("the configuration");
    let at = |name: &str| directory.join(name).display().to_string();
    let _prometheus = lab.spawn(
        "lb",
        &[
            "prometheus",
            &format!("--config.file={}", at("prometheus.yml")),
            &format!("--storage.tsdb.path={}", at("data")),
            &format!("--web.listen-address={PROMETHEUS}"),
            "--log.level=error",
        ],
    );
    let url = service.url("");
    let load = format!("while curl -sSfg --max-time 5 -o /dev/null '{url}'; do sleep 0.1; done");
    let _load = lab.spawn("c1", &["bash", "-c", &load]);

    let ready = ["curl", "-sf", "--max-time", "1", &format!("http://{PROMETHEUS}/-/ready")];
    eventually("Prometheus starts", Duration::from_secs(20), || lab.try_run("lb", &ready).status.success());
    let is_scraped = "query=count_over_time(dpvs_build_info[1m]) >= 6";
    eventually("Prometheus has scraped", Duration::from_secs(20), || {
        query(&lab, "query", is_scraped)["result"].as_array().is_some_and(|result| !result.is_empty())
    });

    let dashboard = fs::read_to_string(deploy.join("grafana/dpvs.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 40, "{}", expressions.len());
    let empty: Vec<_> = expressions
        .iter()
        .filter(|(_, expression)| {
            let result = query(&lab, "query", &format!("query={expression}"));
            result["result"].as_array().is_none_or(Vec::is_empty)
        })
        .collect();
    assert!(empty.is_empty(), "no data: {empty:#?}");

    let groups = query(&lab, "rules", "")["groups"].clone();
    let rules: Vec<&Value> =
        groups.as_array().into_iter().flatten().flat_map(|g| g["rules"].as_array()).flatten().collect();
    assert!(rules.len() > 15, "{groups:#}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule:#}");
        // A fresh director was started in the last five minutes; nothing else is unusual.
        let raised = rule["state"] == "firing" || rule["state"] == "pending";
        assert_eq!(raised, rule["name"] == "DpvsRestarted", "{rule:#}");
    }
}

#[test]
fn rules_are_right() {
    let directory = source_tree().join("deploy/prometheus");
    for arguments in [["check", "rules", "dpvs.rules.yml"], ["test", "rules", "dpvs.rules.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(&directory).output().expect("promtool");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
}
