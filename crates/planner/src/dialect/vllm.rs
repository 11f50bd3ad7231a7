//! `vllm serve`, as of 0.32.

use playhouse_types::{
    ExpertBalance, ExpertParallel, ExpertPlacement, LoadBalancing, ParallelSpec,
};

use super::settings::Settings;
use super::table::Table;
use super::value::Value;
use super::{Key, Meaning, Note, NoteKind, tables};

pub(super) mod refused;

/// All-to-all backends that were removed.
const REMOVED_BACKENDS: [&str; 2] = ["naive", "pplx"];

pub(super) fn interpret(settings: &Settings, meaning: &mut Meaning) {
    let mut spec = layout(&tables::VLLM, settings);
    balancing(settings, &mut spec, &mut meaning.notes);
    removed_backend(settings, &mut meaning.notes);
    idle_balance(settings, &spec, &mut meaning.notes);
    meaning.spec = spec;
}

/// Notes settings of a balancing that is off.
pub(super) fn idle_balance(settings: &Settings, spec: &ParallelSpec, notes: &mut Vec<Note>) {
    for key in [Key::BalanceWindow, Key::BalanceInterval] {
        if settings.get(key).is_some() && spec.expert_balance.is_none() {
            let message = "no layout depends on it: expert balancing is off (--enable-eplb)";
            notes.push(Note::new(NoteKind::Ignored, settings.spelling(key), message));
        }
    }
}

/// Notes the backend that carries the experts' traffic when the backend asked for is gone (**PL-6**).
fn removed_backend(settings: &Settings, notes: &mut Vec<Note>) {
    let backend = settings.text(Key::AllToAll);
    if let Some(backend) = backend.filter(|backend| REMOVED_BACKENDS.contains(backend)) {
        let message = format!("vLLM has {backend} no more and uses allgather_reducescatter");
        notes.push(Note::new(NoteKind::Rewritten, settings.spelling(Key::AllToAll), message));
    }
}

/// Returns the layout except its load balancing, in vLLM's words or those of another `table`.
pub(super) fn layout(table: &Table, settings: &Settings) -> ParallelSpec {
    let mut spec = settings.spec(table);
    if settings.on(Key::Experts) {
        spec.expert = ExpertParallel::AcrossReplicas;
    }
    if settings.text(Key::Placement) == Some("round_robin") {
        spec.expert_placement = ExpertPlacement::RoundRobin;
    }
    let default = ExpertBalance::default();
    spec.expert_balance = settings.on(Key::Balance).then(|| ExpertBalance {
        window_steps: settings.size(Key::BalanceWindow).unwrap_or(default.window_steps),
        interval_steps: settings.size(Key::BalanceInterval).unwrap_or(default.interval_steps),
    });
    spec
}

/// Sets the load balancing, as the engine would change it (**PL-6**).
fn balancing(settings: &Settings, spec: &mut ParallelSpec, notes: &mut Vec<Note>) {
    let mut rewritten = |key: Key, message: String| {
        notes.push(Note::new(NoteKind::Rewritten, settings.spelling(key), message));
    };
    if settings.on(Key::MultiPortBalancing) {
        spec.load_balancing = LoadBalancing::External;
        several_ports(spec);
    } else if settings.on(Key::ExternalBalancing) {
        spec.load_balancing = LoadBalancing::External;
    } else if let Some(rank) = spec.data_rank {
        spec.load_balancing = LoadBalancing::External;
        rewritten(Key::DataRank, format!("rank {rank} alone means external load balancing"));
    } else if settings.on(Key::HybridBalancing) {
        spec.load_balancing = LoadBalancing::Hybrid;
    } else if spec.data_start_rank > 0 && !settings.on(Key::Headless) {
        spec.load_balancing = LoadBalancing::Hybrid;
        let message = "a first rank without --headless means hybrid load balancing";
        rewritten(Key::DataStartRank, message.to_owned());
    }
    if spec.load_balancing != LoadBalancing::Hybrid || spec.data == 1 {
        return;
    }
    if spec.data_local == Some(1) {
        spec.load_balancing = LoadBalancing::External;
        spec.data_rank = Some(spec.data_start_rank);
        let message = "hybrid load balancing of one local replica is external load balancing";
        rewritten(Key::DataLocal, message.to_owned());
    } else if spec.data_local == Some(spec.data) {
        spec.load_balancing = LoadBalancing::Internal;
        let message = "hybrid load balancing with all replicas local is internal load balancing";
        rewritten(Key::DataLocal, message.to_owned());
    }
}

/// Sets the replicas of a node with a supervised front door per replica: without a number, all replicas are
/// on the node; a single replica is the one that the node serves.
fn several_ports(spec: &mut ParallelSpec) {
    let local = spec.data_local.unwrap_or(spec.data);
    spec.data_local = Some(local);
    if local == 1 && spec.data_rank.is_none() {
        spec.data_rank = Some(spec.data_start_rank);
    }
}

/// Returns whether a node without a front door is part of the layout: the node's first replica implies it,
/// and the flag alone would mean hybrid load balancing.
pub(super) fn headless(spec: &ParallelSpec) -> bool {
    spec.load_balancing == LoadBalancing::Internal && spec.data_start_rank > 0
}

/// Returns the settings for `spec`, which vLLM can express.
pub(super) fn settings_of(spec: &ParallelSpec) -> Settings {
    let mut settings = Settings::default();
    let numbers = [
        Key::Tensor,
        Key::Pipeline,
        Key::Data,
        Key::DataStartRank,
        Key::DataLocal,
        Key::DataRank,
        Key::PrefillContext,
        Key::DecodeContext,
        Key::KvInterleave,
        Key::Redundant,
    ];
    settings.say(spec, &numbers);
    let spreads = match spec.expert {
        ExpertParallel::Off | ExpertParallel::SplitAcrossReplicas => false,
        ExpertParallel::Within(width) => width > 1,
        ExpertParallel::AcrossReplicas => true,
    };
    let external = spec.load_balancing == LoadBalancing::External;
    let switches = [
        (Key::Experts, spreads),
        (Key::Balance, spec.expert_balance.is_some()),
        (Key::HybridBalancing, spec.load_balancing == LoadBalancing::Hybrid),
        (Key::ExternalBalancing, external && spec.data_rank.is_some()),
        (Key::MultiPortBalancing, external && spec.data_rank.is_none()),
        (Key::Headless, headless(spec)),
    ];
    for (key, on) in switches {
        if on {
            settings.set(key, Value::Switch(true));
        }
    }
    balance(spec, &mut settings);
    settings
}

fn balance(spec: &ParallelSpec, settings: &mut Settings) {
    let default = ExpertBalance::default();
    if let Some(balance) = spec.expert_balance {
        if balance.window_steps != default.window_steps {
            settings.set(Key::BalanceWindow, Value::Size(balance.window_steps));
        }
        if balance.interval_steps != default.interval_steps {
            settings.set(Key::BalanceInterval, Value::Size(balance.interval_steps));
        }
    }
    if spec.expert_placement == ExpertPlacement::RoundRobin {
        settings.set(Key::Placement, Value::Text("round_robin".to_owned()));
    }
    let Some(role) = tables::VLLM.role_word(spec.role) else { return };
    // A role needs a connector, and NIXL splits the KV cache over all tensor ranks or none.
    let split = spec.decode_context > 1 && spec.decode_context != spec.tensor;
    let connector = if split { "MooncakeConnector" } else { "NixlConnector" };
    settings.set(Key::KvConnector, Value::Text(connector.to_owned()));
    settings.set(Key::Role, Value::Text(role.to_owned()));
}
