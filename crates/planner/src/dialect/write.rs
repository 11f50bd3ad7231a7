//! A layout in the words of an engine.

use std::fmt::Write as _;

use playhouse_types::ParallelSpec;
use serde_json::{Map, Value as Json};

use crate::holding::routed_experts;
use crate::rules::check_with;
use crate::{ModelShape, Serving, Violation};

use super::settings::Settings;
use super::table::{BareModel, Flag, Table, dashed};
use super::value::Value;
use super::{Dialect, Document, Key, Note, NoteKind, Parameters, sglang, storage, tensorrt, vllm};

/// The name of the file beside a `trtllm-serve` command.
const YAML_NAME: &str = "parallel.yaml";
/// The name of a layout in a file.
const TOML_NAME: &str = "parallel.toml";

/// A command that says a layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Variables, program and flags; empty when the file says it all.
    pub words: Vec<String>,
    /// The file that goes with it.
    pub document: Option<Document>,
    /// What a reader should know: parameters without a flag, and where engines disagree.
    pub notes: Vec<Note>,
}

/// Writes a layout for the engine that speaks `dialect`; [`Dialect::Native`] is a TOML file.
///
/// # Errors
/// What that engine cannot express or would refuse, each with the reason (**PL-7**).
pub fn write(
    dialect: Dialect,
    spec: &ParallelSpec,
    model: Option<&str>,
    shape: Option<&ModelShape>,
    parameters: &Parameters,
) -> Result<Written, Vec<Violation>> {
    let rules = dialect.rules();
    let tokens = super::block_tokens(dialect, parameters);
    let block_tokens = tokens.unwrap_or(Serving::default().block_tokens);
    let mut violations = check_with(spec, shape, rules, block_tokens);
    let experts = experts(shape);
    let slots = match expert_slots(spec, experts) {
        Err(violation) if dialect == Dialect::TensorRtLlm => {
            violations.push(violation);
            None
        }
        slots => slots.ok().flatten(),
    };
    if !violations.is_empty() {
        return Err(violations);
    }
    let settings = match dialect {
        Dialect::Native => return Ok(Written::toml(spec, model, parameters)),
        Dialect::Vllm => vllm::settings_of(spec),
        Dialect::Sglang => sglang::settings_of(spec),
        Dialect::TensorRtLlm => tensorrt::settings_of(spec, slots),
    };
    // With the model, slots of experts are redundant experts of the layout.
    let expert_slots = parameters.expert_slots.filter(|_| experts.is_none());
    let parameters = Parameters { expert_slots, ..parameters.clone() };
    let mut written = Written::new(dialect.table(), settings, model, &parameters);
    written.notes.extend(super::differences(dialect, spec, shape));
    Ok(written)
}

fn experts(shape: Option<&ModelShape>) -> Option<u64> {
    shape.and_then(routed_experts)
}

/// What TensorRT-LLM counts instead of redundant experts: all slots of a layer, where there are
/// redundant ones.
fn expert_slots(spec: &ParallelSpec, experts: Option<u64>) -> Result<Option<u32>, Violation> {
    let redundant = spec.redundant_experts;
    if redundant == 0 {
        return Ok(None);
    }
    let Some(experts) = experts else {
        return Err(Violation::new(
            "slots-need-model",
            format!(
                "TensorRT-LLM counts all slots of experts; without the model, {redundant} \
                 redundant ones are no number of slots"
            ),
            "name the model",
        ));
    };
    let slots = experts.saturating_add(u64::from(redundant));
    u32::try_from(slots).map(Some).map_err(|_| {
        Violation::new(
            "slots-fit",
            format!(
                "TensorRT-LLM counts all slots of experts; {experts} experts and {redundant} \
                 redundant ones make {slots}, and at most {} can be written",
                u32::MAX
            ),
            "fewer redundant_experts",
        )
    })
}

// === impl Written ===

impl Written {
    fn toml(spec: &ParallelSpec, model: Option<&str>, parameters: &Parameters) -> Self {
        // Every field of a spec has a TOML form.
        let text = toml::to_string(spec).unwrap_or_default();
        let document = Some(Document { name: TOML_NAME.to_owned(), text });
        let model = model.map(|model| (Key::Model, Value::Text(model.to_owned())));
        let notes = model
            .into_iter()
            .chain(valued(parameters))
            .map(|(key, value)| {
                let message = format!("a layout has no place for it ({value})");
                Note::new(NoteKind::Ignored, parameters.subject(key), message)
            })
            .collect();
        Self { words: Vec::new(), document, notes }
    }

    fn new(
        table: &'static Table,
        mut settings: Settings,
        model: Option<&str>,
        parameters: &Parameters,
    ) -> Self {
        let mut notes = Vec::new();
        for key in [Key::KvConnector, Key::ContextStrategy] {
            if let (Some(given), Some(flag)) = (settings.get(key), table.flag_of(key)) {
                let message = format!("{}; any that fits will do", given.value);
                notes.push(Note::new(NoteKind::Chosen, dashed(flag.names[0]), message));
            }
        }
        add_parameters(table, parameters, &mut settings, &mut notes);
        name_nodes(table, &settings, &mut notes);
        if settings.get(Key::AttentionTensor).is_some() {
            if let Some(model) = model {
                let message = format!("a Mapping has no place for it ({model})");
                notes.push(Note::new(NoteKind::Ignored, parameters.subject(Key::Model), message));
            }
            notes.push(Note::new(
                NoteKind::Ignored,
                "trtllm-serve",
                "it has no flags for the attention widths; these are the arguments of a Mapping",
            ));
            return Self { words: pairs(table, &settings), document: None, notes };
        }
        let mut words: Vec<String> = table
            .variables
            .iter()
            .filter_map(|variable| {
                Some(format!("{}={}", variable.names[0], settings.get(variable.key)?.value))
            })
            .collect();
        words.extend(table.command.iter().map(|word| (*word).to_owned()));
        match model {
            Some(model) if table.bare_model == BareModel::Anywhere => words.push(model.to_owned()),
            Some(model) => settings.set(Key::Model, Value::Text(model.to_owned())),
            None => {}
        }
        let mut tree = Map::new();
        for (flag, value) in spoken(table, &settings) {
            if flag.in_file {
                grow(&mut tree, flag.names[flag.names.len() - 1], value);
            } else {
                words.extend(flag_words(flag, value));
            }
        }
        let document = (!tree.is_empty()).then(|| {
            let mut text = String::new();
            yaml(&mut text, &tree, 0);
            Document { name: YAML_NAME.to_owned(), text }
        });
        if let Some(document) = &document {
            words.extend(["--config".to_owned(), document.name.clone()]);
        }
        Self { words, document, notes }
    }

    /// Returns the words as a line for a POSIX shell.
    #[must_use]
    pub fn line(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }
}

/// The parameters that are given.
fn valued(parameters: &Parameters) -> impl Iterator<Item = (Key, Value)> {
    let text = |text: &Option<String>| text.clone().map(Value::Text);
    let values = [
        (Key::Nodes, parameters.nodes.map(Value::Size)),
        (Key::NodeRank, parameters.node_rank.map(Value::Size)),
        (Key::DevicesPerNode, parameters.devices_per_node.map(Value::Size)),
        (Key::ContextTokens, parameters.context_tokens.map(Value::Tokens)),
        (Key::Dtype, text(&parameters.dtype)),
        (Key::Quantization, text(&parameters.quantization)),
        (Key::KvDtype, text(&parameters.kv_dtype)),
        (Key::BlockTokens, parameters.block_tokens.map(Value::Size)),
        (Key::RequestsMax, parameters.requests_max.map(Value::Size)),
        (Key::BatchTokensMax, parameters.batch_tokens_max.map(Value::Tokens)),
        (Key::MemoryFraction, parameters.memory_fraction.map(Value::Fraction)),
        (Key::ExpertSlots, parameters.expert_slots.map(Value::Size)),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

// === impl Parameters ===

impl Parameters {
    /// Returns the flag that gave `key`, else Playhouse's own flag.
    fn subject(&self, key: Key) -> String {
        let own = || Dialect::Native.table().flag_of(key).map(|flag| dashed(flag.names[0]));
        let given = self.spellings.get(&key).cloned().or_else(own);
        given.unwrap_or_else(|| key.about().to_owned())
    }
}

/// A command for several nodes is not the same on each of them.
fn name_nodes(table: &Table, settings: &Settings, notes: &mut Vec<Note>) {
    let Some(address) = table.head_address else { return };
    let Some(nodes) = settings.size(Key::Nodes).filter(|nodes| *nodes > 1) else { return };
    let message = match settings.size(Key::NodeRank) {
        Some(rank) => format!("this is the command of node {rank} of {nodes}"),
        None => format!("each of the {nodes} nodes needs its own, 0 to {}", nodes - 1),
    };
    let message = format!("{message}; all need the address of node 0 ({address})");
    notes.push(Note::new(NoteKind::Chosen, "--node-rank", message));
}

/// Adds what the engine has a flag for, and notes the rest.
fn add_parameters(
    table: &Table,
    parameters: &Parameters,
    settings: &mut Settings,
    notes: &mut Vec<Note>,
) {
    for (key, value) in valued(parameters) {
        if key == Key::MemoryFraction {
            notes.push(Note::new(
                NoteKind::Differs,
                "memory share",
                format!(
                    "{value} is a share of all device memory in vLLM and Playhouse, of it for \
                     weights and KV cache in SGLang, and of what is free after loading in \
                     TensorRT-LLM"
                ),
            ));
        }
        // Slots that the model's experts settled are among the settings of the layout.
        if settings.get(key).is_some() {
            continue;
        }
        let told = match (&value, key) {
            _ if table.flag_of(key).is_none() => Err("flag"),
            (Value::Text(word), Key::Dtype | Key::Quantization | Key::KvDtype) => {
                let word = storage::translated(table, key, word).ok_or("word");
                word.map(|word| Value::Text(word.to_owned()))
            }
            _ => Ok(value.clone()),
        };
        match told {
            Ok(value) => settings.set(key, value),
            Err(what) => {
                let message = format!("{} has no {what} for it ({value})", table.engine);
                notes.push(Note::new(NoteKind::Ignored, parameters.subject(key), message));
            }
        }
    }
}

/// The flags that say the settings, in the order of the table; variables say the others.
fn spoken<'s>(
    table: &'static Table,
    settings: &'s Settings,
) -> impl Iterator<Item = (&'static Flag, &'s Value)> {
    table.flags.iter().filter_map(move |flag| {
        let first = table.flag_of(flag.key).is_some_and(|first| std::ptr::eq(first, flag));
        first.then(|| Some((flag, &settings.get(flag.key)?.value))).flatten()
    })
}

fn flag_words(flag: &Flag, value: &Value) -> Vec<String> {
    let name = dashed(flag.names[0]);
    match value {
        Value::Switch(true) => vec![name],
        Value::Switch(false) => vec![format!("--no-{}", flag.names[0])],
        value => vec![name, value.to_string()],
    }
}

/// `name=value`, in the names of `Mapping`.
fn pairs(table: &'static Table, settings: &Settings) -> Vec<String> {
    spoken(table, settings)
        .map(|(flag, value)| {
            let moe = flag.names.iter().find(|name| name.starts_with("moe_"));
            format!("{}={value}", moe.unwrap_or(&flag.names[0]))
        })
        .collect()
}

/// Puts a value below its dotted name.
fn grow(tree: &mut Map<String, Json>, name: &str, value: &Value) {
    if let Some((branch, rest)) = name.split_once('.') {
        let below = tree.entry(branch).or_insert_with(|| Json::Object(Map::new()));
        if let Json::Object(below) = below {
            grow(below, rest, value);
        }
        return;
    }
    let leaf = match value {
        Value::Size(size) => Json::from(*size),
        Value::Auto => Json::from(-1),
        Value::Switch(on) => Json::from(*on),
        Value::Sizes(sizes) => Json::from(sizes.clone()),
        Value::Tokens(tokens) => Json::from(*tokens),
        Value::Fraction(share) => Json::from(*share),
        Value::Text(text) => Json::from(text.as_str()),
    };
    tree.insert(name.to_owned(), leaf);
}

/// A tree of settings as YAML. Leaves are JSON, which YAML contains.
fn yaml(out: &mut String, tree: &Map<String, Json>, depth: usize) {
    for (name, value) in tree {
        let indent = "  ".repeat(depth);
        match value {
            Json::Object(below) => {
                let _ = writeln!(out, "{indent}{name}:");
                yaml(out, below, depth + 1);
            }
            leaf => {
                let _ = writeln!(out, "{indent}{name}: {leaf}");
            }
        }
    }
}

/// A word that a shell reads as itself.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=,:@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if word.contains(char::is_control) {
        // Nothing that a terminal would act upon.
        let escaped = |letter: char| match letter {
            '\\' | '\'' => format!("\\{letter}"),
            _ if letter.is_control() => format!("\\u{:04x}", u32::from(letter)),
            _ => letter.to_string(),
        };
        return format!("$'{}'", word.chars().map(escaped).collect::<String>());
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
