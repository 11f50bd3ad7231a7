//! Every weight of a model by name, with the way in which ranks divide it, after Megatron (arXiv 1909.08053):
//! the one list from which a loader reads and from which parameters, bytes of a rank and arithmetic are
//! counted.
//!
//! - **IN-1** the rows and columns of a weight that the ranks of a cut hold add up to the whole weight,
//!   except when there are fewer KV heads than ranks: several ranks then hold the same head.
//! - **IN-2** bytes include scales, zero points and group indices of quantized matrices, counted for
//!   the slice a rank holds.
//! - **IN-3** [`Inventory::parameters`] and [`Inventory::bytes`] are exact for the families that the reader of
//!   `config.json` knows.

mod layer_list;

use playhouse_types::{DecoderSpec, LayerSpec};

use self::layer_list::weights;
use crate::config::ModelShape;
use crate::product::product;
use crate::slice::Slice;
use crate::weight_type::WeightType;

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

    /// Returns the number of parameters of the model, each counted once: a tied head adds none. The extra layers
    /// of multi-token prediction are not counted.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.total(Weight::parameters)
    }

    /// Returns the number of bytes of the tensors of a checkpoint, scales and zero points included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.total(Weight::bytes)
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
