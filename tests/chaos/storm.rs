//! A storm: faults drawn by a seed, one after the other and across each other, under a load that
//! does not end.
//!
//! It blows for half a minute. `PLAYHOUSE_CHAOS_MINUTES=30` makes it longer, and `PLAYHOUSE_CHAOS_SEED` draws
//! the faults of an earlier storm again: the seed is printed.

mod budget;
mod forecast;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::rig::answer::Answer;
use crate::rig::checkpoint::Checkpoint;
use crate::rig::cluster::Cluster;
use crate::rig::http;
use crate::rig::load::{DEMO, Model, Progress, Request, STREAMS, play};
use crate::rig::patience::{await_for, wait_until};
use crate::rig::verdict::Verdict;
use budget::Budget;
use forecast::{Deed, Forecast};

/// What the head may occupy more in the end than in the beginning: buffers of more streams ...
const GROWTH_KIB: u64 = 32 << 10;
/// ... and what fragments in each minute.
const GROWTH_KIB_PER_MINUTE: u64 = 1 << 10;

/// Of a storm for each change.
const SHORT: Duration = Duration::from_secs(30);

/// Every so many-th client hangs up after its first tokens, which frees its blocks (**G5**).
const RUDE: usize = 9;

/// Three machines with two devices each, so that one may be gone.
const LAYOUT: [&str; 4] = ["-tp", "2", "-dp", "2"];
pub(crate) const REPLICAS: usize = 2;
pub(crate) const SHARDS: usize = 2;
pub(crate) const NODES: usize = 3;

/// **G1**, **G2**, **G5**: whatever happens, nobody notices, nothing is left, nothing grows.
#[test]
fn nobody_notices_a_storm() {
    let (seed, length) = (seed(), length());
    say(&format!("a storm of {length:?}; PLAYHOUSE_CHAOS_SEED={seed} draws it again"));
    let checkpoint = Checkpoint::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/checkpoint"));
    let model = Model { folder: Some(checkpoint.folder()), ..DEMO };
    let cluster = Cluster::of_nodes(&model, &LAYOUT, NODES);
    let mut cluster = cluster.with_checkpoint(checkpoint);
    let requests = model.requests(0);
    let (expected, ()) = play(&requests, cluster.api, |_| ());

    let over = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let api = cluster.api;
    let (verdict, memory) = thread::scope(|scope| {
        let ask = || {
            let mut verdict = Verdict::default();
            while !over.load(Ordering::Relaxed) {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let index = number % requests.len();
                if number.is_multiple_of(RUDE) {
                    leave_early(&requests[index], api);
                    continue;
                }
                let answer = Answer::to(&requests[index], api, &Progress::new(1));
                verdict.add(&requests[index], &expected[index], &answer);
            }
            verdict
        };
        let clients: Vec<_> = (0..STREAMS).map(|_| scope.spawn(ask)).collect();
        let memory = weather(&mut cluster, Forecast::new(seed, length), length);
        over.store(true, Ordering::Relaxed);
        let mut verdict = Verdict::default();
        clients.into_iter().for_each(|client| verdict.join(client.join().expect("it reads on")));
        (verdict, memory)
    });
    say(&format!("{verdict}epochs {:?}", cluster.epochs()));
    assert!(verdict.is_clean(), "seed {seed}: {verdict}{}", cluster.logs());
    assert!(verdict.asked > STREAMS, "{verdict}");
    wait_until("all replicas serve", || cluster.all_serve());
    wait_until("nothing is held", || cluster.is_empty());
    does_not_grow(&memory, length);
    still_answers(&cluster, &requests, &expected);
    cluster.close();
}

/// Lets the forecast come true, as far as the cluster has to stand it; memory of the head on the way,
/// in KiB.
fn weather(cluster: &mut Cluster, forecast: Forecast, length: Duration) -> Vec<u64> {
    let begin = Instant::now();
    let mut budget = Budget::new(cluster);
    let (mut memory, mut struck) = (Vec::new(), Vec::new());
    for (at, deed) in forecast.deeds {
        watch(cluster, begin, at, &mut memory);
        let time = begin.elapsed().as_secs_f64();
        budget.look(cluster);
        match deed {
            Deed::Strike(fault) if budget.takes(&fault, cluster) => {
                say(&format!("{time:6.2} s  {fault:?}"));
                fault.strike(cluster);
                struck.push(fault);
            }
            Deed::Strike(fault) => say(&format!("{time:6.2} s  not yet again: {fault:?}")),
            Deed::Heal(fault) => {
                let at = struck.iter().position(|other| *other == fault);
                let Some(at) = at else { continue };
                struck.swap_remove(at).heal(cluster);
            }
        }
    }
    watch(cluster, begin, length, &mut memory);
    memory
}

/// Reads the memory of the head once a second until so long after the beginning.
fn watch(cluster: &Cluster, begin: Instant, until: Duration, memory: &mut Vec<u64>) {
    let over = || begin.elapsed() >= until;
    while !over() {
        if memory.len() as u64 <= begin.elapsed().as_secs() {
            memory.push(cluster.resident_kib());
        }
        // Its limit is the next reading.
        let _ = await_for(Duration::from_secs(1), over);
    }
}

fn leave_early(request: &Request, api: SocketAddr) {
    let response = http::send(api, "POST", request.path, &request.body.to_string());
    let piece = response.and_then(|mut response| response.piece());
    assert!(piece.is_ok_and(|piece| piece.is_some()), "a stream begins");
}

fn does_not_grow(memory: &[u64], length: Duration) {
    // A minute at each end, or what there is of it.
    let some = memory.len().div_ceil(4).min(60);
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len().max(1) as u64;
    let (first, last) = (mean(&memory[..some]), mean(&memory[memory.len() - some..]));
    let minutes = length.as_secs() / 60;
    say(&format!("the head occupied {first} KiB at first and {last} KiB in the end"));
    let limit = first + GROWTH_KIB + minutes * GROWTH_KIB_PER_MINUTE;
    assert!(last <= limit, "from {first} KiB to {last} KiB; {limit} KiB are allowed");
}

fn still_answers(cluster: &Cluster, requests: &[Request], expected: &[Answer]) {
    let (answers, ()) = play(requests, cluster.api, |_| ());
    let verdict = Verdict::of(requests, expected, &answers);
    assert!(verdict.is_clean(), "afterwards: {verdict}{}", cluster.logs());
}

fn seed() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    setting("PLAYHOUSE_CHAOS_SEED").unwrap_or(now.as_secs())
}

fn length() -> Duration {
    setting("PLAYHOUSE_CHAOS_MINUTES").map_or(SHORT, |minutes| Duration::from_secs(60 * minutes))
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|why| panic!("{name}={text}: {why}; give a whole number")))
}

/// Past the capture of the test harness: whoever sees it fail in CI needs the seed.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "storm: {line}"));
}
