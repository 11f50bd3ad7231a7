//! `playhouse scale`, `drain`, `undrain`, `restart`, `remove`, `operations` and `abort`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use playhouse_admin::view;
use playhouse_cluster::{Change, Ledger, OperationId, Phase, ReplicaState};
use playhouse_types::{ParallelSpec, ReplicaId};

use crate::head::{CarryOut, EVIL, Head, TOKEN};
use crate::{Finished, playhouse, run};

fn ask(head: &Head, command: &[&str]) -> Finished {
    let url = head.url();
    run(&[command, &["--admin", &url, "--admin-token", TOKEN]].concat())
}

fn scale_up(ledger: &Ledger, id: OperationId) {
    ledger.step(id, Phase::Prepare, "replica-1 starts");
    ledger.step(id, Phase::Switch, EVIL);
}

const DONE: CarryOut = |ledger, id| {
    scale_up(ledger, id);
    ledger.end(id, Phase::Done);
};
const FAILED: CarryOut = |ledger, id| {
    scale_up(ledger, id);
    ledger.end(id, Phase::Failed { reason: "no device \u{1b}[2J".to_owned() });
};
const ABORTED: CarryOut = |ledger, id| ledger.end(id, Phase::Aborted);

#[test]
fn a_command_is_a_change() {
    let (replica, deadline) = (ReplicaId(0), Duration::from_secs(30));
    let layout =
        |tensor, pipeline| Some(ParallelSpec { tensor, pipeline, ..ParallelSpec::default() });
    let deployment = |replicas, layout, force| Change::Deployment { replicas, layout, force };
    let node = || "rack-1".to_owned();
    for (command, expected) in [
        ("scale dp 4", deployment(Some(4), None, false)),
        ("scale dp 0 --force", deployment(Some(0), None, true)),
        ("scale tp 2", deployment(None, layout(2, 1), false)),
        ("scale pp 3", deployment(None, layout(1, 3), false)),
        ("drain replica 0", Change::DrainReplica { replica, deadline, force: false }),
        (
            "drain replica 0 --force --deadline 2m",
            Change::DrainReplica { replica, deadline: deadline * 4, force: true },
        ),
        ("drain node rack-1", Change::DrainNode { node: node(), deadline, force: false }),
        ("undrain node rack-1", Change::UndrainNode { node: node() }),
        ("restart replica 0", Change::RestartReplica { replica }),
        (
            "remove replica 0 --deadline 0s",
            Change::RemoveReplica { replica, deadline: Duration::ZERO, force: false },
        ),
        ("remove node a/b", Change::RemoveNode { node: "a/b".to_owned() }),
    ] {
        let head = Head::start(ReplicaState::Serving);
        let command: Vec<_> = command.split(' ').collect();
        let accepted = ask(&head, &command);
        assert_eq!(accepted.code, 0, "{command:?}: {}", accepted.stderr);
        assert!(accepted.stdout.starts_with("operation 1: "), "{}", accepted.stdout);
        assert_eq!(accepted.stdout.lines().count(), 1);
        assert!(accepted.stderr.contains("playhouse operations 1 --watch"), "{}", accepted.stderr);
        assert_eq!(head.ledger.operations()[0].change, expected, "{command:?}");
    }
}

#[test]
fn a_dry_run_prints_the_plan() {
    let head = Head::start(ReplicaState::Serving);
    let plan = ask(&head, &["scale", "dp", "2", "--dry-run"]);
    assert_eq!((plan.code, plan.stderr.as_str()), (0, ""));
    assert_eq!(plan.stdout, "start replica-1\nnode\\u{1b}[2J\n");
    let nothing = ask(&head, &["scale", "dp", "1", "--dry-run"]);
    assert_eq!((nothing.code, nothing.stderr.as_str()), (0, ""));
    assert_eq!(nothing.stdout, "nothing to do: the cluster is as asked for already\n");
    assert!(head.ledger.operations().is_empty());
    assert_eq!(ask(&head, &["scale", "dp", "2", "--dry-run", "--wait"]).code, 2);
}

#[test]
fn a_key_is_asked_for_once() {
    let head = Head::start(ReplicaState::Serving);
    for _ in 0..2 {
        let accepted = ask(&head, &["scale", "dp", "2", "--key", "k"]);
        assert_eq!((accepted.code, &*accepted.stdout), (0, "operation 1: scale to dp 2\n"));
    }
    let taken = ask(&head, &["scale", "dp", "3", "--key", "k"]);
    assert_eq!(taken.code, 1);
    assert!(
        taken.stderr.contains("409 Conflict: the key \"k\" names operation-1"),
        "{}",
        taken.stderr
    );
    assert_eq!(ask(&head, &["scale", "dp", "2", "--key", "a\nb"]).code, 2);
}

#[test]
fn refusals_are_one_line_and_a_hint() {
    let head = Head::start(ReplicaState::Serving);
    for (command, says, hint) in [
        ("scale dp 0", "nothing would serve", "`--force`"),
        ("restart replica 7", "there is no replica-7", "playhouse status"),
        ("drain node rack-2", "there is no node rack-2", "playhouse status"),
        ("abort 9", "there is no operation-9", "`playhouse operations` lists"),
        ("operations 9", "there is no operation-9", "`playhouse operations` lists"),
        ("operations 9 --watch", "there is no operation-9", "`playhouse operations` lists"),
        ("operations --watch", "no operation is under way", "`playhouse operations` lists"),
    ] {
        let refused = ask(&head, &command.split(' ').collect::<Vec<_>>());
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{command}");
        let lines: Vec<_> = refused.stderr.lines().collect();
        let [first, second] = lines[..] else { panic!("{lines:?}") };
        assert!(first.starts_with("error: ") && first.contains(says), "{first}");
        assert!(second.starts_with("hint: ") && second.contains(hint), "{second}");
    }
    for (command, says) in [
        ("scale tp 0", "tensor_parallel: must be from 1 to 65536, not 0"),
        ("scale dp -1", "not -1"),
        ("drain replica 0 --deadline=-1s", "deadline_seconds: must be from 0 to 86400"),
    ] {
        let refused = ask(&head, &command.split(' ').collect::<Vec<_>>());
        assert_eq!(refused.code, 1, "{command}");
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    assert_eq!(ask(&head, &["scale", "dp", "2"]).code, 0);
    let busy = ask(&head, &["scale", "dp", "3"]);
    assert!(busy.stderr.contains("hint: `playhouse operations 1 --watch`"), "{}", busy.stderr);
    for wrong in
        ["scale", "scale xp 2", "scale dp two", "drain", "drain replica x", "undrain replica 0"]
    {
        assert_eq!(ask(&head, &wrong.split(' ').collect::<Vec<_>>()).code, 2, "{wrong}");
    }
}

/// CH-1, CH-2, FO-2
#[test]
fn waiting_tells_each_step_and_succeeds_only_when_it_is_done() {
    let steps = "operation 1: scale to dp 2\nprepare  replica-1 starts\nswitch   node\\u{1b}[2J\n";
    for (carry_out, code, out, told) in [
        (DONE, 0, "operation 1 is done\n", steps.to_owned()),
        (FAILED, 1, "", format!("{steps}error: operation 1 failed: no device \\u{{1b}}[2J\n")),
        (ABORTED, 1, "", "operation 1: scale to dp 2\nerror: operation 1 was aborted\n".to_owned()),
    ] {
        let head = Head::doing(carry_out);
        let waited = ask(&head, &["scale", "dp", "2", "--wait"]);
        assert_eq!((waited.code, &*waited.stdout, waited.stderr), (code, out, told));
        let watched = ask(&head, &["operations", "1", "--watch"]);
        assert_eq!((watched.code, &*watched.stdout), (code, out), "what has ended is told too");
    }
}

/// FO-1, FO-3
#[test]
fn following_goes_on_behind_a_head_that_was_away() {
    let head = Head::doing(scale_up);
    let (url, address) = (head.url(), head.address);
    let mut child =
        playhouse(&["scale", "dp", "2", "--wait", "--admin", &url, "--admin-token", TOKEN])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
    let mut told = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut until = |text: &str| {
        let found = told.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        assert!(found.is_some(), "{text}");
    };
    until("switch   node");
    let ledger = Arc::clone(&head.ledger);
    drop(head);
    ledger.step(OperationId(1), Phase::Retire, "meanwhile");
    let _head = Head::with(address, ReplicaState::Serving, Arc::clone(&ledger), scale_up);
    until("retire   meanwhile");
    ledger.end(OperationId(1), Phase::Done);
    let rest: Vec<_> = told.map(|line| line.expect("UTF-8")).collect();
    assert_eq!(rest, [""; 0], "no step comes twice");
    let mut out = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("UTF-8");
    assert_eq!(out, "operation 1 is done\n");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn operations_are_a_table_the_newest_first() {
    let head = Head::doing(FAILED);
    assert_eq!(ask(&head, &["operations"]).stdout, "nothing was changed yet\n");
    assert_eq!(ask(&head, &["scale", "dp", "2", "--key", "k"]).code, 0);
    assert_eq!(ask(&head, &["drain", "replica", "0"]).code, 0);
    let list = ask(&head, &["operations"]);
    let lines: Vec<_> = list.stdout.lines().collect();
    let [head_line, second, first] = lines[..] else { panic!("{lines:?}") };
    assert!(head_line.starts_with("ID  STATE"), "{head_line}");
    assert!(second.starts_with("2   failed"), "{second}");
    assert!(first.contains("scale to dp 2: no device \\u{1b}[2J"), "{first}");
    let one = ask(&head, &["operations", "1"]).stdout;
    for part in ["operation 1: scale to dp 2", "key k", "begun", "replica-1 starts", "failed"] {
        assert!(one.contains(part), "{part} in\n{one}");
    }
    assert!(!(list.stdout + &one).contains('\u{1b}'));
    let json = ask(&head, &["operations", "1", "--json"]).stdout;
    let read: view::Operation = serde_json::from_str(&json).expect("JSON");
    assert_eq!((read.id, read.steps.len()), (1, 2));
    let json = ask(&head, &["operations", "--json"]).stdout;
    let read: view::OperationList = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read.operations.len(), 2);
}

#[test]
fn what_is_under_way_is_shown_and_can_be_ended() {
    let head = Head::doing(scale_up);
    assert_eq!(ask(&head, &["drain", "replica", "0"]).code, 0);
    let status = ask(&head, &["status"]).stdout;
    let line = "operation 1, drain replica 0 within 30 s: switch: node\\u{1b}[2J";
    assert_eq!(status.lines().nth(1), Some(line));
    let asked = ask(&head, &["abort", "1"]);
    assert_eq!((asked.code, &*asked.stdout), (0, "operation 1 was asked to end\n"));
    assert!(*head.ledger.aborted(OperationId(1)).expect("known").borrow());
    head.ledger.end(OperationId(1), Phase::Aborted);
    let late = ask(&head, &["abort", "1"]);
    assert_eq!(late.code, 1);
    assert!(late.stderr.contains("operation-1 has ended"), "{}", late.stderr);
}
