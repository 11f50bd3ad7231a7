//! The command lines of vLLM, SGLang and TensorRT-LLM, and our own: read, compared, written.
//!
//! A command line is read in two steps. The engine's *table*, a TOML file, turns words into settings
//! (names, kinds of values, what is ignored and why); the same table writes settings as words and
//! prints the help. `tables.rs` tells how to add a flag to it. What the settings mean together, and
//! what the engine would quietly make of them, is code per engine.
//!
//! - **PL-5** nothing is dropped in silence: every word is a setting that is carried on, a flag with a
//!   [`Note`] of the reason, or a [`Problem`]; all problems of a command are reported in one go.
//! - **PL-6** what an engine would rewrite is applied, because it is what the engine runs, and said
//!   in a [`Note`].
//! - **PL-7** what is written for an engine and read back is the same layout; what the engine cannot
//!   express is listed, and then nothing is written.
//!
//! Not here: whether the layout can run (see [`check`](crate::check), which [`Reading::check`] calls).

use playhouse_types::{ExpertParallel, ParallelSpec};

use crate::rules::check_with;
use crate::{ModelShape, RuleSet, Serving, Violation};

mod checked;
mod differ;
mod document;
mod grid;
mod heard;
mod key;
mod machines;
mod native;
mod nearest;
mod note;
mod pairs;
mod place;
mod problem;
mod program;
mod rule;
mod settings;
mod sglang;
mod storage;
mod table;
mod tables;
mod tensorrt;
mod value;
mod vllm;
mod words;
mod write;

pub use differ::differences;
pub use document::Document;
pub use grid::{GRID_MAX, Grid, Point};
pub use key::Key;
pub use note::{Note, NoteKind};
pub use problem::Problem;
pub use table::{Flag, Kind};
pub use write::{Written, write};

use settings::Settings;
use table::Table;

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Playhouse: vLLM's spellings, the others' as aliases.
    Native,
    /// `vllm serve`.
    Vllm,
    /// `python -m sglang.launch_server`.
    Sglang,
    /// `trtllm-serve`, `Mapping` or the LLM-API's YAML.
    TensorRtLlm,
}

/// What a command line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Whose words they were.
    pub dialect: Dialect,
    /// The layout that the engine would run.
    pub spec: ParallelSpec,
    /// The model, where one is named.
    pub model: Option<String>,
    /// The flags that say the layout, with their values, as they were spelled.
    pub layout: Vec<String>,
    /// What planning needs to know besides.
    pub parameters: Parameters,
    /// What a reader should know.
    pub notes: Vec<Note>,
    /// What the engine refuses of flags that are no part of the layout.
    refused: Vec<Violation>,
    /// What keeps the weights of the checkpoint from being stored as the command says.
    conflicts: Vec<Violation>,
}

/// Parameters of an engine that are no part of the layout and matter to planning. `None` where the
/// command does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Machines.
    pub nodes: Option<u32>,
    /// Which of the machines this is.
    pub node_rank: Option<u32>,
    /// Devices of a machine.
    pub devices_per_node: Option<u32>,
    /// Longest sequence, in tokens.
    pub context_tokens: Option<u64>,
    /// Type of weights and activations, in the engine's words.
    pub dtype: Option<String>,
    /// Quantization of the weights, in the engine's words.
    pub quantization: Option<String>,
    /// Type of the KV cache, in the engine's words.
    pub kv_dtype: Option<String>,
    /// Tokens of a KV block.
    pub block_tokens: Option<u32>,
    /// Most running requests.
    pub requests_max: Option<u32>,
    /// Most tokens of one step.
    pub batch_tokens_max: Option<u64>,
    /// Share of device memory that the engine may use (vLLM: of all; SGLang: weights and KV cache;
    /// TensorRT-LLM: of what is free after loading).
    pub memory_fraction: Option<f64>,
    /// Physical experts of a layer, counted together (TensorRT-LLM); see [`Reading::settle`].
    pub expert_slots: Option<u32>,
}

/// Reads a command line, its words after `--from NAME --`. `documents` are the files that it names
/// (see [`documents_of`]); a file that is missing there is noted, not read.
///
/// # Errors
/// Everything that cannot be understood (**PL-5**).
pub fn read(
    dialect: Dialect,
    words: &[String],
    documents: &[Document],
) -> Result<Reading, Vec<Problem>> {
    let mut heard = heard::Heard::new(dialect, documents);
    heard.command(words);
    understood(heard)
}

/// Reads a file of settings by itself: the LLM-API's YAML, or SGLang's.
///
/// # Errors
/// Everything that cannot be understood (**PL-5**).
pub fn read_document(dialect: Dialect, document: &Document) -> Result<Reading, Vec<Problem>> {
    let mut heard = heard::Heard::new(dialect, &[]);
    heard.document(document);
    understood(heard)
}

fn understood(heard: heard::Heard<'_>) -> Result<Reading, Vec<Problem>> {
    let heard::Heard { dialect, table, settings, mut notes, mut problems, .. } = heard;
    problems.extend(checked::zeros(&settings));
    let mut meaning = Meaning::default();
    (dialect.interpreter())(&settings, &mut meaning);
    problems.append(&mut meaning.problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut refused = Vec::new();
    for rule in table.rules {
        (rule.refuse)(&settings, &meaning.spec, &mut refused);
    }
    notes.append(&mut meaning.notes);
    notes.extend(checked::notes(table, &settings, vllm::headless(&meaning.spec)));
    notes.extend(differences(dialect, &meaning.spec, None));
    let said = settings.iter().filter(|(key, _)| key.is_layout());
    Ok(Reading {
        dialect,
        layout: said.map(|(_, given)| format!("{} {}", given.spelling, given.value)).collect(),
        spec: meaning.spec,
        model: settings.text(Key::Model).map(str::to_owned),
        parameters: parameters(&settings),
        notes,
        refused,
        conflicts: Vec::new(),
    })
}

/// The files that a command line names, to be read and handed to [`read`].
#[must_use]
pub fn documents_of(dialect: Dialect, words: &[String]) -> Vec<String> {
    let mut heard = heard::Heard::new(dialect, &[]);
    heard.command(words);
    heard.settings.text(Key::ConfigFile).map(str::to_owned).into_iter().collect()
}

/// The flags of a dialect that mean something here, one line each.
#[must_use]
pub fn help(dialect: Dialect) -> String {
    dialect.table().help()
}

/// The flags of a dialect that mean something here.
#[must_use]
pub fn flags(dialect: Dialect) -> &'static [Flag] {
    dialect.table().flags
}

/// What an engine makes of settings.
#[derive(Default)]
struct Meaning {
    spec: ParallelSpec,
    notes: Vec<Note>,
    problems: Vec<Problem>,
}

fn parameters(settings: &Settings) -> Parameters {
    let text = |key| settings.text(key).map(str::to_owned);
    Parameters {
        nodes: settings.size(Key::Nodes),
        node_rank: settings.size(Key::NodeRank),
        devices_per_node: settings.size(Key::DevicesPerNode),
        context_tokens: settings.tokens(Key::ContextTokens),
        dtype: text(Key::Dtype),
        quantization: text(Key::Quantization).or_else(|| by_loader(settings)),
        kv_dtype: text(Key::KvDtype),
        block_tokens: settings.size(Key::BlockTokens),
        requests_max: settings.size(Key::RequestsMax),
        batch_tokens_max: settings.tokens(Key::BatchTokensMax),
        memory_fraction: settings.fraction(Key::MemoryFraction),
        expert_slots: settings.size(Key::ExpertSlots),
    }
}

/// The quantization that reading the weights brings with it.
fn by_loader(settings: &Settings) -> Option<String> {
    let loader = settings.text(Key::LoadFormat)?;
    ["bitsandbytes", "gguf"].contains(&loader).then(|| loader.to_owned())
}

/// Tokens of a KV block, as told or as the engine has them; `None` where it has what we have.
fn block_tokens(dialect: Dialect, parameters: &Parameters) -> Option<u32> {
    parameters.block_tokens.or(dialect.table().block_tokens)
}

// === impl Dialect ===

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Native, Self::Vllm, Self::Sglang, Self::TensorRtLlm];

    /// The name after `--from` and `--to`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "playhouse",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::TensorRtLlm => "tensorrt-llm",
        }
    }

    /// The dialect of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The rules of the engine that speaks it.
    #[must_use]
    pub fn rules(self) -> RuleSet {
        match self {
            Self::Native => RuleSet::Native,
            Self::Vllm => RuleSet::Vllm,
            Self::Sglang => RuleSet::Sglang,
            Self::TensorRtLlm => RuleSet::TensorRtLlm,
        }
    }

    fn table(self) -> &'static Table {
        match self {
            Self::Native => &tables::NATIVE,
            Self::Vllm => &tables::VLLM,
            Self::Sglang => &tables::SGLANG,
            Self::TensorRtLlm => &tables::TENSORRT,
        }
    }

    fn interpreter(self) -> fn(&Settings, &mut Meaning) {
        match self {
            Self::Native => native::interpret,
            Self::Vllm => vllm::interpret,
            Self::Sglang => sglang::interpret,
            Self::TensorRtLlm => tensorrt::interpret,
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Every violation of `rules`; those of the engine that was read include what it refuses of
    /// flags that are no part of the layout. A conflict with the checkpoint is always among them.
    #[must_use]
    pub fn check(&self, shape: Option<&ModelShape>, rules: RuleSet) -> Vec<Violation> {
        let tokens = block_tokens(self.dialect, &self.parameters);
        let block_tokens = tokens.unwrap_or(Serving::default().block_tokens);
        let mut violations = check_with(&self.spec, shape, rules, block_tokens);
        if rules == self.dialect.rules() {
            violations.extend(self.refused.iter().cloned());
        }
        violations.extend(self.conflicts.iter().cloned());
        violations
    }

    /// Stores the weights of `shape` and the KV cache of `serving` as the command says, and notes or
    /// refuses what it says otherwise.
    pub fn store(&mut self, shape: &mut ModelShape, serving: &mut Serving) {
        let tokens = block_tokens(self.dialect, &self.parameters);
        serving.block_tokens = tokens.unwrap_or(serving.block_tokens);
        storage::store(
            self.dialect,
            &self.parameters,
            shape,
            serving,
            &mut self.conflicts,
            &mut self.notes,
        );
    }

    /// Settles what depends on the model: TensorRT-LLM counts slots where the others count redundant
    /// experts, vLLM's replicas of a mixture of experts share each expert. Notes what engines make of this layout for this model.
    pub fn settle(&mut self, shape: &ModelShape) {
        let experts = crate::holding::routed_experts(shape);
        if let (Some(slots), Some(experts)) = (self.parameters.expert_slots, experts) {
            let redundant = u64::from(slots).checked_sub(experts);
            match redundant.and_then(|redundant| u32::try_from(redundant).ok()) {
                Some(redundant) => self.spec.redundant_experts = redundant,
                None => self.refused.push(Violation::new(
                    "slots-hold-experts",
                    format!("{slots} expert slots cannot hold {experts} experts"),
                    format!("num_slots = {slots} → {experts}"),
                )),
            }
        }
        if self.dialect == Dialect::Vllm
            && self.spec.expert == ExpertParallel::Off
            && self.spec.data > 1
            && experts.is_some()
        {
            self.spec.expert = ExpertParallel::SplitAcrossReplicas;
        }
        if let Some(asked) =
            self.parameters.context_tokens.filter(|asked| *asked > shape.spec.max_positions as u64)
        {
            let message = format!(
                "{asked} tokens are more than the {} positions of the model; engines refuse that \
                 unless its config.json stretches them (rope_scaling)",
                shape.spec.max_positions
            );
            self.notes.push(Note::new(NoteKind::Checked, "longest sequence", message));
        }
        self.notes.retain(|note| note.kind != NoteKind::Differs);
        self.notes.extend(differences(self.dialect, &self.spec, Some(shape)));
    }
}
