//! Playhouse's own flags, shared by `plan` and `serve`: vLLM's spellings where the meaning is the
//! same, with SGLang's and TensorRT-LLM's as aliases. Nothing is rewritten, nothing implied.

use playhouse_types::{ExpertParallel, LoadBalancing, ParallelSpec};

use crate::Violation;

use super::settings::Settings;
use super::{Key, Meaning, Problem, tables, vllm};

pub(super) fn interpret(settings: &Settings, meaning: &mut Meaning) {
    let mut spec = vllm::layout(&tables::NATIVE, settings);
    if let Some(width) = settings.size(Key::ExpertWidth) {
        contradict(settings, &[Key::Experts], Key::ExpertWidth, &mut meaning.problems);
        spec.expert = match width {
            1 => ExpertParallel::Off,
            width => ExpertParallel::Within(width),
        };
    }
    spec.load_balancing = balancing(settings, meaning);
    meaning.spec = spec;
}

pub(super) fn balance_off(settings: &Settings, spec: &ParallelSpec, out: &mut Vec<Violation>) {
    for key in [Key::BalanceWindow, Key::BalanceInterval] {
        if settings.get(key).is_some() && spec.expert_balance.is_none() {
            out.push(Violation::new(
                "balance-off",
                format!("{} is set, and expert balancing is off", settings.spelling(key)),
                "--enable-eplb",
            ));
        }
    }
}

pub(super) fn node_count(settings: &Settings, _: &ParallelSpec, out: &mut Vec<Violation>) {
    if settings.size(Key::Nodes) == Some(0) {
        out.push(Violation::new("node-count", "there are 0 nodes".to_owned(), "--nnodes 1"));
    }
}

fn balancing(settings: &Settings, meaning: &mut Meaning) -> LoadBalancing {
    let ways = [
        (Key::HybridBalancing, LoadBalancing::Hybrid),
        (Key::ExternalBalancing, LoadBalancing::External),
    ];
    let named = match settings.text(Key::Balancing) {
        Some("hybrid") => Some(LoadBalancing::Hybrid),
        Some("external") => Some(LoadBalancing::External),
        Some(_) => Some(LoadBalancing::Internal),
        None => None,
    };
    let mut chosen = named.map(|way| (Key::Balancing, way));
    for (key, way) in ways.into_iter().filter(|(key, _)| settings.on(*key)) {
        match chosen {
            Some((other, old)) if old != way => {
                contradict(settings, &[other], key, &mut meaning.problems);
            }
            _ => chosen = Some((key, way)),
        }
    }
    chosen.map_or(LoadBalancing::Internal, |(_, way)| way)
}

/// Reports those of `others` that are given beside `key`.
fn contradict(settings: &Settings, others: &[Key], key: Key, problems: &mut Vec<Problem>) {
    for other in others {
        if let (Some(first), Some(second)) = (settings.get(*other), settings.get(key)) {
            problems.push(Problem::Contradiction {
                first: format!("{} {}", first.spelling, first.value),
                second: format!("{} {}", second.spelling, second.value),
            });
        }
    }
}
