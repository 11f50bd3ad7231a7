//! The start of the replicas, while clients are answered already: what they ask for waits until a replica
//! serves.

use std::path::PathBuf;

use playhouse_cluster::{Blueprints, Cluster, ControlPlane, StartError};
use playhouse_types::ParallelSpec;

use super::join_token;
use crate::banner::Banner;
use crate::error::CliError;
use crate::loading;
use crate::signals::StopSignal;

/// The reason why a head ends before it has served.
pub(super) enum Early {
    Failure(CliError),
    Signal(StopSignal),
}

/// The start of the replicas, while clients are answered already.
pub(super) struct Start {
    pub(super) blueprints: Blueprints,
    pub(super) layout: ParallelSpec,
    /// Whether ranks load in processes of their own.
    pub(super) shows_loading: bool,
    pub(super) nodes: Option<AwaitedNodes>,
}

/// The nodes that a head waits for.
pub(super) struct AwaitedNodes {
    pub(super) control: ControlPlane,
    pub(super) join_token_file: Option<PathBuf>,
    pub(super) banner: Banner,
}

// === impl Start ===

impl Start {
    /// Launches the replicas and waits until one serves.
    pub(super) async fn run(self, cluster: &Cluster) -> Result<(), CliError> {
        if let Some(AwaitedNodes { control, join_token_file, banner }) = self.nodes {
            // Errors of the layout are reported before the head waits for nodes.
            let _first = (self.blueprints)(self.layout).await.map_err(CliError::failure)?;
            if let Some(file) = &join_token_file {
                join_token::keep(file, &control)?;
            }
            banner.print()?;
        }
        // The launch may wait for nodes. Their ranks are left for the next head if it is given up.
        cluster.launch().await.map_err(not_started)?;
        tokio::select! {
            serving = cluster.serving() => serving.map_err(not_started),
            never = loading::show(cluster.front_door()), if self.shows_loading => match never {},
        }
    }
}

pub(super) fn not_started(why: StartError) -> CliError {
    CliError::failure(why.to_string())
}
