//! Where every rank lands: a parallel spec, a model's shape and hardware in; rank map, memory,
//! placement and recommendations out. Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

mod group;
mod inventory;
mod memory;
mod rank_map;
mod rules;
mod shape;
mod slice;
mod traffic;
mod widths;

pub use group::{GroupKind, Groups};
pub use inventory::{Axis, Cut, Inventory, LayerRun, Weight};
pub use memory::{KvType, RankMemory, Serving};
pub use rank_map::{Coordinates, Experts, RANKS_MAX, RankMap, Share};
pub use rules::{RuleSet, Violation, check};
pub use shape::{
    AttentionShape, FfnShape, LayerShape, ModelShape, ShapeError, WeightType,
    limits as shape_limits,
};
pub use slice::Slice;
pub use traffic::{Exchange, Operation, StepLoad};
pub use widths::Widths;
