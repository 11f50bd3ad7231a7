//! A cluster with a mounted model, whose head is stopped under load.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::page::commands;
use crate::rig::http;
use crate::rig::load::{REFERENCE, play};
use crate::rig::patience::await_for;
use crate::rig::verdict::Verdict;
use crate::shell::docker;

/// The number of streams that are open when the head is stopped; one of them has three choices.
const STREAMS: usize = 8;
const CHOICES: usize = 10;

/// The number of attempts to have all streams open at once, and how long the last stream may take to open.
const ATTEMPTS: usize = 9;
const ARRIVAL: Duration = Duration::from_secs(20);

/// The time that the compose file gives a container to stop.
const GRACE: Duration = Duration::from_secs(35);

/// Returns the number of choices that run or wait, by the metrics.
fn accepted(cluster: &Cluster) -> usize {
    let (_, text) = http::get(cluster.api, "/metrics").expect("the API answers");
    let of = |name: &str| -> usize {
        let values = text.lines().filter(|line| line.starts_with(name));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as usize
    };
    of("vllm:num_requests_running{") + of("vllm:num_requests_waiting{")
}

/// `docker stop` lets running requests end, and every container exits with 0.
#[test]
fn a_mounted_model_is_served_to_the_last_token_when_the_head_is_stopped() {
    let Some(cluster) = Cluster::new("-tp 2 -dp 2") else { return };
    let page = commands("docs/compose.md");
    let up = page.iter().find(|line| line.contains("PLAYHOUSE_MODEL=")).expect("a command");
    let folder = REFERENCE.folder.expect("a folder");
    let (models, name) = folder.rsplit_once('/').expect("a path");
    cluster.run(&up.replace("/srv/models", models).replace("Qwen2.5-0.5B-Instruct", name));
    cluster.first_answer();
    cluster.wait_until("two replicas serve", || cluster.serve(2));
    let head = cluster.head();
    let requests = &REFERENCE.requests(0)[..STREAMS];
    // A machine that is busy may have ended the first before the last has come: then they are asked again.
    let stopped = (0..ATTEMPTS).find_map(|_| {
        let (answers, took) = play(requests, cluster.api, |_| {
            // Who comes after the signal is refused.
            await_for(ARRIVAL, || accepted(&cluster) == CHOICES).ok()?;
            let start = Instant::now();
            docker(&["stop", "--time", &GRACE.as_secs().to_string(), &head]);
            Some(start.elapsed())
        });
        Some((answers, took?))
    });
    let (answers, took) = stopped.expect("all are accepted, and none has ended");
    println!("docker stop of the head under {STREAMS} streams: {took:?}");
    let verdict = Verdict::of(requests, &answers, &answers);
    assert!(verdict.is_clean(), "{verdict}{}", cluster.logs());
    assert!(took < GRACE, "{took:?}");
    for container in cluster.containers("node").iter().chain([&head]) {
        docker(&["stop", "--time", &GRACE.as_secs().to_string(), container]);
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", container]);
        assert_eq!(code, "0", "{}", cluster.logs());
    }
}
