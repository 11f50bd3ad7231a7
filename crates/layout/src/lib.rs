//! What a model is made of, which rank is where, and what it holds: the `config.json` of a checkpoint and a
//! parallel spec in; the decoder, its weights by name, the place of every rank in every group, its share of
//! the weights, and its device out.
//!
//! Pure: no clock, randomness or I/O (**A1**). Whether a layout can run is judged by `playhouse-planner`; here
//! every spec has a map, the spec of nonsense a map of nonsense, and nothing panics.
#![forbid(unsafe_code)]

mod config;
mod group;
mod inventory;
mod machine;
mod placement;
mod rank_id;
mod rank_map;
mod share;
mod slice;
mod widths;

pub use config::{
    CONFIG_FILE, ConfigError, GenerationDefaults, ModelShape, WeightType, limits as config_limits,
};
pub use group::{GroupKind, Groups};
pub use inventory::{Axis, Cut, Inventory, LayerRun, TensorRole, Weight, product};
pub use machine::{DeviceIndex, Machine};
pub use placement::{CrossDomain, Placement, PlacementError};
pub use rank_id::RankId;
pub use rank_map::{Coordinates, RankMap};
pub use share::{ExpertPart, Experts, Part, Share};
pub use slice::Slice;
pub use widths::Widths;
