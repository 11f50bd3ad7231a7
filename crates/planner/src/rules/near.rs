//! The nearest values that mend a broken rule.

use std::fmt;

use playhouse_types::ParallelSpec;

use super::experts::REDUNDANT_MAX;
use super::table::{Finding, Rule};
use super::{Case, Change, Field, RANKS_MAX};

/// Numbers tried on either side of a value, besides those that divide or multiply something.
const WINDOW: u32 = 16;
/// Small numbers that are always tried.
const SMALL_MAX: u32 = 64;
/// Numbers that are offered to change for one violation.
const FIELDS_MAX: usize = 2;
/// Divisors that are listed in a message.
const DIVISORS_MAX: usize = 16;
/// The largest divisor that is looked for by trial.
const TRIAL_MAX: u64 = 4096;

/// Returns the nearest value below and above that mends `finding`, for each number that can (**PL-4**).
/// `broken` are the names of all broken rules.
pub(super) fn changes(
    case: &Case<'_>,
    finding: &Finding<'_>,
    rules: &[&'static Rule],
    broken: &[&str],
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut fields = 0;
    for field in finding.fields {
        let Some(value) = field.get(case.spec) else { continue };
        let candidates = candidates(case, value);
        let split = candidates.partition_point(|candidate| *candidate < value);
        let (below, above) = candidates.split_at(split);
        let mut mends = |candidate: &&u32| mends(case, finding, rules, broken, *field, **candidate);
        let found = [below.iter().rev().find(&mut mends), above.iter().find(&mut mends)];
        let before = changes.len();
        changes.extend(
            found.into_iter().flatten().map(|value| Change { field: *field, value: *value }),
        );
        fields += usize::from(changes.len() > before);
        if fields == FIELDS_MAX {
            break;
        }
    }
    changes
}

/// Returns whether the change leaves exactly the other broken rules broken.
fn mends(
    case: &Case<'_>,
    finding: &Finding<'_>,
    rules: &[&'static Rule],
    broken: &[&str],
    field: Field,
    value: u32,
) -> bool {
    if field.get(case.spec) == Some(value) || (value == 0 && !field.may_be_zero()) {
        return false;
    }
    let mut spec = case.spec.clone();
    field.set(&mut spec, value);
    let after = Case::of(&spec, case.facts, case.block_tokens);
    let name = finding.rule.name;
    let count = |names: &[&str], name: &str| names.iter().filter(|other| **other == name).count();
    let allowed = |other: &str| count(broken, other) - usize::from(other == name);
    // The rule itself first: most candidates fail it.
    let own = rules.iter().filter(|rule| rule.name == name);
    if own.map(|rule| rule.count(&after)).sum::<usize>() > allowed(name) {
        return false;
    }
    let names: Vec<&str> =
        rules.iter().flat_map(|rule| std::iter::repeat_n(rule.name, rule.count(&after))).collect();
    names.iter().all(|other| broken.contains(other) && count(&names, other) <= allowed(other))
}

/// Values worth trying instead of `value`, ascending.
fn candidates(case: &Case<'_>, value: u32) -> Vec<u32> {
    let mut numbers: Vec<u64> = [case.tensor, case.stage_ranks, case.attention_tensor, case.data]
        .into_iter()
        .chain([case.decode_context, case.prefill_context, case.attention_data])
        .flatten()
        .collect();
    if let Some(facts) = case.facts {
        numbers.push(facts.layers);
        numbers.extend(facts.heads.iter().map(|(heads, _)| *heads));
        numbers.extend(facts.experts.iter().flat_map(|experts| {
            [*experts, experts.saturating_add(u64::from(case.spec.redundant_experts))]
        }));
    }
    let mut candidates: Vec<u32> =
        (value.saturating_sub(WINDOW)..=value.saturating_add(WINDOW)).collect();
    candidates.extend(0..=SMALL_MAX);
    candidates.extend((0..=16).map(|power| 1_u32 << power));
    let divisors = numbers.into_iter().flat_map(all_divisors);
    candidates.extend(divisors.filter_map(|divisor| u32::try_from(divisor).ok()));
    candidates.extend(even_redundancy(case));
    // What no pool is large enough for is no advice.
    candidates.retain(|candidate| u64::from(*candidate) <= RANKS_MAX);
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}

/// Returns the redundant experts that the ranks hold evenly: the counts nearest to the present one, and to
/// the largest allowed one.
fn even_redundancy(case: &Case<'_>) -> Vec<u32> {
    let Some((facts, ranks)) = case.facts.zip(case.expert_ranks) else { return Vec::new() };
    let around = |redundant: u32| {
        facts.experts.iter().flat_map(move |experts| {
            let over = experts.saturating_add(u64::from(redundant)) % ranks;
            let redundant = u64::from(redundant);
            [redundant.checked_sub(over), redundant.checked_add(ranks - over)]
        })
    };
    let evens = around(case.spec.redundant_experts).chain(around(REDUNDANT_MAX));
    let evens = evens.flatten().filter_map(|redundant| u32::try_from(redundant).ok());
    evens.chain([REDUNDANT_MAX]).collect()
}

/// What to do about `finding`, in words.
pub(super) fn fix(finding: &Finding<'_>, spec: &ParallelSpec, nearest: &[Change]) -> String {
    let mut ways: Vec<String> = Vec::new();
    for change in nearest {
        let field = change.field;
        let now = field.get(spec).unwrap_or_default();
        match ways.last_mut() {
            Some(way) if way.starts_with(&format!("{field} = ")) => {
                *way += &format!(" or {}", change.value);
            }
            _ => ways.push(format!("{field} = {now} → {}", change.value)),
        }
    }
    let hints = [finding.hint.as_str(), finding.rule.hint];
    ways.extend(hints.into_iter().filter(|hint| !hint.is_empty()).map(str::to_owned));
    if ways.is_empty() {
        return format!("no single change of {} mends it", either(finding.rule.fields));
    }
    ways.join("; or ")
}

/// Returns everything that divides `number`, ascending; divisors above the trial limit only as cofactors.
fn all_divisors(number: u64) -> Vec<u64> {
    let root = number.isqrt().min(TRIAL_MAX);
    let small: Vec<u64> = (1..=root).filter(|divisor| number.is_multiple_of(*divisor)).collect();
    let large = small.iter().rev().map(|divisor| number / divisor);
    let mut divisors: Vec<u64> = small.iter().copied().chain(large).collect();
    divisors.dedup();
    divisors
}

/// The divisors of a number, in words; found only when printed.
pub(super) struct Divisors(pub(super) u64);

impl fmt::Display for Divisors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return out.write_str("everything");
        }
        let all = all_divisors(self.0);
        for (index, divisor) in all.iter().take(DIVISORS_MAX).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{divisor}")?;
        }
        out.write_str(if all.len() > DIVISORS_MAX { ", …" } else { "" })
    }
}

/// `a, b or c`.
pub(crate) fn either(words: &[impl ToString]) -> String {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}
