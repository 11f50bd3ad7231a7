//! The compose cluster by the commands of `docs/compose.md`: it is started, checked, scaled, restarted and
//! removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::page::commands;
use crate::rig::load::{DEMO, Model, play};
use crate::rig::verdict::Verdict;
use crate::shell::{ask, docker, volume_exists};

/// Asserts that a container has no capabilities and a read-only file system.
fn assert_confined(container: &str) {
    let status = docker(&["exec", container, "cat", "/proc/1/status"]);
    for fact in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(fact), "no {fact} in {status}");
    }
    assert!(status.contains("Uid:\t10001\t10001"), "{status}");
    let refused = ask("docker", &["exec", container, "touch", "/etc/x"]).expect_err("read-only");
    assert!(refused.contains("Read-only file system"), "{refused}");
}

/// Asserts that process 1 of a container reaps orphans.
fn assert_reaped(cluster: &Cluster, container: &str) {
    let run = |script: &str| docker(&["exec", container, "sh", "-c", script]);
    run("sleep 0.1 & exec true");
    cluster.wait_until("the orphan has ended and nobody is a zombie", || {
        run("cat /proc/[0-9]*/stat | grep -c -e ' (sleep) ' -e ') Z ' || true") == "0"
    });
}

/// Asserts that the secrets are random, and readable only for users who can enter their folder.
fn assert_secrets_made(cluster: &Cluster) {
    let mode = |path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(cluster.secrets().to_owned()), 0o700);
    let made = cluster.secrets().join("admin-token");
    assert_eq!(mode(made.clone()), 0o444);
    let secret = fs::read_to_string(made).expect("it can be read");
    assert!(secret.len() == 48 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

/// Asserts that the cluster answers every request in full.
fn answers_in_full(cluster: &Cluster, model: &Model, what: &str) {
    let requests = model.requests(0);
    let (answers, ()) = play(&requests, cluster.api, |_| ());
    let verdict = Verdict::of(&requests, &answers, &answers);
    assert!(verdict.is_clean(), "{what}: {verdict}{}", cluster.logs());
}

#[test]
fn the_commands_of_the_page_bring_a_cluster_up_change_it_and_take_it_down() {
    let Some(cluster) = Cluster::new("-tp 2 -dp 2") else { return };
    let page = commands("docs/compose.md");
    let [secrets, up, ask, file, status, more, scale, restart, remove, down, .., build] = &page[..]
    else {
        panic!("{page:?}")
    };
    fs::remove_file(cluster.secrets().join("admin-token")).expect("it was made");
    cluster.run(secrets);
    assert_secrets_made(&cluster);

    let start = Instant::now();
    cluster.run(up);
    let started = start.elapsed();
    let said = cluster.run(ask);
    println!("up to the first answer: {:?}, of which compose took {started:?}", start.elapsed());
    assert!(said.contains("Paris"), "{said}");
    assert_eq!(file, "export COMPOSE_FILE=docker/docker-compose.yml");
    assert!(cluster.run(status).contains("2 of 2 replicas serve"));

    let mut all = cluster.containers("node");
    assert_eq!(all.len(), 2, "{}", cluster.logs());
    all.push(cluster.head());
    for container in &all {
        assert_confined(container);
        assert_reaped(&cluster, container);
        cluster.wait_until("it is healthy", || cluster.health(container) == "healthy");
    }

    // Each of its own name, by a token of its own.
    cluster.run(more);
    cluster.wait_until("four nodes are connected", || cluster.nodes() == 4);
    cluster.run(scale);
    assert!(cluster.serve(4), "{}", cluster.status());
    answers_in_full(&cluster, &DEMO, "four replicas");

    let start = Instant::now();
    cluster.run(restart);
    let restarted = start.elapsed();
    let answered = cluster.first_answer();
    println!("restart head: the command took {restarted:?}, the first answer {answered:?} more");
    cluster.wait_until("what was asked for serves again", || cluster.serve(4));
    answers_in_full(&cluster, &DEMO, "after the restart");

    let keys: Vec<_> =
        cluster.containers("node").iter().map(|it| Cluster::key_volume(it)).collect();
    assert_eq!(keys.len(), 4);
    cluster.run(remove);
    for key in keys {
        assert!(!volume_exists(&key), "the key of a node is left behind");
    }
    cluster.run(down);
    assert!(volume_exists(&cluster.volume("cluster")), "the authority is there for the next start");
    assert!(cluster.containers("node").is_empty() && cluster.containers("head").is_empty());
    // Run by `image`, with bases and a binary of its own.
    assert_eq!(build, "docker build -f docker/Dockerfile --target runtime -t playhouse .");
}
