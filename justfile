# Everything CI runs, in its order.
check: fmt clippy test

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --release --workspace --all-targets --locked -- -D warnings

test:
    cargo test --release --workspace --locked

# Half an hour of faults.
chaos:
    PLAYHOUSE_CHAOS_MINUTES=30 cargo test --release -p playhouse --locked --test chaos storm -- --nocapture

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
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked

# Numbers of BENCHMARKS.md.
bench:
    cargo bench --workspace --locked
