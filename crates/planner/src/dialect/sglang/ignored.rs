//! SGLang's words without meaning for a plan, by the part of its argument groups that they are in.

use crate::dialect::table::Ignored;

#[rustfmt::skip]
pub(super) static IGNORED: &[Ignored] = &[
    Ignored {
        why: "how ranks find each other and fuse their traffic does not move them",
        switches: "dcp-replicate-q-proj enable-cp-tp-group-sharing enable-dsa-cache-layer-split \
            enable-cp-decode-attn-tp enable-kv-cache-sharding enable-dp-attention-local-control-broadcast \
            enable-attn-tp-input-scattered enable-shared-experts-attn-tp enable-dense-mlp-attn-tp \
            enable-layernorm-sp enable-megamoe-for-layernorm-sp disable-attn-tp-gather enable-p2p-check",
        values: "nccl-port dist-timeout dist-init-addr nccl-init-addr gated-launch-port pp-async-batch-depth \
            shared-experts-tp-size ep-join-rank-offset elastic-ep-initial-size max-ep-size",
        lists: "",
    },
    Ignored {
        why: "which devices and how a process watches itself does not change the layout",
        switches: "mlx-enable-sampling sleep-on-idle use-ray",
        values: "device base-gpu-id gpu-id-step random-seed watchdog-timeout soft-watchdog-timeout",
        lists: "numa-node gc-threshold",
    },
    Ignored {
        why: "how prefill and decode exchange the KV cache does not move ranks; the role does",
        switches: "disaggregation-enable-kv-checksum disaggregation-decode-enable-radix-cache \
            disaggregation-decode-enable-offload-kvcache encoder-only language-only language-model-only \
            enable-adaptive-dispatch-to-encoder",
        values: "decoupled-spec-bind-endpoint decoupled-spec-rank decoupled-spec-role \
            disaggregation-decode-allocation-policy disaggregation-transfer-backend \
            disaggregation-bootstrap-port disaggregation-ib-device disaggregation-decode-retraction-backup \
            num-reserved-decode-tokens disaggregation-decode-extra-slots \
            disaggregation-decode-polling-interval optimistic-prefill-attempts encoder-transfer-backend \
            encoder-bootstrap-port pdmux-config-path sm-group-num \
            disaggregation-decode-host-receive-threshold",
        lists: "decoupled-spec-connect-endpoints encoder-urls encoder-register-urls",
    },
    Ignored {
        why: "kernels, graphs and execution are the engine's own",
        switches: "enable-fp32-lm-head enable-tf32-matmul enable-memory-saver enable-weights-cpu-backup \
            enable-draft-weights-cpu-backup enable-custom-logit-processor enable-watermark \
            watermark-default-enabled watermark-enforce-all enable-return-hidden-states \
            enable-return-aux-hidden-states enable-return-routed-experts enable-return-indexer-topk \
            enable-encoder-swa-bounded-replay enable-decoder-swa-bounded-replay disable-outlines-disk-cache \
            enable-mis enable-lean-attention enable-nvidia-megakernel enable-amd-monokernel \
            disable-flashinfer-autotune triton-attention-reduce-in-fp32 flashinfer-mla-disable-ragged \
            enable-fused-qk-norm-rope enable-precise-embedding-interpolation enable-deepseek-v4-fp4-indexer \
            enable-dsa-fused-indexer enable-mamba-cache-stochastic-rounding enable-int8-mamba-checkpoint \
            enable-linear-replayssm enable-linear-replayssm-spec disable-prefill-cuda-graph \
            disable-decode-cuda-graph disable-cuda-graph disable-cuda-graph-padding \
            enable-profile-cuda-graph enable-cudagraph-gc debug-cuda-graph enable-torch-compile \
            enable-torch-compile-debug-mode enable-layerwise-nvtx-marker enable-nccl-nvls enable-symm-mem \
            disable-custom-all-reduce enable-mscclpp enable-torch-symm-mem enable-scattered-sconv \
            pre-warm-nccl enable-quant-communications enable-flashinfer-allreduce-fusion \
            enforce-disable-flashinfer-allreduce-fusion enable-aiter-allreduce-fusion \
            disable-aiter-allreduce-fusion-in-prefill disable-aiter-allreduce-fusion-in-decode \
            enable-fused-moe-sum-all-reduce enable-w4a4-mxfp4-megamoe enable-elastic-expert-backup \
            enable-waterfill disable-flashinfer-cutlass-moe-fp4-allgather disable-shared-experts-fusion \
            enforce-shared-experts-fusion enable-paged-experts enable-two-batch-overlap \
            enable-single-batch-overlap ple-offload-embedding dllm-fdfo enable-deterministic-inference",
        values: "watermark-config watermark-key watermark-key-b watermark-context-window \
            watermark-mixing-probability watermark-max-probability return-hidden-states-mode \
            aux-hidden-state-capture sampling-mask-max-tokens attention-backend decode-attention-backend \
            prefill-attention-backend prefill-kv-cache-dequant-dtype sampling-backend grammar-backend \
            fp8-gemm-runner-backend fp4-gemm-runner-backend bf16-gemm-backend dsa-prefill-backend \
            dsv4-prefill-backend dsa-triton-union dsa-decode-backend dsv4-attn-backend \
            dsa-paged-mqa-logits-backend dsa-topk-backend triton-attention-num-kv-splits \
            triton-attention-split-tile-size mamba-backend mamba-ssm-dtype mamba-max-states-per-path \
            mamba-cache-philox-rounds mamba-radix-cache-strategy mamba-track-interval int8-mamba-ckpt-size \
            linear-attn-backend linear-attn-decode-backend linear-attn-prefill-backend \
            linear-attn-verify-backend linear-replayssm-cache-len cuda-graph-config \
            cuda-graph-backend-decode cuda-graph-backend-prefill cuda-graph-max-bs-decode \
            cuda-graph-max-bs-prefill cuda-graph-max-seq-len-prefill cuda-graph-prefill-max-context \
            context-bucket torch-compile-max-bs boundary-reduction flashinfer-allreduce-fusion-backend \
            deepep-v2-mode flashinfer-mxfp4-moe-precision deepep-mode fuseep-mode \
            deepep-dispatcher-output-dtype flashinfer-a2a-dispatch-type init-expert-location \
            eplb-rebalance-layers-per-chunk eplb-min-rebalancing-utilization-threshold \
            expert-distribution-recorder-mode expert-balancedness-report-mode deepep-config \
            mooncake-ib-device ep-join-mode elastic-ep-scale-timeout paged-experts-num-resident \
            kt-weight-path kt-method kt-cpuinfer kt-threadpool-count kt-num-gpu-experts \
            kt-max-deferred-experts-per-token tbo-token-distribution-threshold cpu-offload-gb \
            offload-group-size offload-num-in-group offload-prefetch-step offload-mode ple-offload-backend \
            ple-offload-dir dllm-algorithm dllm-algorithm-config rl-on-policy-target",
        lists: "return-aux-hidden-state-layer-ids flashinfer-autotune-skip-ops cuda-graph-bs-decode \
            cuda-graph-bs-prefill",
    },
    Ignored {
        why: "adapters are not planned",
        switches: "enable-lora enable-lora-overlap-loading experts-shared-outer-loras lora-use-virtual-experts \
            lora-strict-loading",
        values: "max-lora-rank lora-paths max-loaded-loras max-loras-per-batch lora-eviction-policy lora-backend \
            max-lora-chunk-size lora-drain-wait-threshold",
        lists: "lora-target-modules",
    },
    Ignored {
        why: "what is cached, and in which memory, decides what runs when, not where",
        switches: "disable-radix-cache enable-page-major-kv-layout enable-unified-memory enable-session-radix-cache \
            enable-hierarchical-cache enable-hicache enable-unified-cache-external-linker \
            enable-linker-mla-dedup enable-hisparse enable-lmcache enable-flexkv",
        values: "radix-eviction-policy radix-eviction-policy-config radix-cache-backend hicache-host-memory-mode \
            hicache-ratio hicache-size hicache-host-memory-fraction hicache-write-policy hicache-io-backend \
            hicache-mem-layout hicache-storage-backend hicache-storage-prefetch-policy \
            hicache-storage-backend-extra-config hicache-storage-prefetch-retry-poll-interval \
            hicache-storage-prefetch-retry-max-attempts unified-cache-external-linker-backend \
            unified-cache-external-linker-config hisparse-config hierarchical-sparse-attention-extra-config \
            lmcache-config-file flexkv-config-file",
        lists: "",
    },
    Ignored {
        why: "other modalities are not planned",
        switches: "enable-multimodal enable-broadcast-mm-inputs-process enable-prefix-mm-cache mm-enable-dp-encoder \
            trust-mm-content-hashes enable-mm-global-cache disable-fast-image-processor",
        values: "mm-attention-backend mm-process-config mm-processor-worker-num mm-io-worker-num \
            media-url-max-file-size-mb mm-preprocess-cache-size-mb limit-mm-data-per-request \
            image-processor-backend mm-global-cache-backend mm-feature-transport",
        lists: "allowed-media-domains",
    },
    Ignored {
        why: "where weights come from does not move ranks; the model's sizes do, from its config.json",
        switches: "trust-remote-code is-embedding quantize-and-serve weight-loader-disable-mmap \
            weight-loader-prefetch-checkpoints weight-loader-drop-cache-after-load \
            remote-instance-weight-loader-start-seed-via-transfer-engine delete-ckpt-after-loading \
            checkpoint-engine-wait-weights-before-ready",
        values: "load-format model-loader-extra-config revision model-impl model-config-parser \
            json-model-override-args quantization-param-path qsa-indexer-dtype modelopt-quant \
            modelopt-checkpoint-restore-path modelopt-checkpoint-save-path modelopt-export-path \
            rl-quant-profile startup-weight-load-mode weight-loader-prefetch-num-threads \
            remote-instance-weight-loader-seed-instance-ip \
            remote-instance-weight-loader-seed-instance-service-port remote-instance-weight-loader-backend \
            engine-info-bootstrap-port modelexpress-config download-dir model-checksum decrypted-config-file \
            decrypted-draft-config-file weight-cache-mode weight-cache-socket weight-cache-timeout",
        lists: "custom-weight-loader remote-instance-weight-loader-send-weights-group-ports",
    },
    Ignored {
        why: "logs, metrics and traces do not move ranks",
        switches: "log-requests show-time-cost enable-metrics enable-mfu-metrics enable-metrics-for-all-schedulers \
            enable-request-time-stats-logging enable-forward-pass-metrics enable-trace \
            export-metrics-to-file",
        values: "log-level log-level-http log-requests-level log-requests-format crash-dump-folder \
            smg-http-sidecar-port grpc-http-sidecar-port load-snapshot-publish-interval \
            tokenizer-metrics-custom-labels-header extra-metric-labels gc-warning-threshold-secs \
            decode-log-interval kv-events-config load-publish-endpoint forward-pass-metrics-worker-id \
            forward-pass-metrics-ipc-name trace-modules otlp-traces-endpoint otlp-service-name \
            export-metrics-to-file-dir kv-canary kv-canary-sweep-interval debug-tensor-dump-output-folder \
            debug-tensor-dump-input-file msprobe-dump-config",
        lists: "log-requests-target uvicorn-access-log-exclude-prefixes tokenizer-metrics-allowed-custom-labels \
            bucket-time-to-first-token bucket-inter-token-latency bucket-e2e-request-latency \
            prompt-tokens-buckets generation-tokens-buckets debug-tensor-dump-layers forward-hooks",
    },
    Ignored {
        why: "admission and order decide what runs when, not where",
        switches: "enable-dynamic-chunking enable-priority-scheduling disable-priority-preemption \
            abort-on-priority-when-disabled schedule-low-priority-values-first disable-hybrid-swa-memory \
            prefill-only-disable-kv-cache disable-chunked-prefix-cache disable-overlap-schedule \
            enable-mixed-chunk enable-prefill-delayer",
        values: "max-queued-requests max-total-tokens prefill-decode-interval prefill-decode-interval-min-bs \
            prefill-max-requests schedule-policy default-priority-value \
            priority-scheduling-preemption-threshold retraction-policy schedule-conservativeness \
            c128-page-size swa-full-tokens-ratio swa-prefix-tails num-continuous-decode-steps \
            scheduler-recv-interval max-mamba-cache-size mamba-full-memory-ratio \
            prefill-delayer-max-delay-passes prefill-delayer-token-usage-low-watermark \
            prefill-delayer-queue-min-ratio prefill-delayer-max-delay-ms min-free-slots-delay",
        lists: "prefill-delayer-forward-passes-buckets prefill-delayer-wait-seconds-buckets",
    },
    Ignored {
        why: "addresses, names and parsers of the API do not move ranks",
        switches: "enable-response-store skip-tokenizer-init enable-http-worker-reuseport smg-grpc-mode grpc-mode \
            skip-server-warmup enable-http2 enable-ssl-refresh trust-request-chat-template \
            enable-cache-report return-input-ids return-output-ids strip-thinking-cache \
            enable-strict-thinking allow-auto-truncate stream-response-default-include-usage \
            incremental-streaming-output enable-streaming-session constrained-json-disable-any-whitespace \
            enable-dynamic-batch-tokenizer enable-tokenizer-batch-encode disable-tokenizer-batch-decode",
        values: "tokenizer-path tokenizer-mode tokenizer-backend tokenizer-worker-num detokenizer-worker-num host \
            port fastapi-root-path grpc-port grpc-response-timeout-secs grpc-worker-threads sidecar warmups \
            http2-max-concurrent-streams http2-initial-connection-window-size ssl-keyfile ssl-certfile \
            ssl-ca-certs ssl-keyfile-password api-key admin-api-key served-model-name weight-version \
            chat-template hf-chat-template-name completion-template file-storage-path reasoning-parser \
            default-chat-template-kwargs tool-call-parser tool-server sampling-defaults \
            asr-max-buffer-seconds asr-max-concurrent-sessions preferred-sampling-params stream-interval \
            batch-notify-size constrained-json-whitespace-pattern constrained-json-max-whitespace-cnt \
            dynamic-batch-tokenizer-batch-size dynamic-batch-tokenizer-batch-timeout",
        lists: "sidecar-args",
    },
    Ignored {
        why: "drafts are not planned",
        switches: "speculative-dspark-align-verify-tokens-to-graph-tier speculative-use-rejection-sampling \
            speculative-use-block-verification speculative-enable-w4a4-mxfp4-megamoe \
            enable-multi-layer-eagle speculative-adaptive",
        values: "speculative-algorithm uno-lora-path speculative-draft-model-path speculative-draft-model \
            speculative-boundary-reduction speculative-draft-model-revision speculative-draft-load-format \
            speculative-num-steps speculative-eagle-topk speculative-num-draft-tokens \
            speculative-dflash-block-size speculative-domino-candidate-pool-size \
            speculative-dspark-block-size speculative-dspark-sps-table-path \
            speculative-dspark-confidence-sts-path speculative-accept-threshold-single \
            speculative-accept-threshold-acc speculative-token-map speculative-attention-mode \
            speculative-draft-attention-backend speculative-dsa-topk-backend \
            speculative-draft-kv-cache-dtype speculative-draft-window-size speculative-draft-sink-size \
            speculative-moe-runner-backend speculative-moe-a2a-backend speculative-draft-model-quantization \
            speculative-adaptive-config spec-trace-dir speculative-ngram-min-bfs-breadth \
            speculative-ngram-max-bfs-breadth speculative-ngram-match-type speculative-ngram-max-trie-depth \
            speculative-ngram-capacity speculative-ngram-external-corpus-path \
            speculative-ngram-external-sam-budget speculative-ngram-external-corpus-max-tokens",
        lists: "",
    },
    // Earlier versions.
    Ignored {
        why: "earlier versions of SGLang had it; kernels, graphs and execution are the engine's own",
        switches: "enable-flashinfer-mla enable-flashmla disable-mla enable-mla-fp8 disable-jump-forward \
            enable-overlap-schedule disable-disk-cache stream-output",
        values: "cuda-graph-max-bs torchao-config",
        lists: "cuda-graph-bs",
    },
];
