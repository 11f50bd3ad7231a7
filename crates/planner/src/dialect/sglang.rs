//! `python -m sglang.launch_server`, as of 0.5.

use playhouse_types::{ExpertBalance, ExpertParallel, ParallelSpec};

use crate::Widths;

use super::settings::Settings;
use super::value::Value;
use super::{Key, Meaning, Note, NoteKind, tables, vllm};

pub(super) mod refused;

/// Steps between rearrangements when `--eplb-rebalance-num-iterations` is not given.
const INTERVAL_STEPS: u32 = 1000;

pub(super) fn interpret(settings: &Settings, meaning: &mut Meaning) {
    let mut spec = layout(settings);
    replicas(settings, &mut spec, &mut meaning.notes);
    experts(settings, &mut spec, &mut meaning.notes);
    heads(settings, &mut spec);
    vllm::idle_balance(settings, &spec, &mut meaning.notes);
    meaning.spec = spec;
}

/// Returns the layout that a command describes, without replicas and experts. `--tp-size` is the width of a
/// stage and includes the context ranks.
fn layout(settings: &Settings) -> ParallelSpec {
    let mut spec = settings.spec(&tables::SGLANG);
    spec.expert_balance = settings.on(Key::Balance).then(|| balance(settings));
    let (stage, context) = (spec.tensor, spec.attention_context.take().unwrap_or(1));
    match stage.checked_rem(context) {
        Some(0) => {
            spec.tensor = stage / context;
            spec.prefill_context = context;
            spec.dense_tensor = (context > 1).then_some(stage);
        }
        // A width that does not divide the stage has no exact translation; the rules report it.
        Some(_) => spec.attention_context = Some(context),
        None => spec.prefill_context = 0,
    }
    spec
}

/// Returns the balancing of experts: load is recorded over the interval unless the recorder's buffer says
/// otherwise.
fn balance(settings: &Settings) -> ExpertBalance {
    let interval = settings.size(Key::BalanceInterval).unwrap_or(INTERVAL_STEPS);
    let window = settings.size(Key::BalanceWindow).unwrap_or(interval);
    ExpertBalance { window_steps: window, interval_steps: interval }
}

/// Sets the replicas: `--dp-size` counts replicas, or attention groups with `--enable-dp-attention`
/// (**PL-6**). A router makes each replica a server with a `--dp-size` of 1.
fn replicas(settings: &Settings, spec: &mut ParallelSpec, notes: &mut Vec<Note>) {
    let data = settings.size(Key::Data).unwrap_or(1);
    let groups = settings.size(Key::AttentionData).unwrap_or(1);
    let servers = settings.on(Key::RouterServers);
    let switched = settings.on(Key::AttentionDataSwitch) && !servers;
    (spec.data, spec.attention_data) =
        if switched && groups == 1 { (1, data) } else { (data, groups) };
    let spelling = settings.spelling(Key::AttentionDataSwitch);
    if settings.on(Key::AttentionDataSwitch) && servers {
        let message = format!(
            "the router starts {data} servers with dp-size 1 each, which turns attention data \
             parallelism off"
        );
        notes.push(Note::new(NoteKind::Rewritten, spelling, message));
    }
    if switched && data == 1 && groups == 1 {
        let message = "SGLang turns attention data parallelism off where dp-size is 1";
        notes.push(Note::new(NoteKind::Rewritten, spelling, message));
    }
    if settings.on(Key::DataLmHead) && (servers || spec.data.max(spec.attention_data) == 1) {
        notes.push(Note::new(
            NoteKind::Rewritten,
            settings.spelling(Key::DataLmHead),
            "SGLang turns it off where dp-size is 1",
        ));
    }
    if spec.attention_data > 1
        && let Some(chunk) = settings.tokens(Key::PrefillChunk)
    {
        notes.push(Note::new(
            NoteKind::Rewritten,
            settings.spelling(Key::PrefillChunk),
            format!(
                "SGLang divides the chunk of {chunk} tokens by the {} attention groups: {} each",
                spec.attention_data,
                chunk / u64::from(spec.attention_data)
            ),
        ));
    }
}

/// Returns the way in which tokens reach their experts; `none` is an all-reduce.
fn all_to_all(settings: &Settings) -> &str {
    let usual = if settings.on(Key::DeepEp) { "deepep" } else { "none" };
    settings.text(Key::AllToAll).unwrap_or(usual)
}

/// Sets the expert width as the engine would change it (**PL-6**).
fn experts(settings: &Settings, spec: &mut ParallelSpec, notes: &mut Vec<Note>) {
    let mut width = settings.size(Key::ExpertWidth).unwrap_or(1);
    let stage = settings.size(Key::Tensor).unwrap_or(1);
    let backend = all_to_all(settings);
    if backend != "none" && width != stage {
        let key = if settings.on(Key::DeepEp) { Key::DeepEp } else { Key::AllToAll };
        notes.push(Note::new(
            NoteKind::Rewritten,
            settings.spelling(key),
            format!("with {backend}, SGLang makes ep-size {width} the tp-size, {stage}"),
        ));
        width = stage;
    }
    if settings.on(Key::Experts) && width != stage {
        let message = format!("SGLang makes ep-size {width} the tp-size, {stage}");
        notes.push(Note::new(NoteKind::Rewritten, settings.spelling(Key::Experts), message));
        width = stage;
    }
    let prefetch = settings.size(Key::WeightPrefetch).unwrap_or(1);
    if prefetch > 1 {
        notes.push(Note::new(
            NoteKind::Rewritten,
            settings.spelling(Key::WeightPrefetch),
            format!(
                "SGLang sets dp, ep and tp to {prefetch}, attention data parallelism on and \
                 moe-dense-tp-size 1"
            ),
        ));
        (spec.data, spec.attention_data, width) = (1, prefetch, prefetch);
        spec.moe_dense_tensor = Some(1);
    }
    spec.expert = match width {
        1 => ExpertParallel::Off,
        width => ExpertParallel::Within(width),
    };
}

/// Sets the width of the head: each attention group splits a head of its own, or all groups split one head.
fn heads(settings: &Settings, spec: &mut ParallelSpec) {
    if settings.on(Key::DataLmHead) && spec.attention_data > 1 {
        spec.head_tensor = Some(Widths::of(spec).attention_tensor);
    }
}

/// Returns the settings for `spec`, which SGLang can express.
pub(super) fn settings_of(spec: &ParallelSpec) -> Settings {
    let mut settings = Settings::default();
    let widths = Widths::of(spec);
    let numbers = [
        Key::Pipeline,
        Key::MicroBatchMax,
        Key::DecodeContext,
        Key::MoeData,
        Key::MoeDenseTensor,
        Key::Redundant,
    ];
    settings.say(spec, &numbers);
    let sizes = [
        (Key::Tensor, widths.stage_ranks),
        (Key::AttentionContext, spec.prefill_context),
        (Key::ExpertWidth, widths.moe_expert),
        // One of the two is 1: the rules say so.
        (Key::Data, spec.data.max(spec.attention_data)),
    ];
    for (key, size) in sizes {
        if size != 1 {
            settings.set(key, Value::Size(size));
        }
    }
    if spec.attention_data > 1 {
        settings.set(Key::AttentionDataSwitch, Value::Switch(true));
    }
    if spec.head_tensor.is_some_and(|width| width != spec.tensor) {
        settings.set(Key::DataLmHead, Value::Switch(true));
    }
    if spec.prefill_context > 1 {
        settings.set(Key::ContextSwitch, Value::Switch(true));
        settings.set(Key::ContextStrategy, Value::Text("zigzag".to_owned()));
    }
    if let Some(balance) = spec.expert_balance {
        settings.set(Key::Balance, Value::Switch(true));
        settings.set(Key::BalanceInterval, Value::Size(balance.interval_steps));
        if balance.window_steps != balance.interval_steps {
            settings.set(Key::BalanceWindow, Value::Size(balance.window_steps));
        }
    }
    if let Some(role) = tables::SGLANG.role_word(spec.role) {
        settings.set(Key::Role, Value::Text(role.to_owned()));
    }
    settings
}
