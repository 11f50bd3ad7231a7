//! The requests of a benchmark, made and serialised before it starts, so that the load generator only has
//! to send them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::random::Random;
use super::settings::{Endpoint, Settings};
use crate::client::completion::StreamOptions;
use crate::error::CliError;

/// The lowest random token id: the ids below are special tokens in the vocabularies of Llama and others,
/// and no client sends a beginning-of-text token in the middle of a prompt.
pub(super) const FIRST_TOKEN: u32 = 3;

/// The maximum length of a line in a file of prompts.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// A request that is ready to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// The JSON body.
    pub(super) body: Bytes,
    /// The length of the prompt in tokens, as far as it is known here; the server's count is better.
    pub(super) prompt_tokens: u64,
    /// The maximum number of tokens to generate.
    pub(super) output_tokens_max: usize,
}

/// A prompt for the model.
struct PromptSample {
    prompt: Prompt,
    prompt_tokens: usize,
    output_len: usize,
}

#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A line of a file of prompts. vLLM's custom dataset has `output_tokens`.
#[derive(Deserialize)]
struct PromptLine {
    prompt: String,
    #[serde(alias = "output_tokens")]
    output_len: Option<usize>,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a Prompt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<[Message<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<usize>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    /// Left out when false, because not every server knows the field.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignore_eos: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a Prompt,
}

/// Returns the requests that `settings` ask for, in the order of sending.
///
/// # Errors
/// Returns an error if the file of prompts cannot be read.
pub(super) fn prepare(settings: &Settings, model: &str) -> Result<Vec<Prepared>, CliError> {
    match &settings.dataset_path {
        Some(path) => {
            let samples = read_prompts(path, settings)?;
            let bodies: Vec<Prepared> =
                samples.iter().map(|sample| sample.prepare(settings, model)).collect();
            let endless = bodies.iter().cycle().take(settings.num_prompts);
            Ok(endless.map(Prepared::again).collect())
        }
        None => {
            let mut samples = RandomPrompts::new(settings);
            Ok((0..settings.num_prompts).map(|_| samples.next().prepare(settings, model)).collect())
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// Returns a copy of the request that shares the body.
    fn again(&self) -> Self {
        Self { body: self.body.clone(), ..*self }
    }
}

// === impl PromptSample ===

impl PromptSample {
    fn prepare(&self, settings: &Settings, model: &str) -> Prepared {
        let chat = settings.endpoint == Endpoint::Chat;
        let stream = !settings.no_stream;
        let body = Body {
            model,
            prompt: (!chat).then_some(&self.prompt),
            messages: chat.then_some([Message { role: "user", content: &self.prompt }]),
            max_tokens: (!chat).then_some(self.output_len),
            max_completion_tokens: chat.then_some(self.output_len),
            stream,
            stream_options: stream.then_some(StreamOptions { include_usage: true }),
            ignore_eos: settings.ignores_eos(),
            temperature: settings.temperature,
        };
        let json = serde_json::to_vec(&body).expect("a body of strings and numbers is JSON");
        Prepared {
            body: json.into(),
            prompt_tokens: self.prompt_tokens as u64,
            output_tokens_max: self.output_len,
        }
    }
}

/// Random prompts after vLLM's random dataset: a prefix common to all, then individual tokens.
struct RandomPrompts<'a> {
    settings: &'a Settings,
    random: Random,
    prefix: Vec<u32>,
}

// === impl RandomPrompts ===

impl<'a> RandomPrompts<'a> {
    fn new(settings: &'a Settings) -> Self {
        let mut prompts = Self { settings, random: Random::new(settings.seed, 1), prefix: vec![] };
        prompts.prefix = prompts.tokens(settings.random_prefix_len);
        prompts
    }

    fn next(&mut self) -> PromptSample {
        let input_len = self.length(self.settings.random_input_len);
        let output_len = self.length(self.settings.random_output_len);
        let mut tokens = self.prefix.clone();
        tokens.extend(self.tokens(input_len));
        let prompt_tokens = tokens.len();
        let prompt = match self.settings.endpoint {
            Endpoint::Completions => Prompt::Tokens(tokens),
            Endpoint::Chat => Prompt::Text(words(&tokens)),
        };
        PromptSample { prompt, prompt_tokens, output_len }
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let high = u64::from(self.settings.random_vocab_size - 1);
        let token = |_| self.random.between(u64::from(FIRST_TOKEN), high) as u32;
        (0..count).map(token).collect()
    }

    fn length(&mut self, mean: usize) -> usize {
        let ratio = self.settings.random_range_ratio;
        let low = (mean as f64 * (1.0 - ratio)).floor().max(1.0) as u64;
        let high = (mean as f64 * (1.0 + ratio)).ceil() as u64;
        self.random.between(low, high) as usize
    }
}

/// Words for chat prompts: common enough to be one token each in most vocabularies.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

fn words(tokens: &[u32]) -> String {
    let word = |&token: &u32| WORDS[token as usize % WORDS.len()];
    tokens.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn read_prompts(path: &Path, settings: &Settings) -> Result<Vec<PromptSample>, CliError> {
    let failed = |what: String| CliError::failure(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut reader = BufReader::new(file);
    let mut samples = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        if samples.len() == settings.num_prompts {
            break;
        }
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(|error| failed(error.to_string()))?;
        if read == 0 {
            break;
        }
        if read as u64 == LINE_BYTES_MAX {
            return Err(failed(format!("line {number} is longer than {LINE_BYTES_MAX} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let sample: PromptLine = serde_json::from_slice(&line).map_err(|error| {
            failed(format!("line {number}: {error}"))
                .hint(r#"each line is JSON such as {"prompt": "Hello", "output_len": 64}"#)
        })?;
        let output_len = sample.output_len.unwrap_or(settings.random_output_len);
        let prompt = Prompt::Text(sample.prompt);
        samples.push(PromptSample { prompt, prompt_tokens: 0, output_len });
    }
    if samples.is_empty() {
        return Err(failed("has no prompts".to_owned()));
    }
    Ok(samples)
}
