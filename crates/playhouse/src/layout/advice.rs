//! What to change in a layout that cannot run, in the flags of `serve`. The planner advises in the words of
//! its files, and offers to change also what this version does not serve.

use playhouse_planner::{Field, Violation};

/// The partition of a pipeline in the planner's words, and its flag.
const PARTITION: (&str, &str) = ("pipeline_partition", "--pipeline-partition");

/// Returns what a violation says, and how to mend it.
pub(super) fn told(violation: &Violation) -> String {
    let mut ways: Vec<(&str, String)> = Vec::new();
    for change in &violation.nearest {
        let Some(flag) = flag(change.field) else { continue };
        match ways.iter_mut().find(|(other, _)| *other == flag) {
            Some((_, values)) => *values += &format!(" or {}", change.value),
            None => ways.push((flag, change.value.to_string())),
        }
    }
    let ways: Vec<String> = ways.iter().map(|(flag, values)| format!("{flag} {values}")).collect();
    let message = in_flags(&violation.message);
    match (ways.is_empty(), violation.fix.contains(PARTITION.0)) {
        (false, _) => format!("{message}; give {}", ways.join(", or ")),
        (true, true) => format!("{message}; {}", in_flags(&violation.fix)),
        (true, false) => message,
    }
}

/// Returns the flag of a number that this version serves.
fn flag(field: Field) -> Option<&'static str> {
    match field {
        Field::Tensor => Some("-tp"),
        Field::Pipeline => Some("-pp"),
        Field::Data => Some("-dp"),
        Field::MicroBatchMax => Some("--pp-max-micro-batch-size"),
        _ => None,
    }
}

/// Returns a text with flags in place of the planner's words.
fn in_flags(text: &str) -> String {
    let (name, partition) = PARTITION;
    let mut text = text.to_owned();
    for field in [Field::Tensor, Field::Pipeline, Field::Data, Field::MicroBatchMax] {
        let flag = flag(field).unwrap_or_default();
        let subject = format!("{field} is ");
        if let Some(rest) = text.strip_prefix(&subject) {
            text = format!("{flag} is {rest}");
        }
    }
    // `pipeline_partition = [16, 15]` is `--pipeline-partition 16,15`.
    while let Some((before, after)) = text.split_once(&format!("{name} = [")) {
        let (layers, rest) = after.split_once(']').unwrap_or((after, ""));
        text = format!("{before}{partition} {}{rest}", layers.replace(", ", ","));
    }
    text.replace(name, partition)
}

#[cfg(test)]
mod tests {
    use playhouse_layout::ModelShape;
    use playhouse_planner::rank_map;
    use playhouse_types::ParallelSpec;

    use super::*;

    /// A model of 28 layers with 28 query and 4 KV heads.
    const MODEL: &str = r#"{
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 32768, "model_type": "qwen2"
    }"#;

    fn complaints(spec: ParallelSpec) -> Vec<String> {
        let shape = ModelShape::parse(MODEL.as_bytes()).expect("a model");
        rank_map(&spec, &shape).expect_err("it cannot run").iter().map(told).collect()
    }

    #[test]
    fn the_nearest_values_are_flags() {
        let split = complaints(ParallelSpec { tensor: 3, ..ParallelSpec::default() });
        assert!(split[0].ends_with("; give -tp 2 or 4"), "{split:?}");
        let stages = complaints(ParallelSpec { pipeline: 40, ..ParallelSpec::default() });
        assert!(stages[0].ends_with("; give -pp 28"), "{stages:?}");
        let none = complaints(ParallelSpec { tensor: 0, data: 0, ..ParallelSpec::default() });
        assert_eq!(
            none,
            [
                "-tp is 0; it counts at least 1; give -tp 1",
                "-dp is 0; it counts at least 1; give -dp 1"
            ]
        );
    }

    #[test]
    fn a_partition_is_a_flag() {
        let spec = ParallelSpec {
            pipeline: 2,
            pipeline_partition: Some(vec![20, 9]),
            ..ParallelSpec::default()
        };
        let told = complaints(spec).join("\n");
        assert!(told.contains("--pipeline-partition hands out 29 layers"), "{told}");
        assert!(told.contains("--pipeline-partition 14,14, or leave it open"), "{told}");
    }

    /// No layout that only `serve`'s flags describe is told of anything else.
    #[test]
    fn no_name_of_a_field_is_told() {
        for tensor in [0, 1, 2, 3, 28, 4_000_000_000] {
            for pipeline in [0, 1, 3, 29, 70_000] {
                for partition in [None, Some(vec![0, 28]), Some(vec![1]), Some(vec![30; 3])] {
                    let shape = ModelShape::parse(MODEL.as_bytes()).expect("a model");
                    let pipeline_partition = partition;
                    let spec = ParallelSpec {
                        tensor,
                        pipeline,
                        pipeline_partition,
                        ..ParallelSpec::default()
                    };
                    let Err(violations) = rank_map(&spec, &shape) else { continue };
                    for text in violations.iter().map(told) {
                        assert!(!text.contains('_') && !text.contains('→'), "{text}");
                    }
                }
            }
        }
    }
}
