//! The best layouts of a model on given hardware, and the reasons against the others.
//!
//! - **RE-1** every layout that [`candidates`] enumerates is ranked or cut, with one reason.
//! - **RE-2** every ranked layout fits: weights, workspace and at least one request of full length.
//! - **RE-3** the order is a function of the predicted numbers: the score is
//!   `latency^-w · throughput^(1-w)` where latency is that of a whole request, times 0.98 for each
//!   mechanism beyond tensor, pipeline and data, so that of equals the plain layout wins. The weight
//!   `w` and the requests at which latency is taken are the goal's.
//!
//! The field's guidance is not built in; it follows from the roofline, and the tests check that it does.

mod candidates;

use std::collections::BTreeMap;

use playhouse_types::{ExpertParallel, ParallelSpec};
use serde::Serialize;

pub use self::candidates::{CANDIDATES_MAX, candidates};
use crate::roofline::Roofline;
use crate::rules::checked_map;
use crate::{
    DeviceType, Hardware, Inventory, ModelShape, RankMemory, Serving, Speed, Violation, Workload,
};

/// The goal of a layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// One request is answered as fast as possible.
    Latency,
    /// As many tokens as possible are generated per second.
    Throughput,
    /// Latency and throughput count alike, at 16 requests per device.
    #[default]
    Balanced,
}

/// The requirements of a recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// Goal of the layout.
    pub goal: Goal,
    /// A typical request, which must fit.
    pub work: Workload,
    /// Load that the ranks serve: step size, memory share, KV type.
    pub serving: Serving,
}

/// The recommended layouts, best first, and the layouts that were cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// The best layouts, at most [`RANKED_MAX`].
    pub ranked: Vec<Ranked>,
    /// The other layouts by reason, the most frequent reason first.
    pub cut: Vec<Cuts>,
    /// Number of layouts that were examined.
    pub candidates: usize,
    /// Whether there were more than [`CANDIDATES_MAX`] layouts: the widest stages were then examined in their
    /// plain form only.
    pub capped: bool,
}

/// A layout that fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The layout.
    pub spec: ParallelSpec,
    /// Memory of the layout's fullest rank.
    pub memory: RankMemory,
    /// Tokens of KV that fit in all replicas.
    pub kv_tokens: u64,
    /// Predicted speed.
    pub speed: Speed,
    /// Score of the layout; higher is better; comparable within one recommendation.
    pub score: f64,
}

/// Layouts that were cut for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cuts {
    /// Stable name of the reason: the broken rule, or `weights-do-not-fit`, `context-does-not-fit`, `slower`.
    pub reason: String,
    /// Number of layouts.
    pub count: usize,
    /// The reason in words, for the example.
    pub message: String,
    /// The layout that came closest.
    pub example: ParallelSpec,
}

/// Most layouts that a recommendation shows.
pub const RANKED_MAX: usize = 5;

/// Factor of the score per mechanism beyond tensor, pipeline and data.
const PLAINNESS: f64 = 0.98;

/// Requests per device at which a balanced layout's latency is taken.
const BALANCED_REQUESTS: u64 = 16;

/// The input that all layouts of a recommendation share.
struct RecommendationInput<'a> {
    shape: &'a ModelShape,
    inventory: Inventory,
    device: DeviceType,
    /// Devices of the smallest domain.
    domain: u64,
    wish: &'a Wish,
}

/// The reason why a layout was cut.
struct Refusal {
    reason: String,
    message: String,
    /// Closeness to fitting: of several layouts cut for one reason, the highest comes closest.
    closeness: f64,
}

/// Returns the best layouts of `shape` on all devices of `hardware`.
#[must_use]
pub fn recommend(shape: &ModelShape, hardware: &Hardware, wish: &Wish) -> Recommendation {
    let (specs, capped) = candidates(shape, hardware.devices());
    let Some(device) = hardware.slowest() else {
        return Recommendation { ranked: Vec::new(), cut: Vec::new(), candidates: 0, capped };
    };
    let inventory = Inventory::of(shape);
    let ground =
        RecommendationInput { shape, inventory, device, domain: hardware.domain_devices(), wish };
    let mut ranked = Vec::new();
    let mut cut: BTreeMap<String, (Cuts, f64)> = BTreeMap::new();
    let candidates = specs.len();
    for spec in specs {
        match ground.rank(&spec) {
            Ok(layout) => ranked.push(layout),
            Err(refusal) => record(&mut cut, spec, refusal),
        }
    }
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    let best = ranked.first().map_or(0.0, |best| best.score);
    for slower in ranked.split_off(ranked.len().min(RANKED_MAX)) {
        let share = if best > 0.0 { slower.score / best } else { 0.0 };
        let message = format!("{:.0} % of the best score", share * 100.0);
        let refusal = Refusal { reason: "slower".to_owned(), message, closeness: share };
        record(&mut cut, slower.spec, refusal);
    }
    let mut cut: Vec<Cuts> = cut.into_values().map(|(cuts, _)| cuts).collect();
    cut.sort_by_key(|cuts| std::cmp::Reverse(cuts.count));
    Recommendation { ranked, cut, candidates, capped }
}

fn record(cut: &mut BTreeMap<String, (Cuts, f64)>, spec: ParallelSpec, refusal: Refusal) {
    let Refusal { reason, message, closeness } = refusal;
    let entry = cut.entry(reason.clone()).or_insert_with(|| {
        let cuts = Cuts { reason, count: 0, message: message.clone(), example: spec.clone() };
        (cuts, f64::NEG_INFINITY)
    });
    entry.0.count += 1;
    if closeness > entry.1 {
        (entry.0.message, entry.0.example, entry.1) = (message, spec, closeness);
    }
}

fn score(speed: &Speed, spec: &ParallelSpec, wish: &Wish) -> f64 {
    let latency = speed.ttft_s + speed.tpot_s * wish.work.output_tokens as f64;
    let weight = match wish.goal {
        Goal::Latency => 0.9,
        Goal::Balanced => 0.5,
        Goal::Throughput => 0.0,
    };
    let plain = PLAINNESS.powi(mechanisms(spec));
    latency.powf(-weight) * speed.tokens_per_s.powf(1.0 - weight) * plain
}

/// Counts the mechanisms beyond tensor, pipeline and data.
fn mechanisms(spec: &ParallelSpec) -> i32 {
    [
        spec.prefill_context > 1,
        spec.decode_context > 1,
        spec.attention_data > 1,
        spec.expert != ExpertParallel::Off,
        spec.moe_dense_tensor.is_some(),
    ]
    .into_iter()
    .map(i32::from)
    .sum()
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

// === impl RecommendationInput ===

impl RecommendationInput<'_> {
    fn rank(&self, spec: &ParallelSpec) -> Result<Ranked, Refusal> {
        let Self { shape, wish, .. } = *self;
        let map = checked_map(spec, shape, wish.serving.block_tokens)
            .map_err(|violations| Refusal::rule(&violations))?;
        let roofline = Roofline {
            map: &map,
            shape,
            inventory: &self.inventory,
            device: self.device,
            domain: self.domain,
            serving: wish.serving,
        };
        let (memory, tokens) = roofline.memory();
        let length = wish.work.prompt_tokens.saturating_add(wish.work.output_tokens);
        let tokens = tokens.ok_or_else(|| {
        let (weights, workspace) = (gib(memory.weight_bytes), gib(memory.workspace_bytes));
        let has = gib(roofline.device.memory_bytes);
        let percent = wish.serving.memory_percent;
        let message = format!(
            "{weights:.1} GiB of weights and {workspace:.1} GiB of workspace on a rank, {percent} % \
             of {has:.1} GiB there"
        );
        Refusal::memory("weights-do-not-fit", &message, -(weights + workspace))
    })?;
        if tokens < length {
            let message = format!("room for {tokens} tokens of KV, a request has {length}");
            return Err(Refusal::memory("context-does-not-fit", &message, tokens as f64));
        }
        let devices = u64::from(map.world());
        let requests = match wish.goal {
            Goal::Latency => 1,
            Goal::Balanced => BALANCED_REQUESTS.saturating_mul(devices),
            Goal::Throughput => u64::MAX / 2,
        };
        let speed = roofline.speed(wish.work, requests.min(devices.saturating_mul(256)), tokens);
        let widths = map.widths();
        let groups = u64::from(widths.replicas).saturating_mul(widths.attention_data.into());
        Ok(Ranked {
            spec: spec.clone(),
            memory,
            kv_tokens: tokens.saturating_mul(groups),
            score: score(&speed, spec, wish),
            speed,
        })
    }
}

// === impl Wish ===

impl Wish {
    /// Returns the requirements for requests of `context` tokens, of which at most 512 are generated; 1024 +
    /// 512 by default.
    #[must_use]
    pub fn new(goal: Goal, context: Option<u64>) -> Self {
        let context = context.unwrap_or(1536).max(2);
        let output_tokens = 512.min(context / 2);
        let prompt_tokens = context - output_tokens;
        let work = Workload { prompt_tokens, output_tokens };
        Self { goal, work, serving: Serving::default() }
    }
}

// === impl Refusal ===

impl Refusal {
    fn rule(violations: &[Violation]) -> Self {
        let (reason, message) = violations
            .first()
            .map_or_else(Default::default, |first| (first.rule.to_owned(), first.message.clone()));
        Self { reason, message, closeness: -(violations.len() as f64) }
    }

    fn memory(reason: &str, message: &str, closeness: f64) -> Self {
        Self { reason: reason.to_owned(), message: message.to_owned(), closeness }
    }
}
