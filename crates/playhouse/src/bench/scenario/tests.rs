use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::*;
use crate::bench::load::Run;
use crate::bench::report::Report;
use crate::bench::settings::Endpoint;

/// A scenario in a file of its own, which is removed when this is dropped.
struct ScenarioFile(PathBuf);

impl ScenarioFile {
    fn new(name: &str, text: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("playhouse-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("the temporary folder can be written");
        Self(path)
    }
}

impl Drop for ScenarioFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn refused(name: &str, text: &str) -> String {
    let file = ScenarioFile::new(name, text);
    overlay(&file.0, &Settings::of_flags(&[]), |_| false).expect_err(text).text()
}

#[test]
fn the_command_line_is_stronger_than_the_file_and_the_file_than_the_defaults() {
    let file = ScenarioFile::new(
        "layers",
        "num_prompts = 7\nrandom_input_len = 9\nrequest_rate = inf\nno_stream = true\n\
         endpoint = \"/v1/chat/completions\"\n[thresholds]\nmax_failed = 0\nmin_completed = 1.5",
    );
    let flags = Settings::of_flags(&["--num-prompts", "3", "--no-stream=false"]);
    let given = |key: &str| ["num_prompts", "no_stream"].contains(&key);
    let (settings, thresholds) = overlay(&file.0, &flags, given).expect("valid");
    assert_eq!(settings.num_prompts, 3, "from the command line");
    assert!(!settings.no_stream, "from the command line");
    assert_eq!(settings.random_input_len, 9, "from the file");
    assert_eq!(settings.endpoint, Endpoint::Chat, "from the file");
    assert_eq!(settings.random_output_len, flags.random_output_len, "the default");
    let names: Vec<_> = thresholds.0.iter().map(|t| (t.name.as_str(), t.limit)).collect();
    assert_eq!(names, [("max_failed", 0.0), ("min_completed", 1.5)]);
}

#[test]
fn every_setting_survives_the_way_through_a_file() {
    let all = Settings::of_flags(&[
        "--base-url",
        "http://x:1",
        "--model",
        "m",
        "--request-rate",
        "2.5",
        "--burstiness",
        "inf",
        "--max-concurrency",
        "4",
        "--dataset-name",
        "prompts",
        "--dataset-path",
        "p.jsonl",
        "--ignore-eos",
        "--temperature",
        "0.7",
        "--no-stream",
        "--percentile-metrics",
        "ttft,e2el",
        "--metric-percentiles",
        "50,99.9",
        "--goodput",
        "ttft:500",
        "e2el:9000",
        "--save-result",
        "--save-detailed",
        "--result-dir",
        "out",
        "--result-filename",
        "r.json",
        "--no-progress",
    ]);
    let table = Table::try_from(&all).expect("settings are TOML");
    let back: Settings = table.clone().try_into().expect("TOML is settings");
    assert_eq!(Table::try_from(&back).expect("settings are TOML"), table);
    let flags = Settings::augment_args(clap::Command::new("bench"));
    assert_eq!(table.len(), flags.get_arguments().count(), "some have no value above: {table}");
}

#[test]
fn a_data_set_lies_beside_its_scenario() {
    let file = ScenarioFile::new("beside", "dataset_name = 'prompts'\ndataset_path = 'p.jsonl'");
    let (settings, _) = overlay(&file.0, &Settings::of_flags(&[]), |_| false).expect("valid");
    assert_eq!(settings.dataset_path, Some(std::env::temp_dir().join("p.jsonl")));
}

#[test]
fn wrong_files_are_refused_with_what_is_wrong() {
    for (name, text, why) in [
        ("unknown", "num_promts = 7", "unknown field `num_promts`, expected one of"),
        ("type", "num_prompts = 'many'", "invalid type: string \"many\", expected a whole number"),
        ("metric", "percentile_metrics = ['tfft']", "unknown variant `tfft`, expected one of"),
        ("toml", "num_prompts = = 7", "TOML parse error at line 1"),
        ("table", "thresholds = 3", "must be a table"),
        ("prefix", "[thresholds]\np99_ttft_ms = 3", "must begin with min_ or max_"),
        ("number", "[thresholds]\nmax_failed = 'no'", "must be a number"),
        ("goodput", "goodput = ['itl:5']", "is not NAME:MILLISECONDS"),
    ] {
        let text = refused(name, text);
        assert!(text.contains(why) && text.contains(".toml: "), "{text}");
    }
    let missing = overlay(Path::new("/nowhere/x.toml"), &Settings::of_flags(&[]), |_| false);
    assert!(missing.expect_err("missing").text().contains("/nowhere/x.toml: No such file"));
}

#[test]
fn thresholds_judge_numbers_by_name() {
    let numbers = json!({"failed": 2, "mean_itl_ms": null, "p99_ttft_ms": 250.0});
    let numbers = numbers.as_object().expect("an object");
    let thresholds = |text: &str| Thresholds::read(&text.parse().expect("TOML")).expect("valid");
    let limits =
        "max_failed = 1\nmax_mean_itl_ms = 9\nmax_p99_ttft_ms = 250\nmin_p99_ttft_ms = 251";
    let limits = thresholds(limits);
    limits.check(numbers).expect("the result has them all");
    let judged = limits.judge(numbers);
    let verdicts: Vec<(bool, &str)> =
        judged.iter().map(|verdict| (verdict.met, verdict.text.as_str())).collect();
    assert_eq!(
        verdicts,
        [
            (false, "FAIL max_failed                           2.00 > 1"),
            (false, "FAIL max_mean_itl_ms                      no request had it"),
            (true, "ok   max_p99_ttft_ms                      250.00 <= 250"),
            (false, "FAIL min_p99_ttft_ms                      250.00 < 251"),
        ]
    );
    for (text, name) in
        [("max_p95_ttft_ms = 1", "p95_ttft_ms"), ("min_request_goodput = 1", "request_goodput")]
    {
        let refused = thresholds(text).check(numbers).expect_err(text).text();
        assert!(
            refused.contains(name) && refused.contains("it has failed, mean_itl_ms, p99_ttft_ms"),
            "{refused}"
        );
    }
}

#[test]
fn the_scenarios_of_the_repository_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../loadtests");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("loadtests/ exists") {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let (settings, thresholds) = overlay(&path, &Settings::of_flags(&[]), |_| false)
                .unwrap_or_else(|error| panic!("{}", error.text()));
            settings.check().unwrap_or_else(|error| panic!("{}: {}", path.display(), error.text()));
            let report = Report::new(&settings, &Run::default());
            thresholds.check(&report.numbers).unwrap_or_else(|error| panic!("{}", error.text()));
            count += 1;
        }
    }
    assert_eq!(count, 6);
}
