//! A real Prometheus beside a real server, by the files of `docker/observability`.

use std::fs;
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
