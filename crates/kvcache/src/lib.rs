//! KV block pool and prefix cache: pure bookkeeping, no tensors.
