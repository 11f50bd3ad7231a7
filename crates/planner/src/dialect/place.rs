//! The numbers of a layout that have one flag each, read from settings and written as settings.

use playhouse_types::ParallelSpec;

use super::Key;
use super::settings::Settings;
use super::table::Table;
use super::value::Value;

/// The place of a number in a layout.
enum Place<'s> {
    Number(&'s mut u32),
    /// `None` where it is left open.
    Open(&'s mut Option<u32>),
}

// === impl Settings ===

impl Settings {
    /// Returns the layout that the flags with one number each describe, in the words of `table`.
    pub(super) fn spec(&self, table: &Table) -> ParallelSpec {
        let mut spec = ParallelSpec {
            pipeline_partition: self.sizes(Key::PipelinePartition).map(<[u32]>::to_vec),
            role: table.role(self),
            ..ParallelSpec::default()
        };
        for (key, given) in self.iter() {
            match (place(&mut spec, key), &given.value) {
                (Some(Place::Number(number)), Value::Size(size)) => *number = *size,
                (Some(Place::Open(number)), Value::Size(size)) => *number = Some(*size),
                _ => {}
            }
        }
        spec
    }

    /// Sets the settings in `keys` whose values are not the default, and the layers of each stage.
    pub(super) fn say(&mut self, spec: &ParallelSpec, keys: &[Key]) {
        let (mut spec, mut usual) = (spec.clone(), ParallelSpec::default());
        for key in keys {
            let number = number(&mut spec, *key);
            if let Some(size) = number.filter(|_| number != self::number(&mut usual, *key)) {
                self.set(*key, Value::Size(size));
            }
        }
        if let Some(partition) = spec.pipeline_partition {
            self.set(Key::PipelinePartition, Value::Sizes(partition));
        }
    }
}

fn number(spec: &mut ParallelSpec, key: Key) -> Option<u32> {
    match place(spec, key)? {
        Place::Number(number) => Some(*number),
        Place::Open(number) => *number,
    }
}

fn place(spec: &mut ParallelSpec, key: Key) -> Option<Place<'_>> {
    Some(match key {
        Key::Tensor => Place::Number(&mut spec.tensor),
        Key::Pipeline => Place::Number(&mut spec.pipeline),
        Key::MicroBatchMax => Place::Open(&mut spec.micro_batch_max),
        Key::Data => Place::Number(&mut spec.data),
        Key::DataStartRank => Place::Number(&mut spec.data_start_rank),
        Key::DataLocal => Place::Open(&mut spec.data_local),
        Key::DataRank => Place::Open(&mut spec.data_rank),
        Key::PrefillContext => Place::Number(&mut spec.prefill_context),
        Key::DecodeContext => Place::Number(&mut spec.decode_context),
        Key::KvInterleave => Place::Number(&mut spec.kv_interleave_tokens),
        Key::AttentionData => Place::Number(&mut spec.attention_data),
        Key::AttentionTensor => Place::Open(&mut spec.attention_tensor),
        Key::AttentionContext => Place::Open(&mut spec.attention_context),
        Key::MoeTensor => Place::Open(&mut spec.moe_tensor),
        Key::MoeData => Place::Number(&mut spec.moe_data),
        Key::MoeCluster => Place::Number(&mut spec.moe_cluster),
        Key::MoeDenseTensor => Place::Open(&mut spec.moe_dense_tensor),
        Key::HeadTensor => Place::Open(&mut spec.head_tensor),
        Key::Redundant => Place::Number(&mut spec.redundant_experts),
        _ => return None,
    })
}
