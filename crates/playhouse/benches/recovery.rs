//! The cost of a fault: the real cluster under 32 streams, and the delay that its clients see.
//!
//! `cargo bench -p playhouse --bench recovery` prints a table, in milliseconds, within two minutes.
//!
//! - **seen**: from the fault to the first status that shows it.
//! - **gap**: the longest silence between two tokens of a stream, undisturbed and with the fault: the
//!   median of the streams that the fault moves, which are half of them where there are two replicas, and
//!   the longest of all.
//! - **serves**: from the fault until every replica serves again.
//! - **TTFT**: the 99th percentile of short requests to a replica that the fault does not touch, one
//!   every 20 ms for 1.5 s, undisturbed and from the fault on.
//! - **others**: the same of requests that go where the router likes.
//! - **disconnect**: from the moment at which a client disconnects until its blocks are free.
//! - **lost**: streams and short requests that failed, were cut short, or got another token than
//!   undisturbed. Any but 0 is a bug.
//!
//! The last line is the time that a killed head takes from its start to its first answer.
#![allow(clippy::print_stdout, reason = "the table is the product")]

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../../../tests/chaos/rig/rig.rs"]
mod rig;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rig::answer::Answer;
use rig::cluster::{At, Cluster};
use rig::fault::Fault;
use rig::http;
use rig::load::{DEMO, Model, Progress, Request, play};
use rig::patience::{await_for, wait_until};
use rig::verdict::Verdict;
use serde_json::json;
use tokio::time::Instant;

/// The time between two short requests.
const BETWEEN: Duration = Duration::from_millis(10);
/// The time for which short requests are sent, with a fault or without, or until all replicas serve again
/// if that takes longer.
const WINDOW: Duration = Duration::from_millis(1_500);
/// Streams that are longer than that.
const STREAMED: Model = Model { length: 400, ..DEMO };
/// Tokens that the streams have before a fault.
const BEFORE: usize = 250;

/// A cluster, and the faults of it.
struct Row {
    layout: &'static [&'static str],
    /// 0 runs everything in the head.
    nodes: usize,
    fault: Fault,
}

/// The measurements of a fault.
struct Measured {
    seen: Duration,
    /// Of moved streams, the median: undisturbed and with the fault. Of all, the longest.
    gap: [[Duration; 2]; 2],
    serves: Duration,
    /// Of requests to a replica that is not touched, if there is one; and of others.
    ttft: [Option<[Duration; 2]>; 2],
    lost: usize,
}

/// Short requests, and the replicas they go to.
struct Probe {
    api: SocketAddr,
    /// A session of a replica that is not touched: every other request belongs to it.
    session: Option<String>,
}

/// Clients that hang up, one after the other.
const HANG_UPS: usize = 40;

const FIRST: At = At { replica: 0, stage: 0, tensor: 0 };

fn rows() -> [Row; 8] {
    let row = |layout, nodes, fault| Row { layout, nodes, fault };
    // Sessions, because those that are not touched have to stay where they are.
    let dp: &[_] = &["-dp", "2", "--routing-policy", "session"];
    let both: &[_] = &["-tp", "2", "-dp", "2", "--routing-policy", "session"];
    [
        row(dp, 0, Fault::KillShard(FIRST)),
        row(dp, 0, Fault::FreezeShard(FIRST)),
        row(both, 0, Fault::KillReplica(0)),
        row(&["-tp", "2"], 0, Fault::KillShard(FIRST)),
        row(&["-pp", "2"], 0, Fault::KillShard(FIRST)),
        row(both, 2, Fault::KillNode(0)),
        row(both, 2, Fault::StopNode(0)),
        row(both, 2, Fault::FreezeNode(0)),
    ]
}

fn main() {
    let line = |row: [&str; 11]| {
        let [layout, nodes, fault, seen, gap, gap_max, serves, ttft, fault_ttft, others, lost] =
            row;
        println!(
            "{layout:<14}{nodes:>6} {fault:<12}{seen:>7}{gap:>11}{gap_max:>12}{serves:>8}{ttft:>7}\
             {fault_ttft:>7}{others:>14}{lost:>6}"
        );
    };
    line(["", "", "", "", "gap p50", "max", "", "TTFT", "", "others", ""]);
    line(["layout", "nodes", "fault", "seen", "", "", "serves", "calm", "fault", "", "lost"]);
    for row in rows() {
        let Measured { seen, gap, serves, ttft, lost } = measure(&row);
        let fault = format!("{:?}", row.fault);
        let fault = fault.split(['(', ' ']).next().unwrap_or_default();
        let show = |times: Option<[Duration; 2]>| {
            times.map_or(["-".to_owned(), "-".to_owned()], |it| it.map(ms))
        };
        let ([calm, under], others) = (show(ttft[0]), show(ttft[1]).join(" / "));
        let layout = row.layout.split(|word| word.starts_with("--")).next().unwrap_or_default();
        line([
            &layout.join(" "),
            &row.nodes.to_string(),
            fault,
            &ms(seen),
            &gap[0].map(ms).join(" / "),
            &gap[1].map(ms).join(" / "),
            &ms(serves),
            &calm,
            &under,
            &others,
            &lost.to_string(),
        ]);
    }
    let mut free = hang_up();
    free.sort_unstable();
    let (half, last) = (free[HANG_UPS / 2], free[HANG_UPS - 1]);
    println!(
        "a client hangs up: its blocks are free after {} ms (p50), {} ms (max)",
        ms(half),
        ms(last)
    );
    let [taken_over, anew] = [false, true].map(|nodes_too| ms(first_answer(nodes_too)));
    println!(
        "head killed, -tp 2 -dp 2 on 2 nodes, first answer: {taken_over} ms with its ranks taken \
         over, {anew} ms with the nodes restarted"
    );
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

/// Returns how long a killed head takes from its start to its first answer. Its ranks are taken over,
/// unless the nodes were restarted as well.
fn first_answer(nodes_too: bool) -> Duration {
    let mut cluster = Cluster::of_nodes(&DEMO, &["-tp", "2", "-dp", "2"], 2);
    cluster.kill_head();
    if nodes_too {
        (0..2).for_each(|node| Fault::RestartNode(node).strike(&mut cluster));
    }
    let start = Instant::now();
    cluster.start_head();
    let answer = Answer::to(&short(0, None), cluster.api, &Progress::new(1));
    let took = start.elapsed();
    assert_eq!(answer.failure(), None, "{}", cluster.logs());
    cluster.close();
    took
}

fn measure(row: &Row) -> Measured {
    let mut cluster = match row.nodes {
        0 => Cluster::local(&DEMO, row.layout),
        nodes => Cluster::of_nodes(&DEMO, row.layout, nodes),
    };
    let api = cluster.api;
    // Where the nodes are struck, their replica may be the second.
    let touched = usize::from(row.nodes > 0 && cluster.replicas_on(0) == [1]);
    let sessions = [touched, 1 - touched].map(|replica| session_of(&cluster, replica));
    let mut requests = STREAMED.requests(0);
    // Eight, because there are eight kinds of them.
    for (kinds, session) in requests.chunks_mut(8).zip(sessions.iter().cycle()) {
        kinds.iter_mut().for_each(|request| request.session.clone_from(session));
    }
    let [moved, untouched] = sessions;
    let probe = Probe { api, session: untouched };
    let (expected, calm) = play(&requests, api, |progress| {
        progress.wait_for_tokens(BEFORE);
        probe.during(|| await_for(WINDOW, || false)).0
    });
    let (answers, (short, [seen, serves])) = play(&requests, api, |progress| {
        progress.wait_for_tokens(BEFORE);
        probe.during(|| {
            let times = happen(&mut cluster, &row.fault);
            let _ = await_for(WINDOW.saturating_sub(times[1]), || false);
            times
        })
    });
    let verdict = Verdict::of(&requests, &expected, &answers);
    wait_until("nothing is held", || cluster.is_empty());
    cluster.close();
    let all = calm.iter().chain(&short).flatten();
    let unanswered = all.filter(|answer| answer.failure().is_some()).count();
    let Verdict { failed, truncated, differing, .. } = verdict;
    let ttft = |which: usize| Some([slow(&calm[which])?, slow(&short[which])?]);
    let gaps = [expected, answers].map(|answers| gaps(&requests, moved.as_ref(), &answers));
    Measured {
        seen,
        gap: [gaps.map(|[half, _]| half), gaps.map(|[_, longest]| longest)],
        serves,
        ttft: [ttft(0), ttft(1)],
        lost: unanswered + failed.len() + truncated.len() + differing.len(),
    }
}

/// A session whose requests go to a replica, if there are two.
fn session_of(cluster: &Cluster, replica: usize) -> Option<String> {
    if cluster.epochs().len() < 2 {
        return None;
    }
    let generated = || cluster.status()["replicas"][replica]["generated_tokens"].as_u64();
    (0..64).map(|number| format!("session-{number}")).find(|session| {
        let before = generated();
        let request = short(0, Some(session.clone()));
        Answer::to(&request, cluster.api, &Progress::new(1));
        generated() > before
    })
}

/// Returns how long the blocks of clients that disconnect during a stream stay taken.
fn hang_up() -> Vec<Duration> {
    let cluster = Cluster::local(&DEMO, &[]);
    let requests = DEMO.requests(0);
    let leave = |request: &Request| {
        let response = http::send(cluster.api, "POST", request.path, &request.body.to_string());
        let mut response = response.expect("it is answered");
        response.piece().expect("it streams");
        drop(response);
        wait_until("its blocks are free", || cluster.is_empty())
    };
    let times = requests.iter().cycle().take(HANG_UPS).map(leave).collect();
    cluster.close();
    times
}

/// A fault, until it is healed: when it was seen, and when all served again.
fn happen(cluster: &mut Cluster, fault: &Fault) -> [Duration; 2] {
    let before = cluster.epochs();
    let start = Instant::now();
    fault.strike(cluster);
    wait_until("it is seen", || cluster.epochs() != before);
    let seen = start.elapsed();
    fault.heal(cluster);
    wait_until("all serve", || cluster.all_serve());
    [seen, start.elapsed()]
}

// === impl Probe ===

impl Probe {
    /// Sends short requests, each from a thread of its own, for as long as something lasts: answers
    /// of the session, and others.
    fn during<T>(&self, meanwhile: impl FnOnce() -> T) -> ([Vec<Answer>; 2], T) {
        let over = AtomicBool::new(false);
        let api = self.api;
        thread::scope(|scope| {
            let probing = scope.spawn(|| {
                let mut asked = [Vec::new(), Vec::new()];
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let session = self.session.clone().filter(|_| number % 2 == 0);
                    let list = &mut asked[usize::from(session.is_none())];
                    let request = short(number, session);
                    list.push(scope.spawn(move || Answer::to(&request, api, &Progress::new(1))));
                    let _ = await_for(BETWEEN, || false);
                }
                asked.map(|list| {
                    list.into_iter().map(|one| one.join().expect("it reads on")).collect()
                })
            });
            let result = meanwhile();
            over.store(true, Ordering::Relaxed);
            (probing.join().expect("the probe lives"), result)
        })
    }
}

/// A prompt that no replica has cached, for two tokens.
fn short(number: usize, session: Option<String>) -> Request {
    let prompt: Vec<usize> = (0..24).map(|at| 10 + (at * 7 + number * 13) % 240).collect();
    let body =
        json!({ "prompt": prompt, "max_tokens": 2, "stream": true, "return_token_ids": true });
    Request { path: "/v1/completions", body, choices: 1, session }
}

/// Of the streams of a session, the median of their longest silences; and the longest of all.
fn gaps(requests: &[Request], session: Option<&String>, answers: &[Answer]) -> [Duration; 2] {
    let streams = requests.iter().zip(answers);
    let of_session = streams.filter(|(request, _)| request.session.as_ref() == session);
    let mut gaps: Vec<_> = of_session.map(|(_, answer)| answer.timing.gap).collect();
    gaps.sort_unstable();
    let longest = answers.iter().map(|answer| answer.timing.gap).max();
    [gaps[gaps.len() / 2], longest.unwrap_or_default()]
}

/// Returns the 99th percentile of the times to a first token, over the requests that got one.
fn slow(answers: &[Answer]) -> Option<Duration> {
    let mut times: Vec<_> = answers.iter().filter_map(|answer| answer.timing.first).collect();
    times.sort_unstable();
    times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied()
}
