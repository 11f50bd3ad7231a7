//! A cluster of scripted engines that are slow, or held by a brake, as a test says.

use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, Ledger, Policy, RankStarter,
    StepDeadline, WeightsProgress,
};
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, ParallelSpec};

use crate::caller::LONG;
use crate::engines::brake::Brake;
use crate::engines::scripted::{RankFault, blueprint, layout};

const LIMITS: Limits = Limits {
    max_num_seqs: 64,
    max_num_batched_tokens: 1 << 16,
    prefill_time: Duration::MAX,
    max_model_len: 16384,
    kv_blocks: 1 << 14,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// Returns the fault of ranks that take a time for each step.
#[allow(clippy::disallowed_methods, reason = "computing takes time; nothing is waited for")]
pub(crate) fn paced(step: Duration) -> RankFault {
    Arc::new(move |_, _| {
        std::thread::sleep(step);
        Ok(())
    })
}

/// Returns the fault of ranks whose steps a brake holds.
pub(crate) fn braked(brake: &Brake) -> RankFault {
    let brakes = brake.brakes();
    Arc::new(move |_, _| brakes.before_a_step())
}

/// The replicas and the deadlines of a test's cluster.
pub(crate) struct Setup {
    pub(crate) replicas: u32,
    pub(crate) layout: ParallelSpec,
    pub(crate) step_deadline: StepDeadline,
    pub(crate) no_capacity_timeout: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        let (step_deadline, no_capacity_timeout) = (StepDeadline::Never, LONG);
        Self { replicas: 1, layout: layout(1, 1), step_deadline, no_capacity_timeout }
    }
}

impl Setup {
    pub(crate) async fn start(
        self,
        starter: impl Fn(&ParallelSpec) -> RankStarter + Send + Sync + 'static,
    ) -> (Cluster, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new("test"));
        let config = DeploymentConfig {
            desired: Desired { replicas: self.replicas, layout: self.layout },
            blueprints: Arc::new(move |layout| {
                let blueprint = blueprint(&layout, LIMITS, starter(&layout));
                Box::pin(std::future::ready(Ok(blueprint)))
            }),
            limits: LIMITS,
            weights: WeightsProgress::default(),
            ledger: Arc::new(Ledger::in_memory()),
            control: None,
            devices: 64,
            step_deadline: self.step_deadline,
            policy: Policy::RoundRobin,
            admission: AdmissionLimits {
                requests: Capacity::Fixed(256),
                prompt_tokens: 1 << 24,
                no_capacity_timeout: self.no_capacity_timeout,
            },
            vocab: 1 << 16,
            shared_prompt_max: usize::MAX,
            metrics: Arc::clone(&metrics),
        };
        (Cluster::start(config).await.expect("the cluster starts"), metrics)
    }
}
