# Everything CI runs, in its order.
check: fmt clippy test

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --profile ci --workspace --all-targets --locked -- -D warnings

test:
    cargo test --profile ci --workspace --locked

# The feature `cuda`, with nvcc and without a GPU; crates/collectives/src/lib.rs says what it needs.
cuda:
    cargo clippy --profile ci -p playhouse-collectives --features cuda --all-targets --locked -- -D warnings

# So many minutes of faults: half an hour of them, or three with `just chaos 3`.
chaos MINUTES="30":
    PLAYHOUSE_CHAOS_MINUTES={{MINUTES}} cargo test --profile ci -p playhouse --locked --test chaos storm -- --nocapture

# Half a minute for each decoder of what comes over the network, or SECONDS for one of them.
fuzz DECODER="" SECONDS="30":
    crates/wire/fuzz/run '{{DECODER}}' {{SECONDS}}

# Needs cargo-deny and its advisory database.
deny:
    cargo deny check

# What the binary is made of, as CycloneDX; needs Python 3.11.
sbom:
    docker/sbom.py > target/sbom.json

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --profile ci --workspace --no-deps --locked

# Numbers of BENCHMARKS.md.
bench:
    cargo bench --workspace --locked
