//! Bytes that the ranks of a stage exchange in one step, group by group.
//!
//! The count is of the bytes that one rank sends with bandwidth-optimal algorithms (Patarasuk & Yuan 2009): a
//! ring all-reduce of `b` bytes over `n` ranks sends `2 (n-1)/n · b`, an all-gather or a reduce-scatter half
//! of that. Sharding follows Megatron (Shoeybi et al. 2019): one reduction after attention, one after the
//! feed-forward block.

use playhouse_layout::product;
use playhouse_types::{Attention, FeedForward};
use serde::{Deserialize, Serialize};

use crate::memory::ACTIVATION_BYTES;

use crate::{Axis, Coordinates, GroupKind, Inventory, KvType, ModelShape, RankMap};

/// The work of one step of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLoad {
    /// Prompt tokens.
    pub prefill_tokens: u64,
    /// Requests that generate a token.
    pub decode_tokens: u64,
    /// Rows of logits.
    pub sampled: u64,
}

/// One kind of collective in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Kind of group whose ranks exchange bytes.
    pub group: GroupKind,
    /// Number of ranks in the group.
    pub ranks: u32,
    /// Collective that the ranks run.
    pub operation: Operation,
    /// Calls in one step.
    pub calls: u64,
    /// Bytes that one rank sends in a step, all calls together.
    pub bytes: u64,
}

/// The operation of a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Every rank gets the sum.
    AllReduce,
    /// Every rank gets all parts.
    AllGather,
    /// A gather before the computation and a scattered sum after it.
    GatherScatter,
    /// Rows go to their experts and back.
    AllToAll,
    /// Activations go from one stage to the next.
    Send,
}

/// Tokens of a step on the ranks that compute them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalTokens {
    /// Prompt tokens of a rank in attention.
    pub(crate) prefill: u64,
    /// Generated tokens of a rank in attention.
    pub(crate) decode: u64,
    /// Ranks, or groups of ranks, of an expert group that bring tokens of their own.
    pub(crate) sources: u64,
    /// Whether the ranks of a context group have tokens of their own.
    split: bool,
}

// === impl LocalTokens ===

impl LocalTokens {
    pub(crate) fn of(map: &RankMap, load: &StepLoad) -> Self {
        let widths = map.widths();
        let data = u64::from(widths.attention_data).max(1);
        // Decode does not split the token that it computes.
        let split = load.prefill_tokens > 0;
        let context = if split { widths.attention_context.max(1) } else { 1 };
        let replicas = widths.sharing_replicas().max(1);
        Self {
            prefill: load.prefill_tokens.div_ceil(data).div_ceil(context.into()),
            decode: load.decode_tokens.div_ceil(data),
            sources: product(&[data, context.into(), replicas.into()])
                .div_ceil(widths.moe_data.max(1).into()),
            split,
        }
    }

    pub(crate) fn all(&self) -> u64 {
        self.prefill.saturating_add(self.decode)
    }

    /// Returns how many ranks' tokens come together where `ranks` of a stage compute them as one.
    pub(crate) fn gathered(&self, map: &RankMap, ranks: u32) -> u64 {
        let widths = map.widths();
        let context = if self.split { 1 } else { widths.attention_context.max(1) };
        let alike = widths.attention_tensor.max(1).saturating_mul(context);
        ranks.div_ceil(alike).max(1).into()
    }
}

/// Returns the exchanges of the rank at `at` in a step of its replica.
#[must_use]
pub fn exchanges(
    map: &RankMap,
    shape: &ModelShape,
    inventory: &Inventory,
    at: &Coordinates,
    load: &StepLoad,
    kv: KvType,
) -> Vec<Exchange> {
    let tokens = LocalTokens::of(map, load);
    let mut ledger = Ledger { map, hidden: shape.spec.hidden as u64, tokens, found: Vec::new() };
    for (run, layers) in inventory.runs_in(map.share(at).layers) {
        ledger.attention(&run.layer.attention, at, kv, layers.count);
        ledger.feed_forward(&run.layer.feed_forward, layers.count);
    }
    ledger.ends(shape, at, load);
    ledger.found.retain(|exchange| exchange.bytes > 0);
    ledger.found
}

/// The exchanges while they are summed.
struct Ledger<'a> {
    map: &'a RankMap,
    hidden: u64,
    tokens: LocalTokens,
    found: Vec<Exchange>,
}

// === impl Ledger ===

impl Ledger<'_> {
    fn attention(&mut self, attention: &Attention, at: &Coordinates, kv: KvType, layers: u64) {
        let widths = self.map.widths();
        self.reduce(GroupKind::Tensor, widths.attention_tensor, self.tokens.all(), layers);

        let keys_values = kv.bytes(self.map.share(at).kv_values(attention));
        let context = u64::from(widths.attention_context);
        if context > 1 && self.tokens.prefill > 0 {
            let sent = product(&[self.tokens.prefill, keys_values, context - 1, layers]);
            self.add(
                GroupKind::Context,
                widths.attention_context,
                Operation::AllGather,
                layers,
                sent,
            );
        }
        let parts = u64::from(widths.decode_context);
        if parts > 1 {
            // Queries are gathered, outputs and their log-sums scattered back.
            let (heads, width) = query_heads(attention);
            let queries = self.map.held(at, Axis::Heads(heads)).count.saturating_mul(width);
            let row = product(&[queries, ACTIVATION_BYTES, 2, parts - 1]);
            let sent = product(&[self.tokens.decode, row, layers]);
            let calls = layers.saturating_mul(2);
            self.add(
                GroupKind::DecodeContext,
                widths.decode_context,
                Operation::GatherScatter,
                calls,
                sent,
            );
        }
    }

    fn feed_forward(&mut self, block: &FeedForward, layers: u64) {
        let widths = *self.map.widths();
        let dense = |ledger: &mut Self| {
            let gathered = ledger.tokens.gathered(ledger.map, widths.dense_tensor);
            let tokens = ledger.tokens.all().saturating_mul(gathered);
            let group = ledger.map.same_as(GroupKind::Dense);
            ledger.reduce(group, widths.dense_tensor, tokens, layers);
        };
        match block {
            FeedForward::Dense(_) => dense(self),
            FeedForward::Moe(moe) => {
                self.experts(moe.top_k as u64, layers);
                // Where tokens differ from rank to rank the shared experts gather them themselves.
                if moe.shared_inner > 0 && self.tokens.sources > 1 {
                    dense(self);
                }
            }
        }
    }

    fn experts(&mut self, top_k: u64, layers: u64) {
        let widths = *self.map.widths();
        let (expert, slices) = (widths.expert(), widths.expert_slices());
        let all = expert.saturating_mul(slices);
        if self.tokens.sources <= 1 {
            // All ranks have all tokens: each adds what its experts give.
            let kind = if expert > 1 { GroupKind::Expert } else { GroupKind::MoeTensor };
            self.reduce(kind, all, self.tokens.all(), layers);
        } else if expert <= 1 {
            let tokens = product(&[self.tokens.all(), self.tokens.sources]);
            self.reduce(GroupKind::MoeTensor, all, tokens, layers);
        } else {
            let width = f64::from(expert);
            // A token goes once to each rank that has a part of one of its experts (DeepEP): to all
            // slices of the places it reaches, of which one rank is this.
            let reached = width * (1.0 - (1.0 - 1.0 / width).powf(top_k as f64));
            let remote = reached * f64::from(slices) * f64::from(all - 1) / f64::from(all);
            let own = self.tokens.all().div_ceil(widths.attention_tensor.max(1).into());
            let row = product(&[own, self.hidden, ACTIVATION_BYTES, 2, layers]);
            // An estimate; a cast of floats saturates.
            let sent = (row as f64 * remote) as u64;
            let calls = layers.saturating_mul(2);
            self.add(GroupKind::Expert, all, Operation::AllToAll, calls, sent);
            // Each tensor rank sent and has back its part of the tokens; the next layer's attention
            // wants all of them.
            let tensor = u64::from(widths.attention_tensor);
            if tensor > 1 {
                let gathered = product(&[own, self.hidden, ACTIVATION_BYTES, tensor - 1, layers]);
                let group = GroupKind::Tensor;
                self.add(group, widths.attention_tensor, Operation::AllGather, layers, gathered);
            }
        }
    }

    fn ends(&mut self, shape: &ModelShape, at: &Coordinates, load: &StepLoad) {
        let widths = *self.map.widths();
        let head = widths.head_tensor;
        if at.stage == 0 {
            let gathered = self.tokens.gathered(self.map, widths.embedding_tensor);
            let tokens = self.tokens.all().saturating_mul(gathered);
            let group = self.map.same_as(GroupKind::Embedding);
            self.reduce(group, widths.embedding_tensor, tokens, 1);
        }
        if at.stage + 1 < widths.stages {
            // Each rank sends its part to its successor, which gathers the rest from its
            // neighbours, as vLLM does.
            let whole = product(&[self.tokens.all(), self.hidden, ACTIVATION_BYTES]);
            let sent = whole.div_ceil(widths.attention_tensor.max(1).into());
            self.add(GroupKind::Pipeline, widths.stages, Operation::Send, 1, sent);
        } else if head > 1 {
            let gathered = self.tokens.gathered(self.map, head);
            let rows = load.sampled.div_ceil(u64::from(widths.attention_data).max(1));
            let whole = product(&[rows, gathered, shape.spec.vocab as u64, ACTIVATION_BYTES]);
            let sent = whole / u64::from(head) * u64::from(head - 1);
            self.add(self.map.same_as(GroupKind::Head), head, Operation::AllGather, 1, sent);
        }
    }

    /// Adds a sum over `ranks` of `tokens` rows, in each of `layers`.
    fn reduce(&mut self, group: GroupKind, ranks: u32, tokens: u64, layers: u64) {
        if ranks > 1 {
            let whole = product(&[tokens, self.hidden, ACTIVATION_BYTES, 2]);
            let sent = whole / u64::from(ranks) * u64::from(ranks - 1);
            let sent = sent.saturating_mul(layers);
            self.add(group, ranks, Operation::AllReduce, layers, sent);
        }
    }

    fn add(&mut self, group: GroupKind, ranks: u32, operation: Operation, calls: u64, bytes: u64) {
        let same = |known: &&mut Exchange| {
            (known.group, known.ranks, known.operation) == (group, ranks, operation)
        };
        match self.found.iter_mut().find(same) {
            Some(known) => {
                known.calls = known.calls.saturating_add(calls);
                known.bytes = known.bytes.saturating_add(bytes);
            }
            None => self.found.push(Exchange { group, ranks, operation, calls, bytes }),
        }
    }
}

/// Returns the number of query heads and the width of one head.
pub(crate) fn query_heads(attention: &Attention) -> (u64, u64) {
    match attention {
        Attention::Gqa(gqa) => (gqa.heads as u64, gqa.head_dim as u64),
        // As computed on the compressed keys: every head is as wide as they are.
        Attention::Mla(mla) => (mla.heads as u64, mla.kv_rank.saturating_add(mla.rope_dim) as u64),
    }
}
