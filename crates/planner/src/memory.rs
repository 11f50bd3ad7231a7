//! Memory of a rank in bytes: weights, KV cache and activations.
//!
//! - **ME-1** weights are exact: a layout of one rank needs the bytes of the checkpoint.
//! - **ME-2** KV bytes are those of every layer of the stage for every token, windows ignored:
//!   blocks span all layers.
//!
//! The activation workspace is an estimate from above:
//!
//! ```text
//! tokens · 2 B · (2 · hidden + max over layers of
//!     attention: heads · width + 2 · kv_heads · width     (queries, keys, values of this rank)
//!     dense:     3 · inner                                (gate, up, their product)
//!     routed:    rows · (2 · hidden + 3 · inner))         (permuted rows of this rank's experts,
//!                rows = top_k · held / experts per token of all attention-DP groups)
//! + running · vocab · 4 B                                 on the last stage (gathered logits)
//! ```
//!
//! Not here: what the driver and the collectives' library use outside the memory share.

use playhouse_types::{Attention, BlockSize, FeedForward};
use serde::{Deserialize, Serialize};

use playhouse_layout::product;

use crate::{Axis, Coordinates, Inventory, ModelShape, RankMap};

/// Bytes of an activation; bf16.
pub(crate) const ACTIVATION_BYTES: u64 = 2;

/// The load that the ranks serve: everything but the layout that memory and traffic depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// Tokens of one step of a replica. Default 8192.
    pub step_tokens: u64,
    /// Requests that run at once in a replica. Default 256.
    pub running: u64,
    /// Share of a device's memory that may be used, percent. Default 90, as in vLLM.
    pub memory_percent: u8,
    /// Storage of keys and values. Default two bytes.
    pub kv: KvType,
    /// Tokens of a KV block. Default 16.
    pub block_tokens: u32,
}

/// The storage of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvType {
    /// bf16 or f16.
    #[default]
    TwoBytes,
    /// fp8 or 8-bit integers.
    OneByte,
    /// f32.
    FourBytes,
    /// fp4 with a scale of one byte for 16 values.
    HalfByte,
}

/// The memory of one rank, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankMemory {
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Bytes of KV cache for one token of a request that this rank serves, rounded up where the sequence is
    /// split.
    pub kv_bytes_per_token: u64,
    /// Bytes of the activations of the largest step.
    pub workspace_bytes: u64,
}

// === impl Serving ===

impl Default for Serving {
    fn default() -> Self {
        Self {
            step_tokens: 8192,
            running: 256,
            memory_percent: 90,
            kv: KvType::TwoBytes,
            block_tokens: BlockSize::CPU.get().get(),
        }
    }
}

impl Serving {
    /// Returns the number of bytes of a device's memory that a rank may use.
    #[must_use]
    pub fn usable_bytes(&self, memory_bytes: u64) -> u64 {
        memory_bytes / 100 * u64::from(self.memory_percent.min(100))
    }
}

// === impl KvType ===

impl KvType {
    /// Returns the number of bytes of `values` values.
    #[must_use]
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            KvType::TwoBytes => product(&[values, 2]),
            KvType::OneByte => values,
            KvType::FourBytes => product(&[values, 4]),
            KvType::HalfByte => values.div_ceil(2).saturating_add(values.div_ceil(16)),
        }
    }

    /// Returns the storage in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KvType::TwoBytes => "two bytes a value",
            KvType::OneByte => "one byte a value",
            KvType::FourBytes => "four bytes a value",
            KvType::HalfByte => "half a byte a value and its scales",
        }
    }
}

// === impl RankMemory ===

impl RankMemory {
    /// Returns the memory that a rank needs.
    #[must_use]
    pub fn of(
        map: &RankMap,
        shape: &ModelShape,
        inventory: &Inventory,
        at: &Coordinates,
        serving: &Serving,
    ) -> Self {
        Self {
            weight_bytes: map.share(at).weight_bytes(inventory),
            kv_bytes_per_token: kv_bytes_per_token(map, inventory, at, serving.kv),
            workspace_bytes: workspace(map, shape, inventory, at, serving),
        }
    }

    /// Returns the number of tokens whose KV fits beside the rest in `bytes`; `None` when weights and
    /// workspace alone do not fit.
    #[must_use]
    pub fn tokens_in(&self, bytes: u64) -> Option<u64> {
        let taken = self.weight_bytes.saturating_add(self.workspace_bytes);
        Some(bytes.checked_sub(taken)? / self.kv_bytes_per_token.max(1))
    }
}

/// Returns the bytes of keys and values that a rank keeps for one token, over its layers.
fn kv_bytes_per_token(map: &RankMap, inventory: &Inventory, at: &Coordinates, kv: KvType) -> u64 {
    let share = map.share(at);
    inventory
        .runs_in(share.layers)
        .map(|(run, layers)| {
            product(&[kv.bytes(share.kv_values(&run.layer.attention)), layers.count])
        })
        .fold(0, u64::saturating_add)
        .div_ceil(u64::from(map.widths().decode_context).max(1))
}

fn workspace(
    map: &RankMap,
    shape: &ModelShape,
    inventory: &Inventory,
    at: &Coordinates,
    serving: &Serving,
) -> u64 {
    let (widths, hidden) = (map.widths(), shape.spec.hidden as u64);
    let groups = u64::from(widths.attention_data).saturating_mul(widths.attention_context.into());
    let tokens = serving.step_tokens.div_ceil(groups.max(1));
    let layers = map.stages().get(at.stage as usize).copied().unwrap_or_default();
    let widest = inventory.runs_in(layers).map(|(run, _)| {
        let attention = attention_width(map, &run.layer.attention, at);
        attention.max(feed_forward_width(map, hidden, &run.layer.feed_forward, at))
    });
    let width = hidden.saturating_mul(2).saturating_add(widest.max().unwrap_or(0));
    let last = at.stage + 1 == widths.stages;
    let logits = if last { product(&[serving.running, shape.spec.vocab as u64, 4]) } else { 0 };
    product(&[tokens, width, ACTIVATION_BYTES]).saturating_add(logits)
}

fn attention_width(map: &RankMap, attention: &Attention, at: &Coordinates) -> u64 {
    match attention {
        Attention::Gqa(gqa) => {
            let heads = map.held(at, Axis::Heads(gqa.heads as u64)).count;
            let queries = product(&[heads, gqa.head_dim as u64]);
            queries.saturating_add(map.share(at).kv_values(attention))
        }
        Attention::Mla(mla) => {
            let query_and_key = mla.nope_dim.saturating_add(mla.rope_dim).saturating_mul(2);
            let head = query_and_key.saturating_add(mla.v_dim) as u64;
            product(&[map.held(at, Axis::Heads(mla.heads as u64)).count, head])
        }
    }
}

fn feed_forward_width(map: &RankMap, hidden: u64, block: &FeedForward, at: &Coordinates) -> u64 {
    match block {
        FeedForward::Dense(dense) => {
            product(&[3, map.held(at, Axis::Inner(dense.inner as u64)).count])
        }
        FeedForward::Moe(moe) => {
            let experts = moe.experts as u64;
            let inner = map.held(at, Axis::ExpertInner(moe.inner as u64)).count;
            // The rank's share of the pairs of token and expert of its stage.
            let held = map.experts(at, experts).count;
            let pairs = product(&[moe.top_k as u64, held]).div_ceil(experts.max(1));
            let groups = u64::from(map.widths().attention_data).max(1);
            product(&[
                pairs,
                groups,
                hidden.saturating_mul(2).saturating_add(inner.saturating_mul(3)),
            ])
        }
    }
}
