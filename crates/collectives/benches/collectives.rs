//! What moving tensors costs, between two processes on one machine.
//!
//! `cargo bench -p playhouse-collectives` prints a table. The second process is this program again.
//! Bandwidth counts the bytes of the tensor, as copying it once does. `of copy` compares with a copy
//! of memory, beyond the caches, in the same run.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "the table is the product")]

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use half::bf16;
use playhouse_collectives::{AbortHandle, Group, GroupSpec, Member, Secret};

/// Says to the second process that it is one.
const SPEC: &str = "PLAYHOUSE_BENCH_SPEC";

/// One decoded token's activations in a model of 0.5B parameters.
const ROW: usize = 896;
/// 4 MB of bf16.
const LARGE: usize = 2 << 20;
const LARGE_BYTES: f64 = (2 * LARGE) as f64;

/// Operations measured, after as many again of warm-up.
const SHORT_ROUNDS: usize = 20_000;
const LARGE_ROUNDS: usize = 200;

fn main() {
    if let Ok(spec) = std::env::var(SPEC) {
        let spec: GroupSpec = serde_json::from_str(&spec).unwrap();
        let group = Group::join(&spec, 1, None, &AbortHandle::new()).unwrap();
        measure(&group);
        return;
    }
    let (copy_cached, copy) = (copy(LARGE, LARGE_ROUNDS), copy_beyond_caches());
    println!("two processes; microseconds, and GB/s of tensor bytes at the p50\n");
    println!("{:<34} {:>8} {:>8} {:>8} {:>7} {:>8}", "", "p50", "p90", "p99", "GB/s", "of copy");
    print("copy 4 MB, in cache", &copy_cached, Some(&copy));
    print("copy 4 MB, beyond caches", &copy, Some(&copy));
    for (way, machines) in [("shared memory", ["a", "a"]), ("TCP loopback", ["a", "b"])] {
        let spec = spec(machines);
        let mut second = second(&spec);
        let group = Group::join(&spec, 0, None, &AbortHandle::new()).unwrap();
        for (name, times) in measure(&group) {
            let is_large = name.ends_with("MB");
            print(&format!("{name}, {way}"), &times, is_large.then_some(&copy));
        }
        drop(group);
        assert!(second.wait().unwrap().success());
    }
}

fn spec(machines: [&str; 2]) -> GroupSpec {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let members = machines.iter().zip(&listeners).map(|(machine, listener)| Member {
        machine: (*machine).to_owned(),
        address: Some(listener.local_addr().unwrap()),
    });
    GroupSpec {
        group: format!("bench-{}", std::process::id()),
        epoch: 1,
        secret: Secret([1; 32]),
        members: members.collect(),
        timeout: Duration::from_secs(60),
        buffer_bytes: GroupSpec::collective_buffer_bytes(2),
    }
}

fn second(spec: &GroupSpec) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(SPEC, serde_json::to_string(spec).unwrap()).spawn().unwrap()
}

/// What both ranks do, and how long each operation took this one.
fn measure(group: &Group) -> [(&'static str, Vec<Duration>); 4] {
    [
        ("all_reduce 896 bf16", all_reduce(group, ROW, SHORT_ROUNDS)),
        ("all_reduce 4 MB", all_reduce(group, LARGE, LARGE_ROUNDS)),
        ("send and recv 896 bf16", send(group, ROW, SHORT_ROUNDS)),
        ("send and recv 4 MB", send(group, LARGE, LARGE_ROUNDS)),
    ]
}

fn all_reduce(group: &Group, len: usize, rounds: usize) -> Vec<Duration> {
    let input = vec![bf16::ONE; len];
    let mut output = vec![bf16::ZERO; len];
    times(rounds, || group.all_reduce(&input, &mut output).unwrap())
}

/// One way: half of there and back.
fn send(group: &Group, len: usize, rounds: usize) -> Vec<Duration> {
    let mut data = vec![bf16::ONE; len];
    let there_and_back = times(rounds, || {
        let other = 1 - group.rank();
        if group.rank() == 0 {
            group.send(&data, other).unwrap();
            group.recv(&mut data, other).unwrap();
        } else {
            group.recv(&mut data, other).unwrap();
            group.send(&data, other).unwrap();
        }
    });
    there_and_back.into_iter().map(|time| time / 2).collect()
}

/// Copies of `len` elements.
fn copy(len: usize, rounds: usize) -> Vec<Duration> {
    let input = vec![bf16::ONE; len];
    let mut output = vec![bf16::ZERO; len];
    times(rounds, || {
        output.copy_from_slice(std::hint::black_box(&input));
        std::hint::black_box(&mut output);
    })
}

/// The time of 4 MB within copies of 256 MB.
fn copy_beyond_caches() -> Vec<Duration> {
    copy(64 * LARGE, 5).into_iter().map(|time| time / 64).collect()
}

/// Sorted.
fn times(rounds: usize, mut act: impl FnMut()) -> Vec<Duration> {
    let mut time = |_| {
        let start = Instant::now();
        act();
        start.elapsed()
    };
    for round in 0..rounds {
        time(round);
    }
    let mut times: Vec<_> = (0..rounds).map(time).collect();
    times.sort_unstable();
    times
}

fn print(name: &str, times: &[Duration], copy: Option<&Vec<Duration>>) {
    let at = |times: &[Duration], share: f64| {
        times[((times.len() - 1) as f64 * share) as usize].as_secs_f64()
    };
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| at(times, share) * 1e6);
    print!("{name:<34} {p50:>8.1} {p90:>8.1} {p99:>8.1}");
    match copy {
        Some(copy) => {
            let (speed, share) = (LARGE_BYTES / p50 / 1e3, at(copy, 0.5) * 1e6 / p50);
            println!(" {speed:>7.2} {:>7.0}%", share * 100.0);
        }
        None => println!(),
    }
}
