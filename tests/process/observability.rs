//! What `docker/observability` and `docs/metrics.md` say of metrics, held against a real `/metrics`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::cluster::{Head, get, wait_until};
use crate::server::Server;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort_unstable();
    files
}

pub(crate) fn folder() -> PathBuf {
    Path::new(ROOT).join("docker/observability")
}

/// A YAML or JSON file.
fn parse(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file");
    match path.extension().and_then(|it| it.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|why| why.to_string()),
        _ => serde_saphyr::from_str(&text).map_err(|why| why.to_string()),
    }
    .unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Every text under the key `expr`, however deep.
fn queries(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        into.push(text.clone());
                    }
                    _ => queries(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, into)),
        _ => {}
    }
}

/// Names of ours in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
    let ours = ["playhouse_", "vllm:", "process_"];
    words.filter(move |word| ours.iter().any(|prefix| word.starts_with(prefix)))
}

/// The names of all series of a server that has answered a request.
fn exported() -> (BTreeSet<String>, String) {
    let server = Server::start(&["-dp", "2"]);
    let body = serde_json::json!({ "prompt": "Once", "max_tokens": 4 });
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    let text = server.send("GET", "/metrics", "accept: application/openmetrics-text\r\n", "").body;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.map(|line| line[..line.find(['{', ' ']).expect("a value")].to_owned());
    (names.collect(), text.clone())
}

#[test]
fn every_metric_that_is_asked_for_is_there_and_every_one_that_is_there_is_documented() {
    let (series, text) = exported();
    let mut asked = 0;
    for path in files(&folder()) {
        let mut found = Vec::new();
        if !path.to_string_lossy().ends_with("_test.yml") {
            queries(&parse(&path), &mut found);
        }
        for query in found {
            for name in names(&query) {
                assert!(series.contains(name), "{}: there is no {name}", path.display());
                asked += 1;
            }
        }
    }
    assert!(asked > 40, "the dashboard and the alerts ask for {asked} metrics");

    let page = fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).expect("the page");
    let documented: BTreeSet<_> = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| names(word).next() == Some(*word) || *word == "http_requests")
        .map(str::to_owned)
        .collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.map(|rest| rest.split(' ').next().expect("a name").to_owned());
    assert_eq!(documented, types.collect(), "docs/metrics.md lists what there is");
}

/// The value of a series of the head, by its name and one label.
fn series(api: &str, name: &str, label: &str) -> f64 {
    let text = get(api, "/metrics", "");
    let found = text.lines().find(|line| {
        let labels = line.strip_prefix(name).filter(|rest| rest.starts_with('{'));
        labels.is_some_and(|labels| labels.contains(label))
    });
    let value = found.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} with {label} in:\n{text}"))
}

#[test]
fn nodes_devices_replicas_operations_and_certificates_are_counted() {
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let mut nodes = ["a", "b"].map(|name| head.node(None, name, Some(&head.token())));
    let api = head.api();
    let is = |name: &str, label: &str, count: f64| {
        let what = format!("{name} {label} is {count}");
        wait_until(&what, || series(&api, name, &format!("\"{label}\"")) == count);
    };
    is("playhouse_nodes", "connected", 2.0);
    is("playhouse_devices", "used", 2.0);
    is("playhouse_devices", "free", 2.0);
    is("playhouse_replicas", "serving", 1.0);
    is("playhouse_operations_total", "done", 0.0);
    head.ask(&["scale", "dp", "2", "--wait"]);
    is("playhouse_replicas", "serving", 2.0);
    is("playhouse_devices", "used", 4.0);
    head.ask(&["drain", "replica", "1", "--wait"]);
    is("playhouse_replicas", "drained", 1.0);
    is("playhouse_operations_total", "done", 2.0);
    assert_eq!(
        head.ask(&["scale", "dp", "2", "--dry-run"]),
        "nothing to do: the cluster is as asked for already"
    );
    nodes[1].kill();
    is("playhouse_nodes", "lost", 1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    for kind in ["\"head\"", "\"node\""] {
        let end = series(&api, "playhouse_certificate_not_after_seconds", kind) - now;
        assert!((29.0 * 86_400.0..31.0 * 86_400.0).contains(&end), "{kind} ends in {end} s");
    }
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(series(&api, "playhouse_build_info", &version), 1.0);
    let text = get(&api, "/metrics", "");
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value: f64 =
            line.expect(name).rsplit(' ').next().expect("a value").parse().expect(name);
        assert!(value > 0.0, "{name} is {value}");
    }
}

#[test]
fn prometheus_accepts_the_configuration_and_the_alerts_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: promtool (package `prometheus`) is not installed, so the alert rules of \
             docker/observability were not tested"
        );
        return;
    }
    let dashboard = dashboard_as_rules();
    for arguments in [
        &["check", "config", "--syntax-only", "prometheus.yml"][..],
        &["check", "rules", "alerts.yml"],
        &["check", "rules", dashboard.to_str().expect("plain")],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new("promtool").args(arguments).current_dir(folder()).output();
        let output = output.expect("promtool runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}\n{said}");
        assert!(said.contains("SUCCESS"), "{arguments:?}\n{said}");
    }
}

/// The queries of the dashboard's panels.
pub(crate) fn dashboard() -> Vec<String> {
    let mut found = Vec::new();
    queries(&parse(&folder().join("grafana/dashboards/playhouse.json"))["panels"], &mut found);
    assert!(found.len() > 30, "{found:?}");
    found
}

/// They in a form that promtool reads.
fn dashboard_as_rules() -> PathBuf {
    let found = dashboard();
    let rule = |(index, query): (usize, &String)| {
        let query = query.replace("$__rate_interval", "1m");
        serde_json::json!({ "record": format!("panel_{index}"), "expr": query })
    };
    let rules: Vec<_> = found.iter().enumerate().map(rule).collect();
    let rules = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.json");
    fs::write(&path, rules.to_string()).expect("written");
    path
}

/// Every alert has a test in which it fires.
#[test]
fn no_alert_is_without_a_test() {
    let rules = parse(&folder().join("alerts.yml"));
    let tests = fs::read_to_string(folder().join("alerts_test.yml")).expect("the tests");
    let rules = rules["groups"].as_array().expect("groups").iter();
    let rules = rules.flat_map(|group| group["rules"].as_array().expect("rules"));
    let alerts: Vec<_> = rules.map(|rule| rule["alert"].as_str().expect("an alert")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in alerts {
        let line = format!("alertname: {alert}\n");
        assert!(tests.contains(&line), "{alert} has no test");
        assert!(tests.contains(&format!("# {alert} fires")), "{alert} is not seen to fire");
    }
}

/// What the services of the overlay mount is there.
#[test]
fn the_overlay_mounts_files_that_exist() {
    let overlay = parse(&Path::new(ROOT).join("docker/docker-compose.observability.yml"));
    let services = overlay["services"].as_object().expect("services");
    let volumes = services.values().filter_map(|service| service["volumes"].as_array()).flatten();
    let sources = volumes.filter_map(|volume| volume.as_str()?.split(':').next());
    let sources: Vec<_> = sources.filter(|source| source.starts_with("./")).collect();
    assert!(sources.len() >= 4, "{sources:?}");
    for source in sources {
        assert!(Path::new(ROOT).join("docker").join(source).exists(), "{source} is not there");
    }
}
