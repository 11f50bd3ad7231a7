//! Where every rank lands: a parallel spec, a model's shape and hardware in; rank map, memory,
//! placement and recommendations out. Pure: no clock, randomness or I/O (**A1**).
#![forbid(unsafe_code)]

mod cluster_config;
pub mod dialect;
mod explain;
mod group;
mod hardware;
mod inventory;
mod memory;
mod placement;
mod plan;
mod rank_map;
mod recommend;
mod roofline;
mod rules;
mod shape;
mod slice;
mod traffic;
mod widths;

pub use cluster_config::ClusterConfig;
pub use explain::layout;
pub use group::{GroupKind, Groups};
pub use hardware::{DeviceType, Hardware, HardwareError, Node, Seat};
pub use inventory::{Axis, Cut, Inventory, LayerRun, Weight};
pub use memory::{KvType, RankMemory, Serving};
pub use placement::{CrossDomain, Placement, PlacementError};
pub use plan::{Plan, PlannedRank, StageTraffic};
pub use rank_map::{Coordinates, Experts, RankMap, Share};
pub use recommend::{
    CANDIDATES_MAX, Cuts, Goal, RANKED_MAX, Ranked, Recommendation, Wish, candidates, recommend,
};
pub use roofline::{Speed, Workload};
pub use rules::{Change, Field, RANKS_MAX, RuleSet, Violation, check};
pub use shape::{
    AttentionShape, FfnShape, LayerShape, ModelShape, ShapeError, WeightType,
    limits as shape_limits,
};
pub use slice::Slice;
pub use traffic::{Exchange, Operation, StepLoad};
pub use widths::Widths;
