//! The blueprints by which replicas of a model are made, for every layout.

use std::sync::Arc;

use parking_lot::Mutex;
use playhouse_cluster::{Blueprint, Blueprints};
use playhouse_model::Dtype;
use playhouse_scheduler::Limits;
use playhouse_types::ParallelSpec;
use tokio::task::spawn_blocking;

use crate::error::CliError;
use crate::isolation::Venue;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::sizing::CacheSize;

/// The data that all replicas of a deployment share.
pub(crate) struct Model {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) dtype: Dtype,
    pub(crate) venue: Venue,
    /// The sizes that do not depend on the layout.
    pub(crate) limits: Limits,
    pub(crate) cache: CacheSize,
    /// The number of requests in one step of a pipeline.
    pub(crate) micro_batch_max: Option<u32>,
    /// The number of steps in flight, if it was given.
    pub(crate) concurrent_batches: Option<usize>,
}

// === impl Model ===

impl Model {
    /// Returns the blueprints that make replicas of this model.
    pub(crate) fn blueprints(self) -> Blueprints {
        // The blueprints of processes hold no weights.
        let (model, known) = (Arc::new(self), Arc::<Mutex<Vec<Blueprint>>>::default());
        Arc::new(move |layout| {
            let (model, known) = (Arc::clone(&model), Arc::clone(&known));
            Box::pin(async move {
                let made = spawn_blocking(move || model.recall(&layout, &known)).await;
                made.map_err(|why| why.to_string())?
            })
        })
    }

    fn recall(
        &self,
        layout: &ParallelSpec,
        known: &Mutex<Vec<Blueprint>>,
    ) -> Result<Blueprint, String> {
        let mut known = known.lock();
        if let Some(blueprint) = known.iter().find(|blueprint| blueprint.layout == *layout) {
            return Ok(blueprint.clone());
        }
        // The hint is about flags of `serve`. Several errors have separate lines there.
        let blueprint = self.blueprint(layout);
        let blueprint = blueprint.map_err(|why| why.message.replace("\nerror: ", "; "))?;
        known.extend(self.venue.control().map(|_| blueprint.clone()));
        Ok(blueprint)
    }

    fn blueprint(&self, layout: &ParallelSpec) -> Result<Blueprint, CliError> {
        let parallel = ParallelSpec { micro_batch_max: self.micro_batch_max, ..layout.clone() };
        let Loaded { checkpoint, shape, .. } = &*self.loaded;
        let served = ServedLayout::new(checkpoint, &parallel, shape, self.dtype)?;
        let stages = served.map.stages().len();
        let concurrent_batches = self.concurrent_batches.unwrap_or(stages + 1);
        let limits = Limits {
            // A pipeline that has one step at a time need not split its batch.
            micro_batches: stages.min(concurrent_batches),
            micro_batch_max: served.micro_batch_max,
            // Other stages learn a token only through its plan.
            lookahead: stages == 1,
            ..self.limits
        };
        Ok(Blueprint {
            layout: layout.clone(),
            map: Arc::clone(&served.map),
            concurrent_batches,
            limits,
            starter: self.venue.starters(&self.loaded, &served, &limits, self.cache)?,
            shares: served.shares,
        })
    }
}
