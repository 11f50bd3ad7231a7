//! Files: which are named, what a layout in TOML may say, how commands are quoted.

use playhouse_planner::dialect::{
    Dialect, Document, Parameters, Problem, documents_of, help, read, write,
};
use playhouse_types::ParallelSpec;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn toml(text: &str) -> Document {
    Document { name: "layout.toml".to_owned(), text: text.to_owned() }
}

#[test]
fn a_command_names_its_file_in_every_dialect() {
    for (dialect, line) in [
        (Dialect::Vllm, "vllm serve m --config a.yaml"),
        (Dialect::Sglang, "python -m sglang.launch_server --config=a.yaml"),
        (Dialect::TensorRtLlm, "trtllm-serve m --extra_llm_api_options a.yaml --nonsense"),
    ] {
        assert_eq!(documents_of(dialect, &words(line)), ["a.yaml"], "{dialect:?}");
        assert_eq!(documents_of(dialect, &words("m")), Vec::<String>::new());
    }
}

#[test]
fn a_layout_in_toml_leaves_open_what_it_does_not_say() {
    let spec = toml("tensor = 4\nexpert = { within = 2 }\n").spec().expect("a layout");
    assert_eq!(spec.tensor, 4);
    assert_eq!(spec.pipeline, ParallelSpec::default().pipeline);
}

#[test]
fn a_layout_in_toml_is_refused_with_the_place() {
    for (text, place) in [
        ("tensors = 4\n", "tensors"),
        ("tensor = -1\n", "line 1"),
        ("tensor = 4.5\n", "line 1"),
        ("pipeline = 1\nrole = \"both\"\n", "line 2"),
        ("tensor = \n", "line 1"),
    ] {
        match toml(text).spec() {
            Err(Problem::BadDocument { name, reason }) => {
                assert_eq!(name, "layout.toml");
                assert!(reason.contains(place), "{text:?}: {reason}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn a_written_command_survives_a_shell() {
    let spec = ParallelSpec { tensor: 2, ..ParallelSpec::default() };
    let model = Some("it's a model");
    let written =
        write(Dialect::Vllm, &spec, model, None, &Parameters::default()).expect("expressible");
    assert_eq!(written.line(), r"vllm serve 'it'\''s a model' --tensor-parallel-size 2");
}

#[test]
fn a_command_of_absurd_length_is_refused() {
    let many = vec!["-tp".to_owned(); 5000];
    let problems = read(Dialect::Vllm, &many, &[]).expect_err("too many words");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("5000"), "{}", problems[0]);
}

#[test]
fn help_shows_spellings_values_and_meaning() {
    let help = help(Dialect::Native, |_| true);
    let line = "  -tp, --tensor-parallel-size N            Ranks that share one stage.\n";
    assert!(help.contains(line), "{help}");
    assert!(help.contains("--tp, --tp-size for --tensor-parallel-size"), "{help}");
    assert!(
        help.lines().take_while(|line| !line.is_empty()).all(|line| line.len() <= 100),
        "{help}"
    );
}

#[test]
fn a_mapping_may_be_one_word_of_the_shell() {
    let read = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        read(Dialect::TensorRtLlm, &words, &[]).expect("a Mapping").spec
    };
    let one = read(&["Mapping(world_size=16, tp_size=8, pp_size=2, pp_partition=[30, 31] )"]);
    assert_eq!(one, read(&["tp_size=8", "pp_size=2", "pp_partition=[30,31]"]));
}
