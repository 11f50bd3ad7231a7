//! What a plan costs: 1,024 ranks from spec to JSON, and a recommendation.
//!
//! `cargo bench -p playhouse-planner` prints a table. Planning is pure, so the least of several runs
//! is the planner's own time, whatever else the machine was doing.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use playhouse_layout::{CrossDomain, ModelShape};
use playhouse_planner::{Goal, Hardware, Plan, Serving, Wish, recommend};
use playhouse_types::{ExpertBalance, ExpertParallel, ParallelSpec};

const RUNS: usize = 20;

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

/// Prints the least and the median time of some runs, in milliseconds.
fn measure(name: &str, runs: usize, mut run: impl FnMut() -> usize) {
    let mut size = 0;
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            size = run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<66} {:>8.2} {:>8.2} {size:>9}", times[0], times[runs / 2]);
}

fn main() {
    println!("{:<66} {:>8} {:>8} {:>9}", "milliseconds", "least", "median", "size");
    let dense = ParallelSpec { tensor: 8, pipeline: 4, data: 32, ..ParallelSpec::default() };
    let routed = ParallelSpec {
        tensor: 8,
        pipeline: 2,
        data: 64,
        expert: ExpertParallel::AcrossReplicas,
        redundant_experts: 256,
        expert_balance: Some(ExpertBalance::default()),
        ..ParallelSpec::default()
    };
    let hardware = Hardware::parse("128x8xH200").expect("hardware");
    for (name, spec, model) in [
        ("Llama-3.1-70B, TP 8 × PP 4 × DP 32", dense, "llama-3.1-70b.json"),
        ("DeepSeek-V3, TP 8 × PP 2 × DP 64, EP 512", routed, "deepseek-v3.json"),
    ] {
        let shape = shape(model);
        let plan = || {
            Plan::new(&spec, &shape, Some(&hardware), &Serving::default(), CrossDomain::Warn)
                .expect("a plan")
        };
        measure(&format!("1,024 ranks, {name}: plan"), RUNS, || plan().ranks.len());
        measure("  plan and JSON, bytes", RUNS, || plan().to_json().len());
        let made = plan();
        measure("  table, bytes", RUNS, || made.to_string().len());
        measure("  picture, bytes", RUNS, || made.to_svg().len());
    }
    let shape = shape("deepseek-v3.json");
    for text in ["2x8xH200", "8x8xH200", "128x8xH200"] {
        let hardware = Hardware::parse(text).expect(text);
        let wish = Wish::new(Goal::Throughput, None);
        measure(&format!("recommend DeepSeek-V3 on {text}, layouts"), 3, || {
            recommend(&shape, &hardware, &wish).candidates
        });
    }
}
