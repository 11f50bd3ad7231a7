//! Ranks that are processes. The second process is this test binary again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use half::bf16;
use playhouse_collectives::{AbortHandle, CollectiveError, Group, GroupSpec};

use crate::ranks::{Moment, NaiveSum as _, PATIENCE, Value as _, blank, cast, layouts, values};

const SPEC: &str = "PLAYHOUSE_TEST_SPEC";
const RANK: &str = "PLAYHOUSE_TEST_RANK";
const LEN: usize = 40_009;

/// A rank in a process of its own.
pub(crate) struct Rank {
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Rank {
    pub(crate) fn spawn(spec: &GroupSpec, rank: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--ignored", "--nocapture"])
            .env(SPEC, serde_json::to_string(spec).unwrap())
            .env(RANK, rank.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The rest of the next line that begins with `word`.
    fn says(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the rank ended without {word}");
    }

    pub(crate) fn ends_well(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn sum(group: &Group) -> Result<Vec<bf16>, CollectiveError> {
    let mut output = blank::<bf16>(LEN);
    group.all_reduce(&values::<bf16>(group.rank(), LEN), &mut output).map(|()| output)
}

fn bits(values: &[bf16]) -> u64 {
    values.iter().fold(0, |hash: u64, value| {
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3)
    })
}

/// Sums until its input ends.
#[test]
#[ignore = "a process that other tests start"]
fn child() {
    let Ok(spec) = std::env::var(SPEC) else { return };
    let spec: GroupSpec = serde_json::from_str(&spec).unwrap();
    let rank = std::env::var(RANK).unwrap().parse().unwrap();
    let group = Group::join(&spec, rank, None, &AbortHandle::new()).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let named =
        maps.lines().filter(|map| map.contains("/playhouse-") && !map.ends_with("(deleted)"));
    println!("\nnamed {}", named.count());
    println!("sum {:016x}", bits(&sum(&group).unwrap()));
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (mut data, to) = (blank::<bf16>(LEN), (rank + 1) % group.size());
    match line.trim() {
        "recv" => println!("error {}", group.recv(&mut data, to).unwrap_err()),
        "barrier" => group.barrier().unwrap(),
        _ => {}
    }
}

/// **CO-1**, and **SG-1**: no process has a name for the memory once all have joined.
#[test]
fn processes_agree_and_leave_no_name_behind() {
    for machines in layouts(4) {
        let spec = cast(&machines).spec;
        let mut ranks: Vec<_> = (1..4).map(|rank| Rank::spawn(&spec, rank)).collect();
        let group = Group::join(&spec, 0, None, &AbortHandle::new()).unwrap();
        let expected: Vec<_> = (0..LEN)
            .map(|index| bf16::naive_sum((0..4).map(|rank| bf16::value(rank, index))))
            .collect();
        assert_eq!(sum(&group).unwrap(), expected);
        for rank in &mut ranks {
            assert_eq!(rank.says("named "), "0");
            assert_eq!(rank.says("sum "), format!("{:016x}", bits(&expected)), "{machines:?}");
        }
        ranks.into_iter().for_each(Rank::ends_well);
    }
}

/// **CO-2**: long before the timeout.
#[test]
fn a_killed_process_is_lost_to_everybody_who_waits() {
    for machines in layouts(3) {
        let mut cast = cast(&machines);
        cast.spec.timeout = 10 * PATIENCE;
        let spec = cast.spec;
        drop(cast.listeners);
        let mut ranks: Vec<_> = (1..3).map(|rank| Rank::spawn(&spec, rank)).collect();
        let group = Group::join(&spec, 0, None, &AbortHandle::new()).unwrap();
        sum(&group).unwrap();
        ranks.iter_mut().for_each(|rank| drop(rank.says("sum ")));
        let [waiter, victim] = ranks.as_mut_slice() else { unreachable!() };
        writeln!(waiter.child.stdin.as_ref().unwrap(), "recv").unwrap();
        std::thread::scope(|scope| {
            let wait = scope.spawn(|| group.barrier());
            victim.child.kill().unwrap();
            victim.child.wait().unwrap();
            let killed = Moment::now();
            let lost = CollectiveError::PeerLost { rank: 2 };
            assert_eq!(wait.join().unwrap(), Err(lost.clone()), "{machines:?}");
            assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
            assert_eq!(waiter.says("error "), lost.to_string());
        });
        ranks.remove(0).ends_well();
    }
}
