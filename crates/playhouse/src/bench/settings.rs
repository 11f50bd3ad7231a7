//! The settings of a benchmark: one struct which is the flags, the keys of a scenario file and the place
//! of every default.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::dataset::FIRST_TOKEN;
use crate::error::CliError;
use crate::number;

/// The maximum of all counts; keeps sums and buffers in their ranges.
const COUNT_MAX: usize = 100_000_000;
/// The maximum duration of a planned run.
const DURATION_SECONDS_MAX: f64 = 30.0 * 86_400.0;

/// The settings of a benchmark. Every flag is also a key of a scenario file, with `_` for `-`.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Base URL of the server, instead of --host and --port.
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(super) base_url: Option<String>,
    /// Host of the server.
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub(super) host: String,
    /// Port of the server.
    #[arg(
        long,
        default_value_t = 8000,
        help_heading = "Server",
        value_parser = number::whole::<u16>
    )]
    pub(super) port: u16,
    /// API endpoint.
    #[arg(long, value_enum, default_value_t = Endpoint::Completions, help_heading = "Server")]
    pub(super) endpoint: Endpoint,
    /// Name of the model; otherwise the first that the server lists.
    #[arg(long, help_heading = "Server")]
    pub(super) model: Option<String>,

    /// Requests to send.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        help_heading = "Load",
        value_parser = number::count::<usize>
    )]
    pub(super) num_prompts: usize,
    /// Requests per second, with random gaps; `inf` sends all at once.
    #[arg(
        long,
        value_name = "RPS",
        default_value_t = f64::INFINITY,
        help_heading = "Load",
        value_parser = number::decimal
    )]
    pub(super) request_rate: f64,
    /// Shape of the gamma distribution of the gaps: 1 is a Poisson process, less comes in bursts,
    /// more is even, `inf` is a constant gap.
    #[arg(
        long,
        value_name = "SHAPE",
        default_value_t = 1.0,
        help_heading = "Load",
        value_parser = number::decimal
    )]
    pub(super) burstiness: f64,
    /// Maximum number of requests in flight; further due requests wait. With a rate of `inf` this is a
    /// closed loop.
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = number::count::<usize>)]
    pub(super) max_concurrency: Option<usize>,
    /// Requests sent before the measurement begins.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Load",
        value_parser = number::count::<usize>
    )]
    pub(super) num_warmups: usize,
    /// A request that takes longer has failed.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        help_heading = "Load",
        value_parser = number::whole::<u64>
    )]
    pub(super) request_timeout: u64,
    /// Seed of prompts, lengths and gaps.
    #[arg(long, default_value_t = 0, help_heading = "Load", value_parser = number::whole::<u32>)]
    pub(super) seed: u32,

    /// Where prompts come from.
    #[arg(long, value_enum, default_value_t = Dataset::Random, help_heading = "Prompts")]
    pub(super) dataset_name: Dataset,
    /// JSON lines with `prompt` and, if wanted, `output_len`, for `--dataset-name prompts`.
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pub(super) dataset_path: Option<PathBuf>,
    /// Tokens per random prompt (words, for chat), besides the prefix.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        visible_alias = "input-len",
        help_heading = "Prompts",
        value_parser = number::count::<usize>
    )]
    pub(super) random_input_len: usize,
    /// Tokens to generate per request, unless the dataset says so itself.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        visible_alias = "output-len",
        help_heading = "Prompts",
        value_parser = number::count::<usize>
    )]
    pub(super) random_output_len: usize,
    /// Random lengths are evenly spread over len × (1 - R) to len × (1 + R).
    #[arg(
        long,
        value_name = "R",
        default_value_t = 0.0,
        help_heading = "Prompts",
        value_parser = number::decimal
    )]
    pub(super) random_range_ratio: f64,
    /// Tokens that all random prompts begin with.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Prompts",
        value_parser = number::count::<usize>
    )]
    pub(super) random_prefix_len: usize,
    /// Random token ids are below this. Must not exceed the vocabulary of the model.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        help_heading = "Prompts",
        value_parser = number::count::<u32>
    )]
    pub(super) random_vocab_size: u32,

    /// Generate the full length even if the model would stop; the default for random prompts.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Request"
    )]
    pub(super) ignore_eos: Option<bool>,
    /// Sampling temperature; otherwise the server's default.
    #[arg(long, value_name = "T", help_heading = "Request", value_parser = number::decimal)]
    pub(super) temperature: Option<f64>,
    /// Ask for whole answers instead of streams. Only latencies of whole requests are known then.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value_t = false, hide_default_value = true,
        action = clap::ArgAction::Set, help_heading = "Request"
    )]
    pub(super) no_stream: bool,

    /// Latencies to report: ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue.
    /// [default: ttft,tpot,itl; with --no-stream: e2el]
    #[arg(
        long,
        value_enum,
        value_name = "NAMES",
        value_delimiter = ',',
        hide_possible_values = true,
        help_heading = "Report"
    )]
    pub(super) percentile_metrics: Option<Vec<Metric>>,
    /// Percentiles to report of each latency.
    #[arg(
        long,
        value_name = "P",
        value_delimiter = ',',
        default_value = "99",
        help_heading = "Report",
        value_parser = number::decimal
    )]
    pub(super) metric_percentiles: Vec<f64>,
    /// Count as good only requests within these limits in milliseconds: ttft:500 tpot:50 e2el:9000.
    #[arg(long, value_name = "NAME:MS", num_args = 1.., help_heading = "Report")]
    #[serde(default)]
    pub(super) goodput: Vec<Objective>,
    /// Write the result as JSON, with vLLM's keys.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value_t = false, hide_default_value = true,
        action = clap::ArgAction::Set, help_heading = "Report"
    )]
    pub(super) save_result: bool,
    /// Put each request's lengths, latencies, text and error into the JSON.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value_t = false, hide_default_value = true,
        action = clap::ArgAction::Set, help_heading = "Report"
    )]
    pub(super) save_detailed: bool,
    /// Folder of the JSON; otherwise the current one.
    #[arg(long, value_name = "FOLDER", help_heading = "Report")]
    pub(super) result_dir: Option<PathBuf>,
    /// File name of the JSON; otherwise made of rate, model and date.
    #[arg(long, value_name = "NAME", help_heading = "Report")]
    pub(super) result_filename: Option<String>,
    /// Show no progress.
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value_t = false, hide_default_value = true,
        action = clap::ArgAction::Set, visible_alias = "disable-tqdm", help_heading = "Report"
    )]
    pub(super) no_progress: bool,
}

/// The API that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(super) enum Endpoint {
    /// Text completions.
    #[value(name = "/v1/completions")]
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Chat completions.
    #[value(name = "/v1/chat/completions")]
    #[serde(rename = "/v1/chat/completions")]
    Chat,
}

/// The source of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dataset {
    /// Random token ids for completions, random words for chat.
    Random,
    /// The prompts of --dataset-path, in order, from the start again when they run out.
    #[value(alias = "custom")]
    #[serde(alias = "custom")]
    Prompts,
}

/// A latency of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Inter-token latency.
    Itl,
    /// End-to-end latency: from sending to the last token.
    E2el,
    /// From the time a request was due to its sending.
    ClientQueueTime,
    /// From the time a request was due to its last token.
    E2elIncludingClientQueue,
}

/// A limit on a latency of a request, as `ttft:500`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Objective {
    /// Time to first token, time per output token or end-to-end latency.
    pub(super) metric: Metric,
    /// The maximum latency of a good request, in milliseconds.
    pub(super) ms_max: f64,
}

// === impl Settings ===

impl Settings {
    /// Returns the latencies to report.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        match &self.percentile_metrics {
            Some(metrics) => metrics.clone(),
            None if self.no_stream => vec![Metric::E2el],
            None => vec![Metric::Ttft, Metric::Tpot, Metric::Itl],
        }
    }

    /// Returns whether answers must have their full length.
    pub(super) fn ignores_eos(&self) -> bool {
        self.ignore_eos.unwrap_or(self.dataset_name == Dataset::Random)
    }

    /// Returns the base URL of the server.
    pub(super) fn url(&self) -> String {
        match &self.base_url {
            Some(url) => url.clone(),
            None if self.host.contains(':') => format!("http://[{}]:{}", self.host, self.port),
            None => format!("http://{}:{}", self.host, self.port),
        }
    }

    /// Returns the settings of a command line that has only these flags.
    #[cfg(test)]
    pub(super) fn of_flags(flags: &[&str]) -> Self {
        use clap::{Args, FromArgMatches};
        let command = Self::augment_args(clap::Command::new("bench").no_binary_name(true));
        let matches = command.try_get_matches_from(flags).expect("valid flags");
        Self::from_arg_matches(&matches).expect("valid flags")
    }

    /// Refuses settings that cannot be measured.
    ///
    /// # Errors
    /// Returns the first setting that is out of its range or does not fit the others.
    pub(super) fn check(&self) -> Result<(), CliError> {
        counts("num-prompts", self.num_prompts)?;
        counts("random-input-len", self.random_input_len)?;
        counts("random-output-len", self.random_output_len)?;
        counts("max-concurrency", self.max_concurrency.unwrap_or(1))?;
        counts("request-timeout", usize::try_from(self.request_timeout).unwrap_or(usize::MAX))?;
        let rate = self.request_rate;
        within("request-rate", rate, rate > 0.0, "above 0, or inf")?;
        let shape = self.burstiness;
        let fits = shape.is_infinite() || (1e-3..=1e6).contains(&shape);
        within("burstiness", shape, shape > 0.0 && fits, "between 0.001 and 1000000, or inf")?;
        let ratio = self.random_range_ratio;
        within("random-range-ratio", ratio, (0.0..1.0).contains(&ratio), "in [0, 1)")?;
        if let Some(temperature) = self.temperature {
            let fits = (0.0..=2.0).contains(&temperature);
            within("temperature", temperature, fits, "between 0 and 2")?;
        }
        for &p in &self.metric_percentiles {
            let fits = (0.0..=100.0).contains(&p);
            within("metric-percentiles", p, fits, "between 0 and 100")?;
        }
        let vocabulary = f64::from(self.random_vocab_size);
        let fits = self.random_vocab_size > FIRST_TOKEN;
        within("random-vocab-size", vocabulary, fits, "above 3: the ids below are special")?;
        let seconds = self.num_prompts as f64 / rate;
        if seconds > DURATION_SECONDS_MAX {
            return Err(CliError::usage(format!(
                "{} prompts at {rate} requests/s would take {seconds:.0} s, more than {} days",
                self.num_prompts,
                DURATION_SECONDS_MAX / 86_400.0
            )));
        }
        self.check_fit()
    }

    fn check_fit(&self) -> Result<(), CliError> {
        match (self.dataset_name, &self.dataset_path) {
            (Dataset::Prompts, None) => {
                return Err(CliError::usage("--dataset-name prompts needs --dataset-path"));
            }
            (Dataset::Random, Some(_)) => {
                return Err(CliError::usage("--dataset-path does not fit random prompts")
                    .hint("add --dataset-name prompts"));
            }
            _ => {}
        }
        let streamed = [Metric::Ttft, Metric::Tpot, Metric::Itl];
        let metrics = self.metrics();
        let objectives = self.goodput.iter().map(|objective| objective.metric);
        let unknown = metrics.into_iter().chain(objectives).find(|name| streamed.contains(name));
        match unknown {
            Some(metric) if self.no_stream => Err(CliError::usage(format!(
                "{} is not known of answers that are not streamed",
                metric.key()
            ))
            .hint("leave out --no-stream, or ask for e2el only")),
            _ => Ok(()),
        }
    }
}

fn counts(flag: &str, given: usize) -> Result<(), CliError> {
    within(flag, given as f64, (1..=COUNT_MAX).contains(&given), "between 1 and 100000000")
}

fn within(flag: &str, given: f64, fits: bool, allowed: &str) -> Result<(), CliError> {
    if !fits {
        return Err(CliError::usage(format!("--{flag} is {given}, must be {allowed}")));
    }
    Ok(())
}

// === impl Endpoint ===

impl Endpoint {
    /// Returns the path of the API.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// Returns vLLM's name of the API in results.
    pub(super) fn backend(self) -> &'static str {
        match self {
            Self::Completions => "openai",
            Self::Chat => "openai-chat",
        }
    }
}

// === impl Metric ===

impl Metric {
    /// Returns the latency's name in keys of results.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
            Self::ClientQueueTime => "client_queue_time",
            Self::E2elIncludingClientQueue => "e2el_including_client_queue",
        }
    }
}

// === impl Objective ===

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not NAME:MILLISECONDS with ttft, tpot or e2el");
        let (name, ms) = text.split_once(':').ok_or_else(wrong)?;
        let metric = [Metric::Ttft, Metric::Tpot, Metric::E2el]
            .into_iter()
            .find(|metric| metric.key() == name)
            .ok_or_else(wrong)?;
        let ms_max: f64 = ms.parse().map_err(|_| wrong())?;
        if ms_max.is_nan() || ms_max < 0.0 {
            return Err(format!("{text:?} must not be below 0"));
        }
        Ok(Self { metric, ms_max })
    }
}

impl TryFrom<String> for Objective {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Objective> for String {
    fn from(objective: Objective) -> Self {
        objective.to_string()
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.metric.key(), self.ms_max)
    }
}
