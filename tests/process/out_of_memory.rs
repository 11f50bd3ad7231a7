//! What happens when memory runs out: ranks go before the head, and their reason says so.

use std::fs;

use crate::cluster::Folder;
use crate::hangs::not_tested;
use crate::memory_group::MemoryGroup;
use crate::ranks::{children, lives, long, tokens};
use crate::server::Server;

fn oom_score_adj(pid: u32) -> i32 {
    let value = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it lives");
    value.trim().parse().expect("a number")
}

#[test]
fn ranks_volunteer_before_the_head_when_memory_runs_out() {
    let server = Server::start(&["-tp", "2"]);
    let head = oom_score_adj(server.pid());
    for rank in children(server.pid()) {
        assert_eq!(oom_score_adj(rank), (head + 500).min(1000));
    }
}

/// The kernel kills a rank, not the head, and the replica is back with what it had said.
#[test]
fn memory_that_runs_out_costs_a_rank_and_the_reason_says_so() {
    let expected = tokens(&Server::start(&["-tp", "2"]), &long(1));
    let Some(group) = MemoryGroup::new() else {
        return not_tested("no control group with a limit of memory can be made here");
    };
    let folder = Folder::new();
    let log = folder.0.join("log");
    let server = Server::start_by(group.command(), &["-tp", "2"], &log);
    let ranks = children(server.pid());
    group.run_out(|| {
        assert!(lives(server.pid()), "ranks come first");
        !ranks.iter().all(|&rank| lives(rank))
    });
    server.wait_until("it serves again", |server| {
        server.metric("playhouse_replica_restarts_total") > 0.0
            && server.metric("playhouse_replica_healthy") == 1.0
    });
    let after = children(server.pid());
    assert!(after.iter().any(|rank| !ranks.contains(rank)), "one was started anew: {after:?}");
    let said = fs::read_to_string(&log).expect("a log");
    let reason = said.lines().find(|line| line.contains("restarting")).expect("a reason");
    assert!(reason.contains("was killed by signal 9: killed for want of memory"), "{reason}");
    assert_eq!(tokens(&server, &long(1)), expected);
    drop(server);
}
