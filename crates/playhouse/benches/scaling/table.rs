//! The measurements as a table, and the machine they are of.

use std::fs;
use std::thread::available_parallelism;

use playhouse_ops::Isa;

use crate::server::Measured;
use crate::{COMPARISONS, Comparison};

/// One server under one load.
pub(crate) struct Cell {
    pub(crate) turn: usize,
    /// An index.
    pub(crate) comparison: usize,
    pub(crate) layout: &'static str,
    pub(crate) measured: Measured,
}

/// Returns what a reader must know of this machine.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {} cores, {}; load average {}",
        cpu.map_or("unknown CPU", |(_, name)| name),
        available_parallelism().map_or(0, usize::from),
        Isa::detect(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// Prints medians over the turns, and each turn's ratio.
pub(crate) fn print(cells: &[Cell]) {
    for (index, Comparison { load, rows }) in COMPARISONS.iter().enumerate() {
        let of = |layout: &str| -> Vec<&Cell> {
            cells.iter().filter(|it| it.comparison == index && it.layout == layout).collect()
        };
        let base = of(rows[0].0);
        if base.is_empty() {
            continue;
        }
        println!("\n{load}");
        println!(
            "{:<22}{:>6}{:>9}  {:<12}{:>10}{:>8}{:>10}{:>10}{:>8}{:>13}{:>15}",
            "",
            "ratio",
            "wanted",
            "by turn",
            "tok/s",
            "req/s",
            "TTFT ms",
            "TPOT ms",
            "s",
            "CPU s, head",
            "CPU s, ranks",
        );
        for (layout, wanted) in *rows {
            let cells = of(layout);
            if !cells.is_empty() {
                row(layout, wanted, &cells, &base);
            }
        }
    }
}

fn row(layout: &str, wanted: &str, cells: &[&Cell], base: &[&Cell]) {
    let ratios: Vec<f64> = cells
        .iter()
        .zip(base)
        .map(|(cell, base)| {
            assert_eq!(cell.turn, base.turn, "every turn has both");
            cell.measured.tokens_per_s / base.measured.tokens_per_s
        })
        .collect();
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    let of = |value: fn(&Measured) -> f64| {
        median(cells.iter().map(|cell| value(&cell.measured)).collect())
    };
    println!(
        "{layout:<22}{:>6.2}{wanted:>9}  {:<12}{:>10.1}{:>8.2}{:>10.1}{:>10.1}{:>8.1}{:>13.1}{:>15.1}",
        median(ratios),
        each.join(" "),
        of(|it| it.tokens_per_s),
        of(|it| it.requests_per_s),
        of(|it| it.ttft_ms),
        of(|it| it.tpot_ms),
        of(|it| it.seconds),
        of(|it| it.cpu.head),
        of(|it| it.cpu.ranks),
    );
}

/// The middle value, or the mean of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}
