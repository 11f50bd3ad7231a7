//! A real Prometheus beside a real server, by the files of `docker/observability`, and the parsers of
//! Prometheus's own tools on what `/metrics` says.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::wait_until;
use crate::observability::{dashboard, folder};
use crate::ports::port;
use crate::server::Server;

const KEY: &str = "sk-of-prometheus";

/// What Prometheus is told here in place of what stands in `prometheus.yml`.
const INTERVAL: [&str; 2] = ["_interval: 5s", "_interval: 1s"];

/// A running Prometheus. Killed when dropped.
struct Prometheus {
    child: Child,
    url: String,
    folder: PathBuf,
}

// === impl Prometheus ===

impl Prometheus {
    /// One that scrapes `target` as the overlay's scrapes the head.
    fn start(target: &str) -> Self {
        let home = std::env::temp_dir().join(format!("playhouse-scraped-{}", std::process::id()));
        fs::create_dir_all(&home).expect("the temporary folder can be written");
        let key_file = home.join("api-key");
        fs::write(&key_file, KEY).expect("a file can be written");
        fs::copy(folder().join("alerts.yml"), home.join("alerts.yml")).expect("the alerts");

        let mut config = fs::read_to_string(folder().join("prometheus.yml")).expect("a file");
        let key_file = key_file.to_str().expect("plain");
        let ours = [INTERVAL, ["/run/secrets/api-key", key_file], ["head:8000", target]];
        for [theirs, here] in ours {
            assert!(config.contains(theirs), "{config}");
            config = config.replace(theirs, here);
        }
        fs::write(home.join("prometheus.yml"), config).expect("a file can be written");

        let address = format!("127.0.0.1:{}", port());
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        Self { child, url: format!("http://{address}"), folder: home }
    }

    /// The series of a query, none while Prometheus starts.
    fn query(&self, query: &str) -> Vec<Value> {
        let words = ["query", "--format=json", "instant", &self.url, query];
        let output = Command::new("promtool").args(words).output().expect("promtool runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        let starts = ["connection refused", "503"].iter().any(|sign| complaint.contains(sign));
        assert!(output.status.success() || starts, "{query}: {complaint}");
        let series = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        series.as_array().cloned().unwrap_or_default()
    }

    /// Waits until a query has series.
    fn has(&self, query: &str) {
        wait_until(query, || !self.query(query).is_empty());
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

#[test]
fn prometheus_scrapes_with_the_key_every_panel_has_data_and_a_dead_head_is_noticed() {
    let is_missing = |program| Command::new(program).arg("--version").output().is_err();
    if ["prometheus", "promtool"].into_iter().any(is_missing) {
        eprintln!(
            "SKIPPED: prometheus is not installed, so nothing was scraped by it as \
             docker/observability says"
        );
        return;
    }
    let server = Server::start_with(&["-dp", "2"], &[("PLAYHOUSE_API_KEY", KEY)]);
    let target = server.url().replace("http://", "");
    let prometheus = Prometheus::start(&target);
    prometheus.has("up == 1");

    let ask = json!({ "prompt": "Once upon a time", "max_tokens": 16 }).to_string();
    let headers = format!("authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n");
    assert_eq!(server.send("POST", "/v1/completions", &headers, &ask).status, 200);
    prometheus.has("rate(playhouse_generation_tokens_total[1m]) > 0");
    for query in dashboard() {
        let query = query.replace("$__rate_interval", "1m").replace("$model", ".*");
        prometheus.has(&query);
    }

    let alert = "ALERTS{alertname='HeadDown'}";
    assert_eq!(prometheus.query(alert), Vec::<Value>::new(), "the head is there");
    drop(server);
    prometheus.has(alert);
}

/// Reads metrics from standard input with the parser of the format that is named, and fails if it refuses
/// them, or finds a series or a family twice.
const PARSE: &str = "
import collections, importlib, sys
parser = importlib.import_module('prometheus_client.' + sys.argv[1] + 'parser')
families = list(parser.text_string_to_metric_families(sys.stdin.read()))
names = collections.Counter(family.name for family in families)
series = collections.Counter(
    (sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples)
twice = [name for counter in (names, series) for name, count in counter.items() if count > 1]
assert not twice, twice
kinds = {family.name: family.type for family in families}
assert kinds['playhouse_prompt_tokens'] == 'counter', kinds
assert kinds['vllm:time_to_first_token_seconds'] == 'histogram', kinds
assert 'unknown' not in kinds.values(), kinds
print(len(series))
";

/// Gives a program its input: its exit status, and what it said.
fn feed(command: &mut Command, input: &str) -> (Option<i32>, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It may refuse its input before the end.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The metrics of a server that has answered with every class of status, in both formats.
fn both_formats() -> [String; 2] {
    let server = Server::start(&["-dp", "2"]);
    let chat = "/v1/chat/completions";
    for (body, status) in [
        (json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1 }), 200),
        (json!({ "messages": [] }), 400),
        (json!({ "messages": [], "model": "none" }), 404),
    ] {
        assert_eq!(server.post(chat, &body).status, status);
    }
    assert_eq!(server.send("PUT", chat, "", "{}").status, 405);
    [("text/plain; version=0.0.4", ""), ("application/openmetrics-text", "# EOF\n")].map(
        |(accepted, end)| {
            let accept = format!("accept: {accepted}\r\n");
            let response = server.send("GET", "/metrics", &accept, "");
            let kind = response.header("content-type").expect("a content type");
            assert!(kind.starts_with(accepted), "{kind}");
            assert!(response.body.ends_with(end));
            response.body
        },
    )
}

#[test]
fn prometheus_own_parsers_read_both_formats() {
    let python = std::env::var("PLAYHOUSE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let has_python = has(Command::new(&python).args(["-c", "import prometheus_client"]));
    let has_promtool = has(Command::new("promtool").arg("--version"));
    let [text, open_metrics] = both_formats();
    if has_python {
        for (parser, metrics) in [("", &text), ("openmetrics.", &open_metrics)] {
            let read = feed(Command::new(&python).args(["-c", PARSE, parser]), metrics);
            assert_eq!(read.0, Some(0), "{parser}parser: {}\n{metrics}", read.1);
        }
    }
    if has_promtool {
        let (status, said) = feed(Command::new("promtool").args(["check", "metrics"]), &text);
        // 3 is the status of metrics that can be read and might have nicer names, as vLLM's.
        assert!(matches!(status, Some(0 | 3)), "{said}\n{text}");
    }
    for (is_there, name) in [(has_python, "prometheus_client"), (has_promtool, "promtool")] {
        if !is_there {
            let line = format!("\n*** NOT TESTED: {name} is not there to parse metrics ***\n");
            // Past the capture of the test harness: a test that did not run says so.
            std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
        }
    }
}
