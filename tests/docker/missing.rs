//! A cluster without a secret or a model, which names what is missing in one line.

use std::fs;

use crate::cluster::Cluster;

#[test]
fn a_cluster_without_its_secrets_does_not_start_and_says_which_is_missing() {
    let Some(cluster) = Cluster::new("-tp 2 -dp 2") else { return };
    let secret = cluster.secrets().join("admin-token");
    fs::remove_file(&secret).expect("it was made");
    // Some versions of compose refuse; others mount an empty folder, which the head does.
    match cluster.try_compose(&["up", "--detach", "--no-build"]) {
        Err(why) => assert!(why.contains("admin-token"), "{why}"),
        Ok(_) => {
            let wanted = "cannot take a secret from --admin-token-file /run/secrets/admin-token: ";
            cluster.wait_until("the head says what is missing", || cluster.logs().contains(wanted));
        }
    }
}

#[test]
fn a_model_that_is_not_mounted_is_named_and_the_head_does_not_start() {
    let Some(cluster) = Cluster::new("/models/none -tp 2 -dp 2") else { return };
    cluster.compose(&["up", "--detach", "--no-build"]);
    cluster.wait_until("the head says what is missing", || {
        let logs = cluster.logs();
        logs.contains("error: ") && logs.contains("/models/none")
    });
    let head = cluster.head();
    assert_ne!(cluster.health(&head), "healthy");
}
