# Everything CI runs, in its order.
check: fmt clippy test

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --release --workspace --all-targets --locked -- -D warnings

test:
    cargo test --release --workspace --locked

# Needs cargo-deny and its advisory database.
deny:
    cargo deny check

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked

# Numbers of BENCHMARKS.md.
bench:
    cargo bench --workspace --locked
