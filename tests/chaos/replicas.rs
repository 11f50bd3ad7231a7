//! Replicas that die whole, or again and again (**G1**).

use std::thread;

use rustix::process::Signal;

use crate::rig::answer::Answer;
use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::http::get;
use crate::rig::load::{DEMO, play, play_on};
use crate::rig::patience::wait_until;
use crate::rig::process::signal;
use crate::rig::verdict::Verdict;
use crate::scenario::{Heal, Scenario};

/// **G1** through the loss of a replica: the other one takes over, then it is its turn.
#[test]
fn either_replica_dies_whole() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2", "-dp", "2"]));
    for replica in 0..2 {
        scenario.withstands(&Fault::KillReplica(replica), Heal::AfterTheLoad);
    }
    scenario.close();
}

/// **G1**: nobody can serve for a while, so everybody waits.
#[test]
fn the_only_replica_dies_whole() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2", "-pp", "2"]));
    scenario.withstands(&Fault::KillReplica(0), Heal::OnceSeen);
    scenario.close();
}

/// **G1**: who comes while nobody serves is let in and waits too.
#[test]
fn requests_that_come_during_a_restart_are_answered() {
    let mut cluster = Cluster::local(&DEMO, &["-tp", "2"]);
    let requests = DEMO.requests(0);
    let (expected, ()) = play(&requests, cluster.api, |_| ());
    let epochs = cluster.epochs();
    Fault::KillShard(At { replica: 0, stage: 0, tensor: 0 }).strike(&mut cluster);
    wait_until("the loss is seen", || cluster.epochs() != epochs);
    let (answers, ()) = play(&requests, cluster.api, |_| ());
    let verdict = Verdict::of(&requests, &expected, &answers);
    assert!(verdict.is_clean(), "{verdict}{}", cluster.logs());
    wait_until("nothing is held", || cluster.is_empty());
    cluster.close();
}

/// Kills the first rank of a replica whenever it serves, until it is given up.
fn kill_until_it_is_given_up(cluster: &Cluster, replica: usize) {
    for _ in 0..20 {
        let settled = || matches!(&*cluster.states()[replica], "serving" | "failed");
        wait_until("the replica serves or has failed", settled);
        if cluster.states()[replica] == "failed" {
            return;
        }
        let epoch = cluster.epochs()[replica];
        let victim = cluster.shard(At { replica, stage: 0, tensor: 0 });
        victim.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        wait_until("the loss is seen", || {
            cluster.epochs()[replica] > epoch || cluster.states()[replica] == "failed"
        });
    }
    panic!("the replica was never given up");
}

/// A crash loop of one replica: it settles in `failed` and says why, and the other one has
/// everybody (**G1**).
#[test]
fn a_crash_loop_settles_and_the_other_replica_serves() {
    // It is given up when no request would wait for it any more.
    let cluster = Cluster::local(&DEMO, &["-dp", "2", "--no-capacity-timeout", "2s"]);
    let requests = DEMO.requests(0);
    let (expected, ()) = play(&requests, cluster.api, |_| ());
    let (answers, ()) = thread::scope(|scope| {
        let crashes = scope.spawn(|| kill_until_it_is_given_up(&cluster, 0));
        let mut verdict = Verdict::default();
        while !crashes.is_finished() {
            let (answers, ()) = play(&requests, cluster.api, |_| ());
            verdict.join(Verdict::of(&requests, &expected, &answers));
        }
        crashes.join().expect("the replica is given up");
        assert!(verdict.is_clean(), "{verdict}{}", cluster.logs());
        play(&requests, cluster.api, |_| ())
    });
    let verdict = Verdict::of(&requests, &expected, &answers);
    assert!(verdict.is_clean(), "afterwards: {verdict}{}", cluster.logs());
    let status = cluster.status();
    assert_eq!(cluster.states(), ["failed", "serving"]);
    let reason = status["replicas"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("was killed by signal 9"), "{reason}");
    assert_eq!(get(cluster.api, "/readyz").expect("answered").0, 200);
    wait_until("nothing is held", || cluster.is_empty());
    cluster.close();
}

/// An error event, or a status for who has no token yet; with the reason either way.
fn is_refusal(why: &str) -> bool {
    let shape = why.contains("status 503") || why.contains("error event");
    shape && why.contains("killed by signal 9")
}

/// A crash loop of the only replica: what is under way waits for as long as it may, and ends with an
/// error event and no `[DONE]`; so does what comes, with the reason; and the process lives and says
/// that it is not ready.
#[test]
fn a_crash_loop_of_the_only_replica_ends_every_stream_with_an_error() {
    let cluster = Cluster::local(&DEMO, &["-tp", "2", "--no-capacity-timeout", "2s"]);
    let requests = DEMO.requests(0);
    let (answers, ()) = play_on(&requests, cluster.api, |progress| {
        progress.wait_for_tokens(100);
        kill_until_it_is_given_up(&cluster, 0);
    });
    // Before its last one, everybody got whole ones.
    let answers: Vec<_> = answers.into_iter().filter_map(|mut answers| answers.pop()).collect();
    let failed: Vec<_> = answers.iter().filter_map(Answer::failure).collect();
    assert!(failed.len() > requests.len() / 2, "{} of {}", failed.len(), requests.len());
    for (request, answer) in requests.iter().zip(&answers) {
        let Some(why) = answer.failure() else {
            assert_eq!(answer.truncation(request.choices), None, "whole, or failed");
            continue;
        };
        assert!(is_refusal(&why), "{why}");
        assert_eq!((answer.errors.len(), answer.dones), (1, 0), "{why}");
    }
    let (refused, ()) = play(&requests[..1], cluster.api, |_| ());
    let why = refused[0].failure().expect("nobody serves");
    assert!(is_refusal(&why), "{why}");
    let status = |path| get(cluster.api, path).expect("the process lives").0;
    assert_eq!((status("/livez"), status("/readyz")), (200, 503));
    wait_until("nothing is held", || cluster.is_empty());
    cluster.close();
}
