//! The command lines of vLLM, SGLang, TensorRT-LLM and Playhouse: reading, comparing and writing them.
//!
//! A command line is read in two steps. The engine's *table*, a TOML file, turns words into settings (names,
//! kinds of values, flags that are ignored and why); the same table writes settings as words and prints the
//! help. `tables.rs` explains how to add a flag to the table. The joint meaning of the settings, and the
//! changes that the engine would make to them quietly, are code per engine.
//!
//! - **PL-5** nothing is dropped in silence: every word is a setting that is carried on, a flag with a
//!   [`Note`] of the reason, or a [`Problem`]; all problems of a command are reported at once.
//! - **PL-6** a change that an engine would make to the settings is applied, because the changed settings are
//!   what the engine runs, and a [`Note`] reports it.
//! - **PL-7** a layout that is written for an engine and read back is the same layout; parts that the engine
//!   cannot express are listed, and then nothing is written.
//!
//! Not here: whether the layout can run (see [`check`](crate::check), which [`Reading::check`] calls).

use std::collections::BTreeMap;

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
mod note;
mod pairs;
mod place;
mod problem;
mod program;
mod rule;
mod servers;
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
pub use servers::{Servers, read_servers, read_servers_document};
pub use table::{Flag, Kind, Takes};
pub use write::{Written, write};

use settings::Settings;
use table::Table;

/// The engine whose words a command line uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Playhouse: vLLM's spellings, with the other engines' spellings as aliases.
    Native,
    /// `vllm serve`.
    Vllm,
    /// `python -m sglang.launch_server`.
    Sglang,
    /// `trtllm-serve`, `Mapping` or the LLM-API's YAML.
    TensorRtLlm,
}

/// The meaning of a command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Engine whose words were read.
    pub dialect: Dialect,
    /// The layout that the engine would run.
    pub spec: ParallelSpec,
    /// The model, where one is named.
    pub model: Option<String>,
    /// The flags that describe the layout, with their values, as they were spelled.
    pub layout: Vec<String>,
    /// All settings, with the flags and values as they were spelled.
    pub given: Vec<(Key, String)>,
    /// Other parameters that planning needs.
    pub parameters: Parameters,
    /// Notes for a person about the meaning.
    pub notes: Vec<Note>,
    /// Violations of the engine's rules by flags that are no part of the layout.
    refused: Vec<Violation>,
    /// Reasons why the weights of the checkpoint cannot be stored as the command says.
    conflicts: Vec<Violation>,
}

/// Parameters of an engine that are no part of the layout and matter to planning. A parameter that the
/// command does not give is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Number of machines.
    pub nodes: Option<u32>,
    /// Index of this machine.
    pub node_rank: Option<u32>,
    /// Devices per machine.
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
    /// Most requests that run at once.
    pub requests_max: Option<u32>,
    /// Most tokens of one step.
    pub batch_tokens_max: Option<u64>,
    /// Share of device memory that the engine may use (vLLM: of all memory; SGLang: for weights and KV cache;
    /// TensorRT-LLM: of the memory that is free after loading).
    pub memory_fraction: Option<f64>,
    /// Physical experts of a layer, redundant ones included (TensorRT-LLM); see [`Reading::settle`].
    pub expert_slots: Option<u32>,
    /// The flags that gave these parameters and the model, as they were spelled.
    pub spellings: BTreeMap<Key, String>,
}

/// Reads a command line: the words after `--from NAME --`. `documents` are the files that the command names
/// (see [`documents_of`]); a file that is missing there is noted, not read.
///
/// # Errors
/// Every word that cannot be understood (**PL-5**).
pub fn read(
    dialect: Dialect,
    words: &[String],
    documents: &[Document],
) -> Result<Reading, Vec<Problem>> {
    let mut heard = heard::Heard::new(dialect, documents);
    heard.command(words);
    understood(heard)
}

/// Reads a settings file without a command line: the YAML of the LLM-API, or SGLang's.
///
/// # Errors
/// Every setting that cannot be understood (**PL-5**).
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
    let given = settings.iter();
    let given = given.map(|(key, given)| (key, format!("{} {}", given.spelling, given.value)));
    let given: Vec<(Key, String)> = given.collect();
    let said = given.iter().filter(|(key, _)| key.is_layout());
    Ok(Reading {
        dialect,
        layout: said.map(|(_, text)| text.clone()).collect(),
        given,
        spec: meaning.spec,
        model: settings.text(Key::Model).map(str::to_owned),
        parameters: parameters(&settings),
        notes,
        refused,
        conflicts: Vec::new(),
    })
}

/// Returns the files that a command line names; the caller reads them and passes them to [`read`].
#[must_use]
pub fn documents_of(dialect: Dialect, words: &[String]) -> Vec<String> {
    let front = servers::document_of(dialect, words);
    let mut heard = heard::Heard::new(dialect, &[]);
    heard.command(words);
    let named = heard.settings.text(Key::ConfigFile).map(str::to_owned);
    front.into_iter().chain(named).collect()
}

/// Returns the help for those flags of a dialect that planning reads and whose keys `is_shown` selects, one
/// line each.
#[must_use]
pub fn help(dialect: Dialect, is_shown: impl Fn(Key) -> bool) -> String {
    dialect.table().help(is_shown)
}

/// Returns the number of values that a flag takes in a dialect, whether planning reads or ignores the flag;
/// `None` if the dialect does not have it. `word` is the flag with its dashes, perhaps with `=VALUE`.
#[must_use]
pub fn takes(dialect: Dialect, word: &str) -> Option<Takes> {
    let name = word.split('=').next().unwrap_or(word);
    dialect.table().takes(name.strip_prefix("--").unwrap_or(name))
}

/// Returns the flags of a dialect that planning reads.
#[must_use]
pub fn flags(dialect: Dialect) -> &'static [Flag] {
    dialect.table().flags
}

/// Returns the flag of a dialect that is most similar to `word`, if one is similar. `word` has its dashes, and
/// perhaps `=VALUE`.
#[must_use]
pub fn nearest(dialect: Dialect, word: &str) -> Option<String> {
    let name = word.split('=').next().unwrap_or(word);
    dialect.table().nearest(name.strip_prefix("--").unwrap_or(name), false)
}

/// The meaning that an engine gives to settings.
#[derive(Default)]
struct Meaning {
    spec: ParallelSpec,
    notes: Vec<Note>,
    problems: Vec<Problem>,
}

fn parameters(settings: &Settings) -> Parameters {
    let text = |key| settings.text(key).map(str::to_owned);
    let kept = settings.iter().filter(|(key, _)| !key.is_layout() && !key.is_checked());
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
        // 0 is no balancer.
        expert_slots: settings.size(Key::ExpertSlots).filter(|slots| *slots > 0),
        spellings: kept.map(|(key, given)| (key, given.spelling.clone())).collect(),
    }
}

/// Returns the quantization that the way of reading the weights implies.
fn by_loader(settings: &Settings) -> Option<String> {
    let loader = settings.text(Key::LoadFormat)?;
    ["bitsandbytes", "gguf"].contains(&loader).then(|| loader.to_owned())
}

/// Returns the tokens of a KV block, as given or by the engine's default; `None` where that default is
/// Playhouse's.
fn block_tokens(dialect: Dialect, parameters: &Parameters) -> Option<u32> {
    parameters.block_tokens.or(dialect.table().block_tokens)
}

// === impl Dialect ===

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 4] = [Self::Native, Self::Vllm, Self::Sglang, Self::TensorRtLlm];

    /// Returns the name of the dialect after `--from` and `--to`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "playhouse",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::TensorRtLlm => "tensorrt-llm",
        }
    }

    /// Returns the dialect called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// Returns the rules of the engine that uses the dialect.
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
    /// Returns every violation of `rules`. For the engine that was read, violations by flags that are no part
    /// of the layout are included. Conflicts with the checkpoint are always included.
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

    /// Applies the command's storage settings to the weights of `shape` and the KV cache of `serving`.
    /// Settings that contradict the checkpoint are noted or refused.
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

    /// Settles parameters that depend on the model: TensorRT-LLM counts slots where the other engines count
    /// redundant experts, and vLLM's replicas of a mixture of experts share each expert. Adds notes on how
    /// the engines treat this layout for this model.
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
