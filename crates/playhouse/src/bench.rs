//! `playhouse bench`: open- and closed-loop load on any OpenAI endpoint.
//!
//! - **B-1** numbers are defined as in vLLM's `vllm bench serve`; table and JSON keys are the same.
//! - **B-2** an open load keeps its times: a slow answer delays no other request, and waiting for a slot
//!   (`--max-concurrency`) is counted as the client's queue, not left out.
//! - **B-3** a failed request is counted and adds to no latency; a stream without its end counts as
//!   failed. If all requests fail, or a threshold is missed, the exit code is 1.
//! - **B-4** the same seed and settings send the same bytes at the same times.
//! - **B-5** a run that is interrupted reports the requests that had ended; it meets no thresholds, and its
//!   exit code is that of a process which the signal ended.
//!
//! Not here: starting a server, or knowing a tokenizer.

mod arrivals;
mod dataset;
mod load;
mod random;
mod report;
mod scenario;
mod settings;
mod stats;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};

use self::load::{Load, Outcome, Run};
use self::random::Random;
use self::report::Report;
use self::scenario::{Thresholds, Verdict};
use self::settings::Settings;
use crate::client::{Client, Target};
use crate::date::Date;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::secret;
use crate::signals::{Signals, StopSignal};

/// The maximum number of kinds of failure that are printed; the rest are counted.
const FAILURES_TOLD: usize = 10;
/// The number of file descriptors that are not connections to the server.
const OTHER_FILES: u64 = 32;

/// The flags of `playhouse bench`.
pub(crate) struct BenchArgs {
    own: OwnArgs,
    settings: Settings,
    /// The settings that the command line gives, which override a scenario.
    given: HashSet<String>,
}

/// The flags that are not part of a scenario.
#[derive(Args)]
struct OwnArgs {
    /// Take settings and thresholds from this file; flags override it.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Key of the API, sent as a bearer token.
    #[arg(long, value_name = "KEY", env = "PLAYHOUSE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with the key, in place of --api-key and its variable.
    #[arg(long, value_name = "FILE", env = "PLAYHOUSE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
}

// === impl BenchArgs ===

impl FromArgMatches for BenchArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |id: &&clap::Id| {
            matches.value_source(id.as_str()).is_some_and(|from| from != ValueSource::DefaultValue)
        };
        Ok(Self {
            own: OwnArgs::from_arg_matches(matches)?,
            settings: Settings::from_arg_matches(matches)?,
            given: matches.ids().filter(is_given).map(|id| id.as_str().to_owned()).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for BenchArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Settings::augment_args(OwnArgs::augment_args(command))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Runs a benchmark and prints its result.
///
/// # Errors
/// Returns an error for wrong settings, a missing server, or a result that cannot be written.
pub(crate) async fn run(args: BenchArgs) -> Result<ExitCode, CliError> {
    let (settings, thresholds) = match &args.own.scenario {
        Some(path) => scenario::overlay(path, &args.settings, |key| args.given.contains(key))?,
        None => (args.settings, Thresholds::default()),
    };
    settings.check()?;
    thresholds.check(&Report::new(&settings, &Run::default()).numbers)?;
    check_open_files(&settings)?;

    let time_max = Duration::from_secs(settings.request_timeout);
    let target = Target::parse(&settings.url())?;
    let OwnArgs { api_key, api_key_file, .. } = &args.own;
    let api_key = secret::either("--api-key", api_key.as_deref(), api_key_file.as_deref())?;
    let client = Client::new(target, api_key.as_deref(), time_max).await?;
    let model = match &settings.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let load = Load {
        client,
        endpoint: settings.endpoint.path(),
        requests: dataset::prepare(&settings, &model)?,
        streamed: !settings.no_stream,
        keep_text: settings.save_detailed,
        time_max,
    };
    load.warm_up(settings.num_warmups)
        .await
        .map_err(|error| CliError::failure(format!("the warm-up failed: {error}")))?;

    let (run, signal) = measure(load, &settings).await?;
    let report = Report::new(&settings, &run);
    let verdicts = match signal {
        None => thresholds.judge(&report.numbers),
        Some(_) => Vec::new(),
    };
    tell_failures(&run.outcomes);
    print(&report, &verdicts).map_err(CliError::output)?;
    if settings.save_result {
        save(&settings, &model, &report, &run.outcomes)?;
    }
    if let Some(signal) = signal {
        let (ended, count) = (run.outcomes.len(), settings.num_prompts);
        let error = format!("stopped by {signal} when {ended} of {count} requests had ended");
        return Err(CliError::stopped(signal, error));
    }
    let all_failed = run.outcomes.iter().all(|outcome| outcome.error.is_some());
    let missed = verdicts.iter().any(|verdict| !verdict.met);
    Ok(if all_failed || missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs a load, and returns the signal that ended it early, if one did (**B-5**).
async fn measure(load: Load, settings: &Settings) -> Result<(Run, Option<StopSignal>), CliError> {
    let count = load.requests.len();
    let (rate, burstiness) = (settings.request_rate, settings.burstiness);
    let times = arrivals::arrivals(count, rate, burstiness, &mut Random::new(settings.seed, 2));
    let mut progress = match settings.no_progress {
        true => Progress::hidden(),
        false => Progress::start("bench", count as u64, Unit::Count("requests")),
    };
    let mut signals = Signals::install()
        .map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
    let mut signal = None;
    let interruption = async { signal = Some(signals.next().await) };
    let load = Arc::new(load);
    let max = settings.max_concurrency;
    let run = load::run(load, &times, max, &mut progress, interruption).await;
    Ok((run, signal))
}

/// Refuses a load that needs more connections than this process may open: the benchmark would measure
/// that limit.
fn check_open_files(settings: &Settings) -> Result<(), CliError> {
    if settings.request_rate.is_finite() && settings.max_concurrency.is_none() {
        return Ok(()); // How many will be open at once depends on the server.
    }
    let at_once = settings.max_concurrency.unwrap_or(usize::MAX).min(settings.num_prompts) as u64;
    match crate::doctor::open_files_max() {
        Some(max) if at_once + OTHER_FILES > max => Err(CliError::failure(format!(
            "{at_once} requests at once need as many connections, but this process may open only \
             {max} files"
        ))
        .hint(format!("limit --max-concurrency, or run `ulimit -n {}` before", at_once + 1024))),
        _ => Ok(()),
    }
}

fn tell_failures(outcomes: &[Outcome]) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for error in outcomes.iter().filter_map(|outcome| outcome.error.as_deref()) {
        *kinds.entry(error).or_default() += 1;
    }
    let mut kinds: Vec<(&str, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let mut stderr = io::stderr().lock();
    for (error, count) in kinds.iter().take(FAILURES_TOLD) {
        // The table counts the failures too, so this output may fail.
        let _ = writeln!(stderr, "failed: {count} x {error}");
    }
    if kinds.len() > FAILURES_TOLD {
        let _ = writeln!(stderr, "failed: in {} other ways", kinds.len() - FAILURES_TOLD);
    }
}

fn print(report: &Report, verdicts: &[Verdict]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(report.table().as_bytes())?;
    for verdict in verdicts {
        writeln!(stdout, "{}", verdict.text)?;
    }
    stdout.flush()
}

fn save(
    settings: &Settings,
    model: &str,
    report: &Report,
    outcomes: &[Outcome],
) -> Result<(), CliError> {
    let date = Date::of(SystemTime::now()).compact();
    let name =
        settings.result_filename.clone().unwrap_or_else(|| file_name(settings, model, &date));
    let folder = settings.result_dir.as_deref().unwrap_or(Path::new(""));
    let path = folder.join(name);
    let failed = |error: io::Error| {
        CliError::failure(format!("cannot write the result to {}: {error}", path.display()))
    };
    if !folder.as_os_str().is_empty() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let json = report::to_json(settings, model, &date, report, outcomes);
    std::fs::write(&path, json.to_string() + "\n").map_err(failed)
}

/// Returns the file name that vLLM would use.
fn file_name(settings: &Settings, model: &str, date: &str) -> String {
    let model = model.rsplit('/').next().unwrap_or(model);
    let concurrency =
        settings.max_concurrency.map(|max| format!("-concurrency{max}")).unwrap_or_default();
    // `:?` writes 10.0 as Python does; `{}` would write 10.
    let rate = settings.request_rate;
    format!("{}-{rate:?}qps{concurrency}-{model}-{date}.json", settings.endpoint.backend())
}
