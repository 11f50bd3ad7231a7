//! TensorRT-LLM: `trtllm-serve`, `Mapping` and the LLM-API's YAML, as of 1.2 and later.

use playhouse_types::{ExpertBalance, ExpertParallel, ParallelSpec};

use crate::Widths;

use super::settings::Settings;
use super::value::Value;
use super::{Key, Meaning, Note, NoteKind, tables};

pub(super) mod refused;

/// The way in which context ranks share work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContextKind {
    /// All-to-all between heads and tokens: attention is tensor-parallel over all ranks.
    Ulysses,
    /// Blocks of tokens go round (also `STAR`).
    Ring,
    /// The KV cache is split over the context ranks while decoding.
    Helix,
}

/// The widths of a `Mapping` after every -1 is settled.
struct Mapping {
    tensor: u32,
    context: u32,
    moe_tensor: u32,
    moe_expert: u32,
    moe_cluster: u32,
    attention_tensor: u32,
    attention_context: u32,
}

pub(super) fn interpret(settings: &Settings, meaning: &mut Meaning) {
    let kind = ContextKind::of(settings);
    let mapping = Mapping::of(settings, kind);
    meaning.spec = mapping.spec(settings, kind);
    if settings.get(Key::KvInterleave).is_some() && meaning.spec.decode_context == 1 {
        meaning.notes.push(Note::new(
            NoteKind::Ignored,
            settings.spelling(Key::KvInterleave),
            "only Helix over more than one rank splits KV blocks",
        ));
    }
    if settings.get(Key::ContextKind).is_some() && mapping.context == 1 {
        meaning.notes.push(Note::new(
            NoteKind::Ignored,
            settings.spelling(Key::ContextKind),
            "there is one context rank",
        ));
    }
    if settings.on(Key::AttentionDataSwitch) && mapping.tensor == 1 {
        meaning.notes.push(Note::new(
            NoteKind::Rewritten,
            settings.spelling(Key::AttentionDataSwitch),
            "with tp_size 1 there is one attention group",
        ));
    }
    if meaning.spec.attention_data > 1 && settings.on(Key::TensorLmHead) {
        meaning.notes.push(Note::new(
            NoteKind::Checked,
            settings.spelling(Key::TensorLmHead),
            "TensorRT-LLM splits the head over one rank or those of a node, by the tokens of a \
             step; the plan splits it over all attention groups",
        ));
    }
}

// === impl ContextKind ===

impl ContextKind {
    fn of(settings: &Settings) -> Self {
        match settings.text(Key::ContextKind) {
            Some("HELIX") => Self::Helix,
            Some("RING" | "STAR") => Self::Ring,
            _ => Self::Ulysses,
        }
    }

    /// Returns the kind that describes `spec`.
    fn for_spec(spec: &ParallelSpec, widths: &Widths) -> Self {
        if spec.decode_context > 1 {
            Self::Helix
        } else if widths.attention_context == 1 && spec.moe_data == spec.prefill_context {
            Self::Ulysses
        } else {
            Self::Ring
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ulysses => "ULYSSES",
            Self::Ring => "RING",
            Self::Helix => "HELIX",
        }
    }
}

// === impl Mapping ===

impl Mapping {
    /// Settles every -1 in the engine's order, with the engine's integer divisions.
    fn of(settings: &Settings, kind: ContextKind) -> Self {
        let size = |key| settings.size(key);
        let (tensor, context) =
            (size(Key::Tensor).unwrap_or(1), size(Key::PrefillContext).unwrap_or(1));
        let all = tensor.saturating_mul(context);
        let moe_world = if kind == ContextKind::Ulysses { tensor } else { all };
        let moe_cluster = size(Key::MoeCluster).unwrap_or(1);
        let share = |whole: u32, other: u32| whole.checked_div(other).unwrap_or(0);
        let rest = |other: u32| share(moe_world, other.saturating_mul(moe_cluster));
        let (moe_tensor, moe_expert) = match (size(Key::MoeTensor), size(Key::ExpertWidth)) {
            (None, None) => (share(moe_world, moe_cluster), 1),
            (None, Some(expert)) => (rest(expert), expert),
            (Some(tensor), None) => (tensor, rest(tensor)),
            (Some(tensor), Some(expert)) => (tensor, expert),
        };
        let (attention_tensor, attention_context) =
            match (size(Key::AttentionTensor), size(Key::AttentionContext)) {
                (None, None) if kind == ContextKind::Ulysses => (all, 1),
                (None, None) => (tensor, context),
                (None, Some(context)) => (share(all, context), context),
                (Some(tensor), None) => (tensor, share(all, tensor)),
                (Some(tensor), Some(context)) => (tensor, context),
            };
        Self {
            tensor,
            context,
            moe_tensor,
            moe_expert,
            moe_cluster,
            attention_tensor,
            attention_context,
        }
    }

    fn spec(&self, settings: &Settings, kind: ContextKind) -> ParallelSpec {
        let helix = kind == ContextKind::Helix && self.context > 1;
        let groups = if settings.on(Key::AttentionDataSwitch) { self.tensor } else { 1 };
        let ulysses = kind == ContextKind::Ulysses;
        let mut spec = ParallelSpec {
            tensor: self.tensor,
            pipeline: settings.size(Key::Pipeline).unwrap_or(1),
            pipeline_partition: settings.sizes(Key::PipelinePartition).map(<[u32]>::to_vec),
            prefill_context: self.context,
            decode_context: if helix { self.context } else { 1 },
            kv_interleave_tokens: settings.size(Key::KvInterleave).filter(|_| helix).unwrap_or(1),
            attention_data: groups,
            // Helix makes one tensor group of the context ranks for what is no attention.
            dense_tensor: helix.then_some(self.tensor.saturating_mul(self.context)),
            head_tensor: (groups > 1 && !settings.on(Key::TensorLmHead)).then_some(1),
            expert: match self.moe_expert {
                1 => ExpertParallel::Off,
                width => ExpertParallel::Within(width),
            },
            // With Ulysses the experts are split over the tensor ranks: a copy per context rank.
            moe_data: if ulysses { self.context } else { 1 },
            moe_cluster: self.moe_cluster,
            expert_balance: settings
                .size(Key::LayerUpdates)
                .is_some_and(|updates| updates > 0)
                .then(ExpertBalance::default),
            role: tables::TENSORRT.role(settings),
            ..ParallelSpec::default()
        };
        self.explicit(&mut spec, settings, ulysses);
        spec
    }

    /// Sets the widths that the derivation of open widths would not find by itself.
    fn explicit(&self, spec: &mut ParallelSpec, settings: &Settings, ulysses: bool) {
        // Ulysses with another context is refused; what is left of it is the usual layout.
        let (tensor, context) = if ulysses && self.attention_context > 1 {
            (self.tensor.saturating_mul(self.context), 1)
        } else {
            (self.attention_tensor, self.attention_context)
        };
        // The engine's attention width counts the attention groups in.
        let tensor = match tensor.checked_rem(spec.attention_data) {
            Some(0) => tensor / spec.attention_data,
            _ => tensor,
        };
        // A quotient of zero follows from another width, which the rules report.
        let says = |width: u32, open: u32, key: Key| {
            (width != open && (width != 0 || settings.size(key) == Some(0))).then_some(width)
        };
        let open = Widths::of(spec).attention_context;
        spec.attention_context = says(context, open, Key::AttentionContext);
        let open = Widths::of(spec).attention_tensor;
        spec.attention_tensor = says(tensor, open, Key::AttentionTensor);
        let open = Widths::of(spec).moe_tensor;
        spec.moe_tensor = says(self.moe_tensor, open, Key::MoeTensor);
    }
}

/// Returns the settings for `spec`, which TensorRT-LLM can express. `slots` are the expert slots of a layer
/// with redundant experts.
pub(super) fn settings_of(spec: &ParallelSpec, slots: Option<u32>) -> Settings {
    let widths = Widths::of(spec);
    let kind = ContextKind::for_spec(spec, &widths);
    let mut settings = Settings::default();
    let numbers =
        [Key::Tensor, Key::Pipeline, Key::PrefillContext, Key::MoeCluster, Key::KvInterleave];
    settings.say(spec, &numbers);
    if kind != ContextKind::Ulysses {
        settings.set(Key::ContextKind, Value::Text(kind.name().to_owned()));
    }
    if widths.moe_expert != 1 {
        settings.set(Key::ExpertWidth, Value::Size(widths.moe_expert));
    }
    let attention_tensor = widths.attention_tensor.saturating_mul(spec.attention_data);
    let defaults = Mapping::of(&settings, kind);
    if (attention_tensor, widths.attention_context)
        != (defaults.attention_tensor, defaults.attention_context)
    {
        settings.set(Key::AttentionTensor, Value::Size(attention_tensor));
        settings.set(Key::AttentionContext, Value::Size(widths.attention_context));
    }
    if widths.moe_tensor != defaults.moe_tensor {
        settings.set(Key::MoeTensor, Value::Size(widths.moe_tensor));
    }
    if spec.attention_data > 1 {
        settings.set(Key::AttentionDataSwitch, Value::Switch(true));
        if spec.head_tensor.is_none_or(|width| width != 1) {
            settings.set(Key::TensorLmHead, Value::Switch(true));
        }
    }
    if spec.expert_balance.is_some() {
        settings.set(Key::LayerUpdates, Value::Size(1));
    }
    if let Some(slots) = slots {
        settings.set(Key::ExpertSlots, Value::Size(slots));
    }
    if let Some(role) = tables::TENSORRT.role_word(spec.role) {
        settings.set(Key::Role, Value::Text(role.to_owned()));
    }
    settings
}
