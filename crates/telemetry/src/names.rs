//! Every metric name, its vLLM spelling and its help text: the only place where they are written.
//!
//! Counters are named without `_total`: the OpenMetrics text format adds it. The vLLM spellings are
//! those of vLLM's V1 engine (`vllm/v1/metrics/loggers.py`); the Gateway API inference extension
//! reads `num_requests_waiting`, `num_requests_running`, `kv_cache_usage_perc` and
//! `cache_config_info` among them.

/// The names of one metric and its help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Playhouse's name: `playhouse_`, then noun, then base unit; `process_` for metrics that every process
    /// exports.
    pub ours: &'static str,
    /// vLLM's name, which dashboards use, where vLLM has such a metric.
    pub vllm: Option<&'static str>,
    /// Help text, without a full stop at the end (the format adds one).
    pub help: &'static str,
}

macro_rules! names {
    ($($constant:ident: $ours:literal, $($vllm:literal)?, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Name = Name {
                ours: $ours,
                vllm: [$($vllm,)?].first().copied(),
                help: $help,
            };
        )*
        /// All metric names, in the order in which they are exported.
        pub const ALL: &[Name] = &[$($constant),*];
    };
}

names! {
    HTTP_REQUESTS: "playhouse_http_requests", "http_requests",
        "HTTP requests answered, by route, method and class of status";
    TIME_TO_FIRST_TOKEN: "playhouse_time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
        "From the arrival of a request to its first token";
    INTER_TOKEN_LATENCY: "playhouse_inter_token_latency_seconds", "vllm:inter_token_latency_seconds",
        "Between two tokens of a request";
    TIME_PER_OUTPUT_TOKEN: "playhouse_request_time_per_output_token_seconds",
        "vllm:request_time_per_output_token_seconds",
        "Mean time between the tokens of a finished request";
    E2E_LATENCY: "playhouse_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds",
        "From the arrival of a request to its end";
    PROMPT_TOKENS: "playhouse_prompt_tokens", "vllm:prompt_tokens",
        "Prompt tokens of requests that began to answer";
    GENERATION_TOKENS: "playhouse_generation_tokens", "vllm:generation_tokens",
        "Tokens generated";
    REQUEST_PROMPT_TOKENS: "playhouse_request_prompt_tokens", "vllm:request_prompt_tokens",
        "Prompt tokens of a finished request";
    REQUEST_GENERATION_TOKENS: "playhouse_request_generation_tokens",
        "vllm:request_generation_tokens", "Tokens generated for a finished request";
    REQUEST_MAX_TOKENS: "playhouse_request_params_max_tokens", "vllm:request_params_max_tokens",
        "max_tokens of a finished request";
    REQUEST_N: "playhouse_request_params_n", "vllm:request_params_n",
        "Choices asked for by a request";
    REQUEST_SUCCESS: "playhouse_request_success", "vllm:request_success",
        "Requests that ended, by reason";
    REQUESTS_RUNNING: "playhouse_requests_running", "vllm:num_requests_running",
        "Requests that hold a slot in the batch";
    REQUESTS_WAITING: "playhouse_requests_waiting", "vllm:num_requests_waiting",
        "Requests accepted but not yet in the batch";
    KV_CACHE_USAGE: "playhouse_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc",
        "Part of the KV blocks in use, from 0 to 1";
    CACHE_CONFIG: "playhouse_cache_config_info", "vllm:cache_config_info",
        "Always 1; the labels name the size and number of KV blocks";
    PREFIX_CACHE_QUERIES: "playhouse_prefix_cache_queries", "vllm:prefix_cache_queries",
        "Prompt tokens looked up in the prefix cache";
    PREFIX_CACHE_HITS: "playhouse_prefix_cache_hits", "vllm:prefix_cache_hits",
        "Prompt tokens found in the prefix cache";
    PREEMPTIONS: "playhouse_preemptions", "vllm:num_preemptions",
        "Times a running request lost its blocks and was queued again";
    ITERATION_TOKENS: "playhouse_iteration_tokens", "vllm:iteration_tokens_total",
        "Tokens fed through the model in one step";
    QUEUE_TIME: "playhouse_request_queue_time_seconds", "vllm:request_queue_time_seconds",
        "From acceptance to the first step that runs a request";
    PREFILL_TIME: "playhouse_request_prefill_time_seconds", "vllm:request_prefill_time_seconds",
        "From the first step of a request to its first token";
    DECODE_TIME: "playhouse_request_decode_time_seconds", "vllm:request_decode_time_seconds",
        "From the first token of a request to its last";
    INFERENCE_TIME: "playhouse_request_inference_time_seconds",
        "vllm:request_inference_time_seconds",
        "From the first step of a request to its last token";
    KV_BLOCKS_HELD: "playhouse_kv_blocks_held",,
        "KV blocks held by running requests, beyond the prefix cache";
    KV_BLOCKS: "playhouse_kv_blocks",, "KV blocks of the replica";
    REQUESTS_REFUSED: "playhouse_requests_refused",,
        "Requests that were not computed, or not to their end, by reason and name of the API key";
    STREAMS_FAILED: "playhouse_streams_failed",,
        "Streams that ended with an error event after their head had been sent, by its code";
    STREAM_GAP: "playhouse_stream_gap_seconds",,
        "Silence of a stream whose ranks were lost or drained: from the last token before to the first after";
    REQUESTS_PARKED: "playhouse_requests_parked",,
        "Requests that wait because no replica can serve";
    REPLICA_RESTARTS: "playhouse_replica_restarts",,
        "Times a replica started again because ranks were lost, by cause";
    REPLICA_EPOCH: "playhouse_replica_epoch",, "The incarnation of a replica: counts its starts";
    REPLICA_HEALTHY: "playhouse_replica_healthy", "vllm:engine_healthy",
        "1 while a replica serves and something comes of its work, else 0";
    REPLICA_OUTLIER: "playhouse_replica_outlier",,
        "1 while a replica is several times slower than its peers, which get its requests, else 0";
    MIGRATIONS: "playhouse_migrations",,
        "Requests that left a replica which lost its ranks and went on in another, by cause";
    RECOVERY_TIME: "playhouse_replica_recovery_seconds",,
        "From the loss of the ranks of a replica until it serves again";
    PIPELINE_TIME: "playhouse_pipeline_stage_seconds",,
        "Time in which a replica had requests, once for each of its stages";
    PIPELINE_IDLE_TIME: "playhouse_pipeline_stage_idle_seconds",,
        "Of that time, what stages spent without a step: the bubble of the pipeline";
    CERTIFICATE_RENEWALS: "playhouse_certificate_renewals",,
        "Certificates of the cluster that were renewed, or refused to be, by role of their holder";
    TRACE_SPANS_EXPORTED: "playhouse_trace_spans_exported",, "Spans that the trace collector has";
    TRACE_SPANS_DROPPED: "playhouse_trace_spans_dropped",,
        "Spans that were lost: the queue was full, or the trace collector did not take them";
    NODES: "playhouse_nodes",, "Nodes, by state";
    DEVICES: "playhouse_devices",, "Devices of nodes and of the head, by state";
    REPLICAS: "playhouse_replicas",, "Replicas, by state";
    OPERATIONS: "playhouse_operations",, "Operations of operators that have ended, by outcome";
    CERTIFICATE_NOT_AFTER: "playhouse_certificate_not_after_seconds",,
        "The end of a certificate in seconds since 1970, by kind";
    BUILD_INFO: "playhouse_build_info",, "Always 1; the label names the version";
    PROCESS_CPU: "process_cpu_seconds",, "User and system time of the head, without its rank processes";
    PROCESS_RESIDENT: "process_resident_memory_bytes",, "Memory that the head has";
    PROCESS_VIRTUAL: "process_virtual_memory_bytes",, "Address space of the head";
    PROCESS_OPEN_FDS: "process_open_fds",, "Open file descriptors of the head";
    PROCESS_MAX_FDS: "process_max_fds",, "File descriptors that the head may have open";
    PROCESS_THREADS: "process_threads",, "Threads of the head";
    PROCESS_START: "process_start_time_seconds",, "When the head started, in seconds since 1970";
    HANG_DETECTION_TIME: "playhouse_hang_detection_seconds",,
        "From the last sign of life of ranks that hung until they were ended";
}
