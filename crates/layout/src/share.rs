//! The share of a model that one rank holds.
//!
//! - **LS-1** nothing is divided silently: where a count does not divide, the first parts hold one unit more;
//!   where there are fewer KV heads than ranks, consecutive ranks hold the same head.
//!
//! The vocabulary is cut like everything else, without padding, the remainder to the first ranks. (vLLM pads
//! the vocabulary to a multiple of 64 and of the tensor width.)

use playhouse_types::{Attention, ExpertPlacement};
use serde::{Deserialize, Serialize};

use crate::inventory::{Axis, Cut, Inventory, Weight};
use crate::product::product;
use crate::slice::Slice;

/// The share of a model that one rank holds, whatever the sizes of the model's layers.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Share {
    /// Stage of the pipeline.
    pub stage: Part,
    /// Layers of the stage.
    pub layers: Slice,
    /// Part of the heads of each layer.
    pub attention: Part,
    /// Part of the inner features of dense blocks and shared experts.
    pub dense: Part,
    /// Part of the inner features of each routed expert that the rank holds.
    pub expert_slice: Part,
    /// Part of the routed experts of each layer.
    pub experts: ExpertPart,
    /// Part of the rows of the embedding table, which the first stage has.
    pub embedding: Part,
    /// Part of the rows of the language-model head, which the last stage has.
    pub head: Part,
}

/// One of several equal parts of a whole.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Part {
    /// Index of the part, counted from 0.
    pub at: u32,
    /// Number of parts.
    pub of: u32,
}

/// One of several parts of the experts of a layer, physical copies included.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct ExpertPart {
    /// The part.
    pub part: Part,
    /// Rule by which experts are placed together.
    pub placement: ExpertPlacement,
    /// Physical experts beyond the logical ones.
    pub redundant: u64,
}

/// The physical experts `first`, `first + step`, …: `count` of them. Physical expert `p` is a copy of logical
/// expert `p % experts` until load is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertSlice {
    /// First physical expert.
    pub first: u64,
    /// Number of physical experts.
    pub count: u64,
    /// Distance from one expert to the next.
    pub step: u64,
}

// === impl Share ===

impl Share {
    /// Returns the share that holds everything of a model with `layers` layers.
    #[must_use]
    pub fn whole(layers: u64) -> Self {
        let (placement, redundant) = (ExpertPlacement::Linear, 0);
        Self {
            stage: Part::WHOLE,
            layers: Slice { first: 0, count: layers },
            attention: Part::WHOLE,
            dense: Part::WHOLE,
            expert_slice: Part::WHOLE,
            experts: ExpertPart { part: Part::WHOLE, placement, redundant },
            embedding: Part::WHOLE,
            head: Part::WHOLE,
        }
    }

    /// Returns whether the rank embeds tokens.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.stage.at == 0
    }

    /// Returns whether the rank has the language-model head.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.stage.at.checked_add(1) == Some(self.stage.of)
    }

    /// Returns the units of an axis that the rank holds (**LS-1**).
    #[must_use]
    pub fn held(&self, axis: Axis) -> Slice {
        let (part, units) = (self.part_of(axis), axis.units());
        match axis {
            Axis::KvHeads(heads) if heads < u64::from(part.of) => Slice {
                first: heads * u64::from(part.at) / u64::from(part.of),
                count: heads.min(1),
            },
            _ => part.slice(units),
        }
    }

    /// Which part of an axis is held.
    fn part_of(&self, axis: Axis) -> Part {
        match axis {
            Axis::Heads(_) | Axis::KvHeads(_) => self.attention,
            Axis::Inner(_) => self.dense,
            Axis::ExpertInner(_) => self.expert_slice,
            Axis::Embedding(_) => self.embedding,
            Axis::Head(_) => self.head,
        }
    }

    /// Whether something of a weight is held: all but biases that another rank has.
    fn holds(&self, weight: &Weight) -> bool {
        !matches!(weight.cut, Cut::First(axis) if self.part_of(axis).at > 0)
    }

    /// Returns the rows and columns of a weight that the rank holds; no rows where another rank has them.
    #[must_use]
    pub fn slices(&self, weight: &Weight) -> (Slice, Slice) {
        let whole = |count| Slice { first: 0, count };
        let (rows, columns) = (whole(weight.outputs), whole(weight.inputs));
        // A unit, such as a head, may be many rows wide.
        let wide = |whole: u64, axis: Axis| {
            let (width, held) = (whole / axis.units().max(1), self.held(axis));
            Slice {
                first: held.first.saturating_mul(width),
                count: held.count.saturating_mul(width),
            }
        };
        match weight.cut {
            Cut::Whole => (rows, columns),
            Cut::First(_) if self.holds(weight) => (rows, columns),
            Cut::First(_) => (whole(0), columns),
            Cut::Outputs(axis) => (wide(weight.outputs, axis), columns),
            Cut::Inputs(axis) => (rows, wide(weight.inputs, axis)),
        }
    }

    /// Returns outputs, inputs and count of the part of a weight that the rank holds.
    #[must_use]
    pub fn part(&self, weight: &Weight) -> (u64, u64, u64) {
        let (rows, columns) = self.slices(weight);
        let experts = weight.is_of_experts().then(|| self.experts(weight.count).count);
        (rows.count, columns.count, experts.unwrap_or(weight.count))
    }

    /// Returns every weight of which the rank holds a part, with its layer: the embedding table, the layers
    /// in order, norm and head.
    pub fn weights<'a>(
        &self,
        inventory: &'a Inventory,
    ) -> impl Iterator<Item = (Option<u64>, &'a Weight)> {
        let share = *self;
        let in_layers = inventory.runs_in(self.layers).flat_map(|(run, layers)| {
            (layers.first..layers.end())
                .flat_map(|layer| run.weights.iter().map(move |weight| (Some(layer), weight)))
        });
        let outside = |weight| (None, weight);
        let [embedding, norm, head] = self.ends(inventory).map(|end| end.map(outside));
        embedding
            .into_iter()
            .chain(in_layers)
            .chain(norm)
            .chain(head)
            .filter(move |(_, weight)| share.holds(weight))
    }

    /// Returns embedding table, norm and head, as far as the rank holds them.
    fn ends<'a>(&self, inventory: &'a Inventory) -> [Option<&'a Weight>; 3] {
        let (first, last) = (self.is_first(), self.is_last());
        // A tied table that serves both ends is there once; on another stage it is a second copy.
        let head = inventory.head.as_ref().or(Some(&inventory.embedding).filter(|_| !first));
        [
            Some(&inventory.embedding).filter(|_| first),
            Some(&inventory.norm).filter(|_| last),
            head.filter(|_| last),
        ]
    }

    /// Returns the number of bytes of the weights that the rank holds, stored as the inventory says.
    #[must_use]
    pub fn weight_bytes(&self, inventory: &Inventory) -> u64 {
        let part = |weight: &Weight| weight.part_bytes(self.part(weight));
        let in_layers = inventory.runs_in(self.layers).map(|(run, layers)| {
            product(&[run.weights.iter().map(part).fold(0, u64::saturating_add), layers.count])
        });
        let ends = self.ends(inventory).into_iter().flatten().map(part);
        in_layers.chain(ends).fold(0, u64::saturating_add)
    }

    /// Returns the number of values that a layer would keep for one token if the sequence were not split.
    #[must_use]
    pub fn kv_values(&self, attention: &Attention) -> u64 {
        match attention {
            Attention::Gqa(gqa) => product(&[
                2,
                self.held(Axis::KvHeads(gqa.kv_heads as u64)).count,
                gqa.head_dim as u64,
            ]),
            Attention::Mla(mla) => (mla.kv_rank as u64).saturating_add(mla.rope_dim as u64),
        }
    }

    /// Returns the physical experts that the rank holds in a layer with `logical` experts. Linear and
    /// round-robin follow vLLM's rules.
    #[must_use]
    pub fn experts(&self, logical: u64) -> ExpertSlice {
        let ExpertPart { part, placement, redundant } = self.experts;
        let slice = part.slice(logical.saturating_add(redundant));
        match placement {
            ExpertPlacement::Linear => {
                ExpertSlice { first: slice.first, count: slice.count, step: 1 }
            }
            ExpertPlacement::RoundRobin => ExpertSlice {
                first: part.at.into(),
                count: slice.count,
                step: part.of.max(1).into(),
            },
        }
    }
}

// === impl Part ===

impl Part {
    /// The part that is the whole.
    pub const WHOLE: Self = Self { at: 0, of: 1 };

    /// Returns the units of this part when `units` units are divided: sizes differ by at most one, the larger
    /// parts first.
    #[must_use]
    pub fn slice(self, units: u64) -> Slice {
        Slice::even(units, self.of.into(), self.at.into())
    }
}

// === impl ExpertSlice ===

impl ExpertSlice {
    /// Returns the index of each physical expert.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let Self { first, count, step } = *self;
        (0..count).map(move |at| first.saturating_add(at.saturating_mul(step)))
    }
}
