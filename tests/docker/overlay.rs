//! The overlay of `docker/docker-compose.observability.yml`, as far as its images can be made here: a
//! Prometheus of Debian under the name that the overlay asks for.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, REGISTRY};
use crate::image::BASE;
use crate::rig::http;
use crate::shell::{ROOT, ask, docker, skip};

/// The port of Prometheus in the overlay.
const PORT: u16 = 9090;

/// The image of Prometheus, with the user, the folders and the entry point of the project's own image.
const DOCKERFILE: &str = r#"
COPY prometheus /bin/prometheus
RUN install -d -o nobody -g nogroup /prometheus /etc/prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
"#;

/// Makes the image under its name in the overlay; returns `None` without a Prometheus, with a message.
fn make_image() -> Option<()> {
    let Ok(program) = ask("sh", &["-c", "command -v prometheus"]) else {
        skip("prometheus is not installed, so the overlay was not started");
        return None;
    };
    let overlay = fs::read_to_string(format!("{ROOT}/docker/docker-compose.observability.yml"));
    let overlay = overlay.expect("it is there");
    let name = overlay.lines().find_map(|line| line.split_once("}/prom/prometheus:"));
    let (_, version) = name.expect("Prometheus is a part of the overlay");
    let image = format!("{REGISTRY}/prom/prometheus:{version}");

    let context = std::env::temp_dir().join(format!("playhouse-overlay-{}", std::process::id()));
    fs::create_dir_all(&context).expect("the temporary folder can be written");
    fs::copy(program.trim(), context.join("prometheus")).expect("the program can be copied");
    fs::write(context.join("Dockerfile"), format!("FROM {BASE}{DOCKERFILE}")).expect("written");
    docker(&["build", "-q", "-t", &image, context.to_str().expect("plain")]);
    fs::remove_dir_all(&context).expect("made above");
    Some(())
}

/// Returns the values of a query, none while Prometheus starts.
fn values(prometheus: SocketAddr, query: &str) -> Vec<String> {
    let path = format!("/api/v1/query?query={query}");
    let Ok((200, body)) = http::get(prometheus, &path) else { return Vec::new() };
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    let series = answer["data"]["result"].as_array().expect("series").iter();
    series.map(|one| one["value"][1].as_str().expect("a number").to_owned()).collect()
}

#[test]
fn prometheus_in_the_overlay_reads_the_metrics_of_the_head() {
    let Some(cluster) = Cluster::watched("-tp 1 -dp 2") else { return };
    let Some(()) = make_image() else { return };
    // Of its other services there are no images here; the head has to do without a collector.
    cluster.compose(&["up", "--detach", "--no-build", "node", "prometheus"]);
    cluster.first_answer();
    let prometheus = SocketAddr::new(cluster.api.ip(), PORT);
    cluster.wait_until("both replicas are seen to serve", || {
        values(prometheus, "playhouse_replica_healthy") == ["1", "1"]
    });
    assert_eq!(values(prometheus, "up"), ["1"], "{}", cluster.logs());
    // The rules are there and are looked at: without its head, one waits to fire.
    drop(Command::new("docker").args(["kill", &cluster.head()]).output());
    cluster.wait_until("the head is missed", || {
        values(prometheus, "ALERTS%7Balertname=%22HeadDown%22%7D").len() == 1
    });
}
