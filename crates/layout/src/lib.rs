//! The parts of a model, the place of every rank and its share of the model. From the `config.json` of a
//! checkpoint and a parallel spec come the decoder, its weights by name, the place of every rank in every
//! group, its share of the weights, and its device.
//!
//! Pure: no clock, randomness or I/O (**A1**). Whether a layout can run is judged by `playhouse-planner`.
//! Here every spec has a map, a nonsensical spec included, and nothing panics.
#![forbid(unsafe_code)]

mod config;
mod group;
mod inventory;
mod machine;
mod placement;
mod product;
mod rank_id;
mod rank_map;
mod share;
mod slice;
mod weight_type;
mod widths;

pub use config::{
    CONFIG_FILE, ConfigError, GenerationDefaults, ModelShape, limits as config_limits,
};
pub use group::{GroupKind, Groups};
pub use inventory::{Axis, Cut, Inventory, LayerRun, TensorRole, Weight};
pub use machine::{DeviceIndex, Machine};
pub use placement::{CrossDomain, Placement, PlacementError};
pub use product::product;
pub use rank_id::RankId;
pub use rank_map::{Coordinates, RankMap};
pub use share::{ExpertPart, ExpertSlice, Part, Share};
pub use slice::Slice;
pub use weight_type::WeightType;
pub use widths::Widths;
