//! Where every rank lands: a parallel spec, a model's shape and hardware in; rank map, memory,
//! placement and recommendations out. Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

mod inventory;
mod rules;
mod shape;
mod widths;

pub use inventory::{Axis, Cut, Inventory, Weight};
pub use rules::{RuleSet, Violation, check};
pub use shape::{
    AttentionShape, FfnShape, LayerShape, ModelShape, ShapeError, WeightType,
    limits as shape_limits,
};
pub use widths::Widths;
