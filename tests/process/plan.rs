//! `playhouse plan` as a user types it.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::Folder;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../planner/src/published");

fn plan(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    command.arg("plan").args(args).output().expect("the binary starts")
}

/// Standard output of a plan that succeeds.
fn printed(args: &[&str]) -> String {
    let output = plan(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Exit code and JSON of a plan, whatever becomes of it.
fn json(args: &[&str]) -> (i32, Value) {
    let output = plan(&[args, &["--format", "json"]].concat());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}: JSON says everything");
    let json = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{args:?}: {why}: {text}"));
    (output.status.code().expect("an exit code"), json)
}

/// Exit code and standard error of a plan that fails.
fn refused(args: &[&str]) -> (i32, String) {
    let output = plan(args);
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    (output.status.code().expect("an exit code"), errors)
}

fn model(name: &str) -> String {
    format!("{MODELS}/{name}.json")
}

#[test]
fn the_layout_may_stand_anywhere_and_in_any_spelling() {
    let model = model("llama-3.1-8b");
    let expected = printed(&[&model, "-tp", "2", "-pp", "2", "-dp", "2"]);
    assert!(expected.starts_with("DP 2 × PP 2 × TP 2: 8 ranks\n"), "{expected}");
    assert!(expected.contains("TP groups           {0,1} {2,3} {4,5} {6,7}"), "{expected}");
    for args in [
        &["--tensor-parallel-size=2", "--pp", "2", &model, "--dp-size", "2"][..],
        &["--tp_size", "2", "--format", "text", "--pipeline-parallel-size", "2", "-dp=2", &model],
    ] {
        assert_eq!(printed(args), expected, "{args:?}");
    }
}

#[test]
fn formats_are_text_json_and_a_picture() {
    let model = model("llama-3.1-8b");
    let json = printed(&[&model, "-tp", "2", "--hardware", "8xH100", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["ranks"].as_array().map(Vec::len), Some(2));
    let picture = printed(&[&model, "-tp", "2", "--format", "svg"]);
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
}

#[test]
fn a_command_line_is_read_from_one_engine_and_written_for_another() {
    let words = ["--", "vllm", "serve", "org/model", "-tp", "4", "-dp", "2"];
    let from_vllm = [&["--from", "vllm", "--to", "sglang"][..], &words].concat();
    let sglang = printed(&from_vllm);
    assert!(sglang.contains("--tp-size 4 --dp-size 2"), "{sglang}");
    assert!(sglang.contains("--model-path org/model"), "{sglang}");
    let words: Vec<&str> = sglang.split_whitespace().collect();
    let back = printed(&[&["--from", "sglang", "--to", "toml", "--"][..], &words].concat());
    let native = printed(&["-tp", "4", "-dp", "2", "--to", "toml"]);
    assert_eq!(back, native);
}

#[test]
fn files_stand_in_for_words() {
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let settings = write("sglang.yaml", "tp: 4\ndp: 2\nenable_dp_attention: true\n");
    let spec = printed(&["--from", "sglang", "--settings", &settings, "--to", "toml"]);
    assert!(spec.contains("tensor = 4\n") && spec.contains("attention_data = 2\n"), "{spec}");

    let grid = write("grid.json", r#"{"tp-size": [1, 2, 3], "pp-size": [1, 2]}"#);
    let model = model("llama-3.1-8b");
    let table = printed(&[&model, "--from", "sglang", "--grid", &grid]);
    assert_eq!(table.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{table}");
    assert!(table.ends_with("4 of 6 combinations can run\n"), "{table}");

    let nodes = "[[nodes]]\nname = \"a\"\ncount = 2\ndevices = 4\ndevice = \"H100\"\n";
    let hardware = write("nodes.toml", nodes);
    assert!(printed(&[&model, "-tp", "4", "--hardware", &hardware]).contains("a-0"));
    let config = write("cluster.toml", &format!("[parallel]\ntensor = 4\ndata = 2\n{nodes}"));
    let config = printed(&[&model, "--config", &config]);
    assert!(config.starts_with("DP 2 × PP 1 × TP 4: 8 ranks"), "{config}");
    assert_eq!(config, printed(&[&model, "-tp", "4", "-dp", "2", "--hardware", &hardware]));
}

#[test]
fn a_goal_recommends_and_says_why_others_were_cut() {
    let hardware = ["--hardware", "8xH100", "--goal", "latency", "--context", "8k"];
    let text = printed(&[&[&*model("llama-3.1-70b")][..], &hardware].concat());
    assert!(text.contains("\n1. DP 1 × PP 1 × TP 8\n"), "{text}");
    assert!(text.contains("cut: ") && text.contains("weights-do-not-fit"), "{text}");
    let (code, error) = refused(&[&model("llama-3.1-70b"), "--goal", "latency"]);
    assert_eq!(code, 2);
    assert!(error.contains("--hardware"), "{error}");
}

#[test]
fn bad_input_gets_every_reason_at_once() {
    let llama = model("llama-3.1-8b");
    let missing = format!("{MODELS}/no-such-model.json");
    let foreign = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deny.toml");
    let cases: [(&[&str], i32, &[&str]); 27] = [
        (
            &[&llama, "-tp", "3", "-pp", "33"],
            2,
            &["4 rules", "heads-divide", "33 stages", "→ 2 or 4"],
        ),
        (&[&llama, "--tensor-paralel-size", "2"], 2, &["no such flag", "--tensor-parallel-size"]),
        (&[&llama, "--hardwear", "8xH100"], 2, &["--hardwear", "'--hardware'"]),
        (&[&llama, "-tp", "3", "--tp", "4"], 2, &["-tp 3 and --tp 4 contradict"]),
        (&[&llama, "-tp", "0", "-pp", "0"], 2, &["2 rules", "tensor is 0", "pipeline is 0"]),
        (&[&llama, "-tp=-1"], 2, &["\"-1\""]),
        (&[&llama, "-tp", "99999999999999999999"], 2, &["99999999999999999999"]),
        (&[&llama, "-tp"], 2, &["-tp: the value is missing"]),
        (
            &[&llama, "-tp", "2", "--preset", "balanced"],
            2,
            &["given twice: by -tp 2", "--preset balanced, which has DP 2 × PP 2 × TP 2"],
        ),
        (&[&llama, "-ep", "4"], 2, &["-ep: it takes no value", "--expert-parallel-size takes one"]),
        (&[&llama, "--max-num-seqs", "0"], 2, &["--max-num-seqs: \"0\" is not more than 0"]),
        (
            &[&llama, "-n", "2", "-r", "1", "--gpus-per-node", "4", "--hardware", "8xH100"],
            2,
            &[
                "2 nodes, the hardware has 1",
                "node 1 is not one of the 1",
                "4 devices of a node, node-0 has 8",
            ],
        ),
        (
            &[&llama, "-tp", "2", "--hardware", "8xH100", "--goal", "latency"],
            2,
            &["--goal asks for a layout, and -tp 2 gives one"],
        ),
        (&[&llama, "--config", foreign], 1, &["deny.toml: TOML parse error", "parallel"]),
        (&[&llama, "--hardware", foreign], 1, &["deny.toml: TOML parse error", "nodes"]),
        (&["--from", "sglang", "--settings", foreign, "--to", "toml"], 1, &["deny.toml: "]),
        (&["--from", "sglang", "--grid", foreign], 1, &["deny.toml: "]),
        (
            &[&llama, "--preset", "balanced", "--hardware", "8xH100", "--goal", "latency"],
            2,
            &["--goal", "--preset", "cannot be used with"],
        ),
        (&[&llama, "-q", "awq"], 2, &["quantization-matches", "no quantization_config"]),
        (&["/no\u{1b}[31m/model"], 1, &["/no\\u{1b}[31m/model"]),
        (&[&llama, "--preset", "fast"], 2, &["\"fast\"", "balanced"]),
        (&[&llama, "--hardware", "2x8xH1000"], 2, &["unknown device `H1000`", "H100"]),
        (&[&missing, "-tp", "2"], 1, &["no-such-model.json", "comes with"]),
        (&["lama-3.1-70b", "-tp", "2"], 1, &["lama-3.1-70b: no such", "mean llama-3.1-70b?"]),
        (
            &["--from", "vllm", "--", "vllm", "serve", "org/Qwen3-31B"],
            2,
            &["config.json of org/Qwen3-31B", "mean qwen3-32b?"],
        ),
        (&[foreign, "-tp", "2"], 1, &["deny.toml"]),
        (&["-tp", "2"], 2, &["without the config.json", "first argument"]),
    ];
    for (args, code, expected) in cases {
        let (found, error) = refused(args);
        assert_eq!(found, code, "{args:?}: {error}");
        for text in expected {
            assert!(error.contains(text), "{args:?}: no {text:?} in\n{error}");
        }
    }
}

#[test]
fn what_means_nothing_here_is_said_and_not_dropped() {
    let words = ["--from", "vllm", "--to", "toml", "--", "m", "-tp", "2", "--enforce-eager"];
    let output = plan(&words);
    assert!(output.status.success());
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(notes.contains("note: ignored --enforce-eager: "), "{notes}");
}

#[test]
fn json_has_notes_refusals_and_what_was_not_understood() {
    let llama = model("llama-3.1-8b");
    let vllm = ["--from", "vllm", &llama, "--", "m", "-tp", "2", "--enforce-eager"];
    let (before, words) = vllm.split_at(3);
    let whole = [before, &["--format", "json"], words].concat();
    let output: Value = serde_json::from_str(&printed(&whole)).expect("JSON");
    assert_eq!(output["notes"][0]["kind"], "ignored");
    assert_eq!(output["notes"][0]["about"], "--enforce-eager");
    assert_eq!(output["ranks"].as_array().map(Vec::len), Some(2));

    let (code, refused) = json(&[&llama, "-tp", "3"]);
    assert_eq!((code, &refused["rules"]), (2, &Value::from("playhouse")));
    assert_eq!(refused["violations"][0]["rule"], "heads-divide");
    assert_eq!(refused["violations"][0]["nearest"][0]["field"], "tensor");
    assert_eq!(refused["violations"][0]["nearest"][0]["value"], 2);

    let (code, unread) = json(&[&llama, "--tensor-paralel-size", "2"]);
    assert_eq!((code, &unread["problems"][0]["problem"]), (2, &Value::from("unknown-flag")));

    let (code, words) = json(&["-tp", "4", "-dp", "2", "--to", "vllm"]);
    assert_eq!(code, 0);
    assert_eq!(words["command"], "vllm serve --tensor-parallel-size 4 --data-parallel-size 2");
    assert_eq!(words["words"][1], "serve");

    let (code, best) = json(&[&llama, "--hardware", "8xH100", "--goal", "latency"]);
    assert_eq!((code, &best["ranked"][0]["spec"]["tensor"]), (0, &Value::from(8)));
}

#[test]
fn a_preset_takes_flags_that_are_no_part_of_the_layout() {
    let llama = model("llama-3.1-8b");
    let tokens = |extra: &[&str]| {
        let (code, plan) = json(&[&[&*llama, "--preset", "balanced"][..], extra].concat());
        assert_eq!(code, 0, "{plan}");
        plan["kv_tokens"].as_u64().expect("hardware")
    };
    let usual = tokens(&[]);
    assert!(tokens(&["--gpu-memory-utilization", "0.5"]) < usual);
    assert!(tokens(&["--kv-cache-dtype", "fp8"]) > usual);
}

#[test]
fn help_has_a_line_for_every_flag_of_a_layout() {
    for command in ["plan", "serve"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_playhouse")).args([command, "--help"]).output();
        let help = String::from_utf8(output.expect("the binary starts").stdout).expect("UTF-8");
        let layout = help.split("Layout:\n").nth(1).expect("a section");
        assert!(layout.contains("  -tp, --tensor-parallel-size N "), "{command}: {layout}");
        let expert = layout.contains("  -ep, --enable-expert-parallel ");
        assert_eq!(
            expert,
            command == "plan",
            "this version serves no expert parallelism: {layout}"
        );
        assert!(layout.contains("--tp, --tp-size for --tensor-parallel-size"), "{layout}");
    }
}

#[test]
fn a_well_known_model_needs_no_file() {
    let file = printed(&[&model("llama-3.1-70b"), "-tp", "8"]);
    for name in ["llama-3.1-70b", "meta-llama/Llama-3.3-70B-Instruct", "LLAMA-3.1-70B"] {
        assert_eq!(printed(&[name, "-tp", "8"]), file, "{name}");
    }
    let words = ["--from", "vllm", "--", "vllm", "serve", "meta-llama/Llama-3.1-70B", "-tp", "8"];
    assert_eq!(printed(&words), file);
    let notes = String::from_utf8(plan(&words).stderr).expect("UTF-8");
    assert!(
        notes.contains("note: chosen meta-llama/Llama-3.1-70B: its sizes are those that come"),
        "{notes}"
    );
    let placed = printed(&["llama-3.1-70b", "-tp", "8", "--hardware", "8xH100"]);
    assert_eq!(printed(&["llama-3.1-70b", "-tp", "8", "--device", "8xh100"]), placed);
}

#[test]
fn a_file_goes_before_a_model_of_the_same_name() {
    let folder = Folder::new();
    fs::copy(model("qwen2.5-7b"), folder.join("llama-3.1-8b")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    command.args(["plan", "llama-3.1-8b", "-tp", "2"]).current_dir(&folder.0);
    let output = command.output().expect("the binary starts");
    let file = printed(&[&model("qwen2.5-7b"), "-tp", "2"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), file);
}

/// Two context servers of two ranks leave the last four devices to the generation server.
#[test]
fn servers_behind_a_front_door_are_planned_side_by_side() {
    let folder = Folder::new();
    let name = folder.join("servers.yaml");
    let section = |name: &str, count: u32, width: u32| {
        format!("{name}: {{num_instances: {count}, tensor_parallel_size: {width}}}\n")
    };
    let write = |generation: u32| {
        let sections =
            [section("context_servers", 2, 2), section("generation_servers", 1, generation)];
        fs::write(&name, sections.concat()).expect("a file");
    };
    write(4);
    let words = ["--from", "tensorrt-llm", "--", "trtllm-serve", "disaggregated", "-c", &name];
    let model = ["llama-3.1-8b", "--hardware", "8xH100"];
    let answer = printed(&[&model[..], &["--format", "json"], &words].concat());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let servers = answer["servers"].as_array().expect("two kinds");
    let devices = |at: usize| -> Vec<u64> {
        let ranks = servers[at]["ranks"].as_array().expect("ranks");
        ranks.iter().map(|rank| rank["device"].as_u64().expect("a device")).collect()
    };
    assert_eq!(servers[0]["section"], "context_servers");
    assert_eq!(servers[0]["count"], 2);
    assert_eq!((devices(0), devices(1)), (vec![0, 1, 2, 3], vec![4, 5, 6, 7]));
    let text = printed(&[&model[..], &words].concat());
    assert!(text.contains("# context_servers: 2\nDP 2 × PP 1 × TP 2: 4 ranks\n"), "{text}");
    assert!(text.contains("# generation_servers: 1\nDP 1 × PP 1 × TP 4: 4 ranks\n"), "{text}");

    let file = ["--from", "tensorrt-llm", "--settings", &name];
    assert_eq!(printed(&[&model[..], &file].concat()), text);

    let commands = printed(&[&["--to", "sglang"][..], &words].concat());
    assert!(commands.contains("--tp-size 2 --disaggregation-mode prefill\n"), "{commands}");
    assert!(commands.contains("--tp-size 4 --disaggregation-mode decode\n"), "{commands}");

    write(8);
    let (code, error) = refused(&[&model[..], &words].concat());
    assert_eq!(code, 2);
    assert!(error.contains("8 ranks need as many devices, the hardware has 4"), "{error}");
    let (code, error) = refused(&[&["--format", "svg"][..], &model, &words].concat());
    assert_eq!(code, 2);
    assert!(error.contains("is no picture"), "{error}");
}

#[test]
fn a_translation_names_what_it_leaves_out_by_its_flag() {
    let words = ["vllm", "serve", "m", "-tp", "2", "--max-model-len", "32K", "-n", "2"];
    let output = plan(&[&["--from", "vllm", "--to", "toml", "--"][..], &words].concat());
    let notes = String::from_utf8(output.stderr).expect("UTF-8");
    for note in ["ignored MODEL: ", "ignored --max-model-len: ", "ignored -n: "] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
}

#[test]
fn a_note_is_said_once() {
    let words = ["--from", "vllm", "--to", "vllm", "--", "m", "-tp", "2", "-dp", "2", "-ep"];
    let output = plan(&words);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert_eq!(notes.matches("differs expert width").count(), 1, "{notes}");
}
