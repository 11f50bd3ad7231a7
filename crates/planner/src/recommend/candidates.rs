//! The layouts that a recommendation examines.

use playhouse_types::{Attention, ExpertParallel, ParallelSpec};

use crate::ModelShape;

/// Most layouts of one recommendation.
pub const CANDIDATES_MAX: usize = 4_000;

/// Returns every layout that uses all `devices`: data × pipeline × tensor × prefill context, each with the
/// variants that the model can use: attention-DP for experts and latent attention, decode context where KV
/// would be replicated, each width of expert parallelism. All plain layouts come first, then the others from
/// narrow stages to wide ones; the second value tells whether [`CANDIDATES_MAX`] cut the widest.
#[must_use]
pub fn candidates(shape: &ModelShape, devices: u64) -> (Vec<ParallelSpec>, bool) {
    let Ok(devices) = u32::try_from(devices) else { return (Vec::new(), true) };
    let model = Model::of(shape);
    let mut specs = plain(devices, shape.spec.layers.len());
    for at in 0..specs.len() {
        // A width beyond the heads breaks a rule; its variants would break the same one.
        if u64::from(specs[at].tensor) <= model.heads {
            model.variants(&specs[at].clone(), &mut specs);
        }
        if specs.len() > CANDIDATES_MAX {
            specs.truncate(CANDIDATES_MAX);
            return (specs, true);
        }
    }
    (specs, false)
}

/// Returns every data × pipeline × tensor × prefill context, the narrowest stages first.
fn plain(devices: u32, layers: usize) -> Vec<ParallelSpec> {
    let mut specs = Vec::new();
    for pipeline in divisors(devices).filter(|&stages| stages as usize <= layers) {
        for data in divisors(devices / pipeline) {
            for prefill_context in divisors(devices / pipeline / data) {
                let tensor = devices / pipeline / data / prefill_context;
                specs.push(ParallelSpec {
                    tensor,
                    pipeline,
                    data,
                    prefill_context,
                    ..ParallelSpec::default()
                });
            }
        }
    }
    specs.sort_by_key(|spec| {
        (u64::from(spec.tensor) * u64::from(spec.prefill_context), spec.pipeline)
    });
    specs
}

/// The properties of a model that decide which variants it can use.
struct Model {
    heads: u64,
    /// KV heads that ranks divide; a latent counts as one.
    kv_heads: u64,
    latent: bool,
    routed: bool,
}

// === impl Model ===

impl Model {
    fn of(shape: &ModelShape) -> Self {
        let first = shape.spec.layers.first().map(|layer| layer.attention);
        let (heads, kv_heads, latent) = match first {
            Some(Attention::Gqa(gqa)) => (gqa.heads, gqa.kv_heads, false),
            Some(Attention::Mla(mla)) => (mla.heads, 1, true),
            None => (0, 0, false),
        };
        let routed = shape.is_moe();
        Self { heads: heads as u64, kv_heads: kv_heads as u64, latent, routed }
    }

    /// Adds the variants of `plain` that the model can use.
    fn variants(&self, plain: &ParallelSpec, specs: &mut Vec<ParallelSpec>) {
        for attention_data in divisors(plain.tensor) {
            if attention_data > 1 && !(self.latent || self.routed) {
                break;
            }
            let heads = plain.tensor / attention_data;
            for decode_context in divisors(heads.saturating_mul(plain.prefill_context)) {
                if decode_context > 1 && !self.splits_cache(plain, heads, decode_context) {
                    continue;
                }
                let spec = ParallelSpec { attention_data, decode_context, ..plain.clone() };
                self.expert_variants(&spec, specs);
            }
        }
    }

    /// Returns whether a decode-context width splits nothing but copies of KV.
    fn splits_cache(&self, plain: &ParallelSpec, heads: u32, decode_context: u32) -> bool {
        let copies = u64::from(heads).checked_div(self.kv_heads).unwrap_or(0);
        match plain.prefill_context {
            1 => u64::from(decode_context) <= copies,
            context => decode_context == context && (self.latent || copies >= context.into()),
        }
    }

    fn expert_variants(&self, spec: &ParallelSpec, specs: &mut Vec<ParallelSpec>) {
        if spec.attention_data > 1 || spec.decode_context > 1 {
            specs.push(spec.clone());
        }
        if !self.routed {
            return;
        }
        let stage = spec.tensor.saturating_mul(spec.prefill_context);
        let within = divisors(stage).skip(1).map(ExpertParallel::Within);
        let across = (spec.data > 1).then_some(ExpertParallel::AcrossReplicas);
        for expert in within.chain(across) {
            specs.push(ParallelSpec { expert, ..spec.clone() });
            if spec.attention_data > 1 {
                specs.push(ParallelSpec { expert, moe_dense_tensor: Some(1), ..spec.clone() });
            }
        }
    }
}

/// Returns the divisors, smallest first.
fn divisors(number: u32) -> impl DoubleEndedIterator<Item = u32> {
    let mut found: Vec<u32> = (1u32..)
        .take_while(|part| part.saturating_mul(*part) <= number)
        .filter(|part| number.is_multiple_of(*part))
        .flat_map(|part| [part, number / part])
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter()
}
