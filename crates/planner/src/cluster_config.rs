//! A whole cluster in one TOML file: the layout, the machines, and the load they serve.
//!
//! ```toml
//! [parallel]              # a ParallelSpec; absent fields have their defaults
//! tensor = 8
//! pipeline = 2
//!
//! [serving]               # optional: a Serving
//! step_tokens = 8192
//!
//! [[nodes]]               # as in a hardware file
//! name = "node"
//! count = 2
//! devices = 8
//! device = "H100"
//! ```
//!
//! - **CC-1** a file is read whole: an unknown key is refused with its position, and no key has two meanings.
//! - **CC-2** every preset parses, and plans on its own nodes for the model that its comment names.

use playhouse_types::ParallelSpec;
use serde::Deserialize;

use crate::hardware::Entry;
use crate::{Hardware, HardwareError, Serving};

/// The contents of a file of `cluster-configs/`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// The layout of the ranks.
    pub parallel: ParallelSpec,
    /// The machines of the cluster.
    pub hardware: Hardware,
    /// The load that the cluster serves.
    pub serving: Serving,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    #[serde(default)]
    parallel: ParallelSpec,
    #[serde(default)]
    serving: Serving,
    nodes: Vec<Entry>,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../cluster-configs/", $name, ".toml")))),*]
    };
}

/// Names and texts of the files that are compiled into the planner.
const PRESETS: &[(&str, &str)] = presets![
    "balanced",
    "high-throughput",
    "low-latency",
    "single-node",
    "multi-node",
    "multi-node-moe",
    "long-context",
];

// === impl ClusterConfig ===

impl ClusterConfig {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// When the text cannot be read; the error gives the position (**CC-1**).
    pub fn parse(text: &str) -> Result<Self, HardwareError> {
        let ClusterFile { parallel, serving, nodes } =
            toml::from_str(text).map_err(|why| HardwareError::Toml(why.to_string()))?;
        Ok(Self { parallel, hardware: Hardware::from_entries(&nodes)?, serving })
    }

    /// Returns the preset called `name`.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let (_, text) = PRESETS.iter().find(|(own, _)| *own == name)?;
        Self::parse(text).ok()
    }

    /// Returns the names of the presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }
}
