//! The speed of a layout by a roofline model: each piece of work takes as long as its arithmetic or its
//! memory traffic, whichever is longer (Williams et al. 2009), and collectives follow the α-β model (latency
//! and bandwidth, Thakur et al. 2005). The model compares layouts; it does not promise speeds.
//!
//! ```text
//! step of a stage = Σ weights max(2·o·i·tokens / flops, bytes / bandwidth)
//!                 + Σ layers  max(attention flops, KV bytes)  +  layer overhead
//!                 + Σ collectives calls · latency + bytes / link
//! latency         = link hop · ⌈log2 near⌉, for a sum over nodes twice that, + network hop · ⌈log2 domains⌉
//! bytes / link    : between nodes the least of the link and the adapters of the group's devices of a node
//! experts read    = held · (1 − (1 − top_k/E)^tokens), the busiest rank √(2·mean·ln n) above the mean
//! TPOT            = Σ stages step(batch / stages)
//! TTFT            = Σ chunks slowest stage + the other stages once (pipeline fill)
//! tokens/s        = replicas · output / (steps of a request · mean step of the slowest stage)
//! ```
//!
//! In a full pipeline the stages wait for each other's longest step: with a share `f` of prompt
//! steps, a cycle of `p` stages contains one with probability `1 − (1−f)^p`. Chunked prefill evens
//! the steps out in part (Sarathi-Serve, Agrawal et al. 2024); [`BUBBLE`] of the loss remains.
//!
//! Not modelled: overlap of communication and computation, CUDA-graph misses, stragglers, contention
//! of several groups for one link. Under attention-DP and across replicas idle groups run along with
//! tokens of their own, as they do in vLLM and SGLang.

use playhouse_types::{Attention, FeedForward, Mla, Moe};
use serde::Serialize;

use crate::traffic::exchanges;
use crate::traffic::{LocalTokens, query_heads};
use crate::{
    Axis, Coordinates, Cut, DeviceType, Exchange, GroupKind, Inventory, LayerRun, ModelShape,
    Operation, RankMap, RankMemory, Serving, StepLoad, Weight, WeightType,
};

/// Shares of the makers' peaks that good kernels reach: assumed, not measured.
const ARITHMETIC: f64 = 0.6;
const MEMORY: f64 = 0.75;
const LINK: f64 = 0.7;
/// Gaps and small kernels (norms, rope, cache writes) of a layer with CUDA graphs, seconds, and what
/// routing and permuting add: assumed, not measured. Only batches of a few requests feel them.
const LAYER_OVERHEAD: f64 = 20e-6;
const ROUTING_OVERHEAD: f64 = 60e-6;
/// Scheduling and sampling of a step, seconds: assumed.
const STEP_OVERHEAD: f64 = 200e-6;

/// Share of the waiting between stages with steps of unequal length that remains: assumed.
const BUBBLE: f64 = 0.3;
/// Requests per device that count as saturation, if they fit.
const SATURATED: u64 = 256;

/// The requests that a service computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Tokens of a prompt.
    pub prompt_tokens: u64,
    /// Tokens of an answer.
    pub output_tokens: u64,
}

/// The predicted speed of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Seconds to the first token of a request that finds the replica idle.
    pub ttft_s: f64,
    /// Seconds per further token with `concurrent` requests.
    pub tpot_s: f64,
    /// Requests at once in all replicas for which `tpot_s` holds.
    pub concurrent: u64,
    /// Generated tokens per second of all replicas, saturated.
    pub tokens_per_s: f64,
    /// Requests at once in all replicas when saturated.
    pub concurrent_max: u64,
}

/// The model of a layout on devices of one type.
pub(crate) struct Roofline<'a> {
    pub(crate) map: &'a RankMap,
    pub(crate) shape: &'a ModelShape,
    pub(crate) inventory: &'a Inventory,
    pub(crate) device: DeviceType,
    /// Devices of a domain.
    pub(crate) domain: u64,
    pub(crate) serving: Serving,
}

/// The lengths that the tokens of a step attend to.
#[derive(Clone, Copy)]
struct Context {
    /// Tokens that a prompt token sees on average.
    prefill: u64,
    /// Tokens that a generated token sees on average.
    decode: u64,
}

// === impl Roofline ===

impl Roofline<'_> {
    /// The most loaded rank of each kind of stage, and how many stages are of that kind: the first,
    /// those between, the last. Remainders go to the first ranks and stages, so these are heaviest.
    fn stages(&self) -> impl Iterator<Item = (Coordinates, u64)> + '_ {
        let widths = self.map.widths();
        let last = widths.stages.saturating_sub(1);
        [(0, 1), (1, u64::from(last.saturating_sub(1))), (last, u64::from(last.min(1)))]
            .into_iter()
            .filter(|&(_, count)| count > 0)
            .map(|(stage, count)| (self.map.coordinates(stage * widths.stage_ranks), count))
    }

    /// Returns the memory of the fullest rank, and the tokens that fit in each attention-DP group; `None`
    /// when weights and workspace alone do not fit.
    pub(crate) fn memory(&self) -> (RankMemory, Option<u64>) {
        let bytes = self.serving.usable_bytes(self.device.memory_bytes);
        let ranks = self.stages().map(|(at, _)| {
            let memory = RankMemory::of(self.map, self.shape, self.inventory, &at, &self.serving);
            (memory, memory.tokens_in(bytes))
        });
        // `None` orders before any number of tokens.
        ranks.min_by_key(|(_, tokens)| *tokens).unwrap_or((
            RankMemory { weight_bytes: 0, kv_bytes_per_token: 0, workspace_bytes: 0 },
            None,
        ))
    }

    /// Returns the speed for `work` with at most `concurrent` requests at once, when `tokens` of KV fit.
    pub(crate) fn speed(&self, work: Workload, concurrent: u64, tokens: u64) -> Speed {
        let widths = self.map.widths();
        let groups = u64::from(widths.attention_data).max(1);
        let replicas = u64::from(widths.replicas).max(1);
        let length = work.prompt_tokens.saturating_add(work.output_tokens).max(1);
        let fits = (tokens / length).saturating_mul(groups);
        let per_replica = |all: u64| all.div_ceil(replicas).next_multiple_of(groups).min(fits);
        let light = per_replica(concurrent).max(groups);
        let full = per_replica(SATURATED.saturating_mul(self.map.world().into())).max(groups);

        let output = work.output_tokens as f64;
        let request = self.request(work, full);
        Speed {
            ttft_s: self.prefill(work),
            tpot_s: self.decode(work, light).0,
            concurrent: light.saturating_mul(replicas),
            tokens_per_s: replicas as f64 * output / request,
            concurrent_max: full.saturating_mul(replicas),
        }
    }

    /// Returns the seconds of the slowest stage that one request costs with `batch` requests in the replica.
    fn request(&self, work: Workload, batch: u64) -> f64 {
        let stages = f64::from(self.map.widths().stages.max(1));
        let decode = self.decode(work, batch).1;
        let decode_steps = work.output_tokens as f64 / (batch as f64 / stages).max(1.0);
        let (prefill, prefill_steps) = self.prefill_share(work);
        let steps = decode_steps + prefill_steps;
        let busy = decode * decode_steps + prefill * prefill_steps;
        let prompts = 1.0 - (1.0 - prefill_steps / steps).powf(stages);
        let (longer, shorter) = (prefill.max(decode), prefill.min(decode));
        let waiting = steps * (prompts * longer + (1.0 - prompts) * shorter) - busy;
        busy + BUBBLE * waiting.max(0.0)
    }

    /// Returns the seconds of a token through all stages, and of the slowest stage, with `batch` requests in
    /// the replica.
    fn decode(&self, work: Workload, batch: u64) -> (f64, f64) {
        let micro = batch.div_ceil(u64::from(self.map.widths().stages).max(1));
        let load = StepLoad { prefill_tokens: 0, decode_tokens: micro, sampled: micro };
        let seen = work.prompt_tokens.saturating_add(work.output_tokens / 2);
        self.step(&load, Context { prefill: 0, decode: seen })
    }

    /// Returns the seconds until the first token of one prompt.
    fn prefill(&self, work: Workload) -> f64 {
        let groups = u64::from(self.map.widths().attention_data).max(1);
        let chunk = self.serving.step_tokens.max(1).min(work.prompt_tokens.max(1));
        let chunks = work.prompt_tokens.max(1).div_ceil(chunk);
        // Every group of attention-DP works on a prompt of its own.
        let load = StepLoad {
            prefill_tokens: chunk.saturating_mul(groups),
            decode_tokens: 0,
            sampled: groups,
        };
        let at = |chunk_at: u64| {
            let before = chunk_at.saturating_mul(chunk);
            self.step(&load, Context { prefill: before.saturating_add(chunk / 2), decode: 0 })
        };
        // A chunk's time grows evenly with what stands before it.
        let (first, last) = (at(0), at(chunks - 1));
        let slowest = (first.1 + last.1) / 2.0 * chunks as f64;
        slowest + (last.0 - last.1)
    }

    /// Returns the seconds of the slowest stage for a step full of prompts, and the share of one prompt in
    /// it.
    fn prefill_share(&self, work: Workload) -> (f64, f64) {
        let groups = u64::from(self.map.widths().attention_data).max(1);
        let tokens = self.serving.step_tokens.max(1).saturating_mul(groups);
        let sampled = (tokens / work.prompt_tokens.max(1)).max(1);
        let load = StepLoad { prefill_tokens: tokens, decode_tokens: 0, sampled };
        let (_, slowest) = self.step(&load, Context { prefill: work.prompt_tokens / 2, decode: 0 });
        (slowest, work.prompt_tokens as f64 / tokens as f64)
    }

    /// Returns the seconds of a step through all stages, and of the slowest stage.
    fn step(&self, load: &StepLoad, context: Context) -> (f64, f64) {
        self.stages().fold((0.0, 0.0f64), |(sum, slowest), (at, count)| {
            let seconds = self.stage(&at, load, context);
            (sum + seconds * count as f64, slowest.max(seconds))
        })
    }

    fn stage(&self, at: &Coordinates, load: &StepLoad, context: Context) -> f64 {
        let tokens = LocalTokens::of(self.map, load);
        let layers = self.map.stages().get(at.stage as usize).copied().unwrap_or_default();
        let mut seconds = STEP_OVERHEAD;
        for (run, layers) in self.inventory.runs_in(layers) {
            let weights: f64 =
                run.weights.iter().map(|weight| self.weight(at, run, weight, &tokens)).sum();
            let attention = self.attention(at, run, &tokens, context);
            let routed = matches!(run.layer.feed_forward, FeedForward::Moe(_));
            let overhead = LAYER_OVERHEAD + if routed { ROUTING_OVERHEAD } else { 0.0 };
            seconds += layers.count as f64 * (weights + attention + overhead);
        }
        if at.stage + 1 == self.map.widths().stages {
            let head = self.inventory.logits();
            let rows = load.sampled.div_ceil(u64::from(self.map.widths().attention_data).max(1));
            let part = self.map.share(at).part(head);
            let gathered = tokens.gathered(self.map, self.map.widths().head_tensor);
            let rows = rows.saturating_mul(gathered) as f64;
            seconds += self.matrix(head, part, rows, head.part_bytes(part) as f64);
        }
        let exchanges = exchanges(self.map, self.shape, self.inventory, at, load, self.serving.kv);
        seconds + exchanges.iter().map(|exchange| self.exchange(at, exchange)).sum::<f64>()
    }

    /// Returns the seconds of a weight's product with the tokens of a rank.
    fn weight(
        &self,
        at: &Coordinates,
        run: &LayerRun,
        weight: &Weight,
        tokens: &LocalTokens,
    ) -> f64 {
        let part = self.map.share(at).part(weight);
        let bytes = weight.part_bytes(part) as f64;
        let widths = self.map.widths();
        let local = tokens.all() as f64;
        match (weight.cut, run.layer.feed_forward) {
            (
                Cut::Outputs(Axis::ExpertInner(_)) | Cut::Inputs(Axis::ExpertInner(_)),
                FeedForward::Moe(Moe { experts, top_k, .. }),
            ) => {
                let (experts, held) = (experts.max(1) as f64, part.2 as f64);
                let grouped = local * tokens.sources as f64;
                let missed = (1.0 - (top_k as f64 / experts).min(1.0)).powf(grouped);
                let spread = (2.0 * f64::from(widths.expert().max(1)).ln()).sqrt();
                let busiest = |mean: f64| mean + mean.sqrt() * spread;
                let read = busiest(held * (1.0 - missed)).min(held);
                let pairs = busiest(grouped * top_k as f64 * held / experts);
                let pairs = pairs.min(grouped * (top_k as f64).min(held));
                self.matrix(weight, (part.0, part.1, 1), pairs, bytes * read / held.max(1.0))
            }
            (Cut::Outputs(Axis::Inner(_)) | Cut::Inputs(Axis::Inner(_)), _) => {
                let gathered = tokens.gathered(self.map, widths.dense_tensor) as f64;
                self.matrix(weight, part, local * gathered, bytes)
            }
            _ => self.matrix(weight, part, local, bytes),
        }
    }

    fn matrix(&self, weight: &Weight, part: (u64, u64, u64), rows: f64, bytes: f64) -> f64 {
        let peak = match weight.stored {
            WeightType::Fp8 { .. } => self.device.fp8_flops,
            WeightType::F32 => self.device.bf16_flops / 2.0,
            _ => self.device.bf16_flops,
        };
        let flops = 2.0 * part.0 as f64 * part.1 as f64 * rows;
        self.longer(flops / peak, bytes)
    }

    /// Returns the seconds of scores and values over the cache.
    fn attention(
        &self,
        at: &Coordinates,
        run: &LayerRun,
        tokens: &LocalTokens,
        context: Context,
    ) -> f64 {
        let layer = &run.layer;
        let seen =
            |tokens: u64| layer.window.map_or(tokens, |window| tokens.min(window as u64)) as f64;
        let (heads, decode_width) = query_heads(&layer.attention);
        let prefill_width = match layer.attention {
            Attention::Gqa(gqa) => gqa.head_dim as u64,
            // A prompt is computed on expanded keys and values.
            Attention::Mla(Mla { nope_dim, rope_dim, v_dim, .. }) => {
                nope_dim.saturating_add(rope_dim).saturating_add(v_dim) as u64 / 2
            }
        };
        let heads = self.map.held(at, Axis::Heads(heads)).count;
        let parts = f64::from(self.map.widths().decode_context.max(1));
        let kept = self.serving.kv.bytes(self.map.share(at).kv_values(&layer.attention)) as f64;
        let pairs = |tokens: u64, width: u64| 4.0 * tokens as f64 * heads as f64 * width as f64;
        let prefill = self.longer(
            pairs(tokens.prefill, prefill_width) * seen(context.prefill) / self.device.bf16_flops,
            kept * seen(context.prefill),
        );
        let decode = self.longer(
            pairs(tokens.decode, decode_width) * seen(context.decode)
                / parts
                / self.device.bf16_flops,
            tokens.decode as f64 * kept * seen(context.decode) / parts,
        );
        prefill + decode
    }

    /// Returns the longer of arithmetic, in seconds at peak, and memory traffic, in bytes.
    fn longer(&self, at_peak: f64, bytes: f64) -> f64 {
        (at_peak / ARITHMETIC).max(bytes / (self.device.memory_bandwidth * MEMORY))
    }

    fn exchange(&self, at: &Coordinates, exchange: &Exchange) -> f64 {
        let (ranks, calls) = (f64::from(exchange.ranks.max(2)), exchange.calls as f64);
        let (near, domains) = self.spread(at, exchange);
        let bytes = exchange.bytes as f64 / LINK;
        let hops = |ranks: f64| ranks.log2().ceil();
        let link = self.device.link_latency * hops(near.max(1.0));
        if domains <= 1.0 {
            let latency = self.device.link_latency * hops(ranks);
            return calls * latency + bytes / self.device.link_bandwidth;
        }
        // A sum is reduced within each domain, then between them, then handed back within each.
        let within = if exchange.operation == Operation::AllReduce { 2.0 * link } else { link };
        let latency = within + self.device.network_latency * hops(domains);
        let transfer = match exchange.operation {
            Operation::AllToAll => {
                let remote = (ranks - near) / (ranks - 1.0);
                bytes * remote / self.device.network_bandwidth
                    + bytes * (1.0 - remote) / self.device.link_bandwidth
            }
            // Rings run over the network adapters of all the group's devices of a node.
            _ => bytes / (self.device.network_bandwidth * near).min(self.device.link_bandwidth),
        };
        calls * latency + transfer
    }

    /// Returns the ranks of a group in one domain, and the domains that the group spans, when ranks fill the
    /// domains in order.
    fn spread(&self, at: &Coordinates, exchange: &Exchange) -> (f64, f64) {
        let widths = self.map.widths();
        let (ranks, stage) = (u64::from(exchange.ranks.max(1)), u64::from(widths.stage_ranks));
        // Whole stages sit in a domain when they fit at all.
        let in_domain =
            if stage <= self.domain { self.domain / stage * stage } else { self.domain };
        let in_domain = in_domain.max(1);
        let first = u64::from(at.rank) / in_domain;
        let stride = match exchange.group {
            GroupKind::Pipeline => {
                let crosses = (u64::from(at.rank) + stage) / in_domain != first;
                return (1.0, if crosses { 2.0 } else { 1.0 });
            }
            GroupKind::Context => u64::from(widths.attention_tensor),
            GroupKind::Expert | GroupKind::MoeTensor if widths.sharing_replicas() > 1 => {
                // A stage's ranks in each of several replicas.
                let near =
                    stage.min(in_domain) * (in_domain / self.map.widths().replica_ranks()).max(1);
                let near = near.min(ranks);
                return (near as f64, (ranks as f64 / near as f64).ceil());
            }
            _ => 1,
        };
        let near = (in_domain / stride.max(1)).clamp(1, ranks);
        (near as f64, (ranks as f64 / near as f64).ceil())
    }
}
