//! Where every rank lands: a parallel spec, a model's shape and hardware in; rank map, memory,
//! placement and recommendations out. Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

pub mod dialect;
mod rules;
mod shape;
mod widths;

pub use rules::{Change, Field, RANKS_MAX, RuleSet, Violation, check};
pub use shape::{AttentionShape, FfnShape, LayerShape, ModelShape, WeightType};
pub use widths::Widths;
