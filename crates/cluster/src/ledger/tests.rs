//! **LED-1** to **LED-5**, **LED-7**.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use playhouse_types::ParallelSpec;

use super::folder::Folder;
use super::*;
use crate::operation::OperationStep;

fn scale(replicas: u32) -> Change {
    Change::Deployment { replicas: Some(replicas), layout: None, force: false }
}

fn desired(replicas: u32) -> Desired {
    Desired { replicas, layout: ParallelSpec { tensor: 2, pipeline: 1, ..ParallelSpec::default() } }
}

fn begin(ledger: &Ledger, replicas: u32, key: Option<&str>) -> Result<Begun, Refused> {
    let aims = (desired(replicas), ledger.drained());
    ledger.begin(scale(replicas), key.map(str::to_owned), aims, SystemTime::now())
}

fn new(ledger: &Ledger, replicas: u32) -> OperationId {
    match begin(ledger, replicas, None) {
        Ok(Begun::New(operation)) => operation.id,
        other => panic!("{other:?}"),
    }
}

fn failed(reason: &str) -> Phase {
    Phase::Failed { reason: reason.to_owned() }
}

/// LED-6
#[test]
fn the_nodes_of_a_damaged_journal_are_not_believed() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(folder.path()).expect("a new folder");
    for hosts in [&["a"][..], &["a", "b"]] {
        ledger.set_hosts(hosts.iter().map(ToString::to_string).collect()).expect("there is room");
    }
    let asked = new(&ledger, 2);
    ledger.end(asked, Phase::Done);
    drop(ledger);
    let path = folder.path().join("journal");
    let (ledger, _) = Ledger::open(folder.path()).expect("it opens");
    assert_eq!(ledger.hosts(), Some(["a", "b"].map(str::to_owned).into()));
    drop(ledger);
    let length = fs::metadata(&path).expect("a journal").len();
    let file = fs::OpenOptions::new().write(true).open(&path).expect("a journal");
    file.set_len(length - 3).expect("it is cut");
    for _ in 0..2 {
        let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
        assert_eq!((ledger.hosts(), recovered.desired), (None, Some(desired(2))));
    }
}

/// LED-7
#[test]
fn a_deleted_journal_is_written_anew_by_the_next_change() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(folder.path()).expect("a new folder");
    let first = new(&ledger, 2);
    ledger.end(first, Phase::Done);
    fs::remove_file(folder.path().join("journal")).expect("it is there");
    let second = new(&ledger, 3);
    ledger.end(second, Phase::Done);
    fs::remove_file(folder.path().join("journal")).expect("it is there again");
    ledger.set_hosts(["a".to_owned()].into()).expect("there is room");
    drop(ledger);
    let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
    assert_eq!(recovered.desired, Some(desired(3)));
    assert_eq!(ledger.hosts(), Some(["a".to_owned()].into()));
    let known: Vec<_> = ledger.operations().iter().map(|operation| operation.id).collect();
    assert_eq!(known, [first, second]);
}

/// LED-7
#[test]
fn without_its_folder_a_journal_refuses_changes() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(folder.path()).expect("a new folder");
    fs::remove_dir_all(folder.path()).expect("it is there");
    for _ in 0..2 {
        let refused = begin(&ledger, 2, None);
        assert!(
            matches!(&refused, Err(Refused::Journal(why)) if why.contains("deleted")),
            "{refused:?}"
        );
    }
    assert_eq!(ledger.running(), None);
}

/// LED-1
#[test]
fn one_operation_at_a_time() {
    let ledger = Ledger::in_memory();
    let running = new(&ledger, 2);
    assert_eq!(begin(&ledger, 3, None), Err(Refused::Busy { running }));
    assert_eq!(begin(&ledger, 2, None), Err(Refused::Busy { running }), "without a key it is new");
    assert_eq!(ledger.running(), Some(running));
    ledger.end(running, Phase::Done);
    assert_eq!(ledger.running(), None);
    assert_eq!(new(&ledger, 3), OperationId(2));
}

/// LED-1
#[test]
fn a_key_names_one_change() {
    let ledger = Ledger::in_memory();
    let Ok(Begun::New(first)) = begin(&ledger, 2, Some("a")) else { panic!("nothing else runs") };
    let taken = Refused::KeyTaken { key: "a".to_owned(), operation: first.id };
    assert_eq!(begin(&ledger, 2, Some("a")), Ok(Begun::Known(first.clone())));
    assert_eq!(begin(&ledger, 3, Some("a")), Err(taken.clone()));
    assert_eq!(begin(&ledger, 3, Some("b")), Err(Refused::Busy { running: first.id }));
    ledger.end(first.id, Phase::Done);
    let Ok(Begun::Known(again)) = begin(&ledger, 2, Some("a")) else { panic!("it is known") };
    assert_eq!((again.id, again.phase), (first.id, Phase::Done));
    assert_eq!(begin(&ledger, 3, Some("a")), Err(taken));
    for key in ["", &"k".repeat(Ledger::KEY_BYTES_MAX + 1)] {
        assert!(matches!(begin(&ledger, 2, Some(key)), Err(Refused::Invalid(_))), "{key}");
    }
}

#[test]
fn the_last_ended_ones_are_kept() {
    let ledger = Ledger::in_memory();
    let count = Ledger::ENDED_MAX as u64 + 5;
    for _ in 0..count {
        ledger.end(new(&ledger, 2), Phase::Done);
    }
    let running = new(&ledger, 2);
    let known: Vec<_> = ledger.operations().iter().map(|operation| operation.id.0).collect();
    assert_eq!(known, (6..=count + 1).collect::<Vec<_>>());
    assert!(ledger.watch(OperationId(5)).is_none() && ledger.watch(running).is_some());
}

/// LED-5
#[test]
fn steps_have_growing_times_and_the_oldest_go_first() {
    let ledger = Ledger::in_memory();
    let id = new(&ledger, 2);
    let watch = ledger.watch(id).expect("it is known");
    for number in 0..=Operation::STEPS_MAX {
        ledger.step(id, Phase::Prepare, &format!("{number}{}", "é".repeat(2000)));
    }
    ledger.end(id, failed(&"é".repeat(2000)));
    ledger.step(id, Phase::Retire, "too late");
    ledger.end(id, Phase::Done);
    let operation = watch.borrow().clone();
    assert_eq!(operation.steps.len(), Operation::STEPS_MAX);
    assert!(operation.steps[0].text.starts_with("1é"), "{}", operation.steps[0].text);
    assert!(operation.steps.iter().all(|step| step.text.len() <= Ledger::TEXT_BYTES_MAX));
    assert!(operation.steps.windows(2).all(|pair| pair[0].at < pair[1].at));
    assert!(operation.ended > operation.steps.last().map(|step| step.at));
    assert_eq!(operation.phase, failed(&"é".repeat(Ledger::TEXT_BYTES_MAX / 2)));
}

#[test]
fn only_an_end_ends_an_operation() {
    let ledger = Ledger::in_memory();
    let id = new(&ledger, 2);
    ledger.step(id, Phase::Done, "nearly");
    assert_eq!(ledger.running(), Some(id));
    ledger.step(OperationId(9), Phase::Plan, "nobody");
    ledger.end(OperationId(9), Phase::Done);
    assert_eq!(ledger.operations().len(), 1);
}

#[tokio::test]
async fn aborting_is_asked_for_once_and_seen() {
    let ledger = Ledger::in_memory();
    assert_eq!(ledger.abort(OperationId(1)), Err(Refused::NoOperation(OperationId(1))));
    let id = new(&ledger, 2);
    let mut aborted = ledger.aborted(id).expect("it is known");
    assert!(!*aborted.borrow());
    let told = ledger.abort(id).expect("it is under way");
    assert_eq!(ledger.abort(id).expect("still").steps, told.steps, "one step says it");
    aborted.wait_for(|aborted| *aborted).await.expect("the ledger lives");
    assert_eq!(ledger.running(), Some(id), "it is the reconciler that ends it");
    ledger.end(id, Phase::Aborted);
    assert_eq!(ledger.abort(id), Err(Refused::Ended(id)));
}

/// LED-3, LED-4
#[test]
fn everything_but_what_was_under_way_survives_a_restart() {
    let folder = Folder::new();
    let (ledger, recovered) = Ledger::open(folder.path()).expect("a new journal");
    assert_eq!(recovered, Recovered::default());
    let drained = Drained {
        nodes: ["rack-1".to_owned()].into(),
        replicas: [ReplicaId(3)].into(),
        removed: ["rack-2".to_owned()].into(),
    };
    ledger.set_desired(desired(4)).expect("there is room");
    ledger.set_drained(drained.clone()).expect("there is room");
    let Ok(Begun::New(done)) = begin(&ledger, 2, Some("k")) else { panic!("nothing runs") };
    ledger.step(done.id, Phase::Prepare, "replica-1 starts");
    ledger.end(done.id, Phase::Done);
    let interrupted = new(&ledger, 5);
    let before = ledger.operations();
    drop(ledger);

    let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
    assert!(ledger.is_durable());
    assert_eq!(recovered.desired, Some(desired(5)), "what the last operation leads to");
    assert_eq!(recovered.drained, drained);
    assert_eq!(recovered.interrupted, Some(interrupted));
    let after = ledger.operations();
    assert_eq!(after[0], before[0], "with its steps");
    assert_eq!(after[1].phase, failed("the head was restarted"));
    assert!(matches!(begin(&ledger, 2, Some("k")), Ok(Begun::Known(_))), "LED-1");
    drop(ledger);
    let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
    assert_eq!(recovered.interrupted, None, "that it failed is written");
    assert_eq!(new(&ledger, 2), OperationId(3));
}

/// LED-3, LED-4
#[test]
fn a_shortened_journal_says_the_same() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(folder.path()).expect("a new journal");
    ledger.set_desired(desired(4)).expect("there is room");
    let length = || fs::metadata(folder.path().join("journal")).expect("it is there").len();
    let (mut rounds, mut longest) = (0_u64, 0);
    while length() >= longest || rounds < 2 * Ledger::ENDED_MAX as u64 {
        longest = length();
        let id = new(&ledger, 2);
        for _ in 0..8 {
            ledger.step(id, Phase::Prepare, &"x".repeat(1000));
        }
        ledger.end(id, Phase::Done);
        rounds += 1;
        assert!(longest < 8 << 20, "it is never shortened");
    }
    let before = ledger.operations();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
    assert_eq!((recovered.desired, recovered.interrupted), (Some(desired(2)), None));
    assert_eq!(ledger.operations(), before);
    assert_eq!(new(&ledger, 2), OperationId(rounds + 1));
}

/// LED-3: a record of a later version is not skipped, because its meaning is not known.
#[test]
fn an_unknown_record_is_refused() {
    let folder = Folder::new();
    let (mut journal, _) = Journal::open(folder.path()).expect("a new journal");
    journal.append(&[br#"{"moved":1}"#]).expect("there is room");
    drop(journal);
    let refused = Ledger::open(folder.path()).expect_err("it is unknown").to_string();
    assert!(refused.contains("record 0: unknown variant `moved`"), "{refused}");
}

/// The journal is read by later versions: this is how it is written. A change here is a change of
/// the format.
#[test]
fn records_are_written_like_this() {
    let at = UNIX_EPOCH + Duration::from_micros(1_500_000);
    let operation = Operation {
        id: OperationId(7),
        key: None,
        change: Change::DrainReplica {
            replica: ReplicaId(1),
            deadline: Duration::from_secs(30),
            force: false,
        },
        phase: failed("no device"),
        steps: vec![OperationStep { at, phase: Phase::Plan, text: "planned".to_owned() }],
        started: at,
        ended: Some(at),
    };
    let time = r#"{"secs_since_epoch":1,"nanos_since_epoch":500000000}"#;
    let expected = format!(
        r#"{{"ended":{{"id":7,"key":null,"change":{{"drain_replica":{{"replica":1,"deadline":{{"secs":30,"nanos":0}},"force":false}}}},"phase":{{"failed":{{"reason":"no device"}}}},"steps":[{{"at":{time},"phase":"plan","text":"planned"}}],"started":{time},"ended":{time}}}}}"#
    );
    let encoded = Record::Ended(operation.clone()).encode();
    assert_eq!(String::from_utf8_lossy(&encoded), expected);
    assert_eq!(Record::decode(&encoded).expect("it reads"), Record::Ended(operation));
    let desired = Record::Desired(desired(2)).encode();
    let expected = r#"{"desired":{"replicas":2,"layout":{"tensor":2,"pipeline":1,"#;
    let desired = String::from_utf8_lossy(&desired);
    assert!(desired.starts_with(expected), "{desired}");
}

/// **LED-3**, and **J-7** of `journal`: what a head wrote that knew stages and tensor ranks alone.
#[test]
fn a_journal_of_version_1_is_taken_over() {
    let folder = Folder::new();
    let path = folder.path().join("journal");
    fs::create_dir_all(folder.path()).expect("writable");
    let written = include_bytes!("version-1.journal");
    fs::write(&path, written).expect("writable");
    for turn in 0..2 {
        let (ledger, recovered) = Ledger::open(folder.path()).expect("it is read");
        assert_eq!(recovered.desired, Some(desired(2)), "turn {turn}");
        assert_eq!(recovered.interrupted, None);
        let known = ledger.known(&scale(2), Some("first")).expect("it is the same");
        assert_eq!(known.expect("it is kept").id, OperationId(1));
        let operations = ledger.operations();
        let layouts = operations.iter().map(|operation| match &operation.change {
            Change::Deployment { layout, .. } => layout.as_ref().map(|layout| layout.tensor),
            other => panic!("{other:?}"),
        });
        assert_eq!(layouts.collect::<Vec<_>>(), [None, Some(2)]);
        let now = fs::read(&path).expect("it is there");
        assert!(now.starts_with(b"PLAYJNL2"), "it is of this version");
        assert_eq!(now[8..], written[8..], "with the same records");
    }
    let (ledger, _) = Ledger::open(folder.path()).expect("it is read");
    ledger.end(new(&ledger, 3), Phase::Done);
    drop(ledger);
    let (_, recovered) = Ledger::open(folder.path()).expect("it is read");
    assert_eq!(recovered.desired, Some(desired(3)));
}

/// Says to the test below that it is the process whose files cannot grow.
const LIMITED: &str = "PLAYHOUSE_TEST_FILES_CANNOT_GROW";

/// LED-2, and J-4 of the journal: run again as a process of its own, whose files cannot grow beyond
/// 8 KiB until it lifts that limit.
#[test]
fn a_full_disk_refuses_changes_until_there_is_room() {
    if std::env::var_os(LIMITED).is_some() {
        return on_a_full_disk();
    }
    let me = std::env::current_exe().expect("this program has a path");
    let name = "ledger::tests::a_full_disk_refuses_changes_until_there_is_room";
    // Without the trap the limit is a signal, and not an error like that of a full disk.
    let limited = "trap '' XFSZ; ulimit -S -f 16; exec \"$0\" \"$@\"";
    let ran = std::process::Command::new("sh")
        .args(["-c", limited])
        .arg(me)
        .args(["--exact", name, "--test-threads=1"])
        .env(LIMITED, "1")
        .output()
        .expect("a shell");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && out.contains("1 passed"), "{out}");
}

/// How long files may become: as long as the system lets them, if no length is given.
fn limit_files(length: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: length.or(maximum), maximum };
    setrlimit(Resource::Fsize, limit).expect("up to the hard limit it is ours to change");
}

fn on_a_full_disk() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(folder.path()).expect("a new journal");
    ledger.set_desired(desired(2)).expect("there is room");
    let id = new(&ledger, 2);
    for _ in 0..10 {
        ledger.step(id, Phase::Prepare, &"x".repeat(1000));
    }
    // Its end does not fit: it has ended all the same.
    ledger.end(id, Phase::Done);
    assert_eq!(ledger.running(), None);
    for _ in 0..2 {
        let refused = begin(&ledger, 3, None).expect_err("the end is still to be written");
        assert!(
            matches!(&refused, Refused::Journal(why) if why.contains("too large")),
            "{refused}"
        );
        assert!(ledger.set_desired(desired(3)).is_err());
    }
    assert_eq!((ledger.desired(), ledger.operations().len()), (Some(desired(2)), 1));

    limit_files(None);
    ledger.set_desired(desired(3)).expect("there is room again");
    assert_eq!(new(&ledger, 3), OperationId(2));
    let before = ledger.operations();
    drop(ledger);
    let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
    assert_eq!(
        (recovered.desired, recovered.interrupted),
        (Some(desired(3)), Some(OperationId(2)))
    );
    assert_eq!(ledger.operations()[0], before[0], "the end was written, with its steps");
    a_refused_change_leaves_its_key();
}

/// LED-2: wherever in what is to be written the room ends, nothing of it remains.
fn a_refused_change_leaves_its_key() {
    let mut refused = 0;
    for room in (0..).step_by(32) {
        let folder = Folder::new();
        let (ledger, _) = Ledger::open(folder.path()).expect("a new journal");
        ledger.set_desired(desired(2)).expect("there is room");
        let length = fs::metadata(folder.path().join("journal")).expect("it is there").len();
        limit_files(Some(length + room));
        let asked = begin(&ledger, 3, Some("k"));
        limit_files(None);
        match asked {
            Err(Refused::Journal(_)) => refused += 1,
            other => {
                assert!(matches!(other, Ok(Begun::New(_))), "{other:?}");
                break;
            }
        }
        assert_eq!((ledger.desired(), ledger.operations().len()), (Some(desired(2)), 0));
        drop(ledger);
        let (ledger, recovered) = Ledger::open(folder.path()).expect("it opens");
        let left = Recovered { desired: Some(desired(2)), ..Recovered::default() };
        assert_eq!(recovered, left, "with {room} bytes of room");
        let again = begin(&ledger, 4, Some("k"));
        assert!(matches!(again, Ok(Begun::New(_))), "with {room} bytes of room: {again:?}");
    }
    assert!(refused > 3, "the room ended in each of three records, and {refused} times in all");
}
