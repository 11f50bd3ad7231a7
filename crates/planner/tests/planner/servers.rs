//! Commands of a front door, whose file describes the servers behind it.

use playhouse_planner::dialect::{
    Dialect, Document, Problem, Servers, documents_of, read, read_servers, read_servers_document,
};
use playhouse_types::Role;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Reads the command with a file of this text.
fn servers(command: &str, yaml: &str) -> Result<Vec<Servers>, Vec<Problem>> {
    let document = Document { name: "servers.yaml".to_owned(), text: yaml.to_owned() };
    read_servers(Dialect::TensorRtLlm, &words(command), &[document]).expect("a front door")
}

const COMMAND: &str = "trtllm-serve disaggregated -c servers.yaml -t 7200 --request_timeout=7200";

const TWO_KINDS: &str = "
hostname: localhost
port: 8000
model: deepseek-ai/DeepSeek-R1
max_num_tokens: 8192
context_servers:
  num_instances: 2
  tensor_parallel_size: 4
  moe_expert_parallel_size: 4
  enable_attention_dp: true
  router: {type: kv_cache_aware}
  cache_transceiver_config: {backend: UCX}
  urls: [\"a:8001\", \"a:8002\"]
generation_servers:
  num_instances: 1
  tensor_parallel_size: 8
  pipeline_parallel_size: 2
  urls: [\"b:8001\"]
";

#[test]
fn each_section_is_a_command_of_its_own_with_what_stands_outside() {
    let found = servers(COMMAND, TWO_KINDS).expect("two kinds");
    let [context, generation] = &found[..] else { panic!("{found:?}") };
    assert_eq!((context.section, context.count), ("context_servers", 2));
    assert_eq!((context.reading.spec.tensor, context.reading.spec.attention_data), (4, 4));
    assert_eq!(context.reading.spec.role, Role::Prefill);
    assert_eq!((generation.section, generation.count), ("generation_servers", 1));
    assert_eq!((generation.reading.spec.tensor, generation.reading.spec.pipeline), (8, 2));
    assert_eq!(generation.reading.spec.role, Role::Decode);
    for Servers { reading, .. } in &found {
        assert_eq!(reading.model.as_deref(), Some("deepseek-ai/DeepSeek-R1"));
        assert_eq!(reading.parameters.batch_tokens_max, Some(8192));
    }
}

/// The example of TensorRT-LLM itself has such a pair.
#[test]
fn a_section_says_in_its_own_words_what_else_holds_for_all() {
    let yaml = "free_gpu_memory_fraction: 0.25\ntensor_parallel_size: 2\n\
                context_servers: {kv_cache_config: {free_gpu_memory_fraction: 0.2}}\n\
                generation_servers: {tp_size: 4}\n";
    let found = servers(COMMAND, yaml).expect("two kinds");
    let of =
        |at: usize| (found[at].reading.parameters.memory_fraction, found[at].reading.spec.tensor);
    assert_eq!((of(0), of(1)), ((Some(0.2), 2), (Some(0.25), 4)));
}

#[test]
fn a_section_without_servers_is_left_out() {
    let yaml =
        "context_servers: {num_instances: 0}\ngeneration_servers: {tensor_parallel_size: 2}\n";
    let found = servers(COMMAND, yaml).expect("one kind");
    assert_eq!(found.iter().map(|servers| servers.count).collect::<Vec<_>>(), [1]);
}

#[test]
fn the_file_is_named_and_other_commands_are_none_of_a_front_door() {
    assert_eq!(documents_of(Dialect::TensorRtLlm, &words(COMMAND)), ["servers.yaml"]);
    let worker = "mpirun -n 16 trtllm-serve disaggregated_mpi_worker --config-file w.yaml";
    assert_eq!(documents_of(Dialect::TensorRtLlm, &words(worker)), ["w.yaml"]);
    for (dialect, command) in [
        (Dialect::TensorRtLlm, "trtllm-serve m --tp_size 2"),
        (Dialect::TensorRtLlm, "trtllm-serve disaggregated-r1 --tp_size 2"),
        (Dialect::Vllm, "vllm serve disaggregated"),
    ] {
        assert_eq!(read_servers(dialect, &words(command), &[]), None, "{command}");
    }
    let alone = read(Dialect::TensorRtLlm, &words(COMMAND), &[]).expect_err("several servers");
    assert_eq!(alone[0].name(), "no-ranks");
}

#[test]
fn what_is_wrong_in_the_file_is_said_with_its_section() {
    for (yaml, expected) in [
        ("context_servers: {tensor_paralel_size: 2}", "context_servers.tensor_paralel_size"),
        ("context_servers: {num_instances: 3, urls: [a]}", "1 urls for 3 servers"),
        ("context_servers: {num_instances: -1}", "context_servers.num_instances is -1"),
        ("context_servers: {num_instances: 70000}", "at most 65536"),
        ("context_servers: 4", "context_servers is not a table"),
        ("port: 8000", "no server in context_servers or generation_servers"),
        ("[1", "servers.yaml: "),
        (
            "tensor_parallel_size: 2\ncontext_servers: {tensor_parallel_size: 4}",
            "tensor_parallel_size 2 and context_servers.tensor_parallel_size 4 contradict",
        ),
        // A front door only knows where servers are that others start.
        (
            "context_servers: {num_instances: 1, urls: [\"a:8001\"]}",
            "plan the command of its servers",
        ),
    ] {
        let problems = servers(COMMAND, yaml).expect_err(yaml);
        let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        assert!(text.contains(expected), "{yaml}: {text}");
    }
    let started = "trtllm-serve disaggregated_mpi_worker -c servers.yaml";
    let yaml = "context_servers: {num_instances: 1, urls: [\"a:8001\"]}";
    assert_eq!(servers(started, yaml).expect("tensor 1")[0].reading.spec.tensor, 1);
}

#[test]
fn the_file_alone_says_the_same_as_the_command() {
    let document = |text: &str| Document { name: "servers.yaml".to_owned(), text: text.to_owned() };
    let alone = read_servers_document(Dialect::TensorRtLlm, &document(TWO_KINDS));
    assert_eq!(alone, Some(servers(COMMAND, TWO_KINDS)));
    for text in ["tensor_parallel_size: 8", "[1", ""] {
        assert_eq!(read_servers_document(Dialect::TensorRtLlm, &document(text)), None, "{text}");
    }
    assert_eq!(read_servers_document(Dialect::Sglang, &document(TWO_KINDS)), None);
}

#[test]
fn what_is_wrong_in_the_command_is_said() {
    for (command, expected) in [
        ("trtllm-serve disaggregated", "-c: the value is missing"),
        ("trtllm-serve disaggregated -c", "-c: the value is missing"),
        ("trtllm-serve disaggregated -c servers.yaml --request_timeot 3", "--request_timeout"),
        ("trtllm-serve disaggregated -c servers.yaml more", "\"more\" belongs to no flag"),
        ("trtllm-serve disaggregated -c elsewhere.yaml", "elsewhere.yaml: "),
    ] {
        let problems = servers(command, TWO_KINDS).expect_err(command);
        let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        assert!(text.contains(expected), "{command}: {text}");
    }
}
