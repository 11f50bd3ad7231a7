//! Every weight of a model by name, with the way in which ranks divide it, after Megatron (arXiv 1909.08053):
//! the one list from which a loader reads and from which parameters, bytes of a rank and arithmetic are
//! counted.
//!
//! - **IN-1** the rows and columns of a weight that the ranks of a cut hold add up to the whole weight,
//!   except when there are fewer KV heads than ranks: several ranks then hold the same head.
//! - **IN-2** bytes include scales, zero points and group indices of quantized matrices, counted for
//!   the slice a rank holds.

use playhouse_types::{Attention, DecoderSpec, FeedForward, Gqa, LayerSpec, Mla, Moe};

use crate::{ModelShape, Slice, WeightType};

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
    /// The layers of the run.
    pub layers: Slice,
    /// The spec of each layer of the run.
    pub layer: LayerSpec,
    /// The weights of one layer of the run.
    pub weights: Vec<Weight>,
}

/// One weight, or `count` equal ones: a matrix `outputs × inputs`, or a vector `outputs × 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Role of the weight in the model.
    pub role: TensorRole,
    /// Name in the checkpoint; for a weight of a layer, without `model.layers.N.`.
    pub name: &'static str,
    /// Rows.
    pub outputs: u64,
    /// Columns; 1 for a vector.
    pub inputs: u64,
    /// Whether the weight has one dimension.
    pub is_vector: bool,
    /// Number of equal weights: the experts of a layer, else 1.
    pub count: u64,
    /// Division over ranks.
    pub cut: Cut,
    /// Storage.
    pub stored: WeightType,
}

/// The role of a weight in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// The embedding table.
    Embedding,
    /// The norm before the head.
    FinalNorm,
    /// The language-model head.
    Head,
    /// The norm before attention.
    AttentionNorm,
    /// The query projection.
    Query,
    /// The bias of the query projection.
    QueryBias,
    /// The key projection.
    Key,
    /// The bias of the key projection.
    KeyBias,
    /// The value projection.
    Value,
    /// The bias of the value projection.
    ValueBias,
    /// The projection out of attention.
    AttentionOut,
    /// The bias of the projection out of attention.
    AttentionOutBias,
    /// The norm of each query head.
    QueryNorm,
    /// The norm of each key head.
    KeyNorm,
    /// The projection to the query's rank.
    QueryDown,
    /// The norm of the compressed query.
    QueryDownNorm,
    /// The projection from the query's rank to the heads.
    QueryUp,
    /// The projection to the compressed keys and values, and to the key that all heads share.
    LatentDown,
    /// The norm of the compressed keys and values.
    LatentNorm,
    /// The projection from the compressed keys and values to the heads.
    LatentUp,
    /// The norm before the feed-forward block.
    FeedForwardNorm,
    /// The gate of a dense block.
    Gate,
    /// The bias of the gate.
    GateBias,
    /// The projection that the gate multiplies.
    Up,
    /// The bias of that projection.
    UpBias,
    /// The projection out of a dense block.
    Down,
    /// The bias of the projection out of a dense block.
    DownBias,
    /// The scores of the experts.
    Router,
    /// The bias that the router adds to the scores before choosing.
    RouterCorrection,
    /// The gates of the experts.
    ExpertGate,
    /// The projections that the gates of the experts multiply.
    ExpertUp,
    /// The projections out of the experts.
    ExpertDown,
    /// The gate of the experts that every token passes.
    SharedGate,
    /// The projection that the gate of the shared experts multiplies.
    SharedUp,
    /// The projection out of the shared experts.
    SharedDown,
    /// The gate that scales the output of the shared experts.
    SharedScale,
}

/// The division of a weight over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Every rank holds all of it.
    Whole,
    /// The first of the ranks that divide the axis holds all of the weight: a bias that is added once to a
    /// sum over these ranks.
    First(Axis),
    /// Each rank holds the rows of its units.
    Outputs(Axis),
    /// Each rank holds the columns of its units.
    Inputs(Axis),
}

/// The axis along which a weight is cut, with the number of its units.
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

/// Returns the product of the factors, saturating at the largest number.
#[must_use]
pub fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}

// === impl Inventory ===

impl Inventory {
    /// Returns the weights of `shape`, stored as `shape` says.
    #[must_use]
    pub fn of(shape: &ModelShape) -> Self {
        let ModelShape { spec, weights, plain, unquantized, .. } = shape;
        Self::new(spec, Storage { weights: *weights, plain: *plain, unquantized })
    }

    /// Returns the weights of `spec`, all stored alike.
    #[must_use]
    pub fn plain(spec: &DecoderSpec, stored: WeightType) -> Self {
        Self::new(spec, Storage { weights: stored, plain: stored, unquantized: &[] })
    }

    fn new(spec: &DecoderSpec, storage: Storage<'_>) -> Self {
        let (vocab, hidden) = (spec.vocab as u64, spec.hidden as u64);
        let table = |role, name, axis| Weight {
            role,
            name,
            outputs: vocab,
            inputs: hidden,
            is_vector: false,
            count: 1,
            cut: Cut::Outputs(axis),
            stored: storage.plain,
        };
        let head = || table(TensorRole::Head, "lm_head.weight", Axis::Head(vocab));
        let embedding = "model.embed_tokens.weight";
        Self {
            embedding: table(TensorRole::Embedding, embedding, Axis::Embedding(vocab)),
            runs: runs(spec, &storage),
            norm: Weight::vector(TensorRole::FinalNorm, "model.norm.weight", hidden, storage.plain),
            head: (!spec.tied_embeddings).then(head),
        }
    }

    /// Returns the weights outside of the layers.
    pub fn ends(&self) -> impl Iterator<Item = &Weight> {
        [&self.embedding, &self.norm].into_iter().chain(&self.head)
    }

    /// Returns the sum of a measure over every weight, each counted once.
    #[must_use]
    pub fn total(&self, measure: impl Fn(&Weight) -> u64 + Copy) -> u64 {
        let sum = |sum: u64, next: u64| sum.saturating_add(next);
        let of_run = |run: &LayerRun| {
            product(&[run.weights.iter().map(measure).fold(0, sum), run.layers.count])
        };
        self.ends().map(measure).chain(self.runs.iter().map(of_run)).fold(0, sum)
    }

    /// Returns the runs that overlap `layers`, each with the layers of the run that are within.
    pub fn runs_in(&self, layers: Slice) -> impl Iterator<Item = (&LayerRun, Slice)> {
        self.runs.iter().filter_map(move |run| {
            let first = run.layers.first.max(layers.first);
            let count = run.layers.end().min(layers.end()).saturating_sub(first);
            (count > 0).then_some((run, Slice { first, count }))
        })
    }

    /// Returns the matrix that gives the logits.
    #[must_use]
    pub fn logits(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// How the weights of a decoder are stored.
struct Storage<'a> {
    weights: WeightType,
    plain: WeightType,
    unquantized: &'a [String],
}

fn runs(spec: &DecoderSpec, storage: &Storage<'_>) -> Vec<LayerRun> {
    let mut runs: Vec<LayerRun> = Vec::new();
    for (at, layer) in spec.layers.iter().enumerate() {
        // Only modules that quantization skips make equal layers differ.
        let known = runs.last().filter(|run| run.layer == *layer && storage.unquantized.is_empty());
        let weights = known.map_or_else(|| weights(spec, storage, at), |run| run.weights.clone());
        match runs.last_mut() {
            Some(run) if run.layer == *layer && run.weights == weights => run.layers.count += 1,
            _ => runs.push(LayerRun {
                layers: Slice { first: at as u64, count: 1 },
                layer: *layer,
                weights,
            }),
        }
    }
    runs
}

/// The weights of one layer, `at` layers into the model.
fn weights(spec: &DecoderSpec, storage: &Storage<'_>, at: usize) -> Vec<Weight> {
    let hidden = spec.hidden as u64;
    let LayerSpec { attention, feed_forward, .. } = &spec.layers[at];
    let mut list = LayerList { hidden, storage, at, weights: Vec::with_capacity(20) };
    list.vector(TensorRole::AttentionNorm, "input_layernorm.weight", hidden);
    match attention {
        Attention::Gqa(gqa) => list.gqa(gqa),
        Attention::Mla(mla) => list.mla(mla),
    }
    list.vector(TensorRole::FeedForwardNorm, "post_attention_layernorm.weight", hidden);
    match feed_forward {
        FeedForward::Dense(dense) => list.dense(dense.inner as u64, dense.bias),
        FeedForward::Moe(moe) => list.moe(moe),
    }
    list.weights
}

/// The list of a layer's weights while it is being built.
struct LayerList<'a> {
    hidden: u64,
    storage: &'a Storage<'a>,
    at: usize,
    weights: Vec<Weight>,
}

// === impl LayerList ===

impl LayerList<'_> {
    fn gqa(&mut self, gqa: &Gqa) {
        let hidden = self.hidden;
        let Gqa { heads, kv_heads, head_dim, qkv_bias, out_bias, qk_norm } = *gqa;
        let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(|size| size as u64);
        let (wide, narrow) = (product(&[heads, head_dim]), product(&[kv_heads, head_dim]));
        let (by_head, by_kv) =
            (Cut::Outputs(Axis::Heads(heads)), Cut::Outputs(Axis::KvHeads(kv_heads)));
        for (role, name, rows, cut) in [
            (TensorRole::Query, "self_attn.q_proj.weight", wide, by_head),
            (TensorRole::Key, "self_attn.k_proj.weight", narrow, by_kv),
            (TensorRole::Value, "self_attn.v_proj.weight", narrow, by_kv),
        ] {
            self.matrix(role, name, [rows, hidden], cut);
        }
        if qkv_bias {
            for (role, name, rows, cut) in [
                (TensorRole::QueryBias, "self_attn.q_proj.bias", wide, by_head),
                (TensorRole::KeyBias, "self_attn.k_proj.bias", narrow, by_kv),
                (TensorRole::ValueBias, "self_attn.v_proj.bias", narrow, by_kv),
            ] {
                self.cut_vector(role, name, rows, cut);
            }
        }
        let by_input = Cut::Inputs(Axis::Heads(heads));
        let out = "self_attn.o_proj.weight";
        self.matrix(TensorRole::AttentionOut, out, [hidden, wide], by_input);
        if out_bias {
            let once = Cut::First(Axis::Heads(heads));
            let bias = "self_attn.o_proj.bias";
            self.cut_vector(TensorRole::AttentionOutBias, bias, hidden, once);
        }
        if qk_norm {
            self.vector(TensorRole::QueryNorm, "self_attn.q_norm.weight", head_dim);
            self.vector(TensorRole::KeyNorm, "self_attn.k_norm.weight", head_dim);
        }
    }

    fn mla(&mut self, mla: &Mla) {
        let hidden = self.hidden;
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim } = *mla;
        let [heads, kv_rank, nope_dim, rope_dim, v_dim] =
            [heads, kv_rank, nope_dim, rope_dim, v_dim].map(|size| size as u64);
        let by_head = Cut::Outputs(Axis::Heads(heads));
        let queries = product(&[heads, nope_dim.saturating_add(rope_dim)]);
        match q_rank.map(|rank| rank as u64) {
            Some(rank) => {
                let down = "self_attn.q_a_proj.weight";
                self.matrix(TensorRole::QueryDown, down, [rank, hidden], Cut::Whole);
                self.vector(TensorRole::QueryDownNorm, "self_attn.q_a_layernorm.weight", rank);
                let up = "self_attn.q_b_proj.weight";
                self.matrix(TensorRole::QueryUp, up, [queries, rank], by_head);
            }
            None => {
                let name = "self_attn.q_proj.weight";
                self.matrix(TensorRole::Query, name, [queries, hidden], by_head);
            }
        }
        let latent = kv_rank.saturating_add(rope_dim);
        let down = "self_attn.kv_a_proj_with_mqa.weight";
        self.matrix(TensorRole::LatentDown, down, [latent, hidden], Cut::Whole);
        self.vector(TensorRole::LatentNorm, "self_attn.kv_a_layernorm.weight", kv_rank);
        let keys_values = product(&[heads, nope_dim.saturating_add(v_dim)]);
        let up = "self_attn.kv_b_proj.weight";
        self.matrix(TensorRole::LatentUp, up, [keys_values, kv_rank], by_head);
        let values = product(&[heads, v_dim]);
        let by_input = Cut::Inputs(Axis::Heads(heads));
        let out = "self_attn.o_proj.weight";
        self.matrix(TensorRole::AttentionOut, out, [hidden, values], by_input);
    }

    fn dense(&mut self, inner: u64, bias: bool) {
        self.gated(
            [
                (TensorRole::Gate, "mlp.gate_proj.weight"),
                (TensorRole::Up, "mlp.up_proj.weight"),
                (TensorRole::Down, "mlp.down_proj.weight"),
            ],
            1,
            Axis::Inner(inner),
        );
        if bias {
            let cut = Cut::Outputs(Axis::Inner(inner));
            self.cut_vector(TensorRole::GateBias, "mlp.gate_proj.bias", inner, cut);
            self.cut_vector(TensorRole::UpBias, "mlp.up_proj.bias", inner, cut);
            let once = Cut::First(Axis::Inner(inner));
            self.cut_vector(TensorRole::DownBias, "mlp.down_proj.bias", self.hidden, once);
        }
    }

    fn moe(&mut self, moe: &Moe) {
        let hidden = self.hidden;
        let Moe { experts, inner, shared_inner, shared_gate, correction_bias, .. } = *moe;
        let [experts, inner, shared_inner] = [experts, inner, shared_inner].map(|size| size as u64);
        self.plain_matrix(TensorRole::Router, "mlp.gate.weight", [experts, hidden]);
        if correction_bias {
            let (role, name) = (TensorRole::RouterCorrection, "mlp.gate.e_score_correction_bias");
            self.weights.push(Weight::vector(role, name, experts, WeightType::F32));
        }
        self.gated(
            [
                (TensorRole::ExpertGate, "mlp.experts.gate_proj.weight"),
                (TensorRole::ExpertUp, "mlp.experts.up_proj.weight"),
                (TensorRole::ExpertDown, "mlp.experts.down_proj.weight"),
            ],
            experts,
            Axis::ExpertInner(inner),
        );
        if shared_inner > 0 {
            self.gated(
                [
                    (TensorRole::SharedGate, "mlp.shared_experts.gate_proj.weight"),
                    (TensorRole::SharedUp, "mlp.shared_experts.up_proj.weight"),
                    (TensorRole::SharedDown, "mlp.shared_experts.down_proj.weight"),
                ],
                1,
                Axis::Inner(shared_inner),
            );
        }
        if shared_gate {
            let name = "mlp.shared_expert_gate.weight";
            self.plain_matrix(TensorRole::SharedScale, name, [1, hidden]);
        }
    }

    /// Gate and up, cut by outputs, and down, cut by inputs; `count` of each.
    fn gated(&mut self, names: [(TensorRole, &'static str); 3], count: u64, axis: Axis) {
        let (hidden, inner) = (self.hidden, axis.units());
        let [gate, up, down] = names;
        self.matrix(gate.0, gate.1, [inner, hidden], Cut::Outputs(axis));
        self.matrix(up.0, up.1, [inner, hidden], Cut::Outputs(axis));
        self.matrix(down.0, down.1, [hidden, inner], Cut::Inputs(axis));
        let last = self.weights.len().saturating_sub(3);
        for weight in &mut self.weights[last..] {
            weight.count = count;
        }
    }

    fn matrix(
        &mut self,
        role: TensorRole,
        name: &'static str,
        [outputs, inputs]: [u64; 2],
        cut: Cut,
    ) {
        let stored = if self.is_skipped(name) { self.storage.plain } else { self.storage.weights };
        let (is_vector, count) = (false, 1);
        self.weights.push(Weight { role, name, outputs, inputs, is_vector, count, cut, stored });
    }

    fn plain_matrix(&mut self, role: TensorRole, name: &'static str, sides: [u64; 2]) {
        self.matrix(role, name, sides, Cut::Whole);
        if let Some(weight) = self.weights.last_mut() {
            weight.stored = self.storage.plain;
        }
    }

    fn vector(&mut self, role: TensorRole, name: &'static str, length: u64) {
        self.cut_vector(role, name, length, Cut::Whole);
    }

    fn cut_vector(&mut self, role: TensorRole, name: &'static str, length: u64, cut: Cut) {
        let whole = Weight::vector(role, name, length, self.storage.plain);
        self.weights.push(Weight { cut, ..whole });
    }

    /// Whether quantization leaves this matrix alone.
    fn is_skipped(&self, name: &str) -> bool {
        if self.storage.unquantized.is_empty() {
            return false;
        }
        // Between dots, so that `layers.1` does not mean `layers.10`.
        let path = format!(".model.layers.{}.{name}.", self.at);
        self.storage.unquantized.iter().any(|part| path.contains(&format!(".{part}.")))
    }
}

// === impl Weight ===

impl Weight {
    fn vector(role: TensorRole, name: &'static str, length: u64, stored: WeightType) -> Self {
        let (outputs, inputs, count, cut) = (length, 1, 1, Cut::Whole);
        Self { role, name, outputs, inputs, is_vector: true, count, cut, stored }
    }

    /// Returns the name of the weight in the checkpoint, given the layer it is in.
    #[must_use]
    pub fn full_name(&self, layer: Option<u64>) -> String {
        match layer {
            Some(layer) => format!("model.layers.{layer}.{}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// Returns the number of values in the weight.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        product(&[self.outputs, self.inputs, self.count])
    }

    /// Returns the number of bytes of the whole weight.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.part_bytes((self.outputs, self.inputs, self.count))
    }

    /// Returns the number of bytes of `count` parts of `outputs × inputs`, stored as this weight is.
    #[must_use]
    pub fn part_bytes(&self, (outputs, inputs, count): (u64, u64, u64)) -> u64 {
        product(&[self.stored.matrix_bytes(outputs, inputs), count])
    }

    /// Returns whether the weight belongs to the routed experts.
    #[must_use]
    pub fn is_of_experts(&self) -> bool {
        matches!(self.cut, Cut::Outputs(Axis::ExpertInner(_)) | Cut::Inputs(Axis::ExpertInner(_)))
    }
}

// === impl Axis ===

impl Axis {
    /// Returns the number of units of the axis.
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
