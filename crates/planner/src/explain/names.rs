//! Short names of layouts, groups and amounts.

use playhouse_types::{ExpertParallel, ParallelSpec};

use crate::Slice;

/// Returns a layout in a few words: `DP 2 × PP 2 × TP 4, EP 8`.
#[must_use]
pub fn layout(spec: &ParallelSpec) -> String {
    let mut text = [("DP", spec.data), ("PP", spec.pipeline), ("TP", spec.tensor)]
        .map(|(name, width)| format!("{name} {width}"))
        .join(" × ");
    if spec.prefill_context > 1 {
        text += &format!(" × CP {}", spec.prefill_context);
    }
    for (name, width) in [
        ("attention-DP", spec.attention_data),
        ("DCP", spec.decode_context),
        ("MoE-DP", spec.moe_data),
    ] {
        if width > 1 {
            text += &format!(", {name} {width}");
        }
    }
    match spec.expert {
        ExpertParallel::Off => {}
        ExpertParallel::SplitAcrossReplicas => text += ", MoE-TP across replicas",
        ExpertParallel::Within(width) => text += &format!(", EP {width}"),
        ExpertParallel::AcrossReplicas => text += ", EP across replicas",
    }
    if let Some(width) = spec.moe_dense_tensor {
        text += &format!(", dense TP {width}");
    }
    text
}

/// Returns text of any origin on one line, without characters that a terminal would act upon.
pub(super) fn visible(text: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Returns a range as `0-15`, or `7`, or `-` for none.
pub(super) fn range(slice: Slice) -> String {
    match slice.count {
        0 => "-".to_owned(),
        1 => slice.first.to_string(),
        _ => format!("{}-{}", slice.first, slice.end() - 1),
    }
}

/// Returns a set of ranks as `{0,1}`, with three or more consecutive ranks as `0-7`.
pub(super) fn set(ranks: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(rank) => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let run = |(first, last): (u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    let runs: Vec<_> = runs.into_iter().map(run).collect();
    format!("{{{}}}", runs.join(","))
}

/// Returns a number of bytes with three digits: `3.74 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = match amount {
        _ if unit == 0 => 0,
        amount if amount < 10.0 => 2,
        amount if amount < 100.0 => 1,
        _ => 0,
    };
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// Returns a number with commas: `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
