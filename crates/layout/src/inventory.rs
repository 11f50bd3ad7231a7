//! Every weight of a model with the way it is cut, after Megatron: the one list from which
//! parameters, bytes of a rank and arithmetic are counted.
//!
//! - **IN-1** the rows and columns of a weight that the ranks of a cut hold sum to the whole,
//!   except KV heads where there are fewer of them than ranks: those are held by several.
//! - **IN-2** bytes include scales, zero points and group indices of quantized matrices, counted for
//!   the slice a rank holds.

use crate::{AttentionShape, FfnShape, LayerShape, ModelShape, Slice, WeightType};

/// All weights of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The embedding table.
    pub embedding: Weight,
    /// Layers with equal weights, first to last.
    pub runs: Vec<LayerRun>,
    /// The norm before the head.
    pub norm: Weight,
    /// The head, unless it is the embedding table.
    pub head: Option<Weight>,
}

/// Consecutive layers with equal weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRun {
    /// Which.
    pub layers: Slice,
    /// One of them.
    pub shape: LayerShape,
    /// The weights of one of them.
    pub weights: Vec<Weight>,
}

/// A matrix, `outputs × inputs`, or a vector, `outputs × 1`; `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its place in a layer, as in the checkpoint: `self_attn.q_proj`.
    pub name: &'static str,
    /// Rows.
    pub outputs: u64,
    /// Columns.
    pub inputs: u64,
    /// How many alike: the experts of a layer, else 1.
    pub count: u64,
    /// How ranks divide it.
    pub cut: Cut,
    /// How it is stored.
    pub stored: WeightType,
}

/// How a weight is divided over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Every rank holds all of it.
    Whole,
    /// Each rank holds the rows of its units.
    Outputs(Axis),
    /// Each rank holds the columns of its units.
    Inputs(Axis),
}

/// What the units of a cut are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Query heads, this many.
    Heads(u64),
    /// Key and value heads, this many.
    KvHeads(u64),
    /// Inner features of a dense block or of the shared experts, this many.
    Inner(u64),
    /// Inner features of one routed expert, this many; `count` is divided over experts' ranks.
    ExpertInner(u64),
    /// Rows of the embedding table, this many.
    Embedding(u64),
    /// Rows of the language-model head, this many.
    Head(u64),
}

/// Product that sticks at the largest number.
#[must_use]
pub fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}

// === impl Inventory ===

impl Inventory {
    /// The weights of `shape`.
    #[must_use]
    pub fn of(shape: &ModelShape) -> Self {
        let embedding = Weight {
            name: "embed_tokens",
            outputs: shape.vocab,
            inputs: shape.hidden,
            count: 1,
            cut: Cut::Outputs(Axis::Embedding(shape.vocab)),
            stored: shape.plain,
        };
        Self {
            embedding,
            runs: runs(shape),
            norm: Weight::vector("norm", shape.hidden, shape.plain),
            head: (!shape.tied_embeddings).then_some(Weight {
                name: "lm_head",
                cut: Cut::Outputs(Axis::Head(shape.vocab)),
                ..embedding
            }),
        }
    }

    /// The weights outside of the layers.
    pub fn ends(&self) -> impl Iterator<Item = &Weight> {
        [&self.embedding, &self.norm].into_iter().chain(&self.head)
    }

    /// Sum of a measure over every weight, each counted once.
    #[must_use]
    pub fn total(&self, measure: impl Fn(&Weight) -> u64 + Copy) -> u64 {
        let sum = |sum: u64, next: u64| sum.saturating_add(next);
        let of_run = |run: &LayerRun| {
            product(&[run.weights.iter().map(measure).fold(0, sum), run.layers.count])
        };
        self.ends().map(measure).chain(self.runs.iter().map(of_run)).fold(0, sum)
    }

    /// The runs within `layers`, each with how many of its layers are.
    pub fn runs_in(&self, layers: Slice) -> impl Iterator<Item = (&LayerRun, u64)> {
        self.runs.iter().filter_map(move |run| {
            let first = run.layers.first.max(layers.first);
            let count = run.layers.end().min(layers.end()).saturating_sub(first);
            (count > 0).then_some((run, count))
        })
    }

    /// The matrix that gives the logits.
    #[must_use]
    pub fn logits(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

fn runs(shape: &ModelShape) -> Vec<LayerRun> {
    let mut runs: Vec<LayerRun> = Vec::new();
    for (at, layer) in shape.layers.iter().enumerate() {
        // Only modules that quantization skips make equal shapes differ.
        let known = runs.last().filter(|run| run.shape == *layer && shape.unquantized.is_empty());
        let weights = known.map_or_else(|| weights(shape, at, layer), |run| run.weights.clone());
        match runs.last_mut() {
            Some(run) if run.shape == *layer && run.weights == weights => run.layers.count += 1,
            _ => runs.push(LayerRun {
                layers: Slice { first: at as u64, count: 1 },
                shape: layer.clone(),
                weights,
            }),
        }
    }
    runs
}

/// The weights of one layer, `at` layers into the model.
fn weights(shape: &ModelShape, at: usize, layer: &LayerShape) -> Vec<Weight> {
    let mut list = LayerList { hidden: shape.hidden, shape, at, weights: Vec::with_capacity(20) };
    list.vector("input_layernorm", shape.hidden);
    list.attention(&layer.attention);
    list.vector("post_attention_layernorm", shape.hidden);
    list.ffn(&layer.ffn);
    list.weights
}

/// The list of a layer while it is written.
struct LayerList<'a> {
    hidden: u64,
    shape: &'a ModelShape,
    at: usize,
    weights: Vec<Weight>,
}

// === impl LayerList ===

impl LayerList<'_> {
    fn attention(&mut self, attention: &AttentionShape) {
        let hidden = self.hidden;
        match *attention {
            AttentionShape::Gqa { heads, kv_heads, head_dim, qkv_bias, out_bias, qk_norm } => {
                let (wide, narrow) = (product(&[heads, head_dim]), product(&[kv_heads, head_dim]));
                let (by_head, by_kv) =
                    (Cut::Outputs(Axis::Heads(heads)), Cut::Outputs(Axis::KvHeads(kv_heads)));
                for (name, rows, cut) in [
                    ("self_attn.q_proj", wide, by_head),
                    ("self_attn.k_proj", narrow, by_kv),
                    ("self_attn.v_proj", narrow, by_kv),
                ] {
                    self.matrix(name, rows, hidden, cut);
                    if qkv_bias {
                        self.cut_vector(name, rows, cut);
                    }
                }
                self.matrix("self_attn.o_proj", hidden, wide, Cut::Inputs(Axis::Heads(heads)));
                if out_bias {
                    self.vector("self_attn.o_proj", hidden);
                }
                if qk_norm {
                    self.vector("self_attn.q_norm", head_dim);
                    self.vector("self_attn.k_norm", head_dim);
                }
            }
            AttentionShape::Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim } => {
                let by_head = Cut::Outputs(Axis::Heads(heads));
                let queries = product(&[heads, nope_dim.saturating_add(rope_dim)]);
                match q_rank {
                    Some(rank) => {
                        self.matrix("self_attn.q_a_proj", rank, hidden, Cut::Whole);
                        self.vector("self_attn.q_a_layernorm", rank);
                        self.matrix("self_attn.q_b_proj", queries, rank, by_head);
                    }
                    None => self.matrix("self_attn.q_proj", queries, hidden, by_head),
                }
                let latent = kv_rank.saturating_add(rope_dim);
                self.matrix("self_attn.kv_a_proj_with_mqa", latent, hidden, Cut::Whole);
                self.vector("self_attn.kv_a_layernorm", kv_rank);
                let keys_values = product(&[heads, nope_dim.saturating_add(v_dim)]);
                self.matrix("self_attn.kv_b_proj", keys_values, kv_rank, by_head);
                let values = product(&[heads, v_dim]);
                self.matrix("self_attn.o_proj", hidden, values, Cut::Inputs(Axis::Heads(heads)));
            }
        }
    }

    fn ffn(&mut self, ffn: &FfnShape) {
        let hidden = self.hidden;
        match *ffn {
            FfnShape::Dense { inner, bias } => {
                let names = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
                self.gated(names, 1, inner, Axis::Inner(inner));
                if bias {
                    let cut = Cut::Outputs(Axis::Inner(inner));
                    self.cut_vector("mlp.gate_proj", inner, cut);
                    self.cut_vector("mlp.up_proj", inner, cut);
                    self.vector("mlp.down_proj", hidden);
                }
            }
            FfnShape::Moe { experts, inner, shared_inner, shared_gate, gate_bias, .. } => {
                self.plain_matrix("mlp.gate", experts, hidden);
                if gate_bias {
                    let name = "mlp.gate.e_score_correction_bias";
                    self.weights.push(Weight::vector(name, experts, WeightType::F32));
                }
                let names =
                    ["mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"];
                self.gated(names, experts, inner, Axis::ExpertInner(inner));
                if shared_inner > 0 {
                    let names = [
                        "mlp.shared_experts.gate_proj",
                        "mlp.shared_experts.up_proj",
                        "mlp.shared_experts.down_proj",
                    ];
                    self.gated(names, 1, shared_inner, Axis::Inner(shared_inner));
                }
                if shared_gate {
                    self.plain_matrix("mlp.shared_expert_gate", 1, hidden);
                }
            }
        }
    }

    /// Gate and up, cut by outputs, and down, cut by inputs.
    fn gated(&mut self, names: [&'static str; 3], count: u64, inner: u64, axis: Axis) {
        let hidden = self.hidden;
        let [gate, up, down] = names;
        self.matrix(gate, inner, hidden, Cut::Outputs(axis));
        self.matrix(up, inner, hidden, Cut::Outputs(axis));
        self.matrix(down, hidden, inner, Cut::Inputs(axis));
        let last = self.weights.len().saturating_sub(3);
        for weight in &mut self.weights[last..] {
            weight.count = count;
        }
    }

    fn matrix(&mut self, name: &'static str, outputs: u64, inputs: u64, cut: Cut) {
        let stored = if self.skipped(name) { self.shape.plain } else { self.shape.weights };
        self.weights.push(Weight { name, outputs, inputs, count: 1, cut, stored });
    }

    fn plain_matrix(&mut self, name: &'static str, outputs: u64, inputs: u64) {
        let stored = self.shape.plain;
        self.weights.push(Weight { name, outputs, inputs, count: 1, cut: Cut::Whole, stored });
    }

    fn vector(&mut self, name: &'static str, length: u64) {
        self.weights.push(Weight::vector(name, length, self.shape.plain));
    }

    fn cut_vector(&mut self, name: &'static str, length: u64, cut: Cut) {
        self.weights.push(Weight { cut, ..Weight::vector(name, length, self.shape.plain) });
    }

    /// Whether quantization leaves this matrix alone.
    fn skipped(&self, name: &str) -> bool {
        if self.shape.unquantized.is_empty() {
            return false;
        }
        // Between dots, so that `layers.1` does not mean `layers.10`.
        let path = format!(".model.layers.{}.{name}.", self.at);
        self.shape.unquantized.iter().any(|part| path.contains(&format!(".{part}.")))
    }
}

// === impl Weight ===

impl Weight {
    fn vector(name: &'static str, length: u64, stored: WeightType) -> Self {
        Self { name, outputs: length, inputs: 1, count: 1, cut: Cut::Whole, stored }
    }

    /// Values in it.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        product(&[self.outputs, self.inputs, self.count])
    }

    /// Bytes of all of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        product(&[self.stored.matrix_bytes(self.outputs, self.inputs), self.count])
    }

    /// The part of one rank: outputs, inputs and count, where `held` gives the units of an axis that
    /// the rank holds, and `experts` how many of so many experts.
    #[must_use]
    pub fn part(
        &self,
        held: impl Fn(Axis) -> u64,
        experts: impl Fn(u64) -> u64,
    ) -> (u64, u64, u64) {
        let count = match self.cut {
            Cut::Outputs(Axis::ExpertInner(_)) | Cut::Inputs(Axis::ExpertInner(_)) => {
                experts(self.count)
            }
            _ => self.count,
        };
        let share =
            |whole: u64, axis: Axis| (whole / axis.units().max(1)).saturating_mul(held(axis));
        match self.cut {
            Cut::Whole => (self.outputs, self.inputs, count),
            Cut::Outputs(axis) => (share(self.outputs, axis), self.inputs, count),
            Cut::Inputs(axis) => (self.outputs, share(self.inputs, axis), count),
        }
    }

    /// Bytes of `count` parts of `outputs × inputs`, stored as this weight is.
    #[must_use]
    pub fn part_bytes(&self, (outputs, inputs, count): (u64, u64, u64)) -> u64 {
        product(&[self.stored.matrix_bytes(outputs, inputs), count])
    }
}

// === impl Axis ===

impl Axis {
    /// Units in all.
    #[must_use]
    pub fn units(self) -> u64 {
        match self {
            Axis::Heads(units)
            | Axis::KvHeads(units)
            | Axis::Inner(units)
            | Axis::ExpertInner(units)
            | Axis::Embedding(units)
            | Axis::Head(units) => units,
        }
    }
}
