//! The operators' desired state, kept in a folder across restarts of the head.

use std::path::Path;
use std::sync::Arc;

use playhouse_cluster::{Desired, Ledger, Recovered, replica_layout};
use playhouse_types::ParallelSpec;
use tracing::warn;

use crate::error::CliError;

/// The ledger of this head.
pub(crate) struct State {
    pub(crate) ledger: Arc<Ledger>,
    /// The folder of the state, for people.
    pub(crate) text: String,
}

// === impl State ===

impl State {
    /// Opens the journal in `folder`, and replaces the layout of the flags by the one that operators
    /// asked for last.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be used.
    pub(crate) fn open(
        folder: Option<&Path>,
        parallel: &mut ParallelSpec,
    ) -> Result<Self, CliError> {
        let Some(folder) = folder else {
            let text = "in memory: what is changed lasts until a restart (--state-dir keeps it)";
            return Ok(Self { ledger: Arc::new(Ledger::in_memory()), text: text.to_owned() });
        };
        let (ledger, recovered) = Ledger::open(folder).map_err(|why| {
            CliError::failure(format!("--state-dir: {why}"))
                .hint("give a folder of its own that this head can write")
        })?;
        let Recovered { desired, interrupted, .. } = recovered;
        if let Some(id) = interrupted {
            warn!(operation = %id, "the head ended during an operation, which has failed");
        }
        let mut text = folder.display().to_string();
        if let Some(desired) = desired.filter(|desired| *desired != desired_of(parallel)) {
            let asked = words(&desired);
            text += &format!(
                ": {asked}, as was asked for there; the flags say {}",
                words(&desired_of(parallel))
            );
            follow(desired, parallel);
        }
        Ok(Self { ledger: Arc::new(ledger), text })
    }
}

fn desired_of(parallel: &ParallelSpec) -> Desired {
    let layout = replica_layout(parallel);
    Desired { replicas: parallel.data, layout }
}

fn follow(desired: Desired, parallel: &mut ParallelSpec) {
    // A head that was scaled to no replica still plans one.
    let data = desired.replicas.max(1);
    let micro_batch_max = parallel.micro_batch_max;
    *parallel = ParallelSpec { data, micro_batch_max, ..desired.layout };
}

fn words(desired: &Desired) -> String {
    let Desired { replicas, layout: ParallelSpec { tensor, pipeline, .. } } = desired;
    format!("dp {replicas}, tp {tensor}, pp {pipeline}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_comes_before_the_flags() {
        let folder = std::env::temp_dir().join(format!("playhouse-state-{}", std::process::id()));
        let flags = ParallelSpec { data: 2, ..ParallelSpec::default() };
        let mut parallel = flags.clone();
        let state = State::open(Some(&folder), &mut parallel).expect("a new folder");
        assert_eq!((&parallel, state.text), (&flags, folder.display().to_string()));
        let layout = ParallelSpec {
            tensor: 1,
            pipeline: 2,
            pipeline_partition: Some(vec![1, 2]),
            ..ParallelSpec::default()
        };
        state.ledger.set_desired(Desired { replicas: 0, layout }).expect("there is room");
        drop(state.ledger);

        let state = State::open(Some(&folder), &mut parallel).expect("it opens");
        let expected = ParallelSpec {
            data: 1,
            pipeline: 2,
            pipeline_partition: Some(vec![1, 2]),
            ..ParallelSpec::default()
        };
        assert_eq!(parallel, expected);
        assert!(state.text.ends_with("the flags say dp 2, tp 1, pp 1"), "{}", state.text);
        assert_eq!(state.ledger.desired().expect("it is set").replicas, 0);
        let in_use = State::open(Some(&folder), &mut parallel).map(drop).expect_err("it is held");
        assert!(in_use.text().contains("in use by another head"), "{}", in_use.text());
        drop(state);
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}
