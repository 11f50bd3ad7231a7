//! The flags of vLLM and SGLang that `serve` does not have: those for what is always so here are accepted with
//! a note, all others are refused by name.

use playhouse_planner::dialect::Dialect;

use crate::error::CliError;
use crate::layout_flags::ForeignFlag;

/// Flags for what is always so here.
struct Always {
    /// Names of the flags, without dashes.
    names: &'static [&'static str],
    /// The values for which that is true; none for flags without a value.
    values: &'static [&'static str],
    /// What is always so.
    why: &'static str,
}

const ALWAYS: &[Always] = &[
    Always { names: &["enable-prefix-caching"], values: &[], why: "prefix caching is always on" },
    Always {
        names: &["enable-chunked-prefill", "enable-mixed-chunk"],
        values: &[],
        why: "prefill is always chunked, and shares its steps with decodes",
    },
    Always {
        names: &["async-scheduling"],
        values: &[],
        why: "a step is always planned before the last has ended, if steps are short",
    },
    Always {
        names: &["enforce-eager", "disable-cuda-graph"],
        values: &[],
        why: "this version runs no CUDA graphs",
    },
    Always {
        names: &["chat-template-content-format"],
        values: &["auto"],
        why: "the form of content that a template takes is always found out",
    },
    Always { names: &["trust-remote-code"], values: &[], why: "code of a checkpoint is never run" },
    Always {
        names: &["disable-log-requests", "disable-uvicorn-access-log"],
        values: &[],
        why: "requests are logged only with --access-log",
    },
    Always { names: &["enable-metrics"], values: &[], why: "/metrics is always there" },
    Always {
        names: &["enable-prompt-tokens-details", "enable-cache-report"],
        values: &[],
        why: "usage always counts cached tokens",
    },
    Always {
        names: &["enable-request-id-headers"],
        values: &[],
        why: "every response has an x-request-id",
    },
    Always {
        names: &["enable-deterministic-inference"],
        values: &[],
        why: "results never depend on the rest of the batch",
    },
    Always { names: &["skip-server-warmup"], values: &[], why: "there is no warm-up" },
    Always {
        names: &["use-tqdm-on-load"],
        values: &[],
        why: "the progress of loading is always shown",
    },
    Always {
        names: &["generation-config"],
        values: &["auto"],
        why: "the generation_config.json of the checkpoint is always used",
    },
    Always {
        names: &["load-format"],
        values: &["auto", "safetensors"],
        why: "weights are always read from safetensors files",
    },
    Always { names: &["device"], values: &["auto", "cpu"], why: "this version serves on CPUs" },
    Always {
        names: &["block-size", "page-size"],
        values: &["16"],
        why: "a KV block always has 16 tokens",
    },
    Always {
        names: &["task", "runner"],
        values: &["auto", "generate"],
        why: "a server always generates text",
    },
];

/// Flags with another way to say the same here.
const INSTEAD: &[(&[&str], &str)] = &[
    (
        &["no-enable-prefix-caching", "disable-radix-cache"],
        "prefix caching cannot be turned off; a `cache_salt` keeps the prefix of a request to itself",
    ),
    (
        &["no-enable-chunked-prefill", "chunked-prefill-size", "max-prefill-tokens"],
        "prefill is always chunked; give --max-num-batched-tokens, the tokens of one step",
    ),
    (
        &[
            "mem-fraction-static",
            "kv-cache-memory-bytes",
            "num-gpu-blocks-override",
            "max-total-tokens",
        ],
        "give the memory of the KV cache as --kv-cache-memory",
    ),
    (&["no-async-scheduling", "disable-overlap-schedule"], "give --max-concurrent-batches 1"),
    (
        &["log-level", "log-level-http", "uvicorn-log-level"],
        "the environment variable RUST_LOG filters the log, such as RUST_LOG=debug",
    ),
    (&["log-requests", "enable-log-requests"], "give --access-log"),
    (
        &[
            "data-parallel-address",
            "data-parallel-rpc-port",
            "master-addr",
            "master-port",
            "dist-init-addr",
            "nccl-init-addr",
            "distributed-executor-backend",
        ],
        "machines join by `playhouse node`; see docs/cluster.md",
    ),
    (&["max-queued-requests", "max-num-queued-reqs"], "give --max-queued-requests"),
    (&["max-num-queued-tokens"], "give --max-queued-tokens"),
    (&["random-seed"], "give --seed"),
    (
        &["tokenizer", "tokenizer-path"],
        "the tokenizer.json in the folder of the checkpoint is used",
    ),
    (
        &["ssl-ca-certs", "ssl-cert-reqs"],
        "certificates of clients are not asked for; give --api-key",
    ),
];

/// Returns a note for each flag whose effect `serve` has anyway.
///
/// # Errors
/// Returns all other flags, each with what to do.
pub(super) fn notes(flags: &[ForeignFlag]) -> Result<Vec<String>, CliError> {
    let answers: Vec<Result<String, String>> = flags.iter().map(answer).collect();
    let refused: Vec<&str> =
        answers.iter().filter_map(|answer| answer.as_ref().err()).map(String::as_str).collect();
    match refused.is_empty() {
        true => Ok(answers.into_iter().flatten().collect()),
        false => Err(CliError::usage(refused.join("\nerror: "))),
    }
}

fn answer(given: &ForeignFlag) -> Result<String, String> {
    let ForeignFlag { flag, value, dialect } = given;
    let name = flag.trim_start_matches('-').replace('_', "-");
    let always = ALWAYS.iter().find(|it| it.names.contains(&&*name));
    let instead = INSTEAD.iter().find(|(names, _)| names.contains(&&*name));
    match (always, value, instead) {
        (Some(Always { values: [], why, .. }), None, _) => Ok(format!("{flag}: {why}")),
        (Some(Always { values, why, .. }), Some(value), _) if values.contains(&&**value) => {
            Ok(format!("{flag} {value}: {why}"))
        }
        (Some(Always { why, .. }), Some(value), _) => Err(format!("{flag} {value}: {why}")),
        (Some(Always { values, .. }), None, _) => {
            Err(format!("{flag}: the value is missing; it takes {}", values.join(" or ")))
        }
        (None, _, Some((_, instead))) => Err(format!("{flag}: {instead}")),
        (None, _, None) => {
            let engine = match dialect {
                Dialect::Sglang => "SGLang",
                _ => "vLLM",
            };
            Err(format!("{flag}: {engine} has this flag, `playhouse serve` has no such setting"))
        }
    }
}

#[cfg(test)]
mod tests {
    use playhouse_planner::dialect::takes;

    use super::*;

    fn given(flag: &str, value: Option<&str>) -> ForeignFlag {
        let value = value.map(str::to_owned);
        ForeignFlag { flag: flag.to_owned(), value, dialect: Dialect::Vllm }
    }

    #[test]
    fn every_name_is_a_flag_of_another_engine() {
        let always = ALWAYS.iter().flat_map(|it| it.names);
        let instead = INSTEAD.iter().flat_map(|(names, _)| *names);
        for name in always.chain(instead) {
            let word = format!("--{name}");
            let known = [Dialect::Vllm, Dialect::Sglang].map(|dialect| takes(dialect, &word));
            assert!(known.iter().any(Option::is_some), "{word}");
        }
    }

    #[test]
    fn what_is_always_on_is_noted_and_the_rest_refused_together() {
        let caching = given("--enable_prefix_caching", None);
        let notes_of = notes(&[caching.clone(), given("--block-size", Some("16"))]).expect("fine");
        assert_eq!(
            notes_of,
            [
                "--enable_prefix_caching: prefix caching is always on",
                "--block-size 16: a KV block always has 16 tokens"
            ]
        );
        let refused = [
            caching,
            given("--block-size", Some("32")),
            given("--disable-radix-cache", None),
            given("--swap-space", Some("4")),
        ];
        let lines = notes(&refused).expect_err("refused").text();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "error: --block-size 32: a KV block always has 16 tokens");
        assert!(lines[1].starts_with("error: --disable-radix-cache: prefix caching cannot"));
        assert!(lines[2].starts_with("error: --swap-space: vLLM has this flag"));
    }
}
