//! The OpenAI API over a [`FrontDoor`](playhouse_cluster::FrontDoor): template, tokenize, validate,
//! stream.
//!
//! - **GW-1** every answer has OpenAI's shape, every error too, whatever the client sends: no byte
//!   sequence causes a 5xx or a panic (see `tests/http/fuzz.rs`).
//! - **GW-2** a field is honoured, or ignored because it cannot change the answer, or refused by name
//!   (the tables below).
//! - **GW-3** a client that disconnects ends its generations, streamed or not (**G5**).
//! - **GW-4** a refusal for lack of capacity is immediate and says when to retry (**G6**): 429 when the
//!   API key has reached its limits, 503 when the queues are full. What can never fit is 400.
//! - **GW-5** a stream has exactly the text of the whole answer, in whole code points.
//!
//! The path of a request: [`serve`] accepts it on a [`Listener`](playhouse_listener::Listener)
//! (`accept`), `routes` finds its handler, `intake` reads its body (with `upload`, `body` and `known_fields`),
//! `request` turns it into checked work (with [`ChatTemplate`] and [`Tokenizer`]), `answer` submits that to the front door, `choice` turns emissions
//! into text (with `stop`), and `respond` or `stream` sends it in the JSON of `reply`. `shutdown`
//! documents the end of a gateway.
//!
//! Not here: computing and scheduling, the source of files, flags and keys (the CLI passes them in, TLS
//! certificates too), and the protocols HTTP/1.1 and HTTP/2 (`playhouse-listener`).
//!
//! # Paths
//! | Path | |
//! |---|---|
//! | `POST /v1/chat/completions`, `/v1/completions` | answers, whole or as server-sent events |
//! | `GET /v1/models`, `/v1/models/{id}` | the served names |
//! | `POST /tokenize`, `/detokenize` | vLLM's shapes |
//! | `GET /livez` * | 200 while the process runs |
//! | `GET /readyz` *, `/health` * | 200 when a request would be taken, else 503; `?verbose` says more |
//! | `GET /version` * | the version |
//! | `GET /metrics` | Prometheus text, or OpenMetrics for clients that accept it |
//!
//! With an API key set, every path requires one except those marked *: access is denied by default, so a
//! path added later is closed until it is listed as public. (vLLM requires a key under `/v1` only.)
//!
//! Web pages of other sites are refused unless an API key is set or the operator names them (`cors`).
//!
//! With several replicas and the routing policy `session`, requests with the same `x-session-id`
//! go to the same replica. With `x-request-timeout-ms` a request that has not begun by then ends as
//! 503 `timeout` instead of being computed.
//!
//! # Fields
//! `null` is absent; `16.0` is an integer. The header `x-ignored-fields` of an answer names the fields that are
//! unknown and ignored. `docs/api.md` has the reasons for what differs from other servers.
//!
//! | Honoured by both | |
//! |---|---|
//! | `model` | one of the served names; absent: the first |
//! | `n` | at most 128; choice *i* is sampled with `seed` + *i* |
//! | `stream`, `stream_options` | `include_usage`, `continuous_usage_stats` |
//! | `temperature` `top_p` `top_k` `min_p` `repetition_penalty` | absent: the model's defaults; `top_k` 0 or -1 is off |
//! | `presence_penalty` `frequency_penalty` `logit_bias` | `logit_bias` maps token ids to -100..100 |
//! | `seed` | absent: a new one per prompt |
//! | `stop` | up to 16 strings; `stop_reason` tells which one |
//! | `include_stop_str_in_output` | keeps the stop string, or the text of the stop token |
//! | `stop_token_ids` `ignore_eos` `min_tokens` | stop strings do not count before `min_tokens` either |
//! | `skip_special_tokens` `add_special_tokens` `return_token_ids` | as in vLLM |
//! | `cache_salt` | prefixes are shared only with the same salt, within the cache group of the API key |
//! | `priority` | lower is served earlier; 0 if absent, and no earlier than the API key may be |
//!
//! | Chat | |
//! |---|---|
//! | `messages` | roles system, developer (as system), user, assistant, tool; content a string or text parts (joined by newlines, unless the template walks them); calls of tools and their results |
//! | `max_completion_tokens`, `max_tokens` | an upper bound; absent: `max_new_tokens` of the model, or to the end of the context |
//! | `logprobs`, `top_logprobs` | up to 20, with exact `bytes` |
//! | `add_generation_prompt`, `continue_final_message` | as in transformers |
//! | `chat_template_kwargs`, `reasoning_effort` | variables of the template; scalars only |
//!
//! | Completions | |
//! |---|---|
//! | `prompt` | a string, token ids, or a list of either |
//! | `max_tokens` | must fit the context with the prompt; absent: 16; 0 with `echo` only scores the prompt |
//! | `echo`, `logprobs` | up to 20 alternatives; the first prompt token has none |
//!
//! | Ignored: cannot change the answer | |
//! |---|---|
//! | `user` `safety_identifier` `metadata` `store` `service_tier` `prompt_cache_key` | for OpenAI's own bookkeeping |
//! | `request_id` `session_id` | send `x-request-id`, `x-session-id` |
//! | `parallel_tool_calls` `include_reasoning` `truncation_side` `spaces_between_special_tokens` | say how to do what was not asked for |
//! | `routed_dp_rank` `cache_prompt` `dry_base` … | other servers' hints, and the details of what is refused by its own name |
//!
//! Refused with `unsupported_parameter` unless they ask for nothing: tools that may be called, structured
//! output and grammars, `suffix`, beam search and `best_of`, samplers of other servers, adapters, embeddings and
//! media as prompts, templates in requests, `prompt_logprobs` (use `echo`), and the rest of the list in
//! `known_fields/unsupported.rs`.
#![forbid(unsafe_code)]

mod accept;
mod access_log;
mod answer;
mod auth;
mod body;
mod caller;
mod choice;
mod cors;
mod error;
mod fields;
mod gateway;
mod gateway_error;
mod intake;
mod json;
mod known_fields;
mod readiness;
mod reply;
mod request;
mod respond;
mod routes;
mod sampling_defaults;
mod shutdown;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod trace;
mod upload;

pub use accept::{Drained, serve};
pub use auth::{ApiKey, KeyRing};
pub use cors::{Allowed, Cors};
pub use gateway::{Gateway, GatewayConfig, Limits};
pub use gateway_error::GatewayError;
pub use sampling_defaults::SamplingDefaults;
pub use template::{
    ChatTemplate, Ending, FUEL, OUTPUT_MAX, RenderChat, RenderOptions, TemplateError,
    TemplateFiles, TemplateProcess, TemplateSource, run_template_process,
};
pub use tokenizer::{Detokenizer, EncodeError, Tokenizer, TokenizerError, TokenizerFiles};
