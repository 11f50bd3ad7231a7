//! The layout of a server, from its flags.

use playhouse_planner::dialect::{self, Dialect, Key};
use playhouse_types::ParallelSpec;

use crate::error::CliError;
use crate::layout_flags::is_served;

/// Returns the layout of the flags. Flags that only `plan` obeys may have the value that they have when they
/// are left out.
///
/// # Errors
/// Returns every flag that is not understood, or else every flag that is not served.
pub(super) fn parallel(layout: &[String]) -> Result<ParallelSpec, CliError> {
    let lines = |lines: Vec<String>| CliError::usage(lines.join("\nerror: "));
    let reading = dialect::read(Dialect::Native, layout, &[])
        .map_err(|problems| lines(problems.iter().map(ToString::to_string).collect()))?;
    let refused = |(key, given): &(Key, String)| {
        let why = refusal(*key, given)?;
        Some(format!("{given}: {why}"))
    };
    let refused: Vec<String> = reading.given.iter().filter_map(refused).collect();
    if refused.is_empty() { Ok(reading.spec) } else { Err(lines(refused)) }
}

/// Returns why `serve` does not obey a flag with its value, and what to do; `None` if it does.
fn refusal(key: Key, given: &str) -> Option<&'static str> {
    let value = given.split_once(' ').map_or("", |(_, value)| value);
    match (key, value) {
        _ if is_served(key) || (key.is_layout() && changes_nothing(key, given)) => None,
        (Key::Nodes, "1") | (Key::NodeRank, "0") | (Key::KvDtype, "auto") => None,
        _ if key.is_layout() => Some(
            "this version serves tensor, pipeline and data parallel layouts (-tp, -pp, -dp); \
             `playhouse plan` shows where the ranks of others would be",
        ),
        (Key::Model, _) => Some("give the model as the first argument, without this flag"),
        (Key::Nodes | Key::NodeRank, _) => {
            Some("machines join by `playhouse node`; see docs/cluster.md")
        }
        (Key::DevicesPerNode, _) => Some("give --devices, the ranks that this machine may have"),
        (Key::Quantization, _) => {
            Some("this version serves weights as bf16, f16 or f32; give --dtype, or leave it out")
        }
        (Key::KvDtype, _) => {
            Some("the KV cache has the type of the weights; give --dtype, or leave it out")
        }
        (Key::MemoryFraction, _) => Some("give the memory of the KV cache as --kv-cache-memory"),
        (Key::ContextTokens, _) => Some("`serve` spells it --max-model-len"),
        (Key::RequestsMax, _) => Some("`serve` spells it --max-num-seqs"),
        (Key::BatchTokensMax, _) => Some("`serve` spells it --max-num-batched-tokens"),
        _ => Some("`serve` has no such setting"),
    }
}

/// Returns whether a flag of the layout has the value that it has when it is left out.
fn changes_nothing(key: Key, given: &str) -> bool {
    // Alone they change nothing, whatever they say: balancing is off.
    if matches!(key, Key::BalanceWindow | Key::BalanceInterval) {
        return false;
    }
    let (flag, value) = given.split_once(' ').unwrap_or((given, ""));
    // A switch that is off is as if it were not there.
    let alone = format!("{flag}={value}");
    let read = || dialect::read(Dialect::Native, &[alone], &[]);
    value == "false" || read().is_ok_and(|reading| reading.spec == ParallelSpec::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<ParallelSpec, String> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        parallel(&words).map_err(|why| why.text())
    }

    #[test]
    fn a_layout_may_say_what_is_so_anyway() {
        let spec = ParallelSpec { tensor: 2, data: 3, ..ParallelSpec::default() };
        let words = "-tp 2 -dp 3 -dcp 1 --ep-size 1 --role unified --load-balancing internal \
                     --nnodes 1 --node-rank 0 --kv-cache-dtype auto --no-enable-eplb";
        assert_eq!(read(words), Ok(spec));
    }

    #[test]
    fn every_refused_flag_is_named_with_what_to_do() {
        let refused =
            read("-tp 2 -dcp 2 --role decode -ep --nnodes 2 -q fp8").expect_err("refused");
        let lines: Vec<&str> = refused.lines().collect();
        assert_eq!(lines.len(), 5, "{refused}");
        for flag in ["-dcp 2", "--role decode", "-ep true", "--nnodes 2", "-q fp8"] {
            let named = |line: &&str| line.starts_with(&format!("error: {flag}: "));
            assert!(lines.iter().any(named), "{flag}: {refused}");
        }
    }

    /// Whatever the planner learns to read, `serve` says what becomes of it.
    #[test]
    fn every_flag_of_the_planner_is_served_or_refused() {
        for flag in dialect::flags(Dialect::Native) {
            let given = format!("--{} 7", flag.names[0]);
            assert_eq!(refusal(flag.key, &given).is_none(), is_served(flag.key), "{given}");
        }
    }
}
